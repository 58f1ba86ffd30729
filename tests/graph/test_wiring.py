"""Which provider wins, in every form in which names can be required and provided."""

# Mistakes are what these tests are about.
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asyncflow.errors import AmbiguousProvider, CycleError, DeclarationError, FlowError, TypeMismatch, UnknownProvider
from asyncflow.graph.decorator import task
from asyncflow.graph.flow import Flow, flow
from asyncflow.graph.inputs import Constant, Named, Otherwise, Output
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.task import FunctionTask, Task
from tests.graph.perform import edges, perform


def give(name: str, value: Any = None, provides: Any = "x") -> FunctionTask[..., Any]:
    """A task called *name* that provides its own name, or *value*, under *provides*."""
    given = name if value is None else value
    return FunctionTask(lambda: given, name=name, provides=provides)


def take(name: str = "take") -> FunctionTask[..., Any]:
    """A task that provides what it got for ``x`` as ``got``."""
    return FunctionTask(lambda x: x, name=name, provides="got")


def maybe(name: str = "take") -> FunctionTask[..., Any]:
    """The same, but it can do without."""
    return FunctionTask(lambda x="default": x, name=name, provides="got")


def both(x: Any) -> Any:
    """For a task that provides what it requires."""
    return x, x


def hide(*, provides: Any = None) -> Flow[..., Any]:
    """A builder in which something provides ``x``, which is nobody else's business."""

    @flow(provides=provides)
    def hidden() -> Any:
        return give("inner")()

    return hidden


RULES: list[tuple[str, Callable[[], Any], Any]] = [
    ("the run, if nothing provides it", lambda: linear("l", take()), "run"),
    ("an earlier sibling in a linear", lambda: linear("l", give("a"), take()), "a"),
    ("the nearest of two", lambda: linear("l", give("a"), give("b"), take()), "b"),
    ("never a later one", lambda: linear("l", take(), give("b")), "run"),
    ("never an unordered sibling", lambda: unordered("u", give("a"), take()), "run"),
    ("any sibling in a graph", lambda: graph("g", take(), give("a")), "a"),
    ("an item of the flow around", lambda: linear("l", give("a"), unordered("u", take())), "a"),
    ("two flows up", lambda: linear("l", give("a"), unordered("u", unordered("v", take()))), "a"),
    ("its own flow before the one around", lambda: linear("l", give("a"), linear("m", give("b"), take())), "b"),
    ("past an unordered with the name", lambda: linear("l", give("a"), unordered("u", give("b"), take())), "a"),
    ("inside an earlier flow", lambda: linear("l", unordered("u", give("a")), take()), "a"),
    ("the last inside an earlier flow", lambda: linear("l", unordered("u", give("a"), give("b")), take()), "b"),
    ("deep inside a graph's sibling", lambda: graph("g", linear("l", take()), linear("m", give("a"))), "a"),
    ("from a graph one flow up", lambda: graph("g", give("a"), unordered("u", take())), "a"),
    ("not oneself", lambda: linear("l", give("a"), FunctionTask(both, name="t", provides=("got", "x"))), "a"),
    ("a builder's provides", lambda: linear("l", hide(provides="x"), take()), "inner"),
    ("nothing inside a builder", lambda: linear("l", hide(), take()), "run"),
    ("a builder's part", lambda: linear("l", hide(provides={"x": 0}), take()), "i"),
    ("optional: an earlier sibling", lambda: linear("l", give("a"), maybe()), "a"),
    ("optional: a linked sibling", lambda: graph("g", give("a"), maybe()).link("a", "take"), "a"),
    ("optional: a sibling behind another", lambda: graph("g", give("a"), give("b", provides="y"), maybe())
     .link("a", "b").link("b", "take"), "a"),
    ("optional: past a sibling that need not precede", lambda: linear("l", give("a"), graph("g", give("b"), maybe())),
     "a"),
    ("optional: a linked group", lambda: graph("g", unordered("u", give("a"), give("z", provides="z")), maybe())
     .link("u", "take"), "a"),
    ("inject beats everything", lambda: linear("l", give("a"), take().with_options(inject={"x": "in"})), "in"),
    ("a constant given with the item", lambda: linear("l", give("a")).add(take(), x="in"), "in"),
    ("a constant given with a flow", lambda: linear("l", give("a")).add(unordered("u", take()), x="in"), "in"),
    ("a sibling before the flow's constant", lambda: linear("l").add(linear("m", give("b"), take()), x="in"), "b"),
    ("another name", lambda: linear("l", give("a", provides="y"), take().with_options(rebind={"x": "y"})), "a"),
    ("another name by place", lambda: linear("l", give("a", provides="y"), take().with_options(rebind=["y"])), "a"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "expected"), [row[1:] for row in RULES], ids=[row[0] for row in RULES])
