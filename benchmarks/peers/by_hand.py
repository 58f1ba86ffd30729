"""What a competent user would write: ``graphlib`` for the order, an ``asyncio.TaskGroup``, an inlined commit a task."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.floors import ByHand
from benchmarks.peers.workload import FULL, MEMORY, PROCESS, RUNS, TASKS, Prepare, Work, Workload, at_once, in_turn
from benchmarks.shapes import Shape, chain, fan, serving

ABOUT = "forty lines with graphlib and asyncio.TaskGroup; durable by a commit in the loop's own thread, without resume"


def version() -> str:
    """Return what was measured."""
    return ""


def _shaped(shape_of: Callable[[int], Shape], where: str) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        with tempfile.TemporaryDirectory() as folder:
            file = None if where == MEMORY else Path(folder) / "done.db"
            by_hand = ByHand(shape_of(size), file, is_synced=where == FULL)
            yield by_hand.run
            by_hand.close()

    return prepare


def _served(how: Callable[[Work, int], Work], where: str) -> Prepare:
    @asynccontextmanager
    async def prepare(count: int) -> AsyncIterator[Work]:
        async with _shaped(lambda _: serving(), where)(count) as one:
            yield how(one, count)

    return prepare


def workloads() -> list[Workload]:
    """Return what it can do."""
    found: list[Workload] = []
    for where in (MEMORY, PROCESS, FULL):
        found += [
            Workload("chain", where, TASKS, _shaped(chain, where)),
            Workload("fan", where, TASKS, _shaped(fan, where)),
            Workload("serving in turn", where, RUNS, _served(in_turn, where)),
            Workload("serving at once", where, RUNS, _served(at_once, where)),
        ]
    return found
