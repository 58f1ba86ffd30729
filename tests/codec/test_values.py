"""Values come back exactly as they were, and what cannot be kept is refused with its place and the ways out."""

from __future__ import annotations

import contextlib
import enum
import io
import math
import sys
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import ModuleType
from typing import Annotated, Any, Generic, Literal, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID, uuid1
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncflow.codec import Codec, Registry
from asyncflow.codec.registry import REGISTRY
from asyncflow.errors import DeclarationError, UndecodableValue, UnkeepableValue

T = TypeVar("T")


class Colour(enum.Enum):
    RED = "red"
    CRIMSON = "red"  # noqa: PIE796 - an alias
    BLUE = (0, 0, 255)


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Mode(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


class Rights(enum.IntFlag, boundary=enum.KEEP):
    READ = 1


class Point(NamedTuple):
    x: int
    y: float = 0.0


Pair = namedtuple("Pair", "left right")


@attrs.frozen
class Line:
    sku: str
    price: Any
    colour: Colour = Colour.RED


@attrs.define
class Order:
    lines: list[Line]
    _secret: int = 3
    total: Decimal = attrs.field(init=False, default=Decimal(0))

    def __attrs_post_init__(self) -> None:
        raise_if_told()


@attrs.frozen(cache_hash=True, slots=False)
class Key:
    name: str


@attrs.define
class Grown:
    old: int
    new: list[int] = attrs.field(default=attrs.Factory(lambda self: [self.old], takes_self=True))


@dataclass
class Plain:
    a: int
    b: list[Point] = field(default_factory=list)
    seed: InitVar[int] = 1

    def __post_init__(self, seed: int) -> None:
        raise_if_told()
        self.extra = {"seed": seed}

    @cached_property
    def opened(self) -> Any:
        return open  # A function: it would be unkeepable if it were kept.


@dataclass(frozen=True, slots=True)
class Frozen:
    a: int
    tags: frozenset[str] = frozenset()


@dataclass(order=True)
class Box(Generic[T]):
    content: T


class Unset:
    """A plain base with a slot that is no field."""

    __slots__ = ("hidden",)


@dataclass(slots=True)
class Slotted(Unset):
    a: int
    b: int = field(init=False)


class Packet(msgspec.Struct, frozen=True):
    id: int
    note: str | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if self.id < 0:
            msgspec.structs.force_setattr(self, "id", 0)


class Row(dict):  # type: ignore[type-arg]
    pass


class Known(Exception):
    """An exception that an annotation names."""


class Named:
    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Named) and other.name == self.name

    __hash__ = None  # type: ignore[assignment]


CLASSES = (
    Colour, Level, Mode, Rights, Point, Pair, Line, Order, Key, Grown, Plain, Frozen, Box[int], Slotted, Packet, Known,
)  # fmt: skip

told: list[bool] = []


def raise_if_told() -> None:
    if told:
        raise AssertionError("the class was made again instead of restored")


@pytest.fixture
def codec() -> Codec:
    """A codec that knows the classes of this module."""
    return Codec(CLASSES)


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same in every type, at any depth, and in the order of their keys."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(*keys) and same(*values)
            for keys, values in zip(
                zip(one, other, strict=True), zip(one.values(), other.values(), strict=True), strict=True
            )
        )
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, set | frozenset):
        return len(one) == len(other) and all(any(same(mine, yours) for yours in other) for mine in one)
    if isinstance(one, datetime | time):
        return repr(one) == repr(other)
    if isinstance(one, Line | Box):
        return all(same(getattr(one, name), getattr(other, name)) for name in type(one).__annotations__)
    if isinstance(one, Decimal):
        return str(one) == str(other)
    return bool(one == other)


def back(codec: Codec, value: Any) -> Any:
    return codec.decode(codec.encode(value))