def test_the_provider_of_an_input_is(make: Callable[[], Any], expected: Any) -> None:
    """The whole table, each row by running the flow, in two orders that are allowed."""
    sample = make()
    inputs = {"x": "run"} if "x" in sample.compile().required else {}
    for backwards in (False, True):
        assert perform(sample, inputs, backwards=backwards)["got"] == expected


def test_an_optional_input_without_provider_is_its_default() -> None:
    """Or what the run is given; in a graph an unlinked sibling makes no edge."""
    assert perform(unordered("u", give("a"), maybe()))["got"] == "default"
    assert perform(linear("l", maybe()), {"x": "run"})["got"] == "run"
    loose = graph("g", give("a"), maybe())
    assert perform(loose)["got"] == "default" and edges(loose.compile()) == set()


def test_requires_makes_an_optional_input_required() -> None:
    """Naming it says that it must be there."""
    strict = graph("g", give("a"), maybe().with_options(requires="x"))
    assert perform(strict)["got"] == "a" and edges(strict.compile()) == {("a", "take")}


@pytest.mark.parametrize(
    ("provides", "value", "expected"),
    [
        ("x", 5, 5),
        (("w", "x"), (1, 5), 5),
        (["x"], [5], 5),
        ({"x", "w"}, {"x": 5, "w": 1}, 5),
        ({"x": "other"}, {"other": 5}, 5),
        ({"x": 1, "w": 0}, [1, 5], 5),
    ],
)
def test_every_form_of_provides_is_unpacked(provides: Any, value: Any, expected: Any) -> None:
    """By name, by position and by key."""
    assert perform(linear("l", give("a", value, provides), take()))["got"] == expected


def test_a_class_task_takes_what_requires_names() -> None:
    """Without parameters of that name, as **inputs."""

    class Report(Task):
        provides = "got"
        requires = ("x", "y")
        inject = {"z": 3}

        def execute(self, **inputs: Any) -> Any:
            return inputs

    sample = linear("l", give("a"), Report())
    assert perform(sample, {"y": 2})["got"] == {"x": "a", "y": 2, "z": 3}
    assert sample.compile().required == {"y"}


def test_without_auto_extract_only_what_is_listed_is_wired() -> None:
    """For signatures that are wider than what the flow should know."""

    class Narrow(Task):
        auto_extract = False
        provides = "got"

        def __init__(self) -> None:
            super().__init__(requires=("x",))

        def execute(self, skipped: int = 1, x: str = "no", also: int = 2) -> Any:
            return skipped, x, also

    sample = linear("l", give("a"), give("b", provides="also"), Narrow())
    assert perform(sample)["got"] == (1, "a", 2)


def test_a_builder_in_a_pattern_requires_its_parameters() -> None:
    """Wired by name to what is around it, whichever of them its tasks use."""

    @flow(provides="got")
    def pair(x: str, y: str = "default", unused: int = 3) -> Any:
        return [take()(x), take()(y)]

    sample = linear("l", give("a"), pair)
    assert perform(sample)["got"] == ["a", "default"]
    assert perform(sample, {"y": "run"})["got"] == ["a", "run"]
    assert set(sample.inputs) == {"y", "unused"} and sample.compile().required == frozenset()
    linked = graph("g", give("b", provides="y"), give("a"), pair).link("b", "pair")
    assert perform(linked)["got"] == ["a", "b"]
    unlinked = graph("g", give("b", provides="y"), give("a"), pair)
    assert perform(unlinked)["got"] == ["a", "default"]
    assert perform(linear("l").add(pair, x="given", y="too"))["got"] == ["given", "too"]


