"""What a changed flow takes over of flows, controllers and conditions, and what it keeps of those that are gone."""

from __future__ import annotations

from typing import Any

import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.graph.flow import Flow
from asyncflow.machine.control import ControlPhase
from asyncflow.machine.failures import failures_of, present_attempt
from asyncflow.machine.fit import verdicts_on
from asyncflow.machine.ledger import NOTHING, REVERTED, RUN_DEADLINE, SKIPPED, SUCCEEDED
from asyncflow.machine.replay import fold, recovery
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Sealed
from asyncflow.states import RunState
from tests.machine.stage import ALWAYS, PLAN, Stage, t
from tests.machine.test_conditions import broken, no, yes


def adopted(stage: Stage, today: Flow[..., Any], *events: m.Event) -> RunMachine:
    """Return the machine of a run, folded from its journal and gone on under *today*'s flow."""
    machine = fold(stage.journal, {PLAN: stage.plan})
    machine.adopt(today.compile())
    for event in (m.RunResumed("today"), *events):
        machine.apply(event)
    return machine


def test_what_had_not_started_and_is_gone_leaves_no_trace() -> None:
    """Only what a run did is part of it."""
    stage = Stage(af.linear("f", t("a"), t("b"), t("c"))).play(most=1)
    machine = adopted(stage, af.linear("f", t("a"), t("c")))
    assert (machine.retired, machine.forsaken, machine.gone_failures) == ({}, [], {})
    assert machine.due() == [m.Start(1, 1)]


def test_the_failure_of_a_flow_that_is_gone_is_still_told() -> None:
    """Its condition raised, which was why the run failed; taking the flow out does not make that unsaid."""
    stage = Stage(af.linear("f", t("a"), af.linear("g", t("b"), when=broken)))
    stage.play()
    told = failures_of(adopted(stage, af.linear("f", t("a"))))
    assert [(path, type(failure.exception)) for path, failure in told.items()] == [("g", LookupError)]
    assert [*failures_of(adopted(stage, af.linear("f", af.linear("g", t("b")), t("a"))))] == ["g"]


def ruled(*items: Any, name: str = "g", times: int = 2) -> Flow[..., Any]:
    return af.linear(name, *items, retry=af.Times(times))


def test_a_flow_that_is_being_undone_goes_on_with_that_under_its_new_number() -> None:
    """A process dies between a controller's answer and the flow's next attempt, and a deploy moves the flow."""
    stage = Stage(af.linear("f", t("p"), ruled(t("a"), t("b"))), {"b": 1}).play(most=4)
    stage.answer()
    assert stage.told == "p times a b! g:retry"
    machine = adopted(stage, af.linear("f", af.linear("new", t("n")), t("p"), ruled(t("a"), t("b"))))
    assert machine.halted() == [2]
    control = machine.controls[2]
    assert (control.phase, control.scope, control.busy) == (ControlPhase.UNDOING, 2, 0)
    plan = machine.plan
    assert machine.due() == [m.Revert(plan.index("g/b"), 1), m.Start(plan.index("new/n"), 1)]
    for name in ("b", "a"):
        at = plan.index(f"g/{name}")
        assert machine.wants(at, 1, is_revert=True)
        machine.apply(m.RevertStarted(at, 1))
        machine.apply(m.RevertSucceeded(at, None))
    over = m.StartOver(2, [plan.index(f"g/{name}") for name in ("times", "a", "b")], 0.0)
    assert over in machine.due()
    machine.apply(m.FlowStartedOver(2, over.tasks))
    assert machine.due() == [m.Start(plan.index("g/times"), 1)]


def test_a_controller_that_is_gone_is_not_asked() -> None:
    """What has fallen still for its question goes on without it."""
    stage = Stage(af.linear("f", ruled(t("a"), t("b")), ruled(t("c"), name="h")), {"b": 1}).play(most=3)
    machine = adopted(stage, af.linear("f", af.linear("g", t("a"), t("b")), ruled(t("c"), name="h")))
    assert [machine.plan.scopes[scope].path for scope in machine.controls] == ["h"]
    assert machine.halted() == []


