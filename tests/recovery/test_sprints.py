"""Runs in memory, whose plain tasks are performed in one go, go as all others do."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncflow as af
from asyncflow import TaskState
from asyncflow import messages as m
from asyncflow.machine.run import RunMachine
from asyncflow.states import RunState
from tests.recovery.flows import Branch, Built, Certain, Easy, Wild, flows
from tests.recovery.journey import Traveller, Trouble, compare
from tests.recovery.test_prefixes import QUICK, cancel_at, prefixes, suspend_at


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Bodies that are left behind are logged; here that is nothing to read about."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


troubles = st.one_of(st.none(), st.builds(cancel_at, st.integers(1, 12)), st.builds(suspend_at, st.integers(1, 12)))


@QUICK
@given(flows(Easy, 40))
def test_a_run_in_memory_ends_as_one_in_a_file(tree: Branch) -> None:
    """How its tasks are performed is no business of who reads the value; and what is on record is what was done."""
    journey = Traveller(Built(tree), grows=True).set_out()
    assert journey.state is RunState.SUCCEEDED
    assert journey.same() == Traveller(Built(tree)).set_out().same()


@QUICK
@given(flows(Certain, 30))
def test_failing_runs_in_memory_end_as_those_in_files(tree: Branch) -> None:
    """One body at a time is the ordinary way, with permits; so the same failures come in the same order."""
    ordinary = Traveller(Built(tree)).set_out()
    assert Traveller(Built(tree), grows=True).set_out().same() == ordinary.same()


@QUICK
@given(flows(Wild, 30), troubles)
def test_whatever_happens_to_a_run_in_memory_its_journal_tells_it(tree: Branch, trouble: Trouble | None) -> None:
    """The journal, folded, is the machine that wrote it, and every body was on record before it was called."""
    Traveller(Built(tree), grows=True).set_out(trouble)


@QUICK
@given(flows(Wild, 30), troubles)
def test_a_calm_machine_becomes_what_any_other_does(tree: Branch, trouble: Trouble | None) -> None:
    """Calm is a shorter way to the same state, whenever it begins and ends."""
    traveller = Traveller(Built(tree))
    journey = traveller.set_out(trouble)
    for records in prefixes(journey)[-1:]:
        ordinary, calm = RunMachine(traveller.plan), RunMachine(traveller.plan)
        for record in records:
            for event in record.events:
                ordinary.apply(event)
                calm.apply(event)
                calm.calm_down()
                if calm.is_calm and type(event) is m.AttemptSucceeded:
                    compare(ordinary, calm)
        compare(ordinary, calm)


@pytest.mark.parametrize("grows", [True, False])
def test_bodies_that_take_their_time_are_timed_and_let_others_in(grows: bool) -> None:
    """The clock is looked at after every body, and what ends late is a record of its own."""
    turns: list[int] = []

    @af.task(executor="inline")
    def works(x: int) -> int:
        end = time.perf_counter() + 0.02
        while time.perf_counter() < end:
            pass
        return x + 1

    @af.flow
    def three() -> int:
        return works(works(works(0)))

    async def main() -> None:
        async def other() -> None:
            while True:
                await asyncio.sleep(0)
                turns.append(1)

        beside = asyncio.create_task(other())
        async with af.Engine(observers=() if grows else [lambda happening: None]) as engine:
            run = await engine.start(three)
            assert await run == 3
            report = await engine.inspect(run.run_id)
        beside.cancel()
        for task in report.tasks:
            assert task.seconds is not None and task.seconds >= 0.015, task

    asyncio.run(main())
    assert len(turns) >= 3


def test_an_input_is_read_once_even_where_reading_it_fails() -> None:
    """It may be a property of the user's own, and what that has done must not be done again."""
    reads: list[int] = []

    class Flaky:
        @property
        def part(self) -> int:
            reads.append(1)
            raise ConnectionError("not now")

    @af.task
    async def gives() -> Flaky:
        return Flaky()

    @af.task
    async def takes(part: int) -> int:
        return part

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(af.flow(lambda: takes(gives().part), name="f"), run_id="r")
            assert isinstance(failed.value.exceptions[0], ConnectionError)
            assert (await engine.inspect("r")).states()["takes"] is not TaskState.SUCCEEDED

    asyncio.run(main())
    assert reads == [1]


def test_what_is_told_counts_where_it_stands() -> None:
    """An observer that begins within a body hears nothing twice, and the place of each event in its run."""
    heard: list[tuple[int, str]] = []

    async def main() -> list[str]:
        async with af.Engine() as engine:

            @af.task
            async def first(ctx: af.Context) -> int:
                ctx.emit("first")
                return 1

            @af.task
            async def second(ctx: af.Context, x: int) -> int:
                engine.observe(lambda seen: heard.append((seen.number, type(seen.event).__name__)))
                ctx.emit("second")
                return x

            @af.task
            async def third(x: int) -> int:
                return x

            await engine.run(af.flow(lambda: third(second(first())), name="f"), run_id="r")
            return [type(event).__name__ for record in await engine._store.read("r") for event in record.events]

    journal = asyncio.run(main())
    assert heard[0] == (-1, "Emitted") or heard[0][1] == "Progressed"
    numbered = [(number, kind) for number, kind in heard if number >= 0]
    assert [journal[number] for number, _ in numbered] == [kind for _, kind in numbered]
    assert len(numbered) >= 4, "its own task's ending, and all that came after"
