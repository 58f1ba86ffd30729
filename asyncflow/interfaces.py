"""
The seams: what an engine asks of a store, an executor, a clock and an observer.

Each is a protocol with a conformance suite in ``asyncflow.testing``; what answers it lives in a plural folder. The
runtime knows these and none of their implementations; ``engine.py`` chooses.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import Context as ContextVars
from typing import Any, Protocol

import attrs
import msgspec

from asyncflow.messages import Emitted, Event, Record
from asyncflow.outcomes import Failure, Sealed, TimedOut
from asyncflow.states import RunState, TaskState

# --- Store ------------------------------------------------------------------------------------------------------------


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a store needs to know of a run that is about to exist.

    ``flow_ref`` is ``module:attribute``, if it has one; ``declared`` the flow itself, for a store that keeps objects.
    """

    run_id: str
    flow: str
    flow_ref: str | None
    plan: str
    durability: str
    declared: Any = None


@attrs.frozen(kw_only=True)
class RunInfo:
    """
    A line of a listing.

    ``state`` is INTERRUPTED where the journal says that the run goes on but its owner is dead. Times are POSIX seconds.
    ``owner`` describes the process that owns the run now, or is None. Where ``state`` is DAMAGED, ``damage`` says what
    is not as it was written, and nothing else can be relied on.
    """

    run_id: str
    flow: str
    flow_ref: str | None
    plan: str
    state: RunState
    durability: str
    created: float
    updated: float
    records: int
    owner: str | None
    damage: str | None = None


@attrs.frozen
class Request:
    """
    What another process asks of a run that this one owns: ``kind`` is "cancel" or "suspend". Or what it has done to it:
    "overtaken", so that this one owns the run no more.
    """

    run_id: str
    kind: str
    reason: str


Make = Callable[[sqlite3.Connection], tuple[Record, Mapping[str, bytes]]]
"""Writes what a user wants written with a record, and returns that record and its blobs."""


class Journal(Protocol):
    """
    One run's journal, in the hands of the one engine that owns the run.

    ``grows`` says that it keeps a record itself: what the list of events of the last one is given later is on record
    with that. ``lags`` says that this run's durability lets it go ahead of its records by some milliseconds; of those
    that have no blobs.
    """

    run_id: str
    grows: bool

    @property
    def lags(self) -> bool: ...

    @property
    def declared(self) -> Any:
        """The flow that the run was begun with, where the store keeps objects; else None."""
        ...

    def append(self, record: Record, blobs: Mapping[str, bytes], state: RunState) -> Awaitable[None] | None:
        """
        Add *record* behind all that came before, keep *blobs* (digest to bytes), and remember *state* for listings.

        Returns None where the record already lasts as long as this run's durability promises; otherwise an awaitable
        that is done once it does. Appends of one journal become durable in order. Never has the loop wait for a disk.

        Raises (here, or from the awaitable):
            RunOvertaken: Another engine has claimed the run, or it was given up; nothing was written.
            StoreError: It could not be written; nothing was.
        """
        ...

    async def settle(self) -> None:
        """
        Return once everything appended lasts.

        Raises:
            RunOvertaken, StoreError: Something of it never will.
        """
        ...

    def append_with(self, make: Make) -> asyncio.Future[Record | Failure]:
        """
        Call *make* and add the record that it returns, in one transaction: what it wrote lasts with its record, or
        neither does. Give the record once it lasts as this run's durability promises, or the Failure that *make* ended
        in; nothing is kept of that, and the journal goes on as if it had not been.

        *make* may be called in any thread, and again after what it wrote was taken back. It can neither end the
        transaction nor write to the store's own tables. Records are added in the order of these calls; nothing is
        appended otherwise until all of them are done. The record changes nothing in listings.

        Raises (from the future):
            RunOvertaken: Another engine has claimed the run, or it was given up; nothing was written.
            StoreError: It could not be written; nothing was.
        """
        ...

    async def records(self) -> list[Record]:
        """
        Return every record, in order, checked.

        Raises:
            CorruptRecord: One is missing, damaged or out of order.
        """
        ...

    async def blob(self, digest: str) -> bytes:
        """Return the bytes of a blob, checked against their digest."""
        ...

    async def release(self) -> None:
        """
        Give the run up, after everything appended is durable. Nobody owns it then, and nothing more can be appended.

        Raises:
            RunOvertaken, StoreError: Something appended was not written, and no awaitable has told anyone.
        """
        ...


