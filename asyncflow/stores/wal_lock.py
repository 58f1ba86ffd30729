"""
One at a time at the write-ahead log, where SQLite itself does not see to it.

SQLite from 3.7.0 to 3.51.2 can damage a file in WAL mode when two connections write or checkpoint at the very same
moment; 3.51.3 has mended it. Where an older one is at work, everything on a writing connection waits for a lock: one of
threads within the process, and a record lock on the first byte of the owners' file between processes. Reading needs
none.

The lock is taken in the thread that uses the connection, before a statement, and let go behind it, or behind the
statement that ends the transaction which it began. Not sooner: whoever took this lock between two statements of
another's transaction would wait for SQLite's own write lock while holding the one that the other needs to go on.

A process that is stopped (SIGSTOP) within a commit keeps the lock, and the others wait. That is no worse than without
it, since such a process keeps SQLite's write lock as well, and a few microseconds are seldom hit. They wait for as long
as they would for SQLite, then say so. The kernel frees the lock of a process that dies.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

from asyncflow.errors import StoreError

T = TypeVar("T")

MENDED_IN = (3, 51, 3)
"""The first SQLite in which two that write at once do no harm."""

# Between two tries; a commit takes 0.1 to 10 ms.
_SHORTEST_PAUSE = 0.0002
_LONGEST_PAUSE = 0.01


def is_needed() -> bool:
    """Return whether this Python's SQLite needs the lock."""
    return sqlite3.sqlite_version_info < MENDED_IN


def explain() -> str:
    """Return in a sentence what is done here, for people."""
    version, mended = sqlite3.sqlite_version, ".".join(map(str, MENDED_IN))
    if is_needed():
        return (
            f"SQLite {version} can damage a journal that two processes write or checkpoint at the same moment (mended "
            f"in {mended}), so asyncflow lets one at a time do that, by a lock on the '-owners' file"
        )
    return f"SQLite {version} lets processes write a journal at the same moment safely, so asyncflow adds no lock"


class Byte(Protocol):
    """One byte of a file that processes lock in turns, and threads of one process as well."""

    mutex: threading.RLock

    def try_lock(self) -> bool:
        """Lock the byte against other processes, and return whether that worked."""
        ...

    def unlock(self) -> None:
        """Let the other processes have it."""
        ...


class Taken(Exception):
    """Somebody else has the lock at this moment."""


class WalLock:
    """The lock as one connection takes it."""

    __slots__ = ("_byte", "_is_held", "_patience", "_shown")

    def __init__(self, byte: Byte, *, shown: str, patience: float) -> None:
        """*patience* is for how many seconds to wait for others; *shown* the journal's name in messages."""
        self._byte = byte
        self._shown = shown
        self._patience = patience
        self._is_held = False

    def around(self, connection: sqlite3.Connection, act: Callable[[], T]) -> T:
        """
        Call *act*, which does something with *connection*, under the lock.

        Raises:
            StoreError: Another process has had it all the time.
        """
        if not self._is_held:
            self._take()
        return self._under(connection, act)

    def around_now(self, connection: sqlite3.Connection, act: Callable[[], T]) -> T:
        """
        Do the same without waiting for anyone.

        Raises:
            Taken: Somebody else has the lock.
        """
        if not self._byte.mutex.acquire(blocking=False):
            raise Taken
        try:
            self._is_held = self._byte.try_lock()
        finally:
            if not self._is_held:
                self._byte.mutex.release()
        if not self._is_held:
            raise Taken
        return self._under(connection, act)

    def mend(self) -> None:
        """Let go of whatever an interrupt has left taken in this thread, wherever in :meth:`around_now` it came."""
        self._is_held = False
        # A reentrant lock lets us have it once more if it is ours still; now it is, unless it is another's.
        if self._byte.mutex.acquire(blocking=False):
            self._byte.unlock()
            with contextlib.suppress(RuntimeError):
                while True:
                    self._byte.mutex.release()

    def _under(self, connection: sqlite3.Connection, act: Callable[[], T]) -> T:
        try:
            return act()
        finally:
            if not _is_in_transaction(connection):
                self._let_go()

    def _take(self) -> None:
        give_up_at = time.monotonic() + self._patience
        if not self._byte.mutex.acquire(timeout=self._patience):
            raise self._held_by("another engine of this process")
        pause = _SHORTEST_PAUSE
        try:
            # Asked again and again, as SQLite does: a wait in the kernel has no end, should the other be stopped.
            while not self._byte.try_lock():
                if time.monotonic() >= give_up_at:
                    raise self._held_by("another process")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        except BaseException:
            self._byte.mutex.release()
            raise
        self._is_held = True

    def _let_go(self) -> None:
        self._is_held = False
        self._byte.unlock()
        self._byte.mutex.release()

    def _held_by(self, who: str) -> StoreError:
        return StoreError(
            f"journal {self._shown!r} has been held by {who} for {self._patience:g} s in the middle of a commit; if "
            "that is stopped, continue it or end it, then resume the run",
            path=self._shown,
        )


def _is_in_transaction(connection: sqlite3.Connection) -> bool:
    try:
        return connection.in_transaction
    except sqlite3.ProgrammingError:
        return False  # it has been closed
