"""
An event loop whose time and order belong to a test: a year of timers takes seconds, and a seed decides who goes next.

It is stock asyncio with three things taken out of the world's hands. Time passes only when nothing is left to do. Among
the asyncio tasks that could go on, a seed chooses; plain callbacks keep the order that asyncio promises them. And what
is meant for a thread runs on the loop, at a moment that the seed chooses, since real threads know no seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context as ContextVars
from typing import Any, TypeVar

from asyncflow.interfaces import Call

T = TypeVar("T")

MOST_TURNS = 1_000_000
"""A loop that needs more to come to an end spins."""
EPOCH = 946_684_800.0
"""When virtual time begins, POSIX seconds: the year 2000 in UTC."""


class Deadlock(AssertionError):
    """Everything waits and no timer is set that could end it, or the loop turns without end."""


class Crash(KeyboardInterrupt):
    """
    The process is dead. Nothing after this happens in it.

    A KeyboardInterrupt, because a loop lets nothing else out of a callback. It is raised between callbacks only, or in
    one of the world's own, so no code of a user's gets to see it.
    """


class WaitlessSelector(selectors.DefaultSelector):
    """Never waits: where a loop would, *pass_time* is called with the seconds, None for as long as it takes."""

    def __init__(self, pass_time: Callable[[float | None], None]) -> None:
        super().__init__()
        self._pass_time = pass_time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and (timeout is None or timeout > 0):
            self._pass_time(timeout)
        return found


class _Timer(asyncio.TimerHandle):
    """A timer that a lot tells from others which are due at the same moment."""

    __slots__ = ("_lot",)

    def __init__(self, lot: float, when: float, *args: Any) -> None:
        super().__init__(when, *args)
        self._lot = lot

    def __lt__(self, other: object) -> bool:
        if isinstance(other, _Timer):
            return (self._when, self._lot) < (other._when, other._lot)  # type: ignore[attr-defined]
        return NotImplemented


class SeededLoop(asyncio.SelectorEventLoop):
    """
    An event loop with virtual time, whose order a seed decides.

    Args:
        seed: Who goes next. None: first come, first served.
        now: What :meth:`time` says at first.

    ``steps`` counts what has been called so far: a coroutine that goes on from one await to the next is a step.
    """

    # Asyncio keeps what is ready, and what has a time, in these two; everything here rests on them.
    _ready: Any
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, seed: object = None, *, now: float = 0.0) -> None:
        self._now = now
        self._rng = None if seed is None else random.Random(f"loop {seed}")
        self._turns = 0
        self._appointments: list[tuple[int, Callable[[], object]]] = []
        self.steps = 0
        super().__init__(WaitlessSelector(self._pass_time))
        # Added to the time by asyncio to tell what is due; after a year, a nanosecond more is no more at all.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Return the loop's own time, in seconds."""
        return self._now

    def at_step(self, step: int, act: Callable[[], object]) -> None:
        """Call *act* between two steps, once there have been *step* of them."""
        self._appointments.append((step, act))
        self._appointments.sort(key=lambda appointment: appointment[0])

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: ContextVars | None = None
    ) -> asyncio.TimerHandle:
        """Call *callback* at *when*; of several that are due at once, in an order of the seed's."""
        if self._rng is None:
            return super().call_at(when, callback, *args, context=context)
        timer = _Timer(self._rng.random(), when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Call *func* on the loop, a little later: no thread could tell virtual time."""
        future: asyncio.Future[T] = self.create_future()

        def call() -> None:
            if future.cancelled():
                return
            try:
                value = func(*args)
            except BaseException as error:
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
                future.set_exception(error)
            else:
                future.set_result(value)

        self.call_later(self.delay(), call)
        return future

    def delay(self) -> float:
        """Return how long something takes whose length nobody knows: some milliseconds, as the seed says."""
        return 0.0 if self._rng is None else self._rng.choice((0.0, 0.001, 0.005, 0.025))

    def _pass_time(self, seconds: float | None) -> None:
        if seconds is None:
            raise Deadlock("everything waits, and no timer is set that could end it")
        # Not by what asyncio was ready to wait, which is a day at most.
        self._now = max(self._now, self._scheduled[0].when()) if self._scheduled else self._now + seconds

    def _run_once(self) -> None:
        self._turns += 1
        if self._turns > MOST_TURNS:
            raise Deadlock(f"{MOST_TURNS} turns of the loop, and no end")
        while self._appointments and self._appointments[0][0] <= self.steps:
            self._appointments.pop(0)[1]()
        if self._rng is not None and len(self._ready) > 1:
            self._shuffle(self._rng)
        rest: list[asyncio.Handle] = []
        if self._appointments:
            # The turn is cut where somebody wants to step in; what it would have done besides goes into the next.
            until = self._appointments[0][0] - self.steps
            while len(self._ready) > until:
                rest.append(self._ready.pop())
        self.steps += max(1, len(self._ready))
        super()._run_once()  # type: ignore[misc]
        self._ready.extendleft(rest)

    def _shuffle(self, rng: random.Random) -> None:
        """Put asyncio tasks into another order and anywhere between the plain callbacks, which keep theirs."""
        plain: list[asyncio.Handle] = []
        tasks: list[asyncio.Handle] = []
        for handle in self._ready:
            owner = getattr(handle._callback, "__self__", None)
            (tasks if isinstance(owner, asyncio.Task) else plain).append(handle)
        if not tasks:
            return
        rng.shuffle(tasks)
        places = set(rng.sample(range(len(self._ready)), len(tasks)))
        in_order = iter(plain)
        mixed = [tasks.pop() if place in places else next(in_order) for place in range(len(self._ready))]
        self._ready.clear()
        self._ready.extend(mixed)


class LoopClock:
    """The clock of an engine on such a loop: POSIX seconds are :data:`EPOCH` and the loop's own."""

    def now(self) -> float:
        """Return POSIX seconds."""
        return EPOCH + asyncio.get_running_loop().time()

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call *callback* at *when*, POSIX seconds; soon, if that has passed."""
        loop = asyncio.get_running_loop()
        return loop.call_at(max(when - EPOCH, loop.time()), callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call *callback* after *delay* seconds."""
        return asyncio.get_running_loop().call_later(delay, callback, *args)


class _Inline:
    """A call that an :class:`InlineThreads` has not begun yet, or has ended."""

    __slots__ = ("_done", "_timer", "is_begun")

    def __init__(self, done: Callable[[Any, BaseException | None], None]) -> None:
        self._done = done
        self._timer: asyncio.TimerHandle | None = None
        self.is_begun = False

    def begin_later(self, loop: SeededLoop, call: Call) -> None:
        """Let it be called at a moment that the loop's seed chooses."""
        self._timer = loop.call_later(loop.delay(), self._begin, call)

    def cancel(self) -> bool:
        """Take it out of the line, unless it has begun."""
        if self.is_begun or self._timer is None:
            return False
        self.is_begun = True
        self._timer.cancel()
        asyncio.get_running_loop().call_soon(self._done, None, asyncio.CancelledError())
        return True

    def _begin(self, call: Call) -> None:
        self.is_begun = True
        try:
            value = call.context.run(call.fn, *call.args, **call.kwargs)
        except BaseException as error:
            self._done(None, error)
        else:
            self._done(value, None)


class InlineThreads:
    """What stands for an engine's threads on a :class:`SeededLoop`: plain functions, called on the loop itself."""

    def __init__(self, loop: SeededLoop) -> None:
        self._loop = loop

    def submit(self, call: Call, done: Callable[[Any, BaseException | None], None]) -> _Inline:
        """Have *call* called at some moment, and tell *done*."""
        work = _Inline(done)
        work.begin_later(self._loop, call)
        return work

    async def close(self) -> None:
        """Nothing to let go of."""


def run_virtual(main: Coroutine[Any, Any, T], *, seed: object = None) -> T:
    """
    Run *main* in virtual time, on a loop of its own, and return what it returns.

    Raises:
        Deadlock: It waits for what will never be.
    """
    with contextlib.closing(SeededLoop(seed)) as loop, asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
