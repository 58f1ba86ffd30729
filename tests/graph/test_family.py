"""Tasks made of a function of one or two values."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import asyncflow as af
from asyncflow import DeclarationError, linear


def ran(flow: Any, **inputs: Any) -> Any:
    async def main() -> Any:
        async with af.Engine() as engine:
            return await engine.run(flow, inputs)

    return asyncio.run(main())


async def doubled(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


async def added(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


@pytest.mark.parametrize("double", [doubled, lambda x: 2 * x])
def test_map_applies_a_function_to_each_input_in_order(double: Any) -> None:
    """``def`` and ``async def`` alike, and named after the function unless a name is given."""
    doubling = af.map_task(double, name="doubling", requires=["b", "a"], provides="both")
    assert ran(linear("f", doubling), a=1, b=2) == {"both": [4, 2]}


@pytest.mark.parametrize("add", [added, lambda x, y: x + y])
def test_reduce_combines_inputs_two_at_a_time(add: Any) -> None:
    """From the first to the last; one alone is what it is."""
    adding = af.reduce_task(add, name="adding", requires=["a", "b", "c"], provides="sum")
    assert ran(linear("f", adding), a="x", b="y", c="z") == {"sum": "xyz"}
    assert ran(linear("f", af.reduce_task(add, name="one", requires="a", provides="sum")), a=5) == {"sum": 5}


def test_a_family_is_wired_like_any_task() -> None:
    """By name in patterns, by reference in builders, with every option that tasks have."""

    @af.task
    async def three() -> int:
        return 3

    doubling = af.map_task(doubled, requires=["a", "b"])
    assert doubling.name == "doubled"

    @af.flow
    def built(x: int) -> list[int]:
        return doubling(x, three())

    assert ran(built, x=1) == [2, 6]
    rebound = af.map_task(doubled, requires=["a", "b"], rebind={"a": "left"}, inject={"b": 5}, provides="out")
    assert ran(linear("f", rebound), left=1) == {"out": [2, 10]}


def test_a_failure_of_one_is_a_failure_of_the_task() -> None:
    """And of an async one, whatever the others were doing."""

    async def fails(x: int) -> int:
        raise KeyError(x)

    with pytest.raises(af.RunFailed) as failed:
        ran(linear("f", af.map_task(fails, requires=["a", "b"])), a=1, b=2)
    assert failed.group_contains(KeyError)


@pytest.mark.parametrize("requires", [None, [], ["a", "a"], ["no name"], [1]])
@pytest.mark.parametrize("make", [af.map_task, af.reduce_task])
def test_wrong_requires_are_refused(make: Any, requires: Any) -> None:
    """The names are all that tells what the function is applied to."""
    with pytest.raises(DeclarationError, match=r"has requires=.*; give the names of its inputs, each once"):
        make(doubled, requires=requires)


@pytest.mark.parametrize("make", [af.map_task, af.reduce_task])
def test_what_is_no_function_is_refused(make: Any) -> None:
    """A task is none either: it is wired by itself."""
    with pytest.raises(DeclarationError, match="give a plain function"):
        make(af.task(doubled), requires=["a"])
