"""Which types can meet on an edge."""

# ruff: noqa: UP007, UP045 - users write unions in the old way too.

from __future__ import annotations

import collections.abc as abc
import typing
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, NamedTuple, NewType, Optional, Protocol, TypedDict, TypeVar, Union

import pytest

from asyncflow.graph.signature import UNKNOWN
from asyncflow.graph.types import element_of, fits, length_of, type_text

T = TypeVar("T")
UserId = NewType("UserId", int)


class Base: ...


class Derived(Base): ...


class Other: ...


class Shape(Protocol):
    def area(self) -> float: ...


class Row(TypedDict):
    name: str
    size: int


class Point(NamedTuple):
    x: int
    label: str


FITTING = [
    (int, int),
    (Derived, Base),
    (Base, Derived),
    (bool, int),
    (int, float),
    (int, complex),
    (float, complex),
    (int, UNKNOWN),
    (UNKNOWN, str),
    (int, Any),
    (Any, int),
    (int, object),
    (object, int),
    (int, T),
    (Other, Shape),
    (UserId, int),
    (int, UserId),
    (Annotated[int, "seconds"], int),
    (Annotated[int, []], int),
    (None, None),
    (type(None), Optional[int]),
    (Optional[int], int),
    (int, Union[str, int]),
    (int | str, str | bytes),
    (list[int], list),
    (list, list[int]),
    (list[int], list[float]),
    (list[int], abc.Sequence[int]),
    (abc.Iterable[int], list[str]),
    (dict[str, int], abc.Mapping[str, int]),
    (dict[str, Any], Row),
    (Row, dict),
    (tuple[int, str], tuple[int, str]),
    (tuple[int, ...], tuple[int, int]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, str], tuple),
    (Point, tuple),
    (Literal["a", "b"], str),
    (str, Literal["a"]),
    (Literal["a", "b"], Literal["b", "c"]),
    (Literal[1], float),
    (Callable[[int], str], Callable[..., Any]),
    (type[int], type),
    (Path, PurePath),
    ("not resolved", int),
]

UNFITTING = [
    (int, str),
    (float, int),
    (Base, Other),
    (None, str),
    (Optional[int], str),
    (int | str, bytes),
    (list[int], list[str]),
    (list[int], dict),
    (dict[str, int], dict[str, str]),
    (tuple[int, str], tuple[int, int]),
    (tuple[int, str], tuple[int]),
    (tuple[str, ...], tuple[int, int]),
    (tuple[int, str], list),
    (UserId, str),
    (Annotated[int, "x"], str),
    (Row, list),
    (Literal["a"], Literal["b"]),
    (Literal["a"], int),
    (int, Literal["a"]),
    (Literal[1], Literal[True]),
    (list[list[int]], list[list[str]]),
]


@pytest.mark.parametrize(("provided", "wanted"), FITTING, ids=str)
def test_what_could_fit_passes(provided: Any, wanted: Any) -> None:
    """A check that refuses a flow which would have worked is worse than none."""
    assert fits(provided, wanted)


@pytest.mark.parametrize(("provided", "wanted"), UNFITTING, ids=str)
def test_what_can_never_fit_is_refused(provided: Any, wanted: Any) -> None:
    """Found at compile, before the first task has had an effect."""
    assert not fits(provided, wanted)


@pytest.mark.parametrize(
    ("annotation", "key", "expected"),
    [
        (tuple[int, str], 0, int),
        (tuple[int, str], -1, str),
        (tuple[int, str], 5, UNKNOWN),
        (tuple[int, ...], 3, int),
        (list[bytes], 0, bytes),
        (dict[str, float], "x", float),
        (Row, "size", int),
        (Row, "depth", UNKNOWN),
        (Point, 1, str),
        (int, 0, UNKNOWN),
        (list[int], slice(1), UNKNOWN),
    ],
    ids=str,
)
def test_an_element_has_the_type_that_its_container_says(annotation: Any, key: Any, expected: Any) -> None:
    """So that what a task unpacks is checked like what it returns."""
    assert element_of(annotation, key) is expected


def test_only_a_declared_length_is_known() -> None:
    """Unpacking happens before there is a value to count."""
    assert length_of(tuple[int, str]) == 2 and length_of(Point) == 2
    assert length_of(tuple[int, ...]) is None and length_of(list[int]) is None and length_of(tuple) is None


def test_types_are_shown_as_they_are_written() -> None:
    """An error that says `<class 'int'>` makes its reader translate."""
    shown = [type_text(one) for one in (int, None, type(None), list[int], Optional[int], typing.Any)]
    assert shown == ["int", "None", "None", "list[int]", "Optional[int]", "Any"]
