"""What lies around a journal and is not as it should be: folders, locks, descriptors, file systems, an old SQLite."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import resource
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow.codec import Codec
from asyncflow.errors import InputError, StoreError
from asyncflow.stores import backup as backup_module
from asyncflow.stores import database as database_module
from asyncflow.stores import doctor as doctor_module
from asyncflow.stores import owners, schema, wal_lock
from asyncflow.stores.database import Database, LendableConnection
from asyncflow.stores.doctor import Remark
from asyncflow.stores.owners import OwnerLocks
from asyncflow.stores.sqlite import SqliteStore
from tests.stores.journals import append, create, numbers, opened, process, said


def refused(path: Path, words: str) -> None:
    """Have a store refuse to open, in these words, and leave nothing behind that keeps it from being opened later."""

    async def main() -> None:
        store = SqliteStore(path, codec=Codec())
        with pytest.raises(StoreError, match=words):
            await store.open()
        assert "closed" in repr(store)
        await store.close()

    asyncio.run(main())


# --- Opening ----------------------------------------------------------------------------------------------------------


def test_links_that_lead_nowhere_are_a_plain_error(tmp_path: Path) -> None:
    """A deployment that links a file to itself must not be told of a bug in pathlib."""
    path = tmp_path / "runs.db"
    path.symlink_to(path)
    refused(path, r"runs\.db': it cannot be opened; check the permissions of the file and its folder")


def test_owners_that_cannot_be_told_apart_are_a_plain_error(tmp_path: Path) -> None:
    """Without the file of owners two engines would take a run from each other."""
    path = tmp_path / "runs.db"
    beside = tmp_path / "runs.db-owners"
    beside.mkdir()
    refused(path, "tells the living from the dead, cannot be opened: .* write in the folder of the journal")
    beside.rmdir()
    asyncio.run(_use(path))


async def _use(path: Path) -> None:
    async with opened(path) as store:
        await append(await create(store, "r"), 1)
        assert await numbers(store, "r") == [0, 1]


def test_a_file_system_without_a_shared_log_is_named(tmp_path: Path) -> None:
    """SQLite keeps its own kind of journal there without a word, and readers would hold up every commit."""

    async def main() -> None:
        # Locks by files of their own, as for network file systems, which have no memory that processes share.
        connection = database_module._connection(f"{(tmp_path / 'runs.db').as_uri()}?mode=rwc&vfs=unix-dotfile")
        await connection
        database = Database(connection, "runs.db")
        with pytest.raises(StoreError, match=r"'runs\.db' lies where SQLite cannot keep a write-ahead log; move it"):
            await database.call(schema.prepare, "runs.db")
        await database.close()

    asyncio.run(main())


def test_a_connection_of_the_application_keeps_its_locks_when_an_engine_opens_the_file(tmp_path: Path) -> None:
    """Without them any other process that has a look at the file takes itself for the last, and removes the log."""
    path = tmp_path / "runs.db"
    look = """if True:
        database = sqlite3.connect(sys.argv[1])
        print(database.execute("SELECT count(*) FROM records").fetchall())
        database.close()
    """

    async def main() -> None:
        async with opened(path) as store:
            journal = await create(store, "another")
            assert said(look, path) == "[(3,)]"
            await append(journal, 1)
            assert said(look, path) == "[(4,)]"

    asyncio.run(_use(path))
    with contextlib.closing(sqlite3.connect(path)) as own:
        own.execute("CREATE TABLE orders(id)")
        asyncio.run(main())


def test_what_the_platform_lacks_is_said_before_a_file_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a journal on a machine that cannot have one would be in the way of the next try."""
    with monkeypatch.context() as patch:
        patch.setattr(owners, "IS_SUPPORTED", False)
        refused(tmp_path / "runs.db", "needs POSIX record locks, which this platform lacks; Engine.. without a path")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
        refused(tmp_path / "runs.db", r"has SQLite .*, and a journal needs 3\.35 or newer")
    assert list(tmp_path.iterdir()) == []


