"""
One connection to an SQLite file, in a thread of its own, whose errors are in plain words.

aiosqlite does the work. What is added here: *database is locked* is waited out, every other error says what it means
for the journal, a connection whose fsync has failed is used no more, and the thread never keeps a process from ending.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sqlite3
import threading
import weakref
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import aiosqlite

from asyncflow.errors import NotAJournal, StoreError, TransactionMisuse
from asyncflow.stores.wal_lock import Taken, WalLock

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 20.0
"""Seconds that a statement waits for other processes before it gives up."""

# Between two tries: out of a reader's or writer's way, and short against what it waits for. SQLite itself never waits,
# since it may be called on the loop.
_PAUSE = 0.01

# After these the kernel may have forgotten what it could not write, and would call a second fsync a success.
_IN_DOUBT = (sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_DIR_FSYNC)

Row = tuple[Any, ...]
Guard = Callable[[int, Any, Any, Any, Any], int]
"""Answers SQLite whether it may go on with a statement, see ``sqlite3.Connection.set_authorizer``."""

_IN_PLAIN_WORDS = {
    sqlite3.SQLITE_FULL: "the disk is full; make room, then resume the run",
    sqlite3.SQLITE_IOERR: "the disk reports an error ({error}); nothing of this was kept",
    sqlite3.SQLITE_READONLY: "it cannot be written; check the permissions of the file and its folder",
    sqlite3.SQLITE_PERM: "it cannot be written; check the permissions of the file and its folder",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; check the permissions of the file and its folder",
    sqlite3.SQLITE_CORRUPT: "the file is damaged ({error}); restore it from a backup",
    sqlite3.SQLITE_TOOBIG: "a value is larger than SQLite can keep; return a reference to it instead",
}


_OF_THE_ENGINE = frozenset(("autocommit", "isolation_level"))
# Methods whose effect lasts as long as the connection.
_OUTLIVING = frozenset(
    (
        "create_aggregate",
        "create_collation",
        "create_function",
        "create_window_function",
        "deserialize",
        "enable_load_extension",
        "load_extension",
        "set_authorizer",
        "set_progress_handler",
        "set_trace_callback",
        "setconfig",
        "setlimit",
    )
)


class Interrupted(Exception):
    """A handler of a signal raised ``error`` in the middle of a call on the loop, which may have been done or not."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(repr(error))
        self.error = error


class LendableConnection(sqlite3.Connection):
    """
    A connection that does not close while it is lent, and whose borrower sets nothing on it that lasts, and leaves no
    open cursor or blob behind.

    One that is kept, or returned, would hold on to what it reads: nothing could be copied out of the log any more, and
    once another process has written, nothing could be written here.
    """

    # What the borrower may do, if it is lent.
    _guard: Guard | None = None
    # Those of the borrower, and its blobs, if it is lent; one that is dropped closes itself.
    _cursors: weakref.WeakSet[sqlite3.Cursor | sqlite3.Blob] | None = None

    @property
    def is_lent(self) -> bool:
        """Whether a borrower has it."""
        return self._cursors is not None

    def lend(self, guard: Guard) -> None:
        """Be lent from here on, and ask *guard* what the borrower may do."""
        self.set_authorizer(guard)
        self._guard, self._cursors = guard, weakref.WeakSet()

    def take_back(self) -> None:
        """Be lent no more, and close what the borrower has left open."""
        cursors, self._guard, self._cursors = self._cursors or (), None, None
        self.set_authorizer(None)
        for cursor in cursors:
            # Not by a method of the borrower's. One that was never set up, or is at work in another thread, stays.
            with contextlib.suppress(sqlite3.ProgrammingError):
                sqlite3.Cursor.close(cursor) if isinstance(cursor, sqlite3.Cursor) else cursor.close()

    def close_strays(self) -> None:
        """Close the cursors that were made of it by their class, which only the garbage collector knows."""
        for stray in gc.get_referrers(self):
            if isinstance(stray, sqlite3.Cursor):
                with contextlib.suppress(sqlite3.ProgrammingError):
                    sqlite3.Cursor.close(stray)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OF_THE_ENGINE and self.is_lent:
            raise TransactionMisuse(
                f"a transaction cannot set {name}, which would end or outlive it; leave it as it is"
            )
        super().__setattr__(name, value)

    def cursor(self, factory: Any = sqlite3.Cursor) -> Any:
        """Make a cursor."""
        cursor = super().cursor(factory)
        if self._cursors is not None:
            self._cursors.add(cursor)
        return cursor

    def execute(self, *args: Any) -> sqlite3.Cursor:
        """Run one statement."""
        return super().execute(*args) if self._cursors is None else self.cursor().execute(*args)

    def executemany(self, *args: Any) -> sqlite3.Cursor:
        """Run one statement with each of several parameters."""
        return super().executemany(*args) if self._cursors is None else self.cursor().executemany(*args)

    def blobopen(self, table: str, column: str, *args: Any, readonly: bool = False, name: str = "main") -> sqlite3.Blob:
        """Open one value of a row."""
        # SQLite does not ask by itself here.
        if self._guard is not None and not readonly:
            if self._guard(sqlite3.SQLITE_UPDATE, table, column, name, None) != sqlite3.SQLITE_OK:
                raise sqlite3.DatabaseError("not authorized")
        blob = super().blobopen(table, column, *args, readonly=readonly, name=name)
        if self._cursors is not None:
            self._cursors.add(blob)
        return blob

    def close(self) -> None:
        """Close it, unless it is lent."""
        if self.is_lent:
            raise TransactionMisuse("a transaction cannot close the connection, which is the engine's; leave it open")
        super().close()


