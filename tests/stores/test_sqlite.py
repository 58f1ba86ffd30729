"""What a journal in a file survives: damage, full disks, failing disks, closing loops, and other processes."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from asyncflow.codec import Codec
from asyncflow.codec.records import digest_of
from asyncflow.errors import CorruptRecord, RunBusy, RunExists, RunOvertaken, StoreError
from asyncflow.states import RunState
from asyncflow.stores import database as database_module
from asyncflow.stores.database import Database, LendableConnection, Row
from asyncflow.stores.owners import OwnerLocks
from asyncflow.stores.sqlite import SqliteStore
from tests.stores.journals import append, create, disturbed, failed, note, numbers, opened, process, said

# --- Damage ---------------------------------------------------------------------------------------------------------


def damaged(path: Path, statement: str, *parameters: object) -> None:
    """Change a closed journal behind its back."""
    with sqlite3.connect(path) as database:
        assert database.execute(statement, parameters).rowcount == 1
    database.close()


@pytest.mark.parametrize(
    ("statement", "number", "words"),
    [
        ("DELETE FROM records WHERE run = 1 AND number = 2", 2, "is missing"),
        ("DELETE FROM records WHERE run = 1 AND number = 0", 0, "is missing"),
        ("UPDATE records SET body = body || x'00' WHERE run = 1 AND number = 3", 3, "checksum is wrong"),
        ("UPDATE records SET body = 'text' WHERE run = 1 AND number = 1", 1, "checksum is wrong"),
        ("UPDATE records SET checksum = checksum + 1 WHERE run = 1 AND number = 1", 1, "checksum is wrong"),
        # A whole and valid record in a place that is not its own.
        (
            "UPDATE records SET (body, checksum) = (SELECT body, checksum FROM records WHERE run = 1 AND number = 1) "
            "WHERE run = 1 AND number = 2",
            2,
            "checksum is wrong",
        ),
        (
            "UPDATE records SET (body, checksum) = (SELECT body, checksum FROM records WHERE run = 2 AND number = 1) "
            "WHERE run = 1 AND number = 1",
            1,
            "checksum is wrong",
        ),
    ],
)
def test_a_damaged_record_is_named_and_never_read(tmp_path: Path, statement: str, number: int, words: str) -> None:
    """A run that goes on from a wrong record does wrong things; one that stops can be looked at."""
    path = tmp_path / "runs.db"

    async def write() -> None:
        async with opened(path) as store:
            for run_id in ("a", "b"):
                journal = await create(store, run_id)
                for each in range(1, 5):
                    await append(journal, each, f"of {run_id}")

    async def read() -> None:
        async with opened(path) as store:
            journal = await store.claim("a")
            for ask in (journal.records, lambda: store.read("a")):
                with pytest.raises(
                    CorruptRecord, match=rf"record {number} of run 'a' in '.*runs\.db' .*{words}"
                ) as caught:
                    await ask()
                assert (caught.value.run_id, caught.value.number) == ("a", number)
            # The other run is as good as before.
            assert await numbers(store, "b") == [0, 1, 2, 3, 4]

    asyncio.run(write())
    damaged(path, statement)
    asyncio.run(read())


def test_a_record_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    """A checksum says that the bytes are as written, not that this program understands them."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a")
            writer = store._writer
            assert writer is not None
            written = writer.append(journal._line, b"\xc1", 1.0, RunState.RUNNING, {})
            if written is not None:
                await written
            with pytest.raises(CorruptRecord, match=r"record 1 of run 'a' .* cannot be decoded"):
                await journal.records()

    asyncio.run(main())


def test_damaged_blobs_plans_and_states_are_named(tmp_path: Path) -> None:
    """What stands beside the records is checked like them."""
    path = tmp_path / "runs.db"
    body = b"x" * 70_000

    async def write() -> None:
        async with opened(path) as store:
            await append(await create(store, "a"), 1, blobs={digest_of(body): body})

    async def read() -> None:
        async with opened(path) as store:
            journal = await store.claim("a")
            with pytest.raises(
                CorruptRecord, match=r"run 'a' needs a value that is lost: blob '[0-9a-f]+' .* is damaged"
            ):
                await journal.blob(digest_of(body))
            with pytest.raises(StoreError, match=r"plan 'plan' in .* is damaged"):
                await store.plan("plan")
            await journal.release()
            damage = store._database
            assert damage is not None
            await damage.fetch("UPDATE runs SET state = 'FLYING'")
            with pytest.raises(
                CorruptRecord, match=r"run 'a' .* is damaged: it is in state 'FLYING', which there is not"
            ):
                await store.info("a")

    asyncio.run(write())
    damaged(path, "UPDATE blobs SET body = zeroblob(70000)")
    damaged(path, "UPDATE plans SET body = zeroblob(5)")
    asyncio.run(read())


