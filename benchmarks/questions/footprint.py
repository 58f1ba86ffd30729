"""How much memory does a task take that waits for its inputs, and one whose body is suspended?"""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable

import asyncflow as af
from asyncflow.machine.run import RunMachine
from benchmarks.bench import Bench, Yardstick
from benchmarks.flows import flow_of
from benchmarks.shapes import chain


async def ask(bench: Bench) -> None:
    """Take the difference that tracemalloc sees."""
    size = 1_000 if bench.is_quick else 100_000
    flow = flow_of(chain(size))
    plan_bytes = _grown(flow.compile) / size
    plan = flow.compile()
    kept: list[RunMachine] = []
    state_bytes = _grown(lambda: kept.append(RunMachine(plan))) / size
    bench.add("a task that waits, of a run", "B/task", [state_bytes], yardstick=Yardstick(100, 60))
    bench.add("a task that waits, with its plan", "B/task", [state_bytes + plan_bytes], yardstick=Yardstick(500, 350))
    suspended = await _suspended(size // 10)
    bench.add("a task whose body is suspended", "B/task", [suspended], yardstick=Yardstick(2_000, 1_600))


def _grown(make: Callable[[], object]) -> int:
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    make()
    gc.collect()
    after = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return after - before


async def _suspended(size: int) -> float:
    let_go, all_wait, begun = asyncio.Event(), asyncio.Event(), 0

    @af.task
    async def waits() -> None:
        nonlocal begun
        begun += 1
        if begun == size:
            all_wait.set()
        await let_go.wait()

    flow = af.unordered("waiters", *(waits.named(f"t{number}") for number in range(size)))
    flow.compile()
    async with af.Engine() as engine:
        gc.collect()
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        run = await engine.start(flow)
        await all_wait.wait()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        let_go.set()
        await run
    return grown / size
