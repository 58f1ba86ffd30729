"""
Records that are made in the commit that keeps them, with what a function of the user's writes beside them.

Each is in a savepoint of its own, which holds the function's writes and the record, so that one that fails is taken
back alone. Several share a commit, and none shares one with ordinary appends: whatever a function does, it cannot lose
what another run has appended. A process that dies leaves all of a commit or nothing, since SQLite does.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping
from typing import TypeGuard

import attrs

from asyncflow.errors import AsyncflowError
from asyncflow.interfaces import Make
from asyncflow.messages import Record
from asyncflow.outcomes import Failure
from asyncflow.stores.commit import KEEP_BLOB, USE_BLOB
from asyncflow.stores.database import Database, LendableConnection, in_plain_words, transaction
from asyncflow.stores.line import Line, not_written, overtaken
from asyncflow.stores.loan import SAVEPOINT, lent
from asyncflow.stores.seal import seal_record

_KEEP_RECORD = "INSERT INTO records(run, number, at, body, checksum, state) VALUES (?, ?, ?, ?, ?, NULL)"

# Few, since others wait while their functions run.
_BATCH_FUNCTIONS = 64

# Whoever raised these, the disk is in trouble: the run stops and can be resumed, instead of failing. That a database is
# damaged is said of many a one; of ours, the statements beside the function say it.
_TROUBLE = frozenset((sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR))


class Overtaken(Exception):
    """The run has another epoch than the one under which it was claimed."""


class Undone(Exception):
    """All that shared a transaction has been rolled back, because of one; the others are to be done again."""

    def __init__(self, culprit: JointAppend, result: Result) -> None:
        super().__init__()
        self.culprit = culprit
        self.result = result


@attrs.define(eq=False)
class JointAppend:
    """A record to be made in its own commit. ``waiter`` is whose who appends, and may be cancelled."""

    line: Line
    make: Make
    encode: Callable[[Record], bytes]
    waiter: asyncio.Future[Record | Failure]

    @property
    def is_next(self) -> bool:
        """Whether all that was appended to the run before is in the file, or was refused."""
        return self.line.last is None or self.line.last.is_settled

    @property
    def is_told(self) -> bool:
        """Whether who appends has been told."""
        return self.waiter.done() and not self.waiter.cancelled()

    def answer(self, answer: Record | Failure | AsyncflowError) -> None:
        """Tell who appends what has been kept, or why nothing was."""
        waiter = self.waiter
        if waiter.done():
            return  # cancelled: nobody waits any more
        if isinstance(answer, AsyncflowError):
            waiter.set_exception(answer)
            waiter.exception()  # the line keeps the error, so a waiter that nobody awaits hides nothing
        else:
            waiter.set_result(answer)


@attrs.frozen
class Kept:
    """A record that was kept, and how many bytes it has with its blobs."""

    record: Record
    size_bytes: int


Result = Kept | Failure | Exception
"""A record that was kept, the failure in which the function ended, or why the run cannot go on."""


@attrs.define(eq=False)
class Joint:
    """
    What is to be made in commits of its own, in the file that is shown as ``path``: what is ``waiting``, and what is in
    the ``batch`` of one commit, until everybody in that has been told.
    """

    path: str
    waiting: list[JointAppend] = attrs.field(factory=list)
    batch: list[JointAppend] = attrs.field(factory=list)

    @property
    def has_work(self) -> bool:
        """Whether there is something to commit, or somebody to be told."""
        return bool(self.waiting or self.batch)

    @property
    def is_synced(self) -> bool:
        """Whether the disk is to be waited for."""
        return any(append.line.durability == "full" for append in self.batch)

    def take(self) -> bool:
        """Make a batch of those before which everything is settled, and return whether there are any."""
        batch: list[JointAppend] = []
        waiting: list[JointAppend] = []
        for append in self.waiting:
            if append.line.error is not None:
                append.answer(append.line.refusal())
            else:
                (batch if append.is_next and len(batch) < _BATCH_FUNCTIONS else waiting).append(append)
        # In this order: what an interrupt leaves in both is refused when it comes up again.
        self.batch = batch
        self.waiting = waiting
        return bool(batch)

    def tell(self, results: Mapping[JointAppend, Result]) -> int:
        """Tell everybody in the batch how that went, and return how many bytes were kept."""
        size_bytes = 0
        for append in self.batch:
            line, result = append.line, results[append]
            if append.is_told:
                continue  # of what has come of it in truth, before an interrupt
            if isinstance(result, Kept):
                line.next += 1
                size_bytes += result.size_bytes
                append.answer(result.record)
            elif isinstance(result, Failure):
                append.answer(result)
            else:
                if line.error is None:
                    line.error = self._reason(line, result)
                append.answer(line.refusal())
        self.batch = []
        return size_bytes

    def _reason(self, line: Line, error: Exception) -> AsyncflowError:
        if isinstance(error, Overtaken):
            return overtaken(line.run_id, self.path)
        return in_plain_words(error, self.path) if isinstance(error, sqlite3.Error) else not_written(error, self.path)


async def commit(database: Database, batch: list[JointAppend]) -> tuple[dict[JointAppend, Result], int]:
    """
    Make and keep a record of each in *batch*; return the result of each, and how many rows were changed in all.

    Raises:
        StoreError: None of it was kept.
    """
    results: dict[JointAppend, Result] = {}
    left = list(batch)
    while True:
        try:
            return results, await database.call(_keep, left, results)
        except Undone as undone:
            results[undone.culprit] = undone.result
            left.remove(undone.culprit)


def _keep(connection: LendableConnection, batch: list[JointAppend], results: dict[JointAppend, Result]) -> int:
    """Do what :func:`commit` does, in the connection's thread; it may be called again if it raises."""
    before = connection.total_changes
    with transaction(connection):
        numbers: dict[Line, int] = {}
        for append in batch:
            number = numbers.get(append.line, append.line.next)
            results[append] = result = _keep_one(connection, append, number)
            numbers[append.line] = number + isinstance(result, Kept)
    return connection.total_changes - before


