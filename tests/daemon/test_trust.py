"""What may stand at the paths of a service, and who may own the directories on the way there."""

from __future__ import annotations

import os

import pytest

from dari.daemon.control.listening import open_control
from dari.daemon.lifecycle import Exit, Failure, Refused
from dari.daemon.logs.log import open_log
from dari.daemon.pidfile import open_pidfile
from dari.daemon.rights.trust import distrusted

SOMEBODY = 54321  # nobody's uid in particular

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has directories of others to distrust")


def link(path):
    path.with_name("elsewhere").touch()
    path.symlink_to("elsewhere")


def dangling(path):
    path.symlink_to("nowhere")


def hard_link(path):
    path.with_name("elsewhere").touch()
    os.link(path.with_name("elsewhere"), path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (link, "symbolic link"),
        (dangling, "symbolic link"),
        (os.mkfifo, "not a regular file"),
        (hard_link, "2 names"),
        (os.mkdir, "directory"),
    ],
)
def test_what_is_no_log(tmp_path, make, says):
    """No link is followed, no fifo waited for; and what was put there is as it was."""
    path = tmp_path / "app.log"
    make(path)
    there = {each.name: os.lstat(each)[:7] for each in tmp_path.iterdir()}

    with pytest.raises(OSError, match=says):
        open_log(str(path), create_directory=False)
    assert {each.name: os.lstat(each)[:7] for each in tmp_path.iterdir()} == there


def test_a_fifo_with_a_reader_is_no_log_either(tmp_path):
    """With somebody at its other end it can be opened, and is closed again."""
    path = tmp_path / "app.log"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(OSError, match="not a regular file"):
            open_log(str(path), create_directory=False)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


@as_root
def test_a_planted_log(tmp_path):
    """In a directory like /tmp anybody can put a file under our name, to read what we write."""
    tmp_path.chmod(0o1777)
    path = tmp_path / "app.log"
    path.touch()
    os.chown(path, SOMEBODY, -1)

    with pytest.raises(OSError, match="belongs to uid 54321"):
        open_log(str(path), create_directory=False)


@as_root
@pytest.mark.parametrize(
    "opens",
    [
        lambda path: open_log(path, create_directory=False),
        lambda path: open_pidfile(path, create=True),
        lambda path: open_control(path, 0o600),
    ],
    ids=["log", "pidfile", "control socket"],
)
def test_root_opens_nothing_where_others_rule(tmp_path, opens):
    """Whoever owns any directory on the way could put another thing there; the error names the directory and him."""
    place = tmp_path / "of somebody" / "of root"
    place.mkdir(parents=True)
    os.chown(place.parent, SOMEBODY, -1)
    path = str(place / "app")

    with pytest.raises((Refused, PermissionError, Failure), match="of somebody belongs to uid 54321"):
        opens(path)
    assert list(place.iterdir()) == []


@as_root
def test_a_pidfile_of_somebody_else(tmp_path):
    """Root's service is not named by a file that somebody else can write; but root may look at and stop his."""
    path = tmp_path / "app.pid"
    path.touch()
    os.chown(path, SOMEBODY, -1)

    with pytest.raises(Refused, match="belongs to uid 54321") as caught:
        open_pidfile(str(path), create=True)
    assert caught.value.code == Exit.NOT_PERMITTED
    os.close(open_pidfile(str(path), create=False))


@as_root
def test_links_on_the_way(tmp_path):
    """A link that root has made is followed, and looked at where it leads; one of somebody else's is not."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "again").symlink_to(tmp_path / "link")
    (tmp_path / "round").symlink_to("round")
    good = distrusted(str(tmp_path / "again"))
    os.chown(tmp_path / "link", SOMEBODY, -1, follow_symlinks=False)
    his_link = distrusted(str(tmp_path / "again"))
    os.chown(tmp_path / "link", 0, -1, follow_symlinks=False)
    os.chown(tmp_path / "real", SOMEBODY, -1)
    his_place = distrusted(str(tmp_path / "again"))

    assert good is None
    assert his_link == f"{tmp_path}/link belongs to uid 54321, who could replace it while root uses it"
    assert his_place == f"{tmp_path}/real belongs to uid 54321, who could replace it while root uses it"
    assert distrusted(str(tmp_path / "round")) == f"{tmp_path}/round leads through too many symbolic links"


@as_root
def test_directories_that_are_everybodys(tmp_path):
    """/tmp is fine, for there nobody can rename what is not his; without the sticky bit he could."""
    tmp_path.chmod(0o1777)
    sticky = distrusted(str(tmp_path))
    tmp_path.chmod(0o777)

    assert sticky is None
    assert distrusted(str(tmp_path)) == f"everybody may write to {tmp_path}"
    assert distrusted("/") is None


@as_root
def test_a_log_that_cannot_be_opened(bench):
    """`start` says which path and why, and ends with 4 where it is a question of rights, else with 1."""
    bench.logfile.symlink_to("/etc/passwd")
    link = bench.dari("start", "app.py:main")
    logs = bench.directory / "logs"
    logs.mkdir()
    os.chown(logs, SOMEBODY, -1)
    rights = bench.dari("start", "app.py:main", "--logfile", logs / "app.log")

    assert link.returncode == 1
    assert f"cannot open the log {bench.logfile}: it is a symbolic link; remove it" in link.stderr
    assert rights.returncode == 4
    assert f"{logs} belongs to uid 54321" in rights.stderr
