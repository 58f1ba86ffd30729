"""What the writer knows of each run that this engine owns, and of each record on its way into the file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from asyncflow.errors import AsyncflowError, RunExists, RunOvertaken, StoreError
from asyncflow.interfaces import NewRun
from asyncflow.states import RunState
from asyncflow.stores.database import LendableConnection


@attrs.frozen
class Creation:
    """
    What makes a run exist. ``plan`` is None where the file is thought to have it; ``plan_again`` gives it, should it
    have been purged meanwhile.
    """

    new: NewRun
    plan: bytes | None
    plan_again: Callable[[], bytes]


@attrs.define(eq=False)
class Line:
    """
    What the writer knows of one run that this engine owns.

    Attributes:
        run_id: The run.
        durability: Its level.
        key: Its key in the file; 0 until it has been created.
        epoch: The epoch under which it was claimed.
        next: The number of its next record.
        state: The state that its last record told.
        last: The last append that was put in line for it; not one that was committed at once.
        error: Why nothing more is written. It stays: a record after one that was not written would leave a gap.
        is_told: Whether somebody has been told that.
        is_released: Whether the run has been given up.
    """

    run_id: str
    durability: str
    key: int = 0
    epoch: int = 1
    next: int = 0
    state: RunState = RunState.RUNNING
    last: Append | None = None
    error: AsyncflowError | None = None
    is_told: bool = False
    is_released: bool = False

    def refusal(self) -> AsyncflowError:
        """Return why nothing more is written, fresh for one more who asks."""
        assert self.error is not None
        self.is_told = True
        return _again(self.error)


@attrs.define(eq=False)
class Append:
    """
    One record on its way, and for the first of a run what makes the run exist.

    ``waiter`` is the appender's and may be cancelled; ``watcher`` is for who waits for its end, whatever that is. Once
    it is kept it has neither its ``body`` nor its ``blobs`` any more.
    """

    line: Line
    number: int
    at: float
    body: bytes
    state: str | None
    blobs: Mapping[str, bytes]
    size_bytes: int
    waiter: asyncio.Future[None] | None = None
    creation: Creation | None = None
    watcher: asyncio.Future[None] | None = None
    is_settled: bool = False

    def refuse(self, error: AsyncflowError) -> None:
        """Tell everybody that it was not written, nor will be anything behind it in its line."""
        line = self.line
        if line.error is None:
            line.error = error
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_exception(line.refusal())
            # The line keeps the error, so a waiter that nobody awaits hides nothing.
            self.waiter.exception()
        if self.watcher is not None and not self.watcher.done():
            self.watcher.set_result(None)
        self.is_settled = True


@attrs.define(eq=False)
class Release:
    """A run on its way to be given up, and requests to be forgotten with it. ``done`` may be cancelled."""

    line: Line
    heard: Sequence[int]
    done: asyncio.Future[None]


@attrs.define(eq=False)
class Errand:
    """
    What else is to be done with the connection. ``done`` may be cancelled. Once it ``is_begun`` it may have been done,
    if nobody has been told; it is then done again unless it ``is_once``.
    """

    work: Callable[[LendableConnection], Any]
    done: asyncio.Future[Any]
    is_once: bool
    is_begun: bool = False


@attrs.define(eq=False)
class Batch:
    """
    What goes into one commit: records of ``size_bytes`` together, and runs to be given up. The disk is waited for if it
    ``is_synced``. Once it ``is_begun`` it may be in the file, if nobody in it has been told that it is not.
    """

    appends: list[Append]
    releases: list[Release]
    size_bytes: int = 0
    is_synced: bool = False
    is_begun: bool = False

    @property
    def rows(self) -> int:
        """How many there are."""
        return len(self.appends) + len(self.releases)


def overtaken(run_id: str, path: str) -> RunOvertaken:
    """Return what to raise of a run that another engine owns by now."""
    return RunOvertaken(
        f"another engine has taken over run {run_id!r} in {path!r}; this one wrote nothing more", run_id=run_id
    )


def exists(run_id: str, path: str) -> RunExists:
    """Return what to raise of a new run whose id is taken."""
    return RunExists(
        f"there is a run {run_id!r} in {path!r} already; go on with engine.resume({run_id!r}), or start this one under "
        "another id",
        run_id=run_id,
    )


def too_large(run_id: str, path: str, size_bytes: int, most_bytes: int) -> StoreError:
    """Return what to raise of an append that the file cannot keep."""
    return StoreError(
        f"run {run_id!r} appends {size_bytes} bytes to {path!r} at once, SQLite keeps {most_bytes}; return references "
        "to large values instead",
        path=path,
    )


def cut_off(path: str) -> StoreError:
    """Return what to raise of something that an interrupt came in the middle of."""
    return StoreError(
        f"an interrupt came while journal {path!r} was written, which may have all of that or nothing; look what it "
        "has, or resume the run",
        path=path,
    )


def not_written(error: Exception, path: str) -> StoreError:
    """Return what to raise of something that *error* has kept from being written."""
    if isinstance(error, StoreError):
        return error
    found = StoreError(
        f"journal {path!r} could not be written, for a reason that is a bug of asyncflow: {error!r}", path=path
    )
    found.__cause__ = error
    return found


def _again(error: AsyncflowError) -> AsyncflowError:
    """Return a copy: an exception that is raised in several places collects the traces of all."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy
