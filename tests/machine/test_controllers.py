"""Flows that run again: what a machine does with controllers, as exact sequences and, for what runs at once, orders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.graph.flow import Flow
from asyncflow.states import RunState
from tests.machine.stage import ALWAYS, Stage, survives_everywhere, t


def f(*items: Any, **options: Any) -> Flow[..., Any]:
    """Return a linear flow ``f`` of *items*, or of a, b and c."""
    return af.linear("f", *(items or (t("a"), t("b"), t("c"))), **options)


def nested(inner: Any, outer: Any, **options: Any) -> Flow[..., Any]:
    """Return a, then flow ``in`` of b and c under *inner*, then d, all in flow ``out`` under *outer*."""
    inside = af.linear("in", t("b"), t("c"), retry=inner)
    return af.linear("out", t("a"), inside, t("d"), retry=outer, **options)


def times(n: int, name: str = "times", **options: Any) -> af.Times:
    return af.Times(n, name=name, **options)


class Waits(af.Controller):
    """Retries what was caused by ConnectionError, up to three times; reverts everything on a ValueError."""

    name = "picky"

    def execute(self, history: af.History) -> int:
        return len(history)

    def on_failure(self, history: af.History) -> af.Decision:
        if history[-1].caused_by(ValueError):
            return af.Decision.REVERT_ALL
        if history.caused_by(ConnectionError) and len(history) < 3:
            return af.Decision.RETRY
        return af.Decision.REVERT


class Raises(af.Controller):
    """Fails when it is asked."""

    name = "bad"

    def execute(self) -> None:
        return None

    def on_failure(self, history: af.History) -> af.Decision:
        raise LookupError("no idea")


class FailsAtFirst(af.Controller):
    """Cannot begin."""

    name = "bad"

    def execute(self, history: af.History) -> None:
        raise LookupError("no idea")

    def on_failure(self, history: af.History) -> af.Decision:
        return af.Decision.RETRY


def on_value_error() -> None:
    raise ValueError("broken in another way")


# The claim, the flow, how many bodies fail of which tasks, and everything that happens, in order.
LINEAR: dict[str, tuple[Callable[[], Flow[..., Any]], dict[str, int], str]] = {
    "without a failure nobody is asked": (lambda: f(retry=times(3)), {}, "times a b c SUCCEEDED"),
    "the whole flow runs again": (
        lambda: f(retry=times(3)),
        {"b": 2},
        "times a b! f:retry -b -a f:again times a b! f:retry -b -a f:again times a b c SUCCEEDED",
    ),
    "a controller that gives up is undone last": (
        lambda: f(retry=times(2)),
        {"b": ALWAYS},
        "times a b! f:retry -b -a f:again times a b! f:revert -b -a -times REVERTED",
    ),
    "n counts attempts in all": (lambda: f(retry=times(1)), {"a": 1}, "times a! f:revert -a -times REVERTED"),
    "0 attempts means 1": (lambda: f(retry=times(0)), {"a": 1}, "times a! f:revert -a -times REVERTED"),
    "always revert": (
        lambda: f(retry=af.AlwaysRevert()),
        {"c": 1},
        "always_revert a b c! f:revert -c -b -a -always_revert REVERTED",
    ),
    "always revert all": (
        lambda: f(retry=af.AlwaysRevertAll()),
        {"c": 1},
        "always_revert_all a b c! f:revert_all -c -b -a -always_revert_all REVERTED",
    ),
    "for each, repeats included": (
        lambda: f(t("a"), retry=af.ForEach([3, 2, 3, 5])),
        {"a": ALWAYS},
        "for_each a! f:retry -a f:again " * 3 + "for_each a! f:revert -a -for_each REVERTED",
    ),
    "for each of an empty list fails the controller": (
        lambda: f(retry=af.ForEach([])),
        {},
        "for_each! -for_each REVERTED",
    ),
    "an empty for each within a flow that tries again": (
        lambda: nested(af.ForEach([]), times(2)),
        {},
        "times a for_each! out:retry -for_each -a out:again times a for_each! out:revert -for_each -a -times REVERTED",
    ),
    "what is before the flow is left alone by a retry": (
        lambda: af.linear("g", t("x"), f(retry=times(2)), t("y")),
        {"c": 1},
        "x times a b c! f:retry -c -b -a f:again times a b c y SUCCEEDED",
    ),
    "what fails after the flow does not ask its controller": (
        lambda: af.linear("g", f(t("a"), retry=times(9)), t("y")),
        {"y": 1},
        "times a y! -y -a -times REVERTED",
    ),
    "what fails after an inner flow makes the outer one run both again": (
        lambda: nested(times(9, "in times"), times(2, "out times")),
        {"d": 1},
        "out times a in times b c d! out:retry -d -c -b -in times -a out:again out times a in times b c d SUCCEEDED",
    ),
    "an inner controller that gives up asks the outer one": (
        lambda: nested(af.AlwaysRevert(), times(2)),
        {"c": 1},
        "times a always_revert b c! in:revert out:retry -c -b -always_revert -a out:again "
        "times a always_revert b c d SUCCEEDED",
    ),
    "an inner controller starts afresh when the outer one retries": (
        lambda: nested(times(2, "inner"), times(2, "outer")),
        {"c": 3},
        "outer a inner b c! in:retry -c -b in:again inner b c! in:revert out:retry -c -b -inner -a out:again "
        "outer a inner b c! in:retry -c -b in:again inner b c d SUCCEEDED",
    ),
    "all attempts of both": (
        lambda: nested(times(2, "inner"), times(2, "outer")),
        {"c": ALWAYS},
        "outer a inner b c! in:retry -c -b in:again inner b c! in:revert out:retry -c -b -inner -a out:again "
        "outer a inner b c! in:retry -c -b in:again inner b c! in:revert out:revert -c -b -inner -a -outer REVERTED",
    ),
    "an inner one that reverts all asks nobody": (
        lambda: nested(af.AlwaysRevertAll(), times(9)),
        {"b": 1},
        "times a always_revert_all b! in:revert_all -b -always_revert_all -a -times REVERTED",
    ),
    "times that revert all when none is left": (
        lambda: nested(times(2, "inner", revert_all=True), times(9, "outer")),
        {"b": ALWAYS},
        "outer a inner b! in:retry -b in:again inner b! in:revert_all -b -inner -a -outer REVERTED",
    ),
    "values that revert all when none is left": (
        lambda: nested(af.ForEach([1], revert_all=True), times(9, "outer")),
        {"b": ALWAYS},
        "outer a for_each b! in:revert_all -b -for_each -a -outer REVERTED",
    ),
    "a controller of one's own sees what happened": (
        lambda: f(retry=Waits()),
        {"b": 1},
        "picky a b! f:retry -b -a f:again picky a b c SUCCEEDED",
    ),
    "and decides by it": (
        lambda: f(t("a"), t("b", on_value_error), retry=Waits()),
        {"b": 1},
        "picky a b! f:retry -b -a f:again picky a b! f:revert_all -b -a -picky REVERTED",
    ),
    "a controller that raises when asked fails its flow": (
        lambda: nested(Raises(), times(2)),
        {"c": 1},
        "times a bad b c! in:! out:retry -c -b -bad -a out:again times a bad b c d SUCCEEDED",
    ),
    "a controller whose body raises fails the flow around": (
        lambda: nested(FailsAtFirst(), times(2)),
        {},
        "times a bad! out:retry -bad -a out:again times a bad! out:revert -bad -a -times REVERTED",
    ),
    "without anyone around, the run": (lambda: f(retry=FailsAtFirst()), {}, "bad! -bad REVERTED"),
    "a task's own tries come first": (
        lambda: f(t("a"), t("b", retry=af.Retry(2)), retry=times(2)),
        {"b": 3},
        "times a b.. b! f:retry -b -a f:again times a b.. b SUCCEEDED",
    ),
    "revert_scope: only the flow is undone": (
        lambda: af.linear("g", t("x"), f(retry=times(1), revert_scope="flow"), t("y")),
        {"b": 1},
        "x times a b! f:revert -b -a -times FAILED",
    ),
    "revert_scope: unless a controller is around": (
        lambda: af.linear("g", t("x"), f(retry=times(1), revert_scope="flow"), retry=times(1, "outer")),
        {"b": 1},
        "outer x times a b! f:revert g:revert -b -a -times -x -outer REVERTED",
    ),
    "revert_scope: reverting all is reverting all": (
        lambda: af.linear("g", t("x"), f(retry=af.AlwaysRevertAll(), revert_scope="flow")),
        {"a": 1},
        "x always_revert_all a! f:revert_all -a -always_revert_all -x REVERTED",
    ),
    "revert_scope of a flow within one without a controller": (
        lambda: af.linear("g", t("x"), af.linear("h", t("w"), f(retry=times(2), revert_scope="flow"))),
        {"b": ALWAYS},
        "x w times a b! f:retry -b -a f:again times a b! f:revert -b -a -times FAILED",
    ),
    "a flow of nothing but a controller": (lambda: af.linear("f", retry=times(2)), {}, "times SUCCEEDED"),
}


@pytest.mark.parametrize("claim", LINEAR)
def test_a_linear_flow_runs_again_exactly_so(claim: str) -> None:
    """What is written down is all that happens, in this order, also if the process dies after any of it."""
    make, fails, told = LINEAR[claim]
    stage = survives_everywhere(lambda **given: Stage(make(), fails, **given))
    assert stage.told == told


DEPTHS = (0, 1, 2, 5, 30)


def bury(flow: Flow[..., Any], depth: int) -> Flow[..., Any]:
    """Return *flow* within *depth* flows that have nothing to say."""
    for level in range(depth):
        flow = (af.linear if level % 2 else af.unordered)(f"level{level}", flow)
    return flow


@pytest.mark.parametrize("depth", DEPTHS)
def test_depth_makes_no_difference(depth: int) -> None:
    """The nearest controller is asked, however many flows without one are between it and what failed."""
    inside = bury(af.linear("in", t("b"), t("c")), depth)
    flow = bury(af.linear("f", t("a"), inside, t("d"), retry=times(2)), depth)
    assert Stage(flow, {"c": 1}).play().told == "times a b c! f:retry -c -b -a f:again times a b c d SUCCEEDED"


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_controllers_in_controllers_try_the_product(depth: int) -> None:
    """Each outer attempt gives every inner controller all of its attempts anew."""
    flow: Any = t("x")
    for level in range(depth):
        flow = af.linear(f"f{level}", flow, retry=times(2, f"c{level}"))
    stage = Stage(flow, {"x": ALWAYS}).play()
    told = Counter(stage.told.split())
    assert told["x!"] == 2**depth
    assert all(
        told[f"f{level}:retry"] == told[f"f{level}:revert"] == 2 ** (depth - 1 - level) for level in range(depth)
    )
    assert stage.names_in("REVERTED").split() == [*(f"c{level}" for level in reversed(range(depth))), "x"]


# --- What a controller gives ------------------------------------------------------------------------------------------


def seen(values: list[Any], name: str = "see", wants: str = "value", **options: Any) -> af.Task:
    """Return a task that keeps what it is given under the name *wants*."""

    def see(value: Any) -> None:
        values.append(value)

    return t(name, see, rebind={"value": wants}, **options)


@pytest.mark.parametrize("given", [[3, 2, 3, 5], [1], ["a", "a", "a"], [None, [1], {"a": 1}]])
def test_for_each_gives_each_value_in_turn(given: list[Any]) -> None:
    """Repeats are kept, since the world may have changed by the second time."""
    values: list[Any] = []
    flow = af.linear("f", seen(values), t("b"), retry=af.ForEach(given, provides="value"))
    stage = Stage(flow, {"b": len(given) - 1}).play()
    assert values == given and stage.past() == given
    assert stage.machine.phase is RunState.SUCCEEDED


@pytest.mark.parametrize("given", [[3, 2, 3, 5], (1,), {"a": 1, "b": 2}])
def test_for_each_input_gives_each_element_of_an_input(given: Any) -> None:
    """The list may come from the run, or from a task before the flow."""
    for source in ("run", "task"):
        values: list[Any] = []
        flow: Flow[..., Any] = af.linear("f", seen(values), t("b"), retry=af.ForEachInput("hosts", provides="value"))
        if source == "task":
            flow = af.linear("g", t("hosts", lambda: given, provides="hosts"), flow)
        fails = {"b": len(list(given)) - 1}
        Stage(flow, fails, inputs={"hosts": given} if source == "run" else {}).play()
        assert values == list(given)


def test_for_each_input_of_an_empty_list_says_so() -> None:
    """Not trying anything is not what was asked for."""
    stage = Stage(af.linear("f", t("b"), retry=af.ForEachInput("hosts")), inputs={"hosts": []}).play()
    assert stage.told == "for_each_input! -for_each_input REVERTED"
    failure: Any = stage.machine.outcomes[0]
    with pytest.raises(af.NothingToTry, match="controller 'for_each_input' has no values to try its flow with"):
        raise failure.exception


@pytest.mark.parametrize("given", ["abc", iter([1, 2]), 3])
def test_for_each_input_refuses_what_cannot_be_gone_through_again(given: Any) -> None:
    """An iterator would be used up after one attempt, and letters are not what somebody meant by a host."""
    stage = Stage(af.linear("f", t("b"), retry=af.ForEachInput("hosts")), inputs={"hosts": given}).play()
    failure: Any = stage.machine.outcomes[0]
    with pytest.raises(af.NothingToTry, match=r"controller 'for_each_input' was given .* give it a list"):
        raise failure.exception


def test_times_gives_the_number_of_the_attempt() -> None:
    """Counted from 1."""
    values: list[Any] = []
    flow = af.linear("f", seen(values), t("b"), retry=times(4, provides="value"))
    Stage(flow, {"b": 3}).play()
    assert values == [1, 2, 3, 4]


def test_what_a_controller_gives_shadows_outer_providers_within_its_flow_only() -> None:
    """Inside, it is the nearest; outside, it is not there."""
    inside: list[Any] = []
    outside: list[Any] = []
    inner = af.linear("in", seen(inside), af.linear("deep", seen(inside)), retry=af.ForEach([1], provides="value"))
    flow = af.linear("out", t("value", provides="value"), inner, seen(outside))
    Stage(flow).play()
    assert (inside, outside) == ([1, 1], ["value"])


def test_a_task_within_the_flow_shadows_its_controller() -> None:
    """An earlier sibling is nearer than what is around."""
    values: list[Any] = []
    flow = af.linear("f", t("x", provides="value"), seen(values), retry=times(1, provides="value"))
    Stage(flow).play()
    assert values == ["x"]


def test_inputs_of_a_controller_come_from_outside_its_flow() -> None:
    """It runs before everything in the flow, so nothing in the flow can be asked."""
    values: list[Any] = []
    inner = af.linear("in", t("hosts", lambda: ["wrong"], provides="hosts"), seen(values), retry=af.ForEachInput(
        "hosts", provides="value"
    ))  # fmt: skip
    Stage(af.linear("out", t("outer", lambda: ["right"], provides="hosts"), inner)).play()
    assert values == ["right"]


@attrs.define
class Asked:
    """What a controller of one's own was told."""

    bodies: list[tuple[Any, ...]] = attrs.field(factory=list)
    questions: list[tuple[Any, ...]] = attrs.field(factory=list)


