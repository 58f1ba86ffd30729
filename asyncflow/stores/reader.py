"""What is read from a file, through a connection that cannot write, so that a long listing holds up no commit."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import Any

import attrs

from asyncflow.codec import Codec
from asyncflow.codec.records import digest_of
from asyncflow.errors import CorruptRecord, RunNotFound, StoreError, UndecodableValue
from asyncflow.interfaces import RunInfo
from asyncflow.messages import Record
from asyncflow.states import RunState
from asyncflow.stores.database import Database, Row
from asyncflow.stores.owners import OwnerLocks
from asyncflow.stores.seal import is_head_whole, seal_plan, seal_record, seal_run

_RECORDS_A_PAGE = 500

# A run's last record tells when it was.
ROWS = """
    SELECT r.key, r.id, r.flow, r.flow_ref, r.plan, r.state, r.durability, r.created, r.seal, r.records, r.last,
        r.epoch, r.owner, o.host, o.pid, l.at, l.state, l.checksum
    FROM runs AS r
    LEFT JOIN owners AS o ON o.key = r.owner
    LEFT JOIN records AS l ON l.run = r.key AND l.number = r.records - 1
"""
_INDEX = "runs INDEXED BY sqlite_autoindex_runs_1"
# States that say that a run goes on. If its owner is dead it does not.
_GOING_ON = (RunState.PENDING, RunState.RUNNING, RunState.REVERTING)
_DERIVED = (RunState.INTERRUPTED, RunState.DAMAGED)
_STORED = {state.value: state for state in RunState if state not in _DERIVED}
_KNOWN = ", ".join(f"'{name}'" for name in _STORED)


@attrs.frozen
class Standing:
    """A run's row as it is found, with its owner's host and process and what its last record says of itself."""

    key: int
    run_id: str
    flow: str
    flow_ref: str | None
    plan: str
    state: str
    durability: str
    created: float
    seal: int
    records: int
    last: int
    epoch: int
    owner: int | None
    host: str | None
    pid: int | None
    last_at: float
    last_state: str | None
    last_seal: int | None

    def damage(self) -> str | None:
        """Return what is not as it was written, if anything is not."""
        if self.seal != seal_run(self.run_id, self.flow, self.flow_ref, self.plan, self.durability, self.created):
            return "its row is not as it was written"
        if self.state not in _STORED:
            return f"it is in state {self.state!r}, which there is not"
        if type(self.epoch) is not int or not (self.owner is None or (type(self.owner) is int and self.owner > 0)):
            return "its owner is not as it was written"
        if self.last_seal is None:
            return f"its last record of {self.records} is missing"
        if self.last_seal != self.last or not is_head_whole(
            self.last, self.key, self.records - 1, self.last_at, self.last_state
        ):
            return "its last record is not as it was written"
        return None


class LostBlob(StoreError):
    """A blob is not there, or not as it was written."""


class Reader:
    """Reads listings, records, blobs and plans. Each statement sees the file as it was at one moment."""

    def __init__(self, database: Database, locks: OwnerLocks, codec: Codec) -> None:
        self._database = database
        self._locks = locks
        self._codec = codec
        self._shown = database.shown

    async def close(self) -> None:
        """Close the connection."""
        await self._database.close()

    # --- Runs -------------------------------------------------------------------------------------------------------

    async def runs(self, state: RunState | None, limit: int | None) -> list[RunInfo]:
        """Return a line for each run, newest first. What is damaged has a line that says so, whatever *state* is."""
        where = ""
        if state is not None and state is not RunState.DAMAGED:
            stored = _GOING_ON if state is RunState.INTERRUPTED else (state,)
            # One in no state at all is damaged, and was perhaps in this one.
            where = f"WHERE r.state IN ({', '.join(repr(each.value) for each in stored)}) OR r.state NOT IN ({_KNOWN})"
        # Whether a run goes on or is damaged is not for SQLite to tell, so the limit is not its either.
        is_derived = state in _DERIVED or state in _GOING_ON
        rows = await self._database.fetch(
            f"{ROWS} {where} ORDER BY r.key DESC LIMIT ?", (-1 if limit is None or is_derived else limit,)
        )
        found = await self._astray(rows) + self._infos([Standing(*row) for row in rows])
        if state is not None:
            found = [info for info in found if info.state in (state, RunState.DAMAGED)]
        return found if limit is None else found[:limit]

    async def info(self, run_id: str) -> RunInfo:
        """Return one run's line; raise RunNotFound, or CorruptRecord if it is damaged."""
        return self._infos([await self.standing(run_id)])[0]

    async def standing(self, run_id: str) -> Standing:
        """Return what a run's row says, checked; raise RunNotFound or CorruptRecord."""
        rows = await self._database.fetch(f"{ROWS} WHERE r.id = ?", (run_id,))
        if rows:
            row = Standing(*rows[0])
            # What is found under an id need not bear it: an index that is damaged may lead anywhere.
            damage = row.damage() if row.run_id == run_id else "the index of the runs leads to another"
            if damage is not None:
                raise self._damaged(run_id, damage)
            return row
        # The index may have lost it. Asked only here, where nobody is in a hurry any more.
        if await self._database.fetch("SELECT 1 FROM runs NOT INDEXED WHERE id = ?", (run_id,)):
            raise self._damaged(run_id, "the index of the runs has lost it")
        raise self._not_found(run_id)

    async def _astray(self, rows: list[Row]) -> list[RunInfo]:
        """
        Return a line for each run that only the index knows, since the table has lost it.

        Raises:
            StoreError: The table is out of order.
        """
        keys = [row[0] for row in rows]
        if any(key <= following for key, following in pairwise(keys)):
            raise StoreError(
                f"the list of runs in journal {self._shown!r} is damaged: it is out of order; restore the file from a "
                "backup",
                path=self._shown,
            )
        [(listed, known)] = await self._database.fetch(
            # With a condition, since SQLite counts a whole table by whichever index is the smallest.
            f"SELECT (SELECT count(*) FROM runs NOT INDEXED), (SELECT count(*) FROM {_INDEX} WHERE id >= '')"
        )
        if listed == known:
            return []
        have = set(await self._database.fetch("SELECT key FROM runs NOT INDEXED"))
        lost = [row for row in await self._database.fetch(f"SELECT key, id FROM {_INDEX}") if row[:1] not in have]
        if not lost:
            raise StoreError(
                f"journal {self._shown!r} has {listed} runs and its index {known}; restore the file from a backup",
                path=self._shown,
            )
        return [_damaged_info(run_id, "its row is lost") for _, run_id in lost]

    async def heartbeat(self, owner: int) -> tuple[list[Row], dict[int, int]]:
        """
        Return what was asked of the runs of *owner* (key, run id, kind and reason, oldest first), and those runs: their
        keys, each with its epoch.
        """
        asked = await self._database.fetch(
            "SELECT q.key, r.id, q.kind, q.reason FROM requests AS q CROSS JOIN runs AS r ON r.key = q.run AND "
            "r.owner = ? ORDER BY q.key",
            (owner,),
        )
        return asked, dict(await self._database.fetch("SELECT key, epoch FROM runs WHERE owner = ?", (owner,)))

    async def ended(self, before: float, states: Collection[RunState], after: int) -> list[Row]:
        """
        Return a page of the runs in one of *states*, by key from behind *after*: key, id, owner, epoch, and whether the
        run has stood so since *before* with nobody alive to own it.
        """
        stored = {each.value for state in states for each in (_GOING_ON if state is RunState.INTERRUPTED else (state,))}
        rows = await self._database.fetch(
            f"{ROWS} WHERE r.key > ? AND r.state IN ({', '.join('?' * len(stored))}) ORDER BY r.key LIMIT ?",
            (after, *stored, _RECORDS_A_PAGE),
        )
        found: list[Row] = []
        for run in (Standing(*row) for row in rows):
            # What is damaged says nothing of its age that could be believed.
            is_due = not run.damage() and run.last_at < before
            is_due = is_due and (run.owner is None or not self._locks.is_alive(run.owner))
            found.append((run.key, run.run_id, run.owner, run.epoch, is_due))
        return found

    async def purged(self) -> list[int]:
        """Return the keys of runs that are gone, and of which something is left."""
        return [key for (key,) in await self._database.fetch("SELECT run FROM purged ORDER BY run")]

    def _infos(self, rows: list[Standing]) -> list[RunInfo]:
        # Asked once for each owner, however many runs it has.
        owners = {row.owner for row in rows if type(row.owner) is int and row.owner > 0}
        alive = {owner: self._locks.is_alive(owner) for owner in owners}
        found: list[RunInfo] = []
        for row in rows:
            if damage := row.damage():
                found.append(_damaged_info(row.run_id, damage))
                continue
            state = _STORED[row.state]
            is_owned = row.owner is not None and alive.get(row.owner, False)
            if state in _GOING_ON and not is_owned:
                state = RunState.INTERRUPTED
            found.append(
                RunInfo(
                    run_id=row.run_id,
                    flow=row.flow,
                    flow_ref=row.flow_ref,
                    plan=row.plan,
                    state=state,
                    durability=row.durability,
                    created=row.created,
                    updated=row.last_at,
                    records=row.records,
                    owner=process(row.host, row.pid) if is_owned else None,
                )
            )
        return found

    def _damaged(self, run_id: str, damage: str) -> CorruptRecord:
        return CorruptRecord(
            f"run {run_id!r} in {self._shown!r} is damaged: {damage}; restore the file from a backup, or start the run "
            "anew under another id",
            path=self._shown,
            run_id=run_id,
            number=None,
        )

    def _not_found(self, run_id: str) -> RunNotFound:
        return RunNotFound(
            f"there is no run {run_id!r} in {self._shown!r}; see what there is with 'asyncflow ls --db {self._shown}'",
            run_id=run_id,
        )

    # --- What a run has ---------------------------------------------------------------------------------------------

    async def records(self, run_id: str) -> list[Record]:
        """Return the records of a run, checked: none is missing, between two others or at the end."""
        before = await self.standing(run_id)
        key, seal = before.key, 0
        records: list[Record] = []
        decode = self._codec.decode_record
        while True:
            # A page at a time: decoding many must let others run. What comes behind a page never changes it.
            # Cast, since damage may have made it something that is not even text.
            page = await self._database.fetch(
                "SELECT number, at, state, CAST(body AS BLOB), checksum FROM records "
                "WHERE run = ? AND number >= ? ORDER BY number LIMIT ?",
                (key, len(records), _RECORDS_A_PAGE),
            )
            for found, at, state, body, seal in page:
                number = len(records)
                if found != number:
                    raise self._corrupt(run_id, number, "is missing")
                if (
                    type(body) is not bytes
                    or not is_head_whole(seal, key, number, at, state)
                    or seal_record(key, number, at, state, body) != seal
                ):
                    raise self._corrupt(run_id, number, "is damaged: its checksum is wrong")
                try:
                    records.append(decode(body))
                except UndecodableValue as error:
                    raise self._corrupt(run_id, number, f"cannot be decoded: {error}") from error
            if len(page) < _RECORDS_A_PAGE:
                break
        if len(records) < before.records:
            raise self._corrupt(run_id, len(records), "is missing")
        # Its owner may have appended while this was reading.
        after = before if len(records) == before.records else await self.standing(run_id)
        if len(records) > after.records or (len(records) == after.records and seal != after.last):
            raise self._damaged(run_id, f"it should have {after.records} records, and {len(records)} are found")
        return records

    def _corrupt(self, run_id: str, number: int, what: str) -> CorruptRecord:
        return CorruptRecord(
            f"record {number} of run {run_id!r} in {self._shown!r} {what}; restore the file from a backup, or start "
            "the run anew under another id",
            path=self._shown,
            run_id=run_id,
            number=number,
        )

    async def blob(self, digest: str) -> bytes:
        """Return the bytes of a blob, checked against their digest."""
        rows = await self._database.fetch("SELECT CAST(body AS BLOB) FROM blobs WHERE digest = ?", (digest,))
        if not rows:
            raise LostBlob(f"journal {self._shown!r} has no blob {digest!r}", path=self._shown)
        body = rows[0][0]
        if type(body) is not bytes or digest_of(body) != digest:
            raise LostBlob(
                f"blob {digest!r} in journal {self._shown!r} is damaged; restore the file from a backup",
                path=self._shown,
            )
        return body

    async def plan(self, digest: str) -> bytes:
        """Return the bytes of a recorded plan, checked."""
        rows = await self._database.fetch("SELECT CAST(body AS BLOB), checksum FROM plans WHERE digest = ?", (digest,))
        if not rows:
            raise StoreError(f"journal {self._shown!r} has no plan {digest!r}", path=self._shown)
        body, seal = rows[0]
        if type(body) is not bytes or seal_plan(digest, body) != seal:
            raise StoreError(
                f"plan {digest!r} in journal {self._shown!r} is damaged; restore the file from a backup",
                path=self._shown,
            )
        return body

    async def has_plan(self, digest: str) -> bool:
        """Return whether a plan is there, undamaged."""
        rows = await self._database.fetch("SELECT CAST(body AS BLOB), checksum FROM plans WHERE digest = ?", (digest,))
        return any(type(body) is bytes and seal_plan(digest, body) == seal for body, seal in rows)


def _damaged_info(run_id: Any, damage: str) -> RunInfo:
    """Return the line of a run of which only the id is shown, as far as that can be read."""
    return RunInfo(
        run_id=str(run_id),
        flow="",
        flow_ref=None,
        plan="",
        state=RunState.DAMAGED,
        durability="",
        created=0.0,
        updated=0.0,
        records=0,
        owner=None,
        damage=damage,
    )


def process(host: str | None, pid: int | None) -> str:
    """Return how an owner is called in listings and messages."""
    return f"process {pid} on {host}" if pid is not None else "an engine that left no name"
