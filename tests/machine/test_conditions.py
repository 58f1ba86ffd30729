"""What is skipped when a condition says no, and what those who read it get: as exact sequences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.graph.flow import Flow
from asyncflow.states import RunState
from tests.machine.stage import ALWAYS, Stage, survives_everywhere, t

DEPTHS = ("task", "neighbours", "dominated", "flow", "all")


def no() -> bool:
    return False


def yes() -> bool:
    return True


def broken() -> bool:
    raise LookupError("cannot say")


def chain(**options: Any) -> Flow[..., Any]:
    """Return p, then flow ``f`` of a (with *options*), b and c, then q."""
    return af.linear("all", t("p"), af.linear("f", t("a", **options), t("b"), t("c")), t("q"))


def diamond(depth: str | None = None, **whens: Callable[[], bool]) -> Flow[..., Any]:
    """Return a; b and c after a; d after b and c; e after d. *whens* are conditions of tasks."""
    tasks = [t(name, when=whens.get(name), depth=depth if name in whens else None) for name in "abcde"]
    flow = af.graph("g", *tasks)
    for before, after in ("ab", "ac", "bd", "cd", "de"):
        flow.link(before, after)
    return flow


def linked(*pairs: tuple[str, str, Any, Any], names: str = "abcd") -> Flow[..., Any]:
    """Return a graph of *pairs*: from, to, condition and depth."""
    flow = af.graph("g", *(t(name) for name in names))
    for before, after, when, depth in pairs:
        flow.link(before, after, when=when, depth=depth)
    return flow


def guarded(**options: Any) -> Flow[..., Any]:
    """Return p, then flow ``f`` of a and b with *options*, then q."""
    return af.linear("all", t("p"), af.linear("f", t("a"), t("b"), **options), t("q"))


def retried(*items: Any, **options: Any) -> Flow[..., Any]:
    return af.linear("f", *items, retry=af.Times(2), **options)


# The claim, the flow, how many bodies fail of which tasks, and everything that happens, in order.
LINEAR: dict[str, tuple[Callable[[], Flow[..., Any]], dict[str, int], str]] = {
    "a yes changes nothing": (lambda: chain(when=yes), {}, "p a?yes a b c q SUCCEEDED"),
    "a no of a task takes along what can be reached only through it": (
        lambda: chain(when=no),
        {},
        "p a?no ~a ~b ~c ~q SUCCEEDED",
    ),
    "depth task": (lambda: chain(when=no, depth="task"), {}, "p a?no ~a b c q SUCCEEDED"),
    "depth neighbours": (lambda: chain(when=no, depth="neighbours"), {}, "p a?no ~a ~b c q SUCCEEDED"),
    "depth dominated": (lambda: chain(when=no, depth="dominated"), {}, "p a?no ~a ~b ~c ~q SUCCEEDED"),
    "depth flow": (lambda: chain(when=no, depth="flow"), {}, "p a?no ~a ~b ~c q SUCCEEDED"),
    "depth all": (lambda: chain(when=no, depth="all"), {}, "p a?no ~a ~b ~c ~q SUCCEEDED"),
    "one side of a diamond": (lambda: diamond(b=no), {}, "a b?no ~b c d e SUCCEEDED"),
    "both sides of a diamond": (lambda: diamond(b=no, c=no), {}, "a b?no c?no ~b ~c d e SUCCEEDED"),
    "one side with neighbours": (lambda: diamond("neighbours", b=no), {}, "a b?no ~b c ~d e SUCCEEDED"),
    "one side with all": (lambda: diamond("all", b=no), {}, "a b?no ~b c ~d ~e SUCCEEDED"),
    "the top of a diamond": (lambda: diamond(a=no), {}, "a?no ~a ~b ~c ~d ~e SUCCEEDED"),
    "the top of a diamond alone": (lambda: diamond("task", a=no), {}, "a?no ~a b c d e SUCCEEDED"),
    "the join of a diamond": (lambda: diamond(d=no), {}, "a b c d?no ~d ~e SUCCEEDED"),
    "a no of a link takes along all behind it": (
        lambda: linked(("a", "b", no, None), ("b", "c", None, None), ("d", "c", None, None)),
        {},
        "a b?no ~b d ~c SUCCEEDED",
    ),
    "depths of a link, task": (
        lambda: linked(("a", "b", no, "task"), ("b", "c", None, None), ("c", "d", None, None)),
        {},
        "a b?no ~b c d SUCCEEDED",
    ),
    "one no blocks": (
        lambda: linked(("a", "d", yes, None), ("b", "d", no, None), ("c", "d", yes, None)),
        {},
        "a b c d?yes d?no d?yes ~d SUCCEEDED",
    ),
    "all yes": (lambda: linked(("a", "d", yes, None), ("b", "d", yes, None)), {}, "a b d?yes d?yes c d SUCCEEDED"),
    "the widest of the noes wins": (
        lambda: linked(("a", "b", no, "task"), ("d", "b", no, "all"), ("b", "c", None, None)),
        {},
        "a d b?no b?no ~b ~c SUCCEEDED",
    ),
    "a yes does not widen": (
        lambda: linked(("a", "b", no, "task"), ("d", "b", yes, "all"), ("b", "c", None, None)),
        {},
        "a d b?no b?yes ~b c SUCCEEDED",
    ),
    "a link whose source is skipped abstains": (
        lambda: linked(("a", "b", no, "task"), ("b", "c", no, None), ("a", "c", yes, None)),
        {},
        "a b?no ~b c?yes c d SUCCEEDED",
    ),
    "a link is not asked if all its sources are skipped": (
        lambda: linked(("a", "b", no, "task"), ("b", "c", no, None)),
        {},
        "a b?no ~b c d SUCCEEDED",
    ),
    "a no of a flow guards all that is in it": (lambda: guarded(when=no), {}, "p f?no ~a ~b ~q SUCCEEDED"),
    "a yes of a flow": (lambda: guarded(when=yes), {}, "p f?yes a b q SUCCEEDED"),
    "a flow alone": (lambda: guarded(when=no, depth="task"), {}, "p f?no ~a ~b q SUCCEEDED"),
    "a flow and its neighbours": (
        lambda: af.linear("all", af.linear("f", t("a"), when=no, depth="neighbours"), t("q"), t("r")),
        {},
        "f?no ~a ~q r SUCCEEDED",
    ),
    "a flow within one": (
        lambda: af.linear("all", af.linear("g", af.linear("f", t("a"), when=no, depth="flow"), t("b")), t("q")),
        {},
        "f?no ~a ~b q SUCCEEDED",
    ),
    "a flow and all behind it": (lambda: guarded(when=no, depth="all"), {}, "p f?no ~a ~b ~q SUCCEEDED"),
    "the outermost flow": (lambda: af.linear("f", t("a"), t("b"), when=no), {}, "f?no ~a ~b SUCCEEDED"),
    "a flow with a controller is skipped with it": (
        lambda: guarded(when=no, depth="task", retry=af.Times(3)),
        {},
        "p f?no ~times ~a ~b q SUCCEEDED",
    ),
    "a flow with a controller is asked about once": (
        lambda: guarded(when=yes, retry=af.Times(2)),
        {"b": 1},
        "p f?yes times a b! f:retry -b -a f:again times a b q SUCCEEDED",
    ),
    "conditions in a flow are asked again when it runs again": (
        lambda: retried(t("a", when=yes), t("b")),
        {"b": 1},
        "times a?yes a b! f:retry -b -a f:again times a?yes a b SUCCEEDED",
    ),
    "what was skipped is not undone, and is skipped again": (
        lambda: retried(t("a", when=no, depth="task"), t("b")),
        {"b": 1},
        "times a?no ~a b! f:retry -b f:again times a?no ~a b SUCCEEDED",
    ),
    "a condition in a nested flow too": (
        lambda: retried(af.linear("in", t("a"), when=no, depth="task"), t("b")),
        {"b": 1},
        "times in?no ~a b! f:retry -b f:again times in?no ~a b SUCCEEDED",
    ),
    "what was skipped is not undone with the run": (
        lambda: af.linear("f", t("a"), t("b", when=no, depth="task"), t("c")),
        {"c": 1},
        "a b?no ~b c! -c -a REVERTED",
    ),
    "a condition that raises fails its task": (
        lambda: af.linear("f", t("a"), t("b", when=broken), t("c")),
        {},
        "a b?! -a REVERTED",
    ),
    "and asks the controller": (
        lambda: retried(t("a"), t("b", when=broken)),
        {},
        "times a b?! f:retry -a f:again times a b?! f:revert -a -times REVERTED",
    ),
    "its own tries are not for that": (
        lambda: af.linear("f", t("a"), t("b", when=broken, retry=af.Retry(5))),
        {},
        "a b?! -a REVERTED",
    ),
    "a condition of a flow that raises asks the next controller out": (
        lambda: af.linear("g", t("a"), retried(t("b"), when=broken), retry=af.Times(2, name="outer")),
        {},
        "outer a f?! g:retry -a g:again outer a f?! g:revert -a -outer REVERTED",
    ),
    "a condition of a link that raises fails what it leads to": (
        lambda: linked(("a", "b", broken, None), names="ab"),
        {},
        "a b?! -a REVERTED",
    ),
}


@pytest.mark.parametrize("claim", LINEAR)
def test_what_is_skipped_is_exactly_this(claim: str) -> None:
    """What is written down is all that happens, in this order, also if the process dies after any of it."""
    make, fails, told = LINEAR[claim]
    stage = Stage(make(), fails).play()
    assert stage.told == told
    survives_everywhere(lambda **given: Stage(make(), fails, **given))


@pytest.mark.parametrize("nesting", [0, 1, 3, 20])
@pytest.mark.parametrize("depth", DEPTHS)
def test_nesting_makes_no_difference(depth: Any, nesting: int) -> None:
    """How far a no reaches is a matter of edges, and flows without a say are none; only "flow" looks at them."""
    inner: Any = t("b")
    for level in range(nesting):
        inner = af.linear(f"level{level}", inner)
    flow = af.linear("f", t("a", when=no, depth=depth), inner, t("c"))
    skipped = {"task": "a", "neighbours": "a b"}.get(depth, "a b c")
    assert Stage(flow).play().names_in("SKIPPED") == skipped


def test_a_flow_s_depth_flow_ends_at_the_flow_around_it() -> None:
    """Not at the one that is guarded, in which everything is skipped anyway."""
    inner = af.linear("in", t("a"), when=no, depth="flow")
    flow = af.linear("out", af.linear("mid", inner, t("b")), t("c"))
    assert Stage(flow).play().names_in("SKIPPED") == "a b"


def test_a_no_in_a_flow_with_a_controller_reaches_out_through_its_end_only() -> None:
    """What is behind the flow waits for all of it, so a part that is skipped dominates nothing outside."""
    inner = af.graph("in", t("a", when=no), t("b"), retry=af.Times(2))
    flow = af.linear("out", inner, t("c"))
    assert Stage(flow).play().names_in("SKIPPED") == "a"


# --- What conditions see ----------------------------------------------------------------------------------------------


def test_a_condition_reads_what_its_task_could() -> None:
    """By name: a value of an earlier task, of the run, or a default."""
    asked: list[Any] = []

    def when(x: int, y: int, z: int = 3) -> bool:
        asked.append((x, y, z))
        return x < y

    flow = af.linear("f", t("one", lambda: 1, provides="x"), t("a", when=when), t("b"))
    assert Stage(flow, inputs={"y": 2}).play().told == "one a?yes a b SUCCEEDED"
    assert Stage(flow, inputs={"y": 1}).play().told == "one a?no ~a ~b SUCCEEDED"
    assert asked == [(1, 2, 3), (1, 1, 3)]


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("x > 1", True),
        ("x > 5", False),
        ("1 < x < 5 and kind != 'gift'", True),
        ("kind == 'gift' or x in [1, 2, 3]", True),
        ("not x", False),
        ("data['a'][0] == 7", True),
        ("x * 2 + 1 == 7 and -x < 0", True),
        ("data", True),
        ("None", False),
    ],
)
def test_a_condition_may_be_a_string(text: str, runs: bool) -> None:
    """For flows that are read from a file."""
    give = t("give", lambda: (3, "book", {"a": [7]}), provides=("x", "kind", "data"))
    stage = Stage(af.linear("f", give, t("a", when=text))).play()
    assert stage.names_in("SKIPPED") == ("" if runs else "a")


def test_a_decider_sees_the_sources_that_were_not_skipped() -> None:
    """A skipped provider is passed over, also for a condition."""
    seen: list[Any] = []

    def when(x: str) -> bool:
        seen.append(x)
        return True

    def flow(**options: Any) -> Flow[..., Any]:
        near = t("near", provides="x", depth="task", **options)
        return af.linear("f", t("far", provides="x"), near, t("a", when=when))

    Stage(flow()).play()
    Stage(flow(when=no)).play()
    assert seen == ["near", "far"]


def test_a_condition_that_reads_a_skipped_value_fails_its_task() -> None:
    """Nobody else gives the value, and it has no default."""
    flow = af.linear("f", t("one", provides="x", when=no, depth="task"), t("a", when=lambda x: x), t("b"))
    assert Stage(flow).play().told == "one?no ~one a?! REVERTED"
    flow = af.linear("f", t("one", provides="x", when=no, depth="task"), t("a", when=lambda x=True: x), t("b"))
    assert Stage(flow).play().told == "one?no ~one a?yes a b SUCCEEDED"


# --- Readers of what is skipped ---------------------------------------------------------------------------------------


def reader(name: str, values: list[Any], *default: Any) -> af.Task:
    """Return a task that keeps ``x``, which has a default if one is given."""

    def required(x: Any) -> None:
        values.append(x)

    def optional(x: Any = default[0] if default else None) -> None:
        values.append(x)

    return t(name, optional if default else required)


def provider(name: str, when: Any = None) -> af.Task:
    return t(name, provides="x", when=when, depth="task")


def skipping(name: str, values: list[Any]) -> Flow[..., Any]:
    """Return a flow of a provider that is skipped and a reader."""
    return af.linear(name, provider("n", no), reader("r", values))


PROVIDERS: dict[str, tuple[Callable[[list[Any]], Flow[..., Any]], Any]] = {
    "the nearest": (lambda seen: af.linear("f", provider("far"), provider("near"), reader("r", seen)), "near"),
    "the next nearest": (
        lambda seen: af.linear("f", provider("far"), provider("near", no), reader("r", seen)),
        "far",
    ),
    "the third": (
        lambda seen: af.linear("f", provider("a"), provider("b", no), provider("c", no), reader("r", seen)),
        "a",
    ),
    "one flow up": (
        lambda seen: af.linear("f", provider("up"), af.linear("in", provider("near", no), reader("r", seen))),
        "up",
    ),
    "from within an earlier flow": (
        lambda seen: af.linear("f", provider("far"), af.linear("in", provider("near", no)), reader("r", seen)),
        "far",
    ),
    "two flows up": (
        lambda seen: af.linear("f", provider("up"), af.linear("mid", provider("m", no), skipping("in", seen))),
        "up",
    ),
    "what the controller gives": (
        lambda seen: af.linear("f", provider("n", no), reader("r", seen), retry=af.Times(1, provides="x")),
        1,
    ),
    "a default": (lambda seen: af.linear("f", provider("near", no), reader("r", seen, "default")), "default"),
    "another before a default": (
        lambda seen: af.linear("f", provider("far"), provider("near", no), reader("r", seen, "default")),
        "far",
    ),
    "a constant before all": (
        lambda seen: af.linear("f", provider("far"), reader("r", seen).with_options(inject={"x": "constant"})),
        "constant",
    ),
}


@pytest.mark.parametrize("which", PROVIDERS)
def test_a_reader_of_a_skipped_value_takes(which: str) -> None:
    """The next visible provider, else its parameter's default."""
    make, expected = PROVIDERS[which]
    seen: list[Any] = []
    stage = Stage(make(seen)).play()
    assert seen == [expected]
    assert stage.machine.phase is RunState.SUCCEEDED