# --- Disks ----------------------------------------------------------------------------------------------------------


def test_a_blob_that_cannot_be_read_now_is_not_called_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody tries to resume a run again whose values are lost; a disk may fail for a moment."""
    body = b"x" * 100_000
    fetch, failures = Database.fetch, [StoreError("the disk reports an error")]

    async def failing(self: Database, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        if "FROM blobs" in sql and failures:
            raise failures.pop()
        return await fetch(self, sql, parameters)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "r")
            await append(journal, 1, blobs={digest_of(body): body})
            monkeypatch.setattr(Database, "fetch", failing)
            with pytest.raises(StoreError, match="the disk reports an error") as caught:
                await journal.blob(digest_of(body))
            assert not isinstance(caught.value, CorruptRecord)
            assert await journal.blob(digest_of(body)) == body

    asyncio.run(main())


async def fill(store: SqliteStore) -> Callable[[], Any]:
    """Let the disk be full from now on; call what is returned to make room."""
    database = store._database
    assert database is not None
    [(pages,)] = await database.fetch("PRAGMA page_count")
    [(most,)] = await database.fetch("PRAGMA max_page_count")
    await database.fetch(f"PRAGMA max_page_count = {pages}")
    return lambda: database.fetch(f"PRAGMA max_page_count = {most}")


@pytest.mark.parametrize("level", ["full", "process"])
def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path, level: str) -> None:
    """The run stays resumable from the last record that was acknowledged, and there is no gap behind it."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a", durability=level)
            await append(journal, 1)
            make_room = await fill(store)
            with pytest.raises(StoreError, match=r"runs\.db': the disk is full; make room, then resume the run"):
                await append(journal, 2, "x" * 100_000)
            # A small one would fit. It must not be taken: the record before it is not there.
            with pytest.raises(StoreError, match="the disk is full"):
                await append(journal, 3)
            with pytest.raises(StoreError, match="the disk is full"):
                await create(store, "b" * 100_000)
            await make_room()
            with pytest.raises(StoreError, match="the disk is full"):
                await append(journal, 3)
            await journal.release()
            assert (await store.info("a")).state is RunState.INTERRUPTED
            again = await store.claim("a")
            await append(again, 2)
            assert await numbers(store, "a") == [0, 1, 2]

    asyncio.run(main())


def test_what_stands_in_line_behind_a_failed_record_is_not_written(tmp_path: Path) -> None:
    """It was numbered already, so writing it would leave a gap that no resume can read over."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a")
            await fill(store)
            # Too large to be in one batch, and the second small enough for what room there is.
            waiting = [append(journal, 1, "x" * (9 << 20)), append(journal, 2)]
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(outcome, StoreError) and "the disk is full" in str(outcome)
            assert await numbers(store, "a") == [0]

    asyncio.run(main())


def test_giving_up_a_run_whose_last_record_fails_says_so(tmp_path: Path) -> None:
    """It must neither hang nor keep silent."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a", durability="lazy")
            await fill(store)
            journal.append(note(1, "x" * 100_000), {}, RunState.RUNNING)
            async with asyncio.timeout(30):
                with pytest.raises(StoreError, match="the disk is full"):
                    await journal.release()
            assert (await store.info("a")).owner is None

    asyncio.run(main())


