"""From a command in a shell to a service: lock, pipes, two forks with setsid between, a fresh interpreter.

    launcher ── fork ── middle (setsid) ── fork ── service (writes the pidfile, execs a fresh interpreter)
       │ status pipe: the service's words  ◄──────────┘
       │ verdict pipe: its pid, how it died ◄── middle, its parent, and so the one that may ask
       │ release pipe: middle may go ──────►

Why each piece is there:
  - *The lock is taken by the launcher*, before anything else: of any number of starts one goes on, and the losers
    have forked nothing. The open file description travels through both forks and the exec, and the lock with it.
    The launcher keeps its copy to the end, so that it alone tidies up after a failed start.
  - *Two forks with setsid between*: a new session, and no leader of it, so no terminal can ever become its own.
  - *A fresh interpreter*: threads, loops, locks and modules of the program that called `daemon.cli()` stay behind.
    Between fork and exec nothing happens but system calls.
  - *Middle stays* until the service is ready: only a parent learns the real exit code or signal.
  - *End of file is not success* (facts b3): ready is a word that must be said. *Nobody keeps an end of a pipe that
    he does not use* (facts b2), or a crash would look like a hang.

What still leaks: a service that forks children before it is ready and dies leaves them; they hold no lock, but
nobody stops them.

Long: three processes tell one story through the same pipes, and what one says the next one reads.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import struct
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

from dari.daemon import signals
from dari.daemon.activation import Passed, passed
from dari.daemon.config import Settings
from dari.daemon.lifecycle import HARD_EXIT_AFTER, Exit, Refused, StartFailed, State
from dari.daemon.pidfile import _LIVE, Record, clear, look, open_pidfile, try_lock, write_record
from dari.daemon.process import Handle, Identity
from dari.daemon.rights.environment import for_service
from dari.exceptions import DaemonError

_VERDICT: Final = struct.Struct("=ci")
_IS: Final = b"p"  # its pid is …
_DIED: Final = b"d"  # it died, with the wait status …
_KILL_WAIT: Final = 5.0  # for a process that was killed to be gone; longer means that the kernel keeps it
_LOOK_AGAIN: Final = 0.02  # for the name of a service whose parent was killed


class Handover(NamedTuple):
    """What the fresh interpreter is told, as JSON in a pipe: argv and environment are everybody's to read."""

    mode: str  # start, run or check
    settings: Settings
    lock: int
    status: int
    sockets: Sequence[Passed] = ()


def take_lock(settings: Settings) -> int:
    """Take the service's lock and clear the pidfile; `Refused` with ALREADY_RUNNING when another one has it."""
    try:
        directory = os.path.dirname(settings.pidfile)
        if directory == settings.rundir and not os.path.isdir(directory):
            os.makedirs(directory, mode=0o755 if os.geteuid() == 0 else 0o700, exist_ok=True)
        fd = open_pidfile(settings.pidfile, create=True)
    except PermissionError as error:
        raise Refused(Exit.NOT_PERMITTED, f"not permitted: {error.strerror}: {error.filename}") from error
    except OSError as error:
        text = f"cannot open the pidfile {settings.pidfile}: {error.strerror}"
        raise Refused(Exit.FAILED, text) from error
    for wait in (0, 0.05):  # twice, for the systems where `status` takes the lock for a moment (see pidfile)
        time.sleep(wait)
        if try_lock(fd):
            clear(fd)
            return fd
    os.close(fd)
    raise Refused(Exit.ALREADY_RUNNING, "already running", pid=look(settings.pidfile).pid)


def replace_process(settings: Settings) -> NoReturn:
    """Become the service in this very process (`dari run`): same pid, same terminal, same parent."""
    _open_standard_descriptors()
    sockets = passed(os.environ, pid=os.getpid())
    lock = take_lock(settings)
    try:
        write_record(lock, _first_record(lock, settings))
        fd = hand_over(Handover("run", settings, lock, -1, sockets))
        environ = for_service(os.environ, settings, detached=False)
        signals.block()
        _flush()
        _let_through([lock, *(each.fd for each in sockets)])
        os.execve(sys.executable, command(settings, fd), environ)
    except BaseException:
        clear(lock)
        os.close(lock)
        raise