def test_a_value_given_to_the_run_beats_a_skipped_and_a_living_provider() -> None:
    """Both alike, and for later consumers too."""
    for when in (None, no):
        seen: list[Any] = []
        flow = af.linear("f", provider("near", when), reader("r", seen), t("z"), reader("s", seen))
        Stage(flow, inputs={"x": "given"}).play()
        assert seen == ["given", "given"]


def test_without_any_the_reader_has_failed_without_having_started() -> None:
    """Its own tries are not for that, nor is there anything of it to undo."""
    flow = af.linear("f", t("p"), provider("near", no), reader("r", []).with_options(retry=af.Retry(9)))
    stage = Stage(flow).play()
    assert stage.told == "p near?no ~near r!! -p REVERTED"
    assert stage.states["r"] == "FAILED"


def test_and_the_controllers_are_asked() -> None:
    """The condition may say something else the next time."""
    flow = retried(t("p"), provider("near", lambda n: n > 1), reader("r", []))
    flow = flow.with_options(retry=af.Times(2, provides="n"))
    told = "times p near?no ~near r!! f:retry -p f:again times p near?yes near r SUCCEEDED"
    assert Stage(flow).play().told == told


def test_a_reader_with_a_default_outlives_what_it_reads() -> None:
    """A no of the default depth does not reach what can do without."""
    seen: list[Any] = []
    near = t("near", provides="x", when=no)
    Stage(af.graph("g", near, reader("r", seen, "default"))).play()
    assert seen == ["default"]


