"""How records of many runs become durable together."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow.codec.records import digest_of
from asyncflow.errors import StoreError
from asyncflow.interfaces import NewRun
from asyncflow.states import RunState
from asyncflow.stores import on_loop as on_loop_module
from asyncflow.stores import writer as writer_module
from asyncflow.stores.sqlite import SqliteStore
from asyncflow.stores.writer import CHECKPOINT_BYTES, Writer
from tests.stores.journals import append, create, disturbed, failed, note, numbers, opened, over


class Heard:
    """The statements that a store's writer has run, each told of before it is run."""

    def __init__(self, store: SqliteStore) -> None:
        self.statements: list[str] = []
        # Set as soon as the loop can know that records are being inserted, before anyone is told that they are.
        self.inserting = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        database = store._database
        assert database is not None
        connection = database._connection._conn
        self._execute = connection.execute
        connection.execute = self  # type: ignore[assignment,method-assign]

    def __call__(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        self.statements.append(sql)
        if sql.startswith("INSERT INTO records"):
            self._loop.call_soon_threadsafe(self.inserting.set)
        return self._execute(sql, parameters)

    def inserts(self) -> int:
        return sum(sql.startswith("INSERT INTO records") for sql in self.statements)


@contextmanager
def held(mutex: threading.RLock) -> Iterator[None]:
    """Have another thread hold *mutex*."""
    is_held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with mutex:
            is_held.set()
            let_go.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait()
    try:
        yield
    finally:
        let_go.set()
        holder.join()


def writer_of(store: SqliteStore) -> Writer:
    assert store._writer is not None
    return store._writer


def test_one_append_is_one_statement(tmp_path: Path) -> None:
    """Each statement is a trip to another thread, which costs more than the statement."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a")
            heard = Heard(store)
            for number in range(1, 11):
                await append(journal, number)
            assert len(heard.statements) == heard.inserts() == 10

    asyncio.run(main())


def test_what_gathers_while_a_commit_runs_goes_into_the_next(tmp_path: Path) -> None:
    """A hundred runs must not wait for a hundred commits."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            starting = [create(store, f"run-{which}", durability="full") for which in range(100)]
            journals = await asyncio.gather(*starting)
            heard = Heard(store)
            first = asyncio.ensure_future(append(journals[0], 1))
            await heard.inserting.wait()
            assert heard.inserts() == 1
            await asyncio.gather(first, *[append(journal, 2) for journal in journals])
            assert heard.inserts() == 2
            for number in range(3, 8):
                await asyncio.gather(*[append(journal, number) for journal in journals])
            assert heard.inserts() == 7

    asyncio.run(main())


def test_runs_that_start_together_share_transactions(tmp_path: Path) -> None:
    """A service that starts a hundred runs at once pays for few syncs."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            heard = Heard(store)
            await asyncio.gather(*[create(store, f"run-{which}", durability="full") for which in range(100)])
            # Each looks first whether its plan is there, so they do not all come in the same turn of the loop.
            assert heard.statements.count("COMMIT") <= 20

    asyncio.run(main())


def test_a_batch_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite takes so many parameters, and a commit of everything would keep the first waiting for the last."""
    monkeypatch.setattr(writer_module, "_BATCH_ROWS", 256)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a", durability="full")
            heard = Heard(store)
            waiting = [journal.append(note(number), {}, RunState.RUNNING) for number in range(1, 1001)]
            await asyncio.gather(*[each for each in waiting if each is not None])
            assert heard.inserts() == 4
            waiting = [
                journal.append(note(number, "x" * (3 << 20)), {}, RunState.RUNNING) for number in range(1001, 1005)
            ]
            await asyncio.gather(*[each for each in waiting if each is not None])
            assert heard.inserts() == 6
            assert await numbers(store, "a") == list(range(1005))

    asyncio.run(main())


def test_a_batch_is_synced_if_one_of_its_runs_asks_for_it(tmp_path: Path) -> None:
    """ "full" means on the disk; "process" must not pay for that when it is alone."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            full, quick = await create(store, "full", durability="full"), await create(store, "quick")
            lazy = await create(store, "lazy", durability="lazy")
            heard = Heard(store)

            def synced() -> str:
                last = [sql for sql in heard.statements if sql.startswith("PRAGMA synchronous")][-1]
                assert heard.statements[-1].startswith(("INSERT INTO records", "COMMIT"))
                return last.rpartition(" ")[2]

            await append(full, 1)
            assert synced() == "FULL"
            await append(quick, 1)
            assert synced() == "NORMAL"
            await append(quick, 2)
            lazy.append(note(1), {}, RunState.RUNNING)
            await asyncio.gather(append(quick, 3), append(full, 2), append(quick, 4))
            assert synced() == "FULL"
            # Once and again: the level is only told when it changes.
            assert len([sql for sql in heard.statements if sql.startswith("PRAGMA synchronous")]) == 3
            assert heard.inserts() == 4
            assert await numbers(store, "lazy") == [0, 1], "it went along"

    asyncio.run(main())


def test_lazy_records_are_written_without_anyone_asking(tmp_path: Path) -> None:
    """A lazy run is behind by a moment, not until its end."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a", durability="lazy")
            heard = Heard(store)
            started = time.monotonic()
            for number in range(1, 101):
                assert journal.append(note(number), {}, RunState.RUNNING) is None
            while (await store.info("a")).records == 1:
                pass
            assert await numbers(store, "a") == list(range(101))
            assert heard.inserts() == 1, "they gathered"
            # The promise is 100 ms; this is about forgetting the timer, not about a slow machine.
            assert time.monotonic() - started < 10

    asyncio.run(main())


