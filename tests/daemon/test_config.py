"""Where settings come from, and what is said about the wrong ones."""

from __future__ import annotations

import json
import os
import sys

import pytest

from dari.daemon import cli
from dari.daemon.config import DEFAULT, resolve
from dari.daemon.document import freeze, read_file
from dari.daemon.importing import import_program
from dari.daemon.keys import unread
from dari.daemon.lifecycle import Failure, Refused
from dari.daemon.setup import go_home
from dari.daemon.target import load
from dari.exceptions import ConfigError


def settle(tmp_path, *, command_line=None, target="app.py:main", config=None, environ=None, keywords=None):
    return resolve(
        command_line=command_line or {},
        target=target,
        config=config,
        environ=environ or {},
        keywords=keywords or {},
        cwd=str(tmp_path),
    )


def test_the_order(tmp_path):
    """Command line, then environment, then file, then a Daemon's keywords, then defaults; each remembers its origin."""
    file = tmp_path / "dari.toml"
    file.write_text("[daemon]\nname = 'file'\nchdir = '/file'\nstop_grace = 3\n")
    layers = {
        "keywords": {"name": "keyword", "chdir": "/keyword", "stop_grace": 4, "start_timeout": 4},
        "config": str(file),
        "environ": {"DARI_DAEMON__NAME": "env", "DARI_DAEMON__CHDIR": "/env"},
        "command_line": {"name": "cli"},
    }
    settings = settle(tmp_path, **layers)

    assert (settings.name, settings.chdir, settings.stop_grace, settings.start_timeout, settings.umask) == (
        "cli",
        "/env",
        3.0,
        4.0,
        0o027,
    )
    assert settings.origins == {
        "name": "--name",
        "chdir": "DARI_DAEMON__CHDIR",
        "stop_grace": f"{file}:4",
        "start_timeout": "Daemon(...)",
        "app.target": "command line",
    }
    assert settings.told("name")
    assert settings.origins.get("umask", DEFAULT) == DEFAULT


def test_paths_start_where_they_were_written(tmp_path):
    """Relative paths of the file start at the file, those of environment and command line at the working directory."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/dari.toml").write_text(
        "[daemon]\nlogfile = 'log'\nrundir = '../run'\n[app]\ntarget = 'bin/app.py:main'\n"
    )
    settings = settle(
        tmp_path,
        target=None,
        config="etc/dari.toml",
        environ={"DARI_DAEMON__CHDIR": "work"},
        command_line={"pidfile": "p"},
    )

    assert settings.logfile == str(tmp_path / "etc/log")
    assert settings.rundir == str(tmp_path / "run")
    assert settings.chdir == str(tmp_path / "work")
    assert settings.pidfile == str(tmp_path / "p")
    assert settings.target is not None
    assert str(settings.target) == f"{tmp_path}/etc/bin/app.py:main"
    assert settings.target.directory == str(tmp_path / "etc/bin")


@pytest.mark.parametrize("target", ["placed_service:daemon", "placed_service.py:daemon"])
def test_a_daemons_paths_start_at_its_file(tmp_path, monkeypatch, target):
    """Wherever its command is called from, and by whatever name it was imported, it is the same service."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    sys.modules.pop("placed_service", None)
    (tmp_path / "placed_service.py").write_text(
        "import dari\nasync def main(ctx): ...\n"
        "daemon = dari.Daemon(main, rundir='run', logfile='log', chdir='~', umask=0o022)\n"
    )
    unasked = settle(tmp_path, target=target)  # as `dari start` resolves, which does not import it
    daemon = load(unasked.target)
    elsewhere = resolve(command_line={}, target=target, config=None, environ={}, keywords=daemon.keywords, cwd="/")

    assert elsewhere.pidfile == f"{tmp_path}/run/placed_service.pid"
    assert (elsewhere.logfile, elsewhere.chdir) == (f"{tmp_path}/log", os.path.expanduser("~"))
    assert elsewhere.umask == 0o022
    with pytest.raises(Failure, match=f"says logfile='{tmp_path}/log'"):
        import_program(unasked)
    assert import_program(settle(tmp_path, target=target, keywords=daemon.keywords)).main is not None


@pytest.mark.parametrize(
    ("target", "name"),
    [("dir/indexer.py:daemon", "indexer"), ("package.worker:main", "worker"), ("solo:main.run", "solo")],
)
def test_the_name_is_the_targets(tmp_path, target, name):
    """Without a name the service is called as its file, or as the last part of its module."""
    assert settle(tmp_path, target=target).name == name


