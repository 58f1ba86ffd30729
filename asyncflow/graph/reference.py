"""
Values to come: what calling a task gives in a builder, where nothing has run yet.

A :class:`Ref` can be passed on, selected from and unpacked, since that is wiring. Whatever would need the value itself
raises an error that says where to do it instead.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import msgspec

from asyncflow.errors import DeclarationError, ReferenceMisuse
from asyncflow.graph.constant import fields_of
from asyncflow.graph.inputs import Constant, Source

_DEEPEST = 100


class Declared:
    """What a builder calls: a task or a flow. Where a value belongs, somebody forgot to call it."""

    name: str


class Origin(Protocol):
    """The builder that a reference belongs to, as far as a reference must know it."""

    name: str

    def label(self, base: int | str) -> str:
        """Return what a reference's base is, for messages."""
        ...

    def annotation(self, ref: Ref) -> Any:
        """Return the annotation of the value to come, or ``UNKNOWN``."""

    def length(self, ref: Ref) -> int | None:
        """Return how many elements the value to come has, if that is declared."""


class Select(msgspec.Struct, frozen=True):
    """``value[key]``."""

    key: Any


class Attr(msgspec.Struct, frozen=True):
    """``value.name``."""

    name: str


class Default(msgspec.Struct, frozen=True):
    """The value, or ``value`` where there is none."""

    value: Any


class Ref:
    """
    A value that will be there when the flow runs.

    ``asyncflow_base`` is the position of the call that gives it, the name of a parameter of the builder, or the
    reference that ``asyncflow_step`` selects from. Every other attribute name selects an attribute of the value;
    where a value has one called ``otherwise``, a task must read it.
    """

    # Long names, since any attribute that is found here hides one of the value's.
    __slots__ = ("asyncflow_base", "asyncflow_builder", "asyncflow_step")

    asyncflow_builder: Origin
    asyncflow_base: int | str | Ref
    asyncflow_step: Select | Attr | Default | None

    def __init__(self, builder: Origin, base: int | str | Ref, step: Select | Attr | Default | None = None) -> None:
        put = object.__setattr__
        put(self, "asyncflow_builder", builder)
        put(self, "asyncflow_base", base)
        put(self, "asyncflow_step", step)

    def __getattr__(self, name: str) -> Ref:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Ref(self.asyncflow_builder, self, Attr(name))

    def __getitem__(self, key: Any) -> Ref:
        if isinstance(key, Ref):
            raise _misuse(self, "cannot be selected from by another reference; pass both to a task that selects")
        return Ref(self.asyncflow_builder, self, Select(key))

    def __iter__(self) -> Iterator[Ref]:
        length = self.asyncflow_builder.length(self)
        if length is None:
            raise _misuse(
                self,
                "cannot be iterated over or unpacked: how many elements it will have is not declared; annotate the "
                "task -> tuple[A, B], or pass the whole to a task that iterates",
            )
        return iter([self[position] for position in range(length)])

    def otherwise(self, default: Any) -> Ref:
        """Return a reference to this value, or to *default* if the task that gives it is skipped."""
        if contains_reference(default):
            raise _misuse(self, "can only fall back to a constant; pass both references to a task that chooses")
        check_constant(default)
        return Ref(self.asyncflow_builder, self, Default(default))

    def __hash__(self) -> int:
        return id(self) >> 4

    def __repr__(self) -> str:
        return f"<Ref to {describe(self)} of flow {self.asyncflow_builder.name!r}>"


def describe(ref: Ref) -> str:
    """Return what *ref* refers to, as its builder's author wrote it."""
    steps: list[str] = []
    base: Any = ref
    while isinstance(base, Ref):
        step = base.asyncflow_step
        if isinstance(step, Select):
            steps.append(f"[{step.key!r}]")
        elif isinstance(step, Attr):
            steps.append(f".{step.name}")
        base = base.asyncflow_base
    return ref.asyncflow_builder.label(base) + "".join(reversed(steps))


def _misuse(ref: Ref, why: str) -> ReferenceMisuse:
    flow = ref.asyncflow_builder.name
    return ReferenceMisuse(f"{describe(ref)} has no value while flow {flow!r} is being declared, so it {why}")


def _refuse(why: str) -> Callable[..., Any]:
    def refuse(self: Ref, *_: Any, **__: Any) -> Any:
        raise _misuse(self, why)

    return refuse


_IN_A_TASK = "do it in a task, which gets the value"

