"""
Removes runs that nobody needs any more, in steps so small that no commit waits long behind one.

The first step takes the run's row away, so a run is there wholly or not at all. A trigger notes its key in that same
transaction, and what belonged to it goes in the steps that follow; who purges after a crash begins with those notes.
A blob or plan goes with the last run that uses it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from asyncflow.states import RunState
from asyncflow.stores.database import Database
from asyncflow.stores.reader import Reader
from asyncflow.stores.writer import Writer

T = TypeVar("T")

# What one step may take. Freeing the pages of a blob touches one page in 800, so a blob is cheaper than its size.
_ROWS = 256
_RECORD_BYTES = 1 << 20
_BLOB_BYTES = 32 << 20
_PAGES = 256
_PAGE_BYTES = 4096
_LOOKED_AT = 1 << 20
# Free pages that stay in the file, since the next runs want them: one in so many.
_ROOM = 16


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
        for key in await self._reader.purged():
            await self._clear(key)
        last = 0
        while page := await self._reader.ended(before, states, last):
            for last, run_id, owner, epoch, is_due in page:
                if is_due and await self._step(_taking_out(last, owner, epoch)):
                    told(run_id)
                    await self._clear(last)
        while await self._step(_shrink, _PAGES * _PAGE_BYTES):
            pass

    async def _clear(self, key: int) -> None:
        """Remove all that is left of the run that had this *key*."""
        for clear in (_clear_records, _clear_blobs, _clear_plans):
            while await self._step(_of(clear, key), _RECORD_BYTES):
                pass

    async def _step(self, step: Callable[[Database], Awaitable[bool]], log_bytes: int = 0) -> bool:
        return await self._writer.run(step, log_bytes=log_bytes)


async def _drop_false_notes(database: Database) -> bool:
    # A run that is there was not purged: it is the note that is damaged, and would cost the run its records.
    await database.fetch("DELETE FROM purged WHERE run IN (SELECT key FROM runs)")
    return False


def _of(clear: Callable[[Database, int], Awaitable[bool]], key: int) -> Callable[[Database], Awaitable[bool]]:
    return lambda database: clear(database, key)


def _taking_out(key: int, owner: int | None, epoch: int) -> Callable[[Database], Awaitable[bool]]:
    async def take_out(database: Database) -> bool:
        # As it was looked at: whoever has claimed it since has raised the epoch, and keeps it.
        return bool(
            await database.fetch(
                "DELETE FROM runs WHERE key = ? AND owner IS ? AND epoch = ? RETURNING key", (key, owner, epoch)
            )
        )

    return take_out


async def _clear_records(database: Database, key: int) -> bool:
    """Remove some records, and return whether there are more."""
    # The length is in the row's header, so a large body is not read for it.
    rows = await database.fetch(
        "SELECT number, length(body) FROM records WHERE run = ? ORDER BY number LIMIT ?", (key, _ROWS)
    )
    if not rows:
        return False
    few = _first(rows, _RECORD_BYTES)
    await database.fetch("DELETE FROM records WHERE run = ? AND number <= ?", (key, few[-1]))
    return len(few) < len(rows) or len(rows) == _ROWS


async def _clear_blobs(database: Database, key: int) -> bool:
    """Forget that the run uses some blobs, remove those that no other does, and return whether there are more."""
    rows = await database.fetch(
        "SELECT u.blob, length(b.body) FROM uses AS u LEFT JOIN blobs AS b ON b.key = u.blob "
        "WHERE u.run = ? ORDER BY u.blob LIMIT ?",
        (key, _ROWS),
    )
    if not rows:
        return False
    few = _first(rows, _BLOB_BYTES)
    # Both or neither: a blob that nothing names would never be found again.
    async with database.transaction():
        await database.fetch("DELETE FROM uses WHERE run = ? AND blob <= ?", (key, few[-1]))
        await database.fetch(
            "DELETE FROM blobs WHERE key IN (SELECT value FROM json_each(?)) "
            "AND NOT EXISTS (SELECT 1 FROM uses WHERE blob = blobs.key)",
            (json.dumps(few),),
        )
    return len(few) < len(rows) or len(rows) == _ROWS


async def _clear_plans(database: Database, key: int) -> bool:
    """Remove the plans that only this run had, and the note of the run; return that nothing is left."""
    async with database.transaction():
        plans = await database.fetch(
            "SELECT plan FROM purged WHERE run = ? UNION SELECT plan FROM adoptions WHERE run = ?", (key, key)
        )
        await database.fetch("DELETE FROM adoptions WHERE run = ?", (key,))
        for plan in plans:
            await database.fetch(
                "DELETE FROM plans AS p WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM runs WHERE plan = p.digest) "
                "AND NOT EXISTS (SELECT 1 FROM adoptions WHERE plan = p.digest)",
                plan,
            )
        await database.fetch("DELETE FROM purged WHERE run = ?", (key,))
    return False


async def _shrink(database: Database) -> bool:
    """Give some free pages back to the file system, and return whether there are more to give."""
    [(mode, free, pages)] = await database.fetch(
        "SELECT auto_vacuum, freelist_count, page_count "
        "FROM pragma_auto_vacuum, pragma_freelist_count, pragma_page_count"
    )
    # A file that was made without it keeps its pages, and uses them again.
    if mode != 2 or free <= pages // _ROOM:
        return False
    # Each page that goes is looked up in the list of free ones, so a long list makes for small steps.
    few = max(8, min(_PAGES, _LOOKED_AT // free))
    await database.fetch(f"PRAGMA incremental_vacuum({few})")
    return True


def _first(rows: list[tuple[int, int | None]], most_bytes: int) -> list[int]:
    """Return the names of the first of *rows* that have no more than *most_bytes* together, one at least."""
    found: list[int] = []
    size_bytes = 0
    for name, length in rows:
        size_bytes += length or 0
        if found and size_bytes > most_bytes:
            break
        found.append(name)
    return found
