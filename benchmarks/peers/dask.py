"""Dask's distributed scheduler, with its worker in the same process."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version as version_of
from typing import Any

from distributed import Client

from benchmarks.peers.workload import MEMORY, Prepare, Work, Workload, of_shapes
from benchmarks.shapes import Shape

ABOUT = (
    "Client(processes=False, asynchronous=True): scheduler and one worker in the process; a graph is sent as a whole"
)
_RUNS = itertools.count()


def version() -> str:
    """Return what was measured."""
    return version_of("distributed")


def body(*values: int) -> int:
    """Do nothing."""
    return len(values)


def _graph(shape: Shape) -> tuple[dict[str, Any], str]:
    # What has been computed under a name is not computed again, so each run has names of its own.
    run = next(_RUNS)
    graph = {
        f"r{run}-t{task}": (body, *(f"r{run}-t{one}" for one in before)) for task, before in enumerate(shape.before)
    }
    return graph, f"r{run}-t{shape.size - 1}"


@asynccontextmanager
async def _client() -> AsyncIterator[Any]:
    async with Client(
        processes=False, asynchronous=True, n_workers=1, threads_per_worker=2, dashboard_address=None
    ) as client:
        yield client


def _shaped(shape_of: Callable[[int], Shape]) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        shape = shape_of(size)
        async with _client() as client:

            async def work() -> None:
                graph, last = _graph(shape)
                await client.get(graph, last, sync=False, optimize_graph=False)

            yield work

    return prepare


def workloads() -> list[Workload]:
    """Return what it can do."""
    return of_shapes(MEMORY, _shaped)