def start(settings: Settings, *, stdout: int = 1) -> int:
    """Start the service and return its pid once it is ready; `StartFailed` or `Refused` otherwise.

    What the program prints until then goes to the descriptor `stdout`.
    """
    _open_standard_descriptors()
    sockets = passed(os.environ, pid=os.getpid())
    lock = take_lock(settings)
    try:
        return _Launch(settings, lock, sockets, stdout).run()
    finally:
        os.close(lock)  # closing is not unlocking: the service has the same open file description


class _Launch:
    """One start, from the fork to the word "ready" or the end of it. Lives in the launcher."""

    def __init__(self, settings: Settings, lock: int, sockets: list[Passed], stdout: int) -> None:
        self._settings = settings
        self._stdout = stdout
        self._lock = lock
        self._sockets = sockets
        self._service: Handle | None = None
        self._gone = False  # the service is known to have ended
        self._words = b""

    def run(self) -> int:
        status, status_w = os.pipe()
        verdict, verdict_w = os.pipe()
        release_r, release = os.pipe()
        handover = hand_over(Handover("start", self._settings, self._lock, status_w, self._sockets))
        service = _Image(
            command(self._settings, handover),
            for_service(os.environ, self._settings, detached=True),
            [self._lock, status_w, handover, *(each.fd for each in self._sockets)],
            self._stdout,
            self._settings,
        )
        _flush()
        mask = signals.block()
        middle = _fork()
        if middle == 0:
            for fd in (status, verdict, release):
                os.close(fd)
            _be_middle(service, self._lock, status_w, verdict_w, release_r)
        try:
            for fd in (status_w, verdict_w, release_r, handover):
                os.close(fd)
            with signals.leaving():
                signals.restore(mask)  # from here on Ctrl-C and TERM may end the start
                return self._await_ready(status, verdict)
        except BaseException:
            self._end_service(status, verdict)
            raise
        finally:
            os.close(release)
            os.waitpid(middle, 0)
            if self._service is not None:
                self._service.close()
            for fd in (status, verdict):
                os.close(fd)

    def _await_ready(self, status: int, verdict: int) -> int:
        deadline = time.monotonic() + self._settings.start_timeout
        poll = select.poll()
        poll.register(status, select.POLLIN)
        poll.register(verdict, select.POLLIN)
        pid = 0
        while True:
            patience = deadline - time.monotonic()
            if patience <= 0:
                text = f"not ready after {self._settings.start_timeout:g} s (start_timeout), so it was stopped"
                raise StartFailed(Exit.START_TIMEOUT, text)
            for fd, _ in poll.poll(patience * 1000):
                if fd == verdict:
                    kind, number = self._read_verdict(verdict)
                    if kind == _DIED:
                        self._gone = True
                        self._drain(status)
                        raise self._failure(number)
                    if kind != _IS:
                        raise StartFailed(Exit.FAILED, "the process between was killed; the service was stopped")
                    pid = number
                    self._hold(pid)
                elif raw := os.read(status, 65536):
                    self._words += raw
                    if any(word.get("event") == "ready" for word in self._said()):
                        pid = pid or self._read_verdict(verdict)[1]  # middle's first word, however late we are
                        return pid or look(self._settings.pidfile).pid or 0
                else:
                    # It closed its end without the word. Nearly always it is about to die, and the verdict says
                    # how; one that lives on without being able to become ready is stopped at the deadline.
                    poll.unregister(status)
                    deadline = min(deadline, time.monotonic() + HARD_EXIT_AFTER)

    def _said(self) -> list[dict[str, Any]]:
        words: list[dict[str, Any]] = []
        for line in self._words.splitlines(keepends=True):
            if line.endswith(b"\n"):
                words.append(json.loads(line))
        return words

    def _drain(self, status: int) -> None:
        os.set_blocking(status, False)
        with contextlib.suppress(BlockingIOError):  # a child of the dead one has the other end
            while raw := os.read(status, 65536):
                self._words += raw

    @staticmethod
    def _read_verdict(verdict: int) -> tuple[bytes, int]:
        raw = os.read(verdict, _VERDICT.size)  # written in one piece, below PIPE_BUF: read in one piece
        return _VERDICT.unpack(raw) if len(raw) == _VERDICT.size else (b"", 0)

    def _failure(self, status: int) -> StartFailed:
        code = _exit_code(status)
        failed = [word for word in self._said() if word.get("event") == "failed"]
        text = "\n".join(str(word["text"]).rstrip() for word in failed)
        origin = "dari" if any(word.get("by") == "dari" for word in failed) else "service"
        if os.WIFSIGNALED(status):
            name = signal.Signals(os.WTERMSIG(status)).name
            text += f"\nit was killed by {name} before it was ready"
        elif code == 0:
            code, origin = Exit.FAILED, "dari"
            text += "\nit ended with 0 before it was ready"
        elif not text:
            text = f"it ended with {code} before it was ready"
        return StartFailed(code, text.lstrip("\n"), origin=origin)

    def _end_service(self, status: int, verdict: int) -> None:
        """After a failure: see that nothing of the service is left, then clear the pidfile. We have the lock."""
        if not self._gone and self._service is None:
            self._find_service(status, verdict)
        if not self._gone and self._service is not None:
            self._service.send(signal.SIGTERM)
            if not self._service.wait(HARD_EXIT_AFTER):
                self._service.send(signal.SIGKILL)
            self._gone = self._service.wait(_KILL_WAIT)
        if self._gone:
            from dari.daemon.control import listening

            listening.tidy_up(self._settings.control_socket)
            clear(self._lock)

    def _find_service(self, status: int, verdict: int) -> None:
        """Get hold of a service that nobody has told us of yet, or learn that there is none."""
        # Middle may have been killed, or Ctrl-C has come between its word and our hearing it. What it has forked says
        # who it is by its first line in the pidfile, too, and that it is not there by the end of its pipe
        # (tests/daemon/test_fault.py).
        for fd in (status, verdict):
            os.set_blocking(fd, False)
        deadline = time.monotonic() + _KILL_WAIT
        while not self._gone and self._service is None and time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                kind, pid = self._read_verdict(verdict)
                self._gone = kind == _DIED
                if kind == _IS:
                    self._hold(pid)
                    continue
            seen = look(self._settings.pidfile)
            if seen.record is not None and seen.state in _LIVE:
                self._service = Handle.open(seen.record.identity)
                continue
            with contextlib.suppress(BlockingIOError):
                self._gone = self._gone or not os.read(status, 65536)
            time.sleep(_LOOK_AGAIN)

    def _hold(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._service = Handle.open(Identity.of(pid))


class _Image(NamedTuple):
    """What the service's process becomes."""

    argv: list[str]
    environ: dict[str, str]
    descriptors: list[int]
    stdout: int
    settings: Settings


def _be_middle(service: _Image, lock: int, status: int, verdict: int, release: int) -> NoReturn:
    """Live as the service's parent until the launcher says go, or is gone. A forked child: system calls only."""
    try:
        gc.disable()  # a collection would run finalizers of the program that was forked
        os.setsid()
        pid = _fork()
        if pid == 0:
            _be_service(service, lock, status)
        for fd in service.descriptors:
            os.close(fd)
        os.write(verdict, _VERDICT.pack(_IS, pid))
        ended = _wait_child(pid, release)
        if ended is not None:
            os.write(verdict, _VERDICT.pack(_DIED, ended))
    except BrokenPipeError:
        pass  # the launcher is gone, and with it the reason to be here
    finally:
        os._exit(0)  # never back into the launcher's stack, nor its atexit (facts b13)


def _wait_child(pid: int, release: int) -> int | None:
    """Return the child's wait status, or None when we are released first."""
    poll = select.poll()
    poll.register(release, select.POLLIN)
    patience: float | None = 20  # milliseconds, where no descriptor tells of the child's end
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):
            poll.register(os.pidfd_open(pid), select.POLLIN)
            patience = None
    while True:
        events = poll.poll(patience)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if any(fd == release for fd, _ in events):
            return None


