"""Classes change while runs wait: what still fits is taken, and what does not is refused by name."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, make_dataclass
from typing import Any, NamedTuple

import attrs
import msgspec
import pytest

from asyncflow.codec import Codec, Registry
from asyncflow.codec.shapes import shape_of
from asyncflow.errors import UndecodableValue


def read_as(before: type[Any], after: type[Any], value: Any) -> Any:
    """Return *value*, kept when its class was *before*, as a process reads it in which the class is *after*."""
    return Codec([after]).decode(Codec([before]).encode(value))


def struct(*fields: Any) -> type[msgspec.Struct]:
    return msgspec.defstruct("Parcel", fields, module=__name__)


def named_tuple(**fields: Any) -> type[Any]:
    made: Any = NamedTuple("Place", [(name, Any) for name in fields])
    made._field_defaults = {name: default for name, default in fields.items() if default is not None}
    return made  # type: ignore[no-any-return]


def test_a_struct_that_lost_or_gained_a_field_is_named() -> None:
    """A Struct is made by its ``__init__``, whose TypeError would say nothing of journals."""
    before = struct("a", "b")
    assert msgspec.structs.astuple(read_as(before, struct("a", "b", ("c", int, 3)), before(1, 2))) == (1, 2, 3)
    with pytest.raises(UndecodableValue, match=r"class '.*Parcel' cannot be made of what was kept: .*'c'"):
        read_as(before, struct("a", "b", "c"), before(1, 2))
    with pytest.raises(UndecodableValue, match=r"has no field 'b' any more"):
        read_as(before, struct("a"), before(1, 2))


def test_a_named_tuple_that_gained_a_field_takes_its_default_or_is_named() -> None:
    """Its items are kept by name, so one more is no surprise."""
    before = named_tuple(a=None)
    assert read_as(before, named_tuple(a=None, b=5), before(1)) == (1, 5)
    with pytest.raises(UndecodableValue, match=r"has a field 'b' that it did not have.*give it a default"):
        read_as(before, named_tuple(a=None, b=None), before(1))


def attrs_class(**fields: Any) -> type[Any]:
    return attrs.make_class("Grown", {"old": attrs.field(), **fields})


def test_a_new_field_of_an_attrs_class_takes_its_default() -> None:
    """Also where a factory makes it, of the value so far if it asks for that."""
    before = attrs_class()
    after = attrs_class(
        plain=attrs.field(default=5),
        made=attrs.field(factory=list),
        derived=attrs.field(default=attrs.Factory(lambda self: self.old + 1, takes_self=True)),
    )
    value = read_as(before, after, before(1))
    assert (value.old, value.plain, value.made, value.derived) == (1, 5, [], 2)
    with pytest.raises(UndecodableValue, match=r"has a field 'new' that it did not have"):
        read_as(before, attrs_class(new=attrs.field()), before(1))


def test_a_new_field_of_a_dataclass_takes_what_its_factory_makes() -> None:
    """One list for all values that are read would join what has nothing in common."""
    before = make_dataclass("Crate", ["old"], namespace={"__module__": __name__})
    after = make_dataclass(
        "Crate", ["old", ("new", "list[int]", field(default_factory=list))], namespace={"__module__": __name__}
    )
    one, other = read_as(before, after, [before(1), before(2)])
    assert (one.old, one.new, other.new) == (1, [], []) and one.new is not other.new


class Answer(enum.Enum):
    """An enum that makes members up, as wrappers of foreign interfaces do."""

    YES = 1

    @classmethod
    def _missing_(cls, value: object) -> Any:
        member = object.__new__(cls)
        member._name_, member._value_ = f"OTHER_{value}", value
        return member


@dataclass
class Abstract(ABC):
    a: int

    @abstractmethod
    def act(self) -> None: ...


@dataclass
class Mapping(dict):  # type: ignore[type-arg]
    a: int


@pytest.mark.parametrize("cls", [Abstract, Mapping])
def test_a_class_that_is_more_than_its_fields_has_no_shape(cls: type[Any]) -> None:
    """Items that are not fields would be lost; an abstract class has no values at all."""
    assert shape_of(cls) is None


def test_a_hook_that_makes_something_else_is_named() -> None:
    """It is the user's own function, and whoever reads the value counts on its class."""
    registry = Registry()
    registry.register(Abstract, lambda value: value.a, lambda kept: {"a": kept})
    concrete = type("Concrete", (Abstract,), {"act": lambda self: None})
    registry.register(concrete, lambda value: value.a, lambda kept: {"a": kept})
    codec = Codec(registry=registry)
    with pytest.raises(UndecodableValue, match=r"decode= of class '.*Concrete' returned a dict"):
        codec.decode(codec.encode(concrete(1)))


def test_a_slot_that_was_never_set_stays_unset() -> None:
    """A private slot is found under the name that Python gives it, and one without a value has nothing to keep."""
    codec = Codec([Child])
    got = codec.decode(codec.encode(Child(1)))
    assert got == Child(1) and not hasattr(got, "other") and got.secret() is None
    value = Child(1)
    value.hide(7)
    assert codec.decode(codec.encode(value)).secret() == 7


class Parent:
    __slots__ = ("__hidden", "other")

    def hide(self, value: int) -> None:
        self.__hidden = value

    def secret(self) -> int | None:
        return getattr(self, "_Parent__hidden", None)


@dataclass(slots=True)
class Child(Parent):
    a: int


def test_fields_that_are_no_list_of_names_are_refused() -> None:
    """Whatever a damaged disk gives back, it must not set attributes that no field has."""
    codec = Codec([Child])
    name = f"{__name__}.Child".encode()
    for fields in (b"\x01\x02", b"\xa1a", b"\xa9__class__\x01"):
        count = 2 + (1 if fields == b"\xa1a" else 2)
        payload = b"\xc1" + bytes([0x90 + count]) + b"\xc7\x00\x24" + b"\xd9" + bytes([len(name)]) + name + fields
        with pytest.raises(UndecodableValue, match=r"Child' is not a list of fields"):
            codec.decode(payload)


def test_an_enum_member_that_was_made_up_is_refused() -> None:
    """It has no name under which another process would find it."""
    with pytest.raises(Exception, match=r"Answer at \[0\] is not one of the enum's named members"):
        Codec([Answer]).encode([Answer(7)])
