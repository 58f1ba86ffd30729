"""A disk that fails at a chosen statement, for all connections of this process."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from asyncflow.stores import database
from asyncflow.stores.database import LendableConnection


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

    def ask(self, connection: LendableConnection, *args: Any) -> sqlite3.Cursor:
        """Have *connection* run a statement, or not."""
        # Nothing is written by going back, and SQLite can always do it. What a function of the user's runs in a
        # transaction is its own affair.
        if connection._cursors is not None or args[0].startswith("ROLLBACK"):
            return _execute(connection, *args)
        self.count += 1
        if not self.n or not (self.count == self.n or (self.fault.stays and self.count > self.n)):
            return _execute(connection, *args)
        if self.fault.is_done:
            _execute(connection, *args).fetchall()
        error = sqlite3.OperationalError(f"a test lets it fail: {self.fault.name}")
        error.sqlite_errorcode = self.fault.code
        raise error


_execute = LendableConnection.execute


@contextmanager
def installed(disk: Disk) -> Iterator[Disk]:
    """Have every connection of this process ask *disk*, and nobody wait for a lock that stays."""
    patience = database.PATIENCE
    LendableConnection.execute = lambda connection, *args: disk.ask(connection, *args)  # type: ignore[method-assign]
    if disk.fault.stays:
        # So that it gives up at the first try.
        database.PATIENCE = 0.0
    try:
        yield disk
    finally:
        LendableConnection.execute = _execute  # type: ignore[method-assign]
        database.PATIENCE = patience
