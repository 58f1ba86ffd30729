"""How long does a wide flow of tiny tasks keep the application waiting?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.flows import flow_of
from benchmarks.shapes import fan


async def ask(bench: Bench) -> None:
    """Let a ticker run beside a fan of 10,000 tasks, in memory and durable."""
    size = 1_000 if bench.is_quick else 10_000
    flow = flow_of(fan(size))
    flow.compile()
    with tempfile.TemporaryDirectory() as folder:
        for where, path in (("memory", None), ("process", Path(folder) / "runs.db")):
            async with af.Engine(path, durability="process") as engine:
                gaps: list[float] = []
                for _ in range(min(bench.runs, 5)):
                    over = asyncio.Event()
                    ticker = asyncio.ensure_future(_tick(gaps, over))
                    await engine.run(flow)
                    over.set()
                    await ticker
            worst = sorted(gaps)[int(len(gaps) * 0.99)] * 1e3
            bench.add(f"loop latency beside a fan of {size:,}, {where}, p99", "ms", [worst], yardstick=Yardstick(5, 5))


async def _tick(gaps: list[float], over: asyncio.Event) -> None:
    while not over.is_set():
        begun = time.perf_counter()
        await asyncio.sleep(0)
        gaps.append(time.perf_counter() - begun)
