"""What a machine asks for, and in which order: exact sequences for small flows."""

from __future__ import annotations

from asyncflow import messages as m
from asyncflow.graph.controller import Times
from asyncflow.graph.pattern import linear, unordered
from asyncflow.machine.run import RUN_DEADLINE, RunMachine
from asyncflow.states import RunState
from tests.machine.flows import THRICE, Play, chain, dag, diamond, failure, play_through, side_by_side, task, two_groups

# --- Going forward ----------------------------------------------------------------------------------------------------


def test_a_chain_runs_one_task_after_the_other() -> None:
    """The simplest promise there is: what needs a value waits for it."""
    play = Play(chain("a", "b", "c"))
    assert play.due() == ["start a#1"]
    play.start("a")
    assert play.due() == []
    play.succeed("a")
    assert play.due() == ["start b#1"]
    play.start("b")
    play.succeed("b")
    assert play.due() == ["start c#1"]
    play.start("c")
    play.succeed("c")
    assert play.due() == ["end SUCCEEDED"]
    play.tell(m.RunEnded("SUCCEEDED"))
    assert play.due() == []
    assert play.machine.state is RunState.SUCCEEDED
    assert play.machine.values == ["A", "B", "C"]


def test_a_diamond_opens_and_closes() -> None:
    """Independent branches run at once, and what joins them waits for both."""
    play = Play(diamond())
    play.run("a")
    assert play.due() == ["start b#1", "start c#1"]
    play.start("c", "b")
    play.succeed("c")
    assert play.due() == [], "d needs b as well"
    play.succeed("b")
    assert play.due() == ["start d#1"]


def test_a_gate_passes_when_all_before_it_have_settled() -> None:
    """Groups in sequence meet at a gate, which must not let the second begin while the first has a member left."""
    play = Play(two_groups())
    assert play.plan.size == 4 and len(play.plan.successors) == 5, "one gate between the groups"
    play.due()
    play.start("a", "b")
    play.succeed("b")
    assert play.due() == []
    play.succeed("a")
    assert play.due() == ["start two/c#1", "start two/d#1"]


def test_gates_that_wait_for_nothing_pass_at_once() -> None:
    """Empty flows, nested and in sequence, are no reason to stand still."""
    empty = linear("all", unordered("none"), linear("also", unordered("nothing")), task("a"), unordered("last"))
    assert play_through(Play(empty)) == ["start a#1", "end SUCCEEDED"]


def test_a_flow_without_tasks_ends_as_it_begins() -> None:
    """A flow built in a loop may turn out empty."""
    assert Play(linear("empty")).decide() == ["end SUCCEEDED"]


def test_a_thousand_nested_flows_need_no_recursion() -> None:
    """Depth is data: a user's nesting must not meet Python's recursion limit."""
    nested = linear("innermost", task("a"), unordered("pair", task("b"), task("c")), task("d"))
    for depth in range(1_500):
        nested = linear(f"f{depth}", task("before"), nested, task("after"))
    machine = RunMachine(nested.compile())
    machine.apply(m.RunStarted("run", "nested", "plan", {}))
    starts = 0
    while not isinstance(command := machine.due()[0], m.End):
        assert isinstance(command, m.Start)
        tasks = [command.task] if command.task != 1_501 else [1_501, 1_502]
        for one in tasks:
            machine.apply(m.AttemptStarted(one, 1))
            machine.apply(m.AttemptSucceeded(one, None))
        starts += len(tasks)
    assert starts == machine.plan.size == 3_004
    assert command.state == "SUCCEEDED"


def test_what_is_due_is_handed_out_once() -> None:
    """Two starts for one attempt would be two bodies at once."""
    play = Play(side_by_side("a", "b"))
    assert play.due() == ["start a#1", "start b#1"]
    assert play.due() == []
    play.start("a")
    play.succeed("a")
    assert play.due() == [], "b was handed out before"


def test_no_more_starts_are_handed_out_than_asked_for() -> None:
    """A turn is cut so that a wide flow does not starve the application; what is left over is due the next time."""
    play = Play(side_by_side(*"abcde"))
    assert play.due(2) == ["start a#1", "start b#1"]
    assert play.due(2) == ["start c#1", "start d#1"]
    assert play.due(2) == ["start e#1"]
    assert play.due(2) == []


