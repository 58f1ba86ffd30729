"""Steps that no task and no run may take raise, and name who was asked to take them."""

from __future__ import annotations

import itertools

import pytest

from asyncflow import messages as m
from asyncflow.errors import IllegalTransition
from asyncflow.graph.pattern import linear
from asyncflow.machine.run import RunMachine
from asyncflow.states import (
    ALLOWED_TASK_STEPS,
    RUN_STEPS,
    TASK_STEPS,
    RunState,
    TaskState,
    check_run_step,
    check_task_step,
)
from tests.machine.flows import Play, chain, failure, task


@pytest.mark.parametrize(("old", "new"), list(itertools.product(TaskState, TaskState)))
def test_a_task_takes_the_steps_of_the_table_and_no_other(old: TaskState, new: TaskState) -> None:
    """The bytes that the hot path reads say the same as the table that people read."""
    assert bool(ALLOWED_TASK_STEPS[old << 4 | new]) == ((old, new) in TASK_STEPS)
    if (old, new) in TASK_STEPS:
        check_task_step(old, new)
        assert TASK_STEPS[old, new], "every step has its reason"
    else:
        with pytest.raises(IllegalTransition, match=f"task 'x/y' cannot go from {old.name} to {new.name}"):
            check_task_step(old, new, "x/y")


@pytest.mark.parametrize(("old", "new"), list(itertools.product(RunState, RunState)))
def test_a_run_takes_the_steps_of_the_table_and_no_other(old: RunState, new: RunState) -> None:
    """INTERRUPTED, which is never stored, has no step at all."""
    if (old, new) in RUN_STEPS:
        assert RunState.INTERRUPTED not in (old, new)
        check_run_step(old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"run 'r' cannot go from {old.value} to {new.value}"):
            check_run_step(old, new, "r")


@pytest.mark.parametrize(
    ("told", "event", "why"),
    [
        ([], m.AttemptSucceeded(0, 1), "task 'f/a' cannot go from PENDING to SUCCEEDED"),
        ([], m.AttemptFailed(0, failure(), False), "task 'f/a' is PENDING and has nothing in flight that could end"),
        ([], m.AttemptCancelled(1), "task 'f/b' is PENDING and has nothing in flight that could end"),
        ([], m.RevertStarted(0, 1), "task 'f/a' cannot go from PENDING to REVERTING"),
        ([m.AttemptStarted(0, 1)], m.AttemptStarted(0, 1), "task 'f/a' cannot go from RUNNING to RUNNING"),
        ([m.AttemptStarted(0, 1)], m.RevertStarted(0, 1), "task 'f/a' cannot go from RUNNING to REVERTING"),
        (
            [m.AttemptStarted(0, 1), m.AttemptSucceeded(0, 1)],
            m.AttemptSucceeded(0, 2),
            "task 'f/a' cannot go from SUCCEEDED to SUCCEEDED",
        ),
        (
            [m.AttemptStarted(0, 1), m.AttemptSucceeded(0, 1)],
            m.AttemptStarted(0, 2),
            "task 'f/a' cannot go from SUCCEEDED to RUNNING",
        ),
        (
            [m.AttemptStarted(0, 1), m.AttemptSucceeded(0, 1)],
            m.AttemptFailed(0, failure(), True),
            "task 'f/a' is SUCCEEDED and has nothing in flight that could end",
        ),
        (
            [m.AttemptStarted(0, 1), m.AttemptFailed(0, failure(), True)],
            m.AttemptSucceeded(0, 1),
            "task 'f/a' is RUNNING and has nothing in flight that could end",
        ),
        ([m.CancelRequested("x")], m.AttemptStarted(0, 1), "task 'f/a' cannot start in a run that is REVERTING"),
        ([], m.RunStarted("run", "g", "plan", {}), "run 'run' cannot go from RUNNING to RUNNING"),
        ([], m.RunEnded("REVERTED"), "run 'run' cannot go from RUNNING to REVERTED"),
        ([m.CancelRequested("x")], m.RunEnded("SUCCEEDED"), "run 'run' cannot go from REVERTING to SUCCEEDED"),
        (
            [m.CancelRequested("x"), m.RunEnded("CANCELLED")],
            m.RunSuspended(),
            "run 'run' cannot go from CANCELLED to SUSPENDED",
        ),
    ],
)
def test_an_event_that_does_not_fit_the_state_names_who_it_is_about(
    told: list[m.Event], event: m.Event, why: str
) -> None:
    """A journal that was tampered with, or a bug of ours, stops at once and says where."""
    machine = RunMachine(linear("g", linear("f", task("a"), task("b"))).compile())
    for one in [m.RunStarted("run", "g", "plan", {}), *told]:
        machine.apply(one)
    with pytest.raises(IllegalTransition, match=why):
        machine.apply(event)


def test_a_revert_cannot_end_twice() -> None:
    """The second ending would undo what stands before it too early."""
    play = Play(chain("a", "b"))
    play.run("a")
    play.tell(m.CancelRequested("enough"))
    play.undo("a")
    for event in (m.RevertSucceeded(0, None), m.RevertFailed(0, failure(), False), m.AttemptLost(0, "crash")):
        with pytest.raises(IllegalTransition, match="task 'a' is REVERTED and has nothing in flight that could end"):
            play.machine.apply(event)
