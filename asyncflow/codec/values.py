"""
Whole values to bytes and back: exactly as they were, nested at will.

The format is msgpack. None, bool, int, float, str, bytes, list, and dict with string keys are msgpack's own. What has
no others inside and msgpack would lose is an extension (`leaves`). Every other container is a list whose first item is
an extension that no value can be, a **mark**, which says what the list stands for. A payload that has marks begins
with a byte that msgpack never uses, so a payload without them, which most are, is decoded in one step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec.msgpack import Ext

from asyncflow.codec.leaves import (
    FIRST_MARK,
    PLAIN,
    WRITERS,
    Stuck,
    careful,
    class_of,
    is_text,
    pack,
    read_leaf,
    unpack,
)
from asyncflow.codec.registry import REGISTRY, Registry, shapes_in
from asyncflow.codec.shapes import Shape, ShapeMismatch, shape_of
from asyncflow.errors import UndecodableValue, UnkeepableValue
from asyncflow.names import name_of

DEEPEST = 500
"""How many containers may stand within each other. Both directions use one Python frame a level."""

_MARKED = b"\xc1"
_ONLY_STR = frozenset({str})
_MARKS = ("tuple", "set", "frozenset", "dict", "object", "enum", "hooked")


class _Mark:
    """What a list stands for, as read back."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind


# Part of the journal format: a mark's code is its place among _MARKS.
_WRITTEN = {kind: Ext(FIRST_MARK + number, b"") for number, kind in enumerate(_MARKS)}
_READ = {FIRST_MARK + number: _Mark(kind) for number, kind in enumerate(_MARKS)}


def _read_marked(code: int, data: memoryview) -> Any:
    mark = _READ.get(code)
    return read_leaf(code, data) if mark is None else mark


_unpack_marked: Callable[[Any], Any] = msgspec.msgpack.Decoder(ext_hook=_read_marked).decode
# Walks over the bytes and makes nothing, so that a length which is not true is found before memory is taken for it.
skim: Callable[[Any], Any] = msgspec.msgpack.Decoder(msgspec.Raw).decode


