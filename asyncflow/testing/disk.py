"""
A store on a disk that is not there, which a test may let fail, and which outlives the process that is said to die.

What it keeps is what a file would keep: records encoded by the codec, committed together some milliseconds after they
were appended, and nothing of what was still on its way when the process died, or a part of it.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs

from asyncflow.codec import Codec
from asyncflow.errors import RunBusy, RunExists, RunNotFound, RunOvertaken, StoreError
from asyncflow.interfaces import Make, NewRun, Request, RunInfo
from asyncflow.messages import Record
from asyncflow.outcomes import Failure
from asyncflow.runtime.shelter import until_done
from asyncflow.states import RunState
from asyncflow.stores.database import LendableConnection, roll_back
from asyncflow.stores.errand import raise_from_loop
from asyncflow.stores.loan import lent
from asyncflow.stores.memory import listed

FAULTS = ("write", "sync", "full")


@attrs.define(eq=False)
class _File:
    """What lasts of one run."""

    new: NewRun
    records: list[bytes] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)
    state: RunState = RunState.RUNNING
    owner: SimulatedJournal | None = None


@attrs.define(eq=False)
class _Entry:
    """A record on its way to the disk."""

    file: _File
    journal: SimulatedJournal
    at: float
    body: bytes
    blobs: Mapping[str, bytes]
    state: RunState
    done: asyncio.Future[None]


class Disk:
    """
    What is left when a process dies.

    Args:
        seed: How long commits take, and how much of the last one is left after a crash.
        fault: A commit's number, counted from 1, and how it fails: "write" (nothing of it is kept), "sync" (the store
            is told that it failed, yet some of it may be there) or "full" (it and all after it, until a restart).
        committing: Called with the number of each record, counted from 1, before it lasts; what it raises goes on.
        committed: Called with the same once it lasts, before anyone is told.
    """

    def __init__(
        self,
        seed: object = 0,
        *,
        fault: tuple[int, str] | None = None,
        committing: Callable[[int], object] = lambda count: None,
        committed: Callable[[int], object] = lambda count: None,
    ) -> None:
        if fault is not None and fault[1] not in FAULTS:
            raise ValueError(f"fault={fault!r} must be a commit's number and one of {', '.join(map(repr, FAULTS))}")
        self.files: dict[str, _File] = {}
        self.plans: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.starting: set[str] = set()  # runs whose first record is on its way
        self.count = 0
        self.committing = committing
        self.committed = committed
        self.rng = random.Random(f"disk {seed}")
        self._fault = fault
        self._commits = 0
        self._is_full = False
        self._database: LendableConnection | None = None
        self._pending: list[_Entry] = []

    # --- What a store does --------------------------------------------------------------------------------------------

    def add(self, entry: _Entry) -> None:
        """Take a record for the next commit."""
        self._pending.append(entry)
        if len(self._pending) == 1:
            latency = self.rng.choice((0.0, 0.0005, 0.002, 0.02))
            asyncio.get_running_loop().call_later(latency, self.commit)

    def is_quick(self) -> bool:
        """Whether a record lasts as soon as it comes: nothing else is on its way, and the seed says so."""
        return not self._pending and self._fault is None and self.rng.random() < 0.5

    def write_now(self, entry: _Entry) -> asyncio.Future[None] | None:
        """Let a record last; return None, or what is never done where the process dies of it."""
        try:
            self.write(entry)
        except BaseException as death:
            # It dies between two callbacks, so that nothing in it sees that.
            raise_from_loop(death)
            return entry.done
        entry.done.set_result(None)
        return None

    def commit(self) -> None:
        """Write all that is pending, in order, and tell who waits; or fail, if this is the commit that fails."""
        entries, self._pending = self._pending, []
        if not entries:
            return
        if error := self._failure(entries):
            for entry in entries:
                entry.journal.break_off(error)
                entry.done.set_exception(error)
                entry.done.exception()  # told by the journal too, if nobody waits for it
            return
        for entry in entries:
            self.write(entry)
        for entry in entries:
            if not entry.done.done():
                entry.done.set_result(None)

    def write(self, entry: _Entry) -> None:
        """Let one record last."""
        self.committing(self.count + 1)
        self.keep(entry)

    def keep(self, entry: _Entry) -> None:
        """Put one record on the disk, past the point of no return."""
        file = entry.file
        self.files.setdefault(file.new.run_id, file)
        file.records.append(entry.body)
        file.times.append(entry.at)
        file.state = entry.state
        self.blobs.update(entry.blobs)
        self.count += 1
        self.committed(self.count)

    def _failure(self, entries: list[_Entry]) -> StoreError | None:
        self._commits += 1
        kind = self._fault[1] if self._fault is not None and self._fault[0] == self._commits else None
        if kind == "full":
            self._is_full = True
        if self._is_full:
            return StoreError("the simulated disk is full; free some of it and resume the run")
        if kind is None:
            return None
        if kind == "sync":
            for entry in entries[: self.rng.randint(0, len(entries))]:
                self.write(entry)
        return StoreError(f"commit {self._commits} of the simulated disk failed ({kind}); resume the run")

    def database(self) -> LendableConnection:
        """Return the database that transactions write to."""
        if self._database is None:
            # Threads take turns here: the one that has a test's worlds is not the one that closes them.
            self._database = sqlite3.connect(
                ":memory:", isolation_level=None, factory=LendableConnection, check_same_thread=False
            )
        return self._database

    def forget_requests(self, run_id: str) -> None:
        """Drop what was asked of a run that has ended."""
        self.requests = [request for request in self.requests if request.run_id != run_id]

    # --- What the world does ------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """
        Be as the next process finds it: nobody owns a run, and there is room again.

        Of what was on its way a part may be there, as much as the seed says.
        """
        pending, self._pending = self._pending, []
        self.committing = self.committed = lambda count: None
        for entry in pending[: self.rng.randint(0, len(pending))]:
            self.write(entry)
        for file in self.files.values():
            file.owner = None
        self.starting.clear()
        self._is_full = False

    def journal(self, run_id: str) -> bytes:
        """Return every byte that is kept of a run's records."""
        return b"".join(self.files[run_id].records)

    def close(self) -> None:
        """Let go of the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def __repr__(self) -> str:
        return f"<Disk: {len(self.files)} runs, {self.count} records, {len(self._pending)} on their way>"


class SimulatedJournal:
    """A run's journal on a simulated disk."""

    grows = False

    def __init__(self, store: SimulatedStore, file: _File) -> None:
        self.run_id = file.new.run_id
        self._store = store
        self._file = file
        self._error: StoreError | None = None
        self._last: asyncio.Future[None] | None = None

    @property
    def lags(self) -> bool:
        """Whether the run may be ahead of what the disk has of it, blobs apart."""
        return self._file.new.durability == "lazy"

    @property
    def declared(self) -> Any:
        """None: a disk keeps bytes."""
        return None

    def append(self, record: Record, blobs: Mapping[str, bytes], state: RunState) -> asyncio.Future[None] | None:
        """Add *record* with the next commit."""
        self._check()
        disk, done = self._store.disk, asyncio.get_running_loop().create_future()
        body = self._store.codec.encode_record(record)
        self._last = done
        entry = _Entry(self._file, self, record.at, body, dict(blobs), state, done)
        if self._file.new.durability == "process" and disk.is_quick():
            return disk.write_now(entry)
        disk.add(entry)
        return None if self.lags and not blobs else done

    async def settle(self) -> None:
        """Return once everything appended lasts, or raise what keeps it from that."""
        if self._last is not None:
            await until_done(self._last)
        if self._error is not None:
            raise self._error

    def append_with(self, make: Make) -> asyncio.Future[Record | Failure]:
        """Call *make* with the disk's database, and let what it wrote last together with the record."""
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Record | Failure] = loop.create_future()
        # In a callback of its own, since this is where the process may be said to die.
        loop.call_soon(self._make, make, made)
        return made

    def _make(self, make: Make, made: asyncio.Future[Record | Failure]) -> None:
        disk = self._store.disk
        disk.commit()  # what was appended before comes first
        try:
            self._check()
        except (RunOvertaken, StoreError) as error:
            made.set_exception(error)
            return
        connection = disk.database()
        connection.execute("BEGIN")
        try:
            try:
                with lent(connection):
                    record, blobs = make(connection)
                body = self._store.codec.encode_record(record)
            except BaseException as error:
                made.set_result(Failure(error))
                return
            disk.committing(disk.count + 1)
            connection.execute("COMMIT")
        finally:
            roll_back(connection)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        disk.keep(_Entry(self._file, self, record.at, body, dict(blobs), self._file.state, done))
        if not made.done():
            made.set_result(record)

    @property
    def is_owner(self) -> bool:
        """Whether the run may still be appended to by this journal."""
        return self._file.owner is self

    async def records(self) -> list[Record]:
        """Return every record, in order, decoded."""
        return self._store.decoded(self._file)

    async def blob(self, digest: str) -> bytes:
        """Return the bytes of a blob."""
        return await self._store.read_blob(digest)

    async def release(self) -> None:
        """Give the run up, after everything appended lasts."""
        if not self.is_owner:
            return
        if self._last is not None:
            await until_done(self._last)
        self._file.owner = None
        if self._file.state.is_ended:
            self._store.disk.forget_requests(self.run_id)
        if self._error is not None:
            raise self._error

    def break_off(self, error: StoreError) -> None:
        """Take no more records: one before them is missing."""
        self._error = error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if not self.is_owner:
            raise RunOvertaken(
                f"run {self.run_id!r} was given up by the engine that appends to it; resume it to go on",
                run_id=self.run_id,
            )

    def __repr__(self) -> str:
        return f"<SimulatedJournal of run {self.run_id!r}: {len(self._file.records)} records>"