def test_history_has_the_present_attempt_when_it_is_asked_and_not_when_it_begins() -> None:
    """The last attempt's failures are there to be decided by; an attempt that begins has none."""
    asked = Asked()

    class Own(af.Controller):
        name = "own"

        def execute(self, history: af.History, limit: int) -> str:
            asked.bodies.append((len(history), history.values, limit))
            return f"v{len(history)}"

        def on_failure(self, history: af.History, limit: int) -> af.Decision:
            asked.questions.append((history.values, [sorted(one.failures) for one in history], limit))
            return af.Decision.RETRY if len(history) < limit else af.Decision.REVERT

    flow = af.linear("out", t("x"), af.linear("f", t("a"), t("b"), retry=Own()))
    stage = Stage(flow, {"a": 2}, inputs={"limit": 3}).play()
    assert stage.machine.phase is RunState.SUCCEEDED
    assert asked.bodies == [(0, [], 3), (1, ["v0"], 3), (2, ["v0", "v1"], 3)]
    assert asked.questions[0] == (["v0"], [["f/a"]], 3)
    assert asked.questions[1] == (["v0", "v1"], [["f/a"], ["f/a"]], 3)


def test_history_starts_anew_with_the_flow_around() -> None:
    """What an inner controller tried in an earlier attempt of the outer flow is no business of this one."""
    given: list[Any] = []

    class Own(af.Controller):
        name = "own"

        def execute(self, history: af.History) -> int:
            given.append(history.values)
            return len(given)

        def on_failure(self, history: af.History) -> af.Decision:
            return af.Decision.RETRY if len(history) < 2 else af.Decision.REVERT

    stage = Stage(nested(Own(), times(2)), {"c": ALWAYS}).play()
    assert given == [[], [1], [], [3]]
    assert stage.machine.phase is RunState.REVERTED