class Values:
    """
    Encodes and decodes values in which certain classes may appear.

    Args:
        classes: Annotations whose classes may appear, as if each were given to :meth:`allow`.
        registry: Further classes; those given to :func:`register`, unless told otherwise.
    """

    __slots__ = ("_allowed", "_registry")

    def __init__(self, classes: Iterable[Any] = (), *, registry: Registry = REGISTRY) -> None:
        self._allowed = Registry()
        self._registry = registry
        for annotation in classes:
            self.allow(annotation)

    def allow(self, annotation: Any) -> None:
        """
        Let every class appear that *annotation* mentions: in unions, generics, and fields of classes, at any depth.

        It only says which names may be looked up; what a value really is decides how it is kept.
        """
        for shape in shapes_in(annotation):
            self._allowed.add(shape)

    def encode(self, value: Any) -> bytes:
        """
        Return the bytes that keep *value*.

        Raises:
            UnkeepableValue: Something in it is of a class that may not appear, it contains itself, or it is nested
                deeper than 500 levels. The message says where.
        """
        cls = class_of(value)
        try:
            if (
                cls in PLAIN
                or (cls is list and PLAIN.issuperset(map(type, value)))
                or (cls is dict and _ONLY_STR.issuperset(map(type, value)) and _are_plain(value.values()))
            ):
                return pack(value)
        except (OverflowError, UnicodeEncodeError, RuntimeError):
            # A huge int, a lone surrogate, or a thread that changes the value meanwhile.
            pass
        return self._encode_nested(value)

    def _encode_nested(self, value: Any) -> bytes:
        cls = class_of(value)
        try:
            try:
                return _Lowering(self.shape, is_careful=False).encode(value)
            except (OverflowError, UnicodeEncodeError):
                # Rare enough that not looking for it the first time is worth doing it twice.
                return _Lowering(self.shape, is_careful=True).encode(value)
        except Stuck as stuck:
            raise self._unkeepable(stuck) from stuck.__cause__
        except RecursionError:
            too_deep = Stuck(cls, "is nested deeper than Python's stack has room for, so it")
            raise self._unkeepable(too_deep) from None
        except Exception as error:
            # Whatever the user's classes do, it must not look like a bug of ours.
            broken = Stuck(cls, f"could not be taken apart ({error!r:.200}), so it")
            raise self._unkeepable(broken) from error

    def decode(self, payload: bytes) -> Any:
        """
        Return the value that *payload* keeps. Bytes that nobody encoded cost no more than their length.

        Raises:
            UndecodableValue: It keeps none, or needs a class that may not appear or has changed.
        """
        return _decoded(payload, _Raising(self.named))

    def summary(self, payload: bytes, *, width: int = 200) -> str:
        """
        Return one line that shows the value in *payload*, for listings. Runs no code of the user's, and never raises.

        Objects look like ``<orders.Receipt {'id': 7}>``, whether or not their class is known here.
        """
        try:
            line = _line(_decoded(payload, _Telling(self.named)), 4)
        except Exception:
            line = f"<{len(payload)} bytes that cannot be read>"
        if not line.isprintable():
            line = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
        return line if len(line) <= width else f"{line[: width - 3]}..."

    def shape(self, cls: type[Any]) -> Shape | None:
        """Return how values of exactly *cls* are kept, if they may be. What was registered goes before annotations."""
        return self._registry.shape(cls) or self._allowed.shape(cls)

    def named(self, name: str) -> Shape | None:
        """
        Return the shape that travels as *name*, if it may.

        A class of a script is one of ``__main__`` where the script was run, and of a module where it was imported to
        resume the run. So where one of them is not known, the only class with the same name within the other is meant.
        """
        shape = self._registry.named(name) or self._allowed.named(name)
        if shape is not None:
            return shape
        if name.startswith("__main__."):
            ending = name.removeprefix("__main__")
            fitting = {known for known in self._names() if known.endswith(ending)}
        else:
            fitting = {f"__main__.{end}" for end in _endings(name)} & set(self._names())
        if len(fitting) != 1:
            return None
        (found,) = fitting
        return self._registry.named(found) or self._allowed.named(found)

    def _names(self) -> list[str]:
        return [*self._registry.names(), *self._allowed.names()]

    def _unkeepable(self, stuck: Stuck) -> UnkeepableValue:
        cls, place = stuck.type, "".join(reversed(stuck.place))
        at = f" at {place}" if place else ""
        if shape_of(cls) is not None and not issubclass(cls, BaseException):
            entrance = "name the class in the task's return annotation or register it with af.register"
        else:
            entrance = "register its class with af.register(..., encode=, decode=)"
        reason = f" {stuck.reason}" if stuck.reason else ""
        return UnkeepableValue(
            f"a value of type {name_of(cls)}{at}{reason} cannot be kept in a journal; {entrance}, or set checkpoint="
            "False on the task, which makes the value again on resume, or return a reference to it instead",
            type_name=name_of(cls),
            place=place,
        )


