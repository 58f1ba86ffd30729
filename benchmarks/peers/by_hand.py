"""What a competent user would write: ``graphlib`` for the order, an ``asyncio.TaskGroup``, an inlined commit a task."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.floors import ByHand
from benchmarks.peers.workload import FULL, MEMORY, PROCESS, Prepare, Work, Workload, of_shapes
from benchmarks.shapes import Shape

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


def workloads() -> list[Workload]:
    """Return what it can do."""
    found: list[Workload] = []
    for where in (MEMORY, PROCESS, FULL):
        found += of_shapes(where, functools.partial(_shaped, where=where))
    return found
