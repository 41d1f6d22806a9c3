"""A service of root's that runs as somebody else: what it becomes, what stays root's, and what is refused.

The user needs an interpreter and a place that he may read, and the one that runs the tests is often in root's home: so
a copy of it (hard links, where that is possible) is made beside the tests' own directory.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import shutil
import signal
import stat
import sys
import sysconfig
import tempfile
from pathlib import Path

import psutil
import pytest

import dari
from dari.daemon.config import resolve
from dari.daemon.lifecycle import Exit, Failure, Refused
from dari.daemon.rights.accounts import account
from dari.daemon.rights.environment import for_service
from dari.daemon.rights.privileges import drop

from .conftest import Bench, wait_until
from .test_logs import run_logrotate

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

NOBODY = pwd.getpwnam("nobody")

# Says who it is, and what it may do with what is root's, in its log.
LOOKS_AROUND = """\
import json, logging, os, sys

def attempt(fn, *args):
    try:
        fn(*args)
    except OSError as error:
        return type(error).__name__
    return "done"

async def main(ctx):
    pidfile = os.environ["DARI_DAEMON__RUNDIR"] + "/app.pid"
    found = {
        "back": [attempt(os.seteuid, 0), attempt(os.setegid, 0), attempt(os.setgroups, [0])],
        "pidfile": [attempt(os.open, pidfile, os.O_WRONLY), attempt(os.unlink, pidfile)],
        "rundir": attempt(os.mkdir, pidfile + ".mine"),
        "environment": {name: os.environ.get(name) for name in ("HOME", "USER", "LOGNAME", "SHELL", "SECRET")},
        "umask": os.umask(0o027),
        "cwd": os.getcwd(),
    }
    logging.info("found %s", json.dumps(found))
    ctx.ready()
    await ctx.stopping.wait()
"""


def link_or_copy(source, target):
    """A hard link costs nothing, but not every file can have one, or is everybody's to read."""
    if os.stat(source).st_mode & stat.S_IROTH:
        try:
            os.link(source, target)
            return
        except OSError:
            pass
    shutil.copyfile(source, target)
    os.chmod(target, 0o755 if os.access(source, os.X_OK) else 0o644)


