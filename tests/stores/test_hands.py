"""What changes hands while somebody looks: runs that are claimed, purged or begun anew, and callers who have gone."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncflow.codec import Codec
from asyncflow.codec.records import digest_of
from asyncflow.errors import CorruptRecord, RunBusy, RunExists, RunOvertaken, StoreError
from asyncflow.interfaces import NewRun
from asyncflow.messages import Record
from asyncflow.outcomes import Failure
from asyncflow.states import RunState
from asyncflow.stores import commit as commit_module
from asyncflow.stores import database as database_module
from asyncflow.stores import purge as purge_module
from asyncflow.stores import wal_lock
from asyncflow.stores.database import LendableConnection, Row
from asyncflow.stores.sqlite import SqliteStore
from asyncflow.stores.writer import Writer
from asyncflow.upkeep import ENDED
from tests.stores.journals import append, create, disturbed, failed, note, numbers, opened


def writer_of(store: SqliteStore) -> Writer:
    assert store._writer is not None
    return store._writer


async def end(store: SqliteStore, run_id: str, *, plan: str = "plan", text: str = "") -> None:
    """Write a run of three notes that has SUCCEEDED."""
    new = NewRun(run_id=run_id, flow="ship", flow_ref=None, plan=plan, durability="process")
    journal = await store.create(new, lambda: f"body of {plan}".encode(), note(0), {})
    await append(journal, 1, text)
    await append(journal, 2, text)
    pending = journal.append(note(3, text), {}, RunState.SUCCEEDED)
    if pending is not None:
        await pending
    await journal.release()


async def purge(store: SqliteStore) -> list[str]:
    gone: list[str] = []
    await store.purge(1e12, ENDED, gone.append)
    return gone


def test_a_run_that_others_are_always_quicker_to_take_is_busy(tmp_path: Path) -> None:
    """A crowd of workers that wakes at once must not keep one of them looking for ever."""
    path = tmp_path / "runs.db"
    looks = 0

    async def main() -> None:
        nonlocal looks
        async with opened(path) as store:
            await (await create(store, "r")).release()
            reader = store._reader
            assert reader is not None
            standing = reader.standing

            async def look(run_id: str) -> Any:
                nonlocal looks
                looks += 1
                found = await standing(run_id)
                with contextlib.closing(sqlite3.connect(path)) as other, other:
                    other.execute("UPDATE runs SET epoch = epoch + 1")
                return found

            reader.standing = look  # type: ignore[method-assign]
            with pytest.raises(RunBusy, match=r"run 'r' in .* changes hands all the time; try again later"):
                await store.claim("r")
            reader.standing = standing  # type: ignore[method-assign]
            journal = await store.claim("r")
            assert repr(journal) == f"<SqliteJournal of run 'r': owned; 1 records, epoch {looks + 2}>"
            await journal.release()
            assert "was given up by the engine" in repr(journal)

    asyncio.run(main())
    assert looks == 10


def test_a_run_that_is_begun_anew_while_it_is_read_is_read_anew(tmp_path: Path) -> None:
    """Half of one and half of the other would be taken for damage."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as store, opened(path) as other:
            await end(store, "r")
            assert store._reader is not None
            database = store._reader._database
            fetch = database.fetch

            async def slowly(sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
                if "FROM records WHERE run = ?" in " ".join(sql.split()):
                    database.fetch = fetch  # type: ignore[method-assign]
                    assert await purge(other) == ["r"]
                    await append(await create(other, "r"), 7)
                return await fetch(sql, parameters)

            database.fetch = slowly  # type: ignore[method-assign]
            assert await numbers(store, "r") == [0, 7]

    asyncio.run(main())


@pytest.mark.parametrize("turns", [1, 2, 4, 8])
def test_a_creator_who_goes_away_leaves_alone_whose_id_it_wanted(tmp_path: Path, turns: int) -> None:
    """What it would have given up is somebody else's run."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store, opened(tmp_path / "runs.db") as other:
            journal = await create(store, "r")
            creating = asyncio.ensure_future(create(other, "r"))
            for _ in range(turns):
                await asyncio.sleep(0)
            creating.cancel()
            await asyncio.wait([creating])
            await writer_of(other).drain()
            await append(journal, 1)
            with pytest.raises(RunExists):
                await create(other, "r")
            with pytest.raises(RunBusy):
                await other.claim("r")

    asyncio.run(main())


@pytest.mark.parametrize("is_same", [False, True])
def test_a_claimant_who_was_beaten_and_goes_away_leaves_the_run_to_the_winner(tmp_path: Path, is_same: bool) -> None:
    """Both looked at one epoch, so both would have the next one; the winner's work must not be anyone's to repeat."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store, opened(tmp_path / "runs.db") as another:
            await (await create(store, "r")).release()
            other = store if is_same else another
            reader = other._reader
            assert reader is not None
            standing, winner, looked = reader.standing, [], asyncio.Event()

            async def look(run_id: str) -> Any:
                found = await standing(run_id)
                reader.standing = standing  # type: ignore[method-assign]
                winner.append(await store.claim(run_id))
                looked.set()
                return found

            reader.standing = look  # type: ignore[method-assign]
            claiming = asyncio.ensure_future(other.claim("r"))
            await looked.wait()
            await asyncio.sleep(0)
            claiming.cancel()
            await asyncio.wait([claiming])
            await writer_of(other).drain()
            assert claiming.cancelled()
            info = await store.info("r")
            assert info.owner is not None
            await append(winner[0], 1)

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_what_was_asked_is_done_although_the_asker_has_gone(tmp_path: Path, fails: bool) -> None:
    """Cut off between two statements it would leave half of itself to all who come later."""
    done: list[str] = []

    async def main() -> None:
        begun, go_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

        def errand(_: LendableConnection) -> None:
            loop.call_soon_threadsafe(begun.set)
            assert go_on.wait(30)
            done.append("done")
            if fails:
                raise StoreError("the disk is full")

        async with opened(tmp_path / "runs.db") as store:
            asking = writer_of(store).run(errand)
            await begun.wait()
            asking.cancel()
            go_on.set()
            await append(await create(store, "r"), 1)  # and the next one is served

    asyncio.run(main())
    assert done == ["done"]


def test_a_bug_of_ours_is_told_as_one_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a record must hear that it was not written, whatever the reason."""

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("division by zero")

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal, other = await create(store, "a"), await create(store, "b")
            with monkeypatch.context() as patch:
                patch.setattr(commit_module, "_insert", broken)
                with pytest.raises(StoreError, match="not be written, for a reason that is a bug of asyncflow: Zero"):
                    await append(journal, 1)
            await append(other, 1)
            assert (await numbers(store, "a"), await numbers(store, "b")) == ([0], [0, 1])

    asyncio.run(main())


def test_a_record_that_does_not_fit_beside_what_was_written_takes_that_back(tmp_path: Path) -> None:
    """A full disk is found out at the last moment: after the function has written, and before its record."""
    path = tmp_path / "runs.db"

    def small(connection: sqlite3.Connection) -> tuple[Record, dict[str, bytes]]:
        connection.execute("INSERT INTO ledger VALUES (1)")
        return note(1), {}

    def large(connection: sqlite3.Connection) -> tuple[Record, dict[str, bytes]]:
        connection.execute("INSERT INTO ledger VALUES (10)")
        body = b"x" * 4_000_000
        return note(1), {digest_of(body): body}

    async def main() -> None:
        async with opened(path) as store:
            database = writer_of(store)._database
            await database.fetch("CREATE TABLE ledger(amount)")
            beside, too_much = await create(store, "a"), await create(store, "b")
            await database.fetch("PRAGMA max_page_count = 200")
            kept, refused = beside.append_with(small), too_much.append_with(large)
            assert await kept == note(1)
            with pytest.raises(StoreError, match="the disk is full"):
                await refused
            await database.fetch("PRAGMA max_page_count = 1000000")
            assert await database.fetch("SELECT amount FROM ledger") == [(1,)]
            assert (await numbers(store, "a"), await numbers(store, "b")) == ([0, 1], [0])

    asyncio.run(main())


@pytest.mark.parametrize("durability", ["process", "full"])
@pytest.mark.parametrize("what", ["append", "append_with", "request"])
def test_what_could_not_be_rolled_back_swallows_nothing_that_comes_later(
    tmp_path: Path, durability: str, what: str
) -> None:
    """It would be acknowledged within a transaction that nobody ever commits."""

    def torn(connection: sqlite3.Connection) -> tuple[Record, dict[str, bytes]]:
        connection.execute("INSERT INTO ledger VALUES (1)")
        raise failed(sqlite3.SQLITE_FULL)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            database = writer_of(store)._database
            await database.fetch("CREATE TABLE ledger(amount)")
            unlucky, journal = await create(store, "a"), await create(store, "b", durability=durability)
            with disturbed(store, "ROLLBACK", [failed(sqlite3.SQLITE_IOERR)]), pytest.raises(StoreError):
                await unlucky.append_with(torn)
            assert database._connection.in_transaction
            if what == "append":
                await append(journal, 1)
            elif what == "append_with":
                assert await journal.append_with(lambda _: (note(1), {})) == note(1)
            else:
                await store.request("b", "cancel", "")
                assert [request.run_id for request in await store.beat()] == ["b"]
                await append(journal, 1)
            # As others see it.
            assert (await numbers(store, "a"), await numbers(store, "b")) == ([0], [0, 1])
            await append(journal, 2)
            assert await numbers(store, "b") == [0, 1, 2]
            assert await database.fetch("SELECT amount FROM ledger") == []

    asyncio.run(main())


def test_a_function_that_goes_on_after_its_transaction_is_gone_has_failed(tmp_path: Path) -> None:
    """It caught the error that told so; what it wrote before is lost, so its success would be a lie."""

    def careless(connection: sqlite3.Connection) -> tuple[Record, dict[str, bytes]]:
        connection.execute("INSERT INTO ledger VALUES (1)")
        with contextlib.suppress(sqlite3.IntegrityError):
            connection.execute("INSERT OR ROLLBACK INTO ledger VALUES (1)")
        return note(1), {}

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            database = writer_of(store)._database
            await database.fetch("CREATE TABLE ledger(amount UNIQUE)")
            journal = await create(store, "r")
            failed = await journal.append_with(careless)
            assert isinstance(failed, Failure)
            assert "was rolled back in its middle" in str(failed.exception)
            await append(journal, 1)
            assert await database.fetch("SELECT amount FROM ledger") == []

    asyncio.run(main())


def test_a_purge_takes_large_records_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits of others wait behind each step, so a step is bounded in bytes and not only in rows."""
    monkeypatch.setattr(purge_module, "_RECORD_BYTES", 1000)
    steps: list[int] = []

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await end(store, "r", text="x" * 600)
            execute = LendableConnection.execute

            def counting(connection: LendableConnection, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
                if sql.startswith("DELETE FROM records"):
                    steps.append(parameters[2])
                return execute(connection, sql, parameters)

            monkeypatch.setattr(LendableConnection, "execute", counting)
            assert await purge(store) == ["r"]
            assert await writer_of(store)._database.fetch("SELECT * FROM records") == []

    asyncio.run(main())
    assert steps == [1, 2, 3]


def test_a_plan_that_is_purged_while_a_run_begins_is_kept_again(tmp_path: Path) -> None:
    """The run would exist, and could never be resumed."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store, opened(tmp_path / "runs.db") as other:
            await end(store, "old")
            assert await purge(other) == ["old"]
            await end(store, "new")
            assert await store.plan("plan") == b"body of plan"
            with pytest.raises(CorruptRecord, match=r"needs a value that is lost: .*has no blob 'none'"):
                await (await store.claim("new")).blob("none")

    asyncio.run(main())


def test_an_opening_that_fails_tells_a_caller_who_has_gone_nothing(tmp_path: Path) -> None:
    """Who was cancelled hears that, and nothing of the store stays behind."""

    async def main() -> None:
        store = SqliteStore(tmp_path, codec=Codec())  # a folder
        opening = asyncio.ensure_future(store.open())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        assert "closed" in repr(store)

    asyncio.run(main())


def test_a_store_may_be_closed_by_several_at_once(tmp_path: Path) -> None:
    """A signal handler and the end of a block both do, and each may rely on it being closed."""

    async def main() -> None:
        store = SqliteStore(tmp_path / "runs.db", codec=Codec())
        await store.open()
        await append(await create(store, "r"), 1)
        await asyncio.gather(store.close(), store.close())
        async with opened(tmp_path / "runs.db") as again:
            assert (await again.info("r")).owner is None

    asyncio.run(main())


def test_nobody_is_kept_from_writing_between_two_turns_of_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body may compute for a minute before the loop turns again, and other engines wait for 20 s at most."""
    there = database_module._Connection._execute
    trips = 0

    async def watched(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal trips
        answer = await there(self, *args, **options)
        trips += 1
        assert not wal_lock._is_in_transaction(self._conn)
        return answer

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:

            def plan() -> bytes:
                assert not writer_of(store)._database._connection.in_transaction
                return b"another plan"

            await end(store, "r")
            await store.save_plan("another", plan, run_id="r")
            await store.backup(str(tmp_path / "copy.db"))
            assert await purge(store) == ["r"]

    monkeypatch.setattr(database_module._Connection, "_execute", watched)
    asyncio.run(main())
    assert trips > 20


def test_an_owner_hears_once_that_it_was_overtaken(tmp_path: Path) -> None:
    """From a record that is refused or from its beat, whichever is first, and in the same words."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as store:
            journal = await create(store, "r")
            reader = store._reader
            assert reader is not None
            look = reader.heartbeat

            async def meanwhile(owner: int) -> Any:
                found = await look(owner)
                with pytest.raises(RunOvertaken, match="another engine has taken over run 'r'"):
                    await append(journal, 1)
                return found

            reader.heartbeat = meanwhile  # type: ignore[method-assign]
            with contextlib.closing(sqlite3.connect(path)) as other, other:
                other.execute("UPDATE runs SET epoch = epoch + 1, owner = owner + 1")
            assert [request.kind for request in await store.beat()] == ["overtaken"]
            reader.heartbeat = look  # type: ignore[method-assign]
            assert await store.beat() == []
            assert await numbers(store, "r") == [0]

    asyncio.run(main())