def test_a_lazy_record_that_cannot_be_written_is_heard_of_at_the_next_one(tmp_path: Path) -> None:
    """Nobody waits for a lazy record, and its loss must not stay a secret."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journals = [await create(store, run_id, durability="lazy") for run_id in "ab"]
            make_room = await fill(store)
            for journal in journals:
                assert journal.append(note(1, "x" * 100_000), {}, RunState.RUNNING) is None
            writer = store._writer
            assert writer is not None
            await writer.drain()
            with pytest.raises(StoreError, match="the disk is full"):
                await append(journals[0], 2)
            # The first has been told; the second hears of it when it is given up.
            await journals[0].release()
            with pytest.raises(StoreError, match="the disk is full"):
                await journals[1].release()
            await make_room()
            assert [(info.owner, info.records) for info in await store.runs()] == [(None, 1), (None, 1)]

    asyncio.run(main())


class Failing:
    """Lets the n-th statement of a writer fail as a disk does."""

    def __init__(self, store: SqliteStore, n: int) -> None:
        self.count = 0
        self.n = n
        database = store._database
        assert database is not None
        connection = database._connection._conn
        self._execute = connection.execute
        connection.execute = self  # type: ignore[assignment,method-assign]

    def __call__(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        self.count += 1
        if self.count == self.n:
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = sqlite3.SQLITE_IOERR
            raise error
        return self._execute(sql, parameters)


@pytest.mark.parametrize("n", range(1, 40))
def test_whatever_statement_fails_what_was_acknowledged_is_there(tmp_path: Path, n: int) -> None:
    """The promise of an append is independent of where in it the disk gives up."""
    path = tmp_path / "runs.db"
    body = b"x" * 1000
    acknowledged: dict[str, int] = {}
    said_so: list[bool] = []

    async def live(store: SqliteStore, run_id: str, level: str) -> None:
        try:
            journal = await create(store, run_id, durability=level)
            acknowledged[run_id] = 0
            for number in range(1, 5):
                await append(journal, number, blobs={digest_of(body): body} if number % 2 else None)
                acknowledged[run_id] = number
            await journal.release()
        except StoreError as error:
            said_so.append("the disk reports an error (disk I/O error)" in str(error))

    async def write() -> None:
        store = SqliteStore(path, codec=Codec())
        await store.open()
        failing = Failing(store, n)
        await asyncio.gather(live(store, "a", "full"), live(store, "b", "process"))
        await live(store, "c", "full")
        failing.n = 0
        await store.close()

    async def read() -> None:
        async with opened(path) as store:
            infos = {info.run_id: info for info in await store.runs()}
            assert set(acknowledged) <= set(infos)
            for run_id, info in infos.items():
                found = await numbers(store, run_id)
                assert found == list(range(len(found))) and len(found) == info.records
                assert len(found) > acknowledged.get(run_id, -1)
                assert info.owner is None
                await append(await store.claim(run_id), len(found))
                if len(found) > 1:
                    assert await store.read_blob(digest_of(body)) == body

    asyncio.run(write())
    assert all(said_so)
    asyncio.run(read())


def test_a_locked_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody who looks into the file with another program must not break runs; at worst they wait for him."""
    monkeypatch.setattr(database_module, "PATIENCE", 0.5)
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as store:
            journal = await create(store, "a")
            stranger = sqlite3.connect(path, isolation_level=None)
            stranger.execute("BEGIN IMMEDIATE")
            asyncio.get_running_loop().call_later(0.1, stranger.execute, "ROLLBACK")
            await append(journal, 1)
            assert not stranger.in_transaction, "it had to wait"
            stranger.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match=r"has been locked by another process for 0\.5 s") as caught:
                await append(journal, 2)
            assert "database is locked" not in str(caught.value)
            stranger.execute("ROLLBACK")
            stranger.close()

    asyncio.run(main())


# --- Owners ---------------------------------------------------------------------------------------------------------


def test_an_engine_that_was_overtaken_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was taken for dead and was only slow; from then on the run is another's, whatever it still believes."""
    body = b"x" * 1000
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as slow, opened(path) as quick:
            for level in ("full", "process", "lazy"):
                old, beside = await create(slow, level, durability=level), await create(slow, f"{level}-2")
                with monkeypatch.context() as taken_for_dead:
                    taken_for_dead.setattr(OwnerLocks, "is_alive", lambda self, key: False)
                    new = await quick.claim(level)
                late = old.append(note(1), {digest_of(body): body}, RunState.FAILED)
                # In the same batch, and none the worse for it.
                await append(beside, 1)
                with pytest.raises(RunOvertaken, match=f"another engine has taken over run '{level}'") as caught:
                    await (old.release() if late is None else late)
                assert caught.value.run_id == level
                with pytest.raises(RunOvertaken):
                    await append(old, 2)
                await old.release()
                await append(new, 5)
                assert quick._writer is not None
                await quick._writer.drain()
                assert await numbers(quick, level) == [0, 5]
                assert await numbers(quick, f"{level}-2") == [0, 1]
                info = await quick.info(level)
                assert info.state is RunState.RUNNING and info.owner is not None, "it is still the new owner's"
                with pytest.raises(StoreError, match="has no blob"):
                    await quick.read_blob(digest_of(body))

    asyncio.run(main())


