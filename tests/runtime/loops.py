"""An event loop that counts its turns, lets a test step in before any of them, and may own time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from asyncflow.testing.loop import MOST_TURNS, WaitlessSelector

T = TypeVar("T")


class SteppedLoop(asyncio.SelectorEventLoop):
    """
    Counts its turns in ``turns``. With *owns_time*, time jumps to the next timer whenever nothing is left to do.

    Not both threads and owned time: a thread would find that all its time has passed.
    """

    def __init__(self, *, owns_time: bool) -> None:
        self.turns = 0
        self._now = 1_000_000.0
        self.owns_time = owns_time
        self._steps: list[tuple[int, Callable[[], object]]] = []
        super().__init__(WaitlessSelector(self._pass_time) if owns_time else None)

    def time(self) -> float:
        return self._now if self.owns_time else super().time()

    def step_in(self, turns: int, act: Callable[[], object]) -> None:
        """Call *act* between two turns, *turns* from now; 0 is before the next."""
        self._steps.append((self.turns + turns, act))

    def _pass_time(self, seconds: float | None) -> None:
        assert seconds is not None, "everything waits, and no timer is set that could end it"
        # A hair more, so that a timer which is due by rounding is due.
        self._now += seconds + 1e-9

    def _run_once(self) -> None:
        while due := next((step for step in self._steps if step[0] <= self.turns), None):
            self._steps.remove(due)
            due[1]()
        self.turns += 1
        assert self.turns < MOST_TURNS, "the loop spins"
        super()._run_once()  # type: ignore[misc]


class LoopClock:
    """The clock of an engine on such a loop: POSIX seconds are the loop's own."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_at(max(when, loop.time()), callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, callback, *args)


def run(main: Callable[[], Coroutine[Any, Any, T]], *, owns_time: bool = True) -> T:
    """Call *main* and run what it returns on a loop of its own; an asyncio task that is left behind is an error."""
    with asyncio.Runner(loop_factory=lambda: SteppedLoop(owns_time=owns_time)) as runner:

        async def all_of_it() -> T:
            value = await main()
            assert not others(), f"asyncio tasks were left behind: {others()}"
            return value

        return runner.run(all_of_it())


def others() -> set[asyncio.Task[Any]]:
    """Return the asyncio tasks besides the one that asks and an engine's heartbeat."""
    mine = asyncio.current_task()
    return {task for task in asyncio.all_tasks() if task is not mine and task.get_name() != "asyncflow heartbeat"}


def turns() -> int:
    """Return how many turns the running loop has taken."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppedLoop)
    return loop.turns


async def until(is_true: Callable[[], object]) -> None:
    """Let others go on until *is_true* says so: for what no event tells, such as what a body has come to."""
    while not is_true():
        # Time that is owned would not pass, if nothing but this were going on; other time must not be spun away.
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0 if isinstance(loop, SteppedLoop) and loop.owns_time else 0.001)