def test_a_lazy_record_that_comes_while_a_commit_runs_is_not_forgotten(tmp_path: Path) -> None:
    """The writer is awake then, and goes to sleep without having looked again."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            lazy, other = await create(store, "a", durability="lazy"), await create(store, "b")
            heard = Heard(store)
            pending = asyncio.ensure_future(append(other, 1))
            await heard.inserting.wait()
            assert heard.inserts() == 1
            lazy.append(note(1), {}, RunState.RUNNING)
            await pending
            async with asyncio.timeout(30):
                while (await store.info("a")).records == 1:
                    pass

    asyncio.run(main())


def test_a_lazy_run_that_outruns_the_disk_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not yet written is in memory, which has an end."""
    monkeypatch.setattr(writer_module, "_BACKLOG_BYTES", 10_000)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a", durability="lazy")
            waiting = [journal.append(note(number, "x" * 1000), {}, RunState.RUNNING) for number in range(1, 31)]
            assert waiting[0] is None and waiting[-1] is not None
            await waiting[-1]
            assert await numbers(store, "a") == list(range(31))

    asyncio.run(main())


def test_a_record_that_sqlite_cannot_hold_is_refused_before_it_is_numbered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It must not take the records of other runs down with it, nor leave a gap in its own."""
    monkeypatch.setattr(writer_module, "_LARGEST_BYTES", 100_000)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal, other = await create(store, "a"), await create(store, "b")
            beside = asyncio.ensure_future(append(other, 1))
            body = b"x" * 100_000
            with pytest.raises(
                StoreError, match=r"run 'a' appends 1.* bytes to .* at once, SQLite keeps 100000; return ref"
            ):
                await append(journal, 1, blobs={digest_of(body): body})
            new = NewRun(run_id="c", flow="ship", flow_ref=None, plan="large", durability="full")
            with pytest.raises(StoreError, match="run 'c' appends"):
                await store.create(new, lambda: body, note(0), {})
            await beside
            await append(journal, 1)
            assert await numbers(store, "a") == await numbers(store, "b") == [0, 1]

    asyncio.run(main())


def test_the_log_stays_bounded(tmp_path: Path) -> None:
    """A service that writes for months must not fill the disk with its write-ahead log."""
    log = tmp_path / "runs.db-wal"

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journals = [await create(store, f"run-{which}") for which in range(20)]
            largest = 0
            for number in range(1, 61):
                await asyncio.gather(*[append(journal, number, "x" * 20_000) for journal in journals])
                largest = max(largest, log.stat().st_size)
            assert (tmp_path / "runs.db").stat().st_size > 4 * CHECKPOINT_BYTES
            assert largest < 3 * CHECKPOINT_BYTES
        assert not log.exists()

    asyncio.run(main())


def test_closing_empties_the_log_although_others_go_on(tmp_path: Path) -> None:
    """Of several processes, the one that wrote most may be the first to go."""
    log = tmp_path / "runs.db-wal"

    async def main() -> int:
        async with opened(tmp_path / "runs.db"):
            async with opened(tmp_path / "runs.db") as store:
                await append(await create(store, "a"), 1, "x" * 1_000_000)
            return log.stat().st_size

    assert asyncio.run(main()) == 0


def test_a_beat_in_a_quiet_moment_copies_the_log(tmp_path: Path) -> None:
    """What a busy hour left in the log would else be read through at every look into the file."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a")
            await append(journal, 1, "x" * (CHECKPOINT_BYTES // 4))
            heard = Heard(store)
            await store.beat()
            await store.beat()
            assert heard.statements.count("PRAGMA wal_checkpoint(PASSIVE)") == 1
            assert (tmp_path / "runs.db").stat().st_size > CHECKPOINT_BYTES // 4

    asyncio.run(main())


def test_an_idle_writer_is_no_asyncio_task(tmp_path: Path) -> None:
    """Tests that look for leaked tasks must not find ours, nor must a loop that closes cancel it."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a", durability="full")
            pending = journal.append(note(1), {}, RunState.RUNNING)
            assert pending is not None
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await pending
            await writer_of(store).drain()
            assert writer_of(store)._working is None

    asyncio.run(main())


def test_nothing_is_left_open(tmp_path: Path) -> None:
    """A test suite opens hundreds of stores; each must give back its files and threads."""

    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await append(await create(store, "a"), 1)

    asyncio.run(main())
    before = count()
    for _ in range(5):
        asyncio.run(main_again(tmp_path))
    assert count() <= before


async def main_again(folder: Path) -> None:
    async with opened(folder / "runs.db") as store:
        await append(await store.claim("a"), 2)


# --- On the loop ------------------------------------------------------------------------------------------------------


class Trips:
    """How often the thread of a store's writer has been asked for something."""

    def __init__(self, store: SqliteStore) -> None:
        self.count = 0
        self.asked = asyncio.Event()
        database = store._database
        assert database is not None
        self._execute = database._connection._execute
        database._connection._execute = self  # type: ignore[method-assign,assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        self.asked.set()
        return self._execute(*args, **kwargs)


@pytest.mark.usefixtures("never_slow")
def test_what_is_brief_is_committed_without_a_trip_to_the_thread(tmp_path: Path) -> None:
    """The trip costs twice what the commit does; what is large makes it nevertheless."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a")
            trips = Trips(store)
            for number in range(1, 6):
                await append(journal, number)
            assert trips.count == 0
            await append(journal, 6, "x" * 100_000)
            assert trips.count == 1
            assert await numbers(store, "a") == list(range(7))

    asyncio.run(main())


@pytest.mark.usefixtures("never_slow")
def test_what_is_synced_leaves_the_loop_alone_unless_the_disk_has_been_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To wake a thread takes as long as a quick disk does; a slow one must hold up a run and not the application."""
    monkeypatch.setattr(on_loop_module, "_QUICK_SYNCS", 4)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            full = await create(store, "full", durability="full")  # the first of them
            trips, made = Trips(store), []
            for number in range(1, 12):
                if number == 5:  # on the loop still
                    monkeypatch.setattr(on_loop_module, "_QUICK_SECONDS", 0.0)
                elif number == 6:
                    monkeypatch.setattr(on_loop_module, "_QUICK_SECONDS", 3600.0)
                before = trips.count
                assert full.append(note(number), {}, RunState.RUNNING) is not None, "never within the append"
                await full.settle()
                made.append(trips.count - before)
            assert made == [1, 1, 1, 0, 0, 1, 1, 1, 1, 0, 0]

    asyncio.run(main())


@pytest.mark.usefixtures("never_slow")
def test_the_loop_waits_for_nobody_who_writes(tmp_path: Path) -> None:
    """Another engine within a commit, or another program, is waited for where nobody is held up by that."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal, database = await create(store, "a"), store._database
            assert database is not None
            turned = asyncio.Event()

            stranger = sqlite3.connect(tmp_path / "runs.db", isolation_level=None)
            stranger.execute("BEGIN IMMEDIATE")
            waiting = asyncio.ensure_future(append(journal, 1))
            asyncio.get_running_loop().call_later(0.02, turned.set)
            await turned.wait()
            assert not waiting.done(), "and the loop has turned"
            stranger.execute("ROLLBACK")
            stranger.close()
            await waiting

            turn = database._connection.turn
            if turn is not None:  # this SQLite needs none
                trips = Trips(store)
                with held(turn._byte.mutex):
                    waiting = asyncio.ensure_future(append(journal, 2))
                    await trips.asked.wait()
                await waiting

    asyncio.run(main())


@pytest.mark.usefixtures("never_slow")
def test_after_a_commit_that_took_long_the_next_ones_leave_the_loop_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that makes writers wait, since the disk lags behind, must hold up a run and not the application."""
    monkeypatch.setattr(on_loop_module, "_SLOW_FOR", 3600.0)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a")
            trips = Trips(store)
            monkeypatch.setattr(on_loop_module, "_BRIEF_SECONDS", 0.0)
            await append(journal, 1)
            assert trips.count == 0
            await append(journal, 2)
            assert trips.count == 1

    asyncio.run(main())


def test_a_bug_of_the_writer_is_told_once_and_leaves_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would happen again and again; the run stops, and others go on."""
    heard: list[BaseException] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["exception"]))
        async with opened(tmp_path / "runs.db") as store:
            journal, other = await create(store, "a", durability="full"), await create(store, "b", durability="full")
            with monkeypatch.context() as patched:
                patched.setattr(Writer, "_keep", lambda *_: {}["bug"])
                with pytest.raises(StoreError, match="a bug of asyncflow"):
                    await append(journal, 1)
            await append(other, 1)

    asyncio.run(main())
    assert [type(error) for error in heard] == [KeyError]


def test_a_bug_of_the_writer_behind_a_commit_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for anything; others go on."""
    heard: list[BaseException] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["exception"]))
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a", durability="full")
            with monkeypatch.context() as patched:
                patched.setattr(Writer, "_comes_more", lambda *_: {}["bug"])
                await append(journal, 1)
            await append(journal, 2)

    asyncio.run(main())
    assert [type(error) for error in heard] == [KeyError]