def test_what_becomes_ready_meanwhile_competes_with_what_was_left_over() -> None:
    """Order is by rank and not by how long something has been ready."""
    play = Play(dag({"a": (), "b": "a", "c": (), "d": ()}))
    assert play.due(1) == ["start a#1"]
    play.start("a")
    play.succeed("a")
    assert play.due(1) == ["start b#1"]
    assert play.due() == ["start c#1", "start d#1"]


def test_priority_decides_before_plan_order() -> None:
    """The one thing a user can say about order among equals."""
    low, high = {"priority": -1}, {"priority": 5}
    play = Play(dag({"a": (), "b": (), "c": (), "d": ()}, a=low, c=high))
    assert play.due() == ["start c#1", "start b#1", "start d#1", "start a#1"]


def test_a_flow_with_a_time_limit_opens_before_its_first_task_starts() -> None:
    """Its deadline is on record before anything depends on it, the outer flow's first."""
    inner = unordered("inner", task("b"), task("c"), timeout=2.0)
    play = Play(linear("outer", task("a"), inner, timeout=10.0))
    assert play.due() == ["open all", "start a#1"]
    play.tell(m.ScopeStarted(0, 10.0))
    play.run("a")
    assert play.due() == ["open inner", "start inner/b#1", "start inner/c#1"]
    assert play.due() == [], "a scope is opened once"
    play.tell(m.ScopeStarted(1, 2.0))
    assert (play.machine.deadline_of(0), play.machine.deadline_of(1)) == (10.0, 2.0), "the nearest counts"


# --- Undoing ----------------------------------------------------------------------------------------------------------


def test_a_chain_is_undone_from_its_end() -> None:
    """The failed task first, since it may have had half its effect."""
    play = Play(chain("a", "b", "c"))
    play.run("a")
    play.due()
    play.start("b")
    play.fail("b")
    assert play.decide() == ["give up b", "revert b#1"]
    play.undo("b")
    assert play.decide() == ["revert a#1"]
    play.undo("a")
    assert play.decide() == ["end REVERTED"]
    assert play.states == {"a": "REVERTED", "b": "REVERTED", "c": "PENDING"}
    assert play.machine.executions == {0: 1, 1: 1}


def test_a_diamond_is_undone_as_it_was_made() -> None:
    """Both branches at once, in reverse order of start, and the root only after both."""
    play = Play(diamond())
    play.run("a", "c", "b")
    play.due()
    play.start("d")
    play.fail("d")
    assert play.decide() == ["give up d", "revert d#1"]
    play.undo("d")
    assert play.decide() == ["revert b#1", "revert c#1"], "b started last"
    play.undo("b")
    assert play.decide() == []
    play.undo("c")
    assert play.decide() == ["revert a#1"]


def test_undoing_passes_gates() -> None:
    """The first group is undone only when everything of the second that started has been, also through a gate."""
    play = Play(two_groups())
    play.run("a", "b")
    play.due()
    play.start("c", "d")
    play.fail("c")
    assert play.decide() == ["give up two/c", "cancel two/d: cancel", "revert two/c#1"]
    play.undo("c")
    assert play.decide() == [], "d has not ended yet"
    play.tell(m.AttemptCancelled(play.at("d")))
    assert play.decide() == ["revert two/d#1"]
    play.undo("d")
    assert play.decide() == ["revert one/b#1", "revert one/a#1"]


def test_a_sibling_that_succeeds_although_it_was_told_to_stop_is_undone() -> None:
    """The body's ending wins: it has had its effect."""
    play = Play(side_by_side("a", "b"))
    play.due()
    play.start("a", "b")
    play.fail("a")
    assert play.decide() == ["give up a", "cancel b: cancel", "revert a#1"]
    play.succeed("b")
    assert play.decide() == ["revert b#1"]


def test_nothing_starts_beside_a_decision_that_turns_the_run_round() -> None:
    """In one turn a task succeeds and another fails for good: what the first has made ready must not start."""
    play = Play(dag({"a": (), "b": (), "c": "a"}))
    play.due()
    play.start("a", "b")
    play.tell(m.AttemptSucceeded(play.at("a"), "A"), m.AttemptFailed(play.at("b"), failure(), False))
    assert play.due() == ["give up b"]
    play.tell(m.TaskFailed(play.at("b")))
    assert play.due() == ["revert b#1", "revert a#1"]


