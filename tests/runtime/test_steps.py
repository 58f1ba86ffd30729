"""Runs taken step by step: what each step shows, and what can be done between two."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import RunState
from tests.runtime.loops import others, run, until

log: list[str] = []


@af.task(provides="x")
async def one() -> int:
    log.append("one")
    return 1


@one.revert
async def not_one() -> None:
    log.append("-one")


@af.task(provides="y")
async def two(x: int) -> int:
    log.append("two")
    await asyncio.sleep(0)
    return x + 1


@af.task
async def broken(y: int) -> None:
    raise ValueError(y)


def told(step: af.Step) -> list[str]:
    return [f"{happening.kind} {happening.path}".strip() for happening in step.happened]


@pytest.fixture(autouse=True)
def _clear() -> None:
    log.clear()


def test_each_step_shows_what_has_happened_and_what_is_due() -> None:
    """Someone who debugs a flow sees the decisions of its machine one by one."""

    async def main() -> list[tuple[list[str], list[str]]]:
        async with af.Engine() as engine:
            return [(told(step), list(step.due)) async for step in engine.steps(af.linear("f", one, two))]

    assert run(main) == [
        (["RunStarted"], ["one"]),
        (["AttemptStarted one", "AttemptSucceeded one"], ["two"]),
        (["AttemptStarted two", "AttemptSucceeded two"], []),
        (["RunEnded"], []),
    ]


def test_nothing_starts_until_the_next_step_is_asked_for() -> None:
    """Between two steps the world stands still, however long that takes."""

    async def main() -> None:
        async with af.Engine() as engine:
            async for step in engine.steps(af.linear("f", one, two)):
                before = list(log)
                for _ in range(20):
                    await asyncio.sleep(0)
                assert log == before, "a body was started although nobody had asked"
                assert step.run.state in (RunState.RUNNING, RunState.SUCCEEDED)

    run(main)
    assert log == ["one", "two"]


def test_controllers_and_reverts_are_steps_too() -> None:
    """A retry shows as a question, reverts from the last to the first, and a new start."""

    async def main() -> list[str]:
        due: list[str] = []
        async with af.Engine() as engine:
            flow = af.linear("f", one, two, broken, retry=af.Times(2))
            with pytest.raises(af.RunFailed) as failed:
                async for step in engine.steps(flow):
                    due.extend(step.due)
            assert failed.group_contains(ValueError)
        return due

    once = ["times", "one", "two", "broken", "?f", "-broken", "-two", "-one"]
    # That a flow which is undone starts over is one turn with the start of its controller.
    assert run(main) == [*once, *once[1:], "-times"]


def test_a_step_can_cancel_and_look_on_while_the_run_is_undone() -> None:
    """What was due is not started any more, and each revert is a step."""

    async def main() -> tuple[list[str], RunState]:
        due: list[str] = []
        async with af.Engine() as engine:
            with pytest.raises(af.RunCancelled):
                async for step in engine.steps(af.linear("f", one, two)):
                    due.extend(step.due)
                    if "two" in step.due:
                        step.run.cancel("seen enough")
            state = step.run.state
        return due, state

    assert run(main) == (["one", "two", "-one"], RunState.CANCELLED)
    assert log == ["one", "-one"]


def test_a_step_can_suspend(tmp_path: Path) -> None:
    """And another process takes the steps that are left."""

    async def main() -> list[str]:
        flow = af.linear("f", one, two)
        async with af.Engine(tmp_path / "runs.db") as engine:
            with pytest.raises(af.RunSuspended):
                async for step in engine.steps(flow, run_id="r"):
                    if "two" in step.due:
                        step.run.suspend("for today")
        async with af.Engine(tmp_path / "runs.db") as engine:
            return [due async for step in engine.steps(flow, run_id="r", resume=True) for due in step.due]

    assert run(main, owns_time=False) == ["two"]
    assert log == ["one", "two"]


@pytest.mark.parametrize("how", ["break", "raise", "cancel"])
def test_leaving_the_loop_leaves_a_resumable_run(how: str) -> None:
    """Nothing is lost and nothing goes on by itself."""

    async def steps(engine: af.Engine, flow: Any) -> None:
        async for step in engine.steps(flow, run_id="r"):
            if "two" in step.due:
                if how == "break":
                    break
                if how == "raise":
                    raise KeyError("the application")
                await asyncio.get_running_loop().create_future()

    async def main() -> None:
        flow = af.linear("f", one, two)
        async with af.Engine() as engine:
            doing = asyncio.ensure_future(steps(engine, flow))
            await until(lambda: "one" in log)
            for _ in range(10):
                await asyncio.sleep(0)
            doing.cancel()
            await asyncio.wait([doing])
            await until(lambda: not engine.running())
            [info] = await engine.runs()
            assert info.state is RunState.SUSPENDED
            assert await engine.resume("r", flow) == {"x": 1, "y": 2}
            await until(lambda: not others())

    run(main)
    assert log == ["one", "two"]


def test_closing_the_engine_between_two_steps_does_not_wait_for_ever() -> None:
    """The engine's owner need not know that somebody takes steps."""

    async def main() -> None:
        async with af.Engine() as engine:
            steps = engine.steps(af.linear("f", one, two))
            await anext(steps)
        with pytest.raises(af.RunSuspended):
            while True:
                await anext(steps)

    run(main)
    assert log == []


def test_what_steps_needs_is_said() -> None:
    """A flow, or the name of the run that is to be resumed."""

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.InputError, match=r"engine.steps\(\) needs a flow, unless it resumes"):
                await anext(engine.steps())
            with pytest.raises(af.InputError, match="needs the run_id of the run"):
                await anext(engine.steps(resume=True))

    run(main)