EXACT: list[Any] = [
    None, True, False, 0, -1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**5000, -(10**5000),
    0.0, -0.0, 1e308, 5e-324, math.inf, -math.inf, math.nan, complex(-0.0, math.nan), 1j,
    "", "x", "naïve 🜁", "\x00", "lone \ud800 surrogate", b"", b"\xc1\xdd", bytearray(b"x"),
    [], [[]], (), ((),), (1,), [(1, [2, (3,)])], {}, {"a": (1,)}, {1: "int", "1": "str", (1, 2): "tuple", None: 0},
    {True: "only"}, {"\ud800": 1}, {"k": "\ud800", "big": 2**70}, set(), {1, "a", (2,)}, frozenset({frozenset()}),
    {frozenset({1}): {2}}, range(3), range(10**30, 0, -7),
    date(1, 1, 1), date.max, time(1, 2, 3, 4, fold=1), time(23, 59, tzinfo=UTC), timedelta.min, timedelta(-1, 5, 7),
    datetime.fromisoformat("2024-02-29"), datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Paris")),
    datetime.max.replace(tzinfo=timezone(timedelta(hours=-23, microseconds=5))), UTC, ZoneInfo("Asia/Tokyo"),
    timezone(timedelta(hours=2), "a name"), Decimal("-0.000"), Decimal("NaN123"), Decimal("sNaN"), Decimal("1E+999999"),
    Decimal(1) / Decimal(3), UUID(int=5), uuid1(), PurePosixPath("/a//b/.."), PureWindowsPath("C:\\x"), Path("rel"),
    Path("/tmp/\udcff"), Counter("aab"), OrderedDict(b=1, a=2), deque([1, (2,)], maxlen=4), Fraction(1, 3),
    msgspec.UNSET,
]  # fmt: skip


@pytest.mark.parametrize("value", EXACT, ids=[f"{number}-{type(value).__name__}" for number, value in enumerate(EXACT)])
def test_built_in_values_come_back_exactly(codec: Codec, value: Any) -> None:
    """A resumed task must see what the first process would have seen, down to the type and the sign of zero."""
    assert same(back(codec, value), value)
    assert same(back(codec, [value, {"in": (value,)}]), [value, {"in": (value,)}])


def objects() -> list[Any]:
    told.clear()
    unset = Slotted(1)
    unset.hidden = (1,)  # type: ignore[attr-defined]
    return [
        Colour.RED, Colour.CRIMSON, Colour.BLUE, Level.HIGH, Mode.READ, Mode.READ | Mode.RUN, Mode(0), Rights(9),
        Point(1), Point(1, math.inf), Pair([1], (2,)), Line("a", 1.5), Order([Line("a", Line("b", None))], 4),
        {Key("a"): Key("b")}, Grown(1), Plain(1, [Point(2)]), Frozen(1, frozenset({"x"})), {Frozen(1), Frozen(2)},
        Box[int](1), Box((1, Box(Colour.BLUE))), unset, Packet(1), Packet(2, "n"), [Packet(3), {"p": Point(4)}],
    ]  # fmt: skip


@pytest.mark.parametrize("index", range(len(objects())))
def test_objects_come_back_without_being_made_again(codec: Codec, index: int) -> None:
    """Fields are the results of ``__init__`` and validators; running these again could fail, or act, in a resume."""
    value = objects()[index]
    payload = codec.encode(value)
    told.append(True)
    try:
        got = codec.decode(payload)
    finally:
        told.clear()
    assert type(got) is type(value)
    if isinstance(value, Slotted):
        assert got.hidden == (1,) and not hasattr(got, "b")
    else:
        assert got == value


def test_enum_members_stay_the_members(codec: Codec) -> None:
    """Code compares members by identity."""
    assert back(codec, [Colour.CRIMSON, Level.LOW, Mode.READ]) == [Colour.RED, Level.LOW, Mode.READ]
    assert back(codec, Colour.RED) is Colour.RED and back(codec, Mode.READ | Mode.RUN) is Mode.READ | Mode.RUN


