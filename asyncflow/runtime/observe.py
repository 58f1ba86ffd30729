"""Events to those who watch. Nobody who is slow or broken holds up a run."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import attrs

from asyncflow import messages as m
from asyncflow.graph.plan import Plan
from asyncflow.interfaces import Happening, Observer

log = logging.getLogger("asyncflow.observe")

STOPS_WITHIN = 1.0
"""Seconds in which an observer must give way when its engine closes, before it is left behind."""
BACKLOG = 100_000
"""How many happenings wait for a slow observer before the oldest are dropped, with a line in the log."""


class Narrator:
    """Turns the numbered events of one run into happenings with names, counting attempts as it goes."""

    __slots__ = ("_attempts", "flow", "number", "plan", "run_id")

    def __init__(self, run_id: str, flow: str, plan: Plan, number: int = 0) -> None:
        self.run_id = run_id
        self.flow = flow
        self.plan = plan
        self.number = number
        self._attempts: dict[int, int] = {}

    def tell(self, at: float, events: Iterable[m.Event]) -> list[Happening]:
        """Return a happening for each of *events*, which happened *at* (POSIX seconds) and follow all told before."""
        return [self._happening(at, event) for event in events]

    def aside(self, at: float, event: m.Event) -> Happening:
        """Return a happening for an event that is told before it is journaled; its number is -1."""
        return attrs.evolve(self._name(at, event), number=-1)

    def _happening(self, at: float, event: m.Event) -> Happening:
        happening = self._name(at, event)
        self.number += 1
        return happening

    def _name(self, at: float, event: m.Event) -> Happening:
        path, attempt = "", 0
        task = getattr(event, "task", None)
        if task is not None:
            path = self.plan.path(task)
            if isinstance(event, (m.AttemptStarted, m.RevertStarted)):
                self._attempts[task] = event.attempt
            attempt = self._attempts.get(task, 0)
        elif (scope := getattr(event, "scope", -1)) >= 0:
            path = self.plan.scopes[scope].path
        return Happening(self.run_id, self.flow, self.number, at, path, attempt, event)


class Subscription:
    """One observer, what waits for it, and the asyncio task that hands it on."""

    def __init__(self, observer: Observer, announcer: Announcer) -> None:
        self.observer = observer
        self._announcer = announcer
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
                    log.exception("observer %r failed on %s of run %r", self.observer, happening.kind, happening.run_id)
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
    """All who watch the runs of one engine."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []

    def __bool__(self) -> bool:
        return bool(self._subscriptions)

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Have *observer* called with everything from now on; return what ends that."""
        subscription = Subscription(observer, self)
        self._subscriptions.append(subscription)

        def unsubscribe() -> None:
            subscription.end()
            if subscription.is_idle:
                self.settled(subscription)

        return unsubscribe

    def publish(self, happenings: Sequence[Happening]) -> None:
        """Put *happenings* in line for everyone."""
        for subscription in self._subscriptions:
            subscription.put(happenings)

    @property
    def is_idle(self) -> bool:
        """Whether everyone has seen everything."""
        return all(subscription.is_idle for subscription in self._subscriptions)

    def settled(self, subscription: Subscription) -> None:
        """*subscription* has nothing more in line; let those who wait look again."""
        if subscription.is_over and subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    async def wait_idle(self, timeout: float) -> None:
        """Wait until everyone has seen all that has been published by now, but not longer than *timeout* seconds."""
        waiting = [subscription.when_seen() for subscription in self._subscriptions if not subscription.is_idle]
        if waiting:
            await asyncio.wait(waiting, timeout=timeout)
            for one in waiting:
                one.cancel()

    def __repr__(self) -> str:
        behind = sum(not subscription.is_idle for subscription in self._subscriptions)
        return f"<Announcer: {len(self._subscriptions)} observers, {behind} of them behind>"

    async def close(self) -> None:
        """Stop telling anyone anything."""
        for subscription in list(self._subscriptions):
            await subscription.close()
        self._subscriptions.clear()
