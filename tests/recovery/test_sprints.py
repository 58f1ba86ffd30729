"""Runs in memory, whose plain tasks are performed in one go, go as all others do."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