def test_a_run_that_two_claim_at_once_goes_to_one(tmp_path: Path) -> None:
    """Whoever looked at the same owner, only the first finds it still there."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as one, opened(tmp_path / "runs.db") as two:
            for which in range(20):
                await (await create(one, f"run-{which}")).release()
                claims = [one.claim(f"run-{which}"), two.claim(f"run-{which}")]
                outcomes = await asyncio.gather(*claims, return_exceptions=True)
                assert sorted(isinstance(outcome, RunBusy) for outcome in outcomes) == [False, True]

    asyncio.run(main())


def test_all_spellings_of_a_path_are_one_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two engines that lock two files would both own the same runs."""
    path = tmp_path / "runs.db"
    (tmp_path / "link.db").symlink_to(path)
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        async with opened(path) as store:
            await create(store, "a")
            for spelling in ("runs.db", "./runs.db", "link.db", tmp_path / "x" / ".." / "link.db"):
                async with opened(spelling) as other:
                    with pytest.raises(RunBusy):
                        await other.claim("a")

    asyncio.run(main())
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link.db", "runs.db", "runs.db-owners"]


APPEND_FOR_EVER = """
async def main():
    store = SqliteStore(sys.argv[1], codec=Codec())
    await store.open()
    journal = await create(store, "a", durability=sys.argv[2])
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        await append(journal, number, "x" * 500, {digest_of(b"%d" % number): b"%d" % number})
        print(number, flush=True)
asyncio.run(main())
"""


@pytest.mark.parametrize("level", ["full", "process"])
def test_a_killed_process_leaves_all_it_was_told_is_durable(tmp_path: Path, level: str) -> None:
    """The heart of it: kill -9, look, take over at once, go on."""
    path = tmp_path / "runs.db"

    async def main(last: int) -> None:
        async with opened(path) as store:
            info = await store.info("a")
            assert (info.state, info.owner) == (RunState.INTERRUPTED, None), "a free lock is a dead owner"
            journal = await store.claim("a")
            found = [int(record.at) for record in await journal.records()]
            assert found == list(range(len(found)))
            # The one that was on its way may be there too; it was never acknowledged.
            assert len(found) - 1 in (last, last + 1)
            for number in range(1, last + 1):
                assert await journal.blob(digest_of(b"%d" % number)) == b"%d" % number
            await append(journal, len(found))

    async def busy() -> None:
        async with opened(path) as store:
            with pytest.raises(RunBusy, match=rf"run 'a' .* belongs to process {child.pid} on .*, which is alive"):
                await store.claim("a")
            assert (await store.info("a")).state is RunState.RUNNING

    with process(APPEND_FOR_EVER, path, level) as child:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        asyncio.run(busy())
        while int(child.stdout.readline()) < 50:
            pass
        child.kill()
        rest = child.stdout.read().split("\n")
        last = max([50, *[int(line) for line in rest[:-1]]])
    asyncio.run(main(last))


def test_a_process_that_closes_one_engine_keeps_the_other_alive(tmp_path: Path) -> None:
    """POSIX drops all locks of a process on a file when it closes any descriptor of it."""
    path = tmp_path / "runs.db"
    look = """
async def main():
    async with opened(sys.argv[1]) as store:
        print((await store.info("a")).state.name)
asyncio.run(main())
"""

    async def main() -> None:
        async with opened(path) as store:
            async with opened(path):
                await create(store, "a")
            assert said(look, path) == "RUNNING"
        assert said(look, path) == "INTERRUPTED"

    asyncio.run(main())


FORK = """
async def claim():
    async with opened(sys.argv[1]) as store:
        try:
            await store.claim("a")
            print("claimed", flush=True)
        except Exception as error:
            print(type(error).__name__, flush=True)

async def main():
    async with opened(sys.argv[1]) as store:
        await create(store, "a")
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            os.close(writing)
            # A new loop: the one around this belongs to the parent.
            asyncio._set_running_loop(None)
            asyncio.run(claim())
            open(sys.argv[2], "w").close()
            # Until the parent is gone, without a farewell.
            os.read(reading, 1)
            asyncio.run(claim())
            os._exit(0)
        open(sys.argv[2]).read()
        os._exit(0)
asyncio.run(main())
"""


