"""Under which names a task's value is known, and whether a value has all that was promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from asyncflow.errors import DeclarationError

Provides = str | Sequence[str] | AbstractSet[str] | Mapping[str, Any] | None
"""A name, names by position, names that are keys, names to keys, or nothing."""

Given = tuple[tuple[str, Any], ...]
"""Each name with the key of its element in the value; :data:`WHOLE` for the value itself."""


class _Whole:
    def __repr__(self) -> str:
        return "WHOLE"


WHOLE: Any = _Whole()


def given_by(provides: Any, what: str) -> Given:
    """
    Return *provides* as names with keys; *what* names its owner in messages.

    Raises:
        DeclarationError: It is none of the forms that provides may have, or has a name twice.
    """
    found: list[tuple[Any, Any]]
    if provides is None:
        return ()
    if isinstance(provides, str):
        found = [(provides, WHOLE)]
    elif isinstance(provides, Mapping):
        found = list(provides.items())
    elif isinstance(provides, (set, frozenset)):
        found = [(name, name) for name in sorted(provides, key=str)]
    elif isinstance(provides, (list, tuple)):
        found = [(name, position) for position, name in enumerate(provides)]
    else:
        raise DeclarationError(
            f"{what} has provides={provides!r:.80}; give a name, a tuple of names (by position), a set of names (by "
            "key) or a mapping of names to keys"
        )
    for name, _ in found:
        if not isinstance(name, str) or not name:
            raise DeclarationError(f"{what} provides {name!r:.80}; names are strings of at least one character")
    if len({name for name, _ in found}) != len(found):
        raise DeclarationError(f"{what} provides a name twice in {provides!r:.80}; each name once")
    return tuple(found)


def missing_from(value: Any, given: Given) -> str | None:
    """Return the first name in *given* whose element *value* lacks, or None."""
    for name, key in given:
        if key is WHOLE:
            continue
        try:
            value[key]
        except (LookupError, TypeError):
            return name
    return None
