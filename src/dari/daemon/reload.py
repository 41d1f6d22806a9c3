"""A reload: read the file, check it, ask the program, and swap; or keep the old one and say why. Nothing between.

    file ── read_file (TOML, [daemon], [pool]) ── parse ── every ctx.on_reload(fn): fn(new, old) ── swap, generation + 1
              └ refused                             └ refused   └ refused: those that had accepted get fn(old, new)

Reloads are numbered. The number of one that begins is in the pidfile before the file is opened, the number of one that
has ended after its outcome is told (`answer`). So whoever wants a reload reads the number that has begun, sends HUP,
and waits until a higher one has ended: that one has read the file as it is now, whoever else sends HUPs meanwhile.
Those that come while one is under way make one more, not many.

What still leaks: a callback that blocks the loop cannot be timed out; the caller then gives up, with the reload still
under way. What a callback has done before it refused is its own to undo.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from dari._kernel.scope import timeout
from dari.daemon.answer import Answer, forget_answer, write_answer
from dari.daemon.callbacks import call, name_of
from dari.daemon.config import TARGET_KEY, Settings
from dari.daemon.context import Context, OnReload
from dari.daemon.document import app_target, at, file_values, freeze, pool_values, read_file
from dari.daemon.keys import DEFAULTS, IDENTITY, KEYS
from dari.daemon.pidfile import Reloads
from dari.daemon.runner import Host
from dari.daemon.target import Target
from dari.exceptions import ConfigError

_LOGGER: Final = logging.getLogger("dari.daemon")
_LIVE: Final = ("start_timeout", "stop_grace", "log.level")


class Made(NamedTuple):
    """A configuration file, and what the program sees of it."""

    document: Any  # immutable; what the next reload is compared with
    values: dict[str, Any]  # of [daemon], checked
    pool: dict[str, Any]  # of [pool], checked
    target: Target | None  # of [app]
    config: Any


def make_config(path: str | None, parse: Callable[[dict[str, Any]], Any] | None) -> Made:
    """Read and check the file, and show it to the program's `parse`; `ConfigError` when one of them refuses it."""
    raw = read_file(path) if path is not None else {}
    values = file_values(raw, path) if path is not None else {}
    pool = pool_values(raw, path) if path is not None else {}
    target = app_target(raw, path) if path is not None else None
    document = freeze(raw)
    if parse is None:
        return Made(document, values, pool, target, document)
    try:
        return Made(document, values, pool, target, parse(raw))
    except Exception as error:
        raise ConfigError(f"{path or 'no configuration file'}: parse: {type(error).__name__}: {error}") from error


class Reloadable(Protocol):
    """What a reload asks of the service. Called in the loop's thread."""

    def write_down(self, reloads: Reloads) -> None: ...
    def reloading(self) -> None: ...
    def reloaded(self, answer: Answer) -> None: ...
    def reopen_log(self) -> None: ...
    def apply(self, settings: Settings) -> None:
        """Take on what has changed in them; only what can change while the service runs (`_LIVE`) has."""
        ...