class _Lowering:
    """One walk over one value, which turns it into what msgpack can hold."""

    __slots__ = ("_around", "_has_marks", "_is_careful", "_shape")

    def __init__(self, shape: Callable[[type[Any]], Shape | None], *, is_careful: bool) -> None:
        self._shape = shape
        self._is_careful = is_careful
        self._has_marks = False
        # The containers around the place where the walk is now, so that a value that contains itself is seen at once.
        self._around: set[int] = set()

    def encode(self, value: Any) -> bytes:
        body = pack(self._lower(value))
        return _MARKED + body if self._has_marks else body

    def _lower(self, value: Any) -> Any:
        cls = class_of(value)
        if cls in PLAIN:
            return careful(value) if self._is_careful else value
        if (writer := WRITERS.get(cls)) is not None:
            return writer(value)
        if cls is list and not self._is_careful and PLAIN.issuperset(map(type, value)):
            return value
        around = self._around
        if id(value) in around:
            raise Stuck(cls, "contains itself, so it")
        if len(around) >= DEEPEST:
            raise Stuck(cls, f"is nested deeper than {DEEPEST} levels, so it")
        around.add(id(value))
        keys, lowered, parts, shape = self._take_apart(value, cls)
        before = len(lowered)
        try:
            for part in parts:
                lowered.append(self._lower(part))
        except Stuck as stuck:
            index = len(lowered) - before
            stuck.place.append(shape.step(parts, index) if shape else _step(cls, keys, parts, index))
            raise
        around.discard(id(value))
        return lowered if keys is None else dict(zip(keys, lowered, strict=True))

    def _take_apart(self, value: Any, cls: type[Any]) -> tuple[list[str] | None, list[Any], list[Any], Shape | None]:
        """
        Return what a container is made of. Apart from `_lower` so that a level of nesting costs one frame.

        Returns:
            The keys of what becomes a map, else None; the beginning of what becomes a list; what is inside and still to
            be lowered; the shape of an object, else None.
        """
        if cls is list:
            return None, [], list(value), None
        if cls is dict:
            if _ONLY_STR.issuperset(map(type, value)) and not (self._is_careful and not all(map(is_text, value))):
                return list(value), [], list(value.values()), None
            return None, [self._mark("dict")], [part for item in list(value.items()) for part in item], None
        if cls is tuple or cls is set or cls is frozenset:
            return None, [self._mark(cls.__name__)], list(value), None
        shape = self._shape(cls)
        if shape is None:
            raise Stuck(cls)
        try:
            parts = shape.take(value)
        except Stuck:
            raise
        except Exception as error:
            raise Stuck(cls, f"could not be taken apart ({error!r:.200}), so it") from error
        return None, [self._mark(shape.kind), shape.name], parts, shape

    def _mark(self, kind: str) -> Ext:
        self._has_marks = True
        return _WRITTEN[kind]


def _are_plain(values: Iterable[Any]) -> bool:
    return PLAIN.issuperset(map(type, values))


def _step(cls: type[Any], keys: list[str] | None, parts: Sequence[Any], index: int) -> str:
    """Return how a user would write the way from a built-in container to its part at *index*."""
    if cls is list or cls is tuple:
        return f"[{index}]"
    if cls is dict:
        if keys is not None:
            return f"[{keys[index]!r:.40}]"
        return f"[{_line(parts[index - 1], 1):.40}]" if index % 2 else "{key}"
    return "{item}"


def _decoded(payload: bytes, raising: _Raising) -> Any:
    try:
        if payload[:1] != _MARKED:
            skim(payload)
            return unpack(payload)
        body = memoryview(payload)[1:]
        skim(body)
        return raising.raised(_unpack_marked(body), 0)
    except UndecodableValue:
        raise
    except ShapeMismatch as error:
        raise UndecodableValue(str(error)) from error
    except RecursionError:
        raise UndecodableValue(f"{len(payload)} bytes are not a value: they are nested too deeply") from None
    except Exception as error:
        raise UndecodableValue(f"{len(payload)} bytes are not a value: {error!s:.200}") from error


_MAY_HOLD_MARKS = frozenset({list, dict, _Mark})


