"""What does a task cost in a flow of 100,000, beside one in a flow of 1,000?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.flows import flow_of
from benchmarks.shapes import Shape, chain, fan

SMALL, LARGE = 1_000, 100_000


async def ask(bench: Bench) -> None:
    """Run chains and fans of both sizes in turns, in memory and durable."""
    large = 2_000 if bench.is_quick else LARGE
    for name, shape_of in (("chain", chain), ("fan", fan)):
        async with af.Engine(keep=1) as engine:
            await _scale(bench, engine, f"{name}, memory", shape_of, large)
        with tempfile.TemporaryDirectory() as folder:
            async with af.Engine(Path(folder) / "runs.db", durability="process") as engine:
                await _scale(bench, engine, f"{name}, process", shape_of, large)


async def _scale(bench: Bench, engine: af.Engine, what: str, shape_of: Callable[[int], Shape], large: int) -> None:
    few, many = flow_of(shape_of(SMALL)), flow_of(shape_of(large))
    few.compile()
    many.compile()

    async def small_runs() -> None:
        for _ in range(10):
            await engine.run(few)

    taken = await bench.race({"small": small_runs, "large": lambda: engine.run(many)}, runs=min(bench.runs, 2))
    bench.add(
        f"{large:,} in a {what}", "us/task", [seconds / large * 1e6 for seconds in taken["large"]],
        floor=[seconds / SMALL / 10 * 1e6 for seconds in taken["small"]],
        compared=f"in one of {SMALL:,}", yardstick=Yardstick(1.3, 1.15, is_ratio=True),
    )  # fmt: skip