class Reloader:
    """All reloads of one service, one after the other."""

    def __init__(self, service: Reloadable, settings: Settings, context: Context, *, verdict: str) -> None:
        self._service = service
        self._settings = settings
        self._context = context
        self._parse: Callable[[dict[str, Any]], Any] | None = None
        self._keywords: dict[str, Any] = {}
        self._made = make_config(settings.config, None)
        self._asked = False
        self._running = False
        self.reloads = Reloads(verdict=verdict)
        self.last: tuple[Answer, float] | None = (
            None  # what became of the last one, and when, in seconds since the epoch
        )
        context._config = self._made.config
        context._pool.configure(self._made.pool)
        forget_answer(settings.pidfile)  # of a service that was killed

    def adopt(self, parse: Callable[[dict[str, Any]], Any] | None, keywords: dict[str, Any]) -> None:
        """Show the program its configuration: what its `parse` makes of it is `ctx.config`."""
        self._parse, self._keywords = parse, keywords
        if parse is not None:
            self._made = make_config(self._settings.config, parse)
            self._context._config = self._made.config

    def ask(self, host: Host) -> None:
        """Have a reload begin after this moment. From any thread."""
        if not self._asked:
            self._asked = True
            host.post(lambda: self._begin(host))

    def _begin(self, host: Host) -> None:
        if self._asked and not self._running:  # the one under way sees at its end that it is asked again
            self._running = True
            host.spawn(lambda: self._run(host))

    async def _run(self, host: Host) -> None:
        self._asked = False  # a HUP from here on may mean a file that is written while we read
        try:
            await self._reload(host)
        finally:
            self._running = False
            if self._asked:  # by the loop's queue, where main's turns stand, too: HUPs may come without end
                host.post(lambda: self._begin(host))

    async def _reload(self, host: Host) -> None:
        number = self.reloads.begun + 1
        self._note(begun=number)
        self._service.reloading()
        # Reopened whatever becomes of the configuration: logrotate has moved the file already.
        self._service.reopen_log()
        try:
            answer = await self._try(host, number)
        except BaseException as error:
            self._end(self._refused(number, f"interrupted by {type(error).__name__}"))
            raise
        self._end(answer)

    async def _try(self, host: Host, number: int) -> Answer:
        old = self._made
        try:
            new = make_config(self._settings.config, self._parse)
            restart = self._needs_restart(new)
        except ConfigError as error:
            return self._refused(number, str(error))
        if reason := await self._ask_program(host, new.config, old.config):
            return self._refused(number, reason)
        self._made = new
        self._context._pool.configure(new.pool)
        self._context._config = new.config
        self._context._generation += 1
        live = {key: self._live_value(key, new) for key in _LIVE if not self._overridden(key)}
        self._settings = self._settings._replace(**{key.replace(".", "_"): value for key, value in live.items()})
        self._service.apply(self._settings)
        changed = differences(old.document, new.document)
        text = f"reloaded {self._settings.config or '(no configuration file)'}, generation {self._context.generation}; "
        text += f"changed: {', '.join(changed)}" if changed else "nothing has changed"
        text += f"; needs a restart: {', '.join(restart)}" if restart else ""
        return self._answer(number, True, text, changed, restart)

    async def _ask_program(self, host: Host, new: Any, old: Any) -> str | None:
        """Ask every callback; where one refuses, call the earlier ones back, and return the reason."""
        accepted: list[OnReload] = []
        asked: OnReload | None = None
        budget = self._settings.start_timeout
        if not self._context._on_reload:
            return None
        scope = timeout(budget)
        try:
            with scope:
                for asked in tuple(self._context._on_reload):
                    await call(host, asked, new, old)
                    accepted.append(asked)
        except BaseException as error:
            await self._call_back(host, accepted, new, old)
            if not isinstance(error, Exception):
                raise  # main has ended, or the callback leaves the process
            if scope.cancelled_caught:
                return f"{_named(asked)} had no answer within {budget:g} s (start_timeout)"
            _LOGGER.error("%s has refused the configuration", _named(asked), exc_info=error)
            return f"{_named(asked)}: {type(error).__name__}: {error}"
        return None

    async def _call_back(self, host: Host, accepted: list[OnReload], new: Any, old: Any) -> None:
        for fn in reversed(accepted):
            try:
                with timeout(self._settings.start_timeout):
                    await call(host, fn, old, new)
            except Exception:
                _LOGGER.exception("%s failed when it was called back", _named(fn))

    # -- what changes ---------------------------------------------------------------------------------------------

    def _overridden(self, key: str) -> bool:
        """Tell whether command line or environment say it: the file does not matter then."""
        return self._settings.origins.get(key, "").startswith(("--", "DARI_", "command line"))

    def _needs_restart(self, new: Made) -> list[str]:
        """Return the keys whose new value takes effect after a restart only; refuse those that identify the service."""
        found: list[str] = []
        for key in sorted(KEYS):
            is_now = self._in_use(key)
            if key in _LIVE or self._overridden(key) or self._wanted(key, new) == is_now:
                continue
            if key in IDENTITY:
                where = at(self._settings.config or "", key)
                wanted = repr(new.values[key]) if key in new.values else "nothing"
                text = f"[daemon] {key} cannot change while the service runs: it is {is_now!r}, the file says {wanted}"
                raise ConfigError(f"{where}: {text}; put it back, or stop the service by --{key} {is_now} and start it")
            found.append(f"daemon.{key}")
        try:
            found += [f"pool.{key}" for key in self._context._pool.needs_restart(new.pool)]
        except ValueError as error:
            raise ConfigError(f"{at(self._settings.config or '', 'max_workers', 'pool')}: [pool] {error}") from error
        if self._is_of_file(TARGET_KEY) and new.target != self._settings.target:
            found.append(TARGET_KEY)
        return found

    def _in_use(self, key: str) -> Any:
        """Return what the service runs with. `dari start`, which does not import it, has not seen a keyword."""
        if not self._settings.told(key) and key in self._keywords:
            return KEYS[key](self._keywords[key], "/")
        return getattr(self._settings, key.replace(".", "_"))

    def _wanted(self, key: str, new: Made) -> Any:
        """Return what a start would use now; None for a default that is worked out from other values."""
        if key in new.values:
            return new.values[key]
        if not self._is_of_file(key):
            return self._in_use(key)  # what there is without the file
        return KEYS[key](self._keywords[key], "/") if key in self._keywords else DEFAULTS.get(key)

    def _is_of_file(self, key: str) -> bool:
        origin, config = self._settings.origins.get(key, ""), self._settings.config
        return config is not None and config in (origin, origin.rpartition(":")[0])  # "path:line", or "path"

    def _live_value(self, key: str, new: Made) -> Any:
        return new.values.get(key, self._keywords.get(key, DEFAULTS[key]))

    # -- what is told -----------------------------------------------------------------------------------------------

    def _refused(self, number: int, reason: str) -> Answer:
        return self._answer(number, False, f"the configuration stays as it was: {reason}", [], [])

    def _answer(self, number: int, ok: bool, text: str, changed: list[str], restart: list[str]) -> Answer:
        generation = self._context.generation
        return Answer(os.getpid(), number, ok, generation, text, self._settings.config, changed, restart)

    def _end(self, answer: Answer) -> None:
        _LOGGER.log(logging.INFO if answer.ok else logging.ERROR, "%s", answer.text)
        try:
            write_answer(self._settings.pidfile, answer)
        except PermissionError:
            pass  # another user than who made the pidfile's directory; the control socket tells
        except OSError as error:
            _LOGGER.warning("`dari reload` cannot be told the reason: %s", error)
        self.last = answer, time.time()
        verdict = self.reloads.verdict if self.reloads.verdict == "never" else "ok" if answer.ok else "refused"
        self._note(ended=answer.number, generation=answer.generation, verdict=verdict, at=int(time.time()))
        self._service.reloaded(answer)  # last: whoever is told looks into the pidfile next, and finds this reload ended

    def _note(self, **changes: Any) -> None:
        self.reloads = self.reloads._replace(**changes)
        self._service.write_down(self.reloads)


def _named(fn: OnReload | None) -> str:
    return f"on_reload callback {name_of(fn)}"


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Return the keys of two configurations that differ, as `app.port`: names only, values may be secrets."""
    found: list[str] = []
    for key in [*old, *(key for key in new if key not in old)]:
        name = f"{prefix}{key}"
        before, after = old.get(key), new.get(key)
        if hasattr(before, "items") and hasattr(after, "items"):
            found += differences(before, after, f"{name}.")
        elif key not in old or key not in new or before != after:
            found.append(name)
    return found
