"""The service's own process: `python -m dari.daemon.service NAME TARGET --handover=FD`, started by `launch` alone.

The order is the design. First what can fail without the program (descriptors, signals, log), so that it is already
safe to be signalled and able to tell; then the import of the program, in the process it stays in; then its loop.
Until it is ready, whatever goes wrong is told three times: to the caller of `dari start` through the status pipe,
to the log, and by the exit code.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from typing import Final

from dari.daemon.activation import as_sockets
from dari.daemon.ending import wind_up
from dari.daemon.entry import MainCall, MainCancelled
from dari.daemon.importing import import_program, own_traceback
from dari.daemon.launch import Handover, read_handover
from dari.daemon.life import Service
from dari.daemon.lifecycle import Exit, Failure, Refused
from dari.daemon.parties import listeners_of
from dari.daemon.pidfile import clear
from dari.daemon.runner import make_host
from dari.daemon.setup import close_others, go_home, name_process, settle
from dari.daemon.signals import Inbox, StartInterrupted, reset_dispositions
from dari.daemon.stopping import Keeper
from dari.exceptions import ConfigError

_LAST_LINES: Final = 5.0  # seconds that a slow disk may take from the end of a process, where its timeline has them


def main(argv: list[str]) -> int:
    """Be the service until it ends; return its exit code."""
    handover = read_handover(int(argv[-1].removeprefix("--handover=")))
    sockets = {each.fd for each in handover.sockets}
    if handover.mode == "start":
        close_others(keep={0, 1, 2, handover.lock, handover.status, *sockets})
    for fd in (handover.lock, handover.status, *sockets):
        if fd != -1:
            os.set_inheritable(fd, False)
    name_process(handover.settings.name)
    reset_dispositions()
    on_terminal = handover.mode == "run" and os.isatty(0)
    try:
        service = Service(handover, on_terminal=on_terminal)
    except ConfigError as error:
        return _fail_early(handover, str(error))
    inbox = Inbox()
    keeper = Keeper(inbox, service, grace=service.grace, on_terminal=on_terminal, log_fd=service.log_fd)
    atexit.register(_say_farewell, service, inbox, keeper)  # the first registered runs last
    os.register_at_fork(after_in_child=service.leave_to_parent)
    keeper.start()
    inbox.open()
    code = _live(service, inbox, keeper)
    keeper.main_ended(code)
    return code


def _say_farewell(service: Service, inbox: Inbox, keeper: Keeper) -> None:
    left = max(0.0, keeper.left())
    service.farewell(min(_LAST_LINES, 0.75 * left))  # the interpreter's own end takes time, too
    inbox.deafen()


def _live(service: Service, inbox: Inbox, keeper: Keeper) -> int:
    """Set the process up, import the program, run main; return the exit code."""
    try:
        service.open_doors()
        settle(service.settings, detached=service.detached)
        service.become_user()
        go_home(service.settings, detached=service.detached)
        service.open_log()
        service.context.sockets = as_sockets(service.sockets)
        with inbox.interrupting():
            program = import_program(service.settings)
            service.adopt(program)
            host = make_host(program.backend, inbox)
        service.use_host(host)
        if not service.begin(listeners_of(service)):
            return 0

        def main_ended() -> None:
            service.main_ended()
            keeper.main_ended(1)  # until its own code is known: who does not come that far has failed

        host.run(
            MainCall(
                program.main,
                service.context,
                ready=service.ready,
                ended=main_ended,
                wind_up=lambda: wind_up(host, service.context, keeper.left),
            )
        )
    except (StartInterrupted, MainCancelled):
        return 0
    except (Failure, Refused) as failure:
        service.failed(str(failure), by="dari")
        return failure.code
    except ConfigError as error:
        service.failed(str(error), by="dari")
        return Exit.BAD_CONFIG
    except SystemExit as leaving:
        return _exit_code(service, leaving)
    except BaseException as error:  # noqa: BLE001 - the end of the service's stack: it is told and becomes 1
        service.failed(own_traceback(error), by="service")
        return 1
    return 0


def _exit_code(service: Service, leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return (leaving.code or 0) & 0xFF
    service.failed(str(leaving.code), by="service")
    return 1


def _fail_early(handover: Handover, text: str) -> int:
    if handover.status == -1:
        print(text, file=sys.stderr)
    else:
        word = {"event": "failed", "by": "dari", "text": text}
        os.write(handover.status, json.dumps(word).encode() + b"\n")
    clear(handover.lock)
    return Exit.BAD_CONFIG


if __name__ == "__main__":
    sys.exit(main(sys.argv))
