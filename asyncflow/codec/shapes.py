"""
How a class of the user's is taken apart into fields and put together again, by name.

Nothing that the user wrote runs when a dataclass, attrs class or NamedTuple is put together: no ``__init__``, no
``__post_init__``, no validator or converter. The fields are what those made of their arguments; they could refuse their
own results, or have an effect twice. A msgspec Struct cannot be made without its ``__post_init__``; its fields are set
afterwards to what was kept, whatever that did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, Flag
from functools import cached_property, lru_cache
from typing import Any, cast

import attrs
import msgspec

from asyncflow.codec.leaves import ABSENT, Stuck, class_of
from asyncflow.names import name_of

_HASH_CACHE = "_attrs_cached_hash"

_new_tuple = cast("Callable[[type[Any], list[Any]], Any]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]


class ShapeMismatch(ValueError):
    """What was kept does not fit the class of today. The codec says it to the user."""


class Shape:
    """How values of one class are kept: as what :meth:`take` lists, from which :meth:`make` makes an equal one."""

    __slots__ = ("cls", "name")
    kind = "object"
    """What the kept form is marked as, so that a value is never read in a way in which it was not written."""

    def __init__(self, cls: type[Any]) -> None:
        self.cls = cls
        self.name = name_of(cls)

    def take(self, value: Any) -> list[Any]:
        """Return what *value* is made of."""
        raise NotImplementedError

    def make(self, parts: list[Any]) -> Any:
        """
        Return the value that :meth:`take` made *parts* of.

        Raises:
            ShapeMismatch: The class has changed since.
        """
        raise NotImplementedError

    def step(self, parts: Sequence[Any], index: int) -> str:
        """Return how a user would write the way from a value to its part at *index*."""
        return ""


class FieldShape(Shape):
    """An attrs class or dataclass: name and value of each field, then of what else stands in its ``__dict__``."""

    __slots__ = ("_caches_hash", "_defaults", "_fields", "_left_out", "_slots")

    def __init__(self, cls: type[Any], fields: Sequence[str], defaults: Callable[[Any, str], Any]) -> None:
        super().__init__(cls)
        self._defaults = defaults
        self._fields = tuple(fields)
        # Slots that are not fields belong to a plain base or subclass; they are as much part of the value.
        self._slots = tuple(name for name in dict.fromkeys(_slots(cls)) if name not in fields)
        # What can be computed again is left out: it may be large, or unkeepable.
        cached = [
            name for base in cls.__mro__ for name, each in vars(base).items() if isinstance(each, cached_property)
        ]
        self._left_out = frozenset((*self._fields, *self._slots, *cached))
        # A cached hash of a str is wrong in any other process.
        code = getattr(cls.__hash__, "__code__", None)
        self._caches_hash = code is not None and _HASH_CACHE in code.co_names

    def take(self, value: Any) -> list[Any]:
        parts: list[Any] = []
        for name in self._fields:
            parts += (name, getattr(value, name, ABSENT))
        for name in self._slots:
            if (slot := getattr(value, name, ABSENT)) is not ABSENT:
                parts += (name, slot)
        for name, extra in getattr(value, "__dict__", {}).items():
            if name not in self._left_out and not _is_machinery(name):
                parts += (name, extra)
        return parts

    def make(self, parts: list[Any]) -> Any:
        kept = _by_name(parts, self.name)
        value: Any = object.__new__(self.cls)
        if self._caches_hash:
            object.__setattr__(value, _HASH_CACHE, None)
        for name in self._fields:
            if name in kept:
                if (field := kept.pop(name)) is not ABSENT:
                    object.__setattr__(value, name, field)
            else:
                object.__setattr__(value, name, self._defaults(value, name))
        for name in self._slots:
            if name in kept:
                object.__setattr__(value, name, kept.pop(name))
        _set_extras(value, kept, self.name)
        return value

    def step(self, parts: Sequence[Any], index: int) -> str:
        return f".{parts[index - 1]}" if index % 2 else ""


class StructShape(FieldShape):
    """A msgspec Struct."""

    __slots__ = ()

    def __init__(self, cls: type[Any]) -> None:
        super().__init__(cls, [field.name for field in msgspec.structs.fields(cls)], _no_default)

    def make(self, parts: list[Any]) -> Any:
        kept = _by_name(parts, self.name)
        fields: dict[str, Any] = {name: kept.pop(name) for name in self._fields if name in kept}
        fields = {name: field for name, field in fields.items() if field is not ABSENT}
        try:
            value = self.cls(**fields)
        except TypeError as error:
            raise ShapeMismatch(f"class {self.name!r} cannot be made of what was kept: {error}") from error
        for name, field in fields.items():
            msgspec.structs.force_setattr(value, name, field)
        _set_extras(value, kept, self.name)
        return value


class TupleShape(FieldShape):
    """A NamedTuple."""

    __slots__ = ("_items",)

    def __init__(self, cls: Any) -> None:
        self._items: tuple[str, ...] = cls._fields
        super().__init__(cls, self._items, _no_default)

    def make(self, parts: list[Any]) -> Any:
        cls: Any = self.cls
        kept = {**cls._field_defaults, **_by_name(parts, self.name)}
        if missing := [name for name in self._items if name not in kept]:
            _no_default(cls, missing[0])
        value: Any = _new_tuple(cls, [kept.pop(name) for name in self._items])
        _set_extras(value, kept, self.name)
        return value


class EnumShape(Shape):
    """An enum's member, by name; of a flag by value, since combinations may have no name."""

    __slots__ = ("_enum",)
    kind = "enum"

    def __init__(self, cls: Any) -> None:
        super().__init__(cls)
        self._enum = cls

    def take(self, value: Any) -> list[Any]:
        if issubclass(self.cls, Flag):
            return [int(value._value_)]
        if self._enum.__members__.get(value._name_) is not value:
            raise Stuck(self.cls, "is not one of the enum's named members, so it")
        return [value._name_]

    def make(self, parts: list[Any]) -> Any:
        try:
            (part,) = parts
            return self._enum(part) if issubclass(self.cls, Flag) else self._enum[part]
        except (KeyError, ValueError, TypeError) as error:
            found = ", ".join(map(repr, parts))
            raise ShapeMismatch(f"enum {self.name!r} has no member {found:.80} any more") from error