def test_default_places(tmp_path, monkeypatch):
    """Root's services live in /run and /var/log; others in XDG_RUNTIME_DIR, or in ~/.local/state without one."""
    monkeypatch.setenv("HOME", "/home/u")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    root = settle(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    user = settle(tmp_path)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    bare = settle(tmp_path)

    assert (root.pidfile, root.logfile) == ("/run/app/app.pid", "/var/log/app.log")
    assert (user.pidfile, user.logfile) == ("/run/user/1000/app/app.pid", "/home/u/.local/state/app/app.log")
    assert (bare.pidfile, bare.logfile) == ("/home/u/.local/state/app/app.pid", "/home/u/.local/state/app/app.log")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[daemon]\n\nnmae = 'x'\n", ":3: [daemon] nmae: unknown key; did you mean 'name'?"),
        ("[daemon]\nlog.levle = 'info'\n", ":2: [daemon] log.levle: unknown key; did you mean 'log.level'?"),
        ("[daemon.log]\nlevle = 'info'\n", ":2: [daemon] log.levle: unknown key; did you mean 'log.level'?"),
        ("x = 1\n[daemon]\nzzz = 1\n", ":3: [daemon] zzz: unknown key; known are name, pidfile,"),
        ("[daemon]\numask = 'abc'\n", ":2: [daemon]: umask must be an octal number in quotes, like \"027\", not 'abc'"),
        ("[daemon]\numask = 27\n", ':2: [daemon]: umask must be an octal number in quotes, like "027", not 27'),
        (
            "[daemon]\numask = '1777'\n",
            ":2: [daemon]: umask must be an octal number in quotes, like \"027\", not '1777'",
        ),
        (
            "[daemon.control]\nmode = 600\n",
            ':2: [daemon]: control.mode must be an octal number in quotes, like "600", not 600',
        ),
        ("[daemon]\nstop_grace = '5'\n", ":2: [daemon]: stop_grace must be a number of seconds above 0, not '5'"),
        ("[daemon]\nstop_grace = -1\n", ":2: [daemon]: stop_grace must be a number of seconds above 0, not -1"),
        (
            "[daemon]\nbackend = 'gevent'\n",
            ":2: [daemon]: backend must be one of asyncio, uvloop, trio, dari, standalone",
        ),
        ("[daemon]\nname = '../x'\n", ":2: [daemon]: name must be a name of letters, digits and . _ @ -"),
        ("[daemon.limits]\nnofiles = 3\n", ":2: [daemon] limits.nofiles: unknown key; did you mean 'limits.nofile'?"),
        ("[daemon.limits]\nnofile = 3\n", ":2: [daemon]: limits.nofile must be a whole number, 16 or more, not 3"),
        (
            "[daemon.limits]\ncore = -1\n",
            ":2: [daemon]: limits.core must be a whole number of bytes, 0 or more, not -1",
        ),
        ("[daemon.limits]\ncore = true\n", ":2: [daemon]: limits.core must be a whole number of bytes"),
        ("[daemon]\nlimits = 3\n", ":2: [daemon] limits: must be a table"),
        ("[pool]\nmax_wokers = 3\n", ":2: [pool] max_wokers: unknown key; did you mean 'max_workers'?"),
        ("[pool]\nmax_workers = 0\n", ":2: [pool]: max_workers must be a whole number, 1 or more, not 0"),
        (
            "[pool]\nmin_workers = 4\nmax_workers = 2\n",
            ":2: [pool]: min_workers must be at most max_workers (2), not 4",
        ),
        ("[pool]\nmax_workers = '3'\n", ":2: [pool]: max_workers must be a whole number, 1 or more, not '3'"),
        ("[pool]\non_full = 'drop'\n", ":2: [pool]: on_full must be 'wait' or 'raise', not 'drop'"),
        ("[pool]\nidle_timeout = -1\n", ":2: [pool]: idle_timeout must be a number of seconds, 0 or more, not -1"),
        ("[pool]\nlimits = {db = 0}\n", ":2: [pool]: limits must be a table of whole numbers, 1 or more"),
        ("[pool.limits]\ndb = 'x'\n", ":1: [pool]: limits must be a table of whole numbers, 1 or more"),
        ("pool = 3\n", "pool must be a table: [pool]"),
        ("[daemon]\nlog = 3\n", ":2: [daemon] log: must be a table"),
        ("daemon = 3\n", "daemon must be a table: [daemon]"),
        ("[app]\ntarget = 'main'\n", ":2: [app] target: 'main' must be module:attribute or path/to/file.py:attribute"),
        ("[app]\ntarget = 3\n", ":2: [app] target: must be module:attribute"),
        ("[deamon]\nname = 'x'\n", ":1: deamon is nothing that dari reads; did you mean [daemon]?"),
        ("\n[Daemon.log]\n", ": Daemon is nothing that dari reads; did you mean [daemon]?"),
        ("[pools]\n", ":1: pools is nothing that dari reads; did you mean [pool]?"),
        ("[App]\n", ":1: App is nothing that dari reads; did you mean [app]?"),
        ("\nname = 'x'\n", ":2: name is nothing that dari reads; did you mean name in [daemon]?"),
        ("[log]\nlevel = 'debug'\n", ":1: log is nothing that dari reads; did you mean [daemon.log]?"),
        ("[daemon\n", "(at line 1, column 8)"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, message):
    """An invalid file is refused with file, line, key, and what would be right."""
    file = tmp_path / "dari.toml"
    file.write_text(text)

    with pytest.raises(ConfigError) as caught:
        read_file(str(file))

    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_wrong_values_elsewhere(tmp_path):
    """The environment's mistakes are the configuration's (6), the command line's are bad arguments (2)."""
    with pytest.raises(ConfigError, match="DARI_DAEMON__NMAE: unknown key; did you mean 'DARI_DAEMON__NAME'"):
        settle(tmp_path, environ={"DARI_DAEMON__NMAE": "x"})
    with pytest.raises(ConfigError, match="DARI_DAEMON__STOP_GRACE: stop_grace must be a number"):
        settle(tmp_path, environ={"DARI_DAEMON__STOP_GRACE": "soon"})
    with pytest.raises(Refused, match="--stop-grace: stop_grace must be a number") as caught:
        settle(tmp_path, command_line={"stop_grace": "soon"})
    assert caught.value.code == 2


def test_further_tables_are_the_programs(tmp_path):
    """Whatever stands outside [daemon] is not looked at, but handed on."""
    file = tmp_path / "dari.toml"
    file.write_text("top = 1\n[app]\nport = 8080\n[[database]]\nurl = 'x'\n[daemon.log]\n")

    assert read_file(str(file)) == {"top": 1, "app": {"port": 8080}, "database": [{"url": "x"}], "daemon": {"log": {}}}


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("[daemon]\nname = 'x'\n", 2, "what is to be started? Give a TARGET: {0} has no [app] target\n"),
        (
            "[daemon]\nname = 'x'\n[app]\ntagret = 'app.py:main'\n",
            2,
            "has no [app] target; {0}:4: [app] tagret: did you mean 'target'?",
        ),
        ("[app]\nport = 1\n", 2, "which service? Give a TARGET, --name or --pidfile: {0} has no [app] target\n"),
        (
            "[daemon]\nuser = 'nosuch'\n[app]\ntarget = 'app.py:main'\n",
            6,
            "{0}:2: user = 'nosuch': there is no such user",
        ),
        (
            "[daemon]\ngroup = 'mail'\n[app]\ntarget = 'app.py:main'\n",
            6,
            "{0}:2: group = 'mail' needs a user to go with it",
        ),
    ],
)
def test_what_the_launcher_misses_in_the_file(tmp_path, capsys, text, code, message):
    """A start that cannot be begun names the file, the line, and what may have been meant."""
    (tmp_path / "app.py").touch()
    file = tmp_path / "dari.toml"
    file.write_text(text)

    assert cli.main(["start", "-c", str(file)]) == code

    assert message.format(file) in capsys.readouterr().err


