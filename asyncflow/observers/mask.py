"""Values as text for logs: cut to a bearable length, and with chosen names covered wherever they occur."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

COVER = "***"
"""What stands for a value that is not to be seen."""
MOST_ITEMS = 20
"""How many elements of a container are pictured."""
MOST_DEPTH = 6
"""How many containers deep a picture goes."""
MOST_VALUES = 200
"""How many values are pictured in all, of containers in containers."""
MOST_TEXT = 200
"""How many characters of one value are pictured."""


class Mask:
    """
    Pictures values as text, with what has one of *names* covered: inputs, keys of mappings, and fields of dataclasses,
    attrs classes, structs, named tuples and pydantic models, at any depth. Upper and lower case are the same, and so
    are names with underscores before them.

    An object of any other class is pictured by its own ``repr``, which no mask looks into.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = frozenset(map(_plain, [names] if isinstance(names, str) else names))

    def named(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return name to picture."""
        return {name: COVER if self.covers(name) else self.picture(value) for name, value in values.items()}

    def picture(self, value: Any) -> str:
        """Return *value* as text."""
        return _Drawing(self).draw(value, 0)

    def covers(self, name: Any) -> bool:
        """Whether what has *name* is not to be seen."""
        return isinstance(name, str) and _plain(name) in self._names


def _plain(name: str) -> str:
    return name.lstrip("_").casefold()


class _Drawing:
    """One picture in the making, which knows how much may still be drawn."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self._left = MOST_VALUES

    def draw(self, value: Any, depth: int) -> str:
        self._left -= 1
        try:
            pairs = fields(value)
            if pairs is None and not isinstance(value, (list, tuple, set, frozenset)):
                return _repr(value)
            if depth >= MOST_DEPTH or self._left < 0:
                return "..."
            if pairs is None:
                return self._row(value, depth)
            if isinstance(value, Mapping):
                return f"{{{_joined(f'{_repr(name)}: {self._inner(name, inner, depth)}' for name, inner in pairs)}}}"
            shown = (f"{name}={self._inner(name, inner, depth)}" for name, inner in pairs)
            return f"{type(value).__name__}({_joined(shown)})"
        except Exception as error:  # a container of the user's own
            return f"<{type(value).__name__}, which cannot be read: {type(error).__name__}>"

    def _row(self, value: Any, depth: int) -> str:
        inside = _joined(self.draw(inner, depth + 1) for inner in value)
        if isinstance(value, list):
            return f"[{inside}]"
        if isinstance(value, tuple):
            return f"({inside},)" if len(value) == 1 else f"({inside})"
        return f"{{{inside}}}" if inside else f"{type(value).__name__}()"

    def _inner(self, name: Any, value: Any, depth: int) -> str:
        return COVER if self._mask.covers(name) else self.draw(value, depth + 1)


def fields(value: Any) -> Iterator[tuple[Any, Any]] | None:
    """Return the names and values that *value* is made of, or None if it has no names."""
    if isinstance(value, Mapping):
        return iter(value.items())
    cls = type(value)
    if isinstance(value, type):
        return None
    names: Iterable[str] | None = None
    if hasattr(cls, "model_fields"):
        names = cls.model_fields
    elif hasattr(cls, "__attrs_attrs__"):
        names = [attribute.name for attribute in cls.__attrs_attrs__ if attribute.repr]
    elif hasattr(cls, "__dataclass_fields__"):
        names = [name for name, field in cls.__dataclass_fields__.items() if field.repr]
    elif hasattr(cls, "__struct_fields__") or (isinstance(value, tuple) and hasattr(cls, "_fields")):
        names = cls.__struct_fields__ if hasattr(cls, "__struct_fields__") else cls._fields
    if names is None:
        return None
    return ((name, getattr(value, name)) for name in names if hasattr(value, name))


def _joined(shown: Iterable[str]) -> str:
    parts: list[str] = []
    for part in shown:
        if len(parts) == MOST_ITEMS:
            parts.append("...")
            break
        parts.append(part)
    return ", ".join(parts)


def _repr(value: Any) -> str:
    try:
        # Not all of it: a text of a gigabyte would be copied to be cut.
        text = repr(value[: MOST_TEXT + 1] if isinstance(value, (str, bytes, bytearray)) else value)
    except Exception as error:
        text = f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."