class HookShape(Shape):
    """A class that was registered with functions of the user's own."""

    __slots__ = ("_decode", "_encode")
    kind = "hooked"

    def __init__(self, cls: type[Any], encode: Callable[[Any], Any], decode: Callable[[Any], Any]) -> None:
        super().__init__(cls)
        self._encode = encode
        self._decode = decode

    def take(self, value: Any) -> list[Any]:
        return [self._encode(value)]

    def make(self, parts: list[Any]) -> Any:
        (kept,) = parts
        value = self._decode(kept)
        if type(value) is not self.cls:
            raise ShapeMismatch(f"decode= of class {self.name!r} returned a {type(value).__qualname__}")
        return value


class ErrorShape(Shape):
    """An exception without hooks: a failure of this class can be raised again, but it cannot be part of a value."""

    __slots__ = ()
    kind = "error"

    def take(self, value: Any) -> list[Any]:
        raise Stuck(self.cls, "is an exception, which as a value would lose its traceback and cause; it")


def shape_of(cls: Any) -> Shape | None:
    """Return how values of *cls* are kept by their fields, or None if it has none that say everything."""
    return _shape_of(cls)


@lru_cache(maxsize=4096)
def _shape_of(cls: Any) -> Shape | None:
    if issubclass(cls, BaseException):
        return ErrorShape(cls)
    if issubclass(cls, Enum):
        return EnumShape(cls)
    if issubclass(cls, msgspec.Struct):
        return StructShape(cls)
    if tuple in cls.__mro__:
        return TupleShape(cls) if hasattr(cls, "_fields") and hasattr(cls, "_field_defaults") else None
    # Each by its own mark, which unlike the functions that look for it leaves the type of `cls` alone.
    is_attrs = hasattr(cls, "__attrs_attrs__")
    if not is_attrs and not hasattr(cls, "__dataclass_fields__"):
        return None
    try:
        # Refused for an abstract class, which has no values, and for a subclass of dict and the like, whose items
        # are not fields and would be lost.
        object.__new__(cls)
    except TypeError:
        return None
    if is_attrs:
        return FieldShape(cls, [field.name for field in attrs.fields(cls)], _attrs_default)
    return FieldShape(cls, [field.name for field in dataclasses.fields(cls)], _dataclass_default)


def _no_default(value: Any, name: str) -> Any:
    cls = value if isinstance(value, type) else type(value)
    raise ShapeMismatch(
        f"class {name_of(cls)!r} has a field {name!r} that it did not have when the value was kept; give it a default"
    )


def _attrs_default(value: Any, name: str) -> Any:
    default: Any = getattr(attrs.fields_dict(class_of(value)).get(name), "default", attrs.NOTHING)
    if default is attrs.NOTHING:
        return _no_default(value, name)
    if isinstance(default, cast("type[Any]", attrs.Factory)):
        return default.factory(value) if default.takes_self else default.factory()
    return default


def _dataclass_default(value: Any, name: str) -> Any:
    for field in dataclasses.fields(value):
        if field.name == name:
            if field.default is not dataclasses.MISSING:
                return field.default
            if field.default_factory is not dataclasses.MISSING:
                return field.default_factory()
    return _no_default(value, name)


def _is_machinery(name: str) -> bool:
    """Return whether an attribute belongs to Python or attrs, as ``__orig_class__`` does, and not to the value."""
    return (name.startswith("__") and name.endswith("__")) or name == _HASH_CACHE


def _slots(cls: type[Any]) -> Iterator[str]:
    """Yield the names of the slots of *cls* and its bases, as attributes are found under."""
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                yield f"_{base.__name__.lstrip('_')}{name}"
            elif not _is_machinery(name):
                yield name


def _by_name(parts: list[Any], cls: str) -> dict[str, Any]:
    names = parts[::2]
    if len(parts) % 2 or not all(type(name) is str and not _is_machinery(name) for name in names):
        raise ShapeMismatch(f"what was kept of class {cls!r} is not a list of fields")
    return dict(zip(names, parts[1::2], strict=True))


def _set_extras(value: Any, extras: dict[str, Any], cls: str) -> None:
    if not extras:
        return
    attributes = getattr(value, "__dict__", None)
    if attributes is None:
        raise ShapeMismatch(
            f"class {cls!r} has no field {next(iter(extras))!r} any more, which a value in the journal has; keep it "
            "for as long as there are runs with it"
        )
    attributes.update((name, extra) for name, extra in extras.items() if extra is not ABSENT)
