"""Events to those who watch. Nobody who is slow or broken holds up a run."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import attrs

from asyncflow import messages as m
from asyncflow.ids import is_below
from asyncflow.interfaces import Happening, Observer
from asyncflow.machine.run import RunMachine
from asyncflow.runtime.inbox import Inbox
from asyncflow.runtime.values import RunValues, circumstances

log = logging.getLogger("asyncflow.observe")

STOPS_WITHIN = 1.0
"""Seconds in which an observer must give way when its engine closes, before it is left behind."""
BACKLOG = 100_000
"""How many happenings wait for a slow observer before the oldest are dropped, with a line in the log."""


class Narrator:
    """
    Turns the events of one run into happenings with names, counting attempts as it goes.

    Each attempt of a task that takes a :class:`~asyncflow.Context`, or tells progress by ``current()``, is seen to
    begin with 0.0, and one that succeeds to end with 1.0: once each, whether the body says so or not. Those are for
    observers alone and in no journal. Tasks that cannot tell progress are as far as their attempts.
    """

    __slots__ = ("_attempts", "_machine", "_plan", "_progress", "_run_id", "_values")

    def __init__(self, run_id: str, machine: RunMachine, values: RunValues) -> None:
        self._run_id = run_id
        self._machine = machine
        self._plan = machine.plan
        self._values = values
        self._attempts: dict[int, int] = {}
        # What the body on its way was last seen to tell, by task.
        self._progress: dict[int, float] = {}

    def tell(self, at: float, events: Iterable[m.Event], first: int) -> list[Happening]:
        """
        Return what is seen of *events*, which happened *at* (POSIX seconds) and are the journal's *first* and what
        follows. Called while the run is as these events have left it.
        """
        happened: list[Happening] = []
        for number, event in enumerate(events, first):
            kind = type(event)
            if kind in _GOOD_ENDINGS and self._progress.pop(event.task, 1.0) < 1.0:  # type: ignore[attr-defined]
                happened.append(self._name(at, m.Progressed(event.task, 1.0), -1))  # type: ignore[attr-defined]
            happened.append(self._name(at, event, number))
            if kind in _STARTS:
                self._progress.pop(event.task, None)  # type: ignore[attr-defined]
                if self._takes_context(event):
                    happened.append(self._began(at, event.task))  # type: ignore[attr-defined]
        return happened

    def aside(self, at: float, event: m.Event) -> list[Happening]:
        """Return what is seen of an event that is told before it is journaled; its number is -1."""
        if not isinstance(event, m.Progressed):
            return [self._name(at, event, -1)]
        task, fraction = event.task, event.fraction
        told = self._progress.get(task)
        if told is not None and fraction == told and fraction in (0.0, 1.0) and not event.message:
            return []
        began = [] if told is not None or not fraction else [self._began(at, task)]
        self._progress[task] = fraction
        return [*began, self._name(at, event, -1)]

    def _began(self, at: float, task: int) -> Happening:
        self._progress[task] = 0.0
        return self._name(at, m.Progressed(task, 0.0), -1)

    def _takes_context(self, event: m.Event) -> bool:
        if self._plan.tasks is None:
            return False
        if isinstance(event, m.RevertStarted):
            declared = self._plan.tasks[event.task]
            return declared.undo is not None and declared.undo_wants.context
        return isinstance(event, m.AttemptStarted) and self._plan.tasks[event.task].wants_context

    def _name(self, at: float, event: m.Event, number: int) -> Happening:
        path, attempt, seen_with = "", 0, None
        task = getattr(event, "task", None)
        if task is not None:
            path = self._plan.path(task)
            if isinstance(event, (m.AttemptStarted, m.RevertStarted)):
                self._attempts[task] = event.attempt
            attempt = self._attempts.get(task, 0)
            if isinstance(event, (m.TaskFailed, m.RevertGivenUp)):
                is_revert = isinstance(event, m.RevertGivenUp)
                seen_with = circumstances(self._machine, self._values, task, is_revert=is_revert)
        elif (scope := getattr(event, "scope", -1)) >= 0:
            path = self._plan.scopes[scope].path
        elif isinstance(event, m.ConditionAnswered):
            guard = self._plan.guards[event.guard]
            path = self._plan.scopes[guard.scope].path if guard.scope >= 0 else self._plan.path(guard.node)
        return Happening(self._run_id, self._machine.flow, number, at, path, attempt, event, seen_with)


_STARTS = frozenset(m.STARTS)
_GOOD_ENDINGS = frozenset({m.AttemptSucceeded, m.RevertSucceeded})


@attrs.frozen(kw_only=True)
class Interest:
    """
    What an observer wants to see: events of these kinds (all, if empty), of one run, of a task or of what is in a flow.
    """

    kinds: frozenset[str] = frozenset()
    run_id: str | None = None
    path: str | None = None

    def has(self, happening: Happening) -> bool:
        """Whether *happening* is of interest."""
        if self.run_id is not None and happening.run_id != self.run_id:
            return False
        if self.kinds and happening.kind not in self.kinds:
            return False
        path = self.path
        return path is None or happening.path == path or is_below(happening.path, path)


class Subscription:
    """One observer, what waits for it, and the asyncio task that hands it on."""

    def __init__(self, observer: Observer, announcer: Announcer, interest: Interest | None) -> None:
        self.observer = observer
        self._announcer = announcer
        self._interest = interest
        self._line: deque[Happening] = deque(maxlen=BACKLOG)
        self._pump: asyncio.Task[None] | None = None
        self._is_telling = False
        self._has_dropped = False
        self.is_over = False
        self.put_so_far = 0
        # Who waits until so many happenings have been seen; in order, since what is put only grows.
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def seen_so_far(self) -> int:
        """How many happenings the observer has done with, or will never see."""
        return self.put_so_far - len(self._line) - self._is_telling

    def when_seen(self) -> asyncio.Future[None]:
        """Return what is done once the observer has done with everything that it has been given by now."""
        seen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self.put_so_far, seen))
        return seen

    def _tell_who_waits(self) -> None:
        while self._waiting and (self.is_over or self._waiting[0][0] <= self.seen_so_far):
            seen = self._waiting.popleft()[1]
            if not seen.done():
                seen.set_result(None)

    @property
    def is_idle(self) -> bool:
        """Whether the observer has seen everything."""
        return not self._line and self._pump is None

    def put(self, happenings: Sequence[Happening]) -> None:
        """Put *happenings* in line for the observer."""
        if self.is_over:
            return
        if self._interest is not None:
            happenings = [happening for happening in happenings if self._interest.has(happening)]
            if not happenings:
                return
        if len(self._line) + len(happenings) > BACKLOG and not self._has_dropped:
            self._has_dropped = True
            log.warning("observer %r is more than %d events behind; the oldest are dropped", self.observer, BACKLOG)
        self._line.extend(happenings)
        self.put_so_far += len(happenings)
        if self._pump is None:
            self._pump = asyncio.get_running_loop().create_task(self._hand_on())

    async def _hand_on(self) -> None:
        try:
            told = 0
            while self._line:
                happening = self._line.popleft()
                self._is_telling = True
                try:
                    answer = self.observer(happening)
                    if inspect.isawaitable(answer):
                        await answer
                except (Exception, asyncio.CancelledError) as error:
                    pump = asyncio.current_task()
                    if isinstance(error, asyncio.CancelledError) and pump is not None and pump.cancelling():
                        raise  # told to stop; any other is something of the observer's own that was cancelled
                    is_dropped = isinstance(error, Exception)
                    log.exception(
                        "observer %r failed on %s of run %r%s",
                        self.observer,
                        happening.kind,
                        happening.run_id,
                        "; it is dropped and hears nothing more" if is_dropped else "",
                    )
                    if is_dropped:
                        self.end()
                self._is_telling = False
                self._tell_who_waits()
                told += 1
                if not told % 100:
                    await asyncio.sleep(0)
        finally:
            self._pump, self._is_telling = None, False
            self._tell_who_waits()
            self._announcer.settled(self)

    async def close(self) -> None:
        """Stop handing on."""
        self.end()
        if self._pump is not None:
            self._pump.cancel()
            _, left = await asyncio.wait([self._pump], timeout=STOPS_WITHIN)
            if left:
                log.warning("observer %r goes on after it was told to stop; it is left behind", self.observer)

    def end(self) -> None:
        """Tell the observer nothing more; what it is taking note of just now, it may finish."""
        self.is_over = True
        self._line.clear()
        self._tell_who_waits()


class Announcer:
    """All who watch the runs of one engine; without ``subscriptions`` nothing need be told."""

    def __init__(self) -> None:
        self.subscriptions: list[Subscription] = []

    def subscribe(self, observer: Observer, interest: Interest | None = None) -> Callable[[], None]:
        """Have *observer* called with all that is of *interest* from now on; return what ends that."""
        subscription = Subscription(observer, self, interest)
        self.subscriptions.append(subscription)

        def unsubscribe() -> None:
            subscription.end()
            if subscription.is_idle:
                self.settled(subscription)

        return unsubscribe

    def publish(self, happenings: Sequence[Happening]) -> None:
        """Put *happenings* in line for everyone."""
        for subscription in self.subscriptions:
            subscription.put(happenings)

    @property
    def is_idle(self) -> bool:
        """Whether everyone has seen everything."""
        return all(subscription.is_idle for subscription in self.subscriptions)

    def settled(self, subscription: Subscription) -> None:
        """*subscription* has nothing more in line; let those who wait look again."""
        if subscription.is_over and subscription in self.subscriptions:
            self.subscriptions.remove(subscription)

    async def wait_idle(self, timeout: float) -> None:
        """Wait until everyone has seen all that has been published by now, but not longer than *timeout* seconds."""
        waiting = [subscription.when_seen() for subscription in self.subscriptions if not subscription.is_idle]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)
            for one in waiting:
                one.cancel()

    def __repr__(self) -> str:
        behind = sum(not subscription.is_idle for subscription in self.subscriptions)
        return f"<Announcer: {len(self.subscriptions)} observers, {behind} of them behind>"

    async def close(self) -> None:
        """Stop telling anyone anything."""
        for subscription in list(self.subscriptions):
            await subscription.close()
        self.subscriptions.clear()


async def follow(
    announcer: Announcer, run_id: str, is_over: Callable[[], bool], on_over: list[Callable[[], None]]
) -> AsyncIterator[Happening]:
    """Yield what happens in one run from now on until it *is_over*, of which *on_over* is told."""
    line: Inbox[Happening] = Inbox(asyncio.get_running_loop())
    unsubscribe = announcer.subscribe(lambda seen: line.send_nowait(seen) if seen.run_id == run_id else None)
    on_over.append(line.wake)
    try:
        while line or not is_over():
            await line.wait()
            for happening in line.take(len(line)):
                yield happening
            if is_over():
                await announcer.wait_idle(1.0)
    finally:
        unsubscribe()
        on_over.remove(line.wake)