def test_what_the_service_cannot_do_has_its_line(tmp_path):
    """chdir and limits are refused with the line that asks for them."""
    file = tmp_path / "dari.toml"
    file.write_text("[daemon]\nchdir = 'nowhere'\n")

    with pytest.raises(Failure, match=f"^{file}:2: chdir {tmp_path}/nowhere: No such file or directory"):
        go_home(settle(tmp_path, config=str(file)), detached=True)


def test_names_that_only_resemble_ours(tmp_path):
    """Tables that are beside the one that they resemble, or have nothing of what dari reads, are the program's."""
    file = tmp_path / "dari.toml"
    file.write_text("log = 3\n[daemon]\n[daemons]\n[spool]\n[apps]\n[user]\nx = 1\n[limits]\nrequests = 5\n")

    assert set(read_file(str(file))) == {"log", "daemon", "daemons", "spool", "apps", "user", "limits"}


def test_variables_that_nobody_reads():
    """What looks like a setting and is none is told with the right spelling; the program's own variables are not."""
    ours = dict.fromkeys(["DARI_DAEMON__NAME", "DARI_APP__TARGET", "DARI_TOKEN", "DARI_HOST", "LOG_LEVEL"], "x")

    assert unread(ours) == []
    assert [text.split("'")[1] for text in unread(dict.fromkeys(["DARI_STOP_GRACE", "DARI_DAEMON_LOG_LEVL"], "x"))] == [
        "DARI_DAEMON__STOP_GRACE",
        "DARI_DAEMON__LOG__LEVEL",
    ]


