"""Standing still, dying, and going on: lost attempts, failed reverts, and a flow that has changed meanwhile."""

from __future__ import annotations

from typing import Any

import pytest

from asyncflow import messages as m
from asyncflow.errors import InternalError
from asyncflow.graph import record as recorded
from asyncflow.graph.controller import AlwaysRevert, ForEachInput, Times
from asyncflow.graph.decorator import task as decorated
from asyncflow.graph.flow import flow
from asyncflow.graph.pattern import linear, unordered
from asyncflow.graph.plan import Plan
from asyncflow.machine.replay import fold, plans_named, recovery, was_left
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Sealed
from asyncflow.states import RunState
from tests.machine.flows import PLAN, THRICE, Play, chain, dag, failure, play_through, side_by_side, task

# --- Suspending -------------------------------------------------------------------------------------------------------


def test_a_run_is_suspended_before_anything_started() -> None:
    """The engine may close at any time."""
    play = Play(chain("a"))
    play.tell(m.SuspendRequested("closing"))
    assert play.decide() == ["suspend"]
    assert play.machine.state is RunState.SUSPENDED
    assert play.machine.phase is RunState.RUNNING, "it remembers where it was"
    assert play.due() == []
    play.resume()
    assert play.machine.state is RunState.RUNNING
    assert play_through(play) == ["start a#1", "end SUCCEEDED"]


def test_a_suspend_waits_for_what_runs_and_starts_nothing() -> None:
    """A body has its grace; what its ending makes ready is for the resume."""
    play = Play(chain("a", "b"))
    play.due()
    play.start("a")
    play.tell(m.SuspendRequested("closing"))
    assert play.decide() == [], "a is still at work"
    play.succeed("a")
    assert play.decide() == ["suspend"]
    play.resume()
    assert play_through(play) == ["start b#1", "end SUCCEEDED"]


def test_an_attempt_lost_to_a_suspend_is_made_again() -> None:
    """Nothing is reverted by a suspend, and no try is used up."""
    play = Play(chain("a"))
    play.due()
    play.start("a")
    play.tell(m.SuspendRequested("closing"), m.AttemptLost(0, "suspend"))
    assert play.decide() == ["suspend"]
    play.resume()
    assert play_through(play) == ["start a#2", "end SUCCEEDED"]


def test_a_run_that_is_done_ends_instead_of_being_suspended() -> None:
    """There would be nothing to resume."""
    play = Play(chain("a"))
    play.due()
    play.start("a")
    play.tell(m.SuspendRequested("closing"), m.AttemptSucceeded(0, "A"))
    assert play.decide() == ["end SUCCEEDED"]


def test_a_run_is_suspended_while_a_task_waits_for_its_next_attempt() -> None:
    """The wait goes on where it was: its end is on record."""
    play = Play(chain("a", retry=THRICE))
    play.due()
    play.start("a")
    play.fail("a", retriable=True)
    assert play.due() == ["retry a#2"]
    play.tell(m.RetryScheduled(0, 60.0))
    assert play.due() == ["start a#2 at 60"]
    play.tell(m.SuspendRequested("closing"))
    assert play.decide() == ["suspend"]
    assert not play.machine.wants(0), "its timer may ring all the same"
    play.resume()
    assert play.due() == ["start a#2 at 60"]


def test_a_failure_during_a_suspend_is_decided_before_the_run_stands_still() -> None:
    """Else the resume would ask a policy about an exception that nobody has any more."""
    play = Play(side_by_side("a", "b"))
    play.due()
    play.start("a", "b")
    play.tell(m.SuspendRequested("closing"))
    play.fail("a")
    assert play.decide() == ["give up a", "cancel b: cancel"]
    play.tell(m.AttemptCancelled(play.at("b")))
    assert play.decide() == ["suspend"]
    assert play.machine.phase is RunState.REVERTING
    play.resume()
    assert play_through(play) == ["revert b#1", "revert a#1", "end REVERTED"]


