"""How much longer than its critical path does a real workflow take?"""

from __future__ import annotations

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.by_hand import ByHand
from benchmarks.flows import flow_of
from benchmarks.shapes import REAL, real


async def ask(bench: Bench) -> None:
    """Run four real workflows, scaled so that the critical path takes 200 ms."""
    async with af.Engine(keep=1) as engine:
        for name in REAL:
            shape = real(name, 0.2)
            flow = flow_of(shape)
            flow.compile()
            by_hand = ByHand(shape)
            taken = await bench.race(
                {"engine": lambda flow=flow: engine.run(flow), "by hand": by_hand.run}  # type: ignore[misc]
            )
            ms, floor = ([seconds * 1e3 for seconds in taken[who]] for who in ("engine", "by hand"))
            stick = Yardstick(1.05, 1.02, is_ratio=True)
            what = f"{name}, {shape.size} tasks"
            bench.add(what, "ms", ms, floor=[200.0], compared="critical path", yardstick=stick)
            # A loop's timers are late by up to a millisecond each, for whoever sleeps.
            bench.add(f"{what}, against by hand", "ms", ms, floor=floor, compared="by hand (TaskGroup)")
