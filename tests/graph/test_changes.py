"""What of a changed flow a run that has come so far can go on with."""

from __future__ import annotations

from typing import Any

import pytest

from asyncflow.graph import record as recorded
from asyncflow.graph.changes import Verdict, compare
from asyncflow.graph.decorator import task
from asyncflow.graph.flow import Flow, flow
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.plan import Plan
from asyncflow.graph.task import FunctionTask
from asyncflow.states import TaskState

S, R, D = TaskState.SUCCEEDED, TaskState.RUNNING, TaskState.REVERTED


@task(provides="a")
def a() -> int:
    return 1


@task(provides="b")
def b(a: int) -> int:
    return a


@task
def c(a: int = 0, b: int = 0) -> None: ...


@task(provides="a", name="a")
def a_with_revert() -> int:
    return 1


@a_with_revert.revert
def undo() -> None: ...


@task(provides="b", name="b")
def b_of_text(a: str) -> int:
    return 1


@task(name="inc")
def inc(x: int, by: int = 1) -> int:
    return x + by


def retype(one: FunctionTask[..., Any], **options: Any) -> FunctionTask[..., Any]:
    """The same task under the same name, but different."""
    return one.with_options(name=one.name, **options)


def verdicts(old: Flow[..., Any], new: Flow[..., Any], states: dict[str, Any], **more: Any) -> list[Verdict]:
    """Compare as a resume does: the old plan comes from its record."""
    recorded_plan: Plan = recorded.decode(recorded.body_of(old.compile()))
    return compare(recorded_plan, new.compile(), started=set(states), states=states, **more)


BASE = linear("l", a, b, c)


@pytest.mark.parametrize(
    ("new", "states", "expected"),
    [
        (linear("l", a, b, c), {"a": S, "b": S}, []),
        (linear("l", a, b, c, c.named("d")), {"a": S}, [("d", "new", False)]),
        (linear("l", a, b), {"a": S}, [("c", "gone", False)]),
        (linear("l", a, c), {"a": S, "b": S}, [("b", "gone", False), ("c", "rewired", False)]),
        (linear("l", a, c), {"a": S, "b": R}, [("b", "gone", True), ("c", "rewired", False)]),
        (linear("l", a, retype(b, inject={"a": 5}), c), {"a": S}, [
            ("b", "rewired", False), ("b", "changed constant", False)]),
        (linear("l", a, retype(b, inject={"a": 5}), c), {"a": S, "b": S}, [
            ("b", "rewired", True), ("b", "changed constant", True)]),
        (linear("l", a, retype(b, rebind=["z"]), c), {"a": S, "b": R}, [("b", "rewired", True)]),
        (linear("l", retype(a, provides=None), b_of_text, c), {"a": S}, [
            ("a", "rewired", True), ("b", "rewired", False), ("b", "changed type", False), ("c", "rewired", False)]),
        (linear("l", a, retype(b, version=2), c), {"a": S, "b": S}, [("b", "changed version", True)]),
        (linear("l", a, retype(b, version=2), c), {"a": S}, [("b", "changed version", False)]),
        (linear("l", a, retype(b, executor="inline", timeout=3), c), {"a": S, "b": S}, []),
        (linear("l", a_with_revert, b, c), {"a": S}, []),
        (linear("l", a, b, unordered("u", c)), {"a": S, "b": S}, [("c", "gone", False), ("u/c", "new", False)]),
        # Order alone: harmless where all that comes before now has ended, else a task would have run too early.
        (linear("l", a, c.named("new"), b, c), {"a": S}, [("new", "new", False)]),
        (linear("l", a, c.named("new"), b, c), {"a": S, "b": S}, [("b", "rewired", True), ("new", "new", False)]),
        (linear("l", b, a, c), {}, [("b", "rewired", False)]),
    ],
)  # fmt: skip
def test_a_change_is_refused_only_where_it_meets_what_was_done(
    new: Flow[..., Any], states: dict[str, Any], expected: list[tuple[str, str, bool]]
) -> None:
    """Compatible for tasks that have not started; refused, with the difference, for those that have."""
    found = verdicts(BASE, new, states)
    assert [(one.path, one.kind, one.is_refused) for one in found] == expected


