"""Edges and gates: the fewest that keep the order, at any size and depth."""

from __future__ import annotations

from typing import Any

import pytest

from asyncflow.errors import CycleError
from asyncflow.graph.controller import Times
from asyncflow.graph.decorator import task
from asyncflow.graph.flow import Flow, flow
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.plan import Plan
from asyncflow.graph.task import FunctionTask
from tests.graph.perform import ancestors, edges


@task(executor="inline")
def work() -> None: ...


@task(executor="inline", provides="x")
def inc(x: int = 0) -> int:
    return x + 1


def many(count: int, prefix: str = "t") -> list[FunctionTask[..., Any]]:
    return [work.named(f"{prefix}{at}") for at in range(count)]


def size(plan: Plan) -> tuple[int, int, int]:
    """Return how many tasks, edges and gates there are."""
    return plan.size, sum(map(len, plan.successors)), len(plan.successors) - plan.size


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda n: linear("chain", *many(n)), lambda n: (n, n - 1, 0)),
        (lambda n: linear("data", *(inc.named(f"t{at}") for at in range(n))), lambda n: (n, n - 1, 0)),
        (lambda n: unordered("fan", *many(n)), lambda n: (n, 0, 0)),
        (lambda n: linear("in", unordered("u", *many(n)), work), lambda n: (n + 1, n, 0)),
        (lambda n: linear("out", work, unordered("u", *many(n))), lambda n: (n + 1, n, 0)),
        (lambda n: linear("2", unordered("a", *many(n)), unordered("b", *many(n))), lambda n: (2 * n, 2 * n, 1)),
        (
            lambda n: linear("3", *(unordered(name, *many(n)) for name in "abc")),
            lambda n: (3 * n, 4 * n, 2),
        ),
        (
            lambda n: linear("empty", unordered("a", *many(n)), linear("nothing"), unordered("b", *many(n))),
            lambda n: (2 * n, 2 * n, 1),
        ),
        (
            lambda n: graph("links", unordered("a", *many(n)), *many(n, "l")).link("a", "l0").link("a", "l1"),
            lambda n: (2 * n, n + 2, 1),
        ),
    ],
)
@pytest.mark.parametrize("count", [2, 3, 10, 5000])
def test_groups_meet_at_gates_and_never_pairwise(make: Any, expected: Any, count: int) -> None:
    """Two groups of 5,000 in sequence are 10,000 edges, not 25 million."""
    assert size(make(count).compile()) == expected(count)


@pytest.mark.parametrize("kinds", [(linear,), (unordered,), (graph,), (linear, unordered, graph)])
@pytest.mark.parametrize("first", [True, False])
def test_a_nesting_of_a_thousand_flows_compiles(kinds: Any, first: bool) -> None:
    """Nothing recurses over the user's nesting, and the order holds from the outermost to the innermost."""
    depth = 1000
    inner: Flow[..., Any] = linear("leaf", work)
    for level in range(depth):
        items = [work.named(f"w{level}"), inner]
        inner = kinds[level % len(kinds)](f"n{level}", *(items if first else reversed(items)))
    plan = inner.compile()
    tasks, edge_count, gates = size(plan)
    assert tasks == depth + 1 and edge_count <= 3 * depth and gates <= depth
    if kinds == (linear,):
        assert (edge_count, gates) == (depth, 0)


def test_a_chain_of_a_hundred_thousand_tasks_compiles() -> None:
    """Linear in tasks and edges; a quadratic step anywhere would take minutes."""
    plan = linear("chain", *(inc.named(f"t{at}") for at in range(100_000))).compile()
    assert size(plan) == (100_000, 99_999, 0) and plan.roots() == [0]

    @flow
    def build() -> Any:
        value = inc()
        for _ in range(99_999):
            value = inc(value)
        return value

    assert size(build.compile()) == (100_000, 99_999, 0) and build.compile().path(99_999) == "inc-100000"


