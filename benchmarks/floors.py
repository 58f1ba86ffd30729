"""What the same work costs at least: the bare mechanism in memory, bare commits in a file, ``asyncio.gather``."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.shapes import Shape


async def trivial(*values: Any) -> int:
    """Do nothing, as a task would."""
    return len(values)


def trivial_now(*values: Any) -> int:
    """Do nothing, as a plain function would."""
    return len(values)


class Bare:
    """
    The mechanism alone: one asyncio task a body, eager where there is such a thing, whichever is ready.

    No error is handled, nothing can be cancelled, retried, undone or looked at.
    """

    def __init__(self, shape: Shape) -> None:
        self._before = shape.before
        self._after: list[list[int]] = [[] for _ in shape.before]
        for task, before in enumerate(shape.before):
            for one in before:
                self._after[one].append(task)
        self._pending = list(map(len, shape.before))

    async def run(self) -> Any:
        """Do the work, and return the value of the last task."""
        before, after, pending, loop = self._before, self._after, self._pending[:], asyncio.get_running_loop()
        values: list[Any] = [None] * len(before)
        ready = [task for task, count in enumerate(pending) if not count]
        while ready:
            task = ready.pop()
            body = trivial(*[values[one] for one in before[task]])
            if sys.version_info >= (3, 12):
                values[task] = asyncio.Task(body, loop=loop, eager_start=True).result()
            else:
                values[task] = await asyncio.Task(body, loop=loop)
            for one in after[task]:
                pending[one] -= 1
                if not pending[one]:
                    ready.append(one)
        return values[-1]


def pragmas(*, is_synced: bool) -> tuple[str, str]:
    """Return the statements that have SQLite keep a write-ahead log, and sync each commit or none."""
    return "PRAGMA journal_mode = WAL", f"PRAGMA synchronous = {'FULL' if is_synced else 'NORMAL'}"


class Commits:
    """Single-statement commits in a file, one after the other: what a durable chain costs at least."""

    def __init__(self, file: Path, *, is_synced: bool) -> None:
        self._database = sqlite3.connect(file, isolation_level=None)
        for pragma in pragmas(is_synced=is_synced):
            self._database.execute(pragma)
        self._database.execute("CREATE TABLE records(run INTEGER, number INTEGER, body BLOB)")

    def run(self, count: int, body: bytes = b"x" * 60) -> None:
        """Make *count* commits of one row."""
        for number in range(count):
            self._database.execute("INSERT INTO records VALUES (1, ?, ?)", (number, body))

    def close(self) -> None:
        """Let the file go."""
        self._database.close()


async def gathered(seconds: Sequence[float]) -> None:
    """Sleep all of *seconds* at once."""
    await asyncio.gather(*map(asyncio.sleep, seconds))
