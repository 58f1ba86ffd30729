"""A process may die after any record of any journal; what is taken up from there ends as it should."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from asyncflow import messages as m
from asyncflow.runtime import supervisor
from asyncflow.states import RunState
from tests.model import events_of
from tests.recovery.flows import Branch, Built, Certain, Easy, Wild, flows
from tests.recovery.journey import Journey, Traveller, Trouble

# Without shrinking: a seed does not get simpler by being smaller, and whoever breaks something wants to know soon.
QUICK = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
THOROUGH = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Bodies that are left behind are logged; here that is nothing to read about."""
    logging.disable(logging.WARNING)
    turn = supervisor.EVENTS_A_TURN
    yield
    supervisor.EVENTS_A_TURN = turn
    logging.disable(logging.NOTSET)


def suspend_at(number: int | None) -> Trouble | None:
    """Return what has a run suspended once it has so many records."""
    if number is None:
        return None
    return lambda count, run: run.suspend("a test says so") if count == number else None


def cancel_at(number: int | None) -> Trouble | None:
    """Return what has a run cancelled once it has so many records."""
    if number is None:
        return None
    return lambda count, run: run.cancel("a test says so") if count == number else None


def prefixes(journey: Journey) -> list[Any]:
    """Return every prefix of a journal, the shortest first, the whole last."""
    return [journey.records[:end] for end in range(1, len(journey.records) + 1)]


def a_run_that_succeeds_does_so_from_every_record(tree: Branch, limit: int | None, turn: int, stop: int | None) -> None:
    built = Built(tree)
    traveller = Traveller(built, concurrency=limit, turn=turn)
    journey = traveller.set_out(suspend_at(stop))
    assert journey.state is RunState.SUCCEEDED
    assert journey.value == built.expected
    for prefix in prefixes(journey):
        again = traveller.go_on(prefix)
        assert again.same() == journey.same(), f"after {len(prefix)} of {len(journey.records)} records"


def one_at_a_time_every_record_leads_to_the_same_end(tree: Branch, stop: int | None, twice: int) -> None:
    traveller = Traveller(Built(tree), concurrency=1)
    journey = traveller.set_out(suspend_at(stop))
    assert_undone_backwards(journey)
    for prefix in prefixes(journey):
        if len(prefix) == len(journey.records) and journey.state is RunState.FAILED:
            continue  # a resume tries failed reverts again, which is another story
        again = traveller.go_on(prefix)
        assert_same(again, journey, f"after {len(prefix)} of {len(journey.records)} records")
        # And the process that took it up dies as well.
        more = len(again.records) - len(prefix)
        if more > 1:
            once_more = traveller.go_on(again.records[: len(prefix) + 1 + twice % (more - 1)])
            assert_same(once_more, journey, f"after {len(prefix)} of {len(journey.records)} records, and another crash")


def assert_undone_backwards(journey: Journey) -> None:
    """Assert that reverts began in reverse order of start, as they must where one body runs at a time."""
    events = events_of(journey.records)
    started = list(dict.fromkeys(event.task for event in events if isinstance(event, m.AttemptStarted)))
    undone = list(dict.fromkeys(event.task for event in events if isinstance(event, m.RevertStarted)))
    assert undone == [task for task in reversed(started) if task in undone]


def assert_same(again: Journey, journey: Journey, where: str) -> None:
    assert again.same() == journey.same(), where
    assert again.model.undone == journey.model.undone, f"undone in another order {where}"
    assert_undone_backwards(again)


def every_step_from_every_record_is_allowed(
    tree: Branch, limit: int | None, turn: int, deadline: float | None, trouble: Trouble | None, rest: float, twice: int
) -> None:
    traveller = Traveller(Built(tree), concurrency=limit, turn=turn, deadline=deadline)
    journey = traveller.set_out(trouble)
    for prefix in prefixes(journey):
        again = traveller.go_on(prefix, rest=rest)
        end = len(prefix) + twice
        if len(prefix) < end < len(again.records):
            traveller.go_on(again.records[:end])


limits = st.sampled_from((None, None, 1, 2, 3))
turns = st.sampled_from((1000, 1000, 1, 2, 5))
stops = st.one_of(st.none(), st.integers(1, 30))
troubles = st.one_of(st.none(), st.builds(cancel_at, st.integers(1, 40)), st.builds(suspend_at, st.integers(1, 40)))
deadlines = st.sampled_from((None, None, None, 2.0, 5.0))
rests = st.sampled_from((0.0, 0.0, 2.0, 100.0))
twices = st.integers(0, 30)


@QUICK
@given(flows(Easy, 40), limits, turns, stops)
def test_a_run_that_succeeds_does_so_from_every_record(
    tree: Branch, limit: int | None, turn: int, stop: int | None
) -> None:
    """Whoever reads the value of a run need not know how often its process died."""
    a_run_that_succeeds_does_so_from_every_record(tree, limit, turn, stop)


@QUICK
@given(flows(Certain, 40), stops, twices)
def test_one_at_a_time_every_record_leads_to_the_same_end(tree: Branch, stop: int | None, twice: int) -> None:
    """Where the schedule decides nothing, neither may a crash: the same states, values and failures, undone alike."""
    one_at_a_time_every_record_leads_to_the_same_end(tree, stop, twice)


@QUICK
@given(flows(Wild, 40), limits, turns, deadlines, troubles, rests, twices)
def test_every_step_from_every_record_is_allowed(
    tree: Branch, limit: int | None, turn: int, deadline: float | None, trouble: Trouble | None, rest: float, twice: int
) -> None:
    """Failures, retries, time limits, cancels and bodies that will not go, and a crash at any point of all that."""
    every_step_from_every_record_is_allowed(tree, limit, turn, deadline, trouble, rest, twice)


@pytest.mark.slow
@THOROUGH
@given(flows(Easy, 60), limits, turns, stops)
def test_many_runs_that_succeed_do_so_from_every_record(
    tree: Branch, limit: int | None, turn: int, stop: int | None
) -> None:
    """The same with more and larger flows."""
    a_run_that_succeeds_does_so_from_every_record(tree, limit, turn, stop)


@pytest.mark.slow
@THOROUGH
@given(flows(Certain, 60), stops, twices)
def test_one_at_a_time_every_record_of_many_runs_leads_to_the_same_end(
    tree: Branch, stop: int | None, twice: int
) -> None:
    """The same with more and larger flows."""
    one_at_a_time_every_record_leads_to_the_same_end(tree, stop, twice)


@pytest.mark.slow
@THOROUGH
@given(flows(Wild, 60), limits, turns, deadlines, troubles, rests, twices)
def test_every_step_from_every_record_of_many_runs_is_allowed(
    tree: Branch, limit: int | None, turn: int, deadline: float | None, trouble: Trouble | None, rest: float, twice: int
) -> None:
    """The same with more and larger flows."""
    every_step_from_every_record_is_allowed(tree, limit, turn, deadline, trouble, rest, twice)