def test_a_flow_that_is_undone_alone_is_found_again() -> None:
    """``revert_scope="flow"`` undoes one flow; where that is gone, nothing else is undone for it."""

    def g(*items: Any) -> Flow[..., Any]:
        return af.linear("g", *items, retry=af.Times(1), revert_scope="flow")

    stage = Stage(af.linear("f", t("p"), g(t("a"), t("b"))), {"b": ALWAYS}).play(most=4)
    stage.answer()
    assert stage.machine.undo_scope == 1
    moved = adopted(stage, af.linear("f", af.linear("new", t("n")), t("p"), g(t("a"), t("b"))))
    plan = moved.plan
    assert (moved.undo_scope, moved.due()) == (2, [m.Revert(plan.index("g/b"), 1)])
    gone = adopted(stage, af.linear("f", t("p"), t("q")))
    assert (gone.undo_scope, gone.due()) == (NOTHING, [m.End("FAILED")])
    assert sorted(gone.retired) == ["g/a", "g/b", "g/times"]


def test_a_flow_that_was_undone_alone_runs_again_although_something_beside_it_has_changed() -> None:
    """It had given up, and counted as fallen still under the new plan: nothing in it started, and no run ended."""

    def today(*more: Any) -> Flow[..., Any]:
        g = af.linear("g", t("a"), t("b"), retry=af.Times(1), revert_scope="flow")
        return af.linear("f", t("p"), g, *more)

    stage = Stage(today(), {"b": ALWAYS}).play()
    assert stage.told == "p times a b! g:revert -b -a -times FAILED"
    machine = adopted(stage, today(t("new")))
    assert (machine.halted(), machine.due()) == ([], [m.Start(machine.plan.index("g/times"), 1)])


def test_answers_deadlines_and_skips_stay_with_what_they_are_about() -> None:
    """Conditions are known by what they guard, time limits by their flow; the run's own deadline is nobody's number."""

    def today(*first: Any) -> Flow[..., Any]:
        return af.linear("f", *first, t("a", when=no, depth="neighbours"), t("b"), af.linear("g", t("c"), timeout=5.0))

    stage = Stage(today())
    (ask,) = stage.machine.due()
    assert isinstance(ask, m.Evaluate)
    stage.tell(m.ConditionAnswered(ask.guard, False))
    stage.tell(m.TaskSkipped(0))
    stage.tell(m.ScopeStarted(1, 7.0))
    machine = adopted(stage, today(af.linear("new", t("n", when=yes))))
    path = [machine.plan.path(at) for at in range(machine.plan.size)]
    assert path == ["new/n", "a", "b", "g/c"]
    assert machine.states[1] == SKIPPED and not machine.wants(2)
    assert machine.scope_deadlines == {2: 7.0}
    assert machine.due() == [m.Skip(2)]
    machine.apply(m.TaskSkipped(2))
    (ask,) = machine.due()
    assert isinstance(ask, m.Evaluate) and machine.plan.guards[ask.guard].node == 0, "a has been asked already"
    assert machine.due() == [m.Start(3, 1)]
    stage.tell(m.DeadlinePassed(1))
    stage.tell(m.DeadlinePassed(RUN_DEADLINE))
    late = adopted(stage, today(af.linear("new", t("n"))))
    assert late.late_scopes == [2]
    assert late.gone_failures == {}, "the flow is there, and it is told of by its own number"


def test_a_deadline_that_passed_stays_the_run_s() -> None:
    """It lies around all flows, whatever their numbers."""
    stage = Stage(af.linear("f", t("a"), t("b"))).play(most=1)
    stage.tell(m.DeadlinePassed(RUN_DEADLINE))
    assert adopted(stage, af.linear("f", t("new"), t("a"))).late_scopes == [RUN_DEADLINE]


def test_what_was_undone_and_is_gone_was_not_forsaken() -> None:
    """Only what can be undone no more is to be told, and only where there was anything to undo."""
    b = t("b")

    @b.revert
    def undo() -> None: ...

    stage = Stage(af.linear("f", t("a"), b, t("c")))
    for number in (0, 1):
        stage.tell(m.AttemptStarted(number, 1))
        stage.tell(m.AttemptSucceeded(number, 1))
    stage.tell(m.CancelRequested("enough"))
    machine = adopted(stage, af.linear("f", t("a")))
    assert (machine.retired, machine.forsaken) == ({"b": SUCCEEDED}, ["b"])
    stage.tell(m.RevertStarted(1, 1))
    stage.tell(m.RevertSucceeded(1, None))
    machine = adopted(stage, af.linear("f", t("a")))
    assert (machine.retired, machine.forsaken) == ({"b": REVERTED}, [])
    assert machine.phase is RunState.REVERTING