def test_attributes_that_are_no_fields_are_kept(codec: Codec) -> None:
    """A class may set attributes of its own in ``__post_init__``, and its methods count on them."""
    value = Plain(1)
    assert value.opened is open
    got = back(codec, value)
    assert got.extra == {"seed": 1}
    assert "opened" not in vars(got)


def test_a_cached_hash_is_not_kept(codec: Codec) -> None:
    """The hash of a str differs from process to process, and a key with a wrong one is never found again."""
    key = Key("a")
    hash(key)
    assert vars(back(codec, key))["_attrs_cached_hash"] is None
    assert {back(codec, key): 1}[Key("a")] == 1


def test_a_struct_is_what_was_kept_whatever_its_post_init_does(codec: Codec) -> None:
    """Struct alone cannot be made without its ``__post_init__``, so what that changes is set right afterwards."""
    packet = Packet(1)
    msgspec.structs.force_setattr(packet, "id", -7)
    assert back(codec, packet).id == -7


plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.integers(-(2**200), 2**200), st.floats(), st.text(),
        st.characters(categories=["Cs", "L"]), st.binary(), st.dates(), st.times(), st.timedeltas(), st.decimals(),
        st.datetimes(timezones=st.one_of(st.none(), st.timezones())), st.uuids(), st.complex_numbers(), st.fractions(),
        st.sampled_from([*Colour, *Level, Mode(5), PurePosixPath("a"), range(3), bytearray(b"a")]),
        st.builds(Point, st.integers(), st.floats()), st.builds(Frozen, st.integers(), st.frozensets(st.text())),
    ),
    lambda inner: st.one_of(
        st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.text(), inner),
        st.dictionaries(st.one_of(st.integers(), st.text(), st.tuples(st.text(), st.integers())), inner),
        st.frozensets(st.one_of(st.integers(), st.text(), st.tuples(st.integers()))), st.sets(st.text()),
        st.builds(Line, st.text(), inner), st.builds(Box, inner), st.lists(inner).map(deque),
    ),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(plain)
def test_any_nesting_comes_back_exactly(value: Any) -> None:
    """No combination of shapes may lose what each of them keeps alone."""
    codec = Codec(CLASSES)
    payload = codec.encode(value)
    assert same(codec.decode(payload), value)
    assert codec.summary(payload).isprintable() and len(codec.summary(payload)) <= 200


def test_values_that_look_like_the_format_are_still_themselves(codec: Codec) -> None:
    """A user's list may begin with anything that a mark or tag could be mistaken for."""
    for value in (
        ["tuple", 1],
        [32, b""],
        {"__type__": "set"},
        ["object", "orders.Line"],
        [[], ["set"]],
        {"": {"": []}},
    ):
        assert same(back(codec, value), value)


# --- What is refused --------------------------------------------------------------------------------------------------


def cyclic() -> Any:
    one: list[Any] = []
    one.extend([one, one])
    return {"a": (one,)}


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = (value,)
    return value


def broken() -> Any:
    class Broken(NamedTuple):
        x: int

    return Broken(1)


WAYS_OUT = r"checkpoint=False on the task.*or return a reference to it instead"

