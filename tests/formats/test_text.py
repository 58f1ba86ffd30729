"""Plans as trees for terminals."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow.formats import text
from asyncflow.graph.plan import Scope
from asyncflow.states import TaskState
from tests.formats.plans import SHIP, groups, make_plan


def test_a_flow_is_a_tree_with_what_each_task_comes_after() -> None:
    """The whole tree of a small flow, so that a change of it is seen and not only felt."""
    assert text.render(SHIP) == (
        "ship/  within 60 s  at most 2 at once\n"
        "  prepare/\n"
        "    reserve\n"
        "    label\n"
        "  dispatch  after /prepare/reserve, /prepare/label\n"
    )


def test_states_stand_behind_names() -> None:
    """A run's tree says where each task is, and nothing about those it was not told of."""
    drawn = text.render(
        SHIP, {"prepare/label": TaskState.RUNNING, "dispatch": TaskState.PENDING, "gone": TaskState.FAILED}
    )
    assert drawn.splitlines()[2:] == [
        "    reserve",
        "    label  RUNNING",
        "  dispatch  PENDING  after /prepare/reserve, /prepare/label",
    ]


def test_a_task_behind_a_gate_names_the_tasks_before_it() -> None:
    """Gates are ours; a reader wants to know which tasks come first, and not 5,000 of them on each line."""
    lines = text.render(groups(10, 5_000)).splitlines()
    assert len(lines) == 5_013
    assert lines[-1] == (
        "    task-5009  after /group-1/task-0, /group-1/task-1, /group-1/task-2, /group-1/task-3 and more"
    )


def test_as_many_as_are_named_are_not_more() -> None:
    """Saying "and more" of nothing more would send a reader looking for it."""
    plan = make_plan("flow", [(name, 0) for name in "abcde"], [(index, 4) for index in range(4)])
    assert text.render(plan).endswith("  e  after a, b, c, d\n")


def test_names_that_could_mislead_are_quoted() -> None:
    """Otherwise a task named "a  FAILED" would look like one that failed."""
    plan = make_plan("my flow", [("a  FAILED", 0), ("x/", 0), ("fetch[3]", 0), ("größe", 0)])
    assert text.render(plan) == "'my flow'/\n  'a  FAILED'\n  'x/'\n  fetch[3]\n  größe\n"


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=12))
def test_no_name_can_reach_the_terminal(name: str) -> None:
    """An escape sequence in a name could clear the screen, or hide the line that matters."""
    drawn = text.render(make_plan(name, [(name, 1)], nested=[(name, 0)]))
    lines = drawn.split("\n")
    assert len(lines) == 4
    assert all(line.isprintable() for line in lines)
    drawn.encode()


def test_flows_nested_1000_deep_are_drawn() -> None:
    """Nesting is the user's, and must not meet the interpreter's recursion limit."""
    plan = make_plan("deep", [("leaf", 1_000)], nested=[(f"n{depth}", depth) for depth in range(1_000)])
    lines = text.render(plan).splitlines()
    assert len(lines) == 1_002
    assert lines[40] == " " * 80 + "n39/"
    assert lines[-1] == " " * 80 + "(1001 deep) leaf"


def test_a_flow_without_tasks_is_its_name() -> None:
    """An empty flow is allowed, so showing one must not fail."""
    assert text.render(make_plan(root=Scope("flow", -1, "", timeout=0.5))) == "flow/  within 0.5 s\n"
