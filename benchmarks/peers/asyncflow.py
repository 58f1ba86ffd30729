"""asyncflow itself, on the same work."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncflow as af
from benchmarks.flows import flow_of
from benchmarks.peers.workload import (
    FULL,
    MEMORY,
    PROCESS,
    RESUMED,
    Prepare,
    Work,
    Workload,
    fuse,
    leave_half,
    of_shapes,
)
from benchmarks.shapes import Shape, chain

ABOUT = "one engine for all runs; flows compiled before"


def version() -> str:
    """Return what was measured."""
    return af.__version__


@asynccontextmanager
async def _engine(where: str) -> AsyncIterator[af.Engine]:
    with tempfile.TemporaryDirectory() as folder:
        path = None if where == MEMORY else Path(folder) / "runs.db"
        async with af.Engine(path, durability=PROCESS if where == MEMORY else where, keep=1) as engine:
            yield engine


def _shaped(shape_of: Callable[[int], Shape], where: str) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        flow = flow_of(shape_of(size))
        flow.compile()
        async with _engine(where) as engine:
            yield lambda: engine.run(flow)

    return prepare


@af.task
async def fused(*values: Any) -> int:
    """Do nothing, unless the fuse has burnt down."""
    fuse.burn()
    return len(values)


async def die_half_way(folder: Path, size: int) -> None:
    """Run a chain in *folder*, and die in the middle of it."""
    fuse.set(size // 2)
    async with af.Engine(folder / "runs.db") as engine:
        await engine.run(flow_of(chain(size), fused), run_id="half")


@asynccontextmanager
async def _half_done(size: int) -> AsyncIterator[Work]:
    flow = flow_of(chain(size), fused)
    flow.compile()
    with tempfile.TemporaryDirectory() as folder:
        await leave_half("asyncflow", Path(folder), size)

        async def work() -> None:
            async with af.Engine(Path(folder) / "runs.db") as engine:
                await engine.resume("half", flow)

        yield work


def workloads() -> list[Workload]:
    """Return what it can do."""
    found: list[Workload] = []
    for where in (MEMORY, PROCESS, FULL):
        found += of_shapes(where, functools.partial(_shaped, where=where))
    found.append(Workload("resume of a half", FULL, RESUMED, _half_done, is_fresh=True))
    return found
