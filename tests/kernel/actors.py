"""The actors of the model: tasks that carry out random programs, and notice what must not be.

A program is a list of small instructions, some of which hold programs themselves (scopes, groups, cleanup). While it
carries them out, an actor keeps its own books of the scopes around it, and tells its world when what it meets differs.

Waits go from the older task to the younger one only, so that no cycle of waiters can arise: such a cycle is a mistake
of the program, and would never end.
"""

from __future__ import annotations

from random import Random

import dari
from dari import TaskState


def dense(seed, depth=3):
    """A program drawn from `seed`: longer and deeper than what Hypothesis would draw, so that things do meet."""
    return _program(Random(seed), depth)


def _program(random, depth):
    return [_instruction(random, depth) for _ in range(random.randint(1, 5))]


def _instruction(random, depth):
    delay = random.choice([0, 0.25, 0.5, 1, 1, 2, 4])
    number = random.randrange(8)
    kind = random.choice(SIMPLE if depth == 0 or random.random() < 0.5 else NESTED)
    match kind:
        case "sleep" | "slow":
            return kind, delay
        case "put" | "get":
            return kind, number % 3
        case "wait" | "set" | "clear":
            return kind, number % 2
        case "join" | "look" | "cancel" | "leave":
            return kind, number
        case "priority":
            return kind, number % 3 - 1
        case "yield" | "fail":
            return (kind,)
    program = _program(random, depth - 1)
    match kind:
        case "spawn":
            return kind, program, number % 3 - 1
        case "timeout" | "move_on":
            return kind, program, delay
        case "cleanup":
            return kind, program, _program(random, 0), number % 2 == 0
        case "group" | "agroup":
            return kind, [_program(random, depth - 1) for _ in range(random.randint(0, 3))], program, number % 4 != 0
    return kind, program


# fmt: off
SIMPLE = [
    "yield", "yield", "sleep", "sleep", "slow", "put", "put", "get", "get", "wait", "set", "clear",
    "join", "look", "cancel", "leave", "leave", "priority", "fail",
]
NESTED = [
    "spawn", "timeout", "move_on", "shield", "scope", "swallow", "swallow", "catch", "cleanup",
    "group", "group", "agroup",
]
# fmt: on


class Boom(Exception):  # noqa: N818 - no error, but a purpose
    """The failure that programs make on purpose."""


EXPECTED = (Boom, TimeoutError, dari.TaskCancelledError)


def unexpected(error):
    """What is inside of `error` and was not made on purpose."""
    if isinstance(error, BaseExceptionGroup):
        return [each for inner in error.exceptions for each in unexpected(inner)]
    if isinstance(error, EXPECTED) or (isinstance(error, RuntimeError) and "yield group.join()" in str(error)):
        return []
    return [error]