def test_a_forked_child_is_another_owner(tmp_path: Path) -> None:
    """Workers are forked from a process that has an engine; a child inherits its memory and none of its locks."""
    asked = tmp_path / "asked"
    os.mkfifo(asked)
    assert said(FORK, tmp_path / "runs.db", asked) == "RunBusy\nclaimed"


def test_two_that_ask_at_once_do_not_take_each_other_for_the_owner(tmp_path: Path) -> None:
    """Two workers that recover together would both find every dead owner alive."""
    ask = """
import fcntl
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(file, fcntl.LOCK_SH, 1, 7)
print("asking", flush=True)
sys.stdin.read()
"""
    locks = OwnerLocks(str(tmp_path / "runs.db"))
    with process(ask, tmp_path / "runs.db-owners") as child:
        assert child.stdout is not None and child.stdout.readline() == "asking\n"
        assert not locks.is_alive(7)
        child.communicate()
    locks.close()
    with pytest.raises(StoreError, match="is closed"):
        locks.is_alive(7)


def test_the_dead_are_forgotten_once_they_own_nothing(tmp_path: Path) -> None:
    """A service that crashes every night must not make every listing longer."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        crash = "async def main():\n    store = SqliteStore(sys.argv[1], codec=Codec())\n    await store.open()\n"
        crash += "    await create(store, sys.argv[2])\n    os._exit(0)\nasyncio.run(main())"
        said(crash, path, "a")
        said(crash, path, "b")
        async with opened(path) as store:
            assert store._database is not None
            assert len(await store._database.fetch("SELECT * FROM owners")) == 3
            await (await store.claim("a")).release()
            async with opened(path):
                pass
            assert len(await store._database.fetch("SELECT * FROM owners")) == 2

    asyncio.run(main())


# --- Ends -----------------------------------------------------------------------------------------------------------


def test_a_process_that_never_closes_its_store_ends_all_the_same(tmp_path: Path) -> None:
    """A script that forgot ``async with`` must not hang for ever."""
    script = """
store = SqliteStore(sys.argv[1], codec=Codec())
async def main():
    await store.open()
    journal = await create(store, "a")
    await append(journal, 1)
    print("done")
asyncio.run(main())
"""
    started = time.monotonic()
    assert said(script, tmp_path / "runs.db") == "done"
    assert time.monotonic() - started < 30


def test_a_closing_loop_does_not_cut_off_a_commit(tmp_path: Path) -> None:
    """When the loop goes down all runs want to record that they are suspended, at the worst of moments."""
    path = tmp_path / "runs.db"
    reached = 0

    async def live(store: SqliteStore, run_id: str) -> None:
        nonlocal reached
        journal = await create(store, run_id, durability="full")
        number = 0
        try:
            while True:
                number += 1
                await append(journal, number)
        except asyncio.CancelledError:
            await append(journal, number + 1, blobs={digest_of(b"last"): b"last"})
            await journal.release()
            reached += 1
            raise

    async def main() -> None:
        store = SqliteStore(path, codec=Codec())
        await store.open()
        tasks = [asyncio.ensure_future(live(store, f"run-{which}")) for which in range(5)]
        left.append((store, tasks))
        while [info.records > 3 for info in await store.runs()] != [True] * 5:
            pass

    left: list[tuple[SqliteStore, list[asyncio.Future[None]]]] = []

    async def look() -> None:
        async with opened(path) as store:
            for which in range(5):
                found = await numbers(store, f"run-{which}")
                assert found == list(range(len(found)))
                assert (await store.info(f"run-{which}")).owner is None

    with asyncio.Runner() as runner:
        runner.run(main())
        # What asyncio.run does at its end, on a loop that is still there to close the store in order.
        loop = runner.get_loop()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        [(store, tasks)] = left
        runner.run(gathered(tasks))
        runner.run(store.close())
    assert reached == 5
    asyncio.run(look())


async def gathered(tasks: list[asyncio.Future[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize("turns", range(12))
def test_a_run_whose_creator_was_cancelled_has_no_owner(tmp_path: Path, turns: int) -> None:
    """Nobody holds its journal, so nobody could ever give it up."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await (await create(store, "b")).release()
            creating = asyncio.ensure_future(create(store, "a"))
            claiming = asyncio.ensure_future(store.claim("b"))
            for _ in range(turns):
                await asyncio.sleep(0)
            creating.cancel()
            claiming.cancel()
            await asyncio.wait([creating, claiming])
            writer = store._writer
            assert writer is not None
            await writer.drain()
            for info in await store.runs():
                done = creating if info.run_id == "a" else claiming
                assert (info.owner is None) == done.cancelled()

    asyncio.run(main())