REFUSED: dict[str, tuple[Any, str]] = {
    "function": (len, r"^a value of type builtins.builtin_function_or_method cannot be kept .*encode=, decode="),
    "generator": ((x for x in "a"), r"^a value of type builtins.generator cannot"),
    "deep inside": (
        Order([Line("a", 1), Line("b", {"c": [object()]})]), r"object at \.lines\[1\]\.price\['c'\]\[0\] cannot"
    ),
    "unknown class with fields": (
        [1, broken()], r"Broken at \[1\] cannot.*name the class in the task's return annotation or register"
    ),
    "subclass of dict": ({"row": Row(a=1)}, r"Row at \['row'\] cannot"),
    "default dict": (defaultdict(list), r"^a value of type collections.defaultdict cannot"),
    "key of a dict": ({(1, len): 2}, r"at \{key\}\[1\] cannot"),
    "value of a dict with such keys": ({(1, "k"): len}, r"at \[\(1, 'k'\)\] cannot"),
    "item of a set": ({len}, r"at \{item\} cannot"),
    "field of a named tuple": (Point(len), r"at \.x cannot"),  # type: ignore[arg-type]
    "cycle": (cyclic(), r"list at \['a'\]\[0\]\[0\] contains itself, so it cannot"),
    "depth": (deep(501), r"is nested deeper than 500 levels, so it cannot"),
    "exception": (ValueError("x"), r"^a value of type builtins.ValueError cannot"),
    "memoryview": (memoryview(b""), r"^a value of type builtins.memoryview cannot"),
    "class": (int, r"^a value of type builtins.type cannot"),
    "known exception": ([Known("x")], r"Known at \[0\] is an exception, which as a value would lose its traceback"),
    "half made": ([object.__new__(UUID)], r"could not be taken apart \(AttributeError.*\), so it cannot"),
    "zone of a file": (
        time(1, tzinfo=ZoneInfo.from_file(io.BytesIO(b"TZif" + bytes(32) + b"\0\0\0\1\0\0\0\4" + bytes(6) + b"UTC\0"))),
        r"ZoneInfo was read from a file and has no key, so it cannot",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused_with_type_place_and_ways_out(codec: Codec, case: str) -> None:
    """Whoever reads this has a task that failed, and wants to know which field to change, and to what."""
    value, message = REFUSED[case]
    with pytest.raises(UnkeepableValue, match=message) as caught:
        codec.encode(value)
    assert caught.match(WAYS_OUT)


def test_a_refusal_carries_what_it_mentions(codec: Codec) -> None:
    """Code need not read prose."""
    with pytest.raises(UnkeepableValue) as caught:
        codec.encode(Order([Line("a", len)]))
    assert (caught.value.type_name, caught.value.place) == ("builtins.builtin_function_or_method", ".lines[0].price")


def test_five_hundred_levels_are_kept(codec: Codec) -> None:
    """The limit is where it says, in both directions, and a list of lists meets no other one before it."""
    value, levels = back(codec, deep(500)), 0
    while type(value) is tuple:
        (value,), levels = value, levels + 1
    assert (value, levels) == (1, 500)
    for level in range(499):
        value = [value] if level % 2 else {"k": value}
    value = back(codec, value)
    for level in reversed(range(499)):
        value = value[0] if level % 2 else value["k"]
    assert value == 1


def test_a_shallow_stack_is_told_as_such(codec: Codec) -> None:
    """A value that is refused for the depth of the caller must not end the run with RecursionError."""

    def under(frames: int) -> bytes:
        return under(frames - 1) if frames else codec.encode(deep(480))

    room = sys.getrecursionlimit() - 400
    with pytest.raises(UnkeepableValue, match="nested deeper than"):
        under(room)


def test_an_object_whose_hook_raises_is_refused() -> None:
    """The hook is the user's, so what it raises must not pass for a bug of ours."""
    registry = Registry()
    registry.register(Named, lambda named: 1 / 0, Named)
    codec = Codec(registry=registry)
    with pytest.raises(UnkeepableValue, match=r"Named at \[0\] could not be taken apart \(ZeroDivisionError"):
        codec.encode([Named("a")])


def test_what_a_hook_gives_is_looked_into() -> None:
    """A hook may return what cannot be kept either, and the place is then that of the object."""
    registry = Registry()
    registry.register(Named, lambda named: (1, len), Named)
    with pytest.raises(UnkeepableValue, match=r"builtin_function_or_method at \[0\]\[1\] cannot"):
        Codec(registry=registry).encode([Named("a")])


def test_a_zone_of_a_class_of_its_own_is_refused(codec: Codec) -> None:
    """A moment without its zone is another moment."""

    class Odd(tzinfo):
        def utcoffset(self, moment: datetime | None) -> timedelta:
            return timedelta(0)

    with pytest.raises(UnkeepableValue, match=r"Odd at \[0\]\.tzinfo cannot"):
        codec.encode([datetime(2024, 1, 1, tzinfo=Odd())])


# --- Which classes may appear -----------------------------------------------------------------------------------------


class Inner(NamedTuple):
    a: int


@dataclass
class Outer:
    inner: dict[str, list[Inner]] | None
    lost: Unseen  # type: ignore[name-defined]  # noqa: F821 - what only a type checker can see
    colour: Annotated[Colour, "a note"]


class Typed(TypedDict):
    one: Frozen


Alias = NewType("Alias", Line)
Bounded = TypeVar("Bounded", bound=Packet)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Outer, Inner(1)),
        (list[Outer | None], Colour.RED),
        (Typed, Frozen(1)),
        (Alias, Line("a", 1)),
        (Literal[Level.LOW], Level.HIGH),
        (Box[Line], Line("a", 1)),
        (tuple[Inner, ...], Inner(1)),
        (dict[str, set[Annotated[Point, []]]], Point(1)),
        (list[Bounded], Packet(1)),  # type: ignore[valid-type]
        (Grown, Grown(1)),
    ],
)
def test_an_annotation_allows_every_class_that_it_mentions(annotation: Any, value: Any) -> None:
    """A user annotates what a task returns, and should not have to list what is inside."""
    assert back(Codec([annotation]), [value]) == [value]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the statement is of Python 3.12")