def test_a_flow_that_starts_over_forgets_what_failed_in_it_and_is_gone() -> None:
    """Its controller has heard of the failure once; the next attempt has a history of its own."""
    stage = Stage(af.linear("f", t("p"), ruled(t("a"), t("b"))), {"b": 1}).play(most=4)
    stage.machine.due()
    stage.tell(m.TaskFailed(3))
    plan = af.linear("f", t("p"), ruled(t("a"))).compile()
    machine = fold(stage.journal, {PLAN: stage.plan})
    machine.adopt(plan)
    machine.apply(m.RunResumed("today"))
    assert [*failures_of(machine)] == ["g/b"]
    assert machine.due() == [m.Decide(1)]
    machine.apply(m.ControllerAnswered(1, "retry"))
    assert machine.due() == [m.Revert(2, 1)]
    machine.apply(m.RevertStarted(2, 1))
    machine.apply(m.RevertSucceeded(2, None))
    assert machine.due() == [m.StartOver(1, [1, 2], 0.0)]
    machine.apply(m.FlowStartedOver(1, [1, 2]))
    assert failures_of(machine) == {}


def test_what_is_open_about_a_task_stays_open_under_its_new_number() -> None:
    """Whether it is in doubt, is being made again or is being undone: else it is done again unasked, or never ends."""
    today = af.unordered("f", t("new"), t("a"), t("b"))
    stage = Stage(af.unordered("f", t("a"), t("b")), side_by_side=True)
    for event in (m.AttemptStarted(0, 1), m.AttemptLost(0, "crash")):
        stage.tell(event)
    assert adopted(stage, today).in_doubt == {1}
    assert adopted(stage, af.unordered("f", t("new"), t("b"))).in_doubt == set()

    stage = Stage(af.unordered("f", t("a"), t("b")))
    for event in (m.AttemptStarted(1, 1), m.AttemptSucceeded(1, 1), m.ValuesLost([1])):
        stage.tell(event)
    assert adopted(stage, today)._remaking == {2}

    stage = Stage(af.unordered("f", t("a"), t("b")))
    for event in (m.AttemptStarted(1, 1), m.AttemptSucceeded(1, 1), m.CancelRequested("enough"), m.RevertStarted(1, 1)):
        stage.tell(event)
    machine = fold(stage.journal, {PLAN: stage.plan})
    machine.adopt(today.compile())
    assert recovery(machine) == [m.RunResumed(None), m.AttemptLost(2, "crash")]


def test_a_controller_that_is_new_is_asked() -> None:
    """A deploy gives a flow one while it runs."""
    stage = Stage(af.linear("f", t("p"), af.linear("g", t("a"), t("b")))).play(most=1)
    machine = adopted(stage, af.linear("f", t("p"), ruled(t("a"), t("b"))))
    plan = machine.plan
    for name in ("times", "a"):
        task = plan.index(f"g/{name}")
        assert machine.due() == [m.Start(task, 1)]
        machine.apply(m.AttemptStarted(task, 1))
        if name == "times":
            machine.apply(m.AttemptSucceeded(task, 1))
    machine.apply(m.AttemptFailed(task, af.Failure(OSError()), False))
    assert machine.due() == [m.GiveUp(task)]
    machine.apply(m.TaskFailed(task))
    assert machine.due() == [m.Decide(1)]


def test_a_flow_that_has_ended_well_has_under_another_plan() -> None:
    """Also while a value in it is made again: its controller is not asked about what fails then."""

    def today(*first: Any) -> Flow[..., Any]:
        return af.linear("f", *first, ruled(t("a")), t("z"))

    stage = Stage(today()).play(most=2)
    a = stage.plan.index("g/a")
    stage.tell(m.ValuesLost([a]))
    assert stage.machine._settled == {1}
    assert adopted(stage, today(t("new")))._settled == {1}
    assert adopted(stage, af.linear("f", af.linear("g", t("a")), t("z")))._settled == set()