class SimulatedStore:
    """One process's way to a :class:`Disk`."""

    keeps_bytes = True
    location: str | None = "a simulated disk"

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.codec = Codec()
        self._journals: list[SimulatedJournal] = []

    async def open(self) -> None:
        """Do nothing: the disk is there."""

    async def close(self) -> None:
        """Write what is still to be written, and give up every run."""
        self.disk.commit()
        for journal in self._journals:
            await journal.release()

    async def create(
        self, run: NewRun, plan: Callable[[], bytes], first: Record, blobs: Mapping[str, bytes]
    ) -> SimulatedJournal:
        """Begin a journal with its *first* record, or raise RunExists."""
        if run.run_id in self.disk.files or run.run_id in self.disk.starting:
            raise RunExists(
                f"there is a run {run.run_id!r} on {self.location} already; go on with engine.resume({run.run_id!r})",
                run_id=run.run_id,
            )
        file = _File(run)
        journal = file.owner = SimulatedJournal(self, file)
        self.disk.plans.setdefault(run.plan, plan())
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        body = self.codec.encode_record(first)
        self.disk.add(_Entry(file, journal, first.at, body, dict(blobs), RunState.RUNNING, done))
        self.disk.starting.add(run.run_id)
        try:
            await done
        finally:
            self.disk.starting.discard(run.run_id)
        self._journals.append(journal)
        return journal

    async def claim(self, run_id: str) -> SimulatedJournal:
        """Become the owner of a run that nobody owns; raise RunNotFound or RunBusy."""
        file = self._file(run_id)
        if file.owner is not None:
            raise RunBusy(f"run {run_id!r} is running; await it instead", run_id=run_id, owner="another engine")
        journal = file.owner = SimulatedJournal(self, file)
        self._journals.append(journal)
        return journal

    async def runs(self, *, state: RunState | None = None, limit: int | None = None) -> list[RunInfo]:
        """Return what there is, newest first."""
        found = [info for file in reversed(self.disk.files.values()) if state in (None, (info := _info(file)).state)]
        return found[:limit]

    async def info(self, run_id: str) -> RunInfo:
        """Return one run's line, or raise RunNotFound."""
        return _info(self._file(run_id))

    async def read(self, run_id: str) -> list[Record]:
        """Return a run's records so far."""
        return self.decoded(self._file(run_id))

    async def read_blob(self, digest: str) -> bytes:
        """Return the bytes of a blob."""
        if digest not in self.disk.blobs:
            raise StoreError(f"{self.location} has no blob {digest!r}")
        return self.disk.blobs[digest]

    async def plan(self, digest: str) -> bytes:
        """Return the bytes of a recorded plan."""
        if digest not in self.disk.plans:
            raise StoreError(f"{self.location} has no plan {digest!r}")
        return self.disk.plans[digest]

    async def save_plan(self, digest: str, body: Callable[[], bytes], *, run_id: str) -> None:
        """Keep a recorded plan."""
        if digest not in self.disk.plans:
            self.disk.plans[digest] = body()

    async def purge(self, before: float, states: Collection[RunState], told: Callable[[str], None]) -> None:
        """Remove runs that nobody needs; their plans and blobs stay, since this disk does not count who uses them."""
        for run_id, file in list(self.disk.files.items()):
            info = _info(file)
            if info.state in states and info.owner is None and info.updated < before:
                del self.disk.files[run_id]
                self.disk.forget_requests(run_id)
                told(run_id)

    async def backup(self, path: str) -> None:
        """Refuse: there is no file."""
        raise StoreError(f"{self.location} has no journal to back up")

    async def request(self, run_id: str, kind: str, reason: str) -> None:
        """Leave word for the owner of a run."""
        file = self._file(run_id)
        if file.owner is not None or not file.state.is_ended:
            self.disk.requests.append(Request(run_id, kind, reason))

    async def beat(self, runs: Collection[str] | None = None) -> list[Request]:
        """Return what has been asked, since the last beat, of this store's runs, or of *runs* among them."""
        mine = {journal.run_id for journal in self._journals if journal.is_owner}
        if runs is not None:
            mine.intersection_update(runs)
        asked = [request for request in self.disk.requests if request.run_id in mine]
        self.disk.requests = [request for request in self.disk.requests if request.run_id not in mine]
        return asked

    def decoded(self, file: _File) -> list[Record]:
        """Return the records of *file*."""
        return [self.codec.decode_record(body) for body in file.records]

    def _file(self, run_id: str) -> _File:
        if run_id not in self.disk.files:
            raise RunNotFound(f"there is no run {run_id!r} on {self.location}", run_id=run_id)
        return self.disk.files[run_id]

    def __repr__(self) -> str:
        return f"<SimulatedStore on {self.disk!r}>"


def _info(file: _File) -> RunInfo:
    owner = None if file.owner is None else "a simulated process"
    return listed(file.new, file.state, file.times[0], file.times[-1], len(file.times), owner)
