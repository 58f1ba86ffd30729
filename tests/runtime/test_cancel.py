"""Cancelling who called ``engine.run``, at every moment there is: nothing leaks, nothing stays half done."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncflow as af
from asyncflow import RunState
from asyncflow.runtime.permits import Pool
from tests.runtime import scenes
from tests.runtime.loops import LoopClock, SteppedLoop, others, run, turns, until
from tests.runtime.scenes import Scene

DISTURBANCES = ("once", "twice", "again and again")


def pools(engine: af.Engine) -> list[Pool]:
    """Return every pool of *engine* that is not empty as it should be."""
    return [pool for pool in engine._launcher.environment.pools.values() if pool.taken or pool.lingering]


class Trial:
    """One scene in one engine, its caller cancelled before the n-th turn of the loop."""

    def __init__(self, engine: af.Engine, make: Callable[[], Scene], policy: str, how: str) -> None:
        self.engine = engine
        self.make = make
        self.policy = policy
        self.how = how

    async def disturb(self, turn: int) -> bool:
        """Cancel before *turn* and check what must hold. Return whether that came too late to disturb anyone."""
        scene, run_id = self.make(), f"{self.make.__name__}-{self.policy}-{self.how}-{turn}"
        calling = self.engine.run(scene.flow, run_id=run_id, on_cancel=self.policy)
        caller = asyncio.ensure_future(calling)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SteppedLoop)
        was_disturbed = False

        def cancel(message: str) -> None:
            nonlocal was_disturbed
            was_disturbed |= caller.cancel(message)
            if self.how == "again and again" and not caller.done():
                loop.step_in(1, lambda: cancel("another"))

        loop.step_in(turn, lambda: cancel("first"))
        if self.how == "twice":
            loop.step_in(turn + 2, lambda: cancel("second"))
        await asyncio.wait([caller])
        if was_disturbed:
            await self._check(scene, run_id, caller)
        elif isinstance(scene.value, type):
            assert isinstance(caller.exception(), af.RunFailed)
        else:
            assert caller.result() == scene.value
        assert not others(), f"left behind after a cancel before turn {turn}: {others()}"
        assert not pools(self.engine), f"permits left taken after a cancel before turn {turn}"
        assert not self.engine.running()
        return not was_disturbed

    async def _check(self, scene: Scene, run_id: str, caller: asyncio.Task[Any]) -> None:
        deeds = scene.deeds
        with pytest.raises(asyncio.CancelledError) as cancelled:
            caller.result()
        assert cancelled.value.args == ("first",), "the caller's own cancel must arrive, not another"
        notes = getattr(cancelled.value, "__notes__", [])
        found = [info for info in await self.engine.runs() if info.run_id == run_id]
        if not found:
            assert not deeds.list, "a run that was never journaled did something"
            return
        state = found[0].state
        if self.policy == "revert":
            assert state in (RunState.CANCELLED, RunState.SUCCEEDED, RunState.REVERTED)
            if state is not RunState.SUCCEEDED:
                # A thread may not have come to what has started on record; that is undone all the same.
                missing, extra = deeds.begun() - deeds.undone(), deeds.undone() - deeds.begun()
                assert not missing, "what started must be undone"
                assert not extra or self.make is scenes.threads
                assert all(deeds.count("undo", path) == 1 for path in deeds.undone())
            assert state is not RunState.REVERTED or isinstance(scene.value, type)
            return
        assert state is RunState.SUSPENDED or state.is_ended
        if state is RunState.SUSPENDED:
            assert any(run_id in note and "resume" in note for note in notes), "the note says how to go on"
        if isinstance(scene.value, type):
            with pytest.raises(af.RunFailed) as failure:
                await self.engine.resume(run_id, scene.flow)
            assert failure.group_contains(scene.value)
            assert deeds.undone() == deeds.begun()
        else:
            assert await self.engine.resume(run_id, scene.flow) == scene.value
            assert not deeds.undone(), "a suspended run loses nothing"


async def disturb_at_every_turn(path: Path | None, make: Callable[[], Scene], policy: str, how: str) -> int:
    clock = None if path is not None or make is scenes.threads else LoopClock()
    async with af.Engine(path, clock=clock, durability="process") as engine:
        trial = Trial(engine, make, policy, how)
        turn = 0
        while not await trial.disturb(turn):
            turn += 1
    return turn


@pytest.mark.parametrize("how", DISTURBANCES)
@pytest.mark.parametrize("policy", ["revert", "suspend"])
@pytest.mark.parametrize("make", scenes.ON_THE_LOOP)
def test_a_cancel_at_any_turn_leaves_nothing_half_done(make: Callable[[], Scene], policy: str, how: str) -> None:
    """A web server cancels a request whenever its client goes away; no moment may be the wrong one."""
    count = run(lambda: disturb_at_every_turn(None, make, policy, how))
    assert count >= 3, "the scene was over before it could be disturbed"


@pytest.mark.parametrize("policy", ["revert", "suspend"])
@pytest.mark.parametrize("make", [scenes.fan, scenes.retry, scenes.failing, scenes.limited])
def test_a_cancel_at_any_turn_leaves_nothing_half_done_in_a_file(
    make: Callable[[], Scene], policy: str, tmp_path: Path
) -> None:
    """With a file there are more moments: a record may be on its way to the disk."""
    run(lambda: disturb_at_every_turn(tmp_path / "runs.db", make, policy, "once"), owns_time=False)


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("policy", ["revert", "suspend"])
def test_a_cancel_at_any_turn_waits_for_threads(policy: str, where: str, tmp_path: Path) -> None:
    """A thread cannot be stopped, so its task is undone, or recorded as lost, only when it is out of the way."""
    path = tmp_path / "runs.db" if where == "file" else None
    run(lambda: disturb_at_every_turn(path, scenes.threads, policy, "once"), owns_time=False)


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("policy", ["revert", "suspend"])
def test_a_cancel_at_any_turn_of_a_resume_leaves_nothing_half_done(policy: str, where: str, tmp_path: Path) -> None:
    """Who resumes may be cancelled too, also while the journal is being read."""

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db" if where == "file" else None, durability="process") as engine:
            turn, was_done = 0, False
            while not was_done:
                scene, run_id = scenes.fan(), f"run-{turn}"
                run = await engine.start(scene.flow, run_id=run_id)
                run.suspend(grace=0.0)
                with pytest.raises(af.RunSuspended):
                    await run
                caller = asyncio.ensure_future(engine.resume(run_id, scene.flow, on_cancel=policy))
                was_done = await cancelled_before(turn, caller)
                info = next(info for info in await engine.runs() if info.run_id == run_id)
                if was_done:
                    assert caller.result() == scene.value
                elif policy == "suspend" and info.state is not RunState.SUCCEEDED:
                    assert await engine.resume(run_id, scene.flow) == scene.value
                elif info.state is RunState.CANCELLED:
                    assert scene.deeds.undone() == scene.deeds.begun()
                else:
                    # Cancelled before it was taken up at all.
                    assert info.state is RunState.SUCCEEDED or await engine.resume(run_id, scene.flow) == scene.value
                assert not others() and not engine.running()
                turn += 1

    run(main, owns_time=False)


async def cancelled_before(turn: int, caller: asyncio.Future[Any]) -> bool:
    """Cancel *caller* before the n-th turn from now, wait for it, and return whether it had been done by then."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SteppedLoop)
    loop.step_in(turn, caller.cancel)
    await asyncio.wait([caller])
    return not caller.cancelled()


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_cancel_at_any_turn_of_closing_does_not_stop_it(where: str, tmp_path: Path) -> None:
    """A shutdown that is cut short must still leave its runs on record, resumable, and its file closed."""

    async def main() -> None:
        path = tmp_path / "runs.db" if where == "file" else None
        turn, was_done = 0, False
        while not was_done:
            engine = await af.Engine(path, durability="process", grace=0.0).open()
            scene = scenes.fan()
            run = await engine.start(scene.flow, run_id=f"run-{turn}")
            was_done = await cancelled_before(turn, asyncio.ensure_future(engine.close()))
            if turn:  # before its first turn nothing had been asked of it
                assert run.is_over and not others()
                assert run.state in (RunState.SUSPENDED, RunState.SUCCEEDED)
                with pytest.raises(af.EngineClosed):
                    await engine.run(scene.flow)
            await engine.close()
            if path is not None:
                async with af.Engine(path) as next_one:
                    assert await next_one.resume(f"run-{turn}", scene.flow) == scene.value
            turn += 1

    run(main, owns_time=False)


