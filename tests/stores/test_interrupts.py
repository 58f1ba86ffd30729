"""What a handler of a signal raises in the middle of a commit on the loop, at every line of it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import linecache
import sqlite3
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

from asyncflow.codec import Codec
from asyncflow.errors import StoreError
from asyncflow.states import RunState
from asyncflow.stores import (
    claims,
    commit,
    database,
    errand,
    line,
    loan,
    on_loop,
    owners,
    transactions,
    wal_lock,
    writer,
)
from asyncflow.stores.sqlite import SqliteJournal, SqliteStore
from tests.stores.journals import append, create, disturbed, failed, note, numbers, over

# As Python says of work that an interrupt came before.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")

COMMITTING = (commit, owners, wal_lock)
WRITING = (*COMMITTING, claims, database, errand, line, loan, on_loop, transactions, writer)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What an interrupt has left behind complains here, and not in another test."""
    yield
    gc.collect()


class Interrupt:
    """
    Raises *error* in this thread at the *place*-th point of *modules* where Python would let a handler of a
    signal run, while it is entered: at the beginning of a function, or behind a line that calls one.
    """

    def __init__(
        self, place: int, modules: Iterable[ModuleType], error: type[BaseException] = KeyboardInterrupt
    ) -> None:
        self._left = place
        self._error = error
        self._files = {str(module.__file__) for module in modules}
        self.has_come = False

    def __enter__(self) -> Interrupt:
        self._before = sys.gettrace()
        sys.settrace(self._enter)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _enter(self, frame: FrameType, _: str, __: object) -> Any:
        if self.has_come or frame.f_code.co_filename not in self._files:
            return None
        has_called = True

        def step(frame: FrameType, event: str, _: object) -> Any:
            nonlocal has_called
            if event == "line" and not self.has_come:
                if has_called:
                    self._pass(frame)
                has_called = "(" in linecache.getline(frame.f_code.co_filename, frame.f_lineno)
            return step

        return step

    def _pass(self, frame: FrameType) -> None:
        self._left -= 1
        if not self._left:
            self.has_come = True
            print("interrupted at", frame.f_code.co_name, frame.f_lineno)  # what a test that fails shows
            raise self._error


class Session:
    """A store on a loop that goes on after an interrupt has come out of it."""

    def __init__(self, path: Path, runner: asyncio.Runner) -> None:
        self.runner = runner
        self._heard: list[BaseException] = []
        runner.get_loop().set_exception_handler(lambda _, context: self._heard.append(context["exception"]))
        self.store = SqliteStore(path, codec=Codec())
        runner.run(self.store.open())

    def make(self, run_id: str, durability: str) -> SqliteJournal:
        """Return the journal of a new run, from where on syncs are made on the loop as well."""
        journal = self.runner.run(create(self.store, run_id, durability=durability))
        assert isinstance(journal, SqliteJournal) and self.store._writer is not None
        self.store._writer._on_loop._quick_syncs = 1_000
        return journal

    def do(self, work: Coroutine[Any, Any, Any], interrupt: Interrupt) -> asyncio.Task[Any]:
        """Do *work* to its end, while the loop raises or hears of *interrupt*; return the asyncio task that did it."""
        doing = self.runner.get_loop().create_task(work)
        self._heard.clear()
        with interrupt:
            try:
                self.runner.run(over(doing))
            except KeyboardInterrupt as error:
                self._heard.append(error)
        self.runner.run(over(doing))
        assert doing.done(), "it waits for ever"
        assert len(self._heard) == interrupt.has_come, "it was swallowed"
        return doing


def _append(session: Session, place: int, durability: str, error: type[BaseException] = KeyboardInterrupt) -> bool:
    journal = session.make(f"run-{place}", durability)
    interrupt = Interrupt(place, COMMITTING, error)
    session.do(append(journal, 1), interrupt).result()
    session.runner.run(append(journal, 2))
    assert session.runner.run(numbers(session.store, f"run-{place}")) == [0, 1, 2]
    return interrupt.has_come