def test_where_sqlite_is_mended_no_turns_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is a crutch for older ones; whoever has a newer one does not pay for it."""
    monkeypatch.setattr(wal_lock, "is_needed", lambda: False)
    taken: list[int] = []
    monkeypatch.setattr(owners._LockFile, "try_lock", lambda file: taken.append(1))
    asyncio.run(_use(tmp_path / "runs.db"))
    assert not taken


def test_an_interrupt_leaves_no_transaction_open_where_no_turns_are_taken(tmp_path: Path) -> None:
    """What is done next would be part of it."""

    def interrupted(connection: LendableConnection) -> None:
        connection.execute("BEGIN")
        raise KeyboardInterrupt

    async def main() -> None:
        database = await Database.connect(str(tmp_path / "any.db"), shown="any.db", mode="rwc")
        with pytest.raises(KeyboardInterrupt):
            database._connection.here(interrupted)
        assert not await database.call(lambda connection: connection.in_transaction)
        await database.close()

    asyncio.run(main())


def test_a_store_that_was_never_opened_is_closed_for_nothing(tmp_path: Path) -> None:
    """Who cleans up after a failed opening need not know how far it had come."""

    async def main() -> None:
        store = SqliteStore(tmp_path / "runs.db", codec=Codec())
        await store.close()
        with pytest.raises(StoreError, match="is not open"):
            await store.runs()

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


# --- Who lives --------------------------------------------------------------------------------------------------------

HOLD = """
import fcntl
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(file, fcntl.LOCK_EX, 1, 5)
print("held", flush=True)
sys.stdin.read()
"""


def test_an_owner_that_another_process_is_already_is_refused(tmp_path: Path) -> None:
    """A journal that was replaced by a copy gives out keys that are in use; both would own the same runs."""
    locks = OwnerLocks(str(tmp_path / "runs.db"))
    with process(HOLD, tmp_path / "runs.db-owners") as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=r"owner 5 of .* is another process; was the journal replaced by a copy"):
            locks.hold(5)
        assert locks.is_held(5)
        child.communicate()
    locks.hold(5)
    locks.close()
    locks.close()
    with pytest.raises(StoreError, match="-owners' is closed; open the store first"):
        locks.is_held(5)


def test_an_owner_that_cannot_show_life_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock alone would keep others from its runs, and nobody could see that it hangs."""
    locks = OwnerLocks(str(tmp_path / "runs.db"))

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(StoreError, match="cannot be written: No space left on device"):
            locks.hold(3)
    assert not locks.is_held(3)
    locks.hold(3)
    assert locks.is_alive(3)
    locks.close()


def test_who_lets_a_key_go_late_takes_it_from_nobody(tmp_path: Path) -> None:
    """A store whose opening fails may be told so after another has been given its key, which then would seem dead."""
    first, second = OwnerLocks(str(tmp_path / "runs.db")), OwnerLocks(str(tmp_path / "runs.db"))
    asks = "from asyncflow.stores.owners import OwnerLocks\nprint(OwnerLocks(sys.argv[1]).is_held(3))"
    first.hold(3)
    second.hold(3)
    first.let_go(3)
    assert second.is_held(3) and said(asks, tmp_path / "runs.db") == "True"
    second.let_go(3)
    assert not second.is_held(3) and said(asks, tmp_path / "runs.db") == "False"
    first.close()
    second.close()


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some network file systems have none; everybody would take everybody else for dead."""

    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    locks = OwnerLocks(str(tmp_path / "runs.db"))
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "lockf", none)
        with pytest.raises(StoreError, match="cannot be locked: No locks available; keep the journal on a local disk"):
            locks.hold(3)
    assert not locks.is_held(3)
    locks.close()


# --- Copies -----------------------------------------------------------------------------------------------------------


def test_a_backup_that_cannot_be_put_in_place_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made on the day before the day it is needed; that it failed must show that day."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            with pytest.raises(InputError, match=r"there is no folder .*; create it first"):
                await store.backup(str(tmp_path / "none" / "copy.db"))

            sync = backup_module._sync

            def meanwhile(path: Path) -> None:
                (folder / "copy.db").write_text("somebody's")
                sync(path)

            with monkeypatch.context() as patch:
                patch.setattr(backup_module, "_sync", meanwhile)
                with pytest.raises(InputError, match=r"something has come to be at .* meanwhile; it was left as it is"):
                    await store.backup(str(folder / "copy.db"))
            assert (folder / "copy.db").read_text() == "somebody's"
            (folder / "copy.db").unlink()

            def no_links(*_: Any) -> None:
                raise OSError(errno.EPERM, "Operation not permitted")

            with monkeypatch.context() as patch:
                patch.setattr(os, "link", no_links)
                with pytest.raises(StoreError, match=r"copy\.db' cannot be written: Operation not permitted"):
                    await store.backup(str(folder / "copy.db"))
            assert list(folder.iterdir()) == []
            await store.backup(str(folder / "copy.db"))

    folder = tmp_path / "copies"
    folder.mkdir()
    asyncio.run(main())
    assert list(af.verify(folder / "copy.db")) == []


def test_of_two_backups_to_one_name_at_once_one_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two timers that go off at once would leave no backup at all."""
    copy, both, disown = tmp_path / "copy.db", threading.Barrier(2, timeout=30), backup_module._disown

    def meet(connection: LendableConnection) -> None:
        both.wait()
        disown(connection)

    monkeypatch.setattr(backup_module, "_disown", meet)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await create(store, "a")
            told = await asyncio.gather(*(store.backup(str(copy)) for _ in range(2)), return_exceptions=True)
            [error] = [each for each in told if each is not None]
            assert isinstance(error, InputError)
        async with opened(copy) as store:
            assert await numbers(store, "a") == [0]

    asyncio.run(main())
    assert [each.name for each in tmp_path.glob("*part*")] == []