# --- Limits of time around engine.run ---------------------------------------------------------------------------------


def waits_forever(undo_seconds: float = 0.0) -> Scene:
    """A flow whose second task never ends by itself, and whose reverts take a while."""
    deeds = scenes.Deeds()

    async def forever(ctx: af.Context) -> None:
        await asyncio.sleep(1e6)

    async def slowly(ctx: af.Context) -> None:
        await asyncio.sleep(undo_seconds)

    first, hang = scenes.step(deeds, "first", before_undo=slowly), scenes.step(deeds, "hang", body=forever)
    return Scene(af.flow(name="waits_forever")(lambda: hang(first())), None, deeds)


@pytest.mark.parametrize("policy", ["revert", "suspend"])
def test_asyncio_timeout_around_a_run_raises_timeout_error(policy: str) -> None:
    """The most common way to give up on something; it must see its own cancel, and only that."""

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            scene = waits_forever(undo_seconds=5.0)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(10.0):
                    await engine.run(scene.flow, run_id="r", on_cancel=policy)
            me = asyncio.current_task()
            assert me is not None and me.cancelling() == 0, "no cancel is left over"
            [info] = await engine.runs()
            assert info.state is (RunState.CANCELLED if policy == "revert" else RunState.SUSPENDED)
            assert scene.deeds.undone() == ({"first", "hang"} if policy == "revert" else set())

    run(main)


