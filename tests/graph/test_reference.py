"""What can be done with a value that is not there yet, and what each misuse is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from asyncflow.errors import DeclarationError, ReferenceMisuse
from asyncflow.graph.decorator import task
from asyncflow.graph.flow import flow
from asyncflow.graph.reference import Ref
from tests.graph.perform import edges, perform


class Point(NamedTuple):
    x: int
    y: int


class Box:
    def __init__(self, content: Any) -> None:
        self.content = content


@task
def give(value: Any = 1) -> Any:
    return value


@task
def pair() -> tuple[int, str]:
    return 7, "seven"


@task
def point() -> Point:
    return Point(3, 4)


@task
def show(*args: Any, **kwargs: Any) -> Any:
    return (list(args), kwargs) if kwargs else list(args)


def in_builder(use: Callable[[Any], Any]) -> Any:
    """Return what a flow gives whose builder does *use* with a reference."""

    @flow
    def sample() -> Any:
        return use(give())

    return sample.compile()


def test_references_arrive_as_values_wherever_they_stand() -> None:
    """By position, by keyword, in *args and **kwargs, and inside containers, which are built anew."""

    @flow
    def sample(a: int) -> Any:
        one, two = give(1), give(2)
        return show(one, [two, {"deep": (one, [a])}], "constant", extra={"k": two}, point=Point(one, 5))

    args, kwargs = perform(sample, {"a": 9})
    assert args == [1, [2, {"deep": (1, [9])}], "constant"]
    assert kwargs == {"extra": {"k": 2}, "point": Point(1, 5)} and type(kwargs["point"]) is Point


def test_parts_of_a_value_can_be_selected_before_it_is_there() -> None:
    """Keys, attributes, slices and unpacking: wiring, and no task of its own."""

    @flow
    def sample() -> Any:
        number, text = pair()
        x, y = point()
        rows = give({"rows": [1, 2, 3]})
        return [number, text, x, y, rows["rows"][1:], give(Box("inner")).content, point().x]

    assert perform(sample) == [7, "seven", 3, 4, [2, 3], "inner", 3]


def test_a_promised_tuple_unpacks() -> None:
    """provides= says how many there are, as an annotation does."""
    split = give.with_options(name="split", provides=("a", "b"))

    @flow
    def sample() -> Any:
        a, b = split((1, 2))
        return {"a": a, "b": b}

    assert perform(sample) == {"a": 1, "b": 2}


def test_order_without_data() -> None:
    """One task after another that gives it nothing."""

    @flow
    def sample() -> None:
        first = give()
        second = give.named("second").after(first)()
        give.named("third").after(first, second)(5)

    assert edges(sample.compile()) == {("give", "second"), ("give", "third"), ("second", "third")}


def test_otherwise_is_for_what_may_be_skipped() -> None:
    """It changes nothing where the value is there."""

    @flow
    def sample() -> Any:
        return give(3).otherwise(0)  # type: ignore[union-attr]

    assert perform(sample) == 3


MISUSES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda ref: bool(ref), "cannot be tested for truth; do it in a task, which gets the value"),
    (lambda ref: 1 if ref else 2, "cannot be tested for truth"),
    (lambda ref: not ref, "cannot be tested for truth"),
    (lambda ref: ref == 1, "cannot be compared"),
    (lambda ref: ref != 1, "cannot be compared"),
    (lambda ref: ref > 1, "cannot be compared"),
    (lambda ref: ref + 1, "cannot be calculated with"),
    (lambda ref: 1 - ref, "cannot be calculated with"),
    (lambda ref: -ref, "cannot be calculated with"),
    (lambda ref: ref @ ref, "cannot be calculated with"),
    (lambda ref: len(ref), "has no length"),
    (lambda ref: 3 in ref, "cannot be searched with 'in'"),
    (lambda ref: f"{ref}", r"cannot be formatted or printed; .* \(repr\(\) shows the reference\)"),
    (lambda ref: "%s" % ref, "cannot be formatted"),  # noqa: UP031
    (lambda ref: str(ref), "cannot be formatted"),
    (lambda ref: int(ref), "cannot be converted to a number"),
    (lambda ref: [1, 2][ref], "cannot be converted to a number"),
    (lambda ref: round(ref), "cannot be converted to a number"),
    (lambda ref: list(ref), "cannot be iterated over or unpacked: .* annotate the task -> tuple"),
    (lambda ref: ref(), "cannot be called; call its methods in a task"),
    (lambda ref: ref.upper(), r"the value of 'give'\.upper has no value .* cannot be called"),
    (lambda ref: asyncio.run(_await(ref)), "cannot be awaited: a builder only wires"),
    (lambda ref: ref.__enter__(), "cannot be entered"),
    (lambda ref: setattr(ref, "x", 1), "cannot be changed"),
    (lambda ref: ref.__setitem__(0, 1), "cannot be changed"),
    (lambda ref: next(ref), "cannot be stepped through"),
    (lambda ref: ref[ref], "cannot be selected from by another reference"),
    (lambda ref: ref.otherwise(ref), "can only fall back to a constant"),
    (lambda ref: show({ref}), "a set cannot hold references, since it would be looked into before they have values"),
    (lambda ref: show({ref: 1}), "a reference cannot be the key of a dict"),
]


async def _await(ref: Any) -> None:
    await ref


@pytest.mark.parametrize(("use", "message"), MISUSES)
def test_what_needs_the_value_is_refused_and_told_where_to_do_it(use: Callable[[Any], Any], message: str) -> None:
    """Without this, a condition on a reference would be true for ever, and silently."""
    with pytest.raises(ReferenceMisuse, match=message):
        in_builder(use)


def test_a_misuse_names_the_value_and_the_flow() -> None:
    """In a builder of fifty lines the line number alone is not enough."""
    text = (
        "the value of 'give'['rows'].first has no value while flow 'sample' is being declared, so it cannot be tested"
    )
    with pytest.raises(ReferenceMisuse, match="sample") as caught:
        in_builder(lambda ref: bool(ref["rows"].first))
    assert str(caught.value).startswith(text)
    assert caught.value.__notes__ == ["while flow 'sample' was being declared"]


def test_a_reference_belongs_to_its_builder() -> None:
    """One that leaks out of its builder would name a task in the wrong flow."""
    leaked: list[Any] = []

    @flow
    def source() -> None:
        leaked.append(give())

    @flow
    def thief() -> Any:
        return show(leaked[0])

    source.compile()
    with pytest.raises(ReferenceMisuse, match="cannot be used in flow 'thief'; return it from its own flow"):
        thief.compile()
    with pytest.raises(DeclarationError, match="task 'show' was called after its flow was declared"):
        show(leaked[0])


def test_after_takes_references_only() -> None:
    """after(task) instead of after(task()) is an easy slip."""

    @flow
    def sample() -> None:
        give.after(pair)()

    with pytest.raises(
        DeclarationError, match="'give' in flow 'sample' is to come after <task 'pair'>; give what a call"
    ):
        sample.compile()


def test_a_reference_shows_itself_and_is_hashable() -> None:
    """Debuggers call repr; users keep references in dicts."""

    @flow
    def sample(a: int) -> None:
        ref: Any = give()
        assert repr(ref["x"].y) == "<Ref to the value of 'give'['x'].y of flow 'sample'>"
        assert repr(a) == "<Ref to input 'a' of flow 'sample'>"
        assert isinstance(ref, Ref) and {ref: 1}[ref] == 1

    sample.compile()


def test_containers_without_end_are_refused() -> None:
    """A list that holds itself must not hang the declaration."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(DeclarationError, match="nested more than 100 deep"):
        in_builder(lambda ref: show(endless))
