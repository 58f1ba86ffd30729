"""
Whether what one task returns can be what another asks for.

Only what can never fit is refused: where a type is unknown, or could fit for some values, it passes. A type checker is
stricter, and sees less of a flow that is wired by name.
"""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from functools import lru_cache
from typing import Any

from asyncflow.graph.signature import UNKNOWN

# bool is an int by class; these two steps are by convention only.
_WIDER: dict[Any, tuple[type, ...]] = {int: (float, complex), bool: (float, complex), float: (complex,)}
_TRANSPARENT = {typing.Final, typing.ClassVar, typing.Required, typing.NotRequired}


def fits(provided: Any, wanted: Any) -> bool:
    """Return whether a value annotated *provided* can be one annotated *wanted*. Unknown annotations fit."""
    if provided is wanted or provided is UNKNOWN or wanted is UNKNOWN:
        return True
    try:
        return _fits_known(provided, wanted)
    except TypeError:  # An annotation without a hash, such as Annotated[int, []].
        return _fits(provided, wanted)


@lru_cache(maxsize=4096)
def _fits_known(provided: Any, wanted: Any) -> bool:
    return _fits(provided, wanted)


def _plain(annotation: Any) -> Any:
    """Return *annotation* without what says nothing of the value."""
    while True:
        if annotation is None:
            return type(None)
        if isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        elif typing.get_origin(annotation) is typing.Annotated or typing.get_origin(annotation) in _TRANSPARENT:
            annotation = typing.get_args(annotation)[0]
        else:
            return annotation


def _members(annotation: Any) -> list[Any]:
    """Return what a union consists of, flat; anything else alone."""
    found: list[Any] = []
    waiting = [annotation]
    while waiting:
        one = _plain(waiting.pop())
        if typing.get_origin(one) in (typing.Union, types.UnionType):
            waiting.extend(reversed(typing.get_args(one)))
        else:
            found.append(one)
    return found


def _fits(provided: Any, wanted: Any) -> bool:
    wanted_members = _members(wanted)
    return any(_fits_single(one, other) for one in _members(provided) for other in wanted_members)


def _fits_single(provided: Any, wanted: Any) -> bool:
    if typing.get_origin(provided) is typing.Literal or typing.get_origin(wanted) is typing.Literal:
        return _fits_literal(provided, wanted)
    have, want = _class_of(provided), _class_of(wanted)
    if have is None or want is None:
        return True
    if not (_related(have, want) or want in _WIDER.get(have, ())):
        return False
    if have is not want:
        return True
    have_args, want_args = typing.get_args(provided), typing.get_args(wanted)
    if have is tuple:
        return _fits_tuple(have_args, want_args)
    if have is collections.abc.Callable or len(have_args) != len(want_args):
        return True
    return all(fits(one, other) for one, other in zip(have_args, want_args, strict=True))


def _fits_literal(provided: Any, wanted: Any) -> bool:
    if typing.get_origin(provided) is not typing.Literal:
        return any(_fits_single(provided, type(value)) for value in typing.get_args(wanted))
    values = typing.get_args(provided)
    if typing.get_origin(wanted) is not typing.Literal:
        return any(_fits_single(type(value), wanted) for value in values)
    allowed = {(type(value), value) for value in typing.get_args(wanted)}
    return any((type(value), value) in allowed for value in values)


def _fits_tuple(have: tuple[Any, ...], want: tuple[Any, ...]) -> bool:
    if not have or not want:
        return True
    have_many, want_many = len(have) == 2 and have[1] is Ellipsis, len(want) == 2 and want[1] is Ellipsis
    if have_many:
        return all(fits(have[0], one) for one in want if one is not Ellipsis)
    if want_many:
        return all(fits(one, want[0]) for one in have)
    return len(have) == len(want) and all(fits(one, other) for one, other in zip(have, want, strict=True))


def _class_of(annotation: Any) -> Any:
    """Return the class that a value of *annotation* has, or None where that cannot be told."""
    found = typing.get_origin(annotation) or annotation
    if typing.is_typeddict(found):
        return dict
    if not isinstance(found, type) or found in (object, Any) or getattr(found, "_is_protocol", False):
        return None
    return found


def _related(one: type, other: type) -> bool:
    try:
        return issubclass(one, other) or issubclass(other, one)
    except TypeError:  # A class that refuses the question cannot be told.
        return True


def element_of(annotation: Any, key: Any) -> Any:
    """Return the annotation of ``value[key]``, or ``UNKNOWN``."""
    annotation = _plain(annotation)
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(key, int) and not isinstance(key, bool):
        if origin is tuple and Ellipsis not in args:
            return args[key] if -len(args) <= key < len(args) else UNKNOWN
        if origin in (list, tuple, collections.abc.Sequence) and args:
            return args[0]
        fields: tuple[str, ...] = getattr(annotation, "_fields", ())
        if isinstance(annotation, type) and -len(fields) <= key < len(fields):
            return _fields_of(annotation).get(fields[key], UNKNOWN)
    if origin in (dict, collections.abc.Mapping) and len(args) == 2:
        return args[1]
    if typing.is_typeddict(annotation) and isinstance(key, str):
        return _fields_of(annotation).get(key, UNKNOWN)
    return UNKNOWN


def attribute_of(annotation: Any, name: str) -> Any:
    """Return the annotation of ``value.name``, or ``UNKNOWN``."""
    annotation = _plain(annotation)
    return _fields_of(annotation).get(name, UNKNOWN) if isinstance(annotation, type) else UNKNOWN


def _fields_of(cls: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except Exception:
        # Whatever its annotations do when they are evaluated, the flow compiles without them.
        return {}


def length_of(annotation: Any) -> int | None:
    """Return how many elements a value of *annotation* has, if the annotation says."""
    annotation = _plain(annotation)
    args = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple and args and Ellipsis not in args:
        return len(args)
    fields: tuple[str, ...] | None = getattr(annotation, "_fields", None)
    return (
        len(fields) if isinstance(annotation, type) and issubclass(annotation, tuple) and fields is not None else None
    )


def type_text(annotation: Any) -> str:
    """Return *annotation* as a reader would write it."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return "None" if annotation is type(None) else annotation.__qualname__
    return inspect.formatannotation(annotation).replace("typing.", "")