def _create(session: Session, place: int) -> bool:
    interrupt = Interrupt(place, COMMITTING)
    session.do(create(session.store, f"run-{place}", durability="process"), interrupt).result()
    assert session.runner.run(numbers(session.store, f"run-{place}")) == [0]
    return interrupt.has_come


def _release(session: Session, place: int) -> bool:
    journal = session.make(f"run-{place}", "process")
    interrupt = Interrupt(place, COMMITTING)
    session.do(journal.release(), interrupt).result()
    assert session.runner.run(session.store.info(f"run-{place}")).owner is None
    return interrupt.has_come


@pytest.mark.usefixtures("never_slow")
@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(lambda session, place: _append(session, place, "process"), id="append"),
        pytest.param(lambda session, place: _append(session, place, "full"), id="append-and-sync"),
        pytest.param(lambda session, place: _append(session, place, "process", TimeoutError), id="append-other-error"),
        pytest.param(_create, id="create"),
        pytest.param(_release, id="release"),
    ],
)
def test_an_interrupt_within_a_commit_comes_out_of_the_loop_and_costs_nothing(
    tmp_path: Path, disturb: Callable[[Session, int], bool]
) -> None:
    """Its lock is free and its record kept, once; whoever closes the engine then would wait for ever otherwise."""
    with asyncio.Runner() as runner:
        session = Session(tmp_path / "runs.db", runner)
        place = 1
        while disturb(session, place):
            place += 1
        assert place > 20, "a commit has more lines than that"
        runner.run(session.store.close())


@pytest.mark.usefixtures("never_slow")
def test_an_interrupt_hides_no_sync_that_failed(tmp_path: Path) -> None:
    """It comes when the kernel lets go of the sync at last, and a second one would be called a success."""
    interrupt = KeyboardInterrupt()
    interrupt.__context__ = failed(sqlite3.SQLITE_IOERR_FSYNC)
    with asyncio.Runner() as runner:
        session = Session(tmp_path / "runs.db", runner)
        journal = session.make("run", "full")
        written = runner.get_loop().create_task(append(journal, 1))
        with disturbed(session.store, "INSERT INTO records", [interrupt]), pytest.raises(KeyboardInterrupt):
            runner.run(over(written))
        with pytest.raises(StoreError, match="fsync failed"):
            runner.run(append(journal, 2))
        with pytest.raises(StoreError, match="fsync failed"):
            runner.run(session.store.close())
        assert isinstance(written.exception(), StoreError)


def _tell_two(
    session: Session,
    place: int,
    durability: str,
    both: Callable[[SqliteJournal, SqliteJournal], Coroutine[Any, Any, list[Any]]],
) -> tuple[bool, list[tuple[str, SqliteJournal, Any]]]:
    """
    Have *both* write to two new runs, with an interrupt at *place* of the writer; return whether it has come, and the
    name of each run, its journal, and what it was told.
    """
    names = [f"one-{place}", f"other-{place}"]
    journals = [session.make(name, durability) for name in names]
    interrupt = Interrupt(place, WRITING)
    doing = session.do(both(*journals), interrupt)
    told = doing.result() if doing.exception() is None else [doing.exception()] * 2
    return interrupt.has_come, list(zip(names, journals, told, strict=True))


@pytest.mark.usefixtures("never_slow")
@pytest.mark.parametrize("durability", ["process", "full", "lazy"])
def test_an_interrupt_anywhere_in_the_writer_tears_no_journal_and_hangs_nobody(tmp_path: Path, durability: str) -> None:
    """Whoever was about to append may hear of it; what was told to last does, and nothing is missing before it."""

    async def lasting(journal: SqliteJournal) -> None:
        await append(journal, 1)
        await journal.settle()

    async def both(one: SqliteJournal, other: SqliteJournal) -> list[Any]:
        return await asyncio.gather(lasting(one), lasting(other), return_exceptions=True)

    with asyncio.Runner() as runner:
        session = Session(tmp_path / "runs.db", runner)
        place, has_come = 0, True
        while has_come:
            place += 1
            has_come, told = _tell_two(session, place, durability, both)
            for name, journal, answer in told:
                assert answer is None or isinstance(answer, (KeyboardInterrupt, StoreError))
                with contextlib.suppress(StoreError):
                    runner.run(append(journal, 2))
                    runner.run(journal.settle())
                kept = runner.run(numbers(session.store, name))
                assert kept in ([0], [0, 1], [0, 1, 2], [0, 2])
                assert answer is not None or 1 in kept
        assert place > 60, "a writer has more lines than that"
        runner.run(session.store.close())