def test_a_task_to_be_reverted_must_not_be_gone() -> None:
    """What it did can only be undone by the code that knows how."""
    old, new = linear("l", a_with_revert, b), linear("l", b)
    refused = [one for one in verdicts(old, new, {"a": S, "b": S}, undone=["a", "b"]) if one.is_refused]
    assert [(one.path, one.text) for one in refused if one.kind == "gone"] == [
        ("a", "is gone, and is still to be reverted")
    ]
    gone = [one for one in verdicts(old, new, {"a": D, "b": S}, undone=["a", "b"]) if one.kind == "gone"]
    assert [one.is_refused for one in gone] == [False], "one that is reverted already has nothing left to do"
    assert [one.kind for one in verdicts(old, linear("l", a, b), {"a": S})] == ["lost revert"]
    assert all(one.is_refused for one in verdicts(old, linear("l", a, b), {"a": S}))


def test_texts_say_what_was_and_what_is() -> None:
    """The refusal is all that its reader has to go by."""
    new = linear("l", a, retype(b, rebind=["z"], version=7), retype(c, inject={"a": 7}))
    texts = [str(one) for one in verdicts(BASE, new, {"a": S, "b": S})]
    assert texts == [
        "b: reads 'a' as a, now input 'z'",
        "b: was version None and is 7",
        "c: reads 'a' as a or a default, now nothing",
        "c: has another constant for 'a'",
    ]


def numbered(count: int, *, by: int = 1, first: Any = None) -> Flow[..., Any]:
    @flow(name="numbered")
    def build(x: int) -> Any:
        value = x if first is None else first
        for _ in range(count):
            value = inc(value, by=by)
        return value

    return build


@pytest.mark.parametrize(
    ("new", "text"),
    [
        (numbered(4), "there were 3 and are 4"),
        (numbered(2), "there were 3 and are 2"),
        (numbered(3, by=2), "what they take has changed"),
        (numbered(3, first=7), "what they take has changed"),
    ],
)
def test_a_numbered_family_that_changed_cannot_be_told_apart(new: Flow[..., Any], text: str) -> None:
    """inc-2 may be another task today; guessing would give a task the value of its neighbour."""
    (verdict,) = verdicts(numbered(3), new, {"inc": S})
    assert (verdict.path, verdict.kind, verdict.is_refused) == ("inc", "changed family", True)
    assert (
        verdict.text
        == f"is known by a number only, and {text}, so which is which cannot be told; name them with .named(...)"
    )
    assert not any(one.is_refused for one in verdicts(numbered(3), new, {})), "nothing has been done under these names"
    assert verdicts(numbered(3), numbered(3), {"inc": S}) == []


def test_flows_that_are_numbered_make_weak_families_too() -> None:
    """page-2/parse is no better known than parse-2."""

    def build(count: int) -> Flow[..., Any]:
        @flow
        def page(x: int) -> Any:
            return inc(x)

        @flow(name="book")
        def book(x: int) -> Any:
            return [page(x) for _ in range(count)]

        return book

    found = verdicts(build(2), build(3), {"page/inc": S})
    assert [(one.path, one.kind) for one in found] == [("page/inc", "changed family")]


def test_a_new_item_in_a_wide_group_shifts_nothing() -> None:
    """The case of a folder in which a file appears between kill and resume."""

    def survey(count: int) -> Flow[..., Any]:
        parts = [a.with_options(name=f"part{at}", provides=f"p{at}") for at in range(count)]
        return linear("survey", a, unordered("parts", *parts), c)

    states = {"a": S, **{f"parts/part{at}": S for at in range(50)}}
    found = verdicts(survey(100), survey(101), states)
    assert [(one.path, one.kind, one.is_refused) for one in found] == [("parts/part100", "new", False)]
    late = verdicts(survey(100), survey(101), {**states, **{f"parts/part{at}": S for at in range(100)}, "c": S})
    assert [(one.path, one.kind, one.is_refused) for one in late] == [
        ("c", "rewired", True),
        ("parts/part100", "new", False),
    ], "the report was made without it"


def test_comparing_is_linear() -> None:
    """A hundred thousand tasks behind a gate, with another one before it."""
    count = 5_000
    base = [c.named(f"w{at}") for at in range(count)]

    def wide(extra: int) -> Flow[..., Any]:
        before = unordered("before", *(a.with_options(name=f"b{at}", provides=None) for at in range(count + extra)))
        return linear("wide", before, unordered("behind", *base))

    states = {f"before/b{at}": S for at in range(count)} | {f"behind/w{at}": S for at in range(count)}
    found = verdicts(wide(0), wide(1), states)
    assert len([one for one in found if one.kind == "rewired"]) == count


def test_a_graph_compares_by_path_and_not_by_place() -> None:
    """Moving a line in the source is no change."""
    old, new = graph("g", a, b, c), graph("g", c, b, a)
    assert verdicts(old, new, {"a": S, "b": S, "c": S}) == []