def test_a_type_statement_is_looked_into() -> None:
    """It is only another name for what it stands for."""
    space: dict[str, Any] = {"Inner": Inner}
    exec("type Inners = list[Inner]", space)
    assert back(Codec([space["Inners"]]), Inner(1)) == Inner(1)


@pytest.mark.parametrize(
    "annotation", [None, "Text", Any, T, list, 5, Annotated[int, []], [int, ...], type, Missing := object()]
)
def test_annotations_that_say_nothing_are_no_trouble(annotation: Any) -> None:
    """What a user may write there is without end, and none of it may keep a flow from running."""
    assert back(Codec([annotation]), (1,)) == (1,)


def test_an_annotation_that_lies_strands_nothing() -> None:
    """What the value really is decides; the annotation only says which names may be looked up."""
    assert back(Codec([Line]), {"a": (1,)}) == {"a": (1,)}


def test_a_class_that_is_not_known_here_is_named() -> None:
    """Nothing is imported to decode, so the message must say what to do."""
    payload = Codec([Point]).encode([Point(1)])
    message = r"is of class '.*Point', which is not known here; name it in the return annotation .*af\.register"
    with pytest.raises(UndecodableValue, match=message):
        Codec().decode(payload)


def test_a_class_of_a_script_is_the_same_when_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that was killed is often resumed by the command line, which imports it under its own name."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # one that has neither a file nor a name

    def in_module(name: str) -> type[Any]:
        return dataclass(
            type("Receipt", (), {"__annotations__": {"id": int}, "__module__": name, "__qualname__": "Receipt"})
        )

    script, module = in_module("__main__"), in_module("orders")
    assert back_through([script], [module], script(1)) == module(1)
    assert back_through([module], [script], module(1)) == script(1)
    with pytest.raises(UndecodableValue, match="not known here"):
        back_through([script], [module, in_module("bills")], script(1))


def back_through(written_with: list[Any], read_with: list[Any], value: Any) -> Any:
    return Codec(read_with).decode(Codec(written_with).encode(value))


def grown(*fields: str, **defaults: Any) -> type[Any]:
    space = {"__annotations__": dict.fromkeys((*fields, *defaults), int), "__qualname__": "Shifting", **defaults}
    return dataclass(slots=True)(type("Shifting", (), space))


def test_a_field_that_came_later_takes_its_default() -> None:
    """Adding a field with a default is how classes grow, and must not strand the runs of yesterday."""
    before = grown("a")
    assert back_through([before], [after := grown("a", b=5)], before(1)) == after(1, 5)
    assert back_through([Grown], [Grown], Grown(2)).new == [2]
    with pytest.raises(UndecodableValue, match=r"has a field 'b' that it did not have.*give it a default"):
        back_through([before], [grown("a", "b")], before(1))