@pytest.mark.parametrize("policy", ["revert", "suspend"])
def test_wait_for_around_a_run_raises_timeout_error(policy: str) -> None:
    """The older way to give up."""

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            scene = waits_forever(undo_seconds=5.0)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(engine.run(scene.flow, on_cancel=policy), 10.0)
            assert not others()
            assert scene.deeds.undone() == ({"first", "hang"} if policy == "revert" else set())

    run(main)


@pytest.mark.parametrize("policy", ["revert", "suspend"])
def test_an_anyio_scope_around_a_run_catches_its_own_cancel(policy: str) -> None:
    """An anyio scope cancels again at every await; the undo must neither be cut short by that nor spin."""

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            scene = waits_forever(undo_seconds=5.0)
            with anyio.move_on_after(10.0) as scope:
                await engine.run(scene.flow, on_cancel=policy)
            assert scope.cancelled_caught
            assert scene.deeds.undone() == ({"first", "hang"} if policy == "revert" else set())
            with pytest.raises(TimeoutError):
                with anyio.fail_after(10.0):
                    await engine.run(scene.flow, on_cancel=policy)
            with anyio.CancelScope() as already:
                already.cancel()
                await engine.run(scene.flow, on_cancel=policy)
            assert already.cancelled_caught and not others()
        # It spins if the shield is missing: time of the loop stands still while anything is ready.
        assert turns() < 300

    run(main)


@pytest.mark.parametrize("policy", ["revert", "suspend"])
def test_an_anyio_task_group_around_a_run_can_be_cancelled(policy: str) -> None:
    """One of several things that an application does at once fails, and the run beside it must be seen to."""

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            scene = waits_forever(undo_seconds=5.0)

            async def call() -> None:
                await engine.run(scene.flow, on_cancel=policy)

            with pytest.raises(ExceptionGroup) as raised:
                async with anyio.create_task_group() as group:
                    group.start_soon(call)
                    await asyncio.sleep(3.0)
                    raise ValueError("something else")
            assert raised.group_contains(ValueError) and len(raised.value.exceptions) == 1
            assert scene.deeds.undone() == ({"first", "hang"} if policy == "revert" else set())
        assert turns() < 200

    run(main)


def test_a_cancel_from_outside_during_a_timeout_is_not_taken_for_the_timeout() -> None:
    """Whoever cancelled the caller waits for a CancelledError; a TimeoutError would hide it."""

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            scene = waits_forever(undo_seconds=5.0)

            async def call() -> None:
                async with asyncio.timeout(10.0):
                    await engine.run(scene.flow, on_cancel="revert")

            caller = asyncio.ensure_future(call())
            await asyncio.sleep(9.0)
            caller.cancel("outside")  # undoing outlasts the limit, which then passes as well
            with pytest.raises(asyncio.CancelledError, match="outside"):
                await caller
            assert scene.deeds.undone() == {"first", "hang"}

    run(main)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_undoing_that_outlasts_its_grace_is_suspended_and_goes_on_later(where: str, tmp_path: Path) -> None:
    """A caller that must go away cannot be held for ever, and what is half undone must not stay so."""

    async def main() -> None:
        path = tmp_path / "runs.db" if where == "file" else None
        seconds = 0.05 if where == "file" else 50.0
        is_patient = False
        deeds = scenes.Deeds()

        async def slowly(ctx: af.Context) -> None:
            if not is_patient:
                await asyncio.sleep(1e6)

        async def forever(ctx: af.Context) -> None:
            await asyncio.sleep(1e6)

        first, last = scenes.step(deeds, "first", before_undo=slowly), scenes.step(deeds, "last")
        hang = scenes.step(deeds, "hang", body=forever)
        flow = af.flow(name="slow")(lambda: hang(last(first())))
        clock = None if path else LoopClock()
        async with af.Engine(path, clock=clock, undo_grace=seconds, on_cancel="revert") as engine:
            caller = asyncio.ensure_future(engine.run(flow, run_id="r"))
            await until(lambda: ("do", "hang") in deeds.list)
            began = asyncio.get_running_loop().time()
            caller.cancel("go")
            with pytest.raises(asyncio.CancelledError, match="go") as raised:
                await caller
            assert any("engine.resume('r')" in note for note in raised.value.__notes__)
            assert asyncio.get_running_loop().time() - began >= seconds
            report = await engine.inspect("r")
            assert report.state is RunState.SUSPENDED and report.phase is RunState.REVERTING
            assert deeds.undone() == {"hang", "last"}
            is_patient = True
            with pytest.raises(af.RunCancelled, match="the caller was cancelled"):
                await engine.resume("r", flow)
            assert deeds.undone() == {"hang", "last", "first"}
            assert deeds.count("undo", "last") == 1, "what was undone is not undone again"

    run(main, owns_time=where == "memory")


