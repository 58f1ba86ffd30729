"""How long do a wide flow of tiny tasks, and a long one that commits each, keep the application waiting?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.flows import flow_of
from benchmarks.shapes import chain, fan


async def ask(bench: Bench) -> None:
    """Let a ticker run beside a fan of 10,000 tasks and a chain of 1,000, in memory and durable."""
    wide, long = (fan(1_000), chain(100)) if bench.is_quick else (fan(10_000), chain(1_000))
    with tempfile.TemporaryDirectory() as folder:
        for shape, where in ((wide, "memory"), (wide, "process"), (long, "process"), (long, "full")):
            flow = flow_of(shape)
            flow.compile()
            path = None if where == "memory" else Path(folder) / f"{where}.db"
            async with af.Engine(path, durability="process" if path is None else where) as engine:
                gaps: list[float] = []
                for _ in range(min(bench.runs, 5)):
                    over = asyncio.Event()
                    ticker = asyncio.ensure_future(_tick(gaps, over))
                    await engine.run(flow)
                    over.set()
                    await ticker
            worst = sorted(gaps)[int(len(gaps) * 0.99)] * 1e3
            bench.add(f"loop latency beside a {shape.name}, {where}, p99", "ms", [worst], yardstick=Yardstick(5, 5))


async def _tick(gaps: list[float], over: asyncio.Event) -> None:
    while not over.is_set():
        begun = time.perf_counter()
        await asyncio.sleep(0)
        gaps.append(time.perf_counter() - begun)
