"""What does a task cost that is in the journal before anything depends on it, beside a bare commit?"""

from __future__ import annotations

import tempfile
from pathlib import Path

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.by_hand import BookOnLoop, ByHand
from benchmarks.floors import Commits
from benchmarks.flows import flow_of
from benchmarks.shapes import Shape, chain, fan

_CHAINS = {
    "process": Yardstick(120, 90),
    "full": Yardstick(1.5, 1.2, is_ratio=True),
    "lazy": Yardstick(9, 6),
}
_FANS = {"process": Yardstick(14, 8), "full": Yardstick(14, 8), "lazy": Yardstick(9, 6)}


async def ask(bench: Bench) -> None:
    """Measure chains and fans at each level."""
    with tempfile.TemporaryDirectory() as folder:
        for level in ("process", "full", "lazy"):
            for shape, yardstick in ((chain(1_000), _CHAINS[level]), (fan(1_000), _FANS[level])):
                await _at(bench, Path(folder), level, shape, yardstick)


async def _at(bench: Bench, folder: Path, level: str, shape: Shape, yardstick: Yardstick | None) -> None:
    name = f"{level}-{shape.name}".replace(" ", "-")
    flow, is_synced = flow_of(shape), level == "full"
    flow.compile()
    commits = Commits(folder / f"{name}-commits.db", is_synced=is_synced)
    book = BookOnLoop(folder / f"{name}-by-hand.db", is_synced=is_synced)
    by_hand = ByHand(shape, book)

    async def bare() -> None:
        commits.run(shape.size)

    async with af.Engine(folder / f"{name}.db", durability=level) as engine:
        works = {"engine": lambda: engine.run(flow), "bare": bare, "by hand": by_hand.run}
        taken = await bench.race(works, runs=min(bench.runs, 5))
    us = {who: [seconds / shape.size * 1e6 for seconds in values] for who, values in taken.items()}
    what = f"{shape.name}, {level}"
    bench.add(what, "us/task", us["engine"], floor=us["bare"], compared="bare commit", yardstick=yardstick)
    if level != "lazy":
        stick = Yardstick(1.0, 1.0, is_ratio=True)
        bench.add(
            f"{what}, against by hand", "us/task", us["engine"],
            floor=us["by hand"], compared="by hand (TaskGroup)", yardstick=stick,
        )  # fmt: skip
    await book.close()
    commits.close()
