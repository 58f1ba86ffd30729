"""
The program whose work the guard measures: each case at a small and a large size, warm, with a mark before and after.

    python -m benchmarks.counted chain fan      # prints JSON: case to the seconds of its small and its large size

Under valgrind a mark is a system call that does nothing; callgrind writes down what it has counted whenever it sees one
(``--dump-before``). So one process, started once, measures everything, and starting it is in no figure.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncflow as af
from benchmarks.floors import Bare
from benchmarks.flows import body, body_now, flow_of
from benchmarks.questions.undoing import bad, done
from benchmarks.shapes import Shape, chain, fan, serving

Work = Callable[[], Awaitable[object]]
Prepare = Callable[[int], AbstractAsyncContextManager[Work]]

WARM_UPS = 2
"""Runs of a size before the one that counts: the interpreter specialises its code in them, and caches fill."""


class Timeless(asyncio.SelectorEventLoop):
    """
    A loop whose time stands still, so that nothing depends on how slow counting is.

    The engine gives way to others every few milliseconds: under valgrind that would be after every few tasks.
    """

    def time(self) -> float:
        """Return the same, always."""
        return 0.0


def mark() -> None:
    """Show callgrind where something begins or ends."""
    os.getsid(0)


class Case(NamedTuple):
    """
    Something to be measured: ``prepare(size)`` gives the work of that size, ready to be done several times.

    What it costs is the difference between the two sizes, so what a run costs however small it is does not count. In a
    case of runs, the size is how many there are, and all of what each costs does.
    """

    prepare: Prepare
    small: int
    large: int
    unit: str = "task"


@asynccontextmanager
async def _floor(size: int) -> AsyncIterator[Work]:
    yield Bare(chain(size)).run


def _in_memory(shape_of: Callable[[int], Shape], task: Any = body) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        flow = flow_of(shape_of(size), task)
        async with af.Engine(keep=1) as engine:
            yield lambda: engine.run(flow)

    return prepare


def _durable(shape_of: Callable[[int], Shape]) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        flow = flow_of(shape_of(size))
        with tempfile.TemporaryDirectory() as folder:
            async with af.Engine(Path(folder) / "runs.db", durability="process") as engine:
                yield lambda: engine.run(flow)

    return prepare


@asynccontextmanager
async def _served_in_turn(size: int) -> AsyncIterator[Work]:
    flow = flow_of(serving())
    async with af.Engine(keep=1) as engine:

        async def work() -> None:
            for _ in range(size):
                await engine.run(flow)

        yield work


@asynccontextmanager
async def _served_at_once(size: int) -> AsyncIterator[Work]:
    flow = flow_of(serving())
    async with af.Engine(keep=1) as engine:
        yield lambda: asyncio.gather(*(engine.run(flow) for _ in range(size)))


@asynccontextmanager
async def _served_durably(size: int) -> AsyncIterator[Work]:
    flow = flow_of(serving())
    with tempfile.TemporaryDirectory() as folder:
        async with af.Engine(Path(folder) / "runs.db", durability="process") as engine:
            yield lambda: asyncio.gather(*(engine.run(flow) for _ in range(size)))


@asynccontextmanager
async def _undone(size: int) -> AsyncIterator[Work]:
    flow = af.linear("undone", *(done.named(f"t{number}") for number in range(size)), bad)
    async with af.Engine(keep=1) as engine:

        async def work() -> None:
            with contextlib.suppress(af.RunFailed):
                await engine.run(flow)

        yield work


@asynccontextmanager
async def _declared(size: int) -> AsyncIterator[Work]:
    shape = chain(size)

    async def work() -> None:
        flow_of(shape).compile()

    yield work


FLOOR = "floor"
"""The case that has nothing of asyncflow in it."""

CASES = {
    FLOOR: Case(_floor, 200, 1_200),
    "chain": Case(_in_memory(chain), 200, 1_200),
    "fan": Case(_in_memory(fan), 200, 1_200),
    "plain-chain": Case(_in_memory(chain, body_now), 200, 1_200),
    "serving-in-turn": Case(_served_in_turn, 20, 100, "run"),
    "serving-at-once": Case(_served_at_once, 20, 100, "run"),
    "undoing": Case(_undone, 100, 500),
    "declaring": Case(_declared, 100, 500),
    "durable-chain": Case(_durable(chain), 100, 500),
    "durable-fan": Case(_durable(fan), 200, 1_200),
    "durable-serving": Case(_served_durably, 20, 100, "run"),
}


async def _measure(case: Case, repeats: int) -> list[float]:
    """Return the best of *repeats* at the small and at the large size, in seconds."""
    best: list[float] = []
    for size in (case.small, case.large):
        taken: list[float] = []
        async with case.prepare(size) as work:
            for _ in range(WARM_UPS):
                await work()
            for _ in range(repeats):
                # What is there already is no concern of a collection that the work sets off.
                gc.collect()
                gc.freeze()
                begun = time.perf_counter()
                mark()
                await work()
                mark()
                taken.append(time.perf_counter() - begun)
                gc.unfreeze()
        best.append(min(taken))
    return best


def main() -> None:
    """Measure the cases that are named; ``--repeats N`` takes the best of several."""
    names, repeats = sys.argv[1:], 1
    if "--repeats" in names:
        at = names.index("--repeats")
        repeats = int(names[at + 1])
        del names[at : at + 2]
    # Threads change places when one waits, and not after so many milliseconds either.
    sys.setswitchinterval(3600.0)
    with asyncio.Runner(loop_factory=Timeless) as runner:
        print(json.dumps({name: runner.run(_measure(CASES[name], repeats)) for name in names or CASES}))


if __name__ == "__main__":
    main()