@pytest.fixture(scope="module")
def public():
    """A directory that everybody may read, with an interpreter in it."""
    directory = Path(tempfile.mkdtemp(prefix="dari-"))
    directory.chmod(0o755)
    library = Path(os.__file__).parent
    unused = shutil.ignore_patterns(
        "site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "ensurepip"
    )
    copied = directory / "lib" / library.name
    shutil.copytree(library, copied, copy_function=link_or_copy, ignore=unused)
    for package in (dari, psutil):
        place = Path(str(package.__file__)).parent
        shutil.copytree(place, copied / "site-packages" / place.name, copy_function=link_or_copy, ignore=unused)
    (directory / "bin").mkdir()
    link_or_copy(os.path.realpath(sys.executable), directory / "bin" / "python")
    shared = Path(str(sysconfig.get_config_var("LIBDIR")), str(sysconfig.get_config_var("INSTSONAME")))
    if shared.suffix != ".a" and shared.is_file():
        link_or_copy(shared, directory / "lib" / shared.name)
    for path, _, _ in os.walk(directory):
        os.chmod(path, 0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def service(public):
    """A program for `nobody`."""
    directory = Path(tempfile.mkdtemp(prefix="service-", dir=public))
    directory.chmod(0o755)
    bench = Bench(directory)
    bench.python = str(public / "bin" / "python")
    bench.env.pop("PYTHONPATH", None)
    bench.env |= {
        "LD_LIBRARY_PATH": str(public / "lib"),
        "DARI_DAEMON__USER": "nobody",
        "DARI_DAEMON__PASS_ENVIRONMENT": "WITNESS",
        "SECRET": "root's own",
        "XDG_CONFIG_HOME": "/root/.config",
    }
    bench.witness.touch()
    os.chown(bench.witness, NOBODY.pw_uid, NOBODY.pw_gid)
    bench.program(LOOKS_AROUND)
    yield bench
    bench.clean_up()


def identities(pid):
    """Return the user, group and groups of every thread of a process, as sets of lines."""
    found = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        lines = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        found.add(tuple(" ".join(lines[key].split()) for key in ("Uid", "Gid", "Groups", "CapEff", "CapPrm")))
    return found


def found_by(service):
    wait_until(lambda: "found " in service.log())  # the log has a thread of its own
    return json.loads(service.log().split("found ")[1].splitlines()[0])


def test_a_service_becomes_its_user(service, until):
    """In every thread and for good, without a group or a variable of root's; pidfile and lock stay root's, and work."""
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid

    done = service.dari("start", "app.py:main", "--json", extra_groups=[0, 1, 4])
    assert done.returncode == 0, done
    pid = json.loads(done.stdout)["pid"]

    nothing = "0" * 16
    assert identities(pid) == {(f"{uid} {uid} {uid} {uid}", f"{gid} {gid} {gid} {gid}", str(gid), nothing, nothing)}
    assert found_by(service) == {
        "back": ["PermissionError"] * 3,
        "pidfile": ["PermissionError"] * 2,
        "rundir": "PermissionError",
        "environment": {
            "HOME": NOBODY.pw_dir,
            "USER": "nobody",
            "LOGNAME": "nobody",
            "SHELL": NOBODY.pw_shell,
            "SECRET": None,
        },
        "umask": 0o027,
        "cwd": "/",
    }
    for path, owner, mode in [
        (service.pidfile, 0, 0o644),
        (service.rundir, 0, 0o755),
        (service.rundir / "app.ctl", 0, 0o600),
        (service.logfile, uid, 0o640),
    ]:
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (owner, mode), path
    status = json.loads(service.dari("status", "app.py:main", "--json").stdout)
    assert (status["state"], status["loop"]["kind"]) == ("running", "asyncio")  # root asks, through the control socket

    # In a directory that is not his somebody has to create the log for him: `create` of the snippet does.
    run_logrotate(service, service.dari("unit", "app.py:main", "--logrotate").stdout)
    until(lambda: "reloaded" in service.log())
    assert (service.logfile.stat().st_uid, stat.S_IMODE(service.logfile.stat().st_mode)) == (uid, 0o640)
    moved = service.logfile.rename(service.directory / "app.log.2")
    os.kill(pid, signal.SIGHUP)
    until(lambda: "the log stays where it was" in moved.read_text())
    assert service.dari("stop", "app.py:main", "--strict").returncode == 0
    assert service.status() == (3, "stopped")
    assert service.pidfile.read_bytes() == b""
    assert os.listdir(service.rundir) == ["app.pid"]


def test_run_becomes_its_user_too(service, until):
    """In the foreground, where the environment is the supervisor's word and stays; HOME and the like are the user's."""
    del service.env["DARI_DAEMON__LOGFILE"]  # stderr, which nobody rotates
    with service.logfile.open("w") as stderr:
        running = service.popen("run", "app.py:main", "--log-rotate", "size", stderr=stderr)
    until(lambda: service.is_now("running"))

    uid = NOBODY.pw_uid
    assert {row[0] for row in identities(running.pid)} == {f"{uid} {uid} {uid} {uid}"}
    assert found_by(service)["environment"] == {
        "HOME": NOBODY.pw_dir,
        "USER": "nobody",
        "LOGNAME": "nobody",
        "SHELL": NOBODY.pw_shell,
        "SECRET": "root's own",
    }


def test_a_directory_of_the_user_for_the_log(service):
    """He creates and rotates it himself there: root touches nothing that the user could have put in its way."""
    logs = service.directory / "logs"
    logs.mkdir()
    os.chown(logs, NOBODY.pw_uid, -1)
    service.logfile = logs / "app.log"
    service.env |= {"DARI_DAEMON__LOGFILE": str(service.logfile), "DARI_DAEMON__LOG__ROTATE": "size"}

    service.start()
    assert service.logfile.stat().st_uid == NOBODY.pw_uid
    service.dari("stop", "app.py:main")
    service.logfile.unlink()
    service.logfile.symlink_to("/etc/passwd")
    done = service.dari("start", "app.py:main")

    assert done.returncode == 1
    assert "is a symbolic link" in done.stderr


def test_reloads_as_the_user(service, until):
    """He must be able to read the file, which the log says beforehand; the reason of a refusal is told, as anywhere."""
    config = service.config('[app]\ntarget = "app.py:main"\n')
    config.chmod(0o600)
    service.start("-c", config)

    refused = service.dari("reload", "--name", "app")
    config.chmod(0o644)
    accepted = service.dari("reload", "--name", "app")

    until(lambda: "generation 2" in service.log())
    assert f"every reload will be refused: this user cannot read {config}" in service.log()
    assert (refused.returncode, accepted.returncode) == (153, 0), (refused, accepted)
    assert "Permission denied" in refused.stderr
    assert "WARNING" not in service.log().split("stays as it was")[1]


@pytest.mark.parametrize("action", ["start", "check"])
@pytest.mark.parametrize(
    ("shut", "code", "says"),
    [
        (
            lambda service, public: service.directory,
            5,
            "cannot import {target}: user 'nobody' cannot read it: {shut} is",
        ),
        (lambda service, public: public, 6, "user 'nobody' cannot read the interpreter"),
        (lambda service, public: public / "bin" / "python", 6, "user 'nobody' cannot run the interpreter"),
    ],
)
def test_what_the_user_cannot_read(service, public, action, shut, code, says):
    """A clear word on which door is shut, before anything of the program is touched; `check` says the same."""
    place = shut(service, public)
    mode = place.stat().st_mode
    place.chmod(0o700)
    try:
        done = service.dari(action, "app.py:main")
    finally:
        place.chmod(mode)

    assert done.returncode == code, done
    assert says.format(target=service.directory / "app.py:main", shut=place) in done.stderr
    assert "Traceback" not in done.stderr
    assert service.witnesses() == []


def test_rotation_needs_a_directory_of_the_user(service):
    """Built-in rotation renames files, which the user may not do beside root's: told at the start."""
    done = service.dari("start", "app.py:main", "--log-rotate", "size")

    assert done.returncode == 6
    assert f"renames files in {service.directory}, where user 'nobody' may not write" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--user", "no-such-user"], 6, "there is no such user"),
        (["--user", "99999999999999999999"], 6, "there is no such user"),
        (["--user", "nobody", "--group", "no-such-group"], 6, "there is no such group"),
        (["--user", "a b"], 2, "must be a name"),
    ],
)
def test_whom_nobody_knows(service, options, code, says):
    """A user or a group that does not exist is an error before anything is started."""
    done = service.dari("check", "app.py:main", *options)

    assert (done.returncode, says in done.stderr) == (code, True), done


