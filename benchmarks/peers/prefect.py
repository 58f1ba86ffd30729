"""Prefect, with the server that it starts for itself and that keeps states in SQLite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version as version_of
from typing import Any

from prefect import flow, task

from benchmarks.peers.workload import MEMORY, RUNS, TASKS, Prepare, Work, Workload, at_once, in_turn

# The server hears of states, later; values are kept only on request. A run is not taken up again where it stood.
ABOUT = "async tasks awaited in an async flow, gathered where they can be; its own server on this machine, logs off"


def version() -> str:
    """Return what was measured."""
    return version_of("prefect")


@task  # type: ignore[untyped-decorator]
async def body(*values: int) -> int:
    """Do nothing."""
    return len(values)


@flow  # type: ignore[untyped-decorator]
async def chain(size: int) -> int:
    """Give each task the value of the one before."""
    value: int = await body()
    for _ in range(size - 1):
        value = await body(value)
    return value


@flow  # type: ignore[untyped-decorator]
async def fan(size: int) -> int:
    """Give the value of the first to all at once, and theirs to the last."""
    first = await body()
    values = await asyncio.gather(*(body(first) for _ in range(size - 2)))
    last: int = await body(*values)
    return last


@flow  # type: ignore[untyped-decorator]
async def served() -> int:
    """Take the nine tasks, at once what can be."""
    parsed = await body()
    user, black = await asyncio.gather(body(parsed), body(parsed))
    one, two = await asyncio.gather(body(user, black), body(user, black))
    value: int = await body(one, two)
    for _ in range(3):
        value = await body(value)
    return value


def _shaped(whole: Callable[[int], Any]) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        await chain(1)  # starts the server
        yield lambda: whole(size)

    return prepare


def _served(how: Callable[[Work, int], Work]) -> Prepare:
    @asynccontextmanager
    async def prepare(count: int) -> AsyncIterator[Work]:
        await chain(1)  # starts the server
        yield how(served, count)

    return prepare


def workloads() -> list[Workload]:
    """Return what it can do."""
    return [
        Workload("chain", MEMORY, TASKS, _shaped(chain)),
        Workload("fan", MEMORY, TASKS, _shaped(fan)),
        Workload("serving in turn", MEMORY, RUNS, _served(in_turn)),
        Workload("serving at once", MEMORY, RUNS, _served(at_once)),
    ]