class Actor:
    """One task of the model: what it has entered, and what it must see."""

    def __init__(self, world, program, around=()):
        self.world = world
        self.program = program
        self.around = around  # scopes (and actors, for their roots) that it lives in, outermost first
        self.scopes = []
        self.task = None

    def chain(self, roots=True):
        """Every scope around the next instruction, outermost first; with or without the roots of its forebears."""
        chain = []
        for each in [*self.around, self, *self.scopes]:
            if isinstance(each, Actor):
                if not roots and each is not self:
                    continue
                if each.task._rare is not None and each.task._rare.root is not None:
                    chain.append(each.task._rare.root)
            else:
                chain.append(each)
        return chain

    def culprits(self):
        """The scope that a `Cancelled` must belong to: the outermost that is cancelled, not left, and not hidden.

        Or two: the children of a group that was left do not see a cancel of the parent that came later; it makes no
        difference to them.
        """
        return {self.culprit(), self.culprit(roots=False)}

    def culprit(self, roots=True):
        found = None
        for scope in reversed(self.chain(roots)):
            if scope.cancel_called and not scope._closed:
                found = scope
            if scope.shield:
                break
        return found

    def main(self):
        try:
            yield from self.run(self.program)
        except Exception as error:
            self.world.problems += unexpected(error)
            raise
        except dari.Cancelled as error:
            if error._scope not in self.chain():
                self.world.problems.append(error)
            raise

    def run(self, program):
        for what, *arguments in program:
            yield from getattr(self, what)(*arguments)

    def meet(self, operation):
        """Yield `operation`; if Cancelled comes, see that it names the right scope; if not, that it had not to."""
        doomed = self.culprit() is not None
        indebted = bool(self.task._rare is not None and self.task._rare.debts)
        try:
            value = yield operation
        except dari.Cancelled as error:
            self.world.check(
                error._scope in self.culprits(),
                f"{operation!r}: Cancelled names {error._scope!r} {error.reason!r}, not {self.culprit()!r}",
            )
            self.world.check(error.reason == error._scope.reason, "the reason did not travel")
            raise
        self.world.check(indebted or not doomed, f"{operation!r} was done inside of a cancelled scope")
        return value

    # ---- instructions ------------------------------------------------------------------------------------------

    def yield_(self):
        yield from self.meet(None)

    def sleep(self, delay):
        started = self.world.hand.now
        yield from self.meet(("sleep", delay) if delay == 1 else dari.sleep(delay))
        self.world.check(self.world.hand.now >= started + delay, "a sleep ended early")

    def slow(self, delay):
        self.world.hand.now += delay
        yield from ()

    def put(self, number):
        item = self.world.new_item()
        yield from self.meet(self.world.queues[number].put(item))
        self.world.put[number][item] += 1

    def get(self, number):
        item = yield from self.meet(self.world.queues[number].get())
        self.world.got[number][item] += 1

    def wait(self, number):
        event = self.world.events[number]
        sets = self.world.sets[number]
        was_set = event.is_set()
        yield from self.meet(event.wait())
        self.world.check(
            was_set or self.world.sets[number] > sets or event.is_set(), "woken by an event that was not set"
        )

    def set(self, number):
        self.world.set_event(number)
        yield from ()

    def clear(self, number):
        self.world.events[number].clear()
        yield from ()

    def join(self, number):
        yield from self.wait_for(number, lambda task: task)

    def look(self, number):
        yield from self.wait_for(number, dari.shield)

    def wait_for(self, number, how):
        younger = [actor.task for actor in self.world.actors if actor.task.id > self.task.id]
        if younger:
            task = younger[number % len(younger)]
            try:
                yield from self.meet(how(task))
                self.world.check(task.state is TaskState.COMPLETED, "a join gave a value too early")
            except (Exception, BaseExceptionGroup):
                debts = task.done()
                self.world.check(debts or self.task._rare is not None, "a join raised too early")
                raise

    def cancel(self, number):
        self.world.actors[number % len(self.world.actors)].task.cancel(f"by {self.task.id}")
        yield from ()

    def leave(self, number):
        """Cancel one of the scopes around."""
        if self.scopes:
            self.scopes[number % len(self.scopes)].cancel(f"scope {number}")
        yield from ()

    def priority(self, priority):
        self.task.priority = priority
        yield from ()

    def fail(self):
        raise Boom
        yield

    def spawn(self, program, priority):
        self.world.create(Actor(self.world, program), priority)
        yield from ()

    def timeout(self, program, delay):
        started = self.world.hand.now
        scope = dari.timeout(delay)
        try:
            yield from self.within(scope, program)
        finally:
            early = self.world.hand.now < started + delay
            self.world.check(not (early and scope._expired), "a timeout came early")

    def move_on(self, program, delay):
        scope = dari.move_on_after(delay)
        yield from self.within(scope, program)
        self.world.check(scope.cancel_called or not scope.cancelled_caught, "caught without having been cancelled")

    def shield(self, program):
        yield from self.within(dari.CancelScope(shield=True), program)

    def scope(self, program):
        yield from self.within(dari.CancelScope(), program)

    def within(self, scope, program):
        depth = len(self.scopes)
        try:
            with scope:
                self.scopes.append(scope)
                yield from self.run(program)
        finally:
            del self.scopes[depth:]

    def swallow(self, program):
        """Cancelled is swallowed; then the next yield must raise it again."""
        depth = len(self.scopes)
        try:
            yield from self.run(program)
        except dari.Cancelled:
            self.world.check(len(self.scopes) == depth, "model: scopes are left")
            try:
                yield
                self.world.check(False, "a swallowed Cancelled did not come again")
            except (dari.Cancelled, BaseExceptionGroup):
                pass

    def catch(self, program):
        try:
            yield from self.run(program)
        except Exception as error:  # noqa: BLE001 - told by `unexpected`
            self.world.problems += unexpected(error)

    def cleanup(self, program, cleanup, shielded):
        try:
            yield from self.run(program)
        finally:
            if shielded:
                yield from self.within(dari.CancelScope(shield=True), cleanup)
            else:
                yield from self.run(cleanup)

    def group(self, children, program, joins):
        depth = len(self.scopes)
        started = []
        try:
            with dari.TaskGroup() as group:
                yield from self.body(group, children, program, started)
                if joins:
                    yield from self.meet(group.join())
                    self.world.check(all(task.done() for task in started), "a group joined with children running")
        finally:
            del self.scopes[depth:]
            self.world.families.append((self.task, started))

    def agroup(self, children, program, _joins):
        """The same in the other spelling, by what `async with` does."""
        depth = len(self.scopes)
        started = []

        async def block():
            async with dari.TaskGroup() as group:
                await Awaited(self.body(group, children, program, started))

        try:
            yield from block().__await__()
            self.world.check(all(task.done() for task in started), "a group was left with children running")
        finally:
            del self.scopes[depth:]
            self.world.families.append((self.task, started))

    def body(self, group, children, program, started):
        self.scopes.append(group._scope)
        for child in children:
            actor = Actor(self.world, child, (*self.around, self, *self.scopes))
            actor.task = group.create_task(actor.main)
            self.world.actors.append(actor)
            started.append(actor.task)
        yield from self.run(program)


setattr(Actor, "yield", Actor.yield_)


class Awaited:
    def __init__(self, steps):
        self.steps = steps

    def __await__(self):
        return self.steps
