"""Observers that measure: how long tasks took, and when they entered their states."""

from __future__ import annotations

import asyncio

import pytest

import asyncflow as af
from asyncflow.observers import Durations, Timestamps
from tests.runtime.loops import LoopClock, run


@af.task
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@nap.revert
async def get_up(seconds: float) -> None:
    await asyncio.sleep(seconds / 2)


@af.task(retry=af.Retry(2, af.Fixed(5.0)), revert_retry=af.Retry(2, af.Fixed(1.0)))
async def bad(ctx: af.Context) -> None:
    await asyncio.sleep(float(ctx.attempt))
    raise ValueError


@bad.revert
async def undo(ctx: af.Context) -> None:
    if ctx.attempt == 1:
        raise ValueError


@af.task(timeout=3.0)
async def slow() -> None:
    await asyncio.sleep(9.0)


def test_durations_are_measured_over_all_attempts() -> None:
    """The slowest task is where to look first, and a retry is part of what it costs."""

    async def main() -> None:
        durations = Durations()
        async with af.Engine(observers=[durations], clock=LoopClock()) as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("flow", nap, bad), {"seconds": 4.0}, run_id="r")
        found = durations.of("r")
        assert list(found) == ["nap", "bad"]
        one, other = found["nap"], found["bad"]
        assert (one.attempts, round(one.seconds, 3), round(one.latest or 0.0, 3)) == (1, 4.0, 4.0)
        assert (one.reverts, round(one.reverting, 3)) == (1, 2.0)
        assert (other.attempts, round(other.seconds, 3), round(other.latest or 0.0, 3)) == (2, 3.0, 2.0)
        assert other.reverts == 2
        assert [task.path for task in durations.slowest("r")] == ["nap", "bad"]
        assert [task.path for task in durations.slowest("r", 1)] == ["nap"]
        assert durations.of("other") == {}

    run(main)


def test_what_began_before_anybody_watched_is_not_measured() -> None:
    """Half a duration is worse than none."""

    async def main() -> None:
        durations = Durations()
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(af.linear("flow", nap.named("a"), nap.named("b")), {"seconds": 4.0}, run_id="r")
            await asyncio.sleep(2.0)
            engine.observe(durations)
            await one
        assert list(durations.of("r")) == ["b"]

    run(main)


def test_timestamps_have_the_states_of_tasks_and_runs() -> None:
    """When did it begin to wait, when was it undone: the journal's own times, by state."""

    async def main() -> None:
        stamps, clock = Timestamps(), LoopClock()
        async with af.Engine(observers=[stamps], clock=clock) as engine:
            began = clock.now()
            skipped = nap.with_options(name="no", when=lambda: False, depth="task")
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("flow", nap, skipped, bad), {"seconds": 4.0}, run_id="r")
            with pytest.raises(af.RunFailed):
                await engine.run(slow, run_id="s")

        def since(path: str) -> list[tuple[str, float]]:
            return [(state, round(at - began, 2)) for state, at in stamps.history("r", path)]

        assert since("nap") == [("RUNNING", 0.0), ("SUCCEEDED", 4.0), ("REVERTING", 13.0), ("REVERTED", 15.0)]
        assert since("bad") == [
            ("RUNNING", 4.0), ("WAITING", 5.0), ("RUNNING", 10.0), ("FAILED", 12.0),
            ("REVERTING", 12.0), ("REVERTING", 13.0), ("REVERTED", 13.0),
        ]  # fmt: skip
        assert since("no") == [("SKIPPED", 4.0)]
        assert since("") == [("RUNNING", 0.0), ("REVERTED", 15.0)]
        assert round(stamps.of("r", "bad")["RUNNING"] - began, 2) == 10.0, "the last time counts"
        assert list(stamps.of("s", "slow")) == ["RUNNING", "TIMED_OUT", "REVERTING", "REVERTED"]
        assert stamps.of("r", "nobody") == stamps.of("t") == {}

    run(main)


@pytest.mark.parametrize("kind", [Durations, Timestamps])
def test_only_the_latest_runs_are_remembered(kind: type[Durations] | type[Timestamps]) -> None:
    """An engine that runs for months has no end of runs, and what watches it has."""

    async def main() -> None:
        watching = kind(keep=3)
        async with af.Engine(observers=[watching], clock=LoopClock()) as engine:
            for number in range(10):
                await engine.run(nap, {"seconds": 1.0}, run_id=f"r{number}")
        assert repr(watching) == f"<{kind.__name__} of 3 runs>"
        assert watching.of("r9", *([] if kind is Durations else ["nap"]))
        assert not watching.of("r6", *([] if kind is Durations else ["nap"]))

    run(main)
