"""LangGraph, its checkpoints in SQLite through ``AsyncSqliteSaver``."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, StateGraph

from benchmarks.peers.workload import FULL, MEMORY, RESUMED, Prepare, Work, Workload, fuse, leave_half, of_shapes
from benchmarks.shapes import Shape, chain

# SQLite syncs each commit unless it is told otherwise, and nobody here tells it.
ABOUT = (
    'a StateGraph of async nodes, compiled before; durable with AsyncSqliteSaver and durability="async", its default'
)
_THREADS = itertools.count()


def version() -> str:
    """Return what was measured."""
    return version_of("langgraph")


def _later(old: int, new: int) -> int:
    return new


class State(TypedDict):
    """The last value; of several at once, any."""

    value: Annotated[int, _later]


async def node(state: State) -> State:
    """Do nothing, unless the fuse has burnt down."""
    fuse.burn()
    return {"value": 1}


def _graph(shape: Shape, saver: Any = None) -> Any:
    graph: Any = StateGraph(State)
    leaves = set(range(shape.size))
    for task, before in enumerate(shape.before):
        graph.add_node(f"t{task}", node)
        if len(before) > 1:
            graph.add_edge([f"t{one}" for one in before], f"t{task}")
        else:
            graph.add_edge(f"t{before[0]}" if before else START, f"t{task}")
        leaves -= set(before)
    for task in leaves:
        graph.add_edge(f"t{task}", END)
    return graph.compile(checkpointer=saver)


def _config(shape: Shape, thread: object) -> Any:
    return {"recursion_limit": shape.size + 10, "configurable": {"thread_id": str(thread)}}


def _in_memory(shape_of: Callable[[int], Shape]) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        shape = shape_of(size)
        graph, config = _graph(shape), _config(shape, "none")
        yield lambda: graph.ainvoke({"value": 0}, config)

    return prepare


def _durable(shape_of: Callable[[int], Shape]) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        shape = shape_of(size)
        with tempfile.TemporaryDirectory() as folder:
            async with AsyncSqliteSaver.from_conn_string(str(Path(folder) / "checkpoints.db")) as saver:
                graph = _graph(shape, saver)
                yield lambda: graph.ainvoke({"value": 0}, _config(shape, next(_THREADS)), durability="async")

    return prepare


async def die_half_way(folder: Path, size: int) -> None:
    """Run a chain in *folder*, and die in the middle of it."""
    shape = chain(size)
    fuse.set(size // 2)
    async with AsyncSqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as saver:
        # With "async" one checkpoint of these nodes is there by then, and nothing to go on from.
        await _graph(shape, saver).ainvoke({"value": 0}, _config(shape, "half"), durability="sync")


@asynccontextmanager
async def _half_done(size: int) -> AsyncIterator[Work]:
    shape = chain(size)
    with tempfile.TemporaryDirectory() as folder:
        await leave_half("langgraph", Path(folder), size)

        async def work() -> None:
            async with AsyncSqliteSaver.from_conn_string(str(Path(folder) / "checkpoints.db")) as saver:
                await _graph(shape, saver).ainvoke(None, _config(shape, "half"), durability="async")

        yield work


def workloads() -> list[Workload]:
    """Return what it can do."""
    return [
        *of_shapes(MEMORY, _in_memory),
        *of_shapes(FULL, _durable),
        Workload("resume of a half", FULL, RESUMED, _half_done, is_fresh=True),
    ]
