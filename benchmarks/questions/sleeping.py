"""Do 10,000 tasks that wait at the same time wait longer than ``asyncio.gather`` has them wait?"""

from __future__ import annotations

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.floors import gathered
from benchmarks.flows import flow_of
from benchmarks.shapes import Shape


async def ask(bench: Bench) -> None:
    """Sleep 10 ms in each of 10,000 independent tasks."""
    size = 100 if bench.is_quick else 10_000
    seconds = [0.01] * size
    flow = flow_of(Shape("sleepers", [()] * size, seconds))
    flow.compile()
    async with af.Engine(keep=1) as engine:
        taken = await bench.race({"engine": lambda: engine.run(flow), "gather": lambda: gathered(seconds)})
    ms = {name: [one * 1e3 for one in values] for name, values in taken.items()}
    stick = Yardstick(1.3, 1.1, is_ratio=True)
    what = f"{size:,} tasks that sleep 10 ms"
    bench.add(what, "ms", ms["engine"], floor=ms["gather"], compared="asyncio.gather", yardstick=stick)