def test_names_stay_inside_a_builder() -> None:
    """A run's input called like something deep inside is not mistaken for it, nor the other way round."""

    @flow
    def sample(x: str) -> Any:
        inside = linear("inside", give("a"), take())()
        return [x, inside["got"]]

    assert perform(sample, {"x": "run"}) == ["run", "a"]


def test_a_pattern_in_a_builder_has_no_inputs_but_those_of_its_call() -> None:
    """A forgotten argument is an error, and a default stands: the run's input of that name is another thing."""

    @flow
    def forgets(x: str) -> Any:
        return [linear("inside", take())()["got"], x]

    with pytest.raises(UnknownProvider, match="flow 'inside' is called in flow 'forgets' with nothing, and"):
        forgets.compile()

    @flow
    def leaves_out(x: str) -> Any:
        return [linear("inside", maybe())()["got"], x]

    assert perform(leaves_out, {"x": "run"}) == ["default", "run"] and set(leaves_out.inputs) == {"x"}


def test_values_pass_through_flows_without_edges_of_their_own() -> None:
    """The consumer depends on the task itself, whatever lies between."""

    @flow
    def through(value: Any) -> Any:
        return {"kept": value}

    @flow
    def sample() -> Any:
        first = give("a")()
        return take()(through(through(first)["kept"])["kept"])

    assert perform(sample) == "a" and edges(sample.compile()) == {("a", "take")}
    binding = sample.compile().bindings[1]
    assert binding.outputs == (0,) and binding.positional == (Output(0),)


def test_a_mapping_read_by_many_costs_one_edge_each() -> None:
    """n tasks and m readers of all their values are n + m edges."""
    givers = unordered("u", *(give(f"g{at}", provides=f"n{at}") for at in range(50)))

    @flow
    def read_all(whole: Any) -> Any:
        return [take()(whole) for _ in range(40)]

    @flow
    def sample() -> Any:
        whole = givers()
        direct = [take(f"t{at}")(whole) for at in range(40)]
        return [direct, read_all(whole), read_all.named("again")([give("p", provides=None)(), whole])]

    plan = sample.compile()
    assert plan.size == 50 + 40 + 40 + 1 + 40
    assert sum(map(len, plan.successors)) == 50 + 40 + 40 + 2 + 40
    assert perform(sample)[0][0]["n7"] == "g7"


def test_bindings_are_shared_where_nothing_differs() -> None:
    """A hundred thousand tasks that read one input of the run have one binding."""
    sample = unordered("u", *(take(f"t{at}").with_options(provides=None) for at in range(3)))
    assert len({id(binding) for binding in sample.compile().bindings}) == 3
    copies = [take().named(f"t{at}") for at in range(3)]
    one = take()
    shared = unordered("s", *(one.named(f"t{at}") for at in range(3)))
    assert len({id(binding) for binding in shared.compile().bindings}) == 1 and len(copies) == 3


def test_sources_say_what_they_are() -> None:
    """What plans hold, for those who read them."""
    plan = linear("l", give("a"), take(), maybe("m"), take("t").with_options(inject={"x": 1})).compile()
    assert plan.bindings[1].positional == (Named("x", (Output(0),)),)
    assert plan.bindings[2].positional == (Otherwise(Named("x", (Output(0),)), "default"),)
    assert plan.bindings[3].positional == (Constant(1),)


# --- Errors -----------------------------------------------------------------------------------------------------------


@task(provides="n")
def count() -> int:
    return 1


@task
def read(n: str) -> None: ...


@task
def two() -> tuple[int, str]:
    return 1, ""


@flow
def lies() -> str:
    return count()  # type: ignore[return-value]


@flow(provides="n")
def typed(n: str) -> str:
    return n


