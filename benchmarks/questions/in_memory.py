"""What does a task cost in memory, beyond the bare mechanism that runs it?"""

from __future__ import annotations

import sys

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.by_hand import ByHand
from benchmarks.floors import Bare
from benchmarks.flows import body_now, flow_of
from benchmarks.peers.workload import in_turn
from benchmarks.shapes import Shape, chain, fan, layers

JUDGED = (1_000, 10_000)
"""Sizes that have a yardstick: a run of 10 is mostly what a run costs, and :mod:`scaling` judges 100,000."""

# Python 3.11 has no eager tasks of its own, so that the floor is another there, and less was asked for.
_HAS_EAGER_TASKS = sys.version_info >= (3, 12)
_CHAIN = Yardstick(2.2, 1.65, is_ratio=True) if _HAS_EAGER_TASKS else Yardstick(10, 8)
_FAN = Yardstick(1.8, 1.45, is_ratio=True) if _HAS_EAGER_TASKS else Yardstick(10, 8)


async def ask(bench: Bench) -> None:
    """Measure chains, fans and layers of trivial tasks, compiled before."""
    async with af.Engine(keep=1) as engine:
        for size in bench.sizes(10, 1_000, 10_000, 100_000):
            await _beside_the_floor(bench, engine, chain(size), _CHAIN if size in JUDGED else None)
        for size in bench.sizes(10, 1_000, 10_000, 100_000):
            await _beside_the_floor(bench, engine, fan(size), _FAN if size in JUDGED else None)
        await _beside_the_floor(bench, engine, layers(30, 30, 30), Yardstick(9.0, 6.5))
        await _beside_the_floor(bench, engine, layers(30, 30, 3), Yardstick(5.0, 3.5))
        shape = chain(1_000)
        plain, async_ = flow_of(shape, body_now), flow_of(shape)
        taken = await bench.race({"plain": lambda: engine.run(plain), "async": lambda: engine.run(async_)})
        us = {name: [seconds / shape.size * 1e6 for seconds in values] for name, values in taken.items()}
        stick = Yardstick(0.5, 0.5, is_ratio=True)
        bench.add(
            f"{shape.name}, plain def inline", "us/task", us["plain"],
            floor=us["async"], compared="async bodies", yardstick=stick,
        )  # fmt: skip


async def _beside_the_floor(bench: Bench, engine: af.Engine, shape: Shape, yardstick: Yardstick | None) -> None:
    flow, bare, by_hand = flow_of(shape), Bare(shape), ByHand(shape)
    flow.compile()
    runs = bench.runs if shape.size < 50_000 else 3
    # A run of few tasks is over too soon to be timed alone.
    times = max(1, 1_000 // shape.size)
    works = {"engine": lambda: engine.run(flow), "bare": bare.run, "by hand": by_hand.run}
    taken = await bench.race({name: in_turn(work, times) for name, work in works.items()}, runs=runs)
    us = {name: [seconds / times / shape.size * 1e6 for seconds in values] for name, values in taken.items()}
    bench.add(shape.name, "us/task", us["engine"], floor=us["bare"], compared="bare", yardstick=yardstick)
    bench.add(
        f"{shape.name}, against by hand", "us/task", us["engine"],
        floor=us["by hand"], compared="by hand (TaskGroup)", yardstick=Yardstick(1.0, 1.0, is_ratio=True),
    )  # fmt: skip
