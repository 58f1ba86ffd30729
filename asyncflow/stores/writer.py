"""
The one writer of a file: it gathers what all runs append and commits it together.

While one commit runs, whatever else is appended gathers, and goes into the next; nobody idles to fill a batch. A batch
is one trip to the connection's thread and one transaction: see ``commit``. It inserts a record only where the run still
has the epoch that the appender claimed, so that an engine which was overtaken writes nothing.

A few records are not worth the trip, and are committed on the loop, see ``on_loop``: never where another engine is
writing, nor for a while after such a commit has had to wait.

What a handler of a signal raises may come wherever CPython looks for signals: at the beginning of a function, and
behind a call. In the middle of a commit it is held back: the loop raises it. A batch is the writer's until everybody in
it has been told, and is looked for in the file if it may be there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from asyncflow.errors import AsyncflowError, StoreError
from asyncflow.interfaces import Make, NewRun
from asyncflow.messages import Record
from asyncflow.outcomes import Failure
from asyncflow.states import RunState
from asyncflow.stores.commit import write
from asyncflow.stores.database import Database, Interrupted, LendableConnection, roll_back
from asyncflow.stores.errand import raise_from_loop, send_on_errand
from asyncflow.stores.line import (
    Append,
    Batch,
    Creation,
    Errand,
    Line,
    Release,
    cut_off,
    exists,
    not_written,
    overtaken,
    too_large,
)
from asyncflow.stores.on_loop import OnLoop
from asyncflow.stores.transactions import Joint, JointAppend, Result, commit
from asyncflow.stores.wal_lock import Taken

T = TypeVar("T")

LAZY_DELAY = 0.05
"""Seconds after which lazy records are committed at the latest; the commit itself has the rest of their 100 ms."""

CHECKPOINT_BYTES = 4 << 20
"""How far the write-ahead log may grow before it is copied into the database."""

# Of a thousand runs at once, each commit writes every page that has the last record of one: a batch of 1,024 costs a
# sixth less processor time a run than one of 256.
_BATCH_ROWS = 1024
# So many that are lazy are worth a commit, beside which the run goes on.
_LAZY_ROWS = 256
_BATCH_BYTES = 8 << 20
# From here on a lazy append waits like any other: memory is not where a slow disk should be made up for.
_BACKLOG_BYTES = 32 << 20
# SQLite keeps a billion bytes at most.
_LARGEST_BYTES = 900_000_000
# What an append weighs besides its bytes.
_APPEND_BYTES = 256
_PAGE_BYTES = 4096
# What any commit adds to the log.
_COMMIT_BYTES = 2 * _PAGE_BYTES

_NO_BLOBS: Mapping[str, bytes] = {}
_LEVELS = {True: "PRAGMA synchronous = FULL", False: "PRAGMA synchronous = NORMAL"}


class Writer:
    """Commits appends in batches, and runs what else must be written between them."""

    def __init__(self, database: Database, owner: int) -> None:
        self._database = database
        self._path = database.shown
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._pending: deque[Append] = deque()
        self._pending_bytes = 0
        # How many of them somebody waits for; the others are lazy.
        self._urgent = 0
        # Whether the lazy ones are due.
        self._is_due = False
        self._lazy_timer: asyncio.TimerHandle | None = None
        self._joint = Joint(self._path)
        self._releases: list[Release] = []
        self._errands: deque[Errand] = deque()
        # What is being committed, until everybody in it has been told.
        self._batch: Batch | None = None
        # Lives while there is something to do. It starts in the turn of the loop after the one that asks for it, so
        # what several runs append in one turn is one batch.
        self._working: asyncio.Task[None] | None = None
        # Whether it is about to end, unless something more comes in.
        self._is_looking = False
        # Whether the file is being closed, so that the connection's thread is at work without us.
        self.is_leaving = False
        self._is_synced: bool | None = None
        self._on_loop = OnLoop(self._loop)
        # Roughly what the log has grown by since it was last copied.
        self._log_bytes = 0

    # --- What stores and journals ask -------------------------------------------------------------------------------

    def append(
        self, line: Line, body: bytes, at: float, state: RunState, blobs: Mapping[str, bytes]
    ) -> asyncio.Future[None] | None:
        """
        Take one record. Return None where it lasts already, or is of a lazy run and has no blobs, else a future that is
        done once it is durable.
        """
        if line.error is not None:
            return self._refused(line.refusal())
        size_bytes = len(body) + _APPEND_BYTES
        if blobs:
            size_bytes += sum(map(len, blobs.values()))
        if size_bytes > _LARGEST_BYTES:
            return self._refused(too_large(line.run_id, self._path, size_bytes, _LARGEST_BYTES))
        changed = None if state is line.state else state.value
        append = Append(line, line.next, at, body, changed, blobs, size_bytes)
        is_made = self._commit_at_once(line, Batch([append], [], size_bytes))
        if not is_made:
            if line.durability != "lazy" or blobs or self._pending_bytes >= _BACKLOG_BYTES:
                append.waiter = self._loop.create_future()
            self._put(append)
        line.state = state
        return self._refused(line.refusal()) if is_made and line.error is not None else append.waiter

    def create(
        self,
        line: Line,
        new: NewRun,
        plan: bytes | None,
        at: float,
        body: bytes,
        blobs: Mapping[str, bytes],
        plan_again: Callable[[], bytes],
    ) -> asyncio.Future[None]:
        """
        Make a run exist with its first record; *plan* is None where the file has it, and *plan_again* gives it should
        it have been purged meanwhile.
        """
        size_bytes = len(body) + len(plan or b"") + sum(map(len, blobs.values())) + _APPEND_BYTES
        if size_bytes > _LARGEST_BYTES:
            return self._refused(too_large(line.run_id, self._path, size_bytes, _LARGEST_BYTES))
        waiter: asyncio.Future[None] = self._loop.create_future()
        append = Append(line, 0, at, body, None, blobs, size_bytes, waiter, Creation(new, plan, plan_again))
        if not self._commit_at_once(line, Batch([append], [], size_bytes)):
            self._put(append)
        return waiter

    def append_with(
        self, line: Line, make: Make, encode: Callable[[Record], bytes]
    ) -> asyncio.Future[Record | Failure]:
        """Take one record that *make* makes in the commit that keeps it; the future has it, or how *make* failed."""
        waiter: asyncio.Future[Record | Failure] = self._loop.create_future()
        self._joint.waiting.append(JointAppend(line, make, encode, waiter))
        self._begin()
        return waiter

    def release(self, line: Line, heard: Sequence[int] = ()) -> asyncio.Future[None]:
        """Give a run up of which all is settled, and forget the requests that it has *heard*."""
        done: asyncio.Future[None] = self._loop.create_future()
        release = Release(line, heard, done)
        if not self._commit_at_once(line, Batch([], [release])):
            self._releases.append(release)
            self._begin()
        return done

    async def settle(self, line: Line) -> None:
        """Return once everything appended to *line* has been written or refused."""
        append = line.last
        if append is not None and not append.is_settled:
            append.watcher = append.watcher or self._loop.create_future()
            self.hurry()
            await asyncio.shield(append.watcher)

    def run(
        self, work: Callable[[LendableConnection], T], *, log_bytes: int = 0, is_once: bool = False
    ) -> asyncio.Future[T]:
        """
        Call *work* with the connection, in its thread and between two batches, even if nobody waits for it any more;
        *log_bytes* is how far the log may grow by it. What an interrupt has cut off is done again, and is a StoreError
        if it *is_once*, so that doing it again would differ.
        """
        done: asyncio.Future[T] = self._loop.create_future()
        self._errands.append(Errand(work, done, is_once))
        self._log_bytes += _COMMIT_BYTES + log_bytes
        self._begin()
        return done

    def hurry(self) -> None:
        """Write what is pending, the lazy ones included, without waiting for more."""
        self._is_due = bool(self._pending)
        self._begin()

    async def drain(self) -> None:
        """Return once nothing is left to write."""
        self.hurry()
        while self._working is not None and not self._working.done():
            await asyncio.wait([self._working])
            self.hurry()

    async def checkpoint(self, *, at_least_bytes: int = 0) -> None:
        """Copy the log into the database, as far as nobody reads it, if it has grown by *at_least_bytes*."""
        if self._log_bytes > at_least_bytes:
            copied = self.run(_copy_log)
            self._log_bytes = 0
            await copied

    # --- At work ----------------------------------------------------------------------------------------------------

    def _put(self, append: Append) -> None:
        append.line.last = append
        # Both or neither: a number that is given out and never used would be a gap.
        append.line.next = append.number + 1
        self._pending.append(append)
        self._pending_bytes += append.size_bytes
        if append.waiter is not None:
            self._urgent += 1
            self._begin()
        elif len(self._pending) >= _LAZY_ROWS:
            self.hurry()
        elif self._working is None and self._lazy_timer is None:
            self._lazy_timer = self._loop.call_later(LAZY_DELAY, self.hurry)

    def _begin(self) -> None:
        if (self._working is None or self._working.done()) and (self._pending or self._has_work):
            self._employ(send_on_errand(self._work()))

    def _employ(self, working: asyncio.Task[None]) -> None:
        # First, so that nothing is at work of whose end nobody hears.
        working.add_done_callback(self._worked)
        self._working = working

    async def _work(self) -> None:
        me = asyncio.current_task()
        if self._working is not me:
            # An interrupt came before we were employed. Two would do the same things.
            if me is None or not (self._working is None or self._working.done()):
                return
            self._employ(me)
        try:
            if self._lazy_timer is not None:
                self._lazy_timer.cancel()
                self._lazy_timer = None
            while self._has_work or await self._comes_more():
                if self._errands:
                    await self._run(self._errands[0])
                    self._errands.popleft()
                # Before anything is committed on the loop: the thread may be at one that an interrupt has cut off.
                if self._joint.has_work:
                    await self._commit_joint()
                if self._batch is None:
                    self._take()
                if self._batch is not None:
                    await self._commit(self._batch)
                    self._batch = None
                if self._log_bytes > CHECKPOINT_BYTES:
                    # Where it fails it is tried again 4 MiB later; what was appended is safe in the log.
                    self._log_bytes = 0
                    with contextlib.suppress(StoreError):
                        await self._database.call(_copy_log)
        finally:
            self._working = None
            self._is_due = self._is_looking = False
            if self._pending:
                self._lazy_timer = self._loop.call_later(LAZY_DELAY, self.hurry)

    def _worked(self, working: asyncio.Task[None]) -> None:
        """Go on where an interrupt has ended the work, which may have been before it began."""
        if self._working is working:
            self._working = None
        error = working.exception()
        if isinstance(error, Exception):  # a bug of ours, and it would happen again
            batch, self._batch = self._batch, None
            self._loop.call_exception_handler({"message": "asyncflow's writer failed", "exception": error})
            if batch is not None:
                self._lose(batch, error)
        if self._has_work:
            self._begin()

    @property
    def _has_work(self) -> bool:
        is_asked = self._batch or self._urgent or self._releases or self._errands or self._is_due
        return bool(is_asked or self._joint.has_work)

    async def _comes_more(self) -> bool:
        """Look once more behind those who have just been told: most of them append again in this turn of the loop."""
        self._is_looking = True
        await asyncio.sleep(0)
        self._is_looking = False
        return self._has_work

    def _take(self) -> None:
        """Make a batch of what is pending, in order, bounded in rows and bytes, if there is anything."""
        if not (self._pending or self._releases):
            return
        pending = self._pending
        # It is ours as it grows; what an interrupt leaves in both is settled when it comes up again.
        batch = self._batch = Batch([], [])
        while pending and len(batch.appends) < _BATCH_ROWS:
            append = pending[0]
            if append.line.error is not None:
                append.refuse(append.line.error)
            if not append.is_settled:
                if batch.appends and batch.size_bytes + append.size_bytes > _BATCH_BYTES:
                    break
                batch.size_bytes += append.size_bytes
                batch.is_synced |= append.line.durability == "full"
                # Lazy ones go along in their place in the order.
                batch.appends.append(append)
            self._pending_bytes -= append.size_bytes
            if append.waiter is not None:
                self._urgent -= 1
            pending.popleft()
        if not pending:
            self._urgent = self._pending_bytes = 0  # whatever an interrupt has made of these counts
        batch.releases += self._releases[:_BATCH_ROWS]
        del self._releases[:_BATCH_ROWS]
        # What comes from here on may wait again.
        self._is_due = self._is_due and bool(pending)

    async def _run(self, errand: Errand) -> None:
        """Run an errand, and tell who has asked for it how that went."""
        done = errand.done
        try:
            if errand.is_begun and errand.is_once:
                raise await self._cut_off()
            errand.is_begun = True
            # Not synced: whatever depends on it is committed, and then synced, behind it.
            await self._sync(False)
            result = await self._database.call(errand.work)
        except Exception as error:
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(result)

    async def _commit(self, batch: Batch) -> None:
        """Commit *batch*, and tell everybody in it how that went."""
        if batch.is_begun:
            # An interrupt came while they were told. What comes behind one that was refused is refused as well.
            for append in batch.appends:
                if append.line.error is not None:
                    append.refuse(append.line.error)
            batch.appends = [append for append in batch.appends if not append.is_settled]
        if not batch.rows:
            return
        try:
            refused = None
            if not batch.is_begun and self._on_loop.allows(batch.rows, batch.size_bytes, is_synced=batch.is_synced):
                refused = self._write_here(batch)
            if refused is None:
                refused = await self._write_there(batch)
        except Exception as error:
            self._lose(batch, error)
        else:
            self._keep(batch, refused)

    def _commit_at_once(self, line: Line, batch: Batch) -> bool:
        """Commit what *line* asks for within this call, if nothing else is on its way; return whether that is done."""
        if line.durability != "process":
            return False
        is_busy = self._has_work or self._pending or self._log_bytes > CHECKPOINT_BYTES or self.is_leaving
        is_idle = not is_busy and (self._working is None or self._is_looking)
        if not (self._on_loop.admit(line, is_idle=is_idle) and self._on_loop.allows(1, batch.size_bytes)):
            return False
        refused = self._write_here(batch)
        if refused is not None:
            for append in batch.appends:
                line.next = append.number + 1
            self._keep(batch, refused)
        elif batch.is_begun:
            self._batch = batch  # it may be there; first of all that is looked up
        return refused is not None

    def _write_here(self, batch: Batch) -> set[Append] | None:
        """Write *batch* on the loop, and return what is refused of it; None where that could not be done."""
        # The clock of uvloop knows whole milliseconds only.
        clock = time.perf_counter if batch.is_synced else self._loop.time
        begun, refused = clock(), None
        batch.is_begun = True
        try:
            refused = self._database.call_now(write, *self._commission(batch))
            self._is_synced = batch.is_synced
        except Taken:
            batch.is_begun = False
        except Interrupted as interrupted:
            raise_from_loop(interrupted.error)
        self._on_loop.took(clock() - begun, is_synced=batch.is_synced, is_made=refused is not None)
        return refused

    async def _write_there(self, batch: Batch) -> set[Append]:
        """Write *batch* in the connection's thread, as far as it is not there, and return what is refused of it."""
        is_again, batch.is_begun = batch.is_begun, True
        begun = time.perf_counter()
        refused = await self._database.call(write, *self._commission(batch), is_again=is_again)
        self._is_synced = batch.is_synced
        if batch.is_synced:
            self._on_loop.synced(time.perf_counter() - begun)
        return refused

    def _commission(self, batch: Batch) -> tuple[list[Append], list[Line], list[int], int, str | None]:
        """Return what ``write`` is to be told. At what level we sync nobody knows until that has worked."""
        heard = [key for release in batch.releases for key in release.heard]
        level = None if self._is_synced is batch.is_synced else _LEVELS[batch.is_synced]
        self._is_synced = None
        return batch.appends, [release.line for release in batch.releases], heard, self._owner, level

    def _lose(self, batch: Batch, error: Exception) -> None:
        """Tell everybody in a batch that it was not written."""
        for append in batch.appends:
            append.refuse(not_written(error, self._path))
        if batch.appends:
            # It may be no fault of theirs: they are tried once more, alone.
            self._releases += batch.releases
            return
        for release in batch.releases:
            if not release.done.done():
                release.done.set_exception(not_written(error, self._path))
                release.done.exception()  # who asked hears it at once, or has gone

    def _keep(self, batch: Batch, refused: Collection[Append]) -> None:
        """Take note of a batch that is in the file, all but what is *refused*, and tell everybody in it."""
        # Each run's records lie together, so each run's last page is written anew.
        pages = len({append.line for append in batch.appends}) + len(batch.releases)
        self._log_bytes += _COMMIT_BYTES + _PAGE_BYTES * pages + batch.size_bytes
        for append in batch.appends:
            if refused and append in refused:
                append.refuse(self._refusal(append))
                continue
            for waiting in (append.waiter, append.watcher):
                if waiting is not None and not waiting.done():
                    waiting.set_result(None)
            append.is_settled = True  # at last: one that is told twice hears it once
            # Its line, and the connection's thread, hold on to it until there is another.
            append.body, append.blobs = b"", _NO_BLOBS
        for release in batch.releases:
            if not release.done.done():
                release.done.set_result(None)

    def _refusal(self, append: Append) -> AsyncflowError:
        run_id = append.line.run_id
        return overtaken(run_id, self._path) if append.line.key else exists(run_id, self._path)

    async def _commit_joint(self) -> None:
        """Commit what is made in its own commit, as far as what was appended before it is settled."""
        joint, changes = self._joint, 0
        results: Mapping[JointAppend, Result]
        try:
            if joint.batch:
                raise await self._cut_off()
            if not joint.take():
                return
            await self._sync(joint.is_synced)
            results, changes = await commit(self._database, joint.batch)
        except Exception as error:
            results = dict.fromkeys(joint.batch, error)
        # A guess at how much the log has grown: a page for each row.
        self._log_bytes += _COMMIT_BYTES + _PAGE_BYTES * (changes + len(results)) + joint.tell(results)

    async def _sync(self, is_synced: bool) -> None:
        """Let commits from here on wait for the disk, or not."""
        if self._is_synced is not is_synced:
            self._is_synced = None
            await self._database.call(LendableConnection.execute, _LEVELS[is_synced])
            self._is_synced = is_synced

    async def _cut_off(self) -> StoreError:
        """Return what to raise of what an interrupt has cut off, once it goes on in the connection's thread no more."""
        with contextlib.suppress(StoreError):
            await self._database.call(roll_back)
        return cut_off(self._path)

    # --- Bad news ---------------------------------------------------------------------------------------------------

    def overtaken(self, line: Line) -> None:
        """Write nothing more to *line*, which is another engine's by now."""
        if line.error is None:
            line.error = overtaken(line.run_id, self._path)

    def _refused(self, error: AsyncflowError) -> asyncio.Future[None]:
        refused: asyncio.Future[None] = self._loop.create_future()
        refused.set_exception(error)
        return refused


def _copy_log(connection: LendableConnection) -> None:
    # Whatever a reader keeps from being copied now is copied next time.
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