@pytest.mark.usefixtures("never_slow")
def test_an_interrupt_while_runs_hear_that_nothing_was_written_leaves_no_gap(tmp_path: Path) -> None:
    """What was not refused yet is written on the second try, and would lie behind a record that is missing."""

    async def three(journal: SqliteJournal) -> None:
        for number in (1, 2, 3):
            assert journal.append(note(number), {}, RunState.RUNNING) is None
        await journal.settle()

    with asyncio.Runner() as runner:
        session = Session(tmp_path / "runs.db", runner)
        assert session.store._writer is not None
        session.store._writer._on_loop._slow_until = float("inf")
        place, has_come = 0, True
        while has_come:
            place += 1
            journal = session.make(f"run-{place}", "lazy")
            interrupt = Interrupt(place, (line, writer))
            with disturbed(session.store, "INSERT INTO records", [failed(sqlite3.SQLITE_FULL)]):
                doing = session.do(three(journal), interrupt)
            has_come = interrupt.has_come
            told = doing.exception()
            assert told is None or isinstance(told, (KeyboardInterrupt, StoreError))
            with contextlib.suppress(StoreError):
                runner.run(journal.release())
            # All of them where nobody was told of the failure, which does not come again.
            kept = runner.run(numbers(session.store, f"run-{place}"))
            assert kept == list(range(len(kept)))
            assert told is not None or len(kept) == 4
        assert place > 40, "a refusal has more lines than that"
        runner.run(session.store.close())


async def _resume(store: SqliteStore, run_id: str) -> None:
    """Take a run up that nobody goes on with, and go on with it."""
    journal = await store.claim(run_id)
    await append(journal, 7)
    await journal.release()
    assert (await numbers(store, run_id))[-1] == 7


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda store, run_id: store.claim(run_id), id="claim"),
        pytest.param(lambda store, run_id: store.save_plan(run_id, lambda: b"plan", run_id=run_id), id="plan"),
        pytest.param(lambda store, run_id: store.request(run_id, "cancel", "why not"), id="request"),
    ],
)
def test_an_interrupt_within_an_errand_hangs_nobody_and_leaves_a_run_that_can_be_resumed(
    tmp_path: Path, ask: Callable[[SqliteStore, str], Coroutine[Any, Any, Any]]
) -> None:
    """Whoever asked hears that it was done, or that nobody knows; and the next one who asks is served."""
    with asyncio.Runner() as runner:
        session = Session(tmp_path / "runs.db", runner)
        place, has_come = 0, True
        while has_come:
            place += 1
            runner.run(session.make(f"run-{place}", "process").release())
            interrupt = Interrupt(place, WRITING)
            doing = session.do(ask(session.store, f"run-{place}"), interrupt)
            has_come = interrupt.has_come
            if doing.exception() is not None:
                assert isinstance(doing.exception(), (KeyboardInterrupt, StoreError))
            elif doing.result() is not None:
                runner.run(doing.result().release())
            runner.run(_resume(session.store, f"run-{place}"))
        assert place > 20, "an errand has more lines than that"
        runner.run(session.store.close())


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda store: store.save_plan("plan", lambda: b"plan", run_id="run"), id="plan"),
        pytest.param(lambda store: store.purge(0.0, [RunState.FAILED], lambda _: None), id="purge"),
        pytest.param(lambda store: store.beat(), id="beat"),
    ],
)
def test_an_interrupt_within_what_can_be_done_again_has_it_done(
    tmp_path: Path, ask: Callable[[SqliteStore], Coroutine[Any, Any, Any]]
) -> None:
    """A purge or a heartbeat that fails by a signal would look like a fault of the file."""
    with asyncio.Runner() as runner:
        session = Session(tmp_path / "runs.db", runner)
        session.make("run", "process")
        place, has_come = 0, True
        while has_come:
            place += 1
            runner.run(session.store.request("run", "cancel", ""))
            runner.run(session.store.beat())  # which the next one forgets
            interrupt = Interrupt(place, WRITING)
            doing = session.do(ask(session.store), interrupt)
            has_come = interrupt.has_come
            assert doing.exception() is None or isinstance(doing.exception(), KeyboardInterrupt)
        assert place > 20, "an errand has more lines than that"
        runner.run(session.store.close())


