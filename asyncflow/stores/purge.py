"""
Removes runs that nobody needs any more, in steps so small that no commit waits long behind one.

A commit may come between any two steps, and where many runs go on one always does; so each step takes as many small
runs together as it may, else runs would come faster than they go.

The first step takes the rows of some runs away, so a run is there wholly or not at all. A trigger notes their keys in
that same transaction, and what belonged to them goes in the steps that follow; who purges after a crash begins with
those notes. A blob or plan goes with the last run that uses it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from asyncflow.states import RunState
from asyncflow.stores.database import LendableConnection, transaction
from asyncflow.stores.reader import Reader
from asyncflow.stores.writer import Writer

T = TypeVar("T")

# What one step may take. Freeing the pages of a blob touches one page in 800, so a blob is cheaper than its size.
_RUNS = 64
_ROWS = 256
_RECORD_BYTES = 1 << 20
_BLOB_BYTES = 32 << 20
_PAGES = 256
_LOOKED_AT = 1 << 20
# Free pages that stay in the file, since the next runs want them: one in so many.
_ROOM = 16

STEP_LOG_BYTES = 1 << 20
"""How far the write-ahead log may grow by one step."""

_KEYS = "(SELECT value FROM json_each(?))"


class Purge:
    """Takes runs out of a file, through its one *writer*."""

    def __init__(self, writer: Writer, reader: Reader) -> None:
        self._writer = writer
        self._reader = reader

    async def run(self, before: float, states: Collection[RunState], told: Callable[[str], None]) -> None:
        """
        Remove what stands in one of *states* since *before* (POSIX seconds) and nobody alive owns; *told* hears of each
        run once it is gone.
        """
        await self._step(_drop_false_notes)
        await self._clear(await self._reader.purged())
        last = 0
        while page := await self._reader.ended(before, states, last):
            last = page[-1][0]
            due = [(key, owner or 0, epoch) for key, _, owner, epoch, is_due in page if is_due]
            run_ids = {key: run_id for key, run_id, *_ in page}
            for begin in range(0, len(due), _RUNS):
                # Those that went would not be among those that go if it were done again.
                gone = await self._step(_taking_out(due[begin : begin + _RUNS]), is_once=True)
                for key in gone:
                    told(run_ids[key])
                await self._clear(gone)
        while await self._step(_shrink):
            pass

    async def _clear(self, keys: Sequence[int]) -> None:
        """Remove all that is left of the runs that had these *keys*."""
        for begin in range(0, len(keys), _RUNS):
            few = json.dumps(keys[begin : begin + _RUNS])
            for clear in (_clear_records, _clear_blobs, _clear_plans):
                while await self._step(_of(clear, few)):
                    pass

    async def _step(self, step: Callable[[LendableConnection], T], *, is_once: bool = False) -> T:
        return await self._writer.run(step, log_bytes=STEP_LOG_BYTES, is_once=is_once)


def _drop_false_notes(connection: LendableConnection) -> bool:
    # A run that is there was not purged: it is the note that is damaged, and would cost the run its records.
    connection.execute("DELETE FROM purged WHERE run IN (SELECT key FROM runs)")
    return False


def _of(clear: Callable[[LendableConnection, str], bool], keys: str) -> Callable[[LendableConnection], bool]:
    return lambda connection: clear(connection, keys)


def _taking_out(runs: Sequence[tuple[int, int, int]]) -> Callable[[LendableConnection], list[int]]:
    """Take *runs* away, each given by its key, owner (0 for none) and epoch, and return the keys of those that went."""

    def take_out(connection: LendableConnection) -> list[int]:
        # As each was looked at: whoever has claimed it since has raised the epoch, and keeps it.
        rows = connection.execute(
            "DELETE FROM runs WHERE key IN (SELECT value FROM json_each(?)) AND (key, coalesce(owner, 0), epoch) IN ("
            "SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]') "
            "FROM json_each(?)) RETURNING key",
            (json.dumps([key for key, _, _ in runs]), json.dumps(runs)),
        ).fetchall()
        return [key for (key,) in rows]

    return take_out


def _clear_records(connection: LendableConnection, keys: str) -> bool:
    """Remove some records, and return whether there are more."""
    # The length is in the row's header, so a large body is not read for it.
    rows = connection.execute(
        f"SELECT run, number, length(body) FROM records WHERE run IN {_KEYS} ORDER BY run, number LIMIT ?",
        (keys, _ROWS),
    ).fetchall()
    if not rows:
        return False
    few = _first(rows, _RECORD_BYTES)
    # All of the runs before the last, and of that as far as it was looked at.
    run, number = few[-1]
    whole = json.dumps(sorted({run for run, _ in few} - {run}))
    connection.execute(f"DELETE FROM records WHERE run IN {_KEYS} OR (run = ? AND number <= ?)", (whole, run, number))
    return len(few) < len(rows) or len(rows) == _ROWS


def _clear_blobs(connection: LendableConnection, keys: str) -> bool:
    """Forget that the runs use some blobs, remove those that no other does, and return whether there are more."""
    rows = connection.execute(
        "SELECT u.run, u.blob, length(b.body) FROM uses AS u LEFT JOIN blobs AS b ON b.key = u.blob "
        f"WHERE u.run IN {_KEYS} ORDER BY u.run, u.blob LIMIT ?",
        (keys, _ROWS),
    ).fetchall()
    if not rows:
        return False
    few = _first(rows, _BLOB_BYTES)
    run, blob = few[-1]
    whole = json.dumps(sorted({run for run, _ in few} - {run}))
    # Both or neither: a blob that nothing names would never be found again.
    with transaction(connection):
        connection.execute(f"DELETE FROM uses WHERE run IN {_KEYS} OR (run = ? AND blob <= ?)", (whole, run, blob))
        connection.execute(
            f"DELETE FROM blobs WHERE key IN {_KEYS} AND NOT EXISTS (SELECT 1 FROM uses WHERE blob = blobs.key)",
            (json.dumps([blob for _, blob in few]),),
        )
    return len(few) < len(rows) or len(rows) == _ROWS


def _clear_plans(connection: LendableConnection, keys: str) -> bool:
    """Remove the plans that only these runs had, and the notes of the runs; return that nothing is left."""
    with transaction(connection):
        plans = connection.execute(
            f"SELECT plan FROM purged WHERE run IN {_KEYS} UNION SELECT plan FROM adoptions WHERE run IN {_KEYS}",
            (keys, keys),
        ).fetchall()
        connection.execute(f"DELETE FROM adoptions WHERE run IN {_KEYS}", (keys,))
        for plan in plans:
            connection.execute(
                "DELETE FROM plans AS p WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM runs WHERE plan = p.digest) "
                "AND NOT EXISTS (SELECT 1 FROM adoptions WHERE plan = p.digest)",
                plan,
            )
        connection.execute(f"DELETE FROM purged WHERE run IN {_KEYS}", (keys,))
    return False


def _shrink(connection: LendableConnection) -> bool:
    """Give some free pages back to the file system, and return whether there are more to give."""
    [(mode, free, pages)] = connection.execute(
        "SELECT auto_vacuum, freelist_count, page_count "
        "FROM pragma_auto_vacuum, pragma_freelist_count, pragma_page_count"
    )
    # A file that was made without it keeps its pages, and uses them again.
    if mode != 2 or free <= pages // _ROOM:
        return False
    # Each page that goes is looked up in the list of free ones, so a long list makes for small steps.
    few = max(8, min(_PAGES, _LOOKED_AT // free))
    # As a script, which is run to its end: a page goes with each row that is asked for, and Python 3.11 asks for the
    # first alone of a statement that has no columns.
    connection.executescript(f"PRAGMA incremental_vacuum({few})")
    return True


def _first(rows: list[tuple[int, int, int | None]], most_bytes: int) -> list[tuple[int, int]]:
    """Return the names of the first of *rows* that have no more than *most_bytes* together, one at least."""
    found: list[tuple[int, int]] = []
    size_bytes = 0
    for run, name, length in rows:
        size_bytes += length or 0
        if found and size_bytes > most_bytes:
            break
        found.append((run, name))
    return found