def test_as_many_runs_as_fit_begin_and_end_in_one_commit(tmp_path: Path) -> None:
    """The largest statements are within what SQLite takes."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            store._plans.add("plan")  # so that they all come in the same turn of the loop
            heard = Heard(store)
            journals = await asyncio.gather(
                *[create(store, f"run-{which}", durability="full") for which in range(1024)]
            )
            assert heard.inserts() == 1
            await asyncio.gather(*[journal.release() for journal in journals])
            assert heard.statements.count("COMMIT") == 2
            assert [info.owner for info in await store.runs()] == [None] * 1024

    asyncio.run(main())


# --- At once ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("never_slow")
def test_who_appends_alone_need_not_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To come back behind a commit of 25 us costs as much again; what several append is one commit all the same."""
    monkeypatch.setattr(on_loop_module, "_AT_ONCE_SECONDS", 3600.0)
    monkeypatch.setattr(on_loop_module, "_RECENT_SECONDS", 3600.0)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            alone, heard = await create(store, "alone"), Heard(store)
            for number in range(1, 5):
                assert alone.append(note(number), {}, RunState.RUNNING) is None
                stranger = sqlite3.connect(tmp_path / "runs.db")
                assert stranger.execute("SELECT max(number) FROM records").fetchall() == [(number,)]
                stranger.close()
            assert heard.inserts() == 4

            other = await create(store, "other")
            before = heard.inserts()
            waiting = [each.append(note(5), {}, RunState.RUNNING) for each in (alone, other, alone, other)]
            assert None not in waiting
            await asyncio.gather(*[each for each in waiting if each is not None])
            assert heard.inserts() == before + 1

            await alone.release()
            assert writer_of(store)._on_loop._last is None, "a line keeps its last record in memory"
            assert other.append(note(7), {}, RunState.RUNNING) is None, "the one that is gone appends no more"

    asyncio.run(main())