def test_a_run_is_suspended_while_it_is_undone() -> None:
    """What is being undone goes on being undone, whoever closes the engine meanwhile."""
    play = Play(chain("a", "b", "c"))
    play.run("a", "b")
    play.due()
    play.start("c")
    play.fail("c")
    play.decide()
    play.begin_undo("c")
    play.tell(m.SuspendRequested("closing"))
    assert play.decide() == [], "a revert is at work"
    play.tell(m.RevertSucceeded(play.at("c"), None))
    assert play.decide() == ["suspend"], "b is for the resume"
    play.resume()
    assert play_through(play) == ["revert b#1", "revert a#1", "end REVERTED"]


def test_a_cancel_during_a_suspend_is_carried_out_by_the_resume() -> None:
    """Both were asked for, and both are done."""
    play = Play(chain("a", "b"))
    play.run("a")
    play.due()
    play.start("b")
    play.tell(m.SuspendRequested("closing"))
    play.tell(m.CancelRequested("enough"))
    assert play.decide() == ["cancel b: cancel"]
    play.tell(m.AttemptCancelled(play.at("b")))
    assert play.decide() == ["suspend"]
    play.resume()
    assert play_through(play) == ["revert b#1", "revert a#1", "end CANCELLED"]


# --- Losing attempts --------------------------------------------------------------------------------------------------


def test_a_lost_attempt_is_made_again() -> None:
    """The default: at least once."""
    play = Play(chain("a", "b"))
    play.due()
    play.start("a")
    play.crash()
    assert play.states["a"] == "PENDING"
    assert play.machine.lost == {0: 1}
    assert play_through(play) == ["start a#2", "start b#1", "end SUCCEEDED"]


def test_losses_do_not_use_up_the_retries() -> None:
    """A process that dies says nothing about whether the task can succeed."""
    play = Play(chain("a", retry=THRICE))
    for _ in range(3):
        play.due()
        play.start("a")
        play.crash()
    assert play_through(play, lambda name, attempt: "retriable" if attempt < 6 else "succeed") == [
        "start a#4", "retry a#5", "start a#5 at 0", "retry a#6", "start a#6 at 0", "end SUCCEEDED",
    ]  # fmt: skip


def test_a_lost_try_at_a_revert_does_not_use_up_its_retries() -> None:
    """The same for what undoes."""
    play = Play(chain("a", revert_retry=THRICE))
    play.due()
    play.start("a")
    play.fail("a")
    play.decide()
    play.begin_undo("a")
    play.crash()
    for attempt in (2, 3):
        assert play.due() == [f"revert a#{attempt}" + ("" if attempt == 2 else " at 0")]
        play.begin_undo("a")
        play.tell(m.RevertFailed(0, failure(), True))
        assert play.due() == [f"retry revert of a#{attempt + 1}"]
        play.tell(m.RetryScheduled(0, 0.0))
    assert play.due() == ["revert a#4 at 0"]
    play.begin_undo("a")
    play.tell(m.RevertFailed(0, failure(), True))
    assert play.due() == ["give up revert of a"], "three have failed"


def test_on_crash_fail_makes_a_lost_attempt_the_last() -> None:
    """At most once, for what must never happen twice; it may have had its effect, so it is undone."""
    play = Play(dag({"a": (), "b": ()}, a={"on_crash": "fail"}))
    play.due()
    play.start("a", "b")
    play.crash()
    assert play.decide() == ["give up a: AttemptInDoubt", "revert b#1", "revert a#1"]
    assert play.states == {"a": "FAILED", "b": "CANCELLED"}


def test_of_several_lost_attempts_the_first_that_may_not_be_made_again_decides() -> None:
    """It turns the run round, and nothing may be started or given up after that."""
    play = Play(dag({"a": (), "b": (), "c": ()}, b={"on_crash": "fail"}, c={"on_crash": "fail"}))
    play.due()
    play.start("a", "b", "c")
    play.crash()
    assert play.due() == ["give up b: AttemptInDoubt"]
    play.tell(m.TaskFailed(1, failure("in doubt")))
    assert play.states == {"a": "CANCELLED", "b": "FAILED", "c": "CANCELLED"}
    assert play_through(play) == ["revert c#1", "revert b#1", "revert a#1", "end REVERTED"]


def test_a_task_lost_with_five_processes_is_not_tried_again() -> None:
    """It is what kills them, more likely than not."""
    play = Play(chain("a"))
    for attempt in range(1, 6):
        assert play.due() == [f"start a#{attempt}"]
        play.start("a")
        play.crash()
    assert play.decide() == ["give up a: LostTooOften", "revert a#1"]


