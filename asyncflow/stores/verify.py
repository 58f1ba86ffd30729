"""
Looks a whole journal through for what is not as it was written, and says what to do about it.

It reads one run after the other, each as it was at one moment, so it works on a file in use and holds nobody up. It
writes nothing, opens no value and imports nothing of the user's.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from asyncflow.codec import Codec
from asyncflow.codec.records import digest_of
from asyncflow.errors import AsyncflowError, NotAJournal, SchemaTooNew, StoreError
from asyncflow.graph import record as recorded
from asyncflow.graph.plan import Plan
from asyncflow.machine.replay import fold, plans_named
from asyncflow.messages import Record
from asyncflow.outcomes import Sealed
from asyncflow.stores.reader import ROWS, Standing
from asyncflow.stores.schema import APPLICATION_ID, VERSION
from asyncflow.stores.seal import seal_plan, seal_record

_RESTORE = "restore the file from a backup"
_PURGE = "the next purge removes it"
_PLANS_KEPT = 64


@attrs.frozen
class Finding:
    """
    One thing in a journal that is not as it should be.

    ``where`` names the run, record, plan or blob; ``advice`` is what to do. ``is_damage`` tells what was lost or
    changed from what only takes room.
    """

    where: str
    what: str
    advice: str
    is_damage: bool = True


def verify(path: str | os.PathLike[str]) -> Iterator[Finding]:
    """
    Yield what is wrong with the journal at *path*, as it is found; nothing if all is well.

    Checked are SQLite's own pages, the checksums of records, plans and blobs, that no record is missing, that the
    machine accepts every event, that listings say what the journal does, and that nothing is left over.

    Raises:
        NotAJournal: It is no journal.
        SchemaTooNew: A newer asyncflow wrote it.
        StoreError: It cannot be opened.
    """
    shown = os.fsdecode(path)
    with closing(connect(shown)) as database:
        yield from _Examination(database).findings()


def connect(shown: str) -> sqlite3.Connection:
    """Open a journal to be read, which is called *shown* in messages; raise what :func:`verify` does."""
    real = Path(os.path.realpath(shown))
    if not real.is_file():
        raise StoreError(f"there is no journal {shown!r}; check the path", path=shown)
    # What lies where nobody can write (a copy on a read-only disk) can be read if it is taken for unchanging.
    reason: Exception | None = None
    for mode in ("mode=ro", "immutable=1"):
        try:
            database = sqlite3.connect(f"{real.as_uri()}?{mode}", uri=True, isolation_level=None, timeout=20.0)
        except sqlite3.Error as error:
            reason = error
            continue
        try:
            [(found, version)] = database.execute(
                "SELECT application_id, user_version FROM pragma_application_id, pragma_user_version"
            ).fetchall()
        except sqlite3.Error as error:
            database.close()
            reason = error
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_NOTADB:
                raise NotAJournal(f"{shown!r} is not an SQLite file, so it is not a journal", path=shown) from error
            continue
        if found == APPLICATION_ID and version == VERSION:
            return database
        database.close()
        if found != APPLICATION_ID:
            raise NotAJournal(f"{shown!r} is an SQLite database of something else, not a journal", path=shown)
        if version > VERSION:
            raise SchemaTooNew(
                f"{shown!r} has journal version {version} and this asyncflow reads up to {VERSION}; use a newer one",
                path=shown,
            )
        raise StoreError(
            f"{shown!r} has journal version {version}; open it once with an Engine, which brings it to {VERSION}",
            path=shown,
        )
    raise StoreError(f"journal {shown!r} cannot be read: {reason}; check its permissions", path=shown) from reason


class _Examination:
    """One pass over one file."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database = database
        self._codec = Codec()
        # Most runs share a few plans. The oldest goes when there are too many.
        self._plans: dict[str, Plan] = {}

    def findings(self) -> Iterator[Finding]:
        for part in (self._pages, self._recorded_plans, self._blobs, self._runs, self._left_over):
            try:
                yield from part()
            except sqlite3.DatabaseError as error:
                yield Finding("the file", f"SQLite cannot read on: {error}", _RESTORE)

    def _pages(self) -> Iterator[Finding]:
        for (line,) in self._database.execute("PRAGMA integrity_check"):
            if line != "ok":
                yield Finding("the file", f"SQLite says: {line}", _RESTORE)

    def _recorded_plans(self) -> Iterator[Finding]:
        for (digest,) in self._database.execute("SELECT digest FROM plans ORDER BY digest").fetchall():
            rows = self._database.execute(
                "SELECT CAST(body AS BLOB), checksum FROM plans WHERE digest = ?", (digest,)
            ).fetchall()
            for body, written in rows:
                if type(body) is not bytes or seal_plan(digest, body) != written:
                    yield Finding(f"plan {digest}", "its checksum is wrong", _RESTORE)

    def _blobs(self) -> Iterator[Finding]:
        # One at a time: a blob may be large, and a page of them larger than memory.
        for key, digest in self._database.execute("SELECT key, digest FROM blobs ORDER BY key").fetchall():
            for (body,) in self._database.execute("SELECT CAST(body AS BLOB) FROM blobs WHERE key = ?", (key,)):
                if type(body) is not bytes or digest_of(body) != digest:
                    yield Finding(f"blob {digest}", "its bytes are not those that it was named by", _RESTORE)

    def _runs(self) -> Iterator[Finding]:
        for (key,) in self._database.execute("SELECT key FROM runs ORDER BY key").fetchall():
            # Each run at one moment. Not all at one: then the log could not begin anew as long as this takes.
            self._database.execute("BEGIN")
            try:
                yield from list(self._run(key))
            finally:
                self._database.execute("COMMIT")

    def _run(self, key: int) -> Iterator[Finding]:
        rows = self._database.execute(f"{ROWS} WHERE r.key = ?", (key,)).fetchall()
        if not rows:
            return  # purged meanwhile
        standing = Standing(*rows[0])
        where = f"run {standing.run_id!r}"
        if damage := standing.damage():
            yield Finding(where, damage, _RESTORE)
        records: list[Record] = []
        wrong: list[Finding] = []
        expected = 0
        # Cast, since damage may have made it something that is not even text.
        for number, at, state, body, written in self._database.execute(
            "SELECT number, at, state, CAST(body AS BLOB), checksum FROM records WHERE run = ? ORDER BY number", (key,)
        ):
            if number != expected:
                wrong.append(Finding(f"record {expected} of {where}", "is missing", _RESTORE))
            expected = number + 1
            if type(body) is not bytes or _seal(key, number, at, state, body) != written:
                wrong.append(Finding(f"record {number} of {where}", "its checksum is wrong", _RESTORE))
                continue
            try:
                records.append(self._codec.decode_record(body))
            except AsyncflowError as error:
                wrong.append(Finding(f"record {number} of {where}", f"cannot be decoded: {error}", _RESTORE))
        yield from wrong
        if not records and not wrong:
            yield Finding(where, "has no records", _RESTORE)
        yield from self._values(key, where, records)
        if not records or wrong:
            return
        named = plans_named(records)
        if not named or named[0] != standing.plan:
            yield Finding(where, "is listed under a plan that it did not begin with", _RESTORE)
        try:
            machine = fold(records, {name: self._plan(name) for name in set(named)})
        except sqlite3.Error:
            raise
        except Exception as error:  # whatever damage does to a machine
            yield Finding(where, f"its journal does not hold together: {error}", _RESTORE)
            return
        if machine.state.value != standing.state:
            yield Finding(where, f"is listed as {standing.state}, and its journal says {machine.state.value}", _RESTORE)

    def _values(self, key: int, where: str, records: list[Record]) -> Iterator[Finding]:
        named = {
            value.blob
            for record in records
            for event in record.events
            for field in event.__struct_fields__
            for value in _sealed(getattr(event, field))
            if value.blob is not None
        }
        for digest in sorted(named):
            found = self._database.execute(
                "SELECT EXISTS (SELECT 1 FROM uses WHERE run = ? AND blob = b.key) FROM blobs AS b WHERE digest = ?",
                (key, digest),
            ).fetchall()
            if not found:
                yield Finding(where, f"needs blob {digest}, which is not there", _RESTORE)
            elif not found[0][0]:
                yield Finding(where, f"needs blob {digest}, and a purge would not know", "do not purge this file")

    def _plan(self, digest: str) -> Plan:
        plan = self._plans.get(digest)
        if plan is None:
            rows = self._database.execute("SELECT CAST(body AS BLOB) FROM plans WHERE digest = ?", (digest,)).fetchall()
            if not rows:
                raise StoreError(f"plan {digest} is not there")
            plan = recorded.decode(rows[0][0])
            if len(self._plans) >= _PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[digest] = plan
        return plan

    def _left_over(self) -> Iterator[Finding]:
        for sql, what in _LEFT_OVER:
            [(count,)] = self._database.execute(f"SELECT count(*) FROM ({sql})").fetchall()
            if count:
                yield Finding("the file", f"{count} {what}", _PURGE, is_damage=False)
        for (run_id,) in self._database.execute("SELECT id FROM runs WHERE key IN (SELECT run FROM purged)").fetchall():
            yield Finding(f"run {run_id!r}", "is noted as purged, and is there", _RESTORE)
        [(count,)] = self._database.execute(f"SELECT count(*) FROM ({_STRAYS})").fetchall()
        if count:
            yield Finding("the file", f"has records of {count} runs that are not listed", _RESTORE)


_LEFT_OVER = (
    ("SELECT run FROM purged", "runs were purged, and something of them is left"),
    ("SELECT key FROM blobs AS b WHERE NOT EXISTS (SELECT 1 FROM uses WHERE blob = b.key)", "blobs that no run uses"),
)
# Run by run, by the primary key, and not record by record.
_STRAYS = """
    WITH RECURSIVE each(run) AS (
        SELECT min(run) FROM records
        UNION ALL
        SELECT (SELECT min(run) FROM records WHERE run > each.run) FROM each WHERE run IS NOT NULL
    )
    SELECT run FROM each WHERE run IS NOT NULL AND run NOT IN (SELECT key FROM runs UNION SELECT run FROM purged)
"""


def _seal(key: int, number: int, at: Any, state: Any, body: bytes) -> int | None:
    try:
        return seal_record(key, number, at, state, body)
    except (TypeError, AttributeError, struct.error):
        return None  # what damage has made of the time, or of the state, is neither


def _sealed(value: Any) -> Iterator[Sealed]:
    if isinstance(value, Sealed):
        yield value
    elif isinstance(value, dict):
        yield from (each for each in value.values() if isinstance(each, Sealed))
