"""Defaults by type: what a reader gets for a value whose task was skipped, where nothing nearer says so."""

from __future__ import annotations

from collections.abc import Callable
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from asyncflow.errors import DeclarationError

T = TypeVar("T")

_makers: dict[type, Callable[[], Any]] = {}


def default_for(cls: type[T], make: Callable[[], T]) -> None:
    """
    Register what a parameter annotated *cls* gets where the task behind it was skipped and nothing else gives a value.

    Args:
        cls: The class, as parameters are annotated with it.
        make: Called for each value; ``default_for(Basket, Basket)`` is common.

    Raises:
        DeclarationError: *cls* is no class, or *make* cannot be called.
    """
    if not isinstance(cls, type) or not callable(make):
        raise DeclarationError(
            f"af.default_for was given {cls!r:.60} and {make!r:.60}; give a class and what makes one"
        )
    _makers[cls] = make


def maker_for(annotation: Any) -> Callable[[], Any] | None:
    """Return what makes the default of a parameter that is annotated so, ``| None`` or not; None if nothing does."""
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        classes = [one for one in get_args(annotation) if one is not NoneType]
        annotation = classes[0] if len(classes) == 1 else None
    return _makers.get(annotation) if isinstance(annotation, type) else None
