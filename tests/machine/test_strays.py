"""Answers that nobody waits for, and questions that were answered before they were asked."""

from __future__ import annotations

from typing import Any

import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.errors import IllegalTransition, InternalError
from asyncflow.machine.replay import fold
from asyncflow.machine.run import RunMachine
from tests.machine.flows import PLAN, failure
from tests.machine.stage import Stage, t
from tests.machine.test_conditions import no, yes


def asking() -> RunMachine:
    """Return the machine of a run whose task b, after a, has a condition."""
    stage = Stage(af.linear("f", t("a"), t("b", when=yes)))
    return stage.machine


def after_a(machine: RunMachine) -> RunMachine:
    machine.apply(m.AttemptStarted(0, 1))
    machine.apply(m.AttemptSucceeded(0, 1))
    return machine


def test_a_condition_is_answered_when_it_is_asked_and_once() -> None:
    """A late answer must not let a task start in a run that has turned round, stands still, or has heard the answer."""
    answer = m.ConditionAnswered(0, True)
    machine = asking()
    assert not machine.expects_condition(0), "a has not settled"
    after_a(machine)
    assert machine.expects_condition(0)
    for told in (m.CancelRequested("enough"), m.SuspendRequested("closing"), m.ConditionAnswered(0, False), answer):
        machine = after_a(asking())
        machine.apply(told)
        assert not machine.expects_condition(0)
        with pytest.raises(IllegalTransition, match="a condition of run 'run' was not asked and answers True"):
            machine.apply(answer)


def failed(flow: Any) -> RunMachine:
    """Return the machine of a run of a controller, then a, which has failed."""
    machine = RunMachine(flow.compile())
    machine.apply(m.RunStarted("run", "f", PLAN, {}))
    for number in (0, 1):
        machine.apply(m.AttemptStarted(number, 1))
        machine.apply(m.AttemptSucceeded(0, 1) if number == 0 else m.AttemptFailed(1, failure(), False))
    machine.due()
    machine.apply(m.TaskFailed(1))
    return machine


@pytest.mark.parametrize("nested", [False, True])
def test_a_controller_is_heard_when_it_is_asked_and_once(nested: bool) -> None:
    """Its flow may have been taken up by another decision meanwhile."""
    inner = af.linear("g", t("a"), t("b"), retry=af.Times(2))
    flow, scope, name = (af.linear("f", inner), 1, "g") if nested else (inner, 0, "f")
    machine = failed(flow)
    assert machine.due() == [m.Decide(scope)]
    with pytest.raises(IllegalTransition, match="cannot start over; it is not undone"):
        machine.apply(m.FlowStartedOver(scope, [0, 1]))
    machine.apply(m.ControllerAnswered(scope, "retry"))
    with pytest.raises(IllegalTransition, match=f"controller of flow '{name}' was not asked and answers 'revert'"):
        machine.apply(m.ControllerAnswered(scope, "revert"))
    with pytest.raises(IllegalTransition, match="cannot start over; it is not undone"):
        machine.apply(m.FlowStartedOver(scope, [0, 1]))


def test_a_task_that_fails_without_a_reason_is_a_bug() -> None:
    """Whoever reads of it would find nothing to mend."""
    machine = asking()
    with pytest.raises(InternalError, match="task 'a' failed without a reason"):
        machine.apply(m.TaskFailed(0))


def test_what_is_to_be_skipped_is_not_started_meanwhile() -> None:
    """A process died between the no and the skip; the next hands the skip out, and is asked what else is due."""
    stage = Stage(af.linear("f", t("a", when=no, depth="task"), t("b")))
    assert stage.machine.due() == [m.Evaluate(0)]
    stage.tell(m.ConditionAnswered(0, False))
    machine = fold(stage.journal, {PLAN: stage.plan})
    machine.apply(m.RunResumed())
    assert machine.due() == [m.Skip(0)]
    assert machine.due() == []
    machine.apply(m.TaskSkipped(0))
    assert machine.due() == [m.Start(1, 1)]


def test_a_flow_that_started_without_a_deadline_has_none() -> None:
    """Its limit had gone from the code by the time that it began; nothing is to pass."""
    machine = RunMachine(af.linear("f", t("a"), timeout=5.0).compile())
    machine.apply(m.RunStarted("run", "f", PLAN, {}))
    assert machine.due() == [m.OpenScope(0), m.Start(0, 1)]
    machine.apply(m.ScopeStarted(0, None))
    assert machine.scope_deadlines == {} and machine.deadline_of(0) is None


def test_the_time_limit_of_a_flow_that_has_none_is_no_matter() -> None:
    """A timer may outlive the attempt of the flow that it was for."""
    machine = RunMachine(af.linear("f", af.linear("g", t("a"), timeout=5.0)).compile())
    machine.apply(m.RunStarted("run", "f", PLAN, {}))
    assert not machine.is_late(1)
    machine.apply(m.ScopeStarted(1, 5.0))
    assert machine.is_late(1)


def test_no_value_says_so() -> None:
    """It shows in a debugger and nowhere else."""
    assert repr(asking().values[0]) == "<no value>"