def test_suspends_do_not_count_as_crashes() -> None:
    """A task that takes longer than the time between two deployments is no killer."""
    play = Play(chain("a"))
    for attempt in range(1, 8):
        assert play.due() == [f"start a#{attempt}"]
        play.start("a")
        play.tell(m.SuspendRequested("deployment"), m.AttemptLost(0, "suspend"))
        assert play.decide() == ["suspend"]
        play.resume()
    assert play.machine.crashes == {}


def test_an_ending_between_two_crashes_starts_the_count_afresh() -> None:
    """Only losses in a row speak against a task."""
    play = Play(chain("a", retry=THRICE, max_crashes=2))
    for attempt in (1, 3):
        play.due()
        play.start("a")
        play.crash()
        play.due()
        play.start("a")
        play.fail("a", retriable=True)
        assert play.due() == [f"retry a#{attempt + 2}"]
        play.tell(m.RetryScheduled(0, 0.0))
    assert play.due() == ["start a#5 at 0"]


def test_a_reconcile_hook_is_asked_about_a_lost_attempt() -> None:
    """The outside world may know how it ended; then there is no second effect."""
    play = Play(chain("a", "b", reconcile=_ask))
    play.due()
    play.start("a")
    play.crash()
    assert play.due() == ["reconcile a"]
    play.tell(m.ReconcileStarted(0))
    assert play.states["a"] == "RUNNING"
    play.tell(m.AttemptSucceeded(0, "A"))
    assert play.machine.attempts[0] == 1
    assert play.due() == ["start b#1"]


def test_an_attempt_that_the_hook_knows_nothing_of_is_made_again() -> None:
    """None means that it is as if it had not been."""
    play = Play(chain("a", reconcile=_ask))
    play.due()
    play.start("a")
    play.crash()
    play.due()
    play.tell(m.ReconcileStarted(0), m.AttemptLost(0, "reconciled"))
    assert play.due() == ["start a#2"]
    assert play.machine.lost == {0: 1}


def test_a_hook_that_is_lost_itself_is_asked_again() -> None:
    """A crash while asking tells no more than the first one."""
    play = Play(chain("a", reconcile=_ask))
    play.due()
    play.start("a")
    play.crash()
    play.due()
    play.tell(m.ReconcileStarted(0))
    play.crash()
    assert play.due() == ["reconcile a"]
    assert play.machine.lost == {0: 1}
    assert play.machine.crashes == {0: 2}


def test_a_cancel_that_was_on_record_is_carried_out_by_the_next_process() -> None:
    """A process killed while undoing goes on undoing."""
    play = Play(chain("a", "b"))
    play.run("a")
    play.due()
    play.start("b")
    play.tell(m.CancelRequested("enough"))
    play.crash()
    assert play.states == {"a": "SUCCEEDED", "b": "CANCELLED"}
    assert play_through(play) == ["revert b#1", "revert a#1", "end CANCELLED"]


def test_an_ending_that_was_not_decided_about_is_decided_after_the_crash() -> None:
    """A turn may be cut between the two; the exception is gone then, but not what was said of it."""
    play = Play(chain("a", retry=THRICE))
    play.due()
    play.start("a")
    play.fail("a", retriable=True)
    play.crash()
    assert play.due() == ["retry a#2"]


def test_a_task_without_inputs_fails_without_having_started() -> None:
    """Nothing was done, so it is not undone; what came before it is."""
    play = Play(chain("a", "b"))
    play.run("a")
    play.due()
    play.tell(m.TaskFailed(1, failure("no input")))
    assert play.decide() == ["revert a#1"]
    assert play.machine.attempts == [1, 0]


def test_a_task_whose_inputs_cannot_be_had_a_second_time_fails() -> None:
    """A resource may be missing in the engine that resumes; that is a failure of the task and not of ours."""
    play = Play(chain("a", retry=THRICE))
    play.due()
    play.start("a")
    play.fail("a", retriable=True)
    play.decide()
    play.tell(m.TaskFailed(0, failure("no pool")))
    assert play.states == {"a": "FAILED"}
    assert play.machine.waits == {}
    assert play_through(play) == ["revert a#1", "end REVERTED"]