def test_optional_inputs_of_a_wide_graph_compile() -> None:
    """Whether each provider precedes its reader is worked out for all of them together."""
    count = 5000
    givers = [inc.with_options(name=f"g{at}", provides=f"n{at}", rebind={"x": "start"}) for at in range(count)]
    takers = [inc.with_options(name=f"t{at}", provides=None, rebind={"x": f"n{at}"}) for at in range(count)]
    sample = graph("g", *givers, *takers)
    for at in range(0, count, 2):
        sample.link(f"g{at}", f"t{at}")
    plan = sample.compile()
    assert size(plan) == (2 * count, count // 2, 0)
    read = [bool(plan.bindings[count + at].reads()) for at in range(count)]
    assert read == [at % 2 == 0 for at in range(count)]


def test_an_edge_that_has_two_reasons_counts_once() -> None:
    """A task waits for each of those before it once, or it would wait for ever."""
    sample = linear("l", inc.named("a"), inc.with_options(name="b", requires="x"))
    plan = sample.compile()
    assert plan.successors == [(1,), ()] and list(plan.pending) == [0, 1]


def test_what_leads_to_a_sibling_is_no_end_of_its_flow() -> None:
    """A builder that is a chain has one beginning and one end, and needs no gates."""

    @flow
    def chain(start: int = 0) -> Any:
        return inc(inc(inc(start)))

    plan = linear("l", work.named("before"), chain, work.named("behind")).compile()
    assert size(plan) == (5, 4, 0)
    assert edges(plan) == {
        ("before", "chain/inc"),
        ("chain/inc", "chain/inc-2"),
        ("chain/inc-2", "chain/inc-3"),
        ("chain/inc-3", "behind"),
    }


def test_order_passes_through_empty_flows() -> None:
    """A flow whose last item was taken out still keeps its neighbours apart."""
    empty = unordered("u", linear("e"), graph("f"))
    plan = linear("l", work.named("a"), empty, linear("g"), work.named("b")).compile()
    assert ("a", "b") in edges(plan)
    assert linear("nothing").compile().size == 0 and size(unordered("u", linear("e")).compile()) == (0, 0, 0)


def test_a_flow_comes_after_all_that_its_reference_stands_for() -> None:
    """after() takes the reference of a flow, and may come before one."""
    group = unordered("group", *many(3))

    @flow
    def sample() -> None:
        first = group()
        group.named("again").after(first)()
        work.named("last").after(first)()

    plan = sample.compile()
    before = ancestors(plan)
    assert [len(one) for one in before] == [0, 0, 0, 3, 3, 3, 3]


def test_priorities_rank_tasks_and_order_breaks_ties() -> None:
    """None at all costs nothing: the index is the rank."""
    assert unordered("u", *many(3)).compile().ranks is None
    high = work.with_options(name="high", priority=5)
    low = work.with_options(name="low", priority=-1)
    plan = unordered("u", low, work.named("a"), high, work.named("b")).compile()
    assert plan.ranks is not None and list(plan.ranks) == [3, 1, 0, 2]


# --- Flows with a controller ------------------------------------------------------------------------------------------


def atomic(sample: Any) -> Any:
    """Give a flow a controller."""
    return sample.with_options(retry=Times(2))


def test_edges_into_and_out_of_a_flow_with_a_controller_go_through_its_gates() -> None:
    """It is atomic to its surroundings: nobody sees a value of a flow that may still be undone and run again."""
    inner = atomic(linear("inner", inc.named("one"), unordered("more", inc.named("two"), work)))
    reader = inc.with_options(name="reader", requires="x", provides=None)
    plan = linear("outer", inc.named("before"), inner, reader).compile()
    scope = plan.scopes[1]
    assert plan.names[scope.controller] == "times" and scope.begin == scope.controller and scope.end >= plan.size
    assert set(plan.inside(1)) == {*plan.span(1), *range(plan.size, len(plan.successors))} - {scope.begin}
    before = plan.predecessors()
    inside = [task for task in range(plan.size) if 1 in plan.enclosing(plan.scope_of[task])]
    for node in (*inside, scope.begin, scope.end):
        for other in before[node]:
            outside = other not in inside and other not in (scope.begin, scope.end)
            assert not outside or node == scope.begin, "an edge in enters at the beginning"
    for node in range(plan.size):
        if node not in inside:
            assert not set(before[node]) & set(inside), "an edge out leaves from the end"
    order = ancestors(plan)
    first, last = plan.index("before"), plan.index("reader")
    assert all(first in order[task] for task in inside) and order[last] >= set(inside)


def test_a_cycle_that_a_controller_makes_names_its_flow() -> None:
    """Two tasks that would be fine alone cannot wait in the middle of an atomic flow."""
    first = FunctionTask(lambda: 1, name="first", provides="a")
    middle = FunctionTask(lambda a: a, name="middle", provides="b")
    last = FunctionTask(lambda b: b, name="last")
    assert graph("g", unordered("inner", first, last), middle).compile().size == 3
    sample = graph("g", atomic(unordered("inner", first, last)), middle)
    with pytest.raises(
        CycleError, match="flow 'inner' has a controller, so what it gives is there only when all of it"
    ):
        sample.compile()


def test_an_empty_flow_with_a_controller_has_an_end() -> None:
    """So that whoever asks controllers need not ask whether there is anything in the flow."""
    plan = linear("l", work.named("a"), atomic(linear("empty")), work.named("b")).compile()
    assert size(plan) == (3, 3, 1) and ("empty/times", "b") in edges(plan)
