"""`dari unit`: the same service for systemd, and for logrotate, as text that an administrator reads and installs.

`Type=notify` with `ExecReload=dari reload`, never `forking` (the pidfile race of facts b27), and not `notify-reload`
either: that one needs systemd 253, and `systemctl reload` succeeds with it when the configuration was *refused*. With
`dari reload` it fails, and shows the reason.

What was resolved is written down: the interpreter, TARGET, and whatever did not come from the configuration file,
because no working directory and no shell's variables will be there. What the file says stays the file's to say.

The sandbox is as tight as a service bears that reads its files, keeps state in StateDirectory and talks over the
network. Left out is what breaks Python programs: MemoryDenyWriteExecute (ctypes, JITs), and ProcSubset=pid, which hides
the boot id that dari knows processes by.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Final

from dari.daemon.config import TARGET_KEY, Settings
from dari.daemon.keys import KEYS
from dari.daemon.lifecycle import Exit

_STOPS_LATER: Final = 10  # seconds that systemd gives beyond stop_grace: dari's own end comes first, with the stacks
_WATCHDOG: Final = 30  # seconds without a word from the loop
# The same error again, whoever starts it: bad arguments, not permitted, no TARGET, bad configuration.
_IN_VAIN: Final = (Exit.USAGE, Exit.NOT_PERMITTED, Exit.NO_TARGET, Exit.BAD_CONFIG)
_BY_SYSTEMD: Final = ("user", "group", "pass_environment", "rundir")  # keys that the unit itself fulfils
_OCTAL: Final = ("umask", "control.mode")
_HOMES: Final = ("/home", "/root", "/run/user")
_TEMPORARY: Final = ("/tmp", "/var/tmp")


def systemd_unit(settings: Settings) -> str:
    """Return NAME.service."""
    name = settings.name
    rundir = settings.rundir if settings.told("rundir") else f"/run/{name}"
    arguments = [*_arguments(settings), "--rundir", rundir]
    lines = [
        f"# {name}.service, as `dari unit` wrote it: look it over, then install it in /etc/systemd/system.",
        "[Unit]",
        f"Description={_escape(name)}",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=notify",
        f"ExecStart={_command('run', arguments)}",
        f"ExecReload={_command('reload', arguments)}",
        *_surroundings(settings),
        *_account(settings),
        *_directories(settings, rundir),
        *_limits(settings),
        "",
        "Restart=on-failure",
        f"RestartPreventExitStatus={' '.join(str(int(code)) for code in _IN_VAIN)}",
        f"TimeoutStartSec={settings.start_timeout:g}",
        f"TimeoutStopSec={settings.stop_grace + _STOPS_LATER:g}",
        f"WatchdogSec={_WATCHDOG}",
        "KillMode=mixed",
        "",
        *_sandbox(settings, rundir),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines)


def logrotate_snippet(settings: Settings) -> str:
    """Return a file for /etc/logrotate.d: renames the log, and goes on when the service writes to the new one."""
    directory = os.path.dirname(settings.logfile)
    lines = ["weekly", "rotate 8", "missingok", "notifempty", "compress", "delaycompress", "create"]
    if os.path.isdir(directory) and (facts := os.stat(directory)).st_uid != 0:
        lines.insert(0, f"su {_user_name(facts.st_uid)} {_group_name(facts.st_gid)}")
    reload = " ".join(map(_for_shell, _argv("reload", ["--name", settings.name, "--pidfile", settings.pidfile])))
    script = [
        "# The log is open anew when this returns, also with a configuration that is refused (153); 7: nothing runs.",
        f"{reload} >/dev/null || case $? in 7|153) ;; *) exit 1 ;; esac",
    ]
    body = "".join(f"    {line}\n" for line in lines)
    body += "    postrotate\n" + "".join(f"        {line}\n" for line in script) + "    endscript\n"
    return f'"{settings.logfile}" {{\n{body}}}'


def _arguments(settings: Settings) -> list[str]:
    """Return TARGET, file and options: what did not come from the file in the first place."""
    found = [] if _is_of_file(settings, TARGET_KEY) else [str(settings.target)]
    if settings.config is not None:
        found += ["-c", settings.config]
    for key in KEYS:
        if settings.told(key) and not _is_of_file(settings, key) and key not in _BY_SYSTEMD:
            found += [f"--{key.replace('.', '-').replace('_', '-')}", _as_text(key, settings)]
    return found


def _is_of_file(settings: Settings, key: str) -> bool:
    origin = settings.origins.get(key, "")  # "path:line", or "path"
    return settings.config is not None and settings.config in (origin, origin.rpartition(":")[0])


def _as_text(key: str, settings: Settings) -> str:
    """Return a value as the command line takes it."""
    value: object = getattr(settings, key.replace(".", "_"))
    if key in _OCTAL:
        return f"{value:03o}"
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))  # pyright: ignore[reportUnknownArgumentType] - isinstance knows no items
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) or "none"  # how the keys that may be empty are spelled


def _surroundings(settings: Settings) -> list[str]:
    lines: list[str] = []
    target = settings.target
    if target is not None and not target.is_file and not _is_of_file(settings, TARGET_KEY):
        lines.append(f"WorkingDirectory={_escape(target.directory)}")  # from where the module is imported
    if paths := os.pathsep.join(_python_path()):
        lines.append(f"Environment={_quote(f'PYTHONPATH={paths}')}")
    return lines


def _python_path() -> list[str]:
    return [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _account(settings: Settings) -> list[str]:
    if settings.user is None:
        return ["# Nobody in particular: `user` in [daemon] names somebody.", "DynamicUser=yes"]
    return [f"User={settings.user}", *([f"Group={settings.group}"] if settings.group is not None else [])]


def _directories(settings: Settings, rundir: str) -> list[str]:
    lines = [f"UMask=0{settings.umask:03o}", f"StateDirectory={settings.name}"]
    writable: list[str] = []
    if _is_below(rundir, "/run"):
        # Preserved: a pidfile that is removed while somebody starts would be two.
        lines += [f"RuntimeDirectory={os.path.relpath(rundir, '/run')}", "RuntimeDirectoryPreserve=yes"]
    else:
        writable.append(rundir)
    if settings.told("pidfile") and not _is_below(settings.pidfile, rundir):
        writable.append(os.path.dirname(settings.pidfile))
    if settings.told("logfile"):
        directory = os.path.dirname(settings.logfile)
        if _is_below(directory, "/var/log") and directory != "/var/log":
            lines.append(f"LogsDirectory={os.path.relpath(directory, '/var/log')}")
        else:
            writable.append(directory)
    return [*lines, *(f"ReadWritePaths={_quote(directory)}" for directory in writable)]


def _limits(settings: Settings) -> list[str]:
    found = (("LimitNOFILE", settings.limits_nofile), ("LimitCORE", settings.limits_core))
    return [f"{key}={value}" for key, value in found if value is not None]


def _sandbox(settings: Settings, rundir: str) -> list[str]:
    needed = [
        sys.executable,
        os.path.realpath(sys.executable),
        os.path.abspath(__file__),
        settings.config or "/",
        rundir,
    ]
    needed += _python_path()
    needed += [settings.target.directory] if settings.target is not None else []
    needed += [settings.logfile] if settings.told("logfile") else []
    homes = any(_is_below(path, home) for path in needed for home in _HOMES)
    temporary = any(_is_below(path, place) for path in needed for place in _TEMPORARY)
    return [
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
        f"ProtectHome={'read-only' if homes else 'yes'}",
        f"PrivateTmp={'no' if temporary else 'yes'}",
        "PrivateDevices=yes",
        "ProtectClock=yes",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "LockPersonality=yes",
        "RemoveIPC=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
    ]


def _is_below(path: str, directory: str) -> bool:
    return bool(directory) and os.path.commonpath([path, directory]) == directory


def _argv(command: str, arguments: list[str]) -> list[str]:
    return [sys.executable, "-P", "-m", "dari", command, *arguments]  # -P: no module of the directory is dari's


def _command(command: str, arguments: list[str]) -> str:
    return " ".join(map(_quote, _argv(command, arguments)))


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _quote(word: str) -> str:
    """Return one word of a unit's command line, where % and $ begin what systemd replaces."""
    word = _escape(word).replace("$", "$$")
    if re.fullmatch(r"[\w%$@:,./+=-]+", word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _for_shell(word: str) -> str:
    import shlex

    return shlex.quote(word)


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