class _Raising:
    """One walk over what msgpack held, which turns it into the value."""

    __slots__ = ("_named",)

    def __init__(self, named: Callable[[str], Shape | None]) -> None:
        self._named = named

    def raised(self, node: Any, depth: int) -> Any:
        cls = class_of(node)
        if cls is list:
            if depth > DEEPEST:
                raise RecursionError
            if not node or type(node[0]) is not _Mark:
                for index, part in enumerate(node):
                    if type(part) in _MAY_HOLD_MARKS:
                        node[index] = self.raised(part, depth + 1)
                return node
            parts: list[Any] = []
            for part in node[1:]:
                parts.append(self.raised(part, depth + 1))  # noqa: PERF401 - a comprehension is a frame more on 3.11
            return self._made(node[0].kind, parts)
        if cls is dict:
            if depth > DEEPEST:
                raise RecursionError
            if not _ONLY_STR.issuperset(map(type, node)):
                raise ValueError("a map has keys other than strings")
            for key, part in node.items():
                if type(part) in _MAY_HOLD_MARKS:
                    node[key] = self.raised(part, depth + 1)
            return node
        if cls is _Mark:
            raise ValueError(f"there is a mark of a {node.kind} in the wrong place")
        return node

    def _made(self, kind: str, parts: list[Any]) -> Any:
        if kind == "tuple":
            return tuple(parts)
        if kind == "set":
            return set(parts)
        if kind == "frozenset":
            return frozenset(parts)
        if kind == "dict":
            return dict(zip(parts[::2], parts[1::2], strict=True))
        name = parts.pop(0)
        if type(name) is not str:
            raise ValueError(f"the name of the class of an {kind} is not a string")
        return self._object(kind, name, parts)

    def _object(self, kind: str, name: str, parts: list[Any]) -> Any:
        shape = self._named(name)
        if shape is None:
            raise UndecodableValue(
                f"a value in the journal is of class {name!r:.200}, which is not known here; name it in the return "
                "annotation of the task that made it, or register it with af.register before resuming the run"
            )
        if shape.kind != kind:
            raise UndecodableValue(
                f"a value in the journal is of class {name!r:.200}, which was kept in another way then; register "
                "it as it was, with the same choice of encode= and decode="
            )
        return shape.make(parts)


class _Telling(_Raising):
    """The same for people: objects stay descriptions."""

    __slots__ = ()

    def _object(self, kind: str, name: str, parts: list[Any]) -> Any:
        if kind == "object":
            return _Told(name, dict(zip(map(str, parts[::2]), parts[1::2], strict=False)))
        return _Told(name, parts[0] if parts else None, is_member=kind == "enum")


class _Told:
    """An object as a listing shows it."""

    __slots__ = ("_inside", "_is_member", "_name")

    def __init__(self, name: str, inside: Any, *, is_member: bool = False) -> None:
        self._name = name
        self._inside = inside
        self._is_member = is_member

    def line(self, depth: int) -> str:
        if self._is_member:
            return f"<{self._name}.{self._inside}>"
        return f"<{self._name} {_line(self._inside, depth)}>"


def _line(value: Any, depth: int) -> str:
    """Return a short repr that runs no code of the user's and stops *depth* levels down and a few items on."""
    cls = class_of(value)
    if cls is _Told:
        return value.line(depth) if depth else "<...>"
    if cls is dict:
        items = [f"{_line(key, depth - 1)}: {_line(item, depth - 1)}" for key, item in _first(value.items(), depth)]
        return f"{{{_joined(items, len(value))}}}"
    if cls in (list, tuple, set, frozenset):
        items = [_line(item, depth - 1) for item in _first(value, depth)]
        inside = _joined(items, len(value))
        if cls is list:
            return f"[{inside}]"
        if cls is tuple:
            return f"({inside},)" if len(value) == 1 else f"({inside})"
        shown = f"{{{inside}}}" if value else ""
        return shown if cls is set and value else f"{cls.__name__}({shown})"
    if cls is str or cls is bytes or cls is bytearray:
        return repr(value) if len(value) <= 80 else f"{value[:80]!r}..."
    if cls is int and value.bit_length() > 256:
        return f"<int of {value.bit_length()} bits>"
    return repr(value) if cls in PLAIN or cls in WRITERS else f"<{name_of(cls)}>"


def _first(items: Iterable[Any], depth: int) -> list[Any]:
    return [item for item, _ in zip(items, range(20), strict=False)] if depth else []


def _joined(items: list[str], count: int) -> str:
    return ", ".join([*items, "..."] if len(items) < count else items)


def _endings(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(1, len(parts))]