def _be_service(service: _Image, lock: int, status: int) -> NoReturn:
    """Write the pidfile and become a fresh interpreter. A forked child: system calls only."""
    try:
        # The pid, the start time and the number of the lock's descriptor all survive the exec.
        write_record(lock, _first_record(lock, service.settings))
        _let_through(service.descriptors)
        if service.stdout != 1:
            os.dup2(service.stdout, 1)
        os.execve(service.argv[0], service.argv, service.environ)
    except BaseException as error:  # noqa: BLE001 - this process has no other way to tell
        word = {"event": "failed", "by": "dari", "text": f"{type(error).__name__}: {error}"}
        os.write(status, json.dumps(word).encode() + b"\n")
    finally:
        os._exit(1)


def _first_record(lock: int, settings: Settings) -> Record:
    """Return what the pidfile says of this process, which is about to become the service."""
    me = Identity.of(os.getpid())
    return Record(me, State.STARTING, lock, target=str(settings.target or ""), grace=settings.stop_grace)


def _let_through(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.set_inheritable(fd, True)


def _fork() -> int:
    with warnings.catch_warnings():
        # 3.12 warns of fork in a program with threads. It means children that go on as Python programs; ours
        # exec, or only call the system.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def hand_over(handover: Handover) -> int:
    """Return the read end of a pipe that holds the message; its writer is closed already."""
    settings = handover.settings._asdict()
    raw = json.dumps({**handover._asdict(), "settings": settings}).encode()
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        if os.write(writer, raw) != len(raw):
            raise DaemonError(f"the settings are too long: {len(raw)} bytes")
    finally:
        os.close(writer)
    if handover.mode != "start":  # there the forked child does it, so that nobody else inherits it
        os.set_inheritable(reader, True)
    return reader


def read_handover(fd: int) -> Handover:
    """Read what `hand_over` wrote."""
    from dari.daemon.target import Target

    with open(fd, "rb") as pipe:
        document = json.load(pipe)
    settings = document["settings"]
    settings["target"] = Target(*settings["target"])
    sockets = [Passed(*each) for each in document["sockets"]]
    return Handover(document["mode"], Settings(**settings), document["lock"], document["status"], sockets)


def command(settings: Settings, handover: int, module: str = "dari.daemon.service") -> list[str]:
    """Return the argv of the fresh interpreter: `ps` shows the service's name and TARGET.

    -P: the working directory is no place to import the standard library from. The rest repeats how this
    interpreter was started.
    """
    if not sys.executable:
        raise DaemonError("sys.executable is empty: there is no interpreter to start")
    flags = [*(f"-W{option}" for option in sys.warnoptions), *("-" + "O" * n for n in [sys.flags.optimize] if n)]
    flags += [flag for flag, given in (("-I", sys.flags.isolated), ("-s", sys.flags.no_user_site)) if given]
    flags += ["-X" + (key if value is True else f"{key}={value}") for key, value in sys._xoptions.items()]
    return [
        *(sys.executable, *flags, "-P", "-m", module),
        *(settings.name, str(settings.target), f"--handover={handover}"),
    ]


def _open_standard_descriptors() -> None:
    # With 0, 1 or 2 closed the next open gets that number, and somebody's print lands in the pidfile.
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code