# --- Failed reverts ---------------------------------------------------------------------------------------------------


def failed() -> Play:
    """Return a run of a chain a, b, c that ended FAILED, since the revert of b raised."""
    play = Play(chain("a", "b", "c"))
    play.run("a", "b")
    play.due()
    play.start("c")
    play.fail("c")
    play.decide()
    play.undo("c")
    play.decide()
    play.begin_undo("b")
    play.tell(m.RevertFailed(1, failure(), True))
    assert play.decide() == ["give up revert of b", "end FAILED"]
    return play


def test_a_resume_of_a_failed_run_tries_its_failed_reverts_again() -> None:
    """Somebody has mended what was in the way, and now the rest can be undone too."""
    play = failed()
    play.resume()
    assert play.machine.state is RunState.REVERTING
    assert play_through(play) == ["revert b#1", "revert a#1", "end REVERTED"]


def test_a_failed_revert_may_fail_again() -> None:
    """Then the run has failed again, and says only what failed last."""
    play = failed()
    play.resume()
    assert play.due() == ["revert b#1"]
    play.begin_undo("b")
    play.tell(m.RevertFailed(1, failure("still"), True))
    assert play.decide() == ["give up revert of b", "end FAILED"]
    assert [one.text for one in play.machine.revert_failures.values()] == ["still"]


def test_a_crash_while_undoing_does_not_try_a_failed_revert_again() -> None:
    """Only someone who resumes a run that has FAILED asks for that; a crash must not change how a run ends."""
    play = Play(dag({"a": (), "b": "a", "c": "a"}))
    play.run("a", "b")
    play.due()
    play.start("c")
    play.fail("c")
    assert play.decide() == ["give up c", "revert c#1", "revert b#1"]
    play.begin_undo("b")
    play.tell(m.RevertFailed(1, failure(), True))
    assert play.decide() == ["give up revert of b"]
    play.crash()
    assert play_through(play) == ["revert c#1", "end FAILED"]
    assert play.states == {"a": "SUCCEEDED", "b": "REVERT_FAILED", "c": "REVERTED"}


def test_a_crash_after_the_resume_of_a_failed_run_still_tries_the_reverts() -> None:
    """The resume is on record, and so is what it was for."""
    play = failed()
    play.resume()
    play.crash()
    assert play.due() == ["revert b#1"]
    assert play.machine.wants(1, is_revert=True)


# --- What is wanted ---------------------------------------------------------------------------------------------------


def test_a_start_handed_out_before_the_run_was_turned_round_is_not_wanted() -> None:
    """A timer or a permit that comes late must not start a body that was stopped; its revert is another matter."""
    play = Play(dag({"a": (), "b": ()}, a={"retry": THRICE}))
    play.due()
    play.start("a", "b")
    play.fail("a", retriable=True)
    play.decide()
    assert play.machine.wants(0) and not play.machine.wants(0, is_revert=True)
    play.fail("b")
    play.decide()
    assert play.states["a"] == "CANCELLED"
    assert not play.machine.wants(0)
    assert play.machine.wants(0, is_revert=True)
    play.begin_undo("a")
    assert not play.machine.wants(0)


# --- Values that were not kept ----------------------------------------------------------------------------------------


def test_values_that_were_never_kept_are_made_again_where_they_are_needed() -> None:
    """``checkpoint=False`` saves the journal a large value and costs a resume its making, with all it was made of."""
    plan = reading_chain()
    records = _unkept(plan, "a", "b", "c")
    machine = fold(records, {PLAN: plan})
    events = recovery(machine)
    assert events == [m.RunResumed(None, None), m.ValuesLost([0, 1, 2])]
    for event in events:
        machine.apply(event)
    assert [type(command).__name__ for command in machine.due()] == ["Start"]
    assert machine.attempts == [1, 1, 1, 0], "they go on counting"


def test_an_order_alone_needs_no_value() -> None:
    """What merely comes after a task does not have it run again."""
    plan = chain("a", "b")
    machine = fold(_unkept(plan, "a"), {PLAN: plan})
    assert recovery(machine) == [m.RunResumed(None, None)]