def test_a_branch_and_its_alternative() -> None:
    """The commonest use: one of two providers runs, and the reader takes what there is."""
    for total, expected in ((50, "cheap"), (500, "dear")):
        seen: list[Any] = []
        cheap = t("cheap", provides="x", when="total <= 100", depth="task")
        dear = t("dear", provides="x", when="total > 100", depth="task")
        Stage(af.linear("f", cheap, dear, reader("r", seen)), inputs={"total": total}).play()
        assert seen == [expected]


def test_skipped_names_are_absent_from_what_a_pattern_gives() -> None:
    """No None that nobody returned."""
    flow = af.linear("f", t("a", provides="a"), t("b", provides="b", when=no, depth="task"), t("c", provides="c"))
    stage = Stage(flow).play()
    assert stage.plan.returns is not None
    assert stage.plan.returns.read(stage.values) == {"a": "a", "c": "c"}


# --- Side by side -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_branches_at_once_are_skipped_alike_in_any_order(seed: int) -> None:
    """What a no reaches is read from the plan, and not from what happens to have ended."""
    whens = {"b": no, "d": yes}
    flow = diamond(**whens)
    stage = survives_everywhere_alike(lambda **given: Stage(flow, seed=seed, **given))
    assert Counter(stage.told.split()) == Counter(["a", "b?no", "~b", "c", "d?yes", "d", "e", "SUCCEEDED"])
    flow = af.unordered("u", *(t(f"t{at}", when=no if at % 2 else yes, depth="all") for at in range(8)))
    stage = Stage(flow, seed=seed).play()
    assert stage.names_in("SKIPPED") == "t1 t3 t5 t7"


