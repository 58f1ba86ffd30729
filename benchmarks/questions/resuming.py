"""How long after ``resume()`` does a run that was left half way start its first task?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.flows import flow_of
from benchmarks.shapes import chain

_SIZE = 1_000
_started: list[float] = []
"""When each body was called since this was emptied."""
_is_half_done = asyncio.Event()


@af.task
async def noting(*values: int) -> int:
    """Do nothing, and note when that was; where the half is done before, wait to be stopped."""
    _started.append(time.perf_counter())
    if len(_started) > _SIZE // 2 and not _is_half_done.is_set():
        _is_half_done.set()
        await asyncio.Event().wait()
    return len(values)


async def ask(bench: Bench) -> None:
    """Leave runs of 1,000 tasks half done, and take each up again."""
    flow = flow_of(chain(_SIZE), noting)
    flow.compile()
    waited: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(bench.runs + 1):
            path = Path(folder) / f"{number}.db"
            await _leave_half(path, flow)
            async with af.Engine(path, durability="process") as engine:
                _started.clear()
                begun = time.perf_counter()
                await engine.resume("half", flow)
                if number:
                    waited.append((_started[0] - begun) * 1e3)
    bench.add("resume to the first start, 500 of 1,000 done", "ms", waited, yardstick=Yardstick(10, 3))


async def _leave_half(path: Path, flow: af.Flow[[], int]) -> None:
    _started.clear()
    _is_half_done.clear()
    async with af.Engine(path, durability="process") as engine:
        run = await engine.start(flow, run_id="half")
        await _is_half_done.wait()
        run.suspend(grace=0.0)
        try:
            await run
        except af.RunSuspended:
            return
    raise RuntimeError("the run was not left half way")
