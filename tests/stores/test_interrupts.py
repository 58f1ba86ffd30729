"""What a handler of a signal raises in the middle of a commit on the loop, at every line of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from asyncflow.codec import Codec
from asyncflow.stores import commit, database, owners, wal_lock
from asyncflow.stores import on_loop as on_loop_module
from asyncflow.stores.sqlite import SqliteJournal, SqliteStore
from tests.stores.journals import append, create, numbers

_WITHIN = {str(module.__file__) for module in (commit, owners, wal_lock)}
_OF_THE_CONNECTION = {
    database._Connection.here.__code__,
    database._Connection._call.__code__,
    database.LendableConnection.execute.__code__,
}


class Interrupt:
    """Raises KeyboardInterrupt in this thread at the *place*-th line of what commits, while it is entered."""

    def __init__(self, place: int) -> None:
        self._left = place
        self.has_come = False

    def __enter__(self) -> Interrupt:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        code = frame.f_code
        if self.has_come or not (code.co_filename in _WITHIN or code in _OF_THE_CONNECTION):
            return None
        if event == "line":
            self._left -= 1
            if not self._left:
                self.has_come = True
                raise KeyboardInterrupt
        return self._trace


class Session:
    """A store on a loop that goes on after an interrupt has come out of it."""

    def __init__(self, path: Path, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.store = SqliteStore(path, codec=Codec())
        runner.run(self.store.open())

    def make(self, run_id: str, durability: str) -> SqliteJournal:
        """Return the journal of a new run, from where on syncs are made on the loop as well."""
        journal = self.runner.run(create(self.store, run_id, durability=durability))
        assert isinstance(journal, SqliteJournal) and self.store._writer is not None
        self.store._writer._on_loop._quick_syncs = 1_000
        return journal

    def do(self, work: Coroutine[Any, Any, Any], place: int) -> bool:
        """Do *work* with an interrupt at *place*, and return whether it came; then the loop has raised it."""
        doing = self.runner.get_loop().create_task(work)
        with Interrupt(place) as interrupt:
            try:
                self.runner.run(_over(doing))
            except KeyboardInterrupt:
                assert interrupt.has_come
            else:
                assert not interrupt.has_come, "it was swallowed"
        self.runner.run(_over(doing))
        doing.result()
        return interrupt.has_come


async def _over(doing: asyncio.Task[Any]) -> None:
    await asyncio.wait([doing], timeout=30)


def _append(session: Session, place: int, durability: str) -> bool:
    journal = session.make(f"run-{place}", durability)
    has_come = session.do(append(journal, 1), place)
    session.runner.run(append(journal, 2))
    assert session.runner.run(numbers(session.store, f"run-{place}")) == [0, 1, 2]
    return has_come


def _create(session: Session, place: int) -> bool:
    has_come = session.do(create(session.store, f"run-{place}", durability="process"), place)
    assert session.runner.run(numbers(session.store, f"run-{place}")) == [0]
    return has_come


def _release(session: Session, place: int) -> bool:
    journal = session.make(f"run-{place}", "process")
    has_come = session.do(journal.release(), place)
    assert session.runner.run(session.store.info(f"run-{place}")).owner is None
    return has_come


@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(lambda session, place: _append(session, place, "process"), id="append"),
        pytest.param(lambda session, place: _append(session, place, "full"), id="append-and-sync"),
        pytest.param(_create, id="create"),
        pytest.param(_release, id="release"),
    ],
)
def test_an_interrupt_within_a_commit_comes_out_of_the_loop_and_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disturb: Callable[[Session, int], bool]
) -> None:
    """Its lock is free and its record kept, once; whoever closes the engine then would wait for ever otherwise."""
    monkeypatch.setattr(on_loop_module, "_BRIEF_SECONDS", 3600.0)  # however busy this machine is
    monkeypatch.setattr(on_loop_module, "_QUICK_SECONDS", 3600.0)
    with asyncio.Runner() as runner:
        session = Session(tmp_path / "runs.db", runner)
        place = 1
        while disturb(session, place):
            place += 1
        assert place > 20, "a commit has more lines than that"
        runner.run(session.store.close())
