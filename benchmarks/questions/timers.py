"""Do a thousand runs that wait for their next attempt cost anything?"""

from __future__ import annotations

import asyncio
import time

import asyncflow as af
from benchmarks.bench import Bench


@af.task(retry=af.Retry(2, af.Fixed(0.2), on=(ValueError,)))
async def second_time(ctx: af.Context) -> None:
    """Succeed at the second try."""
    if ctx.attempt == 1:
        raise ValueError


retried = af.linear("retried", second_time)


async def ask(bench: Bench) -> None:
    """Start 1,000 runs that all try again after 200 ms, and see how late the last one ends."""
    count = 50 if bench.is_quick else 1_000
    late: list[float] = []
    async with af.Engine(keep=1) as engine:
        for _ in range(min(bench.runs, 5)):
            begun = time.perf_counter()
            runs = [await engine.start(retried) for _ in range(count)]
            started = time.perf_counter()
            await asyncio.gather(*runs)
            late.append((time.perf_counter() - started - 0.2) * 1e3)
    bench.add(f"{count:,} runs with timers, lateness of the last", "ms", late)
    bench.add(f"{count:,} runs with timers, starting each", "us/run", [(started - begun) / count * 1e6])
