"""Large flows while they run and while they are undone: counted, not timed."""

from __future__ import annotations

import asyncio
import gc
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow.graph.flow import Flow
from asyncflow.machine.run import RunMachine
from tests.runtime.loops import run, turns


@af.task
async def one() -> int:
    return 1


@af.task
async def inc(x: int) -> int:
    return x + 1


def chain(size: int) -> Flow[..., Any]:
    """Return a chain of *size* tasks, each reading the one before."""

    @af.flow(name="chain")
    def flow() -> int:
        value = one()
        for number in range(size - 1):
            value = inc.named(f"t{number}")(value)
        return value

    return flow


def wide(size: int) -> Flow[..., Any]:
    """Return *size* tasks in no order."""
    return af.unordered("wide", *(one.named(f"t{number}") for number in range(size)))


def groups(size: int) -> Flow[..., Any]:
    """Return two groups of half the size in sequence."""
    halves = [af.unordered(half, *(one.named(f"t{number}") for number in range(size // 2))) for half in ("a", "b")]
    return af.linear("groups", *halves)


def value_of(flow: Any) -> Any:
    """Run *flow* in memory, and keep nothing of it."""

    async def main() -> Any:
        async with af.Engine(keep=0) as engine:
            return await engine.run(flow)

    return asyncio.run(main())


def test_a_chain_of_100_000_tasks_runs() -> None:
    """No recursion over the chain, in compiling, running or undoing."""
    assert value_of(chain(100_000)) == 100_000


def test_100_000_unordered_tasks_run() -> None:
    """A wide flow is listed and started a few hundred at a time."""
    flow = af.unordered("wide", *(one.named(f"t{number}") for number in range(100_000)))
    assert value_of(flow) == {}
    assert flow.compile().size == 100_000


def test_two_groups_in_sequence_meet_at_a_gate() -> None:
    """5,000 before 5,000 would be 25 million edges without one."""
    before = af.unordered("before", *(one.named(f"t{number}") for number in range(5_000)))
    after = af.unordered("after", *(one.named(f"t{number}") for number in range(5_000)))
    flow = af.linear("groups", before, after)
    plan = flow.compile()
    assert sum(map(len, plan.successors)) == 10_000
    assert len(plan.successors) - plan.size == 1
    assert value_of(flow) == {}


@pytest.mark.parametrize("kind", [af.linear, af.unordered, af.graph])
def test_nesting_1_000_deep_runs(kind: Any) -> None:
    """Flows are made by programs, and programs nest."""
    flow: Any = kind("f0", one.with_options(provides="x"))
    for depth in range(1, 1_000):
        flow = kind(f"f{depth}", flow)
    assert value_of(flow) == {"x": 1}


@pytest.mark.parametrize("make", [chain, wide])
def test_tens_of_thousands_of_tasks_are_undone_again(make: Callable[[int], Flow[..., Any]]) -> None:
    """Undoing is as linear as doing, and recurses over nothing either."""
    undone = 0

    @af.task
    async def bad() -> None:
        raise ValueError("at the very end")

    async def main() -> None:
        async with af.Engine(keep=0) as engine:
            part = make(30_000)
            run_ = await engine.start(af.linear("flow", part, bad))
            with pytest.raises(af.RunFailed):
                await run_
            nonlocal undone
            undone = sum(task.state is af.TaskState.REVERTED for task in run_.tasks())

    run(main)
    assert undone == 30_001


def test_builders_nested_a_thousand_deep_run() -> None:
    """Functions that call functions are how builders are shared; programs write deep ones."""

    def around(inner: Flow[..., int]) -> Flow[..., int]:
        @af.flow(name="level")
        def level(x: int) -> int:
            return inc(inner(x))

        return level

    @af.flow(name="level")
    def innermost(x: int) -> int:
        return inc(x)

    flow: Flow[..., int] = innermost
    for _ in range(999):
        flow = around(flow)

    async def main() -> None:
        async with af.Engine() as engine:
            assert await engine.run(flow, {"x": 0}) == 1_000
            assert flow.compile().path(0) == "level/" * 999 + "inc"

    run(main)


@pytest.mark.parametrize("make", [chain, wide, groups])
def test_records_and_turns_grow_no_faster_than_tasks(make: Callable[[int], Flow[..., Any]]) -> None:
    """What a run costs is counted in these; a factor that grows with the size would show here first."""

    async def cost(size: int) -> tuple[int, int]:
        async with af.Engine() as engine:
            before = turns()
            await engine.run(make(size), run_id="r")
            [info] = await engine.runs()
            return info.records, turns() - before

    async def main() -> None:
        small, large = await cost(200), await cost(2_000)
        assert large[0] <= small[0] * 10 + 10, "records"
        # On Python 3.11 each body takes a turn of its own; turns are cut after a few milliseconds besides.
        assert large[1] <= max(small[1] * 20, 100), "turns"

    run(main)


@pytest.mark.parametrize("make", [chain, wide, groups])
def test_a_task_that_has_not_started_is_small(make: Callable[[int], Flow[..., Any]]) -> None:
    """Flows of a million tasks must fit beside the application that runs them."""
    size = 10_000
    plan = make(size).compile()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        machine = RunMachine(plan)
        state = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert state / size < 100
    tables = (machine.states, machine.attempts, machine.values, machine._waiting_for)
    assert sum(sys.getsizeof(table) for table in tables) / size < 100
    share = sum(map(sys.getsizeof, (*plan.successors, *plan.bindings)))
    share += sum(map(sys.getsizeof, (plan.successors, plan.bindings, plan.pending, plan.names, plan.scope_of)))
    share += sum(sys.getsizeof(binding.positional) for binding in plan.bindings if binding.positional)
    share += sum(sys.getsizeof(source) for binding in plan.bindings for source in binding.positional)
    assert (state + share) / size < 500


def test_a_chain_declared_by_calls_is_small_with_its_plan() -> None:
    """What was recorded while a builder ran stays, so it counts: the tasks' copies and calls as well."""
    size = 2_000
    flow = chain(size)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        machine = RunMachine(flow.compile())
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert machine.plan.size == size
    assert grown / size < 500


def test_only_tasks_that_run_have_actors() -> None:
    """An actor and an asyncio task are for what is going on; a hundred thousand that wait have neither."""
    seen: list[tuple[int, int]] = []

    @af.task
    async def look(run_: Any = af.resource("run")) -> None:  # noqa: B008
        await asyncio.sleep(0)
        seen.append((len(run_[0].supervisor._dispatcher.actors), len(asyncio.all_tasks())))

    async def main() -> None:
        holder: list[Any] = []
        async with af.Engine(resources={"run": holder}) as engine:
            flow = af.linear("flow", *(look.named(f"t{number}") for number in range(500)))
            holder.append(await engine.start(flow))
            await holder[0]
        assert len(seen) == 500
        assert max(actors for actors, _ in seen) == 1
        assert max(tasks for _, tasks in seen) <= 3, "the test, the run's keeper and the body"

    run(main)


def test_a_wide_flow_under_a_limit_has_as_many_bodies_as_permits() -> None:
    """What waits for a permit is an entry in a line."""
    most = 0

    async def main() -> None:
        nonlocal most
        inside = 0

        async def body() -> None:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

        work = af.task(name="work")(body)
        async with af.Engine(concurrency=10) as engine:
            await engine.run(af.unordered("flow", *(work.named(f"t{number}") for number in range(5_000))))
            assert all(pool.taken == 0 for pool in engine._launcher.environment.pools.values())

    run(main)
    assert most == 10


@pytest.mark.parametrize("durability", [None, "full", "process", "lazy"])
def test_a_run_that_is_over_is_freed_at_once(tmp_path: Path, durability: str | None) -> None:
    """Were it a cycle, the garbage collector would take a quarter of the time of a service whose runs are short."""

    @af.task
    async def more(ctx: af.Context, value: int) -> int:
        ctx.progress(0.5)
        await asyncio.sleep(0)
        return value + 1

    @af.flow(timeout=60)
    def flow(value: int) -> Any:
        return more(more(value))

    async def main() -> None:
        path = None if durability is None else tmp_path / "runs.db"
        async with af.Engine(path, durability=durability or "full", keep=0) as engine:
            supervisors = []
            await engine.run(flow, {"value": 0})  # imports, and what is made once
            gc.collect()
            gc.disable()
            try:
                for which in range(3):
                    run_ = await engine.start(flow, {"value": which})
                    supervisors.append(weakref.ref(run_.supervisor))
                    assert await run_ == which + 2
                    del run_
                await asyncio.sleep(0)
                assert [reference() for reference in supervisors] == [None] * 3
            finally:
                gc.enable()

    asyncio.run(main())
