"""The pidfile: a lock that says *that* a service runs, and a record that says *who*.

A file that exists proves nothing: after kill -9 it stays, and services refuse to start for ever (facts b5). A pid
in it proves nothing: see `process`. So the truth is a lock on the file, which the kernel drops when the last
process that holds it is gone, however it went.

Ways that fail, each one found in the field:
  - unlinking the file at the end: two processes lock two files of the same name (facts b10). It is never unlinked
    and never renamed over; the holder truncates it at the end.
  - POSIX locks: lost when any code of the process opens and closes the file, and not inherited by fork. Used here
    are locks of the *open file description*: they live through fork and exec for as long as one descriptor does.
  - asking "is it locked?" by trying to lock: a `status` then makes a `start` fail now and then (279 times of 2000
    when measured). F_OFD_GETLK asks without taking.
  - writing before locking: the loser's pid stands in the winner's file (facts b12). Only the holder writes, and
    what it writes is one fixed-width pwrite, so that a reader never meets an empty file while the service lives.
  - following what someone else put at the path (facts b15): no symlink is followed, no fifo blocks, nothing but a
    regular file of our own with one name is taken.

Byte 0 is the service's lock, byte 1 is held by who is stopping it, so that two `dari stop` do not send two TERMs
(the second would force).

What still leaks: without F_OFD_* (macOS, the BSDs) flock stands in; there asking does take the lock for a moment,
and byte 1 is nobody's.
"""

from __future__ import annotations

import errno
import fcntl
import math
import os
import stat
import struct
import time
from typing import Final, NamedTuple

from dari.daemon.lifecycle import Exit, Refused, State
from dari.daemon.process import Identity
from dari.daemon.rights.trust import anybodys, distrusted

SERVICE_BYTE: Final = 0
STOP_BYTE: Final = 1

_LONGEST_PATH: Final = 2048  # of the 4096 bytes that a reader takes
_LONGEST_TARGET: Final = 1024  # of what is left
_GRACE_WIDTH: Final = 24  # of the longest repr of a float
_HAS_OFD: Final = hasattr(fcntl, "F_OFD_SETLK")
# struct flock of Linux: type, whence, start, length, pid (0 for these locks), padding.
_FLOCK: Final = "hhqqi4x"
_LIVE: Final = (State.STARTING, State.RUNNING, State.STOPPING)
_WIDTH: Final = max(len(state.value) for state in _LIVE)


class Reloads(NamedTuple):
    """What has become of the reloads of this process. Fixed width, as all of the record."""

    begun: int = 0  # number of the last one that has begun, written before it opens the file
    ended: int = 0  # number of the last one that is over
    generation: int = 1  # of the configuration
    verdict: str = "none"  # on the last one: ok, refused, none (there was no reload), never (HUP does not reload here)
    at: int = 0  # when it ended, in seconds since the epoch

    def encode(self) -> str:
        return f"{self.begun:010} {self.ended:010} {self.generation:010} {self.verdict:<7} {self.at:012}"

    @classmethod
    def decode(cls, text: str) -> Reloads:
        begun, ended, generation, verdict, at = text.split()
        return cls(int(begun), int(ended), int(generation), verdict, int(at))


class Record(NamedTuple):
    """Who holds the lock. Line 1 is the pid and nothing else, as every other reader of pidfiles expects."""

    identity: Identity
    state: State
    lock_fd: int  # under which number the holder has this very file open: what a forger cannot arrange
    reloads: Reloads = Reloads()
    control: str = ""  # the path of its control socket; none: ""
    target: str = ""  # which program that is, as file:attribute or module:attribute; not known: ""
    grace: float | None = None  # its present stop_grace, in seconds: whoever stops it waits by that

    def encode(self) -> bytes:
        pid, start, boot = self.identity
        control = self.control.encode("unicode_escape").decode()
        control = control if len(control) < _LONGEST_PATH else ""  # found by the configuration then
        target = self.target.encode("unicode_escape").decode()
        target = target if len(target) < _LONGEST_TARGET else ""
        grace = "" if self.grace is None else repr(self.grace)
        return (
            f"{pid}\nstart={start}\nboot={boot}\nlock={self.lock_fd}\nstate={self.state.value:<{_WIDTH}}\n"
            f"reload={self.reloads.encode()}\ngrace={grace:<{_GRACE_WIDTH}}\ntarget={target}\nctl={control}\n"
        ).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Record | None:
        """Return the record, or None when this is not one (empty, foreign, or caught half-written)."""
        try:
            first, *rest = raw.decode("ascii").splitlines()
            fields = dict(line.split("=", 1) for line in rest)
            identity = Identity(int(first), int(fields["start"]), fields["boot"])
            reloads = Reloads.decode(fields["reload"]) if "reload" in fields else Reloads()
            control = fields.get("ctl", "").encode().decode("unicode_escape")
            target = fields.get("target", "").encode().decode("unicode_escape")
            grace = float(fields["grace"]) if fields.get("grace", "").strip() else None
            if grace is not None and not 0 < grace < math.inf:
                return None
            state = State(fields["state"].strip())
            return cls(identity, state, int(fields["lock"]), reloads, control, target, grace)
        except (ValueError, KeyError):
            return None


def _lock_request(kind: int, byte: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, byte, 1, 0)


