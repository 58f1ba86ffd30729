"""Flows of a size that nobody writes by hand, counted and not timed."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from typing import Any

import pytest

import asyncflow as af
from asyncflow.machine.run import RunMachine


@af.task(executor="inline")
def one() -> int:
    return 1


@af.task(executor="inline")
def inc(x: int) -> int:
    return x + 1


def run(flow: Any) -> Any:
    async def main() -> Any:
        async with af.Engine(keep=0) as engine:
            return await engine.run(flow)

    return asyncio.run(main())


def chain(size: int) -> af.Flow[[], int]:
    @af.flow(name="chain")
    def flow() -> int:
        value = one()
        for number in range(size - 1):
            value = inc.named(f"t{number}")(value)
        return value

    return flow


def test_a_chain_of_100_000_tasks_runs() -> None:
    """No recursion over the chain, in compiling, running or undoing."""
    assert run(chain(100_000)) == 100_000


def test_100_000_unordered_tasks_run() -> None:
    """A wide flow is listed and started a thousand at a time."""
    flow = af.unordered("wide", *(one.named(f"t{number}") for number in range(100_000)))
    assert run(flow) == {}
    assert flow.compile().size == 100_000


def test_two_groups_in_sequence_meet_at_a_gate() -> None:
    """5,000 before 5,000 would be 25 million edges without one."""
    before = af.unordered("before", *(one.named(f"t{number}") for number in range(5_000)))
    after = af.unordered("after", *(one.named(f"t{number}") for number in range(5_000)))
    flow = af.linear("groups", before, after)
    plan = flow.compile()
    assert sum(map(len, plan.successors)) == 10_000
    assert len(plan.successors) - plan.size == 1
    assert run(flow) == {}


@pytest.mark.parametrize("kind", [af.linear, af.unordered, af.graph])
def test_nesting_1_000_deep_runs(kind: Any) -> None:
    """Flows are made by programs, and programs nest."""
    flow: Any = kind("f0", one.with_options(provides="x"))
    for depth in range(1, 1_000):
        flow = kind(f"f{depth}", flow)
    assert run(flow) == {"x": 1}


def test_a_task_that_has_not_started_is_small() -> None:
    """Under 100 bytes of run state, and under 500 with its share of the plan."""
    flow = chain(10_000)
    flow.compile()
    tracemalloc.start()
    try:
        again = flow.with_options(name="again")
        before = tracemalloc.get_traced_memory()[0]
        plan = again.compile()
        with_plan = tracemalloc.get_traced_memory()[0]
        machine = RunMachine(plan)
        with_state = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (with_state - with_plan) / plan.size < 100
    # The compile is also when a builder's tasks are declared: those 10,000 copies are not counted.
    declarations = sum(sys.getsizeof(task) + sys.getsizeof(vars(task)) for task in plan.tasks or ())
    assert (with_state - before - declarations) / plan.size < 500
    assert len(machine.states) == 10_000