def test_closing_goes_on_when_its_caller_is_cancelled(tmp_path: Path) -> None:
    """A shutdown that hits its own time limit must still leave the file in order."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        store = SqliteStore(path, codec=Codec())
        await store.open()
        journal = await create(store, "a", durability="lazy")
        for number in range(1, 1000):
            journal.append(note(number), {}, RunState.RUNNING)
        closing = asyncio.ensure_future(store.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        await store.close()
        async with opened(path) as again:
            assert await numbers(again, "a") == list(range(1000))

    asyncio.run(main())


def test_opening_can_be_cancelled(tmp_path: Path) -> None:
    """Nothing of a store that nobody got stays behind."""

    async def main() -> None:
        for turns in range(20):
            store = SqliteStore(tmp_path / "runs.db", codec=Codec())
            opening = asyncio.ensure_future(store.open())
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            await asyncio.wait([opening])
            if opening.cancelled():
                assert store._database is None
            else:
                await store.close()
        async with opened(tmp_path / "runs.db") as store:
            assert store._database is not None
            assert len(await store._database.fetch("SELECT * FROM owners")) == 1

    asyncio.run(main())


def test_an_id_in_use_is_refused_without_touching_the_run(tmp_path: Path) -> None:
    """The message says what to do instead, and the first run notices nothing."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "order-7")
            with pytest.raises(
                RunExists, match=r"run 'order-7' in '.*' already; go on with engine\.resume\('order-7'\)"
            ):
                await create(store, "order-7")
            await append(journal, 1)
            assert await numbers(store, "order-7") == [0, 1]

    asyncio.run(main())


async def _rows(database: Database | None, sql: str) -> list[Row]:
    assert database is not None
    return await database.fetch(sql)


def test_a_key_is_never_used_again(tmp_path: Path) -> None:
    """What was kept of a purged run must never turn up in another."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await create(store, "a")
            [(first,)] = await _rows(store._database, "SELECT key FROM runs")
            await _rows(store._database, "DELETE FROM runs")
            await create(store, "a")
            [(second,)] = await _rows(store._database, "SELECT key FROM runs")
            assert second > first

    asyncio.run(main())


def test_a_run_that_could_not_be_given_up_can_be_taken_up_again(tmp_path: Path) -> None:
    """A disk that failed for a moment must not lock a run until its engine closes."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "r", durability="full")
            with (
                disturbed(store, "UPDATE runs SET owner = NULL", [failed(sqlite3.SQLITE_IOERR) for _ in range(2)]),
                pytest.raises(StoreError, match="the disk reports an error"),
            ):
                await journal.release()  # which fails on the loop, and in the thread
            again = await store.claim("r")
            with pytest.raises(RunBusy, match="already running in this engine"):
                await store.claim("r")
            await again.release()

    asyncio.run(main())


def test_an_opening_that_fails_leaves_no_pulse_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would go on writing to a descriptor that is somebody else's by then."""

    async def main() -> None:
        store = SqliteStore(tmp_path / "runs.db", codec=Codec())
        before = set(threading.enumerate())
        execute, failed = LendableConnection.execute, []

        def full(self: LendableConnection, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
            if sql.startswith("SELECT key FROM owners") and not failed:
                failed.append(sql)
                raise StoreError("the disk is full")
            return execute(self, sql, parameters)

        with monkeypatch.context() as patch, pytest.raises(StoreError, match="full"):
            patch.setattr(LendableConnection, "execute", full)
            await store.open()
        left = set(threading.enumerate()) - before  # other tests leave engines behind that nobody closes
        assert failed and not [one for one in left if "pulse" in one.name]
        await store.open()
        await store.close()

    asyncio.run(main())