def test_a_condition_that_is_new_is_not_asked_of_what_has_started() -> None:
    """What has begun cannot be skipped any more."""
    stage = Stage(af.linear("f", t("a", retry=af.Retry(2))), {"a": 1}).play(most=1)
    stage.machine.due()
    stage.tell(m.RetryScheduled(0, 5.0))
    assert adopted(stage, af.linear("f", t("a", retry=af.Retry(2), when=no))).due() == [m.Start(0, 2, 5.0)]


def test_what_failed_beside_a_flow_and_is_gone_is_not_its_controller_s() -> None:
    """Its history is of its own attempts."""
    stage = Stage(af.unordered("f", af.linear("h", t("x")), ruled(t("a"), t("b")), on_failure="finish"), {"x": ALWAYS})
    for event in (m.AttemptStarted(0, 1), m.AttemptFailed(0, af.Failure(OSError()), False), m.TaskFailed(0)):
        stage.tell(event)
    machine = adopted(stage, af.unordered("f", ruled(t("a"), t("b")), on_failure="finish"))
    assert [*failures_of(machine)] == ["h/x"]
    assert present_attempt(machine, 1)[1] == {}


def test_what_is_new_in_a_flow_that_has_ended_well_is_none_of_its_controller_s_business() -> None:
    """What is behind the flow has begun, and reads what undoing the flow would take away."""

    def today(*more: Any) -> Flow[..., Any]:
        return af.linear("f", ruled(t("a"), *more), t("z"))

    stage = Stage(today()).play(most=2)
    stage.answer()
    stage.tell(m.AttemptStarted(stage.plan.index("z"), 1))
    machine = adopted(stage, today(t("new")))
    new = machine.plan.index("g/new")
    assert machine.due() == [m.Start(new, 1)]
    for event in (m.AttemptStarted(new, 1), m.AttemptFailed(new, af.Failure(OSError()), False), m.TaskFailed(new)):
        machine.apply(event)
    assert (machine.phase, machine.halted()) == (RunState.REVERTING, [])


def test_what_was_lost_waits_for_what_is_new_in_front_of_it() -> None:
    """Like everything else that has no ending."""
    stage = Stage(af.linear("f", t("a"), t("b"))).play(most=1)
    stage.answer()
    stage.tell(m.AttemptStarted(1, 1))
    machine = adopted(stage, af.linear("f", t("a"), t("new"), t("b")), m.AttemptLost(2, "crash"))
    assert machine.due() == [m.Start(1, 1)]
    for event in (m.AttemptStarted(1, 1), m.AttemptSucceeded(1, None)):
        machine.apply(event)
    assert machine.due() == [m.Start(2, 2)]


def test_in_a_run_that_is_undone_nothing_new_is_asked_or_skipped() -> None:
    """It is not going to run."""

    def today(*first: Any, **options: Any) -> Flow[..., Any]:
        return af.linear("f", t("a", when=no, depth="all"), *first, af.linear("g", t("b"), **options))

    stage = Stage(af.unordered("f", today(), t("z")))
    stage.answer()
    stage.tell(m.AttemptStarted(stage.plan.index("z"), 1))
    stage.tell(m.CancelRequested("enough"))
    machine = adopted(stage, af.unordered("f", today(t("new"), when=yes), t("z")))
    assert machine.due() == []


def test_what_failed_without_having_started_and_is_gone_is_still_told() -> None:
    """Else nothing says why the run failed."""
    stage = Stage(af.linear("f", t("a"), t("b", when=broken))).play(most=1)
    stage.answer()
    machine = adopted(stage, af.linear("f", t("a")))
    assert [(path, type(failure.exception)) for path, failure in failures_of(machine).items()] == [("b", LookupError)]


def test_a_time_limit_that_has_changed_counts_from_where_the_old_one_did() -> None:
    """One that is gone cuts nothing any more."""

    def today(**options: Any) -> Flow[..., Any]:
        return af.linear("f", af.linear("g", t("a"), t("b"), **options))

    stage = Stage(today(timeout=5.0))
    stage.tell(m.ScopeStarted(1, 105.0))
    assert adopted(stage, today()).scope_deadlines == {}
    assert adopted(stage, today(timeout=60.0)).scope_deadlines == {1: 160.0}
    assert adopted(stage, today(timeout=2.0)).scope_deadlines == {1: 102.0}