def test_values_that_nobody_needs_any_more_are_not_made_again() -> None:
    """Work is repeated only for a reader that has not succeeded yet."""
    plan = dag({"a": (), "b": "a", "c": ()})
    machine = fold(_unkept(plan, "a", kept="b"), {PLAN: plan})
    assert recovery(machine) == [m.RunResumed(None, None)]


def test_a_flow_that_returns_nothing_needs_no_value_at_its_end() -> None:
    """Only what is still to run reads anything."""

    @flow
    def silent() -> None:
        inc.named("b")(inc.named("a")(0))

    plan = silent.compile()
    for done, needed in (("a", [m.ValuesLost([0])]), ("ab", [])):
        machine = fold(_unkept(plan, *done), {PLAN: plan})
        assert recovery(machine)[1:] == needed


def reading_chain() -> Any:
    @flow
    def chained() -> int:
        value = inc.named("a")(0)
        for name in ("b", "c", "d"):
            value = inc.named(name)(value)
        return value

    return chained.compile()


@decorated(executor="inline")
def inc(x: int) -> int:
    return x + 1


@decorated(provides="a", checkpoint=False)
def unkept() -> int:
    return 1


@decorated
def needs(a: int) -> int:
    return a


def _unkept(plan: Any, *names: str, kept: str = "") -> list[m.Record]:
    events: list[m.Event] = [m.RunStarted("run", plan.flow, PLAN, {})]
    for name in (*names, *kept):
        at = plan.index(name)
        value = Sealed(payload=b"kept") if name in kept else Sealed()
        events += [m.AttemptStarted(at, 1), m.AttemptSucceeded(at, value)]
    return [m.Record(0.0, events)]


def test_what_reads_an_unkept_value_in_a_flow_with_a_controller_waits_until_it_is_there_again() -> None:
    """Else it fails for want of it, or takes its default."""

    plan = linear("f", unkept, linear("again", needs, retry=Times(2))).compile()
    first, ruler, reader = (plan.index(path) for path in ("unkept", "again/times", "again/needs"))
    events = [
        m.RunStarted("run", "f", PLAN, {}),
        *(m.AttemptStarted(first, 1), m.AttemptSucceeded(first, Sealed())),
        *(m.AttemptStarted(ruler, 1), m.AttemptSucceeded(ruler, Sealed(payload=b"1"))),
        m.AttemptStarted(reader, 1),
    ]
    machine = fold([m.Record(0.0, events)], {PLAN: plan})
    for event in recovery(machine):
        machine.apply(event)
    assert [command.task for command in machine.due() if isinstance(command, m.Start)] == [first]


def test_the_condition_of_a_flow_waits_for_a_value_that_is_made_again() -> None:
    """No edge leads to it from there: what comes first in the flow around it has been done."""

    def is_one(a: int) -> bool:
        return a == 1

    plan = linear("f", unkept, linear("again", linear("inner", task("b"), when=is_one), retry=Times(2))).compile()
    first, ruler = plan.index("unkept"), plan.index("again/times")
    events = [
        m.RunStarted("run", "f", PLAN, {}),
        *(m.AttemptStarted(first, 1), m.AttemptSucceeded(first, Sealed())),
        *(m.AttemptStarted(ruler, 1), m.AttemptSucceeded(ruler, Sealed(payload=b"1"))),
    ]
    machine = fold([m.Record(0.0, events)], {PLAN: plan})
    for event in recovery(machine):
        machine.apply(event)
    assert machine.due() == [m.Start(first, 2)]
    for event in (m.AttemptStarted(first, 2), m.AttemptSucceeded(first, 1)):
        machine.apply(event)
    assert machine.due() == [m.Evaluate(0)]


def test_what_is_undone_to_run_again_is_undone_also_where_its_value_was_not_kept() -> None:
    """It was to be made again at once, counted as undone therefore, and what it had done stayed."""

    plan = linear("f", unkept, needs, retry=Times(2)).compile()
    ruler, first, reader = (plan.index(path) for path in ("times", "unkept", "needs"))
    events = [
        m.RunStarted("run", "f", PLAN, {}),
        *(m.AttemptStarted(ruler, 1), m.AttemptSucceeded(ruler, Sealed(payload=b"1"))),
        *(m.AttemptStarted(first, 1), m.AttemptSucceeded(first, Sealed())),
        *(m.AttemptStarted(reader, 1), m.AttemptFailed(reader, failure(), False), m.TaskFailed(reader)),
        m.ControllerAnswered(0, "retry"),
    ]
    machine = fold([m.Record(0.0, events)], {PLAN: plan})
    for event in recovery(machine):
        machine.apply(event)
    assert machine.due() == [m.Revert(reader, 1)]
    for event in (m.RevertStarted(reader, 1), m.RevertSucceeded(reader, None)):
        machine.apply(event)
    assert machine.due() == [m.Revert(first, 1)]


