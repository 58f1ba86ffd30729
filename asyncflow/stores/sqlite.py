"""
Journals in an SQLite file, shared by any number of engines and processes on one machine.

Each run belongs to at most one engine. Everything is written through one connection (``writer``) and read through
another that cannot write (``reader``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from asyncflow.codec import Codec
from asyncflow.errors import CorruptRecord, RunBusy, RunOvertaken, StoreError
from asyncflow.interfaces import Make, NewRun, Request, RunInfo
from asyncflow.messages import Record
from asyncflow.outcomes import Failure
from asyncflow.states import RunState
from asyncflow.stores import claims, owners, schema, wal_lock
from asyncflow.stores.backup import backup
from asyncflow.stores.commit import adopt_plan
from asyncflow.stores.database import PATIENCE, Database
from asyncflow.stores.errand import see_out, send_on_errand
from asyncflow.stores.line import Line
from asyncflow.stores.owners import OwnerLocks
from asyncflow.stores.pulse import LEASE
from asyncflow.stores.purge import Purge
from asyncflow.stores.reader import LostBlob, Reader, process
from asyncflow.stores.wal_lock import WalLock
from asyncflow.stores.writer import CHECKPOINT_BYTES, Writer

T = TypeVar("T")

_OLDEST_SQLITE = (3, 35, 0)  # the first with RETURNING
_TRIES_TO_CLAIM = 10


class SqliteJournal:
    """One run's journal in an SQLite file, in the hands of the engine that owns the run."""

    declared = None
    grows = False

    __slots__ = ("_codec", "_line", "_store", "_writer", "lags", "run_id")

    def __init__(self, store: SqliteStore, writer: Writer, codec: Codec, line: Line) -> None:
        self.run_id = line.run_id
        self._store = store
        self._writer = writer
        self._codec = codec
        self._line = line
        self.lags = line.durability == "lazy"  # then what has no blobs may be behind by up to 100 ms

    def append(self, record: Record, blobs: Mapping[str, bytes], state: RunState) -> asyncio.Future[None] | None:
        """Add *record*; return None where it lasts already or may lag behind, else a future done once it lasts."""
        return self._writer.append(self._line, self._codec.encode_record(record), record.at, state, blobs)

    def append_with(self, make: Make) -> asyncio.Future[Record | Failure]:
        """Add the record that *make* returns, in the commit in which it is called."""
        return self._writer.append_with(self._line, make, self._codec.encode_record)

    async def settle(self) -> None:
        """Return once everything appended is durable; raise RunOvertaken or StoreError if something never will be."""
        await self._writer.settle(self._line)
        if self._line.error is not None:
            raise self._line.refusal()

    async def records(self) -> list[Record]:
        """Return every record that is durable, in order, checked; raise CorruptRecord where one is not as written."""
        return await self._store.records_of(self._line)

    async def blob(self, digest: str) -> bytes:
        """Return the bytes of a blob, checked against their digest; raise CorruptRecord where they are lost."""
        try:
            return await self._store.read_blob(digest)
        except LostBlob as error:
            raise CorruptRecord(
                f"run {self.run_id!r} needs a value that is lost: {error}",
                path=self._store.location,
                run_id=self.run_id,
                number=None,
            ) from error

    async def release(self) -> None:
        """
        Give the run up, after everything appended is durable. Nobody owns it then.

        Raises:
            StoreError: Something appended before could not be written, and nobody has been told yet; or this could not.
            RunOvertaken: The same, since another engine had claimed the run.
        """
        await self._store.release(self._line)

    def __repr__(self) -> str:
        line = self._line
        state = "owned" if line.error is None else str(line.error)
        return f"<SqliteJournal of run {self.run_id!r}: {state}; {line.next} records, epoch {line.epoch}>"


