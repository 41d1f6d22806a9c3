"""The command `dari`, which is also `python -m dari` and a program's own `daemon.cli()`.

Nothing but arguments in and text out lives here. It imports no loop, no logging and no program: `status` is asked
by shells and monitors all day long.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from dari.daemon.commands import operate
from dari.daemon.commands.operate import Report
from dari.daemon.config import Settings, resolve
from dari.daemon.document import without_target
from dari.daemon.keys import KEYS, Doubts
from dari.daemon.lifecycle import STATUS_EXIT, Exit, Refused, StartFailed, State
from dari.daemon.rights.accounts import account
from dari.exceptions import ConfigError, DaemonError

_COMMANDS = {
    "run": "in the foreground, for supervisors, containers and debugging",
    "start": "in the background; returns when it is ready",
    "stop": "TERM, its grace, then KILL",
    "restart": "checks configuration and TARGET before it stops anything",
    "reload": "reads the configuration again; returns when it is swapped, or refused (153)",
    "check": "configuration with origins, import of TARGET; starts nothing",
    "status": "running 0, dead 1, not running 3, anything else 4",
    "top": "status, once a second, until Ctrl-C",
    "metrics": "what the service uses, in the text format of Prometheus",
    "dump": "what every thread and every suspended task is doing",
    "unit": "a systemd unit for this service, or --logrotate: what logrotate needs",
    "logs": "the end of the log, and with --follow what comes",
}
_STARTING = {"run": "run", "start": "started", "restart": "started", "check": "checked", "unit": "written down"}
# What must work with a file that was broken while the service runs: it takes what is valid, and says what is not.
_LOOKING = ("stop", "status", "top", "metrics", "dump", "logs")
# Options that the other commands do not take.
_ONLY_FOR = {"follow": ("logs",), "level": ("logs",), "lines": ("logs", "top"), "logrotate": ("unit",)}


def _formatter(prog: str) -> argparse.HelpFormatter:
    # With a width given it need not ask the terminal, which costs an import of shutil in every single command.
    return argparse.RawDescriptionHelpFormatter(prog, width=100)


def _parser(own_target: str | None) -> argparse.ArgumentParser:
    prog = "dari" if own_target is None else os.path.basename(sys.argv[0])
    commands = "\n".join(f"  {name:8} {text}" for name, text in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"Run a program as a Unix service.\n\n{commands}",
        formatter_class=_formatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=_COMMANDS, metavar="COMMAND", help="one of the above")
    if own_target is None:
        parser.add_argument("target", nargs="?", metavar="TARGET", help="module:attribute or path/to/file.py:attribute")
    parser.add_argument("-c", "--config", metavar="FILE", help="a TOML file with a [daemon] table")
    parser.add_argument("--json", action="store_true", help="answer in JSON, on stdout")
    parser.add_argument("--strict", action="store_true", help="already running, not running, killed: not success")
    parser.add_argument("-n", "--lines", metavar="N", type=_lines, help="logs: how many (20); top: how many looks")
    parser.add_argument("-f", "--follow", action="store_true", help="logs: go on until Ctrl-C, over rotations too")
    parser.add_argument("--level", metavar="LEVEL", help="logs: set the level of the running service")
    parser.add_argument("--logrotate", action="store_true", help="unit: a file for /etc/logrotate.d instead")
    for key in KEYS:
        option = f"--{key.replace('.', '-').replace('_', '-')}"
        parser.add_argument(option, dest=key, metavar="VALUE", help=f"{key} of [daemon]")
    return parser


def main(
    argv: Sequence[str] | None = None, *, target: str | None = None, keywords: Mapping[str, object] | None = None
) -> int:
    """Run one command and return its exit code. `target` and `keywords`: a program's own (`Daemon.cli`)."""
    arguments = vars(_parser(target).parse_intermixed_args(argv))
    command: str = arguments["command"]
    name: str | None = None
    refused = True
    try:
        settings = _settings(arguments, target, keywords or {})
        name = settings.name
        if command == "logs" and arguments["level"] is None:
            return _show_logs(settings, arguments)
        if command == "top":
            from dari.daemon.commands import top

            top.show(settings, times=arguments["lines"], as_json=arguments["json"])
            return Exit.DONE
        report = _perform(command, settings, arguments)
        refused = report.code != Exit.DONE and command != "status"
    except StartFailed as failed:
        report = Report(failed.code, str(failed), {"state": "stopped", "pid": None, "origin": failed.origin})
    except Refused as error:
        report = Report(error.code, str(error), {"pid": error.pid})
    except ConfigError as error:
        if command == "reload":  # seen here already, the service need not be asked
            report = Report(Exit.RELOAD_REFUSED, f"the configuration stays as it was: {error}", {})
        elif command in _LOOKING:
            code = STATUS_EXIT[State.UNKNOWN] if command == "status" else Exit.BAD_CONFIG
            text = f"{error}; without -c, --pidfile or --name finds the service"
            report = Report(code, text, {"state": State.UNKNOWN.value, "pid": None})
        else:
            report = Report(Exit.BAD_CONFIG, str(error), {})
    except DaemonError as error:
        report = Report(Exit.FAILED, str(error), {})
    except KeyboardInterrupt:
        report = Report(130, "interrupted", {})  # 128 + SIGINT, as shells count
    try:
        _answer(report, command, name, as_json=arguments["json"], refused=refused)
        print(end="", flush=True)  # where stdout is closed there is no sys.stdout
    except OSError as error:
        return _unheard(error, command, report.code)
    return report.code