def test_the_snapshot_is_immutable():
    """ctx.config cannot be changed, at any depth."""
    config = freeze({"app": {"list": [{"a": 1}]}})

    with pytest.raises(TypeError):
        config["app"]["x"] = 1
    with pytest.raises(TypeError):
        config["app"]["list"][0]["a"] = 2
    assert config["app"]["list"] == ({"a": 1},)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ([], 2, "COMMAND"),
        (["begin", "app.py:main"], 2, "invalid choice"),
        (["status"], 2, "which service? Give a TARGET"),
        (["start", "--name", "x"], 2, "what is to be started?"),
        (["start", "app.py"], 2, "must be module:attribute"),
        (["start", "app.py:main", "--stop-grace", "soon"], 2, "--stop-grace"),
        (["start", "app.py:main", "-c", "missing.toml"], 6, "cannot read"),
        (["start", "app.py:main", "-c", "bad.toml"], 6, "bad.toml:2: [daemon] nmae: unknown key; did you mean 'name'?"),
        (["start", "missing.py:main"], 5, "there is no file"),
        (["start", "missing_module:main", "--name", "app"], 5, "No module named 'missing_module'"),
        (["start", "app.py:mian"], 5, "has no 'mian'"),
        (["start", "app.py:plain"], 5, "must be an `async def` or a generator function"),
        (["start", "app.py:number"], 5, "main must be a function, not 3"),
        (["start", "broken.py:main", "--name", "app"], 5, "ZeroDivisionError"),
        (["run", "broken.py:main", "--name", "app"], 5, "ZeroDivisionError"),
        (["start", "app.py:main", "--chdir", "/nowhere"], 6, "chdir /nowhere"),
    ],
)
def test_exit_codes_of_mistakes(bench, arguments, code, text):
    """Bad arguments 2, an import that fails 5, a bad configuration 6; each with its sentence, also in JSON."""
    bench.program("def plain(ctx): ...\nnumber = 3\n")
    bench.program("async def main(ctx):\n    pass\n1 / 0\n", "broken.py")
    (bench.directory / "bad.toml").write_text("[daemon]\nnmae = 'x'\n")

    if "run" in arguments:
        del bench.env["DARI_DAEMON__LOGFILE"]  # so that it tells its terminal
    done = bench.dari(*arguments)

    assert done.returncode == code, done
    assert text in done.stderr
    assert done.stdout == ""
    if text in ("cannot read", "has no 'mian'"):  # one from the launcher, one from the service
        answer = bench.dari(*arguments, "--json")
        assert answer.returncode == json.loads(answer.stdout)["code"] == code
        assert text in json.loads(answer.stdout)["text"]
        assert answer.stderr == ""
        assert bench.status() == (3, "stopped")


def test_a_module_target_with_configuration(bench):
    """A module is found beside the configuration that names it, and main gets the whole file."""
    bench.program(
        """
        async def main(ctx):
            print(ctx.name, ctx.config["app"]["port"], ctx.config["daemon"]["name"])
            ctx.ready()
            await ctx.stopping.wait()
        """,
        "service_module.py",
    )
    config = bench.config("[daemon]\nname = 'app'\n[app]\ntarget = 'service_module:main'\nport = 8080\n")

    started = bench.dari("start", "-c", config)

    assert started.stdout.splitlines()[0] == "app 8080 app"
    assert bench.dari("status", "-c", config).returncode == 0
    assert bench.dari("stop", "-c", config).returncode == 0