class SqliteStore:
    """
    Keeps journals in the SQLite file at *path*, which is made if it is not there.

    Beside it SQLite keeps ``-wal`` and ``-shm`` while it is open, and asyncflow ``-owners``, a small file by whose
    locks and counters processes see each other; it stays. Who shows no life for *lease* seconds may be overtaken.

    Raises:
        StoreError: *path* names no file.
    """

    keeps_bytes = True
    location: str | None

    def __init__(self, path: str | os.PathLike[str], *, codec: Codec, lease: float = LEASE) -> None:
        self.location = self._shown = os.fsdecode(path)
        if self._shown in ("", ":memory:") or self._shown.startswith("file:") or "\0" in self._shown:
            raise StoreError(f"{self._shown!r} is not the path of a file; Engine() without a path keeps runs in memory")
        self._codec = codec
        self._lease = lease
        # Two spellings of a path must meet at the same lock file and the same log.
        self._path = os.path.realpath(self._shown)
        # These four exist while the store is open, and while it opens and closes.
        self._locks: OwnerLocks | None = None
        self._database: Database | None = None
        self._reader: Reader | None = None
        self._writer: Writer | None = None
        self._owner = 0
        # Of the runs that are ours in the file: a heartbeat looks whether they still are.
        self._lines: set[Line] = set()
        # Runs that are about to be ours.
        self._taking: Counter[str] = Counter()
        self._closing: asyncio.Task[None] | None = None
        # Plans that are known to be in the file.
        self._plans: set[str] = set()
        # Requests that were handed out and are still in the file, by run; see beat().
        self._heard: dict[str, list[int]] = {}

    # --- Opening and closing ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """
        Open the file, or make it, and become an owner.

        Raises:
            NotAJournal: It is something else. It has not been changed.
            SchemaTooNew: A newer asyncflow wrote it.
            StoreError: It cannot be opened or written.
        """
        if self._database is not None:
            raise StoreError(f"journal {self._shown!r} is open already", path=self._shown)
        # Not cut off in the middle: a connection that nobody holds would never be closed.
        opening = send_on_errand(self._open())
        try:
            await see_out(opening)
        except asyncio.CancelledError:
            if opening.done() and opening.exception() is None:
                await self.close()
            raise

    async def _open(self) -> None:
        try:
            try:
                self._check_path()
            except OSError as error:
                words = f"journal {self._shown!r} cannot be looked at: {error.strerror}"
                raise StoreError(words, path=self._shown) from error
            self._database = await Database.connect(self._path, shown=self._shown, mode="rwc")
            self._locks = OwnerLocks(self._path)
            if wal_lock.is_needed():
                self._database.take_turns(WalLock(self._locks.turn, shown=self._shown, patience=PATIENCE))
            await self._database.call(schema.prepare, self._shown)
            # The writer copies the log itself, between two commits.
            await self._database.fetch("PRAGMA wal_autocheckpoint = 0")
            # What a large value has stretched it to is given back when the log begins anew.
            await self._database.fetch(f"PRAGMA journal_size_limit = {4 * CHECKPOINT_BYTES}")
            # Some builds overwrite what is deleted: a value of 500 MB would be written once more to be forgotten.
            await self._database.fetch("PRAGMA secure_delete = OFF")
            # Where fsync does not reach the disk (macOS), what does.
            await self._database.fetch("PRAGMA fullfsync = ON")
            reading = await Database.connect(self._path, shown=self._shown, mode="ro")
            self._reader = Reader(reading, self._locks, self._codec)
            self._owner = await self._database.call(claims.become_owner, self._locks, self._lease)
            self._writer = Writer(self._database, self._owner)
        except BaseException:
            await self._let_go()
            raise

    def _check_path(self) -> None:
        if not owners.IS_SUPPORTED:
            raise StoreError(
                f"journal {self._shown!r} needs POSIX record locks, which this platform lacks; Engine() without a "
                "path keeps runs in memory",
                path=self._shown,
            )
        if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
            raise StoreError(f"this Python has SQLite {sqlite3.sqlite_version}, and a journal needs 3.35 or newer")
        path = Path(self._path)
        if path.is_dir():
            raise StoreError(f"{self._shown!r} is a folder; name a file in it for the journal", path=self._shown)
        if path.exists() and not path.is_file():
            raise StoreError(f"{self._shown!r} is no ordinary file; give the path of another", path=self._shown)
        if not path.parent.is_dir():
            raise StoreError(
                f"journal {self._shown!r} cannot be made: there is no folder {str(path.parent)!r}; create it first",
                path=self._shown,
            )
        schema.check_header(self._path, self._shown)

    async def close(self) -> None:
        """Write what is to be written, release every run, and stop being an owner, also if the caller is cancelled."""
        if self._closing is None:
            if self._writer is None:
                return
            self._closing = send_on_errand(self._close(self._writer))
        await see_out(self._closing)

    async def _close(self, writer: Writer) -> None:
        try:
            await writer.drain()
            writer.is_leaving = True
            await writer.run(lambda connection: claims.leave(connection, self._owner))
        finally:
            self._writer = None
            await self._let_go()
            self._closing = None

    async def _let_go(self) -> None:
        """Close whatever is open. The lock goes last: until everything is written nobody may take us for dead."""
        reader, database, locks, owner = self._reader, self._database, self._locks, self._owner
        self._reader, self._owner = None, 0
        try:
            if reader is not None:
                await reader.close()
            if database is not None:
                if owner:
                    # Others may be reading; then who closes last copies the rest. Nothing depends on it.
                    with contextlib.suppress(StoreError):
                        await database.fetch("PRAGMA busy_timeout = 100")
                        await database.fetch("PRAGMA wal_checkpoint(TRUNCATE)")
                await database.close()
        finally:
            self._lines.clear()
            if locks is not None:
                locks.let_go(owner)
                locks.close()
            self._database = self._locks = None

    # --- Owning runs ------------------------------------------------------------------------------------------------

    async def create(
        self, run: NewRun, plan: Callable[[], bytes], first: Record, blobs: Mapping[str, bytes]
    ) -> SqliteJournal:
        """
        Begin a journal with its *first* record, both or neither, durable when this returns.

        If the caller is cancelled the run may exist all the same; nobody owns it then, and it can be resumed.
        """
        writer, reader = self._opened()
        is_known = run.plan in self._plans or await reader.has_plan(run.plan)
        body = self._codec.encode_record(first)
        line = Line(run.run_id, run.durability)
        creating = writer.create(line, run, None if is_known else plan(), first.at, body, blobs, plan)
        with self._attending(run.run_id):
            await self._take_over(line, creating)
            self._lines.add(line)
        self._plans.add(run.plan)
        return SqliteJournal(self, writer, self._codec, line)

    async def claim(self, run_id: str) -> SqliteJournal:
        """
        Become the owner of a run that nobody owns who lives and is well; raise RunNotFound or RunBusy.

        Each call is a look at the owner, so one that stands still is overtaken when this is tried again and again.
        """
        writer, reader = self._opened()
        for _ in range(_TRIES_TO_CLAIM):
            found = await reader.standing(run_id)
            # One that could not be given up, on a full disk perhaps, is still ours there, and nobody attends to it.
            is_left = found.owner == self._owner and not self._is_attended(run_id)
            if found.owner is not None and not is_left and self._is_alive(found.owner):
                raise self._busy(run_id, found.owner, found.host, found.pid)
            line = Line(run_id, found.durability, found.key, found.epoch + 1, state=RunState(found.state))
            with self._attending(run_id):
                claim = partial(claims.claim, line=line, owner=found.owner, new_owner=self._owner)
                claiming = writer.run(claim, is_once=True)
                if await self._take_over(line, claiming):
                    self._lines.add(line)
                    return SqliteJournal(self, writer, self._codec, line)
            # Another was quicker; look again who.
        raise RunBusy(
            f"run {run_id!r} in {self._shown!r} changes hands all the time; try again later",
            run_id=run_id,
            owner="several",
        )

    @contextlib.contextmanager
    def _attending(self, run_id: str) -> Generator[None, None, None]:
        """Let nobody here take a run for one that is left, as long as it is being taken over."""
        self._taking[run_id] += 1
        try:
            yield
        finally:
            self._taking[run_id] -= 1
            if not self._taking[run_id]:
                del self._taking[run_id]

    def _is_attended(self, run_id: str) -> bool:
        return run_id in self._taking or any(line.run_id == run_id for line in self._lines)

    async def _take_over(self, line: Line, pending: asyncio.Future[T]) -> T:
        """Wait until *line* is ours. If the caller is cancelled meanwhile nobody holds it, so it is given up again."""

        def give_up(done: asyncio.Future[T]) -> None:
            if done.cancelled() or done.exception() is not None or self._writer is None:
                return
            if done.result() is not False:  # else somebody was quicker, and would be under our epoch
                self._writer.release(line).add_done_callback(_ignore)

        try:
            return await asyncio.shield(pending)
        except asyncio.CancelledError:
            pending.add_done_callback(give_up)
            raise

    async def release(self, line: Line) -> None:
        """Give a run up once everything appended to it has been settled; raise what nobody has been told yet."""
        if line.is_released:
            return
        try:
            await self._release(line)
        finally:
            self._lines.discard(line)

    async def _release(self, line: Line) -> None:
        writer, _ = self._opened()
        await writer.settle(line)
        error, was_told = line.error, line.is_told
        line.is_released = True
        line.error = RunOvertaken(
            f"run {line.run_id!r} in {self._shown!r} was given up by the engine that appends to it; resume it to go on",
            run_id=line.run_id,
        )
        # Under our epoch, so a run that was overtaken stays with who has it now, and with all that was asked of it.
        await writer.release(line, self._heard.pop(line.run_id, ()))
        if error is not None and not was_told:
            raise error

    def _is_alive(self, owner: int) -> bool:
        return self._locks is not None and self._locks.is_alive(owner)

    def _busy(self, run_id: str, owner: int, host: str | None, pid: int | None) -> RunBusy:
        if owner == self._owner:
            return RunBusy(
                f"run {run_id!r} is already running in this engine; await it: engine.running() has it",
                run_id=run_id,
                owner="this engine",
            )
        who = process(host, pid)
        found = "is alive; wait for it, or end that process and resume the run then"
        if self._locks is not None and (stillness := self._locks.stillness(owner)).shows:
            found = (
                f"is there and has shown no life for {stillness.seconds:.1f} s; resume with wait= to take over after "
                f"{stillness.lease:g} s, or end that process"
            )
        return RunBusy(
            f"run {run_id!r} in {self._shown!r} belongs to {who}, which {found}",
            run_id=run_id,
            owner=who,
        )

    # --- Reading ----------------------------------------------------------------------------------------------------

    async def runs(self, *, state: RunState | None = None, limit: int | None = None) -> list[RunInfo]:
        """Return what there is, newest first."""
        return await self._opened()[1].runs(state, limit)

    async def info(self, run_id: str) -> RunInfo:
        """Return one run's line, or raise RunNotFound."""
        return await self._opened()[1].info(run_id)

    async def read(self, run_id: str) -> list[Record]:
        """Return a run's records without owning it: a consistent prefix of its journal."""
        reader = self._opened()[1]
        key = (await reader.standing(run_id)).key
        try:
            return await reader.records(run_id)
        except CorruptRecord:
            if (await reader.standing(run_id)).key != key:  # raises RunNotFound if it has been purged meanwhile
                return await self.read(run_id)
            raise

    async def records_of(self, line: Line) -> list[Record]:
        """Return the records of a run of ours, checked."""
        return await self._opened()[1].records(line.run_id)

    async def read_blob(self, digest: str) -> bytes:
        """Return the bytes of a blob, checked against their digest."""
        return await self._opened()[1].blob(digest)

    async def plan(self, digest: str) -> bytes:
        """Return the bytes of a recorded plan, checked."""
        return await self._opened()[1].plan(digest)

    async def save_plan(self, digest: str, body: Callable[[], bytes], *, run_id: str) -> None:
        """Keep a recorded plan for a run that is about to adopt it."""
        writer, reader = self._opened()
        # Made here, if need be: in the transaction others would wait for it.
        plan = None if await reader.has_plan(digest) else body()
        await writer.run(lambda connection: adopt_plan(connection, digest, plan, body, run_id))
        self._plans.add(digest)

    async def purge(self, before: float, states: Collection[RunState], told: Callable[[str], None]) -> None:
        """Remove runs that nobody needs, in small steps between the commits of those that go on."""
        await Purge(*self._opened()).run(before, states, told)

    async def backup(self, path: str) -> None:
        """Write the journal as it is now to a new file at *path*, where nobody owns a run."""
        self._opened()
        await see_out(send_on_errand(backup(self._path, self._shown, path)))

    # --- Other processes --------------------------------------------------------------------------------------------

    async def request(self, run_id: str, kind: str, reason: str) -> None:
        """Leave word for the owner of a run."""
        writer, reader = self._opened()
        # SQLite takes no lone surrogates, and a reason is only read by people.
        words = reason.encode("utf-8", "replace").decode("utf-8")
        # Not by its id in one statement: an index that is damaged could name another run.
        key = (await reader.standing(run_id)).key
        await writer.run(lambda connection: claims.ask(connection, key, kind, words), is_once=True)

    async def beat(self, runs: Collection[str] | None = None) -> list[Request]:
        """
        Return what has been asked of this owner's *runs*, or of all that it owns, since the last beat, and which runs
        another has taken over.

        That it lives is shown by a thread of its own. Where nothing was asked, nothing is written here.

        A request stays in the file until the beat after the one that returned it, or until its run is released: if this
        process dies before the run has taken note, the run's next owner hears of it.
        """
        writer, reader = self._opened()
        if done := [key for keys in self._heard.values() for key in keys]:
            await writer.run(lambda connection: claims.forget(connection, done, self._owner))
            self._heard.clear()
        await writer.checkpoint(at_least_bytes=CHECKPOINT_BYTES // 16)
        # Before the look: what becomes ours meanwhile may not be in it.
        lines = [line for line in self._lines if line.error is None]
        asked, ours = await reader.heartbeat(self._owner)
        found: list[Request] = []
        for key, run_id, kind, reason in asked:
            if runs is None or run_id in runs:
                self._heard.setdefault(run_id, []).append(key)
                found.append(Request(run_id, kind, reason))
        for line in lines:
            if ours.get(line.key) != line.epoch and not line.is_released:
                writer.overtaken(line)
                found.append(Request(line.run_id, "overtaken", "another engine has taken over the run"))
        return found

    def _opened(self) -> tuple[Writer, Reader]:
        if self._writer is None or self._reader is None:
            raise StoreError(f"journal {self._shown!r} is not open", path=self._shown)
        return self._writer, self._reader

    def __repr__(self) -> str:
        state = "closed" if self._writer is None else f"open, owner {self._owner}"
        return f"<SqliteStore {self._shown!r}: {state}>"


def _ignore(done: asyncio.Future[None]) -> None:
    """Look at how it went, so that the loop does not complain: closing the store gives up whatever is left."""
    done.exception()