def test_an_interrupt_as_work_begins_has_nobody_do_it_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two one takes away an errand that nobody has done, and who asked for that waits for ever."""
    done: list[str] = []
    interrupts = [KeyboardInterrupt()]
    unregister = errand._unregister_task

    def disturb(task: asyncio.Task[Any]) -> None:
        unregister(task)
        if interrupts:
            raise interrupts.pop()

    with asyncio.Runner() as runner:
        session = Session(tmp_path / "runs.db", runner)
        writer = session.store._writer
        assert writer is not None
        monkeypatch.setattr(errand, "_unregister_task", disturb)

        async def ask() -> None:
            with pytest.raises(KeyboardInterrupt):
                writer.run(lambda _: done.append("first"))
            await asyncio.gather(*(writer.run(lambda _, name=name: done.append(name)) for name in ("second", "third")))

        session.do(ask(), Interrupt(0, ())).result()
        assert done == ["first", "second", "third"]
        runner.run(session.store.close())


def test_an_interrupt_within_a_joint_commit_hangs_nobody_and_loses_nothing_that_was_told(tmp_path: Path) -> None:
    """Whether the record is there is for the file to say, and for nobody to guess; the run stops and is resumed."""

    async def both(one: SqliteJournal, other: SqliteJournal) -> list[Any]:
        made = [journal.append_with(lambda _: (note(1), {})) for journal in (one, other)]
        return await asyncio.gather(*made, return_exceptions=True)

    with asyncio.Runner() as runner:
        session = Session(tmp_path / "runs.db", runner)
        place, has_come = 0, True
        while has_come:
            place += 1
            has_come, told = _tell_two(session, place, "process", both)
            for name, journal, answer in told:
                if answer == note(1):
                    runner.run(append(journal, 2))
                    assert runner.run(numbers(session.store, name)) == [0, 1, 2]
                else:
                    assert isinstance(answer, (KeyboardInterrupt, StoreError))
                with contextlib.suppress(StoreError):
                    runner.run(journal.release())
                runner.run(_resume(session.store, name))
        assert place > 20, "a commit has more lines than that"
        runner.run(session.store.close())


def test_an_interrupt_within_the_closing_of_a_store_leaves_runs_that_nobody_owns(tmp_path: Path) -> None:
    """It is a signal that closes most of them, and a second one comes at times."""

    place, has_come = 0, True
    while has_come:
        place += 1
        with asyncio.Runner() as runner:
            session = Session(tmp_path / "runs.db", runner)
            session.make(f"run-{place}", "process")
            interrupt = Interrupt(place, (claims, writer))
            closing = runner.get_loop().create_task(session.store.close())
            with interrupt, contextlib.suppress(KeyboardInterrupt):
                runner.run(over(closing))
            # It comes out of the task that closes, and then of the one that waits for that.
            with contextlib.suppress(KeyboardInterrupt):
                runner.run(over(closing))
            assert closing.done(), "it waits for ever"
            has_come = interrupt.has_come
            other = SqliteStore(tmp_path / "runs.db", codec=Codec())
            runner.run(other.open())
            info = runner.run(other.info(f"run-{place}"))
            assert info.owner is None or isinstance(closing.exception(), KeyboardInterrupt)
            runner.run(_resume(other, f"run-{place}"))
            runner.run(other.close())
    assert place > 10