def test_a_flow_that_is_undone_alone_must_keep_its_controller() -> None:
    """It is by that, and from there on, that it is undone; once it is, the flow may be another."""

    def today(**options: Any) -> Flow[..., Any]:
        return af.linear("f", t("p"), af.linear("g", t("a"), t("b"), **options), t("z"))

    controlled: Any = {"retry": af.Times(1), "revert_scope": "flow"}
    stage = Stage(today(**controlled), {"b": ALWAYS}).play(most=4)
    stage.answer()
    (verdict,) = [one for one in verdicts_on(today().compile(), stage.machine) if not one.may_be_accepted]
    assert (verdict.path, verdict.is_refused) == ("g", True) and "is being undone" in verdict.text
    assert verdicts_on(today(**controlled).compile(), stage.machine) == []
    stage.play()
    assert stage.told.endswith("-b -a -times FAILED")
    machine = adopted(stage, today())
    assert machine.due() == [m.Start(machine.plan.index("g/a"), 1)]


def test_a_condition_that_is_new_is_not_asked_of_a_flow_that_has_begun() -> None:
    """What has begun is not skipped any more, nor is a controller that it had none of before."""

    def today(**options: Any) -> Flow[..., Any]:
        return af.linear("f", t("p"), af.linear("g", t("a"), t("b"), **options))

    stage = Stage(today()).play(most=2)
    machine = adopted(stage, today(when=no, retry=af.Times(2)))
    assert machine.due() == [m.Start(machine.plan.index("g/times"), 1), m.Start(machine.plan.index("g/b"), 1)]
    asks = af.linear("f", t("new", when=no, depth="all"), t("p"), af.linear("g", t("a"), t("b"), retry=af.Times(2)))
    machine = adopted(stage, asks)
    (ask,) = machine.due()
    assert isinstance(ask, m.Evaluate)
    machine.apply(m.ConditionAnswered(ask.guard, False))
    plan = machine.plan
    assert machine.due() == [m.Skip(plan.index("new")), m.Skip(plan.index("g/b"))]


def test_a_flow_that_starts_over_behind_a_no_that_is_new_is_skipped() -> None:
    """It has not begun any more, and stood still, since it was neither started nor skipped."""
    asks = af.linear("f", t("p", when=no, depth="neighbours"), ruled(t("a"), t("b")))
    stage = Stage(af.linear("f", t("q"), ruled(t("a"), t("b"))), {"b": 1}).play(most=4)
    stage.answer()
    machine = adopted(stage, asks)
    plan = machine.plan
    _, ask = machine.due()
    assert isinstance(ask, m.Evaluate)
    machine.apply(m.ConditionAnswered(ask.guard, False))
    assert machine.due() == [m.Skip(plan.index("p"))]
    machine.apply(m.TaskSkipped(plan.index("p")))
    for name in ("b", "a"):
        at = plan.index(f"g/{name}")
        machine.apply(m.RevertStarted(at, 1))
        machine.apply(m.RevertSucceeded(at, None))
        machine.due()
    tasks = [plan.index(f"g/{name}") for name in ("times", "a", "b")]
    machine.apply(m.FlowStartedOver(1, tasks))
    assert m.Skip(tasks[0]) in machine.due()


def test_a_controller_that_is_new_is_not_started_once_its_flow_has_failed() -> None:
    """What comes before it had still to run then; once it has, the controller is asked."""
    stage = Stage(af.linear("f", af.linear("g", t("a"), t("b")))).play(most=1)
    stage.answer()
    stage.tell(m.AttemptStarted(1, 1))
    flow = af.linear("f", t("new"), ruled(t("a"), t("b")))
    new, _, _, b = range(4)
    machine = adopted(stage, flow, m.AttemptLost(b, "crash"))
    assert machine.due() == [m.Start(new, 1), m.Start(b, 2)]
    for event in (m.AttemptStarted(new, 1), m.AttemptStarted(b, 2), m.AttemptFailed(b, af.Failure(OSError()), False)):
        machine.apply(event)
    assert machine.due() == [m.GiveUp(b)]
    machine.apply(m.TaskFailed(b))
    assert machine.due() == []
    machine.apply(m.AttemptSucceeded(new, None))
    assert machine.due() == [m.Decide(1)]


