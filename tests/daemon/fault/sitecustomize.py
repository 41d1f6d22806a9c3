"""Kills the process that imports it at one exact place of the daemon's code. Nothing in dari knows of it.

The interpreter imports a module of this name at its start, so with this directory on PYTHONPATH it is in the launcher
and, over the exec, in the service. DIE_AT names the place, as `who event function`:

    who       launcher, middle, heir (forked, not yet a fresh interpreter), service, stop
    event     call, return (of a Python function of dari.daemon), c_call (of a built-in function, by one of those)
    function  its qualified name; for c_call that of the caller, and the built-in's

Before it dies the process appends its pid to the file DIED. With PLACES instead of DIE_AT it only writes down the
places that it comes through.
"""

import os
import signal
import sys
import threading

WHO = "service" if any(word.startswith("--handover=") for word in sys.orig_argv) else "launcher"
WHO = "stop" if "stop" in sys.orig_argv else WHO
DIE_AT, PLACES = os.environ.get("DIE_AT"), os.environ.get("PLACES")
DAEMON = f"dari{os.sep}daemon{os.sep}"


def forked() -> None:
    global WHO
    WHO = {"launcher": "middle", "middle": "heir"}.get(WHO, f"child of {WHO}")


def append(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    os.write(fd, text.encode())
    os.close(fd)


def look(frame, event: str, arg) -> None:
    if event == "c_return" or event == "c_exception" or DAEMON not in frame.f_code.co_filename:
        return
    place = f"{WHO} {event} {frame.f_code.co_qualname}" + (f" {arg.__name__}" if event == "c_call" else "")
    if PLACES is not None:
        append(PLACES, f"{place}\n")
    elif place == DIE_AT:
        append(os.environ["DIED"], f"{os.getpid()}\n")
        os.kill(os.getpid(), signal.SIGKILL)


if DIE_AT or PLACES:
    os.register_at_fork(after_in_child=forked)
    threading.setprofile(look)
    sys.setprofile(look)