def test_a_group_alone(service):
    """`group` belongs to a user."""
    del service.env["DARI_DAEMON__USER"]

    done = service.dari("start", "app.py:main", "--group", "daemon")

    assert (done.returncode, "group = 'daemon' needs a user" in done.stderr) == (6, True)


def test_only_root_becomes_somebody_else(service):
    """Somebody else who tries is told so (4); himself he is already."""
    he = {"user": NOBODY.pw_uid, "group": NOBODY.pw_gid, "extra_groups": []}
    his = service.directory / "his"
    his.mkdir()
    os.chown(his, NOBODY.pw_uid, NOBODY.pw_gid)

    other = service.dari("start", "app.py:main", "--user", "daemon", **he)
    himself = service.dari("check", "app.py:main", "--rundir", "his", "--logfile", "his/app.log", **he)

    assert (other.returncode, himself.returncode) == (4, 0), (other, himself)
    assert "only root may start it as 'daemon'" in other.stderr


def settings(**keys):
    return resolve(command_line=keys, target="app.py:main", config=None, environ={}, keywords={}, cwd="/")


def test_what_is_kept_of_an_environment():
    """`start` leaves a session behind; another user gets what every program needs, and what is passed by name."""
    mine = {
        "PATH": "/opt/bin:bin::/bin",
        "LC_TIME": "C",
        "APP_KEY": "1",
        "TOKEN": "2",
        "SSH_AUTH_SOCK": "/tmp/agent",
        "XDG_RUNTIME_DIR": "/run/user/0",
        "LISTEN_FDS": "1",
        "NOTIFY_SOCKET": "/run/notify",
    }
    his = {"HOME": NOBODY.pw_dir, "USER": "nobody", "LOGNAME": "nobody", "SHELL": NOBODY.pw_shell}
    plain = settings()
    other = settings(user="nobody", pass_environment="APP_*")

    assert for_service(mine, plain, detached=True) == {
        "PATH": "/opt/bin:/bin",
        "LC_TIME": "C",
        "APP_KEY": "1",
        "TOKEN": "2",
        "XDG_RUNTIME_DIR": "/run/user/0",
    }
    assert for_service(mine, other, detached=True) == {"PATH": "/opt/bin:/bin", "LC_TIME": "C", "APP_KEY": "1", **his}
    assert for_service(mine, plain, detached=False) == {key: mine[key] for key in mine if key != "LISTEN_FDS"}
    assert for_service(mine, other, detached=False) == {
        **{key: mine[key] for key in ("PATH", "LC_TIME", "APP_KEY", "TOKEN", "SSH_AUTH_SOCK", "NOTIFY_SOCKET")},
        **his,
    }


def test_a_drop_that_does_not_hold(monkeypatch):
    """Where the system gives less than was asked for, or lets us back, the service does not start."""
    who = account("nobody", None)
    assert who is not None
    nothing = lambda *_: None
    for name in ("setgroups", "setresgid", "setresuid"):
        monkeypatch.setattr(os, name, nothing)

    with pytest.raises(Failure, match="ids are") as caught:
        drop(who)
    assert caught.value.code == Exit.NOT_PERMITTED

    monkeypatch.setattr(os, "getresuid", lambda: (who.uid,) * 3)
    monkeypatch.setattr(os, "getresgid", lambda: (who.gid,) * 3)
    monkeypatch.setattr(os, "getgroups", lambda: who.groups)
    with pytest.raises(Failure, match="could become root again"):
        drop(who)


def test_a_number_is_a_user_too():
    """Names and numbers of users and groups, as long as the system knows them; root itself changes nothing."""
    by_name, by_number = account("nobody", "daemon"), account(str(NOBODY.pw_uid), str(grp.getgrnam("daemon").gr_gid))

    assert by_name == by_number
    assert account("root", None) is None
    with pytest.raises(Refused, match="no such user"):
        account("4294967294", None)
