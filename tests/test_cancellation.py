"""
The caller of a run is cancelled at every turn of the loop: everything is undone or resumable, and nothing is left.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncflow as af

log: list[str] = []


async def pause(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


@af.task
async def first() -> int:
    log.append("first")
    await pause(1)
    return 1


@first.revert
async def undo_first() -> None:
    log.append("undo first")
    await pause(1)


@af.task
async def left(x: int) -> int:
    log.append("left")
    await pause(3)
    return 2


@left.revert
async def undo_left() -> None:
    log.append("undo left")
    await pause(1)


@af.task(retry=af.Retry(3, af.Fixed(0.0)))
async def right(ctx: af.Context, x: int) -> int:
    log.append("right")
    await pause(1)
    if ctx.attempt < 3:
        raise ValueError("not yet")
    return 3


@right.revert
async def undo_right() -> None:
    log.append("undo right")


@af.task
async def last(x: int, y: int) -> int:
    log.append("last")
    await pause(1)
    return x + y


@last.revert
async def undo_last() -> None:
    log.append("undo last")


@af.flow
def diamond() -> int:
    x = first()
    return last(left(x), right(x))


async def cancel_after(engine: af.Engine, turns: int, policy: str, again: bool) -> bool:
    """Cancel the caller after *turns* of the loop; return whether the run had ended by then."""
    log.clear()
    run_id = f"{policy}-{again}-{turns}"
    before = asyncio.all_tasks()
    caller = asyncio.create_task(engine.run(diamond, run_id=run_id, on_cancel=policy))
    for _ in range(turns):
        await asyncio.sleep(0)
        if caller.done():
            assert caller.result() == 5
            return True
    caller.cancel("enough")
    if again:
        await asyncio.sleep(0)
        caller.cancel("more than enough")
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await caller
    assert cancelled.value.args == ("enough",), "another CancelledError than the caller's own came out"
    assert asyncio.all_tasks() <= before, "an asyncio task was left behind"
    states = [info.state for info in await engine.runs() if info.run_id == run_id]
    if not states:
        return False  # cancelled before the run was asked for
    started = {name for name in log if not name.startswith("undo")}
    undone = [name.removeprefix("undo ") for name in log if name.startswith("undo")]
    assert len(undone) == len(set(undone)), "a task was undone twice"
    if policy == "revert" and states == [af.RunState.CANCELLED]:
        assert set(undone) == started
        assert [name for name in undone if name == "first"] == undone[-1:], "undone before its dependents"
    elif policy == "suspend" and states == [af.RunState.SUSPENDED]:
        assert not undone
        assert any("resume" in note for note in cancelled.value.__notes__)
        assert await engine.resume(run_id, diamond) == 5
    else:
        assert states == [af.RunState.SUCCEEDED]
    return False


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("policy", ["revert", "suspend"])
@pytest.mark.parametrize("place", ["memory", "file"])
def test_a_caller_cancelled_at_any_turn_leaves_nothing_half_done(
    tmp_path: Path, place: str, policy: str, again: bool
) -> None:
    """A timeout strikes where it likes; there must be no await at which it strikes badly."""

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db" if place == "file" else None, durability="process") as engine:
            turns = 0
            while not await cancel_after(engine, turns, policy, again):
                # A file's commits take hundreds of idle turns; beyond the first hundred every seventh will do.
                turns += 1 if turns < 100 else 7
                assert turns < 20_000

    asyncio.run(main())


@af.task
async def endless() -> None:
    await asyncio.Event().wait()


@endless.revert
async def undo_endless() -> None:
    log.append("undo endless")
    await pause(3)


@pytest.mark.parametrize("policy", ["revert", "suspend"])
def test_timeouts_and_scopes_around_a_run_behave(policy: str) -> None:
    """They are how asyncio programs limit time; a run must not be the one thing that they cannot limit."""

    async def main() -> None:
        async with af.Engine() as engine:

            async def go() -> Any:
                return await engine.run(endless, on_cancel=policy)

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await go()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(go(), 0.01)
            with anyio.move_on_after(0.01) as scope:
                await go()
            assert scope.cancelled_caught
            with pytest.raises(TimeoutError), anyio.fail_after(0.01):
                await go()
            async with anyio.create_task_group() as group:
                group.start_soon(go)
                await pause(3)
                group.cancel_scope.cancel()
            expected = af.RunState.CANCELLED if policy == "revert" else af.RunState.SUSPENDED
            assert [info.state for info in await engine.runs()] == [expected] * 5
            task = asyncio.current_task()
            assert task is not None and task.cancelling() == 0

    asyncio.run(main())


def test_undoing_that_outlasts_its_grace_is_suspended_and_goes_on_later() -> None:
    """A caller is not held up for ever by a revert, and the revert is not forgotten."""
    may_end = asyncio.Event()

    @af.task
    async def work() -> None:
        await asyncio.Event().wait()

    @work.revert
    async def undo() -> None:
        log.append("undo")
        await may_end.wait()

    async def main() -> None:
        log.clear()
        async with af.Engine(undo_grace=0.01, on_cancel="revert") as engine:
            caller = asyncio.create_task(engine.run(work, run_id="r"))
            await pause(5)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert [info.state for info in await engine.runs()] == [af.RunState.SUSPENDED]
            may_end.set()
            with pytest.raises(af.RunCancelled, match="the caller was cancelled"):
                await engine.resume("r", work)
        assert log == ["undo", "undo"]

    asyncio.run(main())


def test_cancelling_who_merely_waits_leaves_the_run_alone() -> None:
    """A run of ``engine.start()`` belongs to the engine; anyone may wait for it, and stop waiting."""

    async def main() -> None:
        async with af.Engine() as engine:
            run = await engine.start(diamond)

            async def wait() -> int:
                return await run

            waiters = [asyncio.create_task(wait()) for _ in range(3)]
            await pause(2)
            waiters[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiters[0]
            assert await waiters[1] == await waiters[2] == await run == 5

    asyncio.run(main())


@pytest.mark.parametrize("late", [False, True], ids=["at once", "after a wait"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_from_a_body_suspends_and_goes_on(
    tmp_path: Path, interruption: type[BaseException], late: bool
) -> None:
    """Ctrl-C may arrive inside a task; the program ends as it would, and the run is resumable."""

    @af.task
    async def work() -> str:
        log.append("work")
        if late:
            await pause(3)
        if log.count("work") == 1:
            raise interruption
        return "done"

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            await engine.run(work, run_id="r")

    async def again() -> Any:
        async with af.Engine(tmp_path / "runs.db") as engine:
            return [await run for run in await engine.recover()] or await engine.resume("r", work)

    log.clear()
    with pytest.raises(interruption):
        asyncio.run(main())
    assert asyncio.run(again()) == "done"
