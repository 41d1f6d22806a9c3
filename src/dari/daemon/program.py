"""`Daemon`: a main function and what it wants to be run with. Describes a service; starts nothing by being made."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, final

from dari.exceptions import DaemonError


@final
class Daemon:
    """A service: `main` is an async function or a generator function, with or without a parameter for the context.

    The keywords are defaults: command line, environment and file win over them. Relative paths start at the directory
    of the file that makes the Daemon. `dari start module:daemon` starts it. `parse` is given the whole configuration
    file as a dict, at the start and at every reload: what it returns is `ctx.config`, what it raises refuses the file.
    `daemon.cli()` under `if __name__ == "__main__":` gives the program a command of its own.
    """

    def __init__(
        self,
        main: Callable[..., Any],
        *,
        name: str | None = None,
        pidfile: str | None = None,
        logfile: str | None = None,
        rundir: str | None = None,
        user: str | None = None,
        group: str | None = None,
        umask: str | int | None = None,
        chdir: str | None = None,
        backend: str | None = None,
        start_timeout: float | None = None,
        stop_grace: float | None = None,
        log_level: str | None = None,
        limits_nofile: int | None = None,
        limits_core: int | None = None,
        parse: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self.main = main
        self.parse = parse
        # As namedtuple does it: an object does not know its module otherwise.
        scope = sys._getframe(1).f_globals

        def placed(path: str | None) -> str | None:
            """A relative path starts at the file that it stands in, whoever asks from wherever."""
            if not isinstance(path, str) or not path:
                return path  # its reader says what it must be
            here = os.path.dirname(os.path.abspath(scope["__file__"])) if "__file__" in scope else os.getcwd()
            return os.path.join(here, os.path.expanduser(path))

        given = {
            "name": name,
            "pidfile": placed(pidfile),
            "logfile": placed(logfile),
            "rundir": placed(rundir),
            "user": user,
            "group": group,
            "umask": f"{umask:03o}" if isinstance(umask, int) else umask,  # Python has octal numbers, a file has not
            "chdir": placed(chdir),
            "backend": backend,
            "start_timeout": start_timeout,
            "stop_grace": stop_grace,
            "log.level": log_level,
            "limits.nofile": limits_nofile,
            "limits.core": limits_core,
        }
        self.keywords: dict[str, object] = {key: value for key, value in given.items() if value is not None}
        self._module = str(scope.get("__name__", "__main__"))  # `cli` must name it to a fresh interpreter

    def cli(self, argv: Sequence[str] | None = None) -> None:
        """Run the command line (`start`, `stop`, `status`, …) for this service, and exit with its code."""
        from dari.daemon.cli import main

        sys.exit(main(argv, target=self._spell_target(), keywords=self.keywords))

    def _spell_target(self) -> str:
        module = sys.modules.get(self._module)
        names = [name for name, value in vars(module).items() if value is self] if module is not None else []
        if not names:
            raise DaemonError(f"cli() needs the Daemon in a global variable of {self._module}, to find it again")
        place = self._module
        if module is not None and place == "__main__":
            spec = module.__spec__  # set by `python -m package.module`
            place = spec.name if spec is not None else str(module.__file__)
        return f"{place}:{names[0]}"