def test_a_flow_that_ended_in_time_has_its_time_again_for_what_is_made_again() -> None:
    """It had ended long ago, and was late at once when it was resumed."""
    plan = linear("f", linear("g", task("a"), task("b"), timeout=5.0), task("c")).compile()
    play = Play(plan)
    play.tell(m.ScopeStarted(1, 5.0))
    play.run("a", "b")
    play.now = 9.0
    play.tell(m.RunResumed(None, None), m.ValuesLost([0]))
    assert not play.machine.is_late(1)
    assert play.due() == ["open g", "start g/a#2", "start c#1"]


def test_what_has_succeeded_in_a_flow_that_has_failed_lets_nothing_behind_it_start() -> None:
    """Where all was counted anew, as for a lost value or a changed flow, it let what is behind begin."""

    def late(*more: Any) -> Plan:
        inner = linear("late", task("a"), task("b"), timeout=1.0)
        return linear("f", linear("g", inner, retry=Times(2)), task("behind"), *more).compile()

    play = Play(late())
    play.run("g/times")
    play.tell(m.ScopeStarted(2, 1.0))
    play.run("g/late/a")
    play.start("g/late/b")
    play.now = 2.0
    play.tell(m.DeadlinePassed(2))
    play.succeed("g/late/b")
    machine = fold(play.journal, {PLAN: play.plan})
    machine.adopt(late(task("more")))
    machine.apply(m.RunResumed("today", None))
    assert machine.due() == [m.Decide(1)]


def test_what_was_being_made_again_and_is_skipped_in_the_end_holds_nobody_up() -> None:
    """Its flow was undone since it failed, and when that runs again its condition says no."""

    @decorated(provides="v", checkpoint=False, when=lambda: True, depth="task")
    def made() -> int:
        return 1

    @decorated
    def reader(v: int = 0) -> int:
        return v

    inner = linear("g", made, task("b"), retry=AlwaysRevert(), revert_scope="flow")
    plan = linear("f", inner, linear("h", task("c"), reader)).compile()
    ruler, a, b, c = (plan.index(path) for path in ("g/always_revert", "g/made", "g/b", "h/c"))
    machine = fold([m.Record(0.0, [m.RunStarted("run", "f", PLAN, {})])], {PLAN: plan})
    for event in (
        *(m.AttemptStarted(ruler, 1), m.AttemptSucceeded(ruler, None), m.ConditionAnswered(0, True)),
        *(m.AttemptStarted(a, 1), m.AttemptSucceeded(a, Sealed()), m.AttemptStarted(b, 1)),
        *(m.RunResumed(None, None), m.AttemptLost(b, "crash"), m.ValuesLost([a])),
        *(m.AttemptStarted(a, 2), m.AttemptFailed(a, failure(), False), m.TaskFailed(a)),
        *(m.ControllerAnswered(1, "revert"), m.RevertStarted(a, 1), m.RevertSucceeded(a, None)),
        *(m.RevertStarted(ruler, 1), m.RevertSucceeded(ruler, None), m.RunEnded("FAILED")),
        *(m.RunResumed(None, None), m.AttemptStarted(ruler, 1), m.AttemptSucceeded(ruler, None)),
        *(m.ConditionAnswered(0, False), m.TaskSkipped(a), m.AttemptStarted(b, 1), m.AttemptSucceeded(b, None)),
        *(m.AttemptStarted(c, 1), m.AttemptSucceeded(c, None)),
    ):
        machine.apply(event)
    assert machine.due() == [m.Start(plan.index("h/reader"), 1)]