def _answer(report: Report, command: str, name: str | None, *, as_json: bool, refused: bool) -> None:
    if as_json:
        import json

        head = {"action": command, "name": name, "ok": report.code == Exit.DONE, "code": int(report.code)}
        print(json.dumps({**head, "text": report.text, **report.fields}))
    elif not refused and (command == "unit" or report.fields.get("dump") or report.fields.get("metrics")):
        print(report.text)
    else:
        _say(name or "dari", report.text, report.details, to=sys.stderr if refused else sys.stdout)


def _unheard(error: OSError, command: str, code: int) -> int:
    """The answer could not be written: whoever read it has gone (`| head`), which is no failure, or a disk is full."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)  # what is left in the buffer is written at exit, and would fail once more
    os.close(devnull)
    if isinstance(error, BrokenPipeError):
        return code
    print(f"dari: {command}: the answer could not be written: {error.strerror}", file=sys.stderr)
    return STATUS_EXIT[State.UNKNOWN] if command == "status" else Exit.FAILED


def _lines(text: str) -> int:
    number = int(text)  # its ValueError is argparse's business
    if number < 0:
        raise ValueError(text)
    return number


def _show_logs(settings: Settings, arguments: dict[str, Any]) -> int:
    from dari.daemon.commands import tail

    if arguments["json"]:
        raise Refused(Exit.USAGE, "logs shows the log as it is; for JSON, have it written so: [daemon.log] format")
    lines: int | None = arguments["lines"]
    tail.show(settings.logfile, lines=20 if lines is None else lines, follow=arguments["follow"])
    return Exit.DONE


def _settings(arguments: dict[str, Any], own_target: str | None, keywords: Mapping[str, object]) -> Settings:
    doubts = Doubts(strict=arguments["command"] not in _LOOKING)
    try:
        settings = resolve(
            command_line={key: arguments[key] for key in KEYS if arguments[key] is not None},
            target=own_target if own_target is not None else arguments["target"],
            config=arguments["config"],
            environ=os.environ,
            keywords=keywords,
            cwd=os.getcwd(),
            doubts=doubts,
        )
    except (ValueError, LookupError) as error:
        raise Refused(Exit.USAGE, str(error.args[0])) from error
    for warning in doubts.warnings:
        print(f"dari: {warning}", file=sys.stderr)
    for option, commands in _ONLY_FOR.items():
        if arguments[option] not in (None, False) and arguments["command"] not in commands:
            where = " and ".join(commands)
            raise Refused(Exit.USAGE, f"{arguments['command']} takes no --{option}; that is for {where}")
    if arguments["level"] is not None and (arguments["follow"] or arguments["lines"] is not None):
        raise Refused(Exit.USAGE, "--level changes the log and shows nothing of it: first that, then --follow")
    if arguments["command"] in _STARTING:
        _require_startable(settings, arguments["command"])
    return settings


def _require_startable(settings: Settings, command: str) -> None:
    """Refuse what cannot be started, as far as that is seen without an import."""
    if settings.target is None:
        found = (
            f": {without_target(settings.config)}" if settings.config is not None else ", or -c FILE with [app] target"
        )
        raise Refused(Exit.USAGE, f"what is to be {_STARTING[command]}? Give a TARGET{found}")
    if settings.target.is_file and not os.path.isfile(settings.target.place):
        raise Refused(Exit.NO_TARGET, f"there is no file {settings.target.place}")
    if command != "unit":  # which may be for another machine
        try:
            account(settings.user, settings.group)
        except Refused as refused:
            key = "group" if str(refused).startswith("group") else "user"
            raise Refused(refused.code, f"{settings.where(key)}{refused}") from refused


def _perform(command: str, settings: Settings, arguments: dict[str, Any]) -> Report:
    strict: bool = arguments["strict"]
    stdout = 2 if arguments["json"] else 1  # the program's: the answer stands on stdout alone
    if command == "status":
        from dari.daemon.commands.status import status

        return status(settings)
    if command == "logs":
        from dari.daemon.commands.level import set_level

        return set_level(settings, arguments["level"])
    if command == "metrics":
        from dari.daemon.commands.status import metrics

        return metrics(settings)
    if command == "stop":
        return operate.stop(settings, strict=strict)
    if command == "restart":
        return operate.restart(settings, stdout=stdout)
    if command == "reload":
        from dari.daemon.commands.reload import reload

        return reload(settings)
    if command == "check":
        return operate.check(settings)
    if command == "unit":
        from dari.daemon.commands import unit

        write = unit.logrotate_snippet if arguments["logrotate"] else unit.systemd_unit
        return Report(Exit.DONE, write(settings), {})
    if command == "dump":
        from dari.daemon.commands import dump

        return dump.dump(settings)
    if command == "run":
        operate.run(settings)
    return operate.start(settings, strict=strict, stdout=stdout)


def _say(name: str, text: str, details: tuple[str, ...], *, to: TextIO) -> None:
    # A traceback stands by itself; the sentence with the name comes after it.
    *before, last = text.splitlines() or [""]
    for line in before:
        print(line, file=to)
    print(f"{name}: {last}", file=to)
    for line in details:
        print(f"  {line}", file=to)


if __name__ == "__main__":
    sys.exit(main())
