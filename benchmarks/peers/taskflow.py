"""OpenStack TaskFlow, its books in SQLite through SQLAlchemy."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from taskflow import engines, task
from taskflow.patterns import graph_flow
from taskflow.persistence import backends, models

from benchmarks.peers.workload import FULL, MEMORY, RESUMED, Prepare, Work, Workload, fuse, leave_half, of_shapes
from benchmarks.shapes import Shape, chain

# Bodies that do nothing leave nothing for threads to share: in them the parallel engine is slower.
ABOUT = "a graph flow in the serial engine, loaded and compiled for each run; durable with the SQLAlchemy backend"
_BOOKS = itertools.count()


def version() -> str:
    """Return what was measured."""
    return version_of("taskflow")


class Body(task.Task):  # type: ignore[misc]
    """Does nothing, unless the fuse has burnt down."""

    def execute(self, **values: int) -> int:
        """Return how many values it was given."""
        fuse.burn()
        return len(values)


def _flow(shape: Shape) -> Any:
    flow = graph_flow.Flow("shape")
    for number, before in enumerate(shape.before):
        flow.add(Body(f"t{number}", provides=f"v{number}", requires=[f"v{one}" for one in before]))
    return flow


def _in_memory(shape_of: Callable[[int], Shape]) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        flow = _flow(shape_of(size))

        async def work() -> None:
            engines.load(flow, engine="serial").run()

        yield work

    return prepare


@contextlib.contextmanager
def _backend(folder: Path) -> Any:
    backend = backends.fetch({"connection": f"sqlite:///{folder / 'books.db'}"})
    with contextlib.closing(backend):
        with contextlib.closing(backend.get_connection()) as connection:
            connection.upgrade()
        yield backend


def _new_run(backend: Any, flow: Any, uuid: str | None = None) -> Any:
    book, detail = models.LogBook(f"book-{next(_BOOKS)}", uuid=uuid), models.FlowDetail("run", uuid=f"{uuid}-run")
    if uuid is None:
        detail = models.FlowDetail("run", uuid=f"run-{book.uuid}")
    book.add(detail)
    with contextlib.closing(backend.get_connection()) as connection:
        connection.save_logbook(book)
    return engines.load(flow, engine="serial", flow_detail=detail, book=book, backend=backend)


def _durable(shape_of: Callable[[int], Shape]) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        flow = _flow(shape_of(size))
        with tempfile.TemporaryDirectory() as folder, _backend(Path(folder)) as backend:

            async def work() -> None:
                _new_run(backend, flow).run()

            yield work

    return prepare


async def die_half_way(folder: Path, size: int) -> None:
    """Run a chain in *folder*, and die in the middle of it."""
    fuse.set(size // 2)
    with _backend(folder) as backend:
        _new_run(backend, _flow(chain(size)), "half").run()


@asynccontextmanager
async def _half_done(size: int) -> AsyncIterator[Work]:
    with tempfile.TemporaryDirectory() as folder:
        await leave_half("taskflow", Path(folder), size)

        async def work() -> None:
            with _backend(Path(folder)) as backend:
                with contextlib.closing(backend.get_connection()) as connection:
                    book = connection.get_logbook("half")
                detail = book.find("half-run")
                engines.load(_flow(chain(size)), engine="serial", flow_detail=detail, book=book, backend=backend).run()

        yield work


def workloads() -> list[Workload]:
    """Return what it can do."""
    return [
        *of_shapes(MEMORY, _in_memory, is_concurrent=False),
        *of_shapes(FULL, _durable, is_concurrent=False),
        Workload("resume of a half", FULL, RESUMED, _half_done, is_fresh=True),
    ]