def test_a_task_that_waits_for_its_next_attempt_is_stopped_and_undone() -> None:
    """It has started once, and may have had half its effect."""
    play = Play(dag({"a": (), "b": ()}, a={"retry": THRICE}))
    play.due()
    play.start("a", "b")
    play.fail("a", retriable=True)
    assert play.due() == ["retry a#2"]
    play.tell(m.RetryScheduled(play.at("a"), 5.0))
    play.fail("b")
    assert play.decide() == ["give up b", "revert b#1", "revert a#1"]
    assert play.states == {"a": "CANCELLED", "b": "FAILED"}
    assert play.machine.waits == {}


def test_of_two_failures_in_one_turn_neither_is_tried_again() -> None:
    """Once the run is undone there is no next attempt, whatever the policy of a task says."""
    play = Play(dag({"a": (), "b": ()}, b={"retry": THRICE}))
    play.due()
    play.start("a", "b")
    play.tell(
        m.AttemptFailed(play.at("a"), failure(), False),
        m.AttemptFailed(play.at("b"), failure(), True),
    )
    assert play.due() == ["give up a", "retry b#2"]
    play.tell(m.TaskFailed(play.at("a")), m.RetryScheduled(play.at("b"), 1.0))
    assert play.states == {"a": "FAILED", "b": "CANCELLED"}
    assert play.due() == ["revert b#1", "revert a#1"]


def test_a_revert_that_fails_keeps_what_it_depends_on() -> None:
    """Its inputs must stay as they are; independent branches are undone all the same, and the run says FAILED."""
    play = Play(dag({"a": (), "b": "a", "c": (), "d": "bc"}))
    play.run("a", "c", "b")
    play.due()
    play.start("d")
    play.fail("d")
    play.decide()
    play.undo("d")
    assert play.decide() == ["revert b#1", "revert c#1"]
    play.begin_undo("b")
    play.tell(m.RevertFailed(play.at("b"), failure(), True))
    assert play.decide() == ["give up revert of b"]
    play.undo("c")
    assert play.decide() == ["end FAILED"]
    assert play.states == {"a": "SUCCEEDED", "b": "REVERT_FAILED", "c": "REVERTED", "d": "REVERTED"}
    assert play.machine.values[0] == "A", "it still stands"


def test_a_revert_is_tried_again_by_its_own_policy() -> None:
    """What undoes may hit the same broken network as what did."""
    play = Play(dag({"a": (), "b": "a"}, a={"revert_retry": THRICE}))
    play.run("a")
    play.due()
    play.start("b")
    play.fail("b")
    play.decide()
    play.undo("b")
    for attempt in (1, 2):
        assert play.due() == [f"revert a#{attempt}" + ("" if attempt == 1 else " at 3")]
        play.now = 3.0
        play.begin_undo("a")
        play.tell(m.RevertFailed(0, failure(), True))
        assert play.due() == [f"retry revert of a#{attempt + 1}"]
        play.tell(m.RetryScheduled(0, 3.0))
    assert play.due() == ["revert a#3 at 3"]
    play.begin_undo("a")
    play.tell(m.RevertFailed(0, failure(), True))
    assert play.decide() == ["give up revert of a", "end FAILED"]


# --- Cancels and deadlines --------------------------------------------------------------------------------------------


def test_a_cancel_reaches_what_runs_and_undoes_what_has_run() -> None:
    """A cancelled run ends CANCELLED, with nothing left of it."""
    play = Play(chain("a", "b", "c"))
    play.run("a")
    play.due()
    play.start("b")
    play.tell(m.CancelRequested("enough"))
    assert play.due() == ["cancel b: cancel"]
    assert play.due() == []
    play.tell(m.AttemptCancelled(play.at("b")))
    assert play_through(play) == ["revert b#1", "revert a#1", "end CANCELLED"]
    assert play.machine.cancel_reason == "enough"


def test_a_cancel_before_anything_started_undoes_nothing() -> None:
    """Tasks that never started get nothing."""
    play = Play(chain("a", "b"))
    play.tell(m.CancelRequested("never mind"))
    assert play.decide() == ["end CANCELLED"]
    assert play.states == {"a": "PENDING", "b": "PENDING"}


def test_a_cancel_while_the_run_is_undone_changes_nothing() -> None:
    """It is being undone already, and ends as what it was undone for."""
    play = Play(chain("a"))
    play.due()
    play.start("a")
    play.fail("a")
    play.decide()
    play.machine.apply(m.CancelRequested("too late"))
    play.undo("a")
    assert play.decide() == ["end REVERTED"]
    assert play.machine.cancel_reason is None


