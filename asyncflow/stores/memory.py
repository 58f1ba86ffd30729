"""
Journals in memory: nothing is encoded, and nothing outlives the engine.

A run can be resumed in the engine that suspended it. The last ``keep`` ended runs stay, so that they can be listed and
give their value again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Collection, Mapping
from typing import Any

from asyncflow.errors import RunBusy, RunExists, RunNotFound, RunOvertaken, StoreError
from asyncflow.interfaces import Make, NewRun, Request, RunInfo
from asyncflow.messages import Record
from asyncflow.outcomes import Failure
from asyncflow.states import RunState
from asyncflow.stores.database import LendableConnection, transaction
from asyncflow.stores.loan import lent


class _Shelf:
    """All that is kept of one run. ``owner`` is the journal through which an engine appends to it now, if any does."""

    __slots__ = ("blobs", "new", "owner", "plan", "records", "state")

    def __init__(self, new: NewRun, plan: Callable[[], bytes], first: Record) -> None:
        self.new = new
        # Called only if somebody asks. Until then it also keeps the plan alive, whose address may be its digest.
        self.plan = plan
        self.records = [first]
        self.blobs: dict[str, bytes] = {}
        self.state = RunState.RUNNING
        self.owner: MemoryJournal | None = None


class MemoryJournal:
    """A run's journal as a list of its records."""

    grows = True
    lags = False
    __slots__ = ("_shelf", "_store", "run_id")

    def __init__(self, store: MemoryStore, shelf: _Shelf) -> None:
        self.run_id = shelf.new.run_id
        self._store = store
        self._shelf = shelf

    @property
    def declared(self) -> Any:
        """The flow that the run was begun with."""
        return self._shelf.new.declared

    def append(self, record: Record, blobs: Mapping[str, bytes], state: RunState) -> None:
        """Add *record*; it lasts as long as the engine, which is all that memory promises."""
        shelf = self._shelf
        if shelf.owner is not self:
            raise self._given_up()
        shelf.records.append(record)
        shelf.state = state
        if blobs:
            shelf.blobs.update(blobs)

    def append_with(self, make: Make) -> asyncio.Future[Record | Failure]:
        """Call *make* with a database in memory, here and now, and add the record that it returns."""
        made: asyncio.Future[Record | Failure] = asyncio.get_running_loop().create_future()
        if self._shelf.owner is not self:
            made.set_exception(self._given_up())
            return made
        connection = self._store.database()
        try:
            with transaction(connection), lent(connection):
                record, blobs = make(connection)
        except BaseException as error:
            made.set_result(Failure(error))
        else:
            self._shelf.records.append(record)
            self._shelf.blobs.update(blobs)
            made.set_result(record)
        return made

    async def settle(self) -> None:
        """Do nothing: what is appended is there."""

    async def records(self) -> list[Record]:
        """Return every record, in order."""
        return list(self._shelf.records)

    async def blob(self, digest: str) -> bytes:
        """Return the bytes of a blob."""
        return await self._store.read_blob(digest)

    async def release(self) -> None:
        """Give the run up. Nobody owns it then, and this journal takes no more records."""
        if self._shelf.owner is self:
            self._shelf.owner = None
            self._store.released(self._shelf)

    def _given_up(self) -> RunOvertaken:
        return RunOvertaken(
            f"run {self.run_id!r} was given up by the engine that appends to it; resume it to go on", run_id=self.run_id
        )

    def __repr__(self) -> str:
        state = "owned" if self._shelf.owner is self else "given up"
        return f"<MemoryJournal of run {self.run_id!r}: {state}, {len(self._shelf.records)} records>"


