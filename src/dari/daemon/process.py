"""Who a process is, and how to signal that one and no other.

A pid is no identity: it is used again, after minutes on a busy machine and at once in a container, where every
start gives the same small number. Tools that signal the pid they find in a file have killed strangers (facts
b6, b7, b14). An identity here is (pid, start time, boot): the start time in clock ticks since boot does not move
with the wall clock, and the boot id tells whose boot that was.

Between a check and a signal the process can still end and its pid go to another. So the order is: open a pidfd
(it means one process for ever), check the identity *after* that, signal through the pidfd.

What still leaks: where there is no pidfd (macOS, Linux before 5.3) the last gap stays open for a few microseconds.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from types import TracebackType
from typing import NamedTuple, Self

_POLL = 0.02  # only where there is no pidfd to wait on


def boot_id() -> str:
    """Return what tells this boot of the machine from every other one, or "-" where nothing does."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "-"


def _stat(pid: int) -> list[str] | None:
    """Return what the kernel says of the process, from its state (field 3) on; None where it says nothing."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            # The name in field 2 may hold spaces and parentheses; the last parenthesis ends it.
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def is_stopped(pid: int) -> bool:
    """Tell whether the process was stopped by a signal and waits for SIGCONT; False where that is not known."""
    fields = _stat(pid)
    return fields is not None and fields[0] == "T"


def start_time(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot; None when it has ended (a zombie has)."""
    fields = _stat(pid)
    if fields is None:
        return None if os.path.exists("/proc/self/stat") else _portable_start_time(pid)
    return None if fields[0] in "ZXx" else int(fields[19])


def _portable_start_time(pid: int) -> int | None:
    import psutil  # not at the top: `status` must stay fast, and Linux has /proc

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 100)
    except psutil.NoSuchProcess:
        return None


class Identity(NamedTuple):
    """One process, for as long as this machine is up and after."""

    pid: int
    start: int
    boot: str

    @classmethod
    def of(cls, pid: int) -> Identity:
        start = start_time(pid)
        if start is None:
            raise ProcessLookupError(f"there is no process {pid}")
        return cls(pid, start, boot_id())

    def alive(self) -> bool:
        return self.boot == boot_id() and self.start == start_time(self.pid)

    def uptime(self) -> float | None:
        """Return for how many seconds it has been running, or None where the kernel does not tell."""
        try:
            with open("/proc/uptime", encoding="ascii") as file:
                since_boot = float(file.read().split()[0])
        except OSError:
            return None
        return max(0.0, since_boot - self.start / os.sysconf("SC_CLK_TCK"))


class Handle:
    """A hold on one running process: signals and waits reach it or nobody.

    `Handle.open` returns None when the process has ended, also when its pid belongs to another one by now.
    """

    def __init__(self, identity: Identity, pidfd: int | None) -> None:
        self._identity = identity
        self._pidfd = pidfd

    @classmethod
    def open(cls, identity: Identity) -> Handle | None:
        pidfd: int | None = None
        if hasattr(os, "pidfd_open"):
            try:
                pidfd = os.pidfd_open(identity.pid)
            except ProcessLookupError:
                return None
            except OSError:  # a kernel without it: by pid then, with the gap of the module's last line
                pidfd = None
        handle = cls(identity, pidfd)
        if not identity.alive():  # after pidfd_open, or it would prove nothing
            handle.close()
            return None
        return handle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def send(self, signum: signal.Signals) -> None:
        """Send the signal; to a process that has ended, nothing is sent. `PermissionError` passes through."""
        with contextlib.suppress(ProcessLookupError):
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signum)
            elif self._identity.alive():
                os.kill(self._identity.pid, signum)

    def wait(self, timeout: float) -> bool:
        """Wait until the process has ended (it need not be our child); False when it still runs then."""
        if self._pidfd is not None:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return bool(poll.poll(max(0.0, timeout) * 1000))
        deadline = time.monotonic() + timeout
        while self._identity.alive():
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL)
        return True