def test_a_field_that_is_gone_is_named() -> None:
    """Dropping it would lose a value without a word."""
    before = grown("a", "b")
    with pytest.raises(UndecodableValue, match=r"has no field 'b' any more.*keep it"):
        back_through([before], [grown("a")], before(1, 2))


def test_an_enum_member_that_is_gone_is_named() -> None:
    """A renamed member is a change that its author forgot was journaled."""
    before = enum.Enum("Shade", {"DARK": 1})
    with pytest.raises(UndecodableValue, match=r"enum '.*Shade' has no member 'DARK' any more"):
        back_through([before], [enum.Enum("Shade", {"LIGHT": 1})], before["DARK"])


# --- Registering ------------------------------------------------------------------------------------------------------


def test_a_class_with_hooks_is_kept_by_them() -> None:
    """It is how a class that says nothing of its fields gets into a journal at all."""
    registry = Registry()
    registry.register(Named, lambda named: {"name": (named.name,)}, lambda kept: Named(*kept["name"]))
    registry.register(Row, dict, Row)
    codec = Codec(registry=registry)
    got = back(codec, [Named("a"), Row(b=Named("c"))])
    assert got == [Named("a"), {"b": Named("c")}] and type(got[1]) is Row


def test_hooks_go_before_annotations() -> None:
    """Who registers a dataclass with hooks has a reason that an annotation does not know."""
    registry = Registry()
    registry.register(Frozen, lambda frozen: frozen.a, lambda kept: Frozen(kept + 1))
    assert back(Codec([Frozen], registry=registry), Frozen(1)) == Frozen(2)


def test_a_value_kept_in_another_way_is_named() -> None:
    """Hooks that come or go while runs are under way would otherwise read what they never wrote."""
    registry = Registry()
    registry.register(Frozen, lambda frozen: frozen.a, Frozen)
    payload = Codec([Frozen], registry=Registry()).encode(Frozen(1))
    with pytest.raises(UndecodableValue, match="was kept in another way then"):
        Codec(registry=registry).decode(payload)


def test_registering_brings_the_classes_of_fields_even_if_they_come_later() -> None:
    """A decorator runs before the rest of the module is there."""
    registry = Registry()
    early = dataclass(type("Early", (), {"__annotations__": {"late": "Late"}, "__module__": __name__}))
    registry.register(early)
    globals()["Late"] = dataclass(type("Late", (), {"__annotations__": {"a": int}, "__module__": __name__}))
    try:
        value = early(globals()["Late"](1))
        assert back(Codec(registry=registry), value) == value
    finally:
        del globals()["Late"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((Named,), "class '.*Named' is no attrs class, .*; register it with encode= and decode="),
        ((Named, dict), "is registered with encode= and not decode=; give both or neither"),
        ((Named, None, dict), "is registered with decode= and not encode=; give both or neither"),
        ((int, str, int), "values of 'builtins.int' are kept exactly as they are"),
        (("Named",), r"register\(\) takes a class, not 'Named'"),
        ((Row,), "Row' is no attrs class"),
    ],
)
def test_registering_what_cannot_work_is_refused_at_once(args: Any, message: str) -> None:
    """A mistake shows where it was made, not in the run that needed it."""
    with pytest.raises(DeclarationError, match=message):
        Registry().register(*args)


def test_two_classes_of_one_name_are_refused() -> None:
    """A journal knows classes by name, and would give back the wrong one."""
    registry = Registry()
    registry.register(grown("a"))
    with pytest.raises(DeclarationError, match=r"another class is registered as '.*Shifting'"):
        registry.register(grown("a"))


def test_a_class_may_have_a_default_and_no_form() -> None:
    """What stands for a skipped value need not be one that a journal keeps."""
    registry = Registry()
    registry.register(Named, default=(nobody := Named("nobody")))
    assert registry.default(Named) is nobody and registry.shape(Named) is None


