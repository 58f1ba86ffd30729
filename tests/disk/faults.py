"""A disk that fails at a chosen statement, for all connections of this process."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import aiosqlite
import attrs

from asyncflow.stores import database


@attrs.frozen
class Fault:
    """
    How a statement fails: with this code of SQLite, *is_done* all the same, and *stays* so for those that follow.

    What has been done nevertheless is what a failed fsync leaves: it is in the file, for now.
    """

    name: str
    code: int
    is_done: bool = False
    stays: bool = False


FAULTS = [
    Fault("full", sqlite3.SQLITE_FULL),
    Fault("full for long", sqlite3.SQLITE_FULL, stays=True),
    Fault("EIO", sqlite3.SQLITE_IOERR_WRITE),
    Fault("EIO for long", sqlite3.SQLITE_IOERR_WRITE, stays=True),
    Fault("busy", sqlite3.SQLITE_BUSY),
    Fault("busy for long", sqlite3.SQLITE_BUSY, stays=True),
    Fault("fsync", sqlite3.SQLITE_IOERR_FSYNC),
    Fault("fsync with effect", sqlite3.SQLITE_IOERR_FSYNC, is_done=True),
]


@attrs.define
class Disk:
    """Counts statements, and lets the *n*-th fail as *fault* says; 0 lets all pass."""

    fault: Fault
    n: int = 0
    count: int = 0

    async def ask(self, connection: aiosqlite.Connection, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have *fn* called in the thread of *connection*, or not."""
        # What is wanted, without the lock around it.
        wanted = args[1] if fn.__name__ == "around" else partial(fn, *args)
        if wanted.func.__name__ == "close":
            return await _ask(connection, fn, *args, **kwargs)
        self.count += 1
        fails = self.n and (self.count == self.n or (self.fault.stays and self.count > self.n))
        # Nothing is written by going back, and SQLite can always do it.
        if not fails or wanted.args[:1] == ("ROLLBACK",):
            return await _ask(connection, fn, *args, **kwargs)
        if self.fault.is_done:
            await _ask(connection, fn, *args, **kwargs)
        error = sqlite3.OperationalError(f"a test lets it fail: {self.fault.name}")
        error.sqlite_errorcode = self.fault.code
        raise error


_ask = aiosqlite.Connection._execute


@contextmanager
def installed(disk: Disk) -> Iterator[Disk]:
    """Have every connection of this process ask *disk*, and nobody wait for a lock that stays."""
    patience = database.PATIENCE
    aiosqlite.Connection._execute = (  # type: ignore[method-assign]
        lambda connection, *args, **kwargs: disk.ask(connection, *args, **kwargs)  # type: ignore[assignment,misc]
    )
    if disk.fault.stays:
        # So that it gives up at the first try.
        database.PATIENCE = 0.0
    try:
        yield disk
    finally:
        aiosqlite.Connection._execute = _ask  # type: ignore[method-assign]
        database.PATIENCE = patience
