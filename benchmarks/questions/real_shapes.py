"""How much longer than its critical path does a real workflow take?"""

from __future__ import annotations

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.flows import flow_of
from benchmarks.shapes import REAL, real


async def ask(bench: Bench) -> None:
    """Run four real workflows, scaled so that the critical path takes 200 ms."""
    async with af.Engine(keep=1) as engine:
        for name in REAL:
            shape = real(name, 0.2)
            flow = flow_of(shape)
            flow.compile()
            taken = await bench.race({"engine": lambda flow=flow: engine.run(flow)})  # type: ignore[misc]
            ms = [seconds * 1e3 for seconds in taken["engine"]]
            stick = Yardstick(1.05, 1.02, is_ratio=True)
            what = f"{name}, {shape.size} tasks"
            bench.add(what, "ms", ms, floor=[200.0], compared="critical path", yardstick=stick)