def _refused_while_lent(name: str) -> Callable[..., Any]:
    method = getattr(sqlite3.Connection, name)

    def act(self: LendableConnection, *args: Any, **kwargs: Any) -> Any:
        if self.is_lent:
            raise TransactionMisuse(
                f"a transaction cannot call {name}(), which would outlive it on the engine's connection; work out in "
                "Python what a statement needs, and give it as a parameter"
            )
        return method(self, *args, **kwargs)

    act.__doc__ = method.__doc__
    return act


# Some are not there in every Python.
for _name in _OUTLIVING.intersection(dir(sqlite3.Connection)):
    setattr(LendableConnection, _name, _refused_while_lent(_name))


class Database:
    """
    An open connection. Statements run one after the other, in the order in which they are asked for.

    A statement outside any transaction is one by itself: it is written whole or not at all.
    """

    def __init__(self, connection: _Connection, shown: str) -> None:
        self._connection = connection
        self.shown = shown
        self._is_closed = False
        # Why nothing more is asked of the connection, though nobody has closed it.
        self._failure: str | None = None
        # What an fsync failed with while nobody could wait for the connection to be dropped.
        self._doubt: Exception | None = None

    @classmethod
    async def connect(cls, path: str, *, shown: str, mode: str) -> Database:
        """
        Open a file.

        Args:
            path: Its real path.
            shown: Its name in messages, as the user gave it.
            mode: "ro" to read, "rw" to write, or "rwc" to make it as well if it is not there.
        """
        address = f"{Path(path).as_uri()}?mode={mode}"
        try:
            # Tried here first: the thread of a connection that fails to open may outlive the loop, and complains then.
            sqlite3.connect(address, uri=True).close()
            connection = _connection(address)
            await connection
        except sqlite3.Error as error:
            raise in_plain_words(error, shown) from error
        # What damage has made of a text must not keep the rows around it from being read.
        connection.text_factory = _text
        database = cls(connection, shown)
        try:
            # A page is looked over when it is read, before anything on it is believed.
            await database.fetch("PRAGMA cell_size_check = ON")
        except BaseException:
            await database.close()
            raise
        return database

    def take_turns(self, turn: WalLock) -> None:
        """Do everything from here on in turn with others that write to the file."""
        self._connection.turn = turn

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """
        Run one statement and return its rows.

        Raises:
            StoreError: It could not be run, and changed nothing; unless an fsync failed, after which nobody can tell,
                and the connection is dropped.
        """

        # One trip to the thread; it has fetched everything when it comes back, so no cursor is ever held.
        async def fetch() -> list[Row]:
            return cast("list[Row]", await self._connection.execute_fetchall(sql, parameters))

        return await self._patiently(fetch)

    async def call(self, fn: Callable[Concatenate[LendableConnection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call *fn* in the connection's thread, with the connection, and again if it finds the file locked.

        Raises:
            StoreError: It raised an error of SQLite's. Anything else that it raises goes on as it is.
        """

        return await self._patiently(partial(self._connection.there, fn, *args, **kwargs))

    def call_now(self, fn: Callable[Concatenate[LendableConnection, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Do the same without a trip to the thread, which is idle, within this call.

        Raises:
            Taken: That cannot be done: somebody would have to be waited for, or it failed. Nothing has changed, and
                :meth:`call` does what is to be done then, or says why not.
            Interrupted: It may have been done, or not.
        """
        if self._is_closed:
            raise Taken
        try:
            return self._connection.here(fn, *args, **kwargs)
        except Taken:
            raise
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            self._take_doubt(error)
            raise Taken from error
        except BaseException as error:
            # As a rule while the failure of what was to be done was on its way.
            self._take_doubt(error.__context__)
            raise Interrupted(error) from error

    def _take_doubt(self, error: BaseException | None) -> None:
        if getattr(error, "sqlite_errorcode", 0) in _IN_DOUBT:
            assert isinstance(error, Exception)
            self._doubt = error

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        give_up_at: float | None = None
        while True:
            if self._is_closed:
                raise StoreError(self._failure or f"journal {self.shown!r} is closed", path=self.shown)
            if self._doubt is not None:
                await self._drop()
                raise StoreError(str(self._failure), path=self.shown) from self._doubt
            try:
                return await ask()
            except sqlite3.Error as error:
                if getattr(error, "sqlite_errorcode", 0) in _IN_DOUBT:
                    await self._drop()
                    raise StoreError(str(self._failure), path=self.shown) from error
                loop = asyncio.get_running_loop()
                if give_up_at is None:
                    give_up_at = loop.time() + PATIENCE
                if not _is_busy(error) or loop.time() >= give_up_at:
                    raise in_plain_words(error, self.shown) from error
                if error.sqlite_errorcode == sqlite3.SQLITE_BUSY_SNAPSHOT:
                    # Nobody is waited for: something here still reads what was there before another process wrote.
                    await self._connection.there(LendableConnection.close_strays)
            except (OverflowError, UnicodeError) as error:
                raise in_plain_words(error, self.shown) from error
            await asyncio.sleep(_PAUSE)

    async def _drop(self) -> None:
        """
        Use the connection no more, since an fsync has failed on it.

        Whoever opens the file anew reads what is really in it: the log's own checksums tell where it ends. The log is
        not copied into the database first, for nothing here knows any more which of its pages the disk has.

        Source:
            A. Rebello et al., Can Applications Recover from fsync Failures?, USENIX ATC 2020.
        """
        self._failure = (
            f"journal {self.shown!r}: the disk could not make a write last (fsync failed), so what it has is in doubt "
            "and nothing more is written; mend the disk, then open a new engine and resume the runs"
        )
        await self.close()

    async def close(self) -> None:
        """Close the connection and wait until its thread is gone."""
        if not self._is_closed:
            self._is_closed = True
            await self._connection.close()


@contextlib.contextmanager
def transaction(connection: LendableConnection) -> Generator[None, None, None]:
    """Make the statements of a block one: all of them last when it is left, or none if it raises."""
    # IMMEDIATE takes the write lock now. Taking it later could find that another process has written since.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        roll_back(connection)


def roll_back(connection: sqlite3.Connection) -> None:
    """Take back what is open, if anything is, and *connection* from whoever has had it on loan."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")
    # Which a loan sets; not sooner, since this commits whatever is open.
    connection.isolation_level = None


class _Connection(aiosqlite.Connection):
    """A connection that does everything in its turn, if there are turns to be taken."""

    turn: WalLock | None = None

    # What aiosqlite runs all of its methods by, for which it has no public name.
    async def _execute(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        execute: Callable[..., Awaitable[Any]] = super()._execute
        if self.turn is None:
            return await execute(fn, *args, **kwargs)
        # In the connection's thread, as part of the same trip.
        return await execute(self.turn.around, self._conn, partial(fn, *args, **kwargs))

    async def there(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call *fn* with the connection in its thread."""
        # By a method of ours: the thread remembers what it did last while it idles, and so keeps a connection that
        # nobody has closed. One that is collected complains, in whosever code that happens.
        done: T = await self._execute(self._call, fn, *args, **kwargs)
        return done

    def here(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call *fn* with the connection in this thread; raise Taken if it is not our turn."""
        act = partial(self._call, fn, *args, **kwargs)
        try:
            return act() if self.turn is None else self.turn.around_now(self._conn, act)
        except Taken:
            raise
        except BaseException:
            # Perhaps an interrupt: whatever was to be put in order behind the call may not have been.
            try:
                if self._conn.in_transaction:
                    self._conn.rollback()
            finally:
                if self.turn is not None:
                    self.turn.mend()
            raise

    def _call(self, fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        connection = self._conn
        # What an error or an interrupt has kept from being rolled back must not become part of what is to last.
        if connection.in_transaction:
            roll_back(connection)
        return fn(connection, *args, **kwargs)


def _connection(address: str) -> _Connection:
    """
    Return a connection whose thread is a daemon.

    A process whose engine was never closed must still be able to end; SQLite loses nothing by that. aiosqlite does not
    let one choose, but a thread takes after the one that makes it.
    """
    made: list[_Connection] = []

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(
            address, uri=True, isolation_level=None, timeout=0.0, factory=LendableConnection, check_same_thread=False
        )

    def make() -> None:
        made.append(_Connection(connect, iter_chunk_size=64))

    maker = threading.Thread(target=make, daemon=True)
    maker.start()
    maker.join()
    return made[0]


def not_sqlite(shown: str) -> NotAJournal:
    """Return what to raise of a file that SQLite did not make."""
    return NotAJournal(
        f"{shown!r} is not an SQLite file, so it is not a journal; give the path of another file", path=shown
    )


def _text(body: bytes) -> str:
    return body.decode(errors="backslashreplace")


def _code(error: BaseException) -> int:
    # The low byte is the kind of error, the rest its variety.
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def in_plain_words(error: BaseException, path: str) -> StoreError:
    """Return what to raise of an error of SQLite's at the journal that is shown as *path*."""
    code = _code(error)
    if code == sqlite3.SQLITE_NOTADB:
        return not_sqlite(path)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreError(
            f"journal {path!r} has been locked by another process for {PATIENCE:g} s; let that process finish or "
            "end it, then resume the run",
            path=path,
        )
    words = _IN_PLAIN_WORDS.get(code, "SQLite says: {error}").format(error=error)
    return StoreError(f"journal {path!r}: {words}", path=path)