def test_register_decorates_with_and_without_options() -> None:
    """Both ways of writing a decorator are expected to work."""
    from asyncflow.codec import default_of, register

    before = dict(REGISTRY._by_type), dict(REGISTRY._by_name), dict(REGISTRY._defaults)
    try:

        @register
        @attrs.frozen
        class One:
            a: int

        @register(encode=lambda two: two.b, decode=lambda kept: Two(kept), default=7)
        class Two:
            def __init__(self, b: int) -> None:
                self.b = b

        register(bytearray, default=b"")
        codec = Codec()
        assert back(codec, One(1)) == One(1)
        assert back(codec, Two(5)).b == 5
        assert (default_of(Two), default_of(One), default_of(list[int], 3), default_of(bytearray)) == (7, None, 3, b"")
    finally:
        REGISTRY._by_type, REGISTRY._by_name, REGISTRY._defaults = before
        REGISTRY._unwalked = []


# --- Bytes that nobody encoded ----------------------------------------------------------------------------------------


@settings(max_examples=500, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.binary(max_size=60).map(lambda data: b"\xc1" + data)), st.data())
def test_any_bytes_give_a_value_or_a_named_error(noise: bytes, data: st.DataObject) -> None:
    """What a damaged disk gives back must stop the run with a name, and never by surprise."""
    codec = Codec(CLASSES)
    whole = codec.encode(data.draw(st.sampled_from([*EXACT, Point(1), Order([Line("a", {1: 2})]), Packet(1)])))
    at = data.draw(st.integers(0, len(whole)))
    for payload in (noise, whole[:at] + noise, whole[:at], whole[:at] + noise[:1] + whole[at + 1 :]):
        with contextlib.suppress(UndecodableValue):
            codec.decode(payload)
        assert codec.summary(payload).isprintable()


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc1", b"\xdd\xff\xff\xff\xff" * 3, b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x91" * 100_000,
     b"\x01\x02", b"\xc1" + b"\x91" * 700 + b"\x01", b"\xc1\x93\xc7\x00\x25\xa1x\x01", b"\xc1\x91\xc7\x00\x7f",
     b"\xc1\x92\x01\xc7\x00\x20", b"\xc7\x00\x20", b"\xc7\x05\x06AAAAA", b"\xc7\x09\x0d../passwd",
     b"\xc1\x81\x90\x01", b"\xc1\x92\xc7\x00\x21\x90", b"\xc1" + b"\x81\xa1a" * 700 + b"\x01",
     b"\xc1\x92\xc7\x00\x24\x01"],
    ids=range(18),
)  # fmt: skip
def test_hostile_bytes_cost_no_more_than_their_length(codec: Codec, payload: bytes) -> None:
    """A length that is not true must not take memory for four billion items, nor a nesting all of the stack."""
    with pytest.raises(UndecodableValue):
        codec.decode(payload)
    assert codec.summary(payload).isprintable()


# --- Listings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "line"),
    [
        (7, "7"),
        ({"a": (1,), "b": {1}}, "{'a': (1,), 'b': {1}}"),
        (Line("a", None), f"<{__name__}.Line {{'sku': 'a', 'price': None, 'colour': <{__name__}.Colour.RED>}}>"),
        (10**500, "<int of 1661 bits>"),
        ("x" * 300, "'" + "x" * 80 + "'..."),
        (list(range(50)), "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, ...]"),
        ((set(), frozenset(), frozenset({1}), {}), "(set(), frozenset(), frozenset({1}), {})"),
        ("\x1b[31m\n", "'\\x1b[31m\\n'"),
        ([[[[[[1]]]]]], "[[[[[...]]]]]"),
    ],
    ids=range(9),
)
def test_a_summary_is_one_short_line(codec: Codec, value: Any, line: str) -> None:
    """A listing shows values of programs that are not imported, on terminals that must not obey them."""
    payload = codec.encode(value)
    assert codec.summary(payload) == Codec().summary(payload) == line
