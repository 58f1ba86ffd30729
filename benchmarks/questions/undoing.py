"""What does it cost to undo a run, and to have a flow run again?"""

from __future__ import annotations

import contextlib

import asyncflow as af
from benchmarks.bench import Bench


@af.task
async def done() -> None:
    """Be done."""


@done.revert
async def undone() -> None:
    """Be undone."""


@af.task
async def bad() -> None:
    """Fail."""
    raise ValueError


async def ask(bench: Bench) -> None:
    """Undo 1,000 tasks, and run a flow of 100 tasks 100 times."""
    size, rounds = (100, 10) if bench.is_quick else (1_000, 100)
    undo = af.linear("undo", *(done.named(f"t{number}") for number in range(size)), bad)
    again = af.linear("again", *(done.named(f"t{number}") for number in range(100)), bad, retry=af.Times(rounds))
    async with af.Engine(keep=1) as engine:

        async def fails(flow: af.Flow[..., object]) -> None:
            with contextlib.suppress(af.RunFailed):
                await engine.run(flow)

        taken = await bench.race({"undo": lambda: fails(undo), "again": lambda: fails(again)}, runs=min(bench.runs, 5))
    bench.add(f"run and undo {size:,} tasks", "us/task", [one / size * 1e6 for one in taken["undo"]])
    what = f"run and undo 100 tasks {rounds} times"
    bench.add(what, "us/task", [one / rounds / 100 * 1e6 for one in taken["again"]])
