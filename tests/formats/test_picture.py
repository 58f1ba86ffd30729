"""What is drawn of a plan, whatever the format."""

from __future__ import annotations

from graphlib import TopologicalSorter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow.formats.picture import Picture, picture, readable
from asyncflow.graph.plan import Plan, Scope
from tests.formats.plans import SHIP, groups, make_plan


def reached(edges: list[tuple[int, int]], nodes: int) -> list[set[int]]:
    """Return, for each node, all that lie behind it."""
    before: dict[int, list[int]] = {node: [] for node in range(nodes)}
    after: dict[int, list[int]] = {node: [] for node in range(nodes)}
    for node, successor in edges:
        before[successor].append(node)
        after[node].append(successor)
    found: list[set[int]] = [set() for _ in range(nodes)]
    for node in reversed(list(TopologicalSorter(before).static_order())):
        for successor in after[node]:
            found[node] |= {successor} | found[successor]
    return found


def order_of_tasks(plan: Plan, edges: list[tuple[int, int]]) -> list[set[int]]:
    """Return, for each task, all tasks that must come after it."""
    behind = reached(edges, len(plan.successors))
    return [{node for node in behind[task] if node < plan.size} for task in range(plan.size)]


def plan_edges(plan: Plan) -> list[tuple[int, int]]:
    return [(node, successor) for node, after in enumerate(plan.successors) for successor in after]


def walked(drawn: Picture) -> list[tuple[str, int, int]]:
    return [(step.kind, step.number, step.depth) for step in drawn.walk()]


@st.composite
def gated_plans(draw: st.DrawFn) -> Plan:
    """Random plans in which gates have any neighbours, in any order of their numbers."""
    tasks = draw(st.integers(1, 14))
    gates = draw(st.integers(0, 8))
    places = draw(st.permutations(range(tasks + gates)))
    pairs = st.tuples(st.integers(0, tasks + gates - 1), st.integers(0, tasks + gates - 1))
    chosen = draw(st.lists(pairs, max_size=70, unique=True))
    edges = sorted({(a, b) if places[a] < places[b] else (b, a) for a, b in chosen if a != b})
    return make_plan("random", [(f"t{index}", 0) for index in range(tasks)], edges, gates=gates)


@settings(max_examples=300, deadline=None)
@given(gated_plans())
def test_a_picture_has_the_order_of_its_plan(plan: Plan) -> None:
    """Taking gates out must neither lose an order between two tasks nor invent one, or the picture lies."""
    drawn = picture(plan)
    assert order_of_tasks(plan, list(drawn.edges)) == order_of_tasks(plan, plan_edges(plan))
    assert {node for edge in drawn.edges for node in edge if node >= plan.size} == set(drawn.gates)


def test_a_small_gate_is_drawn_as_the_edges_through_it() -> None:
    """Readers know tasks and flows; a gate means nothing to them."""
    drawn = picture(groups(2, 3))
    assert not drawn.gates
    assert drawn.edges == [(first, second) for first in (0, 1) for second in (2, 3, 4)]


def test_a_gate_between_large_groups_stays() -> None:
    """Two groups of 1,000 in sequence would otherwise be drawn with a million edges."""
    drawn = picture(groups(1_000, 1_000))
    assert drawn.gates == {2_000: 0}
    assert len(drawn.edges) == 2_000


def test_a_gate_beside_a_single_task_is_never_drawn() -> None:
    """A fan has as many edges with the gate as without, so the dot would only be in the way."""
    drawn = picture(groups(1_000, 1, 1_000))
    assert not drawn.gates
    assert len(drawn.edges) == 2_000


@pytest.mark.parametrize("beside", [(0, 520), (520, 10)], ids=["joined halfway", "left halfway"])
def test_chains_of_gates_become_one(beside: tuple[int, int]) -> None:
    """Flows nested in flows begin and end in chains of gates, which would be drawn as a string of dots."""
    first, second, gates = range(10), range(10, 20), range(20, 1_020)
    edges = [*((task, gates[0]) for task in first), *((gates[-1], task) for task in second), *pairwise(gates), beside]
    plan = make_plan("chain", [(f"t{index}", 0) for index in range(20)], edges, gates=1_000)
    drawn = picture(plan)
    assert len(drawn.gates) <= 2
    assert order_of_tasks(plan, list(drawn.edges)) == order_of_tasks(plan, plan_edges(plan))


def test_a_gate_that_begins_a_flow_is_drawn_inside_it() -> None:
    """The start of a flow belongs to the flow, so layouts keep it there."""
    tasks = [(f"t{index}", 0) for index in range(5)] + [(f"u{index}", 1) for index in range(5)]
    edges = [(index, 10) for index in range(5)] + [(10, index) for index in range(5, 10)]
    bare = make_plan("flow", tasks, edges, nested=[("inner", 0)], gates=1)
    plan = Plan(
        flow=bare.flow,
        scopes=(bare.scopes[0], Scope("inner", 0, "inner", begin=10)),
        names=bare.names,
        scope_of=bare.scope_of,
        successors=bare.successors,
        pending=bare.pending,
    )
    assert picture(plan).gates == {10: 1}


def test_the_walk_goes_in_plan_order() -> None:
    """A tree that is read from top to bottom should tell the story in the order in which it was declared."""
    nested = [("middle", 0), ("inner", 1), ("empty", 0)]
    plan = make_plan("flow", [("a", 0), ("b", 2), ("c", 1), ("d", 0)], nested=nested)
    assert walked(picture(plan)) == [
        ("task", 0, 1),
        ("enter", 1, 1),
        ("enter", 2, 2),
        ("task", 1, 3),
        ("leave", 2, 2),
        ("task", 2, 2),
        ("leave", 1, 1),
        ("task", 3, 1),
        ("enter", 3, 1),
        ("leave", 3, 1),
    ]


def test_a_picture_of_a_flow_without_tasks_is_empty() -> None:
    """An empty flow is allowed, so drawing one must not fail."""
    assert walked(picture(make_plan())) == []


def test_a_picture_is_the_same_each_time() -> None:
    """Pictures are kept beside the code, and one that changes by itself makes noise in every review."""
    assert picture(SHIP) == picture(SHIP)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("größe", "größe"),
        ("two words", "two words"),
        ("a\nb", "a\\nb"),
        ("\x1b[2J", "\\x1b[2J"),
        ("left\u202eright", "left\\u202eright"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_cannot_be_seen_is_escaped(name: str, shown: str) -> None:
    """A name may come from a file of someone else's; it must not move the cursor or reverse the line."""
    assert readable(name) == shown
