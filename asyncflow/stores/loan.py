"""
The connection that a journal is written through, lent to a function of the user's within a transaction.

Whatever the function does must be undone if its transaction is, and nothing that belongs to the journal may change. So
for the time of the loan SQLite asks, whenever it prepares a statement, whether that may be. Statements prepared before
are prepared again when an authorizer is set, and so are asked about too.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Generator
from typing import Any

from asyncflow.errors import TransactionMisuse
from asyncflow.stores import schema
from asyncflow.stores.database import LendableConnection

SAVEPOINT = "asyncflow"
"""What a loan can be rolled back to."""

TABLES = frozenset(
    name for step in schema.STEPS for statement in step for name in re.findall(r"^CREATE TABLE (\w+)", statement)
)
"""The journal's own tables."""

_OURS = TABLES | {"sqlite_sequence"}  # from which its keys are, which are never used again; SQLite makes it by itself

_READING = frozenset(
    (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE),
)
_TEMPORARY = frozenset(
    (
        sqlite3.SQLITE_CREATE_TEMP_TABLE,
        sqlite3.SQLITE_CREATE_TEMP_INDEX,
        sqlite3.SQLITE_CREATE_TEMP_TRIGGER,
        sqlite3.SQLITE_CREATE_TEMP_VIEW,
    )
)
# Pragmas that only tell, and those that do so where they are given no value; full-text tables ask for some.
_TELLING = frozenset(
    ("table_info", "table_xinfo", "table_list", "index_list", "index_info", "index_xinfo", "foreign_key_list")
)
_ASKED = frozenset(("data_version", "page_size", "page_count", "user_version"))


@contextlib.contextmanager
def lent(connection: LendableConnection) -> Generator[None, None, None]:
    """
    Let a function of the user's have *connection*, which is in a transaction, for the time of a block.

    Raises:
        TransactionMisuse: The function did what it may not, or the transaction is over.
    """
    guard = _Guard(connection)
    rows, text = connection.row_factory, connection.text_factory
    # Python begins a transaction by itself then, should SQLite have ended ours (INSERT OR ROLLBACK, a full disk). The
    # guard refuses that, so nothing can be written outside of it.
    connection.isolation_level = "IMMEDIATE"
    connection.lend(guard)
    try:
        yield
    except sqlite3.DatabaseError as error:
        # In those words also where the error code is another, as within the statements that SQLite runs for DDL.
        if guard.refusal is not None and str(error) == "not authorized":
            raise TransactionMisuse(guard.refusal) from error
        raise
    finally:
        connection.take_back()
        connection.row_factory, connection.text_factory = rows, text
    if not connection.in_transaction:
        raise TransactionMisuse(
            "a transaction was rolled back in its middle (by OR ROLLBACK, RAISE(ROLLBACK) in a trigger, or SQLite on a "
            "full disk) and went on; let the exception that told so go on, or raise one to take it back"
        )


class _Guard:
    """Answers SQLite what may be done with a connection that is lent, and remembers what it has refused last."""

    __slots__ = ("_connection", "refusal")

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.refusal: str | None = None

    def __call__(self, action: int, first: Any, second: Any, database: Any, source: Any) -> int:
        """Return whether SQLite may go on; what *first* and *second* are depends on the *action*."""
        if action in _READING:
            return sqlite3.SQLITE_OK
        refusal = self._refusal(action, str(first or "").lower(), str(second or "").lower())
        if refusal is None:
            return sqlite3.SQLITE_OK
        self.refusal = refusal
        return sqlite3.SQLITE_DENY

    def _refusal(self, action: int, first: str, second: str) -> str | None:
        if not self._connection.in_transaction:
            return "a transaction went on after SQLite had rolled it back; let the exception that told so go on"
        if action == sqlite3.SQLITE_TRANSACTION:
            return (
                f"a transaction cannot {first.upper()} by itself (nor can commit(), rollback(), executescript() or "
                "'with connection' do it): it is committed with its task's ending, and rolled back if it raises"
            )
        if action == sqlite3.SQLITE_SAVEPOINT and second == SAVEPOINT:
            return f"a transaction cannot use a savepoint {SAVEPOINT!r}, which is the engine's; take another name"
        if action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH):
            return (
                "a transaction is of one file, the journal's, and cannot attach or detach another; open that by itself "
                "in the body, with the idempotency key"
            )
        if action == sqlite3.SQLITE_PRAGMA and first not in _TELLING and (second or first not in _ASKED):
            return f"a transaction cannot change the connection, so PRAGMA {first} is not for it"
        if action in _TEMPORARY:
            return f"a transaction cannot make {first!r} temporary, which would outlive it; make an ordinary one"
        if action == sqlite3.SQLITE_CREATE_TABLE and first == "sqlite_sequence":
            return None
        if action != sqlite3.SQLITE_PRAGMA and not _OURS.isdisjoint((first, second)):
            ours = first if first in _OURS else second
            return f"table {ours!r} is the journal's own, and a transaction can only read it; name yours otherwise"
        return None