def _keep_one(connection: LendableConnection, append: JointAppend, number: int) -> Result:
    key, epoch = append.line.key, append.line.epoch
    # Looked at first: a function is not called for a run that is another's by now.
    if not connection.execute("SELECT 1 FROM runs WHERE key = ? AND epoch = ?", (key, epoch)).fetchall():
        return Overtaken()
    connection.execute(f"SAVEPOINT {SAVEPOINT}")
    try:
        with lent(connection):
            record, blobs = append.make(connection)
    except BaseException as error:
        if _is_trouble(error):
            raise Undone(append, error) from error
        if not connection.in_transaction:
            raise Undone(append, Failure(error)) from error
        connection.execute(f"ROLLBACK TO {SAVEPOINT}")
        _release(connection)
        return Failure(error)
    body = append.encode(record)
    try:
        connection.execute(
            _KEEP_RECORD, (key, number, record.at, body, seal_record(key, number, record.at, None, body))
        )
        for digest, blob in blobs.items():
            connection.execute(KEEP_BLOB, (digest, blob))
            connection.execute(USE_BLOB, (key, digest))
        _release(connection)
    except sqlite3.Error as error:
        raise Undone(append, error) from error
    return Kept(record, len(body) + sum(map(len, blobs.values())))


def _release(connection: LendableConnection) -> None:
    try:
        connection.execute(f"RELEASE {SAVEPOINT}")
    except sqlite3.OperationalError:
        # As a rule a statement that writes is still open, and nothing can be committed before it is closed.
        connection.close_strays()
        connection.execute(f"RELEASE {SAVEPOINT}")


def _is_trouble(error: BaseException) -> TypeGuard[sqlite3.Error]:
    return isinstance(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _TROUBLE
