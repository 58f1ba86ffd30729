"""
Killed between an effect and its record, at every point: what each way of dealing with that promises, and keeps.

Each life is a process of its own, forked from one that has imported everything, and ends by SIGKILL at a point that was
chosen beforehand. After each the file is looked at as it was left, before anybody goes on.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import signal
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import attrs
import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.stores.sqlite import SqliteStore
from tests.recovery.doubt import World, flow_in, live

forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["tests.recovery.doubt"])

PLAN = flow_in(World(Path(), None)).compile()
KEPT = ("first", "second")
"""The tasks that are transactions."""


@attrs.frozen
class Left:
    """What a life has left behind."""

    events: list[m.Event]
    ledger: list[tuple[str, str, int]]
    deeds: list[tuple[str, str]]
    state: af.RunState

    def succeeded(self, path: str) -> list[m.AttemptSucceeded]:
        """Return the endings on record of attempts at the task at *path*."""
        return [e for e in self.events if isinstance(e, m.AttemptSucceeded) and PLAN.path(e.task) == path]

    def undone(self, path: str) -> list[m.RevertSucceeded]:
        """Return the endings on record of its reverts."""
        return [e for e in self.events if isinstance(e, m.RevertSucceeded) and PLAN.path(e.task) == path]


def look(folder: Path) -> Left | None:
    """Return what there is, or None where the run did not come to be."""

    async def read() -> tuple[list[m.Event], af.RunState] | None:
        store = SqliteStore(folder / "runs.db", codec=Codec())
        await store.open()
        try:
            if not (infos := await store.runs()):
                return None
            return [event for record in await store.read("r") for event in record.events], infos[0].state
        finally:
            await store.close()

    found = asyncio.run(read())
    if found is None:
        return None
    with closing(sqlite3.connect(folder / "runs.db")) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS ledger(path, key, amount)")
        ledger = connection.execute("SELECT path, key, amount FROM ledger ORDER BY rowid").fetchall()
    return Left(found[0], ledger, World(folder, None).deeds(), found[1])


def check(left: Left, lives: int) -> None:
    """Hold what so many lives have left against what is promised at any time."""
    for path in KEPT:
        amounts = [amount for where, _, amount in left.ledger if where == path]
        # Exactly once: each ending on record has its line, and no line is without one.
        assert amounts.count(1) == len(left.succeeded(path)), left
        assert amounts.count(-1) == len(left.undone(path)), left
        assert amounts == [1, -1, 1, -1][: len(amounts)], left
        forth = [key for where, key, amount in left.ledger if where == path and amount == 1]
        assert forth == [f"r/{path}#1", f"r/{path}#2"][: len(forth)], "the key is new once the task was undone"
    assert len({key for _, key, _ in left.ledger}) == len(left.ledger)
    done = Counter(left.deeds)
    for what, most in (("careful", 1), ("asked", 1), ("keyed", lives), ("unkeyed", lives)):
        counts = [count for (kind, _), count in done.items() if kind == what]
        assert all(count <= most for count in counts), (what, left)
        if what != "unkeyed":
            # However often it was done: under one key, until it was undone.
            assert {key for kind, key in done if kind == what} <= {f"r/{what}#1", f"r/{what}#2"}


def check_end(left: Left, lives: int) -> None:
    """Hold the end of a run against what is promised of that."""
    check(left, lives)
    assert left.state in (af.RunState.SUCCEEDED, af.RunState.REVERTED)
    for path in KEPT:
        total = sum(amount for where, _, amount in left.ledger if where == path)
        assert total == (left.state is af.RunState.SUCCEEDED), left
    # What the hook found was believed: done once for each time that it ended, also where nobody had recorded it.
    assert left.deeds.count(("asked", "r/asked#2")) == (len(left.succeeded("asked")) == 2)


def die(folder: Path, die_at: int | str | None) -> bool:
    """Have a life in a process of its own, and return whether it died before its end."""
    life = forked.Process(target=live, args=(folder, die_at))
    life.start()
    life.join()
    assert life.exitcode in (0, -signal.SIGKILL)
    return life.exitcode != 0


def suffer(folder: Path, *deaths: int) -> int:
    """Run the flow in as many lives as it takes, the first of which die at these points; return how many did."""
    folder.mkdir()
    died = 0
    for lives, die_at in enumerate((*deaths, None), start=1):
        last = die(folder, die_at)
        died += last
        left = look(folder)
        if left is not None:
            check(left, lives)
    assert not last and left is not None
    check_end(left, lives)
    return died


def after_death(folder: Path, at: str) -> Left:
    """Return what is left by a run that died once, at the point of that name."""
    folder.mkdir()
    assert die(folder, at)
    live(folder, None)
    left = look(folder)
    assert left is not None
    check_end(left, lives=2)
    return left


def count_points(folder: Path) -> int:
    """Return how many points there are in an undisturbed life."""
    folder.mkdir()
    points = live(folder, None)
    left = look(folder)
    assert left is not None and left.state is af.RunState.SUCCEEDED
    check_end(left, lives=1)
    return points


def test_whoever_dies_between_an_effect_and_its_record_keeps_what_was_promised(tmp_path: Path) -> None:
    """At a few points here, and twice in a row; at all of them in the proof below."""
    points = count_points(tmp_path / "undisturbed")
    dice = random.Random(7)
    for first in dice.sample(range(1, points), 12):
        died = suffer(tmp_path / f"{first}", first, dice.randint(1, points // 2))
        assert died >= 1


@pytest.mark.slow
def test_every_point_of_a_life(tmp_path: Path) -> None:
    """Death at each point in turn."""
    points = count_points(tmp_path / "undisturbed")
    assert sum(suffer(tmp_path / f"{first}", first) for first in range(1, points)) == points - 1


@pytest.mark.slow
def test_two_deaths_at_any_two_points(tmp_path: Path) -> None:
    """The second may fall into the recovery from the first."""
    points = count_points(tmp_path / "undisturbed")
    dice = random.Random(11)
    for which in range(150):
        suffer(tmp_path / f"{which}", dice.randint(1, points), dice.randint(1, points // 2))


def test_at_most_once_is_left_in_doubt(tmp_path: Path) -> None:
    """``on_crash="fail"``: whoever may have paid is told so, and does not pay again."""
    left = after_death(tmp_path / "r", "after careful r/careful#1")
    failures = [event.failure for event in left.events if isinstance(event, m.TaskFailed) and event.failure]
    assert [failure.type_name for failure in failures] == ["asyncflow.errors.AttemptInDoubt"]
    assert left.deeds.count(("careful", "r/careful#1")) == 1 and left.state is af.RunState.SUCCEEDED


@pytest.mark.parametrize(("when", "value"), [("before", "by the body"), ("after", "by the hook")])
def test_a_reconcile_hook_is_asked_and_believed(tmp_path: Path, when: str, value: str) -> None:
    """It alone can know whether the lost attempt had its effect; if it did, that is not had again."""
    left = after_death(tmp_path / "r", f"{when} asked r/asked#1")
    assert sum(type(event) is m.ReconcileStarted for event in left.events) == 1
    assert left.deeds.count(("asked", "r/asked#1")) == 1
    first = next(each for each in left.succeeded("asked"))
    assert Codec().open(first.value) == value


def test_an_attempt_that_is_made_again_has_the_same_key(tmp_path: Path) -> None:
    """So a service that knows it can tell a second attempt from a second order."""
    left = after_death(tmp_path / "r", "after keyed r/keyed#1")
    assert [key for what, key in left.deeds if what == "keyed"] == ["r/keyed#1", "r/keyed#1", "r/keyed#2"]
