"""How fast are runs of a small graph served, one after the other and many at once, and how late is the slowest?"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.by_hand import ByHand
from benchmarks.floors import Bare
from benchmarks.flows import flow_of
from benchmarks.shapes import serving


async def ask(bench: Bench) -> None:
    """Measure nine tasks 1,000 times: in memory, and durable at two levels."""
    count = 100 if bench.is_quick else 1_000
    with tempfile.TemporaryDirectory() as folder:
        async with af.Engine(keep=1) as engine:
            await _serve(bench, engine, "memory", count, Yardstick(40, 27), Yardstick(50, 35))
        for level in ("process", "full"):
            async with af.Engine(Path(folder) / f"{level}.db", durability=level) as engine:
                stick = Yardstick(200, 120) if level == "process" else None
                await _serve(bench, engine, level, count, None, stick)


async def _serve(
    bench: Bench, engine: af.Engine, where: str, count: int, alone: Yardstick | None, together: Yardstick | None
) -> None:
    flow, bare, by_hand = flow_of(serving()), Bare(serving()), ByHand(serving())
    late: list[float] = []

    async def in_turn() -> None:
        for _ in range(count):
            await engine.run(flow)

    async def bare_in_turn() -> None:
        for _ in range(count):
            await bare.run()

    async def by_hand_in_turn() -> None:
        for _ in range(count):
            await by_hand.run()

    async def one() -> None:
        begun = time.perf_counter()
        await engine.run(flow)
        late.append(time.perf_counter() - begun)

    async def at_once() -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    works = {"turn": in_turn, "once": at_once}
    if where == "memory":
        works |= {"bare": bare_in_turn, "by hand": by_hand_in_turn}
    taken = await bench.race(works, runs=min(bench.runs, 5))
    us = {name: [seconds / count * 1e6 for seconds in values] for name, values in taken.items()}
    floor, compared = us.get("bare"), "bare" if "bare" in us else ""
    for name, what, stick in (("turn", "in turn", alone), ("once", "at once", together)):
        bench.add(f"serving {what}, {where}", "us/run", us[name], floor=floor, compared=compared, yardstick=stick)
    if "by hand" in us:
        bench.add(
            f"serving in turn, {where}, against by hand", "us/run", us["turn"],
            floor=us["by hand"], compared="by hand (TaskGroup)", yardstick=Yardstick(1.0, 1.0, is_ratio=True),
        )  # fmt: skip
    bench.add(f"serving at once, {where}, p99 latency", "ms", [sorted(late)[int(len(late) * 0.99)] * 1e3])
