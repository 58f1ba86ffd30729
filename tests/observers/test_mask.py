"""What is written of a value: enough to see what it is, nothing that was to be covered, and never too much."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any, NamedTuple

import attrs
import msgspec
import pytest

from asyncflow.observers.mask import MOST_TEXT, Mask


@attrs.define
class Login:
    user: str
    _password: str


@dataclasses.dataclass
class Server:
    host: str
    login: Login
    seen: int = dataclasses.field(default=0, repr=False)


class Header(msgspec.Struct):
    token: str
    size: int


class Pair(NamedTuple):
    token: str
    left: int


class Model:
    """As pydantic's look from here."""

    model_fields = ("token", "name")

    def __init__(self) -> None:
        self.token, self.name = "secret", "x"


class Broken:
    def __repr__(self) -> str:
        raise OSError("no")


class Shy(OrderedDict[str, int]):
    def items(self) -> Any:
        raise OSError("no")


@pytest.mark.parametrize(
    ("value", "picture"),
    [
        (3, "3"),
        ("a", "'a'"),
        ([1, (2,), (), set(), frozenset({3})], "[1, (2,), (), set(), {3}]"),
        ({"token": "secret", "n": {"TOKEN": "secret", 1: 2}}, "{'token': ***, 'n': {'TOKEN': ***, 1: 2}}"),
        (Login("ada", "secret"), "Login(user='ada', _password=***)"),
        (Server("h", Login("ada", "secret")), "Server(host='h', login=Login(user='ada', _password=***))"),
        ([Header("secret", 3)], "[Header(token=***, size=3)]"),
        (Pair("secret", 1), "Pair(token=***, left=1)"),
        (Model(), "Model(token=***, name='x')"),
        (Login, repr(Login)),
        (Broken(), "<Broken, whose repr raised OSError>"),
        (Shy(), "<Shy, which cannot be read: OSError>"),
    ],
)
def test_chosen_names_are_covered_wherever_they_occur(value: Any, picture: str) -> None:
    """A password deep in a configuration is as secret as one that is an input."""
    mask = Mask(["password", "Token"])
    assert mask.picture(value) == picture
    assert mask.named({"_Token": "secret", "value": value}) == {"_Token": "***", "value": picture}


def test_one_name_may_be_given_by_itself() -> None:
    """A text is not taken for its letters."""
    assert Mask("ab").named({"a": 1, "ab": 2}) == {"a": "1", "ab": "***"}


def test_a_picture_has_an_end() -> None:
    """A value may be as large as memory, or contain itself."""
    mask = Mask()
    assert len(mask.picture("x" * 1_000_000)) == MOST_TEXT
    assert mask.picture(list(range(1_000))) == f"[{', '.join(map(str, range(20)))}, ...]"
    circle: list[Any] = []
    circle.append(circle)
    assert mask.picture(circle) == "[[[[[[...]]]]]]"
    bush: Any = 0
    for _ in range(6):
        bush = [bush] * 20
    assert len(mask.picture(bush)) < 2_000