def test_a_controller_is_asked_once_the_value_that_it_reads_is_there() -> None:
    """It may have been made again by then; without it, what was left to be tried was not."""

    @decorated(provides="hosts", checkpoint=False)
    def listed() -> list[int]:
        return [1, 2]

    inner = linear("g", task("a"), retry=ForEachInput("hosts", provides="host"))
    plan = linear("f", listed, inner).compile()
    hosts, ruler, a = range(3)
    machine = Play(plan).machine
    for event in (m.AttemptStarted(hosts, 1), m.AttemptSucceeded(hosts, Sealed())):
        machine.apply(event)
    for event in (m.AttemptStarted(ruler, 1), m.AttemptSucceeded(ruler, 1), m.AttemptStarted(a, 1)):
        machine.apply(event)
    for event in (m.AttemptFailed(a, failure(), False), m.TaskFailed(a)):
        machine.apply(event)
    for event in recovery(machine):
        machine.apply(event)
    assert machine.due() == [m.Start(hosts, 2)] and not machine.is_asking
    for event in (m.AttemptStarted(hosts, 2), m.AttemptSucceeded(hosts, [1, 2])):
        machine.apply(event)
    assert machine.due() == [m.Decide(1)]


def test_a_flow_that_waited_to_run_again_remembers_what_it_has_tried() -> None:
    """Another one gave up alone meanwhile, and the run goes on: what a controller has tried it has tried."""
    g = linear("g", task("a"), retry=Times(3))
    h = linear("h", task("c"), retry=Times(1), revert_scope="flow")
    machine = Play(unordered("f", g, h)).machine
    ruler, a, other, c = range(4)
    for number in (ruler, other):
        machine.apply(m.AttemptStarted(number, 1))
        machine.apply(m.AttemptSucceeded(number, 1))
    for event in (m.AttemptStarted(a, 1), m.AttemptFailed(a, failure(), False), m.TaskFailed(a)):
        machine.apply(event)
    for event in (m.ControllerAnswered(1, "retry"), m.RevertStarted(a, 1), m.RevertSucceeded(a, None)):
        machine.apply(event)
    for event in (m.FlowStartedOver(1, [ruler, a], 5.0), m.AttemptStarted(c, 1), m.AttemptFailed(c, failure(), False)):
        machine.apply(event)
    for event in (m.TaskFailed(c), m.ControllerAnswered(2, "revert")):
        machine.apply(event)
    for number in (c, other):
        machine.apply(m.RevertStarted(number, 1))
        machine.apply(m.RevertSucceeded(number, None))
    for event in (m.RunEnded("FAILED"), m.RunResumed()):
        machine.apply(event)
    assert [len(machine.controls[scope].history) for scope in (1, 2)] == [1, 0]


# --- A changed flow ---------------------------------------------------------------------------------------------------


def test_a_changed_flow_keeps_what_each_task_has_done() -> None:
    """Tasks are known by their paths: numbers move, and what is new begins."""
    play = Play(linear("f", task("a"), unordered("g", task("b"), task("c")), task("d")))
    play.run("a", "g/b")
    play.due()
    play.start("g/c")
    today = linear("f", task("first"), task("a"), unordered("g", task("c"), task("b"), task("e")), task("d")).compile()
    machine = fold(play.journal, {PLAN: play.plan})
    machine.adopt(today)
    for event in recovery(machine, plan="today"):
        machine.apply(event)
    states = {today.path(at): state for at, state in enumerate(machine.states)}
    assert states == {"first": 0, "a": 3, "g/c": 0, "g/b": 3, "g/e": 0, "d": 0}
    assert machine.values[today.index("g/b")] == "G/B"
    assert [(c.task, c.attempt) for c in machine.due() if isinstance(c, m.Start)] == [
        (today.index("first"), 1),
        (today.index("g/c"), 2),
        (today.index("g/e"), 1),
    ]


def test_a_task_that_is_gone_keeps_its_last_state() -> None:
    """What it did is still part of what the run did."""
    play = Play(chain("a", "b"))
    play.run("a")
    machine = play.machine
    machine.adopt(chain("b", "c"))
    assert machine.retired == {"a": 3}
    machine.apply(m.RunResumed("today"))
    assert [type(command) for command in machine.due()] == [m.Start]


