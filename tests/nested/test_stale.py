"""What was handed out and waited for a permit while the world around it changed."""

from __future__ import annotations

from typing import Any

from asyncflow import messages as m
from asyncflow.graph.controller import Times
from asyncflow.graph.pattern import linear, unordered
from asyncflow.graph.policy import Retry
from asyncflow.graph.task import FunctionTask
from asyncflow.machine.run import RunMachine
from tests.machine.flows import PLAN, failure, task


def begun(flow: object) -> RunMachine:
    machine = RunMachine(flow.compile())  # type: ignore[attr-defined]
    machine.apply(m.RunStarted("run", "f", PLAN, {}))
    return machine


def test_a_start_that_waited_while_its_flow_began_again_waits_for_what_comes_before_it() -> None:
    """The line for a permit may be long; by its end the controller has to run again first."""
    machine = begun(unordered("f", task("a"), task("b"), retry=Times(2)))
    ruler, a, b = 0, 1, 2
    machine.apply(m.AttemptStarted(ruler, 1))
    machine.apply(m.AttemptSucceeded(ruler, 1))
    assert m.Start(b, 1) in machine.due()
    machine.apply(m.AttemptStarted(a, 1))
    machine.apply(m.AttemptFailed(a, failure(), retriable=False))
    assert machine.due() == [m.GiveUp(a)]
    machine.apply(m.TaskFailed(a))
    machine.apply(m.ControllerAnswered(0, "retry"))
    machine.apply(m.RevertStarted(a, 1))
    machine.apply(m.RevertSucceeded(a, None))
    over = next(command for command in machine.due() if isinstance(command, m.StartOver))
    machine.apply(m.FlowStartedOver(0, over.tasks))
    assert not machine.wants(b, 1), "the controller comes first"
    machine.apply(m.AttemptStarted(ruler, 1))
    machine.apply(m.AttemptSucceeded(ruler, 2))
    assert machine.wants(b, 1)


def test_a_revert_that_was_handed_out_twice_is_wanted_once() -> None:
    """The flow was being undone to run again when the run turned round, which undoes it too."""
    machine = begun(linear("f", task("a"), task("b"), retry=Times(2)))
    for number in (0, 1, 2):
        machine.apply(m.AttemptStarted(number, 1))
        machine.apply(m.AttemptSucceeded(number, 1) if number < 2 else m.AttemptFailed(2, failure(), retriable=False))
    assert machine.due() == [m.GiveUp(2)]
    machine.apply(m.TaskFailed(2))
    machine.apply(m.ControllerAnswered(0, "retry"))
    assert machine.due() == [m.Revert(2, 1)]
    machine.apply(m.CancelRequested("enough"))
    assert m.Revert(2, 1) in machine.due()
    machine.apply(m.RevertStarted(2, 1))
    assert not machine.wants(2, 1, is_revert=True), "the other one began"
    machine.apply(m.RevertFailed(2, failure(), retriable=True))
    assert not machine.wants(2, 1, is_revert=True)


def test_a_revert_that_began_when_the_run_turned_round_is_not_handed_out_again() -> None:
    """It began between the two, and it may fail: then it is not tried a second time."""
    machine = begun(unordered("f", task("a"), task("b"), retry=Times(2)))
    machine.apply(m.AttemptStarted(0, 1))
    machine.apply(m.AttemptSucceeded(0, 1))
    for number in (1, 2):
        machine.apply(m.AttemptStarted(number, 1))
    machine.apply(m.AttemptSucceeded(1, 1))
    machine.apply(m.AttemptFailed(2, failure(), retriable=False))
    assert machine.due() == [m.GiveUp(2)]
    machine.apply(m.TaskFailed(2))
    machine.apply(m.ControllerAnswered(0, "retry"))
    assert m.Revert(2, 1) in machine.due()
    machine.apply(m.CancelRequested("enough"))
    machine.apply(m.RevertStarted(2, 1))
    assert m.Revert(2, 2) not in machine.due()
    machine.apply(m.RevertFailed(2, failure(), retriable=False))
    machine.due()
    machine.apply(m.RevertGivenUp(2))
    assert not machine.wants(2, 2, is_revert=True), "it failed for good"


def given_up_beside(*tasks: FunctionTask[..., Any]) -> RunMachine:
    """Return a run in which a flow gives up alone while one of *tasks*, whose last is being undone, is to run again."""
    g = linear("g", *tasks, retry=Times(2))
    h = linear("h", task("c"), retry=Times(1), revert_scope="flow")
    machine = begun(unordered("f", g, h))
    ruler, *done, failing, other, c = range(len(tasks) + 3)
    for number in (ruler, *done, other):
        machine.apply(m.AttemptStarted(number, 1))
        machine.apply(m.AttemptSucceeded(number, 1))
    for number in (failing, c):
        machine.apply(m.AttemptStarted(number, 1))
        machine.apply(m.AttemptFailed(number, failure(), retriable=False))
        machine.due()
        machine.apply(m.TaskFailed(number))
        if number == failing:
            machine.apply(m.ControllerAnswered(1, "retry"))
            machine.apply(m.RevertStarted(failing, 1))
    machine.apply(m.ControllerAnswered(2, "revert"))
    return machine


def test_a_flow_that_is_undone_alone_leaves_alone_what_was_to_run_again() -> None:
    """One flow is about to run again when another gives up, which alone is undone: then the run ends, to be resumed."""
    machine = given_up_beside(task("a"), task("b", revert_retry=Retry(2)))
    _, a, b, other, c = range(5)
    for number in (c, other):
        assert m.Revert(number, 1) in machine.due()
        machine.apply(m.RevertStarted(number, 1))
        machine.apply(m.RevertSucceeded(number, None))
    assert machine.due() == [], "a revert is still running"
    machine.apply(m.RevertFailed(b, failure(), retriable=True))
    assert machine.due() == [m.ScheduleRetry(b, 2, reverting=True)]
    machine.apply(m.RetryScheduled(b, 1.0))
    assert not machine.wants(a, 1, is_revert=True)
    assert machine.due() == [m.Revert(b, 2, 1.0)], "what has begun to be undone is undone to its end"
    machine.apply(m.RevertStarted(b, 2))
    machine.apply(m.RevertSucceeded(b, None))
    assert machine.due() == [m.End("FAILED")]
    machine.apply(m.RunEnded("FAILED"))
    machine.apply(m.RunResumed())
    assert {command.task for command in machine.due() if isinstance(command, m.Start)} == {b, other}


def test_a_revert_that_was_begun_for_another_flow_and_failed_is_tried_again() -> None:
    """By a resume, as any that failed; only then does the run go forward, in an execution of its own."""
    machine = given_up_beside(task("a"))
    _, a, other, c = range(4)
    machine.apply(m.RevertFailed(a, failure(), retriable=False))
    assert machine.due() == [m.GiveUp(a, reverting=True)]
    machine.apply(m.RevertGivenUp(a))
    for number in (c, other):
        assert machine.due() == [m.Revert(number, 1)]
        machine.apply(m.RevertStarted(number, 1))
        machine.apply(m.RevertSucceeded(number, None))
    assert machine.due() == [m.End("FAILED")]
    for event in (m.RunEnded("FAILED"), m.RunResumed()):
        machine.apply(event)
    assert machine.due() == [m.Revert(a, 1)]
    for event in (m.RevertStarted(a, 1), m.RevertSucceeded(a, None), m.RunEnded("FAILED"), m.RunResumed()):
        machine.apply(event)
    assert m.Start(a, 1) in machine.due() and machine.executions[a] == 1
