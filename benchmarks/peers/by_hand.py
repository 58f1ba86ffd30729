"""What a competent user would write, its commits in the loop's own thread."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.by_hand import Book, BookOnLoop, ByHand
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

ABOUT = (
    "eighty lines with graphlib and asyncio.TaskGroup; durable by a commit a task in the loop's own thread, without "
    "owners, checksums, or starts on record"
)


OpenBook = Callable[[Path, bool], Awaitable[Book]]
"""Opens a file, synced or not."""


def version() -> str:
    """Return what was measured."""
    return ""


async def _on_loop(file: Path, is_synced: bool) -> Book:
    return BookOnLoop(file, is_synced=is_synced)


def _in_memory(shape_of: Callable[[int], Shape]) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        yield ByHand(shape_of(size)).run

    return prepare


def _durable(shape_of: Callable[[int], Shape], open_book: OpenBook, is_synced: bool) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        with tempfile.TemporaryDirectory() as folder:
            book = await open_book(Path(folder) / "runs.db", is_synced)
            try:
                yield ByHand(shape_of(size), book).run
            finally:
                await book.close()

    return prepare


async def _fused(*values: Any) -> int:
    fuse.burn()
    return len(values)


async def _run_half(folder: Path, size: int, open_book: OpenBook) -> None:
    book = await open_book(folder / "runs.db", True)
    try:
        await ByHand(chain(size), book, _fused).run("half")
    finally:
        await book.close()


def _half_done(peer: str, open_book: OpenBook) -> Prepare:
    @asynccontextmanager
    async def prepare(size: int) -> AsyncIterator[Work]:
        with tempfile.TemporaryDirectory() as folder:
            await leave_half(peer, Path(folder), size)
            yield lambda: _run_half(Path(folder), size, open_book)

    return prepare


async def die_half_way(folder: Path, size: int, open_book: OpenBook = _on_loop) -> None:
    """Run a chain in *folder*, and die in the middle of it."""
    fuse.set(size // 2)
    await _run_half(folder, size, open_book)


def durable_workloads(peer: str, open_book: OpenBook) -> list[Workload]:
    """Return what can be done with such books."""
    found: list[Workload] = []
    for where in (PROCESS, FULL):
        found += of_shapes(where, functools.partial(_durable, open_book=open_book, is_synced=where == FULL))
    return [*found, Workload("resume of a half", FULL, RESUMED, _half_done(peer, open_book), is_fresh=True)]


def workloads() -> list[Workload]:
    """Return what it can do."""
    return [*of_shapes(MEMORY, _in_memory), *durable_workloads("by_hand", _on_loop)]
