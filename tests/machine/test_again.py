"""What happens a second time counts as the second, and what is said once is not said again."""

from __future__ import annotations

from typing import Any

import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.errors import IllegalTransition
from asyncflow.graph import record as recorded
from asyncflow.graph.policy import Retry
from asyncflow.machine.control import ControlPhase
from asyncflow.machine.failures import failures_of
from asyncflow.machine.ledger import RUN_DEADLINE
from asyncflow.machine.replay import fold
from asyncflow.machine.tally import Tally
from asyncflow.states import RunState
from tests.machine.flows import PLAN, Play, chain, side_by_side
from tests.machine.stage import ALWAYS, Stage, t
from tests.machine.test_conditions import broken, no, yes


def test_each_reset_is_another_execution_with_the_terms_of_the_first() -> None:
    """A key that came back would let a service take the new execution for the old one."""
    stage = Stage(af.linear("f", t("a")), inputs={}, on_failure="finish", never_revert=True)
    for times in range(3):
        stage.play()
        assert stage.machine.executions == ({0: times} if times else {})
        stage.tell(m.RunReset("today", 9.0 + times))
        assert (stage.machine.deadline, stage.machine.run_id) == (9.0 + times, "run")
        assert (stage.machine.on_failure, stage.machine.never_revert) == ("finish", True)


def test_a_try_at_a_revert_may_be_lost_more_than_once() -> None:
    """None of the losses uses up the policy's tries, and what was lost can have no ending any more."""
    play = Play(chain("a", revert_retry=Retry(2)))
    play.run("a")
    play.tell(m.CancelRequested("enough"))
    for tried in (1, 2):
        assert f"revert a#{tried}" in play.due()
        play.begin_undo("a")
        play.crash()
        with pytest.raises(IllegalTransition, match="has nothing in flight that could end"):
            play.machine.apply(m.RevertSucceeded(0, None))
    play.due()
    play.begin_undo("a")
    play.tell(m.RevertFailed(0, af.Failure(OSError()), True))
    assert play.due() == ["retry revert of a#4"]


def test_a_suspend_is_asked_for_once() -> None:
    """The answer is on its way to the journal when somebody asks again."""
    play = Play(chain("a"))
    play.tell(m.SuspendRequested("closing"))
    assert play.due() == ["suspend"]
    assert play.due() == []


def test_the_condition_of_a_flow_that_falls_still_is_not_asked() -> None:
    """It became due in the turn in which its flow failed."""
    inner = af.linear("g", t("b"), when=yes)
    stage = Stage(af.unordered("f", t("a"), af.linear("l", t("x"), inner), retry=af.Times(2)))
    machine = stage.machine
    machine.apply(m.AttemptStarted(0, 1))
    machine.apply(m.AttemptSucceeded(0, 1))
    machine.due()
    for task in (1, 2):
        machine.apply(m.AttemptStarted(task, 1))
    machine.apply(m.AttemptSucceeded(2, "x"))
    machine.apply(m.AttemptFailed(1, af.Failure(OSError()), False))
    assert machine.due() == [m.GiveUp(1)]
    machine.apply(m.TaskFailed(1))
    assert machine.due() == [m.Decide(0)]
    assert machine.due() == []


def test_an_empty_flow_before_a_condition_passes() -> None:
    """A gate that waits for nothing and guards nothing must not wait for an answer that nobody gives."""
    flow = af.linear("f", af.unordered("empty"), t("a", when=yes))
    assert Stage(flow).play().told == "a?yes a SUCCEEDED"


def test_reverts_side_by_side_are_timed_together() -> None:
    """The seconds are those of all reverts, as they are of all bodies."""
    tally = Tally()
    tally.take(10.0, RunState.REVERTING, 0, 3, 2)
    tally.take(14.0, RunState.REVERTED, 0, 0, 0)
    assert (tally.reverting, tally.waiting, tally.running) == (12.0, 8.0, 0.0)
    assert tally.until(None).seconds == {RunState.REVERTING: 4.0}


