"""Bodies that go on after they were told to stop, and timers and permits that come late: nothing starts beside them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from asyncflow import messages as m
from asyncflow.graph.policy import Fixed, Retry
from asyncflow.states import RunState
from tests.model import events_of
from tests.recovery.flows import OUTLIVES, Answer, Branch, Built, Leaf
from tests.recovery.journey import CANCEL_GRACE, Journey, Traveller, Trouble

OUTLIVING = Answer("outlives")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Bodies that are left behind are logged; here that is nothing to read about."""
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def travel(*leaves: Leaf, kind: str = "unordered", trouble: Trouble | None = None, **engine: Any) -> Journey:
    """Run *leaves* to the end; whatever a body may never see fails on the way."""
    return Traveller(Built(Branch(kind, leaves)), **engine).set_out(trouble)


def at_the_second_attempt(act: Callable[[Any], None]) -> Trouble:
    """Return what has *act* done to a run, once, when the second attempt of a task is on record."""
    done: list[bool] = []

    def trouble(count: int, run: Any) -> None:
        if not done and 2 in run.supervisor.machine.attempts:
            done.append(True)
            act(run)

    return trouble


def times(journey: Journey, kind: type[m.Event]) -> list[float]:
    """Return when each event of that kind was recorded."""
    return [record.at for record in journey.records for event in record.events if isinstance(event, kind)]


def hurried(*answers: Answer, **options: Any) -> Leaf:
    """Return a task with a time limit of a second and two attempts."""
    return Leaf(answers, options=tuple({"timeout": 1.0, "retry": Retry(2), **options}.items()))


def test_the_next_attempt_waits_until_the_one_left_behind_is_gone() -> None:
    """Never two bodies of one task at once, whatever the first one does."""
    journey = travel(hurried(OUTLIVING))
    assert journey.state is RunState.SUCCEEDED
    assert times(journey, m.AttemptTimedOut) == [1.0 + CANCEL_GRACE]
    assert times(journey, m.AttemptSucceeded) == [1.0 + OUTLIVES]


def test_a_cancel_reaches_an_attempt_that_waits_for_one_left_behind() -> None:
    """Else its body would begin when the other is gone, in a run that is being undone, and nobody would stop it."""
    journey = travel(
        hurried(OUTLIVING, Answer("wait")), trouble=at_the_second_attempt(lambda run: run.cancel("a test says so"))
    )
    assert journey.state is RunState.CANCELLED
    assert times(journey, m.AttemptCancelled) == [1.0 + CANCEL_GRACE], "at once"
    assert times(journey, m.RevertSucceeded) == [1.0 + OUTLIVES], "undone when the body is gone, and not before"


def test_a_suspend_reaches_an_attempt_that_waits_for_one_left_behind() -> None:
    """Closing an engine takes its grace and not as long as the stubbornest body."""
    journey = travel(hurried(OUTLIVING), trouble=at_the_second_attempt(lambda run: run.suspend("a test says so")))
    assert journey.state is RunState.SUCCEEDED, "in the process that takes it up"
    grace = 1.0
    assert times(journey, m.RunSuspended) == [1.0 + CANCEL_GRACE + grace]
    assert [event.cause for event in events_of(journey.records) if isinstance(event, m.AttemptLost)] == ["suspend"]


def test_a_suspend_reaches_a_revert_that_waits_for_a_body_left_behind() -> None:
    """The same for what undoes: it is for the resume."""

    def trouble(count: int, run: Any) -> None:
        if run.supervisor.machine.reverting and run.supervisor.machine.suspend_reason is None:
            run.suspend("a test says so")

    journey = travel(
        Leaf((OUTLIVING,), options=(("timeout", 1.0),)),
        trouble=trouble,
    )
    grace = 1.0
    assert times(journey, m.RunSuspended) == [1.0 + CANCEL_GRACE + grace]
    assert journey.state is RunState.REVERTED


def test_a_body_that_is_never_gone_is_never_undone() -> None:
    """Undoing what is still being done would be a guess; the run says FAILED and which task it was."""
    journey = travel(Leaf((OUTLIVING,), options=(("timeout", 1.0), ("revert_timeout", 4.0))))
    assert journey.state is RunState.FAILED
    assert journey.failures == ("t0", "t0 (revert)")
    assert times(journey, m.RevertGivenUp) == [1.0 + CANCEL_GRACE + 4.0]


def test_a_timer_that_rings_late_starts_nothing() -> None:
    """
    The wait for a next attempt is over while the task is being undone: a body beside its own revert would be worst.
    """
    waits = Leaf((Answer("value"),), (Answer("return", seconds=9.0),), options=(("retry", Retry(2, Fixed(3.0))),))
    journey = travel(waits, Leaf((Answer("value", seconds=1.0),)))
    assert journey.state is RunState.REVERTED
    assert len(times(journey, m.AttemptStarted)) == 2
    assert journey.model.states() == {"t0": "REVERTED", "t1": "REVERTED"}


def test_a_permit_that_comes_late_starts_nothing() -> None:
    """A start that was waiting for a permit when the run was turned round is not wanted any more."""
    waits = Leaf((Answer("value"),), (Answer("return", seconds=9.0),), options=(("retry", Retry(2, Fixed(0.5))),))
    long = Leaf((Answer("return", seconds=5.0),))
    journey = travel(waits, long, Leaf((Answer("value", seconds=1.0),)), Leaf(), concurrency=2)
    assert journey.state is RunState.REVERTED
    assert "PENDING" in journey.model.states().values()


def test_failed_reverts_are_tried_again_under_a_limit() -> None:
    """A resume of a failed run asks for permits like everything else, and gets them."""
    fails = Leaf((Answer("value"),), (Answer("value"),))
    traveller = Traveller(Built(Branch("unordered", (fails,))), concurrency=1)
    journey = traveller.set_out()
    assert journey.state is RunState.FAILED
    assert traveller.go_on(journey.records).state is RunState.REVERTED


def test_one_at_a_time_reverts_come_in_reverse_order_of_start() -> None:
    """Of independent tasks the one that started last is undone first, however often it was tried."""
    again = (("retry", Retry(2)),)
    leaves = [Leaf((Answer("key"),), options=again), Leaf(), Leaf(), Leaf((Answer("value"), Answer("value")))]
    journey = travel(*leaves, concurrency=1)
    assert [event.task for event in events_of(journey.records) if isinstance(event, m.RevertStarted)] == [3, 2, 1, 0]


def test_a_time_limit_of_a_flow_that_passed_while_nobody_ran_it_passes_on_resume() -> None:
    """Deadlines are absolute: a run that comes back too late is undone, and does not begin afresh."""
    tree = Branch("linear", (Leaf((Answer("return", seconds=2.0),)), Leaf()), options=(("timeout", 5.0),))
    traveller = Traveller(Built(tree))
    journey = traveller.set_out()
    assert journey.state is RunState.SUCCEEDED
    late = traveller.go_on(journey.records[:2], rest=10.0)
    assert late.state is RunState.REVERTED
    assert late.failures == ("f",)
