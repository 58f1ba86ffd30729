"""What is read from a file, through a connection that cannot write, so that a long listing holds up no commit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from asyncflow.codec import Codec, checksum
from asyncflow.codec.records import digest_of
from asyncflow.errors import CorruptRecord, RunNotFound, StoreError, UndecodableValue
from asyncflow.interfaces import RunInfo
from asyncflow.messages import Record
from asyncflow.states import RunState
from asyncflow.stores.database import Database, Row
from asyncflow.stores.line import seal
from asyncflow.stores.owners import OwnerLocks

_RECORDS_A_PAGE = 500

# A run's last record tells how many there are, and when it was.
_INFO = """
    SELECT r.id, r.flow, r.flow_ref, r.plan, r.state, r.durability, r.created, r.owner, o.host, o.pid, l.at, l.number
    FROM runs AS r
    LEFT JOIN owners AS o ON o.key = r.owner
    LEFT JOIN records AS l ON l.run = r.key AND l.number = (SELECT max(number) FROM records WHERE run = r.key)
"""
# States that say that a run goes on. If its owner is dead it does not.
_GOING_ON = (RunState.PENDING, RunState.RUNNING, RunState.REVERTING)


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
        """Return a line for each run, newest first."""
        where = ""
        parameters: tuple[str, ...] = ()
        if state is not None:
            stored = _GOING_ON if state is RunState.INTERRUPTED else (state,)
            where = f"WHERE r.state IN ({', '.join('?' * len(stored))})"
            parameters = tuple(each.value for each in stored)
        # Whether a run that goes on is interrupted is not for SQLite to tell, so the limit is not its either.
        is_derived = state is RunState.INTERRUPTED or state in _GOING_ON
        rows = await self._database.fetch(
            f"{_INFO} {where} ORDER BY r.key DESC LIMIT ?", (*parameters, -1 if limit is None or is_derived else limit)
        )
        found = self._infos(rows)
        if state is not None:
            found = [info for info in found if info.state is state]
        return found if limit is None else found[:limit]

    async def info(self, run_id: str) -> RunInfo:
        """Return one run's line, or raise RunNotFound."""
        rows = await self._database.fetch(f"{_INFO} WHERE r.id = ?", (run_id,))
        if not rows:
            raise self.not_found(run_id)
        return self._infos(rows)[0]

    async def standing(self, run_id: str) -> Row:
        """Return key, epoch, durability, state, owner, and the owner's host and process, or raise RunNotFound."""
        rows = await self._database.fetch(
            "SELECT r.key, r.epoch, r.durability, r.state, r.owner, o.host, o.pid "
            "FROM runs AS r LEFT JOIN owners AS o ON o.key = r.owner WHERE r.id = ?",
            (run_id,),
        )
        if not rows:
            raise self.not_found(run_id)
        return rows[0]

    async def ended(self, before: float, states: Collection[RunState], after: int) -> list[Row]:
        """
        Return a page of the runs in one of *states*, by key from behind *after*: key, id, owner, epoch, and whether the
        run has stood so since *before* with nobody alive to own it.
        """
        stored = {each.value for state in states for each in (_GOING_ON if state is RunState.INTERRUPTED else (state,))}
        rows = await self._database.fetch(
            "SELECT r.key, r.id, r.owner, r.epoch, coalesce(l.at, r.created) FROM runs AS r LEFT JOIN records AS l "
            "ON l.run = r.key AND l.number = (SELECT max(number) FROM records WHERE run = r.key) "
            f"WHERE r.key > ? AND r.state IN ({', '.join('?' * len(stored))}) ORDER BY r.key LIMIT ?",
            (after, *stored, _RECORDS_A_PAGE),
        )
        alive = {owner: self._locks.is_alive(owner) for owner in {row[2] for row in rows if row[2] is not None}}
        return [(*row[:4], row[4] < before and not alive.get(row[2], False)) for row in rows]

    async def purged(self) -> list[int]:
        """Return the keys of runs that are gone, and of which something is left."""
        return [key for (key,) in await self._database.fetch("SELECT run FROM purged ORDER BY run")]

    def _infos(self, rows: list[Row]) -> list[RunInfo]:
        # Asked once for each owner, however many runs it has.
        alive = {owner: self._locks.is_alive(owner) for owner in {row[7] for row in rows if row[7] is not None}}
        found: list[RunInfo] = []
        for run_id, flow, flow_ref, plan, stored, durability, created, owner, host, pid, updated, number in rows:
            state = self.state(stored, run_id)
            is_owned = owner is not None and alive[owner]
            if state in _GOING_ON and not is_owned:
                state = RunState.INTERRUPTED
            found.append(
                RunInfo(
                    run_id=run_id,
                    flow=flow,
                    flow_ref=flow_ref,
                    plan=plan,
                    state=state,
                    durability=durability,
                    created=created,
                    updated=created if updated is None else updated,
                    records=0 if number is None else number + 1,
                    owner=process(host, pid) if is_owned else None,
                )
            )
        return found

    def state(self, stored: Any, run_id: str) -> RunState:
        """Return the state that is *stored* for a run, or raise StoreError if there is no such state."""
        try:
            return RunState(stored)
        except ValueError:
            raise StoreError(
                f"journal {self._shown!r} says that run {run_id!r} is in state {stored!r}, which there is not; restore "
                "the file from a backup",
                path=self._shown,
            ) from None

    def not_found(self, run_id: str) -> RunNotFound:
        """Return what to raise where there is no such run."""
        return RunNotFound(
            f"there is no run {run_id!r} in {self._shown!r}; see what there is with 'asyncflow ls --db {self._shown}'",
            run_id=run_id,
        )

    # --- What a run has ---------------------------------------------------------------------------------------------

    async def records(self, key: int, run_id: str) -> list[Record]:
        """Return the records of the run with this *key*, checked; *run_id* is for messages."""
        records: list[Record] = []
        decode = self._codec.decode_record
        while True:
            # A page at a time: decoding many must let others run. What comes behind a page never changes it.
            # Cast, since damage may have made it something that is not even text.
            page = await self._database.fetch(
                "SELECT number, CAST(body AS BLOB), checksum FROM records "
                "WHERE run = ? AND number >= ? ORDER BY number LIMIT ?",
                (key, len(records), _RECORDS_A_PAGE),
            )
            for found, body, written in page:
                number = len(records)
                if found != number:
                    raise self._corrupt(run_id, number, "is missing")
                if type(body) is not bytes or seal(key, number, body) != written:
                    raise self._corrupt(run_id, number, "is damaged: its checksum is wrong")
                try:
                    records.append(decode(body))
                except UndecodableValue as error:
                    raise self._corrupt(run_id, number, f"cannot be decoded: {error}") from error
            if len(page) < _RECORDS_A_PAGE:
                break
        if not records:
            raise self._corrupt(run_id, 0, "is missing")
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
            raise StoreError(f"journal {self._shown!r} has no blob {digest!r}", path=self._shown)
        body = rows[0][0]
        if type(body) is not bytes or digest_of(body) != digest:
            raise StoreError(
                f"blob {digest!r} in journal {self._shown!r} is damaged; restore the file from a backup",
                path=self._shown,
            )
        return body

    async def plan(self, digest: str) -> bytes:
        """Return the bytes of a recorded plan, checked."""
        rows = await self._database.fetch("SELECT CAST(body AS BLOB), checksum FROM plans WHERE digest = ?", (digest,))
        if not rows:
            raise StoreError(f"journal {self._shown!r} has no plan {digest!r}", path=self._shown)
        body, written = rows[0]
        if type(body) is not bytes or checksum(body) != written:
            raise StoreError(
                f"plan {digest!r} in journal {self._shown!r} is damaged; restore the file from a backup",
                path=self._shown,
            )
        return body

    async def has_plan(self, digest: str) -> bool:
        """Return whether a plan is there."""
        return bool(await self._database.fetch("SELECT 1 FROM plans WHERE digest = ?", (digest,)))


def process(host: str | None, pid: int | None) -> str:
    """Return how an owner is called in listings and messages."""
    return f"process {pid} on {host}" if pid is not None else "an engine that left no name"
