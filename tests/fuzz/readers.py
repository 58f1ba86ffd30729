"""
Everything that reads bytes from outside, each with what it should be able to read.

A reader returns, or raises an error of asyncflow's; anything else that it raises is a bug.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import decimal
import enum
import io
import pathlib
import uuid
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import typer

import asyncflow as af
from asyncflow import messages as m
from asyncflow.cli.app import app
from asyncflow.cli.locate import parse_inputs
from asyncflow.codec import Codec
from asyncflow.errors import AsyncflowError, UndecodableValue
from asyncflow.graph import record as recorded
from asyncflow.graph.expression import Expression
from asyncflow.outcomes import Failure, Sealed
from tests.fuzz.mutants import MSGPACK, TEXT


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Receipt:
    number: int
    total: decimal.Decimal
    colour: Colour = Colour.RED


_CODEC = Codec([Receipt, Colour])

VALUES: list[Any] = [
    None,
    -(2**70),
    1.5,
    "text \u20ac",
    b"bytes",
    [1, [2, [3]]],
    {"a": {"b": (1, {2, 3}, frozenset("x"))}},
    {(1, "a"): [decimal.Decimal("1.10"), uuid.UUID(int=7), pathlib.PurePosixPath("/a/b")]},
    [
        dt.datetime(2024, 5, 6, 7, 8, 9, 10, tzinfo=dt.UTC),
        dt.date(2024, 1, 2),
        dt.timedelta(3, 4, 5),
    ],
    Receipt(7, decimal.Decimal("12.30")),
    [Receipt(1, decimal.Decimal(0)), complex(1, 2), "\udc80"],
]


def _failures() -> list[BaseException]:
    made: list[BaseException] = [
        ValueError("bad", 3),
        KeyError("missing"),
        OSError(2, "no such file", "/a"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        ExceptionGroup("several", [ValueError(1), ExceptionGroup("inner", [TypeError("t")])]),
        af.RunNotFound("there is no run 'a'", run_id="a"),
        af.RunFailed("run 'a' failed", [ValueError(1)], run_id="a"),
    ]
    for error in made:
        error.__cause__ = RuntimeError("a cause")
        error.add_note("a note")
    return made


@af.task
async def price(number: int) -> Receipt: ...


@af.task(when="number > 3 and kind != 'gift'")
async def send(number: int, kind: str) -> str: ...


@af.flow
def shop(number: int, kind: str, rate: float, note: str, express: bool) -> str:
    price.named("first")(number)
    return send(number, kind).otherwise("")


_PLANS = [
    shop.compile(),
    af.linear("l", af.unordered("u", price, retry=af.Times(3), timeout=4.0), af.graph("g", send)).compile(),
]
_CONDITIONS = [
    "total > 100 and kind != 'gift'",
    "not (a in [1, 2, 'x'] or b[0]['k'] >= -3 + 4 * c // 5)",
    "x is None or x % 2 == 0 and y / 2 < 1.5",
    "-2 * 9 + c not in (1, 2)",
]
_COMMANDS = [
    "run shop.py:shop -i number=7 -i kind=gift --db runs.db --run-id order-7 --durability lazy --quiet",
    "resume order-7 shop:shop --db runs.db --accept-changes --json",
    "ls --state INTERRUPTED --limit 5 --json",
    "show order-7 --all --db runs.db",
    "graph shop.py:shop --format dot",
    "--debug check shop:shop",
    "cancel order-7 --reason late -h",
]
_INPUTS = [
    'number=7\nkind={"a": [1, 2.5e3, null]}\nrate=1.5',
    "note=text\nexpress=true",
    'number=[[[[1]]]]\nrate=NaN\nkind="\\u20ac"',
]


def _records() -> list[bytes]:
    seal = _CODEC.seal
    failures = [m.AttemptFailed(1, Failure(error), True) for error in _failures()]
    events: list[list[Any]] = [
        [m.RunStarted("run", "shop", "plan", {"number": seal(7), "kind": seal({"a": (1,)})}, 1.5)],
        [m.AttemptStarted(0, 1), m.AttemptSucceeded(0, seal(VALUES[6])), m.AttemptStarted(1, 1)],
        [m.AttemptSucceeded(1, seal("x" * 70_000)), m.RetryScheduled(2, 3.5), m.TaskFailed(2)],
        [m.Progressed(1, 0.5, "half"), m.CancelRequested("late"), m.RunEnded("CANCELLED")],
        *([failure] for failure in failures),
    ]
    return [_CODEC.encode_record(m.Record(float(number), each)) for number, each in enumerate(events)]


# --- The readers ------------------------------------------------------------------------------------------------------


def read_record(body: bytes) -> None:
    """As a resume reads a journal, looking into everything."""
    for event in _CODEC.decode_record(body).events:
        for name in event.__struct_fields__:
            field = getattr(event, name)
            for part in field.values() if isinstance(field, dict) else (field,):
                if isinstance(part, Sealed) and part.payload is not None:
                    with contextlib.suppress(UndecodableValue):
                        _CODEC.open(part)
                elif isinstance(part, Failure):
                    assert isinstance(part.exception, BaseException)


def read_value(body: bytes) -> None:
    """As a task's input is read, and as a listing pictures it, which never fails."""
    assert _CODEC.summary(body).isprintable()
    _CODEC.decode(body)


def read_plan(body: bytes) -> None:
    """As a resume reads the recorded plan."""
    plan = recorded.decode(body)
    for task in range(plan.size):
        plan.path(task)


def read_condition(body: bytes) -> None:
    """As a condition string is read, and asked about values that may not suit it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expression = Expression(body.decode("utf-8", "replace"), "task 'ship'")
    values = {name: [1, "x"] for name in expression.__signature__.parameters}
    try:
        expression(**values)
    except MemoryError:
        raise
    except Exception:
        pass  # of the values: the task that asks fails with it


def read_inputs(body: bytes) -> None:
    """As the command line reads ``-i name=value``."""
    parse_inputs(shop, body.decode("utf-8", "surrogateescape").split("\n"))


_command: Any = typer.main.get_command(app)
# Not by name: where the class is depends on the version of typer.
_refused = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


def read_arguments(body: bytes) -> None:
    """As the command line takes its arguments apart, before it does anything."""
    words = body.decode("utf-8", "surrogateescape").split(" ")
    with contextlib.suppress(_refused, typer.Exit, typer.Abort), contextlib.redirect_stdout(io.StringIO()):
        _command.make_context("asyncflow", list(words))
        for place, word in enumerate(words):
            if word in _command.commands:
                _command.commands[word].make_context(word, words[place + 1 :])
                break


@attrs.frozen
class Reader:
    """One way in: how it is read, what it should read, and words in the language of the latter."""

    read: Callable[[bytes], None]
    seeds: list[bytes]
    words: Sequence[bytes]

    def take(self, body: bytes) -> bool:
        """Return whether *body* could be read; raise what no reader may raise."""
        try:
            self.read(body)
        except AsyncflowError:
            return False
        return True


READERS = {
    "records": Reader(read_record, _records(), MSGPACK),
    "values": Reader(read_value, [_CODEC.encode(value) for value in VALUES], MSGPACK),
    "plans": Reader(read_plan, [recorded.body_of(plan) for plan in _PLANS], MSGPACK),
    "conditions": Reader(read_condition, [text.encode() for text in _CONDITIONS], TEXT),
    "inputs": Reader(read_inputs, [text.encode() for text in _INPUTS], TEXT),
    "arguments": Reader(read_arguments, [text.encode() for text in _COMMANDS], TEXT),
}
"""Name to reader."""