@pytest.mark.usefixtures("never_slow")
def test_a_turn_of_the_loop_commits_at_once_for_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand short runs that are started in one turn must not keep the application waiting for all of them."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a")
            await asyncio.sleep(0)
            monkeypatch.setattr(on_loop_module, "_AT_ONCE_SECONDS", 0.0)
            waiting = journal.append(note(1), {}, RunState.RUNNING)
            assert waiting is not None
            await waiting
            monkeypatch.setattr(on_loop_module, "_AT_ONCE_SECONDS", 3600.0)
            await asyncio.sleep(0)
            assert journal.append(note(2), {}, RunState.RUNNING) is None

    asyncio.run(main())


@pytest.mark.usefixtures("never_slow")
def test_what_fails_at_once_is_tried_as_any_other_and_never_after_a_failed_sync(tmp_path: Path) -> None:
    """Nobody knows what the disk has once a sync has failed, and a second one would be called a success."""

    async def main() -> None:
        with pytest.raises(StoreError, match="fsync failed"):  # to be closed is refused too
            async with opened(tmp_path / "runs.db") as store:
                await fail(store)

    async def fail(store: SqliteStore) -> None:
        journal = await create(store, "a")
        with disturbed(store, "INSERT INTO records", [failed(sqlite3.SQLITE_FULL)]):
            waiting = journal.append(note(1), {}, RunState.RUNNING)
            assert waiting is not None
            await waiting
        lost = disturbed(store, "INSERT INTO records", [failed(sqlite3.SQLITE_IOERR_FSYNC)])
        with lost, pytest.raises(StoreError, match="fsync failed"):
            await append(journal, 2)
        assert await numbers(store, "a") == [0, 1]
        with pytest.raises(StoreError, match="fsync failed"):
            await create(store, "b")

    asyncio.run(main())