def test_every_failure_is_told_under_the_name_of_what_failed() -> None:
    """The run, the flow around all and a flow within are three places to look."""
    stage = Stage(af.linear("f", t("a"), af.linear("g", t("b"), timeout=5.0), timeout=9.0))
    for scope in (1, 0, RUN_DEADLINE):
        stage.machine.late_scopes.append(scope)
    told = failures_of(stage.machine)
    assert {path: failure.text for path, failure in told.items()} == {
        "g": "flow 'g' took longer than its timeout of 5.0 s",
        "f": "run 'run' passed its deadline",
    }
    stage = Stage(af.linear("f", t("a"), af.linear("g", t("b"), when=broken))).play()
    assert [(path, failure.text) for path, failure in failures_of(stage.machine).items()] == [("g", "cannot say")]
    stage.machine.forsaken.append("gone")
    assert failures_of(stage.machine)["gone (revert)"].text == (
        "task 'gone' is gone from the flow, so it could not be reverted"
    )


def test_of_two_tasks_given_up_at_once_both_are_told() -> None:
    """The second failed in a run that had turned round."""
    play = Play(side_by_side("a", "b"))
    play.due()
    play.start("a", "b")
    play.fail("a")
    play.fail("b")
    assert play.due() == ["give up a", "give up b"]
    play.tell(m.TaskFailed(0), m.TaskFailed(1))
    assert list(failures_of(play.machine)) == ["a", "b"]


def test_a_revert_that_fails_in_a_flow_that_is_not_to_run_again_turns_the_run_round() -> None:
    """A flow was being undone when the one around it fell still, so that nobody undoes it just then."""
    inner = af.linear("g", t("a"), retry=af.Times(2))
    machine = Stage(af.unordered("f", inner, t("x"), retry=af.Times(2))).machine
    outer, ruler, a, x = range(4)
    for task in (outer, ruler):
        machine.apply(m.AttemptStarted(task, 1))
        machine.apply(m.AttemptSucceeded(task, 1))
    for task in (a, x):
        machine.apply(m.AttemptStarted(task, 1))
    machine.apply(m.AttemptFailed(a, af.Failure(OSError()), False))
    machine.due()
    machine.apply(m.TaskFailed(a))
    machine.apply(m.ControllerAnswered(1, "retry"))
    machine.apply(m.RevertStarted(a, 1))
    machine.apply(m.AttemptFailed(x, af.Failure(OSError()), False))
    machine.due()
    machine.apply(m.TaskFailed(x))
    assert machine.controls[0].busy == 1, "the revert"
    machine.apply(m.RevertFailed(a, af.Failure(OSError()), False))
    assert machine.due() == [m.GiveUp(a, reverting=True)]
    machine.apply(m.RevertGivenUp(a))
    assert (machine.phase, machine.goal) == (RunState.REVERTING, RunState.REVERTED)
    assert machine.due() == [m.Revert(x, 1)]


def test_a_value_that_is_being_made_again_is_undone_when_its_body_has_ended() -> None:
    """What was made of it the first time is undone before, while it still runs."""
    play = Play(chain("a", "b", "c"))
    play.run("a", "b")
    play.crash()
    play.machine.apply(m.ValuesLost([0]))
    assert play.machine.due() == [m.Start(0, 2), m.Start(2, 1)]
    for event in (m.AttemptStarted(0, 2), m.CancelRequested("enough")):
        play.machine.apply(event)
    assert play.machine.due() == [m.Cancel(0, "cancel"), m.Revert(1, 1)]
    play.machine.apply(m.RevertStarted(1, 1))
    play.machine.apply(m.RevertSucceeded(1, None))
    assert play.machine.due() == []
    play.machine.apply(m.AttemptCancelled(0))
    assert play.machine.due() == [m.Revert(0, 1)]


def test_a_next_attempt_waits_for_a_value_before_it_that_is_being_made_again() -> None:
    """It was started beside it and, once the value was there, a second time if it had failed again by then."""
    play = Play(chain("a", "b", retry=Retry(2)))
    play.run("a")
    play.start("b")
    play.fail("b", retriable=True)
    play.tell(m.RetryScheduled(1, 5.0))
    play.tell(m.SuspendRequested("enough"), m.RunSuspended())
    play.now = 9.0
    play.tell(m.RunResumed(None, None), m.ValuesLost([0]))
    assert play.due() == ["start a#2"]
    play.start("a")
    assert play.due() == [] and not play.machine.wants(1, 2)
    play.succeed("a")
    assert play.due() == ["start b#2 at 5"]
    play.start("b")
    play.succeed("b")
    assert play.due() == ["end SUCCEEDED"]