class Store(Protocol):
    """Keeps the journals of many runs. One engine, one store, one owner."""

    keeps_bytes: bool
    """Whether values must be encoded. A store in memory keeps the objects."""
    location: str | None
    """The file, for messages; None in memory."""

    async def open(self) -> None:
        """Make ready for use, and become an owner."""
        ...

    async def close(self) -> None:
        """Write what is still to be written, release every run, and stop being an owner."""
        ...

    async def create(
        self, run: NewRun, plan: Callable[[], bytes], first: Record, blobs: Mapping[str, bytes]
    ) -> Journal:
        """
        Begin a journal with its *first* record, both or neither, durable when this returns.

        *plan* gives the recorded plan's bytes, asked for only if its hash is new to the store.

        Raises:
            RunExists: There is a run of this id.
        """
        ...

    async def claim(self, run_id: str) -> Journal:
        """
        Become the owner of an existing run; the epoch rises.

        An owner that shows no life for its lease may be overtaken; it is watched from the first try.

        Raises:
            RunNotFound: There is none.
            RunBusy: A living engine owns it.
        """
        ...

    async def runs(self, *, state: RunState | None = None, limit: int | None = None) -> list[RunInfo]:
        """Return what there is, newest first."""
        ...

    async def info(self, run_id: str) -> RunInfo:
        """Return one run's line, or raise RunNotFound."""
        ...

    async def read(self, run_id: str) -> list[Record]:
        """Return a run's records without owning it: a consistent prefix of its journal."""
        ...

    async def read_blob(self, digest: str) -> bytes:
        """Return the bytes of a blob, checked against their digest."""
        ...

    async def plan(self, digest: str) -> bytes:
        """Return the bytes of a recorded plan."""
        ...

    async def save_plan(self, digest: str, body: Callable[[], bytes], *, run_id: str) -> None:
        """Keep a recorded plan, which the run *run_id* is about to adopt, for as long as that run is kept."""
        ...

    async def purge(self, before: float, states: Collection[RunState], told: Callable[[str], None]) -> None:
        """
        Remove each run that has stood in one of *states* since *before* (POSIX seconds) and that nobody alive owns, and
        what only these used. *told* hears the id of each once it is gone.

        A run is there wholly or not at all, also if the process dies meanwhile, and other runs go on.
        """
        ...

    async def backup(self, path: str) -> None:
        """
        Write all as it is now to a new file at *path*, where nobody owns a run, while runs go on.

        Raises:
            InputError: There is something at *path*.
            StoreError: This store has no file, or the copy cannot be written.
        """
        ...

    async def request(self, run_id: str, kind: str, reason: str) -> None:
        """Leave word for the owner of a run, also for the next one, but not for one that starts it over."""
        ...

    async def beat(self, runs: Collection[str] | None = None) -> list[Request]:
        """
        Return what has been asked of this owner's *runs*, or of all that it owns, and what has befallen them, since the
        last beat. What is asked of others waits until they are among them.
        """
        ...


# --- Executor ---------------------------------------------------------------------------------------------------------


class Call(msgspec.Struct, frozen=True):
    """One call of a user's function. ``context`` is the contextvars to run it in; ``name`` is for debuggers."""

    fn: Callable[..., Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    context: ContextVars
    name: str


class Work(Protocol):
    """A call on its way, such as an asyncio task."""

    def cancel(self) -> bool:
        """
        Ask the body to give way, which may take its time, or refuse; return whether that reaches it. What runs in a
        thread cannot be reached. An ending may be reported before this returns.
        """
        ...


class Executor(Protocol):
    """Calls bodies somewhere."""

    def submit(self, call: Call, done: Callable[[Any, BaseException | None], None]) -> Work:
        """
        Start *call*, and tell *done* its value or its exception, exactly once, on the loop.

        *done* may be called before this returns: a body that never waits costs no trip through the loop.
        """
        ...

    async def close(self) -> None:
        """Let go of threads, processes and connections. Calls on their way are left to themselves."""
        ...


class CoroutineExecutor(Executor, Protocol):
    """
    An executor whose asyncio tasks others may make too, of coroutines that report by themselves how they end.

    ``start`` makes a task of a coroutine, with ``options`` beside ``name=`` and ``context=``; if the coroutine never
    waited it has ended then. ``now`` is the clock of the loop, in seconds.
    """

    start: Callable[..., asyncio.Task[Any]]
    options: Mapping[str, Any]
    now: Callable[[], float]


# --- Clock ------------------------------------------------------------------------------------------------------------


class Timer(Protocol):
    """Something that will happen."""

    def cancel(self) -> None:
        """Let it not happen."""
        ...


class Clock(Protocol):
    """Time, so that tests can own it."""

    def now(self) -> float:
        """Return POSIX seconds, for what a journal keeps."""
        ...

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> Timer:
        """Call *callback* on the loop at *when*, POSIX seconds; soon, if that has passed."""
        ...

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> Timer:
        """Call *callback* on the loop after *delay* seconds."""
        ...


# --- Observer ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Circumstances:
    """
    What a failure for good is seen with.

    ``outcome`` is how the task, or its revert, failed; ``inputs`` has parameter name to value, as far as they could be
    read; ``predecessors`` path to state of the tasks that come right before it, :data:`MOST_PREDECESSORS` at most.
    """

    outcome: Failure | TimedOut
    inputs: Mapping[str, Any]
    predecessors: Mapping[str, TaskState]


MOST_PREDECESSORS = 100
"""How many tasks before one that failed its circumstances name."""


@attrs.frozen
class Happening:
    """
    An event of a run as an observer sees it: durable, and with names in place of numbers.

    ``path`` is the task's path (or the flow's, for a scope; empty for the run itself), ``attempt`` the attempt that the
    event belongs to, 0 where there is none, ``at`` POSIX seconds, ``number`` the event's place in its run from 0; what
    a body tells is seen before it has one, and has -1. ``TaskFailed`` and ``RevertGivenUp`` have their
    ``circumstances``.
    """

    run_id: str
    flow: str
    number: int
    at: float
    path: str
    attempt: int
    event: Event
    circumstances: Circumstances | None = attrs.field(default=None, repr=False)

    @property
    def kind(self) -> str:
        """The event's name, such as ``AttemptStarted``."""
        return type(self.event).__name__

    @property
    def data(self) -> Mapping[str, Any]:
        """What ``ctx.emit(name, **data)`` was given; empty for every other kind of event."""
        if not isinstance(self.event, Emitted):
            return {}
        data = self.event.data
        found: Mapping[str, Any] = data.value if isinstance(data, Sealed) else data
        return found


class Observer(Protocol):
    """
    Watches runs. Called on the loop, after the event is durable; it may be an ``async def``, which is awaited. One that
    raises is logged, hears nothing more, and harms nobody.
    """

    def __call__(self, happening: Happening, /) -> Awaitable[None] | None:
        """Take note of one event."""
        ...
