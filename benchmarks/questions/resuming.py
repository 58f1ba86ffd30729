"""How long after ``resume()`` does a run that was killed half way start its first task?"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import asyncflow as af
from asyncflow import Happening
from benchmarks.bench import Bench, Yardstick
from benchmarks.flows import flow_of
from benchmarks.shapes import chain

started: list[float] = []
"""When the first body was called since this was emptied."""


@af.task
async def noting(*values: int) -> int:
    """Do nothing, and note when the first did."""
    if not started:
        started.append(time.perf_counter())
    return len(values)


async def ask(bench: Bench) -> None:
    """Leave runs of 1,000 tasks half done, and take each up again."""
    flow, size = flow_of(chain(1_000), noting), 1_000
    flow.compile()
    waited: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(bench.runs + 1):
            path = Path(folder) / f"{number}.db"
            await _half(path, flow, size)
            async with af.Engine(path, durability="process") as engine:
                started.clear()
                begun = time.perf_counter()
                await engine.resume("half", flow)
                if number:
                    waited.append((started[0] - begun) * 1e3)
    bench.add("resume to the first start, 500 of 1,000 done", "ms", waited, yardstick=Yardstick(10, 3))


async def _half(path: Path, flow: af.Flow[[], int], size: int) -> None:
    done = 0
    async with af.Engine(path, durability="process") as engine:
        run = await engine.start(flow, run_id="half")

        def count(happening: Happening) -> None:
            nonlocal done
            done += 1
            if done == size // 2:
                run.suspend(grace=0.0)

        engine.observe(count, kinds="AttemptSucceeded", run_id="half")
        try:
            await run
        except af.RunSuspended:
            return
    raise RuntimeError("the run was not left half way")