# --- What is undone when the flow changes -----------------------------------------------------------------------------


def undoing(*tries: str) -> Stage:
    """Return the stage of a cancelled run of a and b, which are not linked, with one try at the revert of each."""
    stage = Stage(af.graph("f", t("a"), t("b"))).play(most=2)
    stage.tell(m.CancelRequested("enough"))
    stage.machine.due()
    for name in tries:
        stage.tell(m.RevertStarted(stage.plan.index(name), 1))
    return stage


def linked() -> Flow[..., Any]:
    flow = af.graph("f", t("a"), t("b"))
    flow.link("a", "b")
    return flow


def test_a_revert_that_was_lost_is_made_behind_what_a_changed_flow_has_put_after_its_task() -> None:
    """It was made at once, beside that, and counted twice: the run never ended."""
    machine = adopted(undoing("a", "b"), linked(), m.AttemptLost(0, "crash"), m.AttemptLost(1, "crash"))
    for task in (1, 0):
        assert machine.due() == [m.Revert(task, 2)]
        machine.apply(m.RevertStarted(task, 2))
        machine.apply(m.RevertSucceeded(task, None))
    assert machine.due() == [m.End("CANCELLED")]


def test_a_revert_that_waits_is_not_forgotten_behind_what_a_changed_flow_has_put_after_its_task() -> None:
    """The run ended, and said that everything was undone."""
    stage = undoing("a")
    stage.tell(m.RevertFailed(0, af.Failure(OSError()), True))
    stage.tell(m.RetryScheduled(0, 7.0))
    machine = adopted(stage, linked())
    assert machine.due() == [m.Revert(1, 1)]
    machine.apply(m.RevertStarted(1, 1))
    machine.apply(m.RevertSucceeded(1, None))
    assert machine.due() == [m.Revert(0, 2, 7.0)]


def test_a_revert_that_has_failed_behind_what_a_changed_flow_has_put_after_its_task_is_not_counted() -> None:
    """It is given up before its turn; the run ends, and does not say that everything was undone."""
    stage = undoing("a")
    stage.tell(m.RevertFailed(0, af.Failure(OSError()), False))
    machine = adopted(stage, linked())
    assert machine.due() == [m.GiveUp(0, reverting=True)]
    machine.apply(m.RevertGivenUp(0))
    assert machine.due() == [m.Revert(1, 1)]
    machine.apply(m.RevertStarted(1, 1))
    assert machine.due() == [], "it has not ended while b is being undone"
    machine.apply(m.RevertSucceeded(1, None))
    assert machine.due() == [m.End("FAILED")]


@pytest.mark.parametrize("is_under_way", [False, True])
def test_a_revert_of_a_flow_that_was_to_run_again_waits_where_a_changed_flow_has_put_something_behind(
    is_under_way: bool,
) -> None:
    """It was handed out when nothing behind was to be undone. One that has begun is not counted for the whole run."""

    def today() -> Flow[..., Any]:
        return af.graph("f", ruled(t("a"), t("b")), t("x"))

    stage = Stage(today())
    x = stage.plan.index("x")
    stage.tell(m.AttemptStarted(x, 1))
    flow = today()
    flow.link("g", "x")
    machine = adopted(stage, flow, m.AttemptLost(x, "crash"))
    ruler, a, b, x = (machine.plan.index(path) for path in ("g/times", "g/a", "g/b", "x"))
    for task in (ruler, a):
        machine.apply(m.AttemptStarted(task, 1))
        machine.apply(m.AttemptSucceeded(task, None))
    for event in (m.AttemptStarted(b, 1), m.AttemptFailed(b, af.Failure(OSError()), False)):
        machine.apply(event)
    machine.due()
    for event in (m.TaskFailed(b), m.ControllerAnswered(1, "retry")):
        machine.apply(event)
    assert machine.due() == [m.Revert(b, 1)]
    for event in (m.RevertStarted(b, 1), m.RevertSucceeded(b, None)):
        machine.apply(event)
    assert machine.due() == [m.Revert(a, 1)]
    if is_under_way:
        machine.apply(m.RevertStarted(a, 1))
    machine.apply(m.CancelRequested("enough"))
    assert machine.due() == [m.Revert(x, 1)]
    assert not machine.wants(a, 1, is_revert=True)
    if is_under_way:
        machine.apply(m.RevertSucceeded(a, None))
    assert machine.due() == []
    for event in (m.RevertStarted(x, 1), m.RevertSucceeded(x, None)):
        machine.apply(event)
    for task in (ruler,) if is_under_way else (a, ruler):
        assert machine.due() == [m.Revert(task, 1)]
        machine.apply(m.RevertStarted(task, 1))
        machine.apply(m.RevertSucceeded(task, None))
    assert machine.due() == [m.End("CANCELLED")]