def test_an_engine_in_memory_has_nothing_to_copy() -> None:
    """Better said than an empty file."""

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(StoreError, match="no journal to back up; give it a path"):
                await engine.backup("copy.db")

    asyncio.run(main())


# --- What the doctor says ---------------------------------------------------------------------------------------------


def remark(about: str, path: Path) -> Remark:
    """Return the one thing that the doctor says *about* something."""
    [found] = [each for each in af.doctor(path) if each.about == about]
    return found


def test_the_doctor_can_be_asked_before_there_is_a_journal() -> None:
    """Whether this Python will do is known without a file."""
    assert [each.about for each in af.doctor()] == ["python", "sqlite"]


def test_a_journal_on_another_machine_is_trouble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that do not reach across machines look like locks until the day two of them write."""
    folder = tmp_path / "a share"
    folder.mkdir()
    asyncio.run(_use(folder / "runs.db"))
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(doctor_module, "_MOUNTS", mounts)
    here = str(folder).replace(" ", r"\040")
    mounts.write_text(f"/dev/a / ext4 rw 0 0\nserver:/b {here} nfs4 rw 0 0\n/dev/c {tmp_path} xfs rw 0 0\n")
    found = remark("file system", folder / "runs.db")
    assert found.is_trouble and found.found == "nfs4" and "move the journal to a local disk" in found.advice
    mounts.write_text(f"/dev/a / ext4 rw 0 0\n/dev/c {tmp_path} xfs rw 0 0\n")
    assert remark("file system", folder / "runs.db") == Remark("file system", "xfs")
    mounts.unlink()
    assert remark("file system", folder / "runs.db") == Remark("file system", "unknown")


def test_a_log_that_never_begins_anew_is_trouble(tmp_path: Path) -> None:
    """A reader that was forgotten in some terminal fills the disk in a week."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as store:
            await create(store, "r")
            with (tmp_path / "runs.db-wal").open("r+b") as log:
                log.truncate(65 << 20)  # of holes
            found = remark("log", path)
            assert found.is_trouble and "something reads for very long" in found.advice
            owner = remark("owner", path)
            assert not owner.is_trouble and owner.found.endswith("1 runs: alive")

    asyncio.run(main())
    assert remark("log", path).found.startswith("none: nobody has the journal open")


# --- Reading where one cannot write -----------------------------------------------------------------------------------


@af.task
async def load() -> int:
    return 7


async def _run(path: Path) -> None:
    async with af.Engine(path) as engine:
        await engine.run(af.linear("one", load), run_id="r")


@contextlib.contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Let this process open nothing for the time of a block."""
    least = os.open(os.devnull, os.O_RDONLY)
    os.close(least)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (least, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_copy_on_a_disk_that_cannot_be_written_is_verified(tmp_path: Path) -> None:
    """That is where backups are: SQLite would like to make a file beside it, and cannot."""
    path = tmp_path / "runs.db"
    asyncio.run(_run(path))
    (tmp_path / "runs.db-wal").mkdir()  # permissions would not keep root from making it
    assert [each.what for each in af.verify(path)] == []


def test_a_journal_that_cannot_be_opened_is_a_plain_error(tmp_path: Path) -> None:
    """A process with too many files open must not be told that its journal is damaged."""
    path = tmp_path / "runs.db"
    asyncio.run(_run(path))
    with no_more_descriptors(), pytest.raises(StoreError, match=r"runs\.db' cannot be read: unable to open"):
        list(af.verify(path))
    assert list(af.verify(path)) == []


# --- The connection ---------------------------------------------------------------------------------------------------


def test_what_sqlite_cannot_take_is_a_plain_error(tmp_path: Path) -> None:
    """A run id from a broken header is the caller's trouble, and no reason to see codecs fail."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            with pytest.raises(StoreError, match=r"runs\.db': SQLite says: .*surrogates not allowed"):
                await store.info("\ud800")

    asyncio.run(main())


def test_a_connection_closes_only_what_a_loan_has_left_open() -> None:
    """What is read before and after a loan is the engine's, and goes on."""
    connection = sqlite3.connect(":memory:", factory=LendableConnection)
    connection.execute("CREATE TABLE ledger(amount)")
    connection.execute("INSERT INTO ledger VALUES ('all')")
    ours, blob = connection.cursor(), connection.blobopen("ledger", "amount", 1, readonly=True)
    connection.lend(lambda *_: sqlite3.SQLITE_OK)
    theirs = connection.cursor()
    connection.take_back()
    assert ours.execute("SELECT 1").fetchall() == [(1,)] and blob.read() == b"all"
    with pytest.raises(sqlite3.ProgrammingError, match="closed cursor"):
        theirs.execute("SELECT 1")
    blob.close()
    connection.close()