class MemoryStore:
    """
    Keeps journals as lists of records, and the last *keep* runs that have ended.

    Raises:
        ValueError: *keep* is negative.
    """

    keeps_bytes = False
    location: str | None = None

    def __init__(self, *, keep: int = 1000) -> None:
        if keep < 0:
            raise ValueError(f"keep={keep!r} must be a number of ended runs, 0 or more")
        self._keep = keep
        self._shelves: dict[str, _Shelf] = {}
        # Ended runs that nobody owns, the one that ended first in front. A dict, since a resumed run leaves from the
        # middle.
        self._ended: dict[str, None] = {}
        self._plans: dict[str, Callable[[], bytes]] = {}
        self._requests: list[Request] = []
        # For transactions; made for the first of them.
        self._database: LendableConnection | None = None

    async def open(self) -> None:
        """Do nothing: memory is always ready."""

    async def close(self) -> None:
        """Give up every run that is still owned."""
        for shelf in list(self._shelves.values()):
            if shelf.owner is not None:
                await shelf.owner.release()
        if self._database is not None:
            self._database.close()
            self._database = None

    def database(self) -> LendableConnection:
        """Return the database in memory that transactions write to; it ends with the store."""
        if self._database is None:
            self._database = sqlite3.connect(":memory:", isolation_level=None, factory=LendableConnection)
        return self._database

    async def create(
        self, run: NewRun, plan: Callable[[], bytes], first: Record, blobs: Mapping[str, bytes]
    ) -> MemoryJournal:
        """Begin a journal with its *first* record, or raise RunExists."""
        if run.run_id in self._shelves:
            raise RunExists(
                f"there is a run {run.run_id!r} in memory already; go on with engine.resume({run.run_id!r}), or start "
                "this one under another id",
                run_id=run.run_id,
            )
        shelf = _Shelf(run, plan, first)
        if blobs:
            shelf.blobs.update(blobs)
        self._shelves[run.run_id] = shelf
        shelf.owner = MemoryJournal(self, shelf)
        return shelf.owner

    async def claim(self, run_id: str) -> MemoryJournal:
        """Become the owner of a run that nobody owns; raise RunNotFound or RunBusy."""
        shelf = self._shelf(run_id)
        if shelf.owner is not None:
            raise RunBusy(
                f"run {run_id!r} is already running in this engine; await it: engine.running() has it",
                run_id=run_id,
                owner="this engine",
            )
        self._ended.pop(run_id, None)
        shelf.owner = MemoryJournal(self, shelf)
        return shelf.owner

    def released(self, shelf: _Shelf) -> None:
        """Take note that a run has no owner any more, and let the runs go that ended too long ago."""
        if not shelf.state.is_ended:
            return
        run_id = shelf.new.run_id
        self._ended[run_id] = None
        if self._requests:
            self._requests = [request for request in self._requests if request.run_id != run_id]
        while len(self._ended) > self._keep:
            oldest = next(iter(self._ended))
            del self._ended[oldest], self._shelves[oldest]

    async def runs(self, *, state: RunState | None = None, limit: int | None = None) -> list[RunInfo]:
        """Return what there is, newest first."""
        found: list[RunInfo] = []
        for shelf in reversed(self._shelves.values()):
            if limit is not None and len(found) >= limit:
                break
            info = _info(shelf)
            if state is None or info.state is state:
                found.append(info)
        return found

    async def info(self, run_id: str) -> RunInfo:
        """Return one run's line, or raise RunNotFound."""
        return _info(self._shelf(run_id))

    async def read(self, run_id: str) -> list[Record]:
        """Return a run's records so far."""
        return list(self._shelf(run_id).records)

    async def read_blob(self, digest: str) -> bytes:
        """Return the bytes of a blob."""
        for shelf in self._shelves.values():
            if digest in shelf.blobs:
                return shelf.blobs[digest]
        raise StoreError(f"no run in memory has a blob {digest!r}")

    async def plan(self, digest: str) -> bytes:
        """Return the bytes of a recorded plan, made now."""
        for shelf in self._shelves.values():
            if shelf.new.plan == digest:
                return shelf.plan()
        if digest in self._plans:
            return self._plans[digest]()
        raise StoreError(f"no run in memory has a plan {digest!r}")

    async def save_plan(self, digest: str, body: Callable[[], bytes], *, run_id: str) -> None:
        """Keep a recorded plan."""
        self._plans.setdefault(digest, body)

    async def purge(self, before: float, states: Collection[RunState], told: Callable[[str], None]) -> None:
        """Remove runs that nobody needs."""
        for run_id, shelf in list(self._shelves.items()):
            info = _info(shelf)
            if info.state in states and info.owner is None and info.updated < before:
                del self._shelves[run_id]
                self._ended.pop(run_id, None)
                self._requests = [request for request in self._requests if request.run_id != run_id]
                told(run_id)

    async def backup(self, path: str) -> None:
        """Refuse: there is nothing that another process could read."""
        raise StoreError("this engine keeps its runs in memory, so there is no journal to back up; give it a path")

    async def request(self, run_id: str, kind: str, reason: str) -> None:
        """Leave word for the owner of a run."""
        shelf = self._shelf(run_id)
        if shelf.owner is not None or not shelf.state.is_ended:  # else it is over, and must not meet a reset
            self._requests.append(Request(run_id, kind, reason))

    async def beat(self, runs: Collection[str] | None = None) -> list[Request]:
        """Return what has been asked, since the last beat, of the runs that have an owner, or of *runs* among them."""
        mine: list[Request] = []
        others: list[Request] = []
        for request in self._requests:
            shelf = self._shelves.get(request.run_id)
            if shelf is not None:
                is_due = shelf.owner is not None and (runs is None or request.run_id in runs)
                (mine if is_due else others).append(request)
        self._requests = others
        return mine

    def _shelf(self, run_id: str) -> _Shelf:
        shelf = self._shelves.get(run_id)
        if shelf is None:
            raise RunNotFound(
                f"there is no run {run_id!r} in memory; runs of an engine without a file end with it, and it keeps the "
                f"last {self._keep} that ended",
                run_id=run_id,
            )
        return shelf

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._shelves)} runs, {len(self._ended)} of them ended>"


def _info(shelf: _Shelf) -> RunInfo:
    first, last = shelf.records[0], shelf.records[-1]
    owner = None if shelf.owner is None else "this engine"
    return listed(shelf.new, shelf.state, first.at, last.at, len(shelf.records), owner)


def listed(new: NewRun, state: RunState, created: float, updated: float, records: int, owner: str | None) -> RunInfo:
    """Return the line of a run whose journal says *state*; one that nobody owns does not go on, whatever it says."""
    is_standing = owner is None and state in (RunState.RUNNING, RunState.REVERTING)
    return RunInfo(
        run_id=new.run_id,
        flow=new.flow,
        flow_ref=new.flow_ref,
        plan=new.plan,
        state=RunState.INTERRUPTED if is_standing else state,
        durability=new.durability,
        created=created,
        updated=updated,
        records=records,
        owner=owner,
    )