def test_a_record_without_events_is_no_beginning() -> None:
    """Progress and the like may be all that a turn had; what matters is the first event."""
    plan = chain("a")
    started = m.Record(1.0, [m.RunStarted("run", plan.flow, PLAN, {})])
    assert fold([m.Record(0.0, []), started], {PLAN: plan}).phase is RunState.RUNNING


def test_a_condition_that_has_answered_is_not_asked() -> None:
    """A machine that heard of the answer from a journal never asked, and has the question still in line."""
    machine = Stage(af.linear("f", af.linear("g", t("a"), when=yes, depth="task"), t("b"))).machine
    machine.apply(m.ConditionAnswered(0, False))
    assert machine.due() == [m.Skip(0)]
    machine.apply(m.TaskSkipped(0))
    assert machine.due() == [m.Start(1, 1)]


def test_of_two_conditions_the_one_that_has_said_yes_is_not_asked_again() -> None:
    """A task may have one of its own and one on each link; the last answer is what it waits for."""
    flow = af.graph("f", t("a"), t("b", when=yes))
    flow.link("a", "b", when=yes)
    machine = Stage(flow).play(most=1).machine
    first, other = (command for command in machine.due() if isinstance(command, m.Evaluate))
    machine.apply(m.ConditionAnswered(first.guard, True))
    assert not machine.expects_condition(first.guard)
    assert machine.expects_condition(other.guard)


def test_no_condition_of_a_flow_is_asked_once_the_run_is_undone() -> None:
    """The question was handed out, and a cancel came before the answer."""
    machine = Stage(af.linear("f", t("a"), af.linear("g", t("b"), when=yes))).play(most=1).machine
    assert machine.due() == [m.Evaluate(0)]
    assert machine.expects_condition(0)
    machine.apply(m.CancelRequested("enough"))
    assert not machine.expects_condition(0)


def test_no_condition_is_asked_in_a_run_that_falls_still_for_its_controller() -> None:
    """The whole run is a flow like any other."""
    machine = Stage(af.unordered("f", t("a"), af.linear("g", t("b"), when=yes), retry=af.Times(2))).machine
    for event in (m.AttemptStarted(0, 1), m.AttemptSucceeded(0, 1)):
        machine.apply(event)
    assert m.Evaluate(0) in machine.due()
    for event in (m.AttemptStarted(1, 1), m.AttemptFailed(1, af.Failure(OSError()), False), m.TaskFailed(1)):
        machine.apply(event)
    assert not machine.expects_condition(0)


def test_what_is_to_be_skipped_holds_up_nothing_behind_it_in_line() -> None:
    """It was handed out to be skipped, and that is not on record yet when more is asked for."""
    flow = af.graph("f", t("p"), t("a"), t("b"))
    flow.link("p", "a", when=no, depth="task")
    flow.link("p", "b")
    machine = Stage(flow).play(most=1).machine
    machine.apply(m.ConditionAnswered(0, False))
    machine.apply(m.RunResumed(None))
    assert machine.due() == [m.Skip(1)]
    assert machine.due() == [m.Start(2, 1)]


def test_a_resume_asks_no_condition_before_its_time() -> None:
    """What a flow's condition reads is not there yet."""
    machine = Stage(af.linear("f", t("a"), af.linear("g", t("b"), when=yes))).machine
    machine.apply(m.RunResumed(None))
    assert machine.due() == [m.Start(0, 1)]
    for event in (m.AttemptStarted(0, 1), m.AttemptSucceeded(0, 1), m.ConditionAnswered(0, True), m.RunResumed(None)):
        machine.apply(event)
    assert machine.due() == [m.Start(1, 1)]


def test_a_flow_that_was_late_is_called_by_its_path() -> None:
    """Of two flows of one name in a run, nobody could tell which."""
    stage = Stage(af.linear("f", af.linear("g", af.linear("h", t("a"), timeout=5.0))))
    for event in (m.AttemptStarted(0, 1), m.ScopeStarted(2, 7.0), m.DeadlinePassed(2)):
        stage.tell(event)
    (told,) = failures_of(stage.machine).values()
    assert str(told.exception) == "flow 'g/h' took longer than its timeout of 5.0 s"


def test_a_reset_counts_as_an_execution_only_of_what_was_not_undone() -> None:
    """A revert has counted already, and what never started has no key that anyone saw."""
    stage = Stage(af.linear("f", t("a"), t("b"), t("c")), {"b": ALWAYS}).play()
    assert stage.told == "a b! -b -a REVERTED"
    stage.tell(m.RunReset("today", None))
    assert stage.machine.executions == {0: 1, 1: 1}
    assert stage.machine.flow == "f"