def survives_everywhere_alike(make: Callable[..., Stage]) -> Stage:
    whole = make().play()
    for length in range(1, len(whole.journal)):
        assert make(journal=whole.journal[:length]).play().states == whole.states
    return whole


@pytest.mark.parametrize("seed", range(30))
def test_a_failure_beside_a_question_does_not_lose_the_run(seed: int) -> None:
    """A flow that falls still while a condition in it is due is undone as any other."""
    left = af.linear("l", t("a"), t("b", when=no, depth="task"), t("c"))
    flow = af.linear("out", t("p"), af.unordered("u", left, t("x"), t("y", when=yes)), retry=af.Times(3))
    stage = Stage(flow, {"x": 1, "c": 1}, seed=seed).play()
    assert stage.machine.phase is RunState.SUCCEEDED
    stage = Stage(flow, {"x": ALWAYS}, seed=seed).play()
    assert stage.machine.phase is RunState.REVERTED
    assert "SKIPPED" not in stage.states.values() or stage.states["u/l/b"] == "SKIPPED"


def test_a_cancel_drops_a_question() -> None:
    """Nobody is asked in a run that is being undone."""
    stage = Stage(af.linear("f", t("a"), t("b", when=yes)))
    stage.play(most=1)
    stage.tell(m.CancelRequested("enough"))
    assert stage.play().told == "a cancel -a CANCELLED"


def test_a_flow_of_which_a_part_is_skipped_is_asked_about_all_the_same() -> None:
    """Its condition may have a large value to fetch first; what another skips of it meanwhile is no answer for it."""

    async def read(v: str) -> None: ...

    inner = af.unordered("inner", af.task(name="reads")(read), t("q"), when=yes)
    stage = Stage(af.graph("g", t("x", provides="v", when=no, depth="all"), inner))
    machine = stage.machine
    [flow] = [index for index, guard in enumerate(machine.plan.guards) if guard.scope >= 0]
    assert machine.due() == [m.Evaluate(flow)]
    assert machine.due() == [m.Evaluate(1 - flow)]
    machine.apply(m.ConditionAnswered(1 - flow, False))
    assert machine.due() == [m.Skip(0)]
    machine.apply(m.TaskSkipped(0))
    assert machine.expects_condition(flow)
    machine.apply(m.ConditionAnswered(flow, True))
    assert machine.due() == [m.Skip(1)]
    machine.apply(m.TaskSkipped(1))
    [command] = machine.due()
    assert isinstance(command, m.Start) and command.task == 2