def test_a_run_inside_a_body_is_seen_to_when_its_task_is_cancelled() -> None:
    """Runs within runs: the inner caller is a body, and must not give way before the inner run is undone."""

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            inner = waits_forever(undo_seconds=2.0)

            @af.task
            async def outer() -> None:
                await engine.run(inner.flow, run_id="inner")

            caller = asyncio.ensure_future(engine.run(outer, run_id="outer"))
            await asyncio.sleep(1.0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
            assert inner.deeds.undone() == {"first", "hang"}
            assert {info.run_id: info.state for info in await engine.runs()} == {
                "inner": RunState.CANCELLED,
                "outer": RunState.CANCELLED,
            }

    run(main)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_loop_that_goes_down_suspends(where: str, tmp_path: Path) -> None:
    """``asyncio.run`` cancels everything when its main coroutine fails; that is no reason to undo hours of work."""
    path = tmp_path / "runs.db" if where == "file" else None
    scene = waits_forever()
    runs: list[af.Run[Any]] = []

    async def main() -> None:
        engine = await af.Engine(path, on_cancel="revert").open()
        runs.append(await engine.start(scene.flow, run_id="r"))
        await until(lambda: ("do", "hang") in scene.deeds.list)
        raise ValueError("the application fails, and closes nothing")

    with pytest.raises(ValueError, match="the application fails"):
        asyncio.run(main())
    assert runs[0].state is RunState.SUSPENDED
    assert not scene.deeds.undone()

    async def again() -> None:
        async with af.Engine(path) as engine:
            assert (await engine.inspect("r")).state is RunState.SUSPENDED

    if path is not None:
        asyncio.run(again())


@pytest.fixture
def _nobody_closes() -> Iterator[None]:
    """Let go within this test of connections that nobody has closed: the complaint must not reach another."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# A loop may go down while SQLite's thread is in a commit, whose end nobody can be told of then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("_nobody_closes")
@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("make", [scenes.fan, scenes.retry, scenes.failing, scenes.stubborn, scenes.limited])
def test_a_loop_that_goes_down_at_any_turn_leaves_runs_resumable(
    make: Callable[[], Scene], where: str, tmp_path: Path
) -> None:
    """Everything is cancelled at once then, supervisors and callers alike, and nobody closes the engine."""
    turn, is_over = 0, False
    while not is_over:
        path = tmp_path / f"{turn}.db" if where == "file" else None
        scene, seen = make(), list[af.Run[Any]]()

        async def main(
            turn: int = turn, path: Path | None = path, scene: Scene = scene, seen: list[af.Run[Any]] = seen
        ) -> None:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, SteppedLoop)
            engine = await af.Engine(path, clock=None if path else LoopClock(), durability="process").open()
            seen.append(await engine.start(scene.flow, run_id="r"))
            waiting = asyncio.ensure_future(engine.run(scene.flow, run_id="s", on_cancel="revert"))
            waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
            down = loop.create_future()
            loop.step_in(turn, lambda: down.done() or down.set_result(None))
            await down

        with asyncio.Runner(loop_factory=lambda: SteppedLoop(owns_time=where == "memory")) as runner:
            runner.run(main())
        [one] = seen
        state = one.state
        is_over = state.is_ended
        assert one.is_over and (is_over or state is RunState.SUSPENDED), f"before turn {turn}"
        if not isinstance(scene.value, type):
            assert not {path for what, path in scene.deeds.list if what == "undo"}, f"before turn {turn}"
        if path is not None:
            run(lambda path=path, scene=scene: taken_up_again(path, scene), owns_time=False)  # type: ignore[misc]
        turn += 1


async def taken_up_again(path: Path, scene: Scene) -> None:
    async with af.Engine(path) as engine:
        for info in await engine.runs():
            if isinstance(scene.value, type):
                with pytest.raises(af.RunFailed):
                    await engine.resume(info.run_id, scene.flow)
            else:
                assert await engine.resume(info.run_id, scene.flow) == scene.value