def test_a_flow_that_is_undone_alone_does_not_end_well_by_having_less_to_do() -> None:
    """One deploy takes out what failed, the next adds a task. Its controller is asked about that one."""

    def today(*names: str) -> Flow[..., Any]:
        return af.linear("f", t("p"), af.linear("g", *map(t, names), retry=af.Times(1), revert_scope="flow"))

    stage = Stage(today("a", "b"), {"b": ALWAYS}).play(most=4)
    stage.answer()
    machine = adopted(stage, today("a"))
    machine.adopt(today("a", "new").compile())
    machine.apply(m.RunResumed("tomorrow"))
    plan = machine.plan
    for name in ("a", "times"):
        at = plan.index(f"g/{name}")
        assert machine.due() == [m.Revert(at, 1)]
        machine.apply(m.RevertStarted(at, 1))
        machine.apply(m.RevertSucceeded(at, None))
    machine.apply(m.RunEnded("FAILED"))
    machine.apply(m.RunResumed(None))
    for name in ("times", "a"):
        at = plan.index(f"g/{name}")
        machine.apply(m.AttemptStarted(at, 1))
        machine.apply(m.AttemptSucceeded(at, None))
    new = plan.index("g/new")
    for event in (m.AttemptStarted(new, 1), m.AttemptFailed(new, af.Failure(OSError()), False)):
        machine.apply(event)
    assert machine.due() == [m.GiveUp(new)]
    machine.apply(m.TaskFailed(new))
    assert machine.due() == [m.Decide(1)]


def test_a_task_that_was_undone_and_is_back_after_a_deploy_without_it_has_a_key_of_its_own() -> None:
    """Else whoever is called takes its effect for one that was there already, and it has been undone."""

    def today(*more: Any) -> Flow[..., Any]:
        return af.linear("f", t("p"), ruled(*more, t("b")))

    stage = Stage(today(t("charge")), {"b": 1}).play(most=6)
    assert stage.told == "p times charge b! g:retry -b -charge"
    stage.answer()
    assert stage.machine.executions[stage.plan.index("g/charge")] == 1
    machine = adopted(stage, today())
    assert verdicts_on(today(t("charge")).compile(), machine)[-1].kind == "new"
    machine.adopt(today(t("charge")).compile())
    assert machine.executions[machine.plan.index("g/charge")] == 1
    assert machine.gone_executions == {}


def test_a_reset_counts_also_for_tasks_that_are_gone() -> None:
    """What they did and was not undone will be done once more when they are back; what was undone counts already."""

    def today(*more: Any) -> Flow[..., Any]:
        return af.linear("f", *more, t("p"), t("z"))

    def back(most: int, *undone: m.Event) -> int:
        stage = Stage(today(t("charge"))).play(most=most)
        stage.tell(m.CancelRequested("enough"))
        for event in undone:
            stage.tell(event)
        machine = adopted(stage, today(), m.RunEnded("CANCELLED"))
        machine.apply(m.RunReset("today", None))
        machine.adopt(today(t("charge")).compile())
        return machine.executions.get(0, 0)

    assert [back(0), back(1), back(1, m.RevertStarted(0, 1), m.RevertSucceeded(0, None))] == [0, 1, 1]
    machine = adopted(Stage(today(t("charge"))).play(most=1), today())
    machine.adopt(today(t("charge")).compile())
    for event in (m.RunResumed("tomorrow"), m.CancelRequested("enough"), m.RunEnded("CANCELLED")):
        machine.apply(event)
    machine.apply(m.RunReset("tomorrow", None))
    assert machine.gone_executions == {}, "it is not gone any more"