def try_lock(fd: int, byte: int = SERVICE_BYTE) -> bool:
    """Take the lock for as long as this open file description lives; False when someone else has it."""
    try:
        if _HAS_OFD:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _lock_request(fcntl.F_WRLCK, byte))
        elif byte == SERVICE_BYTE:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def is_locked(fd: int) -> bool:
    """Tell whether a service holds the lock, without taking it."""
    if _HAS_OFD:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _lock_request(fcntl.F_WRLCK, SERVICE_BYTE))
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def open_pidfile(path: str, *, create: bool) -> int:
    """Open the pidfile for locking and writing, or raise `Refused` when what stands there cannot be trusted."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    if reason := (distrusted if create else anybodys)(os.path.dirname(path)):
        raise Refused(Exit.NOT_PERMITTED, f"{reason}: no place for a pidfile")
    try:
        fd = os.open(path, flags | (os.O_CREAT if create else 0), 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Refused(Exit.FAILED, f"the pidfile {path} is a symbolic link; remove it") from error
        if error.errno in (errno.ENXIO, errno.EISDIR):
            raise Refused(Exit.FAILED, f"the pidfile {path} is not a regular file; remove it") from error
        raise
    try:
        _check_file(path, os.fstat(fd), create=create)
        if create:
            os.fchmod(fd, 0o644)  # whatever umask the caller has: others may read who runs, nobody else may write
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_file(path: str, facts: os.stat_result, *, create: bool) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise Refused(Exit.FAILED, f"the pidfile {path} is not a regular file; remove it")
    if facts.st_nlink != 1:
        raise Refused(Exit.FAILED, f"the pidfile {path} has {facts.st_nlink} names (hard links); remove it")
    # Root may look at and stop everybody's service (whom it may signal is checked in `Seen.may_be_signalled`); but its
    # own service must not be named by a file that somebody else can write.
    if facts.st_uid != os.geteuid() and (create or os.geteuid() != 0):
        raise Refused(Exit.NOT_PERMITTED, f"the pidfile {path} belongs to uid {facts.st_uid}; remove it")


def write_record(fd: int, record: Record) -> None:
    """Write the whole record in one call. Only for the holder of the lock."""
    raw = record.encode()
    if os.pwrite(fd, raw, 0) != len(raw):
        raise OSError(errno.ENOSPC, "the pidfile could only be written in part")


def clear(fd: int) -> None:
    """Say goodbye: the file stays, and names nobody. Only for the holder of the lock."""
    os.ftruncate(fd, 0)


class Seen(NamedTuple):
    """What one look at a pidfile found."""

    state: State
    record: Record | None
    text: str  # one sentence for people
    owner: int | None = None  # uid of the pidfile

    @property
    def pid(self) -> int | None:
        return self.record.identity.pid if self.record is not None else None

    def may_be_signalled(self) -> bool:
        """Tell whether the one named in the record is proven to be the service.

        For root one thing more counts: a pidfile that a user can write must not choose a process of someone
        else (facts b14), so file and process need the same owner unless the file is root's own.
        """
        if self.state not in _LIVE or self.record is None:
            return False
        if os.geteuid() != 0 or self.owner == 0:
            return True
        try:
            return os.stat(f"/proc/{self.record.identity.pid}").st_uid == self.owner
        except OSError:
            return False


def look(path: str) -> Seen:
    """Find out what the service of this pidfile is doing. Takes no lock, changes nothing, needs no permission
    but to read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        return Seen(State.STOPPED, None, "not running")
    except OSError as error:
        return Seen(State.UNKNOWN, None, f"unknown: cannot open {path}: {error.strerror}")
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            return Seen(State.UNKNOWN, None, f"unknown: {path} is not a regular file")
        return _look(fd, facts)
    finally:
        os.close(fd)


def _look(fd: int, facts: os.stat_result) -> Seen:
    # The lock and the record cannot be read in one breath. Each pass reads both; whatever changed in between
    # shows as a contradiction (a lock, but no living holder), and contradictions are looked at again.
    record: Record | None = None
    for attempt in range(5):
        if attempt:
            time.sleep(0.01)
        locked = is_locked(fd)
        raw = os.pread(fd, 4096, 0)
        record = Record.decode(raw)
        if not locked:
            if record is None:
                return Seen(State.STOPPED, None, "not running", facts.st_uid)
            pid = record.identity.pid
            return Seen(State.DEAD, record, f"dead: it ended without a goodbye, its pid was {pid}", facts.st_uid)
        if record is None and not raw:
            return Seen(State.STARTING, None, "starting", facts.st_uid)
        if record is not None and record.identity.alive() and _holds(record, facts):
            text = f"{record.state.value} (pid {record.identity.pid})"
            return Seen(record.state, record, text, facts.st_uid)
    named = "nobody" if record is None else f"pid {record.identity.pid}, which has ended or is another process"
    text = f"unknown: the lock is held by an orphan, the pidfile names {named}"
    return Seen(State.ORPHANED, record, text, facts.st_uid)


def _holds(record: Record, facts: os.stat_result) -> bool:
    """Tell whether the named process has this very file open; True where the kernel will not say."""
    try:
        theirs = os.stat(f"/proc/{record.identity.pid}/fd/{record.lock_fd}")
    except FileNotFoundError:
        return not os.path.exists("/proc/self/fd")
    except PermissionError:
        return True
    return (theirs.st_dev, theirs.st_ino) == (facts.st_dev, facts.st_ino)