def test_settling_tells_of_what_will_never_last(tmp_path: Path) -> None:
    """Nobody waits for what a lazy run appends, so this is where it hears of it."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a", durability="lazy")
            with disturbed(store, "INSERT INTO records", repeat(failed(sqlite3.SQLITE_FULL))):
                assert journal.append(note(1), {}, RunState.RUNNING) is None
                with pytest.raises(StoreError, match="disk is full"):
                    await journal.settle()
            assert await numbers(store, "a") == [0]

    asyncio.run(main())


def test_whoever_goes_away_from_a_run_that_was_not_made_leaves_nothing_to_give_up(tmp_path: Path) -> None:
    """Of two that begin a run under one id, the one that is refused may have been cancelled by then."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await create(store, "a", durability="full")
            again = asyncio.ensure_future(create(store, "a", durability="full"))
            await asyncio.sleep(0)
            again.cancel()
            with pytest.raises(asyncio.CancelledError):
                await again
            await writer_of(store).drain()
            assert (await store.info("a")).owner is not None

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_who_gives_a_run_up_and_goes_away_is_not_waited_for(tmp_path: Path, fails: bool) -> None:
    """A caller that is cancelled leaves a future behind that is done, and the commit goes on without it."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a", durability="full")
            errors = repeat(sqlite3.OperationalError("made up")) if fails else ()
            with disturbed(store, "UPDATE runs SET owner = NULL", errors):
                writer_of(store).release(journal._line).cancel()
                await writer_of(store).drain()
            assert ((await store.info("a")).owner is None) is not fails

    asyncio.run(main())


def test_an_interrupt_within_the_commit_that_gives_a_run_up_ends_the_run(tmp_path: Path) -> None:
    """The end is on record and its caller hears it; an engine that waited for it would never close."""

    @af.task
    async def one() -> int:
        return 1

    with asyncio.Runner() as runner:
        engine = af.Engine(tmp_path / "runs.db", durability="process")
        runner.run(engine.open())
        running = runner.get_loop().create_task(engine.run(one))
        errors = repeat(KeyboardInterrupt())
        with disturbed(engine._store, "UPDATE runs SET owner = NULL", errors), pytest.raises(KeyboardInterrupt):
            runner.run(over(running))
        runner.run(over(running))
        assert running.result() == 1
        runner.run(engine.close())


@pytest.mark.usefixtures("never_slow")
@pytest.mark.parametrize("durability", ["full", "process", "lazy"])
def test_a_run_that_has_ended_and_cannot_be_given_up_gives_its_value(
    tmp_path: Path, durability: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All of it is on record; who takes it up next will find nobody alive who owns it."""

    @af.task
    async def one() -> int:
        return 1

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", durability=durability) as engine:
            tries = 3 if durability == "process" else 2  # within the call; behind it, on the loop; in the thread
            errors = [failed(sqlite3.SQLITE_FULL) for _ in range(tries)]
            with disturbed(engine._store, "UPDATE runs SET owner = NULL", errors):
                assert await engine.run(one, run_id="r") == 1
                assert (await engine.runs())[0].state is RunState.SUCCEEDED
                assert await engine.resume("r", one) == 1

    asyncio.run(main())
    assert "could not be given up" in caplog.text


@pytest.mark.parametrize("durability", ["process", "full", "lazy"])
def test_what_is_in_the_file_leaves_memory(tmp_path: Path, durability: str) -> None:
    """A run may wait for days behind a large value."""
    body = b"x" * 100_000

    class Blobs(dict[str, bytes]):
        """What can be watched as it goes, unlike bytes."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "r", durability=durability)
            blobs = Blobs({digest_of(body): body})
            left = weakref.ref(blobs)
            await append(journal, 1, blobs=blobs)
            await journal.settle()
            del blobs
            assert store._writer is not None
            await store._writer.drain()
            gc.collect()
            assert left() is None

    asyncio.run(main())