def test_a_run_that_is_undone_goes_on_in_the_reverse_order_of_the_changed_flow() -> None:
    """The numbers are today's, the order of starts is what it was."""
    play = Play(dag({"a": (), "b": "a", "c": "a"}))
    play.run("a", "b", "c")
    play.tell(m.CancelRequested("enough"))
    play.undo("c")
    today = dag({"z": (), "c": "a", "b": "a", "a": ()})
    machine = fold(play.journal, {PLAN: play.plan})
    machine.adopt(today)
    machine.apply(m.RunResumed("today"))
    assert [(type(c).__name__, today.path(c.task)) for c in machine.due() if isinstance(c, m.Revert)] == [
        ("Revert", "b")
    ]
    machine.apply(m.RevertStarted(today.index("b"), 1))
    machine.apply(m.RevertSucceeded(today.index("b"), None))
    assert [today.path(c.task) for c in machine.due() if isinstance(c, m.Revert)] == ["a"]


def test_a_flow_whose_undoing_was_cut_off_starts_over_although_it_has_changed() -> None:
    """A revert that was running when the process died is not waited for under the new plan."""
    plan = linear("f", linear("again", task("a"), retry=Times(2))).compile()
    ruler, a, scope = plan.index("again/times"), plan.index("again/a"), plan.controlled[0]
    events = [
        m.RunStarted("run", "f", PLAN, {}),
        *(m.AttemptStarted(ruler, 1), m.AttemptSucceeded(ruler, 1)),
        *(m.AttemptStarted(a, 1), m.AttemptFailed(a, failure(), False), m.TaskFailed(a)),
        *(m.ControllerAnswered(scope, "retry"), m.RevertStarted(a, 1)),
    ]
    today = linear("f", linear("again", task("a"), retry=Times(2)), task("b")).compile()
    machine = fold([m.Record(0.0, events)], {PLAN: plan})
    machine.adopt(today)
    for event in recovery(machine, plan="today"):
        machine.apply(event)
    [revert] = machine.due()
    assert isinstance(revert, m.Revert) and today.path(revert.task) == "again/a"
    machine.apply(m.RevertStarted(revert.task, 2))
    machine.apply(m.RevertSucceeded(revert.task, None))
    assert [type(command) for command in machine.due()] == [m.StartOver]


# --- Folding ----------------------------------------------------------------------------------------------------------


def test_a_journal_names_its_plans_in_order() -> None:
    """The last is the one in force."""
    records = [m.Record(0.0, [m.RunStarted("run", "f", "one", {})]), m.Record(1.0, [m.RunResumed("two")])]
    assert plans_named([*records, m.Record(2.0, [m.RunResumed()])]) == ["one", "two"]


@pytest.mark.parametrize(
    ("records", "why"),
    [
        ([], "a journal has no records, so there is nothing to fold"),
        ([m.Record(0.0, [m.RunResumed()])], "a journal begins with RunResumed, not with RunStarted"),
    ],
)
def test_a_journal_without_a_beginning_is_refused(records: list[m.Record], why: str) -> None:
    """What follows from it would be guesswork."""
    with pytest.raises(InternalError, match=why):
        fold(records, {})


@pytest.mark.parametrize(
    ("recovers", "is_left"),
    [([], False), ([True], True), ([False], False), ([False, True], True), ([True, False], False)],
)
def test_a_run_was_left_if_the_last_who_suspended_it_meant_it_to_go_on(recovers: list[bool], is_left: bool) -> None:
    """An engine that closes leaves its runs to the next; what a user has suspended is the user's to resume."""
    asked = [m.Record(1.0, [m.SuspendRequested("enough", recover=recover)]) for recover in recovers]
    assert was_left([m.Record(0.0, [m.AttemptStarted(0, 1)]), *asked, m.Record(2.0, [m.RunSuspended()])]) is is_left


def test_a_plan_from_a_journal_decides_nothing() -> None:
    """Policies are in the code and not in the record, so a listing that asked one would be wrong."""
    machine = RunMachine(recorded.decode(recorded.body_of(chain("a"))))
    machine.apply(m.RunStarted("run", "chain", PLAN, {}))
    machine.apply(m.AttemptStarted(0, 1))
    machine.apply(m.AttemptFailed(0, failure(), True))
    with pytest.raises(InternalError, match="was read from a journal and cannot decide anything"):
        machine.due()


async def _ask() -> None:
    """Know nothing."""
