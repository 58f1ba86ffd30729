"""How long does a purge hold up the runs that go on?"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncflow as af
from asyncflow.stores import purge
from benchmarks.bench import Bench, Yardstick


@af.task(executor="inline")
def large(size_bytes: int) -> bytes:
    """Give something large to be kept."""
    return os.urandom(size_bytes)


@af.task(executor="inline")
def step(last: Any) -> int:
    """Give something small."""
    return 1


async def ask(bench: Bench) -> None:
    """Purge 20 values of 10 MB and 20 runs of 500 tasks beside a run that commits all the time."""
    values, size_bytes, runs = (2, 1_000_000, 2) if bench.is_quick else (20, 10_000_000, 20)
    keeping = af.linear("keeping", *(large.named(f"t{number}") for number in range(values)))
    many = af.unordered("many", *(step.named(f"t{number}") for number in range(500)))
    steps: list[float] = []
    waits: list[float] = []
    take = purge.Purge._step

    async def timed(self: purge.Purge, act: Any) -> Any:
        async def timing(database: Any) -> Any:
            begun = time.perf_counter()
            more = await act(database)
            steps.append((time.perf_counter() - begun) * 1e3)
            return more

        return await self._writer.run(timing, log_bytes=purge.STEP_LOG_BYTES)

    with tempfile.TemporaryDirectory() as folder:
        async with af.Engine(Path(folder) / "runs.db", durability="process") as engine:
            await engine.run(keeping, {"size_bytes": size_bytes})
            for _ in range(runs):
                await engine.run(many, {"last": None})
            over = asyncio.Event()
            live = asyncio.ensure_future(_commit(engine, waits, over))
            purge.Purge._step = timed  # type: ignore[method-assign,assignment]
            try:
                await engine.purge(older_than=0)
            finally:
                purge.Purge._step = take  # type: ignore[method-assign]
                over.set()
                await live
    bench.add("the slowest step of a purge", "ms", [max(steps)], yardstick=Yardstick(50, 20))
    bench.add("a run of one task beside it, p99", "ms", [sorted(waits)[int(len(waits) * 0.99)]])


async def _commit(engine: af.Engine, waits: list[float], over: asyncio.Event) -> None:
    one = af.linear("one", step)
    while not over.is_set():
        begun = time.perf_counter()
        await engine.run(one, {"last": None})
        waits.append((time.perf_counter() - begun) * 1e3)