def test_only_what_has_ended_starts_over() -> None:
    """The error names the run."""
    machine = Stage(af.linear("f", t("a"))).machine
    with pytest.raises(IllegalTransition, match="run 'run'"):
        machine.apply(m.RunReset("today", None))


def test_what_was_in_doubt_when_the_run_failed_begins_anew() -> None:
    """It has no outcome until the next attempt, and crashes before count no more: the user has looked since."""
    stage = Stage(af.linear("f", t("a", on_crash="fail")), never_revert=True)
    stage.tell(m.AttemptStarted(0, 1))
    stage.tell(m.AttemptLost(0, "crash"))
    stage.answer()
    machine = stage.machine
    assert machine.phase is RunState.FAILED
    assert machine.in_doubt == {0} and machine.outcomes and machine.crashes
    stage.tell(m.RunResumed(None))
    assert (machine.outcomes, machine.crashes) == ({}, {})


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"on_crash": "fail"},
            "attempt 1 of task 'a' was interrupted and may have had its effect; "
            'on_crash="fail" forbids another: give the task a reconcile hook that can tell',
        ),
        (
            {"max_crashes": 1},
            "task 'a' was running each of the last 1 times that the process died; see whether it kills the process; "
            "max_crashes=... allows more",
        ),
    ],
)
def test_who_gives_up_a_lost_attempt_says_why_and_what_to_do(options: dict[str, Any], why: str) -> None:
    """Nobody saw it end, so the message is all that there is to go by."""
    stage = Stage(af.linear("f", t("a", **options)))
    stage.tell(m.AttemptStarted(0, 1))
    stage.tell(m.AttemptLost(0, "crash"))
    (command,) = stage.machine.due()
    assert isinstance(command, m.GiveUp) and command.failure is not None
    assert str(command.failure.exception) == why


def test_a_journal_tells_of_a_task_that_was_late_without_knowing_its_limit() -> None:
    """Who lists runs has no declarations."""
    stage = Stage(af.linear("f", t("a", timeout=5.0)))
    for event in (m.AttemptStarted(0, 1), m.AttemptTimedOut(0, False)):
        stage.tell(event)
    stage.answer()
    read = recorded.decode(recorded.body_of(stage.plan))
    (told,) = failures_of(fold(stage.journal, {PLAN: read})).values()
    assert str(told.exception) == "task 'a' took longer than its timeout"


def test_a_flow_that_was_to_run_again_when_the_run_failed_is_asked_about_afresh() -> None:
    """Its controller has answered for an attempt that goes on instead, and would count it twice."""
    g = af.linear("g", t("a"), retry=af.Times(1), revert_scope="flow")
    stage = Stage(af.unordered("f", g, af.linear("h", t("b"), t("c"), retry=af.Times(3))))
    machine, plan = stage.machine, stage.plan

    def begin(path: str) -> int:
        task = plan.index(path)
        stage.tell(m.AttemptStarted(task, 1))
        return task

    def fail(task: int, scope: int, decision: str) -> None:
        stage.tell(m.AttemptFailed(task, af.Failure(OSError()), False))
        assert machine.due() == [m.GiveUp(task)]
        stage.tell(m.TaskFailed(task))
        assert m.Decide(scope) in machine.due()
        stage.tell(m.ControllerAnswered(scope, decision))

    for path in ("g/times", "h/times"):
        stage.tell(m.AttemptSucceeded(begin(path), 1))
    a, b = begin("g/a"), begin("h/b")
    fail(b, 2, "retry")
    h = machine.controls[2]
    assert len(h.history) == 1
    fail(a, 1, "revert")
    stage.play()
    assert machine.phase is RunState.FAILED
    stage.tell(m.RunResumed(None))
    assert (h.phase, h.history) == (ControlPhase.GOING, [])


def test_a_resume_renews_the_deadline_if_it_brings_one() -> None:
    """Else the run keeps the one that it was given, which runs on while it stands still."""
    stage = Stage(af.linear("f", t("a")))
    for given, kept in ((9.0, 9.0), (None, 9.0), (12.0, 12.0)):
        stage.tell(m.RunResumed(None, given))
        assert stage.machine.deadline == kept
