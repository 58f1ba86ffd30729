"""Plans in a journal: the same bytes in every process, and nothing lost that a machine needs."""

from __future__ import annotations

import dataclasses
import enum
import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.errors import UndecodableValue
from asyncflow.graph import record as recorded
from asyncflow.graph.constant import constant_hash
from asyncflow.graph.decorator import task
from asyncflow.graph.flow import flow
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.policy import Retry
from asyncflow.graph.signature import resource


@task(provides="page")
def fetch(url: str, depth: int = 1) -> str:
    return url * depth


@task(provides=("head", "body"), version=3)
async def split(page: str) -> tuple[str, str]:
    return page[0], page[1:]


@split.revert
def unsplit(page: str) -> None: ...


@task
def show(*parts: Any, **options: Any) -> list[Any]:
    return [parts, options]


@flow
def sample(url: str, pool: Any = resource("db")) -> Any:  # noqa: B008
    page = fetch(url)
    head, _ = split(page)
    again = fetch(url, depth=2)
    return show(head, [page, {"k": again}], pool, extra=page.title, limit=7)


crawl = linear("crawl", fetch, unordered("two", split, fetch.named("more"), timeout=3.0), concurrency=4)


def test_a_plan_read_back_has_the_same_structure() -> None:
    """Whoever folds a journal needs no code of the user's."""
    for whole in (sample, crawl, graph("empty")):
        plan = whole.compile()
        back = recorded.decode(recorded.body_of(plan))
        assert back.tasks is None and back.flow == plan.flow
        assert [back.path(at) for at in range(back.size)] == [plan.path(at) for at in range(plan.size)]
        assert [tuple(one) for one in back.successors] == list(plan.successors)
        assert list(back.pending) == list(plan.pending) and list(back.scope_of) == list(plan.scope_of)
        assert [(s.path, s.parent, s.timeout, s.concurrency) for s in back.scopes] == [
            (s.path, s.parent, s.timeout, s.concurrency) for s in plan.scopes
        ]
        assert set(back.inputs) == set(plan.inputs)
        assert recorded.body_of(back) == recorded.body_of(plan) and recorded.digest_of(back) == recorded.digest_of(plan)


def test_a_record_says_where_every_input_comes_from() -> None:
    """By path, since numbers shift; constants by a hash, since they may be large or secret."""
    plan = sample.compile()
    tasks = {one.name: one for one in recorded.record_of(plan).tasks}
    assert dict(tasks["fetch"].reads) == {"url": "input 'url'"}
    assert dict(tasks["split"].reads) == {"page": "fetch"}
    assert dict(tasks["fetch-2"].reads) == {"url": "input 'url'"} and dict(tasks["fetch-2"].constants).keys() == {
        "depth"
    }
    assert dict(tasks["show"].reads) == {
        "*0": "split[0]",
        "*1": "list of (fetch, dict of (fetch-2) by ('k',))",
        "*2": "resource 'db'",
        "extra": "fetch.title",
    }
    assert dict(tasks["show"].constants).keys() == {"limit"}
    kind = recorded.record_of(plan).kinds[tasks["split"].kind]
    assert kind.parameters == (("page", "str"),) and kind.returns == "tuple[str, str]"
    assert (kind.version, kind.has_revert, kind.is_async) == (3, True, True)


def test_by_name_or_by_reference_is_the_same_wiring() -> None:
    """A pattern rewritten as a builder resumes the runs of the pattern."""

    @flow(name="pair")
    def by_reference(url: str) -> Any:
        return split(fetch(url))

    by_name = recorded.record_of(linear("pair", fetch, split).compile())
    other = recorded.record_of(by_reference.compile())
    assert by_name.tasks[1].reads == other.tasks[1].reads == (("page", "fetch"),)


def test_a_digest_ignores_policies() -> None:
    """A changed policy applies from the resume on and is no change of the plan."""
    tuned = fetch.with_options(name="fetch", retry=Retry(3), timeout=9.0, priority=4)
    assert recorded.digest_of(linear("l", fetch).compile()) == recorded.digest_of(linear("l", tuned).compile())
    versioned = fetch.with_options(name="fetch", version=2)
    assert recorded.digest_of(linear("l", fetch).compile()) != recorded.digest_of(linear("l", versioned).compile())


def test_a_digest_is_the_same_in_another_process() -> None:
    """Whatever the seed of its hashes."""
    code = (
        "from tests.graph.test_record import sample, crawl, VALUES\n"
        "from asyncflow.graph import record\nfrom asyncflow.graph.constant import constant_hash\n"
        "print(record.digest_of(sample.compile()), record.digest_of(crawl.compile()), *map(constant_hash, VALUES))"
    )
    root = str(Path(__file__).parents[2])
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=root,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": root},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and len(outputs.pop().split()) == 2 + len(VALUES)


# --- Constants --------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Settings:
    name: str
    tags: set[str]


class Plain:
    pass


VALUES: list[Any] = [
    None,
    True,
    1,
    1.0,
    "1",
    b"1",
    [1, 2],
    (1, 2),
    {1, 2},
    frozenset({1, 2}),
    {"a": 1},
    {"a": 2},
    Colour.RED,
    Colour.BLUE,
    Settings("a", {"x", "y", "z"}),
    Settings("a", {"x", "y"}),
    Decimal(1),
    date(2026, 1, 1),
    Path("a"),
    fetch.fn,
    Plain,
    Plain(),
    {"nested": [Settings("b", set()), {"q", "r", "s"}]},
]


def test_different_constants_have_different_hashes() -> None:
    """1, True and 1.0 are equal to Python and not to a task."""
    assert len({constant_hash(value) for value in VALUES}) == len(VALUES)
    assert constant_hash(Plain()) == constant_hash(Plain()), "an address is no part of a value"


def test_a_constant_without_end_has_a_hash() -> None:
    """Its type must do, since there is no end to it."""
    endless: list[Any] = []
    endless.append(endless)
    assert constant_hash(endless) == constant_hash(endless)


# --- Hostile bytes ----------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_bytes_that_are_no_plan_are_refused(body: bytes) -> None:
    """A damaged journal gives a named error."""
    with pytest.raises(UndecodableValue):
        recorded.decode(body)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_plan_is_refused_or_holds_together(at: int, byte: int) -> None:
    """Indexes out of range must be found here and not by whoever follows them."""
    body = bytearray(recorded.body_of(crawl.compile()))
    body[at % len(body)] = byte
    try:
        plan = recorded.decode(bytes(body))
    except UndecodableValue:
        return
    assert all(plan.path(task) for task in range(plan.size)) and len(plan.pending) == len(plan.successors)


def test_a_plan_of_a_newer_asyncflow_is_refused_politely() -> None:
    """It names the flow and what to do."""
    record = recorded.record_of(crawl.compile())
    newer = type(record)(99, *(getattr(record, name) for name in record.__struct_fields__[1:]))
    with pytest.raises(
        UndecodableValue, match=r"plan of flow 'crawl' has format 99 and .* up to 1; use a newer asyncflow"
    ):
        recorded.decode(msgspec.msgpack.encode(newer))
