"""A run in numbers: how long it was in each state, and how much it has done."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.machine.replay import fold
from asyncflow.runtime.statistics import statistics
from tests.runtime.loops import LoopClock, run


def rounded(found: Any) -> dict[str, float]:
    """Return times as whole milliseconds."""
    return {name: round(seconds, 2) for name, seconds in found.items()}


@af.task
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@nap.revert
async def get_up(seconds: float) -> None:
    await asyncio.sleep(seconds / 2)


@af.task(retry=af.Retry(3, af.Fixed(5.0)))
async def bad(ctx: af.Context) -> None:
    await asyncio.sleep(1.0)
    raise ValueError


def test_statistics_grow_while_the_run_does() -> None:
    """Whoever watches a run asks in the middle of it."""

    async def main() -> None:
        flow = af.unordered("flow", nap.named("a"), nap.named("b"), nap.named("c"))
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(flow, {"seconds": 4.0})
            await asyncio.sleep(3.0)
            half = one.statistics
            await one
            await asyncio.sleep(60.0)
            whole = one.statistics
        assert rounded(half.seconds) == {"RUNNING": 3.0} and rounded(half.task_seconds) == {"RUNNING": 9.0}
        assert (half.tasks, half.attempts) == ({"RUNNING": 3}, 3)
        assert rounded(whole.seconds) == {"RUNNING": 4.0} and rounded(whole.task_seconds) == {"RUNNING": 12.0}
        assert whole.tasks == {"SUCCEEDED": 3}

    run(main)


def test_retries_waits_and_reverts_are_counted_and_timed() -> None:
    """Where the time of a slow run went is what statistics are for."""

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(af.linear("flow", nap, bad), {"seconds": 4.0})
            with pytest.raises(af.RunFailed):
                await one
        found = one.statistics
        assert rounded(found.seconds) == {"RUNNING": 17.0, "REVERTING": 2.0}
        assert rounded(found.task_seconds) == {"RUNNING": 7.0, "WAITING": 10.0, "REVERTING": 2.0}
        assert (found.attempts, found.reverts, found.lost, found.start_overs) == (4, 2, 0, 0)
        assert found.tasks == {"REVERTED": 2}

    run(main)


def test_what_a_controller_made_undone_still_counts() -> None:
    """It took its time, though nothing is left of it."""

    async def main() -> None:
        flow = af.linear("flow", nap, bad.with_options(retry=None), retry=af.Times(3))
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(flow, {"seconds": 2.0})
            with pytest.raises(af.RunFailed):
                await one
        found = one.statistics
        assert found.start_overs == 2
        assert found.attempts == 3 * 3 and found.reverts == 3 * 2 + 1, "controllers are tasks too"
        assert rounded(found.task_seconds) == {"RUNNING": 9.0, "REVERTING": 3.0}

    run(main)


def test_time_in_which_nobody_looked_after_a_run_is_told_apart() -> None:
    """A run that was suspended for a week did not run for a week, nor did its tasks."""

    async def main() -> None:
        flow = af.linear("flow", nap.named("a"), nap.named("b"))
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(flow, {"seconds": 4.0}, run_id="r")
            await asyncio.sleep(6.0)
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one
            assert rounded(one.statistics.seconds) == {"RUNNING": 6.0}
            await asyncio.sleep(1000.0)
            again = await engine.take_up("r", flow)
            await again
            found = again.statistics
            assert rounded(found.seconds) == {"RUNNING": 10.0, "SUSPENDED": 1000.0}
            assert rounded(found.task_seconds) == {"RUNNING": 10.0}
            assert (found.attempts, found.lost) == (3, 1)
            assert (await engine.inspect("r")).statistics == found

    run(main)


def test_a_run_whose_process_died_was_interrupted() -> None:
    """From the last that it recorded on, nobody knows what it did; that is neither running nor suspended."""
    plan = af.linear("flow", nap).compile()
    records = [
        m.Record(10.0, [m.RunStarted("r", "flow", "p", {"seconds": 1.0})]),
        m.Record(11.0, [m.AttemptStarted(0, 1)]),
        m.Record(500.0, [m.RunResumed(), m.AttemptLost(0, "crash"), m.AttemptStarted(0, 1 + 1)]),
        m.Record(503.0, [m.AttemptSucceeded(0, None), m.RunEnded("SUCCEEDED")]),
    ]
    found = statistics(fold(records, {"p": plan}), None)
    assert found.seconds == {"RUNNING": 4.0, "INTERRUPTED": 489.0} and found.task_seconds == {"RUNNING": 3.0}
    assert (found.attempts, found.lost, found.tasks) == (2, 1, {"SUCCEEDED": 1})
    # A wall clock may be set back meanwhile: no time has passed then.
    records[-1] = m.Record(400.0, records[-1].events)
    assert statistics(fold(records, {"p": plan}), None).seconds == {"RUNNING": 1.0, "INTERRUPTED": 489.0}


def test_a_reset_begins_to_count_afresh() -> None:
    """It makes the run start over; what it did before is history."""

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            await engine.run(nap, {"seconds": 4.0}, run_id="r")
            await asyncio.sleep(9.0)
            again = await engine.reset("r", nap)
            await again
            assert rounded(again.statistics.seconds) == {"RUNNING": 4.0} and again.statistics.attempts == 1
            assert (await engine.inspect("r")).statistics == again.statistics

    run(main)


def test_an_inspected_run_that_goes_on_counts_up_to_now() -> None:
    """Its journal is silent while a long body runs, and its time goes on all the same."""

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(nap, {"seconds": 400.0}, run_id="r")
            await asyncio.sleep(300.0)
            report = await engine.inspect("r")
            assert rounded(report.statistics.seconds) == {"RUNNING": 300.0}
            assert report.statistics == one.statistics
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one
            await asyncio.sleep(300.0)
            assert rounded((await engine.inspect("r")).statistics.seconds) == {"RUNNING": 300.0, "SUSPENDED": 300.0}
            assert rounded(one.statistics.seconds) == {"RUNNING": 300.0}, "what became of it since, it cannot know"

    run(main)


def test_a_report_tells_the_attempts_of_each_flow_with_a_controller() -> None:
    """A flow with a controller has a state and an attempt number of its own."""

    @af.task
    async def fails_twice(n: int) -> None:
        if n < 3:
            raise ValueError

    async def main() -> None:
        good = af.linear("good", fails_twice, retry=af.Times(5, provides="n"))
        vain = af.linear("vain", bad.with_options(retry=None), retry=af.Times(2))
        later = af.linear("later", nap, retry=af.Times(2))
        never = af.linear("never", nap, retry=af.Times(2), when=lambda: False)
        async with af.Engine(clock=LoopClock()) as engine:
            with pytest.raises(af.RunFailed):
                rest = af.linear("rest", good, vain, later)
                await engine.run(af.unordered("flow", never, rest), {"seconds": 1.0}, run_id="r")
            found = {flow.path: (flow.state.name, flow.attempts) for flow in (await engine.inspect("r")).flows}
            assert found == {
                "never": ("SKIPPED", 0), "rest/good": ("REVERTED", 3), "rest/vain": ("REVERTED", 2),
                "rest/later": ("PENDING", 0),
            }  # fmt: skip
            one = await engine.start(vain, run_id="s")
            await asyncio.sleep(1.5)
            [flow] = (await engine.inspect("s")).flows
            assert (flow.path, flow.controller, flow.state.name, flow.attempts) == ("", "times", "RUNNING", 2)
            with pytest.raises(af.RunFailed):
                await one
            await engine.run(good, run_id="t")
            assert [(each.state.name, each.attempts) for each in (await engine.inspect("t")).flows] == [
                ("SUCCEEDED", 3)
            ]

    run(main)


def test_the_critical_path_is_what_the_duration_hangs_on() -> None:
    """To make a run faster is to make one of these tasks faster."""

    async def main() -> None:
        part = [nap.with_options(name=f"t{seconds}", inject={"seconds": float(seconds)}) for seconds in (1, 5, 2, 7)]
        skipped = nap.with_options(name="no", when=lambda: False, depth="task", inject={"seconds": 9.0})
        flow = af.linear("flow", af.unordered("first", *part[:2]), skipped, af.unordered("second", *part[2:]))
        async with af.Engine(clock=LoopClock()) as engine:
            await engine.run(flow, run_id="r")
            report = await engine.inspect("r")
            assert [task.path for task in report.critical_path()] == ["first/t5", "second/t7"]
            one = await engine.start(flow, run_id="s")
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one
            assert [task.path for task in (await engine.inspect("s")).critical_path()] in ([], ["first/t1"])

    run(main)