@flow
def inner_reads(n: int) -> None:
    read(n)  # type: ignore[arg-type]


ERRORS: list[tuple[Callable[[], Any], type[FlowError], str]] = [
    (
        lambda: graph("g", give("a"), give("b"), take()),
        AmbiguousProvider,
        "flow 'g': 'take' needs input 'x', which both 'a' and 'b' provide; give one of them another name",
    ),
    (
        lambda: linear("l", graph("g", linear("p", give("a")), give("b"), unordered("q", take()))),
        AmbiguousProvider,
        "flow 'l': 'g/q' needs input 'x', which both 'g/p' and 'g/b' provide",
    ),
    (
        lambda: linear("l", count, read),
        TypeMismatch,
        "flow 'l': task 'read' takes 'n' as str, and 'count' gives int; change one of the annotations",
    ),
    (
        lambda: flow(lambda: read(count())),
        TypeMismatch,
        "task 'read' takes 'n' as str, and 'count' gives int",
    ),
    (
        lambda: flow(lambda: read(two()[0])),
        TypeMismatch,
        "task 'read' takes 'n' as str, and 'two' gives int",
    ),
    (
        lambda: flow(lambda: read([count()])),
        TypeMismatch,
        "task 'read' takes 'n' as str, and 'count' gives list",
    ),
    (lambda: inner_reads, TypeMismatch, "task 'read' takes 'n' as str, and the run gives int"),
    (lambda: lies, TypeMismatch, "flow 'lies' is annotated to return str and returns a value annotated int"),
    (lambda: linear("l", count, typed), TypeMismatch, "flow 'typed' takes 'n' as str and is given int"),
    (
        lambda: graph("g", take("a").with_options(rebind=["y"], provides="x"), take("b").with_options(provides="y")),
        CycleError,
        "flow 'g' has a cycle: a -> b -> a; an input may only come from a task that does not depend on it",
    ),
    (
        lambda: graph("g", linear("l", give("a"), take()), linear("m", give("b"))).link("l", "m").link("m", "l"),
        CycleError,
        "flow 'g' has a cycle: l/a -> l/take -> m/b -> l/a",
    ),
    (lambda: graph("g", linear("a"), linear("b")).link("a", "b").link("b", "a"), CycleError, "flow 'g' has a cycle: "),
    (
        lambda: graph(
            "g", flow(provides="y", name="p")(lambda x: x), flow(provides="x", name="q")(lambda y: y)
        ),
        CycleError,
        "flow 'g' has a cycle: p -> q -> p; a flow's input may not come from its own value",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "message"), ERRORS)
def test_wiring_that_can_never_work_is_an_error_at_compile(
    make: Callable[[], Any], kind: type[FlowError], message: str
) -> None:
    """Before anything runs, with the flow, the tasks and the way out."""
    sample = make()
    with pytest.raises(kind, match=message):
        sample.compile()


def test_a_cycle_names_its_tasks_in_order() -> None:
    """As an attribute too, so that a page can draw it."""
    sample = graph("g", give("a", provides=None), give("b", provides=None), give("c", provides=None))
    sample.link("a", "b").link("b", "c").link("c", "b")
    with pytest.raises(CycleError, match="b -> c -> b") as caught:
        sample.compile()
    assert caught.value.cycle == ("b", "c", "b") and caught.value.flow == "g"


def test_an_ambiguity_that_nobody_asks_about_is_none() -> None:
    """Two tasks may provide one name as long as no reader has to choose; the last is shown in results."""
    sample = graph("g", give("a"), give("b"))
    assert perform(sample) == {"x": "b"}
    assert [source.task for source in sample.compile().provided["x"]] == [1, 0]  # type: ignore[attr-defined]


def test_a_mistake_is_a_declaration_error_of_its_flow() -> None:
    """One except clause catches whatever a declaration can get wrong."""
    with pytest.raises(DeclarationError) as caught:
        linear("l", count, read).compile()
    error = caught.value
    assert isinstance(error, TypeMismatch) and (error.flow, error.task) == ("l", "read")
