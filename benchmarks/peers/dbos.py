"""DBOS, its system database in SQLite."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from dbos import DBOS, SetWorkflowID

from benchmarks.peers.workload import (
    FULL,
    RESUMED,
    RUNS,
    TASKS,
    Prepare,
    Work,
    Workload,
    at_once,
    fuse,
    in_turn,
    leave_half,
)
from benchmarks.shapes import serving

# Its SQLite keeps a rollback journal and syncs each commit: nothing in DBOS sets either.
ABOUT = "async workflows of async steps; the system database in SQLite as DBOS sets it up"
_SERVING = serving()


def version() -> str:
    """Return what was measured."""
    return version_of("dbos")


@DBOS.step()  # type: ignore[untyped-decorator]
async def step(*values: int) -> int:
    """Do nothing, unless the fuse has burnt down."""
    fuse.burn()
    return len(values)


@DBOS.workflow()  # type: ignore[untyped-decorator]
async def chain(size: int) -> int:
    """Give each step the value of the one before."""
    value: int = await step()
    for _ in range(size - 1):
        value = await step(value)
    return value


@DBOS.workflow()  # type: ignore[untyped-decorator]
async def fan(size: int) -> int:
    """Give the value of the first to all at once, and theirs to the last."""
    first = await step()
    values = await asyncio.gather(*(step(first) for _ in range(size - 2)))
    last: int = await step(*values)
    return last


@DBOS.workflow()  # type: ignore[untyped-decorator]
async def served() -> int:
    """Take the nine steps, at once what can be, in the order in which they become ready."""
    values: dict[int, int] = {}
    while len(values) < _SERVING.size:
        ready = [
            task
            for task, before in enumerate(_SERVING.before)
            if task not in values and all(one in values for one in before)
        ]
        given = await asyncio.gather(*(step(*(values[one] for one in _SERVING.before[task])) for task in ready))
        values.update(zip(ready, given, strict=True))
    return values[_SERVING.size - 1]


def _launch(folder: Path) -> None:
    config: Any = {
        "name": "peer",
        "system_database_url": f"sqlite:///{folder / 'system.db'}",
        "application_version": "1",
        "log_level": "ERROR",
        "run_admin_server": False,
        "enable_otlp": False,
    }
    if sqlite3.sqlite_version_info < (3, 42):
        # Its tables use a function that older libraries lack; this one brings a library of its own.
        import pysqlite3

        config["db_engine_kwargs"] = {"module": pysqlite3}
    DBOS(config=config)
    DBOS.launch()


@asynccontextmanager
async def _launched() -> AsyncIterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        _launch(Path(folder))
        try:
            yield
        finally:
            DBOS.destroy()


def _shaped(flow: Callable[[int], Any]) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        async with _launched():
            yield lambda: flow(size)

    return prepare


def _served(how: Callable[[Work, int], Work]) -> Prepare:
    @asynccontextmanager
    async def prepare(count: int) -> AsyncIterator[Work]:
        async with _launched():
            yield how(served, count)

    return prepare


async def die_half_way(folder: Path, size: int) -> None:
    """Run a chain in *folder*, and die in the middle of it."""
    _launch(folder)
    fuse.set(size // 2)
    with SetWorkflowID("half"):
        await chain(size)


@asynccontextmanager
async def _half_done(size: int) -> AsyncIterator[Work]:
    with tempfile.TemporaryDirectory() as folder:
        await leave_half("dbos", Path(folder), size)

        async def work() -> None:
            _launch(Path(folder))  # recovers by itself what was under way
            handle: Any = await DBOS.retrieve_workflow_async("half")
            await handle.get_result(polling_interval_sec=0.01)

        try:
            yield work
        finally:
            DBOS.destroy()


def workloads() -> list[Workload]:
    """Return what it can do."""
    return [
        Workload("chain", FULL, TASKS, _shaped(chain)),
        Workload("fan", FULL, TASKS, _shaped(fan)),
        Workload("serving in turn", FULL, RUNS, _served(in_turn)),
        Workload("serving at once", FULL, RUNS, _served(at_once)),
        Workload("resume of a half", FULL, RESUMED, _half_done, is_fresh=True),
    ]
