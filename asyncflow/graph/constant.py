"""Constants by a hash that is the same in every process, so that a plan can tell whether one has changed."""

from __future__ import annotations

import enum
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from asyncflow.names import name_of


def constant_hash(value: Any) -> str:
    """Return a hash of *value* that is the same in every process, so that a changed constant is noticed."""
    try:
        return digest("".join(_canonical(value)))
    except RecursionError:  # It holds itself, or is nested without end; its type must do.
        return digest(name_of(type(value)))


def digest(text: str) -> str:
    """Return a short hash of *text*."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


def _canonical(value: Any) -> Iterator[str]:
    """Yield a text of *value*, free of addresses and of the order of sets."""
    cls = type(value)
    if cls in (type(None), bool, int, float, complex, str, bytes):
        yield f"{cls.__name__}:{value!r};"
        return
    yield f"{name_of(cls)}("
    if cls is dict:
        for key, part in value.items():
            yield from _canonical(key)
            yield from _canonical(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _canonical(part)
    elif isinstance(value, (set, frozenset)):
        yield from sorted(digest("".join(_canonical(part))) for part in value)
    elif isinstance(value, enum.Enum):
        yield value.name
    elif isinstance(value, functools.partial):
        yield from _canonical((value.func, value.args, value.keywords))
    elif isinstance(value, type) or hasattr(value, "__qualname__"):
        yield name_of(value)
    elif (fields := fields_of(value)) is not None:
        for name, part in fields.items():
            yield f"{name}="
            yield from _canonical(part)
    else:
        # An address differs in every process.
        yield re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))
    yield ");"


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """Return the fields of a dataclass, an attrs class or a struct by name; None of anything else."""
    names = getattr(value, "__dataclass_fields__", None) or getattr(value, "__struct_fields__", None)
    if names is None and attrs.has(type(value)):
        names = [field.name for field in attrs.fields(type(value))]
    return None if names is None else {name: getattr(value, name, None) for name in names}