# --- Events -----------------------------------------------------------------------------------------------------------


def test_only_tasks_whose_state_changes_are_named_when_a_flow_starts_over() -> None:
    """What never started has nothing to forget."""
    stage = Stage(f(retry=times(2)), {"b": 1}).play()
    events = [event for record in stage.journal for event in record.events if isinstance(event, m.FlowStartedOver)]
    assert [[stage.plan.names[task] for task in event.tasks] for event in events] == [["times", "a", "b"]]


def test_executions_are_counted_by_what_was_undone() -> None:
    """A key of idempotency must be new once the task has been undone, or its effect would be passed over."""
    stage = Stage(f(retry=times(3)), {"b": 2}).play()
    named = {stage.plan.names[task]: count for task, count in stage.machine.executions.items()}
    assert named == {"times": 2, "a": 2, "b": 2}


# --- Side by side -----------------------------------------------------------------------------------------------------


def pair(left: Any, right: Any, **options: Any) -> Flow[..., Any]:
    """Return flow ``l`` of a and b beside flow ``r`` of x and y."""
    one = af.linear("l", t("a"), t("b"), retry=left, **options)
    other = af.linear("r", t("x"), t("y"), retry=right, **options)
    return af.unordered("both", one, other)


SEEDS = range(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_siblings_with_controllers_do_not_disturb_each_other(seed: int) -> None:
    """A flow with a controller is atomic to its surroundings: the other one goes on while it is undone."""
    flow = pair(times(3, "left"), times(2, "right"))
    stage = survives_alike(lambda **given: Stage(flow, {"b": 2, "x": 1}, seed=seed, **given))
    expected = "left a b! l:retry -b -a l:again left a b! l:retry -b -a l:again left a b "
    expected += "right x! r:retry -x r:again right x y SUCCEEDED"
    assert Counter(stage.told.split()) == Counter(expected.split())
    for side, names in (("l", "a b left l:retry l:again"), ("r", "x y right r:retry r:again")):
        known = set(names.split())
        mine = [word for word in stage.told.split() if word.strip("-!") in known]
        alone = [word for word in expected.split() if word.strip("-!") in known]
        assert mine == alone, f"flow {side} is linear in itself"


def survives_alike(make: Callable[..., Stage]) -> Stage:
    """
    Play a run, and stop it at every third event and resume it: it ends in the same state, and so does each task, except
    that one which never started in the one may have been undone in the other.
    """
    whole = make().play()
    for length in range(1, len(whole.journal), 3):
        again = make(journal=whole.journal[:length]).play()
        assert again.machine.phase is whole.machine.phase, again.told
        assert kept(again) == kept(whole), again.told
    return whole


def kept(stage: Stage) -> dict[str, str]:
    return {path: state.replace("REVERTED", "PENDING") for path, state in stage.states.items()}


@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_gives_up_undoes_the_run_while_the_other_is_retrying(seed: int) -> None:
    """Reverting the whole run is never overwritten by a retry elsewhere that happens at the same time."""
    flow = pair(times(50, "left"), af.AlwaysRevert())
    stage = survives_alike(lambda **given: Stage(flow, {"b": 20, "y": 1}, seed=seed, **given))
    assert stage.machine.phase is RunState.REVERTED
    told = stage.told.split()
    assert "l:again" not in told[told.index("r:revert") :], "nothing runs again once the run is being undone"
    assert not {"SUCCEEDED", "RUNNING"} & set(stage.states.values())


@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_reverts_all_wins_over_a_controller_around(seed: int) -> None:
    """REVERT_ALL asks nobody, whatever the sibling is about."""
    inner = pair(times(50, "left"), af.AlwaysRevertAll())
    flow = af.linear("out", t("s"), inner, retry=times(5, "outer"))
    stage = survives_alike(lambda **given: Stage(flow, {"b": 20, "y": 1}, seed=seed, **given))
    assert stage.machine.phase is RunState.REVERTED
    assert "out:retry" not in stage.told


@pytest.mark.parametrize("seed", SEEDS)
def test_one_that_gives_up_takes_its_retrying_sibling_into_the_outer_retry(seed: int) -> None:
    """The flow around both runs again as a whole, and each inner controller has all its attempts."""
    flow = af.linear("out", pair(times(3, "left"), times(1, "right")), t("z"), retry=times(3, "outer"))
    stage = survives_alike(lambda **given: Stage(flow, {"b": 2, "y": 2}, seed=seed, **given))
    told = Counter(stage.told.split())
    assert stage.machine.phase is RunState.SUCCEEDED
    assert told["out:retry"] == told["r:revert"] == told["y!"] == 2
    assert told["z"] == 1


def test_siblings_in_a_flow_are_cancelled_before_its_controller_is_asked() -> None:
    """The flow falls still first; what was cancelled asks nobody, and is undone as well."""
    flow = af.unordered("f", t("a"), t("b"), t("c"), retry=times(2))
    stage = Stage(flow, {"b": 1}, first=["b"])
    stage.play()
    told = stage.told.split()
    assert told[:5] == ["times", "b!", "a/", "c/", "f:retry"]
    assert sorted(told[5:8]) == ["-a", "-b", "-c"]
    assert told[8:10] == ["f:again", "times"] and told[-1] == "SUCCEEDED"


@pytest.mark.parametrize("where", ["flow", "engine"])
def test_siblings_may_finish_before_the_controller_is_asked(where: str) -> None:
    """What is dear to break off may be let to its end, and what it fails of is in history too."""
    options: dict[str, Any] = {"on_failure": "finish"} if where == "flow" else {}
    flow = af.unordered("f", t("a"), t("b"), t("c"), retry=times(2), **options)
    stage = Stage(flow, {"b": 1, "c": 1}, first=["b"], on_failure="finish" if where == "engine" else "cancel")
    stage.play()
    assert stage.told.startswith("times b! a c! f:retry ")
    assert stage.machine.phase is RunState.SUCCEEDED
    history = stage.values.history(0)
    assert [sorted(one.failures) for one in history] == [["b", "c"]]


def test_a_flow_s_own_choice_beats_the_engine_s() -> None:
    """Both ways."""
    flow = af.unordered("f", t("a"), t("b"), retry=times(1), on_failure="cancel")
    assert "a/" in Stage(flow, {"b": 1}, first=["b"], on_failure="finish").play().told


def test_without_a_controller_finishing_siblings_are_undone_too() -> None:
    """The run turns round at once; what still runs may end, and is then undone."""
    stage = Stage(af.unordered("f", t("a"), t("b"), on_failure="finish"), {"b": 1}, first=["b"]).play()
    told = stage.told.split()
    assert told[0] == "b!" and set(told[1:4]) == {"a", "-a", "-b"} and told[-1] == "REVERTED"


# --- Endings that nobody may overturn ---------------------------------------------------------------------------------


def cut(flow: Flow[..., Any], fails: dict[str, int], event: m.Event) -> list[Stage]:
    """Return a stage for each moment of a run at which *event* comes, played to its end."""
    whole = Stage(flow, fails).play()
    found: list[Stage] = []
    for moment in range(len(whole.told.split())):
        for has_answered in (False, True):
            stage = Stage(flow, fails)
            stage.play(most=moment)
            if has_answered:
                stage.answer()
            if stage.machine.phase is RunState.RUNNING:
                stage.tell(event)
                found.append(stage.play())
    return found


def test_a_cancel_drops_any_question_and_any_retry() -> None:
    """Whoever cancels wants the run undone, and nobody in it to try again."""
    flow = nested(times(2, "inner"), times(2, "outer"))
    stages = cut(flow, {"c": ALWAYS}, m.CancelRequested("enough"))
    assert len(stages) > 15
    for stage in stages:
        assert stage.machine.phase is RunState.CANCELLED, stage.told
        later = stage.told.split()[stage.told.split().index("cancel") :]
        assert not [word for word in later if ":" in word], stage.told
        assert set(stage.states.values()) <= {"PENDING", "REVERTED"}


def test_a_deadline_drops_any_question_and_any_retry() -> None:
    """The run's deadline limits all attempts together."""
    flow = nested(times(2, "inner"), times(2, "outer"))
    for stage in cut(flow, {"c": ALWAYS}, m.DeadlinePassed(-1)):
        assert stage.machine.phase is RunState.REVERTED, stage.told
        assert set(stage.states.values()) <= {"PENDING", "REVERTED"}


def test_the_time_limit_of_a_flow_is_no_question_to_its_own_controller() -> None:
    """It spans all attempts, so trying again would be late as well; the next one out is asked."""
    flow = nested(times(9, "inner"), times(2, "outer"))
    stage = Stage(flow, {"c": 1})
    stage.play(most=5)
    stage.tell(m.DeadlinePassed(1))
    stage.play()
    told = "outer a inner b c! out:retry -c -b -inner -a out:again outer a inner b c d SUCCEEDED"
    assert stage.told == told, "and never in:retry"


def test_a_revert_that_fails_ends_a_retry() -> None:
    """A flow that cannot be undone cannot run again: the run turns round, and says that something is left."""
    stage = survives_everywhere(lambda **given: Stage(f(retry=times(3)), {"c": 1}, undo_fails=["b"], **given))
    assert stage.told == "times a b c! f:retry -c -b! FAILED"
    assert stage.states == {"times": "SUCCEEDED", "a": "SUCCEEDED", "b": "REVERT_FAILED", "c": "REVERTED"}


@pytest.mark.parametrize("seed", range(10))
def test_a_revert_that_fails_does_not_stop_independent_ones(seed: int) -> None:
    """The sibling flow has nothing to do with it."""
    flow = pair(times(3, "left"), times(3, "right"))
    stage = Stage(flow, {"b": 1}, undo_fails=["a"], seed=seed).play()
    assert stage.machine.phase is RunState.FAILED
    assert stage.states["l/a"] == "REVERT_FAILED"
    assert {stage.states[path] for path in ("r/x", "r/y", "r/right")} <= {"REVERTED", "PENDING"}


# --- never_revert, and what follows -----------------------------------------------------------------------------------


def test_a_run_that_is_never_reverted_stops_at_the_failure() -> None:
    """Nobody is asked, nothing is undone, everything is kept."""
    stage = Stage(nested(times(9, "inner"), times(9, "outer")), {"c": 1}, never_revert=True).play()
    assert stage.told == "outer a inner b c! FAILED"
    assert stage.names_in("SUCCEEDED") == "outer a inner b" and stage.names_in("FAILED") == "c"


def test_a_run_that_was_never_reverted_goes_on_with_what_failed() -> None:
    """The failed task runs again and the others keep what they have."""
    flow = nested(times(9, "inner"), times(9, "outer"))
    stage = Stage(flow, {"c": 1}, never_revert=True).play()
    again = Stage(flow, {"c": 1}, never_revert=True, journal=stage.journal).play()
    assert again.told == "outer a inner b c! FAILED c d SUCCEEDED"


def test_a_run_that_stopped_where_only_one_flow_was_undone_runs_that_flow_again() -> None:
    """What is before it was kept for this."""
    flow = af.linear("g", t("x"), f(retry=times(2), revert_scope="flow"), t("y"))
    stage = Stage(flow, {"b": 3}).play()
    told = "x times a b! f:retry -b -a f:again times a b! f:revert -b -a -times FAILED"
    assert stage.told == told
    again = Stage(flow, {"b": 3}, journal=stage.journal).play()
    assert again.told == f"{told} times a b! f:retry -b -a f:again times a b c y SUCCEEDED"
    assert again.past("f") == [1, 2], "its attempts are counted afresh"


@pytest.mark.parametrize("fails", [{}, {"c": 3}, {"c": ALWAYS}])
def test_a_run_that_is_reset_starts_over(fails: dict[str, int]) -> None:
    """With controllers as they were at first."""
    flow = nested(times(2, "inner"), times(2, "outer"))
    stage = Stage(flow, fails).play()
    first = stage.told
    before = dict(stage.machine.executions)
    stage._endings.clear()
    stage.tell(m.RunReset("the plan"))
    stage.values.load_inputs()
    stage.play()
    assert stage.told == f"{first} {first}"
    assert all(stage.machine.executions[task] > count for task, count in before.items())