def test_a_passed_deadline_undoes_the_run() -> None:
    """Time limits go forward only: what runs is told to stop, and undoing takes the time it takes."""
    play = Play(chain("a", "b"), deadline=5.0)
    play.run("a")
    play.due()
    play.start("b")
    play.now = 5.0
    assert play.machine.is_late(RUN_DEADLINE)
    play.tell(m.DeadlinePassed(RUN_DEADLINE))
    assert play.due() == ["cancel b: cancel"]
    assert not play.machine.is_late(RUN_DEADLINE), "it has passed once"
    play.tell(m.AttemptCancelled(play.at("b")))
    assert play_through(play) == ["revert b#1", "revert a#1", "end REVERTED"]
    assert play.machine.late_scopes == [RUN_DEADLINE]


def test_a_deadline_that_passes_as_the_last_task_ends_is_none() -> None:
    """A run that has done everything is not undone for being told the time in the same turn."""
    play = Play(chain("a"), deadline=5.0)
    play.run("a")
    assert not play.machine.is_late(RUN_DEADLINE)
    assert not play.machine.is_late(0)


def test_a_flow_is_late_only_while_it_has_something_to_do() -> None:
    """The limit of a flow that is done says nothing about what comes after it."""
    play = Play(linear("outer", unordered("inner", task("a"), timeout=1.0), task("b")))
    play.tell(m.ScopeStarted(1, 1.0))
    assert play.machine.is_late(1)
    play.run("inner/a")
    assert not play.machine.is_late(1)


def test_a_time_limit_stops_the_attempt_and_no_other() -> None:
    """The order is on record before it reaches the body; a limit that passes too late stops nobody."""
    play = Play(side_by_side("a", "b", timeout=1.0))
    play.due()
    play.start("a", "b")
    play.now = 1.0
    play.tell(m.TimeLimitPassed(0))
    assert play.due() == ["cancel a: timeout"]
    play.tell(m.AttemptTimedOut(0, False))
    play.tell(m.TimeLimitPassed(0))
    assert play.due() == ["give up a"], "it has given way already"
    play.tell(m.TaskFailed(0))
    assert play.states == {"a": "TIMED_OUT", "b": "RUNNING"}


def test_an_outlook_says_in_order_what_is_next_and_hands_nothing_out() -> None:
    """A debugger shows it at every step, and the run goes on as if nobody had looked."""
    play = Play(side_by_side("a", "b"))
    assert play.machine.outlook() == play.machine.outlook() == ["a", "b"]
    ranked = Play(unordered("u", task("a"), task("b", priority=5)))
    assert ranked.machine.outlook() == ["b", "a"] and ranked.due() == ["start b#1", "start a#1"]
    play.run("b", "a")
    play.tell(m.CancelRequested("enough"))
    assert play.machine.outlook() == ["-a", "-b"], "the last to start is the first"
    play.tell(m.SuspendRequested("closing"))
    assert play.machine.outlook() == []
    play.tell(m.RunSuspended())
    assert play.machine.outlook() == []


def test_a_controller_that_is_about_to_be_asked_is_in_the_outlook() -> None:
    """Once its flow has fallen still, and not before; a start that is not wanted any more is not in it."""
    play = Play(linear("out", linear("f", unordered("u", task("a"), task("b")), retry=Times(2))))
    play.run("f/times")
    play.due()
    play.start("a", "b")
    play.fail("a")
    play.due()
    play.tell(m.TaskFailed(play.at("a")))
    assert play.machine.outlook() == []
    assert not play.machine.is_asking
    play.tell(m.AttemptCancelled(play.at("b")))
    assert play.machine.outlook() == ["?f"]
    assert play.machine.is_asking


def test_what_a_flow_with_a_controller_gives_is_a_result_when_the_flow_has_ended() -> None:
    """Until then all of it may be undone and made again."""
    play = Play(linear("out", task("p"), linear("f", task("a"), task("b"), retry=Times(2))))
    play.run("p", "f/times", "f/a")
    assert [play.machine.is_result(at) for at in range(4)] == [True, False, False, False]
    play.run("f/b")
    assert [play.machine.is_result(at) for at in range(4)] == [True, True, True, True]
