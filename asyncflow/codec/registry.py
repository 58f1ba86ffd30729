"""Which classes may appear in values: those that an annotation mentions, and those that were registered."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints, is_typeddict, overload

from asyncflow.codec.leaves import PLAIN, WRITERS
from asyncflow.codec.shapes import HookShape, Shape, shape_of
from asyncflow.errors import DeclarationError
from asyncflow.names import name_of

C = TypeVar("C")

_MISSING: Any = object()
_KEPT_ANYWAY = PLAIN | WRITERS.keys() | {list, tuple, dict, set, frozenset}


class Registry:
    """Classes by type, for taking values apart, and by name, for putting them together."""

    __slots__ = ("_by_name", "_by_type", "_defaults", "_unwalked")

    def __init__(self) -> None:
        self._by_type: dict[type[Any], Shape] = {}
        self._by_name: dict[str, Shape] = {}
        self._defaults: dict[type[Any], Any] = {}
        # Registered and not yet searched for the classes of their fields: while a module is being imported, what a
        # field's annotation names may not exist yet, so the search waits until something is looked for.
        self._unwalked: list[type[Any]] = []

    def register(self, cls: Any, encode: Any = None, decode: Any = None, default: Any = _MISSING) -> None:
        """Let *cls* appear; :func:`register` says how."""
        if not isinstance(cls, type):
            raise DeclarationError(f"register() takes a class, not {cls!r:.80}")
        name = name_of(cls)
        if (encode is None) != (decode is None):
            given, lacking = ("encode", "decode") if decode is None else ("decode", "encode")
            raise DeclarationError(
                f"class {name!r} is registered with {given}= and not {lacking}=; give both or neither"
            )
        if cls in _KEPT_ANYWAY:
            if encode is not None:
                raise DeclarationError(f"values of {name!r} are kept exactly as they are; register a class of your own")
        else:
            shape = shape_of(cls) if encode is None else HookShape(cls, encode, decode)
            shape = shape or self._by_type.get(cls)
            if shape is None and default is _MISSING:
                raise DeclarationError(
                    f"class {name!r} is no attrs class, dataclass, msgspec Struct, NamedTuple, enum or exception; "
                    "register it with encode= and decode="
                )
            if shape is not None:
                there = self._by_name.get(name)
                if there is not None and there.cls is not cls:
                    raise DeclarationError(
                        f"another class is registered as {name!r}; give this one a name of its own, since journals "
                        "know classes by name"
                    )
                self.add(shape)
                self._unwalked.append(cls)
        if default is not _MISSING:
            self._defaults[cls] = default

    def add(self, shape: Shape) -> None:
        """Let values of one shape appear. Of two classes with one name the newer is the one that is read."""
        self._by_type[shape.cls] = shape
        self._by_name[shape.name] = shape

    def shape(self, cls: type[Any]) -> Shape | None:
        """Return how values of exactly *cls* are kept, if they may be."""
        shape = self._by_type.get(cls)
        if shape is None and self._unwalked:
            self._walk()
            shape = self._by_type.get(cls)
        return shape

    def named(self, name: str) -> Shape | None:
        """Return the shape that travels as *name*, if it may."""
        if self._unwalked:
            self._walk()
        return self._by_name.get(name)

    def names(self) -> Iterator[str]:
        """Yield the name of each class that may appear."""
        return iter(self._by_name)

    def default(self, cls: Any, missing: Any = None) -> Any:
        """Return the default of a type, or *missing*."""
        return self._defaults.get(cls, missing) if isinstance(cls, type) else missing

    def _walk(self) -> None:
        waiting, self._unwalked = self._unwalked, []
        for cls in waiting:
            for shape in shapes_in(cls):
                # What was registered by itself stays as it was registered.
                if shape.cls not in self._by_type:
                    self._by_type[shape.cls] = shape
                    self._by_name.setdefault(shape.name, shape)


REGISTRY = Registry()
"""What :func:`register` fills, and every codec looks into."""

REGISTRY.register(Counter, dict, Counter)


def _from_deque(value: deque[Any]) -> tuple[list[Any], int | None]:
    return list(value), value.maxlen


def _to_deque(kept: tuple[list[Any], int | None]) -> deque[Any]:
    return deque(*kept)


def _to_fraction(kept: tuple[int, int]) -> Fraction:
    return Fraction(*kept)


REGISTRY.register(Counter, dict, Counter)
REGISTRY.register(OrderedDict, dict, OrderedDict)
REGISTRY.register(deque, _from_deque, _to_deque)
REGISTRY.register(Fraction, Fraction.as_integer_ratio, _to_fraction)


@overload
def register(
    cls: type[C],
    /,
    *,
    encode: Callable[[C], Any] | None = None,
    decode: Callable[[Any], C] | None = None,
    default: Any = ...,
) -> type[C]: ...


@overload
def register(
    *, encode: Callable[[Any], Any] | None = None, decode: Callable[[Any], Any] | None = None, default: Any = ...
) -> Callable[[type[C]], type[C]]: ...


def register(
    cls: type[Any] | None = None,
    /,
    *,
    encode: Callable[[Any], Any] | None = None,
    decode: Callable[[Any], Any] | None = None,
    default: Any = _MISSING,
) -> Any:
    """
    Let values of a class appear in journals, wherever they come from. Also a class decorator, with or without options.

    An attrs class, dataclass, msgspec Struct, NamedTuple or enum needs nothing else, and the classes of its fields come
    with it. An exception that is registered is raised again as itself after a crash.

    Args:
        cls: The class. Its subclasses are others, and registered by themselves.
        encode: Makes of an instance something that can be kept; for any class.
        decode: Makes an instance of what *encode* returned.
        default: What a reader of this type gets whose provider was skipped.

    Raises:
        DeclarationError: The class says nothing of its fields and there is no *encode*, only one of *encode* and
            *decode* is given, or another class of the same name is registered.
    """
    if cls is None:

        def decorate(cls: type[Any]) -> type[Any]:
            REGISTRY.register(cls, encode, decode, default)
            return cls

        return decorate
    REGISTRY.register(cls, encode, decode, default)
    return cls


def default_of(cls: Any, missing: Any = None) -> Any:
    """Return the default that was registered for a type, or *missing*."""
    return REGISTRY.default(cls, missing)


def shapes_in(annotation: Any) -> tuple[Shape, ...]:
    """Return the shape of each class that a value of this annotation may contain, at any depth, without hooks."""
    try:
        hash(annotation)
    except TypeError:
        return tuple(_find(annotation))
    return _shapes_in_hashable(annotation)


# A run allows every annotation of its flow; most are the same from run to run.
@lru_cache(maxsize=4096)
def _shapes_in_hashable(annotation: Hashable) -> tuple[Shape, ...]:
    return tuple(_find(annotation))


def _find(annotation: Any) -> Iterator[Shape]:
    # Kept alive in `seen`, so that an id is never used again while we walk.
    seen: dict[int, Any] = {}
    waiting = [annotation]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, type) and get_origin(item) is None:
            if (shape := shape_of(item)) is not None:
                yield shape
            if shape is not None or is_typeddict(item):
                waiting.extend(_annotations_of(item))
        else:
            waiting.extend(_inside(item))


def _inside(annotation: Any) -> list[Any]:
    """Return what an annotation that is not a class is made of."""
    if isinstance(annotation, list | tuple):
        return list(cast("list[Any]", annotation))
    if isinstance(annotation, TypeVar):
        return [annotation.__bound__, *annotation.__constraints__]
    origin, args = get_origin(annotation), list(get_args(annotation))
    if origin is Annotated:
        return args[:1]
    if origin is Literal:
        return [type(arg) for arg in args]
    if origin is not None:
        return [origin, *args]
    # A NewType, or an alias made by the `type` statement.
    for attribute in ("__supertype__", "__value__"):
        try:
            return [getattr(annotation, attribute)]
        except (AttributeError, NameError):
            pass
    return []


def _annotations_of(cls: type[Any]) -> list[Any]:
    """Return the annotations of the fields of *cls*, without those that name what cannot be found."""
    if issubclass(cls, Enum | BaseException):
        return []
    found: list[Any] = list(getattr(cls, "__orig_bases__", ()))
    try:
        return [*found, *get_type_hints(cls, include_extras=True).values()]
    except Exception:
        pass
    # One name that only a type checker can see must not hide the other fields.
    for base in cls.__mro__:
        module = vars(sys.modules.get(base.__module__, SimpleNamespace()))
        for name, annotation in vars(base).get("__annotations__", {}).items():
            lone = SimpleNamespace(__annotations__={name: annotation})
            try:
                found += get_type_hints(lone, module, dict(vars(base)), include_extras=True).values()
            except Exception:
                continue
    return found