_REFUSED = {
    "cannot be tested for truth; " + _IN_A_TASK: "bool",
    "cannot be compared; " + _IN_A_TASK: "eq ne lt le gt ge",
    "has no length; " + _IN_A_TASK: "len length_hint",
    "cannot be searched with 'in'; " + _IN_A_TASK: "contains",
    "cannot be formatted or printed; " + _IN_A_TASK + " (repr() shows the reference)": "str format bytes",
    "cannot be converted to a number; " + _IN_A_TASK: "int float complex index round trunc floor ceil",
    "cannot be calculated with; "
    + _IN_A_TASK: "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor "
    "radd rsub rmul rmatmul rtruediv rfloordiv rmod rdivmod rpow rlshift rrshift rand ror rxor "
    "iadd isub imul imatmul itruediv ifloordiv imod ipow ilshift irshift iand ior ixor neg pos abs invert",
    "cannot be called; call its methods in a task, which gets the value": "call",
    "cannot be awaited: a builder only wires, and asyncflow awaits; leave the await out": "await aiter anext",
    "cannot be entered; open it in a task, which gets the value": "enter exit aenter aexit",
    "cannot be changed; " + _IN_A_TASK: "setattr delattr setitem delitem",
    "cannot be stepped through; " + _IN_A_TASK: "next reversed",
}

for _why, _names in _REFUSED.items():
    for _name in _names.split():
        setattr(Ref, f"__{_name}__", _refuse(_why))


# --- References inside arguments --------------------------------------------------------------------------------------


class Shape(msgspec.Struct, frozen=True):
    """The container around some parts, built anew when they have values. ``keys`` are a dict's, else empty."""

    kind: type
    keys: tuple[Any, ...] = ()

    def __call__(self, parts: list[Any]) -> Any:
        if self.kind is list:
            return parts
        if self.kind is tuple:
            return tuple(parts)
        if self.kind is dict:
            return dict(zip(self.keys, parts, strict=True))
        return self.kind(*parts)  # a NamedTuple

    def position(self, key: Any) -> int | None:
        """Return which part ``container[key]`` is, or None where that cannot be told."""
        if self.kind is dict:
            return next((at for at, one in enumerate(self.keys) if one == key and type(one) is type(key)), None)
        return key if type(key) is int else None


class Holder(msgspec.Struct, frozen=True):
    """A container with references somewhere in it."""

    shape: Shape
    parts: tuple[Spec, ...]


Spec = int | Ref | Holder | Source
"""
An argument as it was written: the position of the call whose whole value it is (the reference itself need not be kept),
any other reference, a container that has some, or a source that needs no looking up.
"""

_PLAIN = frozenset({int, str, float, bool, type(None), bytes})


def spec_of(value: Any, builder: Origin) -> Spec:
    """
    Return *value* as an argument of a call in *builder*.

    Raises:
        ReferenceMisuse: It holds a reference of another builder, or holds one where it cannot be found again.
        DeclarationError: It is nested too deep.
    """
    if type(value) is Ref:
        if value.asyncflow_builder is not builder:
            raise _misuse(
                value,
                f"cannot be used in flow {builder.name!r}; return it from its own flow, or pass it in as an argument",
            )
        base = value.asyncflow_base
        return base if type(base) is int and value.asyncflow_step is None else value
    if type(value) in _PLAIN:
        return Constant(value)
    if not contains_reference(value):
        check_constant(value)
        return Constant(value)
    if isinstance(value, dict) and type(value) is dict:
        if any(contains_reference(key) for key in value):
            raise ReferenceMisuse("a reference cannot be the key of a dict, since it has no value yet; make it a value")
        return Holder(Shape(dict, tuple(value)), tuple(spec_of(part, builder) for part in value.values()))
    if type(value) in (list, tuple) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return Holder(Shape(type(value)), tuple(spec_of(part, builder) for part in value))
    raise ReferenceMisuse(
        f"a {type(value).__name__} cannot hold references, since it would be looked into before they have values; pass "
        "them in a list, tuple or dict"
    )


def contains_reference(value: Any, depth: int = 0) -> bool:
    """Return whether *value* is a reference, an object with one in a field, or a container with one somewhere."""
    if type(value) is Ref:
        return True
    if type(value) in _PLAIN:
        return False
    if not isinstance(value, (list, tuple, dict, set, frozenset)):
        # No deeper than its own fields: objects may refer to each other in circles.
        return any(type(part) is Ref for part in (fields_of(value) or {}).values())
    if depth == _DEEPEST:
        raise DeclarationError(f"an argument has containers nested more than {_DEEPEST} deep; pass it from a task")
    if isinstance(value, dict):
        return any(
            contains_reference(key, depth + 1) or contains_reference(part, depth + 1) for key, part in value.items()
        )
    return any(contains_reference(part, depth + 1) for part in value)


def check_constant(value: Any) -> None:
    """
    Check that *value*, which holds no reference, is not what somebody forgot to call, or to make a task of.

    Raises:
        DeclarationError: It has a task, a flow or a coroutine in it.
    """
    if isinstance(value, (list, tuple, set, frozenset)):
        for part in value:
            check_constant(part)
    elif isinstance(value, dict):
        for part in value.values():
            check_constant(part)
    elif isinstance(value, Declared):
        raise DeclarationError(f"{value!r} stands where its value belongs; call it: {value.name}(...)")
    elif inspect.iscoroutine(value):
        value.close()
        raise DeclarationError(
            f"a coroutine of {value.__qualname__!r} stands where a value belongs; decorate the function with @af.task, "
            "so that calling it gives a reference"
        )