def test_a_flow_that_ended_in_time_has_its_time_again_for_what_is_new_in_it() -> None:
    """It had ended long ago, and was late at once when it was resumed."""

    def today(*more: Any) -> Flow[..., Any]:
        return af.linear("f", af.linear("g", t("a"), *more, timeout=5.0), t("z"))

    stage = Stage(today())
    stage.tell(m.ScopeStarted(1, 5.0))
    stage.play(most=1)
    machine = adopted(stage, today(t("new")))
    assert machine.scope_deadlines == {} and not machine.is_late(1)
    assert machine.due() == [m.OpenScope(1), m.Start(machine.plan.index("g/new"), 1)]


def test_conditions_of_links_are_known_by_both_ends() -> None:
    """One that a deploy adds before another was taken for that, and the task started though it says no."""

    def today(**links: Any) -> Flow[..., Any]:
        flow = af.graph("f", t("a"), t("b"), t("c"))
        for name, condition in links.items():
            flow.link(name, "c", when=condition)
        return flow

    stage = Stage(today(b=yes)).play(most=2)
    (ask,) = stage.machine.due()
    assert isinstance(ask, m.Evaluate)
    stage.tell(m.ConditionAnswered(ask.guard, True))
    machine = adopted(stage, today(a=no, b=yes))
    (ask,) = machine.due()
    assert isinstance(ask, m.Evaluate)
    asked = machine.plan.guards[ask.guard]
    assert [machine.plan.path(source) for source in asked.sources] == ["a"]
    machine.apply(m.ConditionAnswered(ask.guard, False))
    assert machine.due() == [m.Skip(2)]


def test_a_controller_that_takes_the_place_of_another_has_given_nothing_yet() -> None:
    """Its flow has failed under the other, whose value is not its own."""
    stage = Stage(af.linear("f", af.linear("g", t("a"), retry=af.ForEach([10, 20]))), {"a": ALWAYS}).play(most=2)
    stage.machine.due()
    stage.tell(m.TaskFailed(1))
    machine = adopted(stage, af.linear("f", ruled(t("a"))))
    assert machine.due() == [m.Decide(1)]
    value, failures = present_attempt(machine, 1)
    assert (value, [*failures]) == (None, ["g/a"])


def test_what_the_revert_of_a_changed_flow_reads_is_made_again() -> None:
    """It was not kept while nothing but a task that has ended read it; now the task could not be undone."""

    def today(*, is_changed: bool) -> Flow[..., Any]:
        token, charge = t("token", checkpoint=is_changed), t("charge", lambda token: token)
        if is_changed:
            charge.revert(lambda token: None)

        @af.flow
        def silent() -> None:
            charge(token())

        return silent

    stage = Stage(today(is_changed=False)).play(most=2)
    for change, lost in ((False, []), (True, [m.ValuesLost([0])])):
        machine = fold(stage.journal, {PLAN: stage.plan})
        machine.values[0] = Sealed()
        machine.adopt(today(is_changed=change).compile())
        assert recovery(machine, plan="today") == [m.RunResumed("today"), *lost]


def test_what_reads_an_unkept_value_waits_for_it_also_in_a_flow_that_has_no_controller_any_more() -> None:
    """It was undone alone, so all in it runs again, what a condition had skipped as well."""

    def today(**options: Any) -> Flow[..., Any]:
        token, read, b = t("token"), t("read", lambda token: token, when=no, depth="task"), t("b")

        @af.flow(**options)
        def g(token: Any) -> None:
            read(token)
            b()

        @af.flow
        def silent() -> None:
            g(token())

        return silent

    stage = Stage(today(retry=af.Times(1), revert_scope="flow"), {"b": ALWAYS}).play()
    assert stage.told.endswith("-b -times FAILED") and stage.names_in("SKIPPED") == "read"
    machine = fold(stage.journal, {PLAN: stage.plan})
    machine.values[0] = Sealed()
    machine.adopt(today().compile())
    assert recovery(machine, plan="today") == [m.RunResumed("today"), m.ValuesLost([0])]
