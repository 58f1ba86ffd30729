"""What a competent user would write: ``graphlib`` for the order, a ``TaskGroup`` for safety, a commit a task."""

from __future__ import annotations

import asyncio
import graphlib
import json
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import aiosqlite

from benchmarks.floors import pragmas, trivial
from benchmarks.shapes import Shape

_TABLES = (
    "CREATE TABLE IF NOT EXISTS runs(id TEXT PRIMARY KEY, is_over INTEGER NOT NULL DEFAULT 0)",
    "CREATE TABLE IF NOT EXISTS done(run TEXT, task INTEGER, value TEXT, PRIMARY KEY (run, task)) WITHOUT ROWID",
)
_BEGIN = "INSERT OR IGNORE INTO runs(id) VALUES (?)"
_DONE = "SELECT task, value FROM done WHERE run = ?"
_KEEP = "INSERT INTO done VALUES (?, ?, ?)"
_END = "UPDATE runs SET is_over = 1 WHERE id = ?"


class Book(Protocol):
    """Where runs keep the values of what is done."""

    async def begin(self, run: str) -> dict[int, Any]:
        """Make *run* known if it is not, and return the values that it has by task."""

    async def keep(self, run: str, task: int, value: Any) -> None:
        """Return once a value is kept."""

    async def end(self, run: str) -> None:
        """Note that nothing of *run* is left to do."""

    async def close(self) -> None:
        """Let the file go."""


class BookOnLoop:
    """A book in SQLite, which keeps the event loop for as long as each commit takes."""

    def __init__(self, file: Path, *, is_synced: bool) -> None:
        self._database = sqlite3.connect(file, isolation_level=None)
        for statement in (*pragmas(is_synced=is_synced), *_TABLES):
            self._database.execute(statement)

    async def begin(self, run: str) -> dict[int, Any]:
        """Make *run* known if it is not, and return the values that it has by task."""
        self._database.execute(_BEGIN, (run,))
        return {task: json.loads(value) for task, value in self._database.execute(_DONE, (run,))}

    async def keep(self, run: str, task: int, value: Any) -> None:
        """Commit a value."""
        self._database.execute(_KEEP, (run, task, json.dumps(value)))

    async def end(self, run: str) -> None:
        """Note that nothing of *run* is left to do."""
        self._database.execute(_END, (run,))

    async def close(self) -> None:
        """Let the file go."""
        self._database.close()


class BookInThread:
    """A book in SQLite that keeps nobody waiting but whoever asks: by ``aiosqlite``, in a thread of its own."""

    def __init__(self, database: aiosqlite.Connection) -> None:
        self._database = database

    @classmethod
    async def open(cls, file: Path, *, is_synced: bool) -> BookInThread:
        """Open *file*."""
        database = await aiosqlite.connect(file, isolation_level=None)
        for statement in (*pragmas(is_synced=is_synced), *_TABLES):
            await database.execute(statement)
        return cls(database)

    async def begin(self, run: str) -> dict[int, Any]:
        """Make *run* known if it is not, and return the values that it has by task."""
        await self._database.execute(_BEGIN, (run,))
        rows = await self._database.execute_fetchall(_DONE, (run,))
        return {task: json.loads(value) for task, value in rows}

    async def keep(self, run: str, task: int, value: Any) -> None:
        """Commit a value."""
        await self._database.execute(_KEEP, (run, task, json.dumps(value)))

    async def end(self, run: str) -> None:
        """Note that nothing of *run* is left to do."""
        await self._database.execute(_END, (run,))

    async def close(self) -> None:
        """Let the file go."""
        await self._database.close()


class ByHand:
    """Runs of a shape; with a *book*, a run that was left half way goes on from there."""

    def __init__(self, shape: Shape, book: Book | None = None, body: Callable[..., Awaitable[Any]] = trivial) -> None:
        self._shape = shape
        self._book = book
        self._body = body
        self._runs = 0

    async def run(self, run: str = "") -> Any:
        """Do the work, or what is left of a *run* that was begun before, and return the value of the last task."""
        before, seconds, book, body = self._shape.before, self._shape.seconds, self._book, self._body
        if not run:
            self._runs += 1
            run = f"run-{self._runs}"
        values = {} if book is None else await book.begin(run)
        order = graphlib.TopologicalSorter(dict(enumerate(before)))
        order.prepare()

        async with asyncio.TaskGroup() as group:

            async def work(task: int) -> None:
                if seconds:
                    await asyncio.sleep(seconds[task])
                values[task] = value = await body(*[values[one] for one in before[task]])
                if book is not None:
                    await book.keep(run, task, value)
                go_on(task)

            def go_on(*done: int) -> None:
                order.done(*done)
                ready = list(order.get_ready())
                while ready:
                    task = ready.pop()
                    if task in values:
                        order.done(task)
                        ready += order.get_ready()
                    else:
                        group.create_task(work(task))

            go_on()
        if book is not None:
            await book.end(run)
        return values[len(before) - 1]
