"""What the caller of a run holds: waiting, watching, stopping; and an engine that leaves nothing running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import RunState, TaskState, heart
from asyncflow.graph.flow import Flow
from asyncflow.interfaces import Request
from asyncflow.observers import Capture
from asyncflow.runtime.values import RunValues
from tests.runtime.loops import LoopClock, others, run, until
from tests.runtime.scenes import FullJournal


class Door:
    """A task that waits until it is let through, and what became of it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.log: list[str] = []

    def task(self, name: str = "door", **options: Any) -> af.Task:
        async def wait(ctx: af.Context) -> str:
            self.log.append("waits")
            await self.open.wait()
            return name

        async def undo() -> None:
            self.log.append("undone")

        made = af.task(name=name, **options)(wait)
        made.revert(undo)
        return made


def behind(door: Door, **options: Any) -> Flow[..., Any]:
    """Return a flow of one task before the door, the door, and one task behind it."""

    @af.task(provides="before")
    async def before() -> int:
        return 1

    @af.task(provides="after")
    async def after(door: str) -> str:
        return f"after the {door}"

    return af.linear("flow", before, door.task(provides="door", **options), after)


# --- Waiting ----------------------------------------------------------------------------------------------------------


def test_a_run_may_be_awaited_by_many_and_again() -> None:
    """A run is not used up by who waits first, as a coroutine would be."""

    async def main() -> None:
        door = Door()
        async with af.Engine() as engine:
            one = await engine.start(behind(door))

            async def wait() -> Any:
                return await one

            waiting = [asyncio.ensure_future(wait()) for _ in range(3)]
            await asyncio.sleep(0)
            door.open.set()
            results = [*await asyncio.gather(*waiting), await one, await one]
            assert results == [{"before": 1, "door": "door", "after": "after the door"}] * 5
            assert one.is_over

    run(main)


def test_a_failed_run_raises_for_everyone_who_waits() -> None:
    """Also for who comes late, and the exception does not pile up notes each time."""

    async def main() -> None:
        @af.task
        async def bad() -> None:
            raise ValueError("no")

        async with af.Engine() as engine:
            one = await engine.start(af.linear("flow", bad), run_id="r")
            for _ in range(3):
                with pytest.raises(af.RunFailed) as failure:
                    await one
            [error] = failure.value.exceptions
            assert error.__notes__ == ["in task 'bad' of run 'r'"]

    run(main)


def test_cancelling_who_waits_leaves_the_run_alone() -> None:
    """Many may watch one run; one of them going away is none of its business."""

    async def main() -> None:
        door = Door()
        async with af.Engine() as engine:
            one = await engine.start(behind(door))

            async def wait(awaitable: Any) -> Any:
                return await awaitable

            waiting = [asyncio.ensure_future(wait(one)), asyncio.ensure_future(wait(one.task("after")))]
            await asyncio.sleep(0)
            for waiter in waiting:
                waiter.cancel()
            await asyncio.wait(waiting)
            assert all(waiter.cancelled() for waiter in waiting)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(wait(one), 5.0)
            assert one.state is RunState.RUNNING
            door.open.set()
            assert (await one)["after"] == "after the door"

    run(main)


def test_nobody_need_wait_for_a_run() -> None:
    """A run that fails unwatched must not make the loop complain about an exception that nobody has retrieved."""

    async def main() -> None:
        complaints: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))

        @af.task
        async def bad() -> None:
            await asyncio.sleep(1.0)
            raise ValueError("no")

        async with af.Engine() as engine:
            await engine.start(af.linear("flow", bad))
            await asyncio.sleep(2.0)
        import gc

        gc.collect()
        assert not complaints

    run(main)


# --- Watching ---------------------------------------------------------------------------------------------------------


def test_results_grow_as_tasks_succeed() -> None:
    """They can be looked at before the run is over, by provided name."""

    async def main() -> None:
        door = Door()
        async with af.Engine() as engine:
            one = await engine.start(behind(door))
            await until(lambda: door.log)
            assert dict(one.results) == {"before": 1} and len(one.results) == 1
            assert repr(one.results) == "<Results: before>" and "after" not in one.results
            with pytest.raises(KeyError):
                one.results["after"]
            door.open.set()
            await one
            assert dict(one.results) == {"before": 1, "door": "door", "after": "after the door"}

    run(main)


def test_a_reverted_value_is_no_result() -> None:
    """It stands for something that has been undone."""

    async def main() -> None:
        door = Door()
        async with af.Engine() as engine:
            one = await engine.start(behind(door))
            await until(lambda: door.log)
            one.cancel()
            with pytest.raises(af.RunCancelled):
                await one
            assert dict(one.results) == {} and repr(one.results) == "<Results: none yet>"

    run(main)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_task_is_a_future(where: str, tmp_path: Path) -> None:
    """One value of a long run may be wanted before the others are there."""

    async def main() -> None:
        door = Door()
        async with af.Engine(tmp_path / "runs.db" if where == "file" else None) as engine:
            one = await engine.start(behind(door))
            assert await one.task("before") == 1
            task = one.task("after")
            assert (task.path, task.state, task.attempts, task.outcome) == ("after", TaskState.PENDING, 0, None)
            waiting = asyncio.ensure_future(_await(task))
            await asyncio.sleep(0)
            door.open.set()
            assert await waiting == "after the door" == await task
            assert task.outcome == af.Success("after the door") and task.state is TaskState.SUCCEEDED
            await one
            assert await task == "after the door"
            assert [each.path for each in one.tasks()] == ["before", "door", "after"]
            assert repr(task) == f"<task 'after' of run {one.run_id!r}: SUCCEEDED, attempt 1>"
            with pytest.raises(KeyError, match="flow 'flow' has no task 'nowhere'"):
                one.task("nowhere")

    run(main, owns_time=False)


async def _await(awaitable: Any) -> Any:
    return await awaitable


def test_a_task_without_a_value_says_why() -> None:
    """Whoever waits for one value must hear as much as who waits for the run."""

    async def main() -> None:
        async def fail() -> None:
            await asyncio.sleep(1.0)
            raise ValueError("no")

        async def sleep() -> None:
            await asyncio.sleep(1e6)

        bad, slow = af.task(name="bad")(fail), af.task(name="slow", timeout=0.5)(sleep)
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(af.linear("flow", bad, af.task(name="never")(sleep)), run_id="r")
            with pytest.raises(ValueError, match="no"):
                await one.task("bad")
            with pytest.raises(af.RunCancelled, match="task 'never' of run 'r' has no value: it is PENDING"):
                await one.task("never")
            two = await engine.start(af.linear("flow", slow))
            with pytest.raises(af.TaskTimedOut, match=r"task 'slow' took longer than its timeout of 0\.5 s"):
                await two.task("slow")
            three = await engine.start(af.linear("flow", af.task(name="slow")(sleep)), run_id="s")
            waiting = asyncio.ensure_future(_await(three.task("slow")))
            await asyncio.sleep(1.0)
            three.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended, match="task 'slow' of run 's' has no value: it is PENDING"):
                await waiting

    run(main)


def test_a_task_that_waits_for_its_next_attempt_has_no_ending_yet() -> None:
    """An attempt that is to be made again is not how the task ended, even if the run is suspended meanwhile."""

    async def main() -> None:
        @af.task(retry=af.Retry(2, af.Fixed(60.0)))
        async def shaky() -> None:
            raise ConnectionError

        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(af.linear("flow", shaky))
            waiting = asyncio.ensure_future(_await(one.task("shaky")))
            await asyncio.sleep(1.0)
            assert one.task("shaky").state is TaskState.WAITING and not waiting.done()
            one.suspend()
            with pytest.raises(af.RunSuspended):
                await waiting

    run(main)


@pytest.mark.parametrize("leaves_early", [False, True])
def test_events_are_told_until_the_run_is_over(leaves_early: bool) -> None:
    """A page that shows a run live reads them, and must not have to know when to stop."""

    async def main() -> None:
        door = Door()
        async with af.Engine() as engine:
            one, beside = await engine.start(behind(door)), await engine.start(behind(Door()))
            kinds: list[tuple[str, str]] = []

            async def watch() -> None:
                events = one.events()
                async for happening in events:
                    assert happening.run_id == one.run_id
                    kinds.append((happening.kind, happening.path))
                    if leaves_early:
                        break
                await events.aclose()  # type: ignore[attr-defined]

            watching = asyncio.ensure_future(watch())
            await until(lambda: door.log)
            await asyncio.sleep(0)
            door.open.set()
            await watching
            await one
            seen = [("AttemptSucceeded", "door"), ("AttemptStarted", "after"), ("AttemptSucceeded", "after")]
            assert kinds[-4:] == ([*seen, ("RunEnded", "")] if not leaves_early else kinds[-1:])
            assert not engine._announcer.subscriptions, "nobody watches any more"
            beside.cancel()

    run(main)


def test_who_no_longer_watches_is_forgotten() -> None:
    """A page that shows a run is opened and closed many times while it lives."""

    async def main() -> None:
        door = Door()
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(behind(door))
            for _ in range(3):
                events = one.events()
                watching = asyncio.ensure_future(anext(events))
                await asyncio.sleep(1.0)
                watching.cancel()
                await asyncio.wait([watching])
                await events.aclose()
            assert not one.supervisor.on_over
            door.open.set()
            await one

    run(main)


@pytest.mark.parametrize("ending", ["ended", "suspended", "resumed"])
def test_events_of_a_run_that_is_over_are_none(ending: str) -> None:
    """Coming too late must not mean to wait for ever."""

    async def main() -> None:
        door = Door()
        flow = behind(door)
        async with af.Engine() as engine:
            one = await engine.start(flow, run_id="r")
            if ending == "suspended":
                one.suspend(grace=0.0)
            else:
                door.open.set()
            await asyncio.wait([one.ending])
            if ending == "resumed":
                one = await engine.take_up("r", flow)
            async with asyncio.timeout(60.0):
                assert [happening async for happening in one.events()] == []

    run(main)


# --- Stopping ---------------------------------------------------------------------------------------------------------


def test_a_second_cancel_changes_nothing() -> None:
    """An impatient user presses the button again; the first reason stands and nothing is undone twice."""

    async def main() -> None:
        door = Door()
        async with af.Engine() as engine:
            one = await engine.start(behind(door), run_id="r")
            await until(lambda: door.log)
            one.cancel("first reason")
            one.cancel("second reason")
            await asyncio.sleep(0)
            one.cancel("third reason")
            with pytest.raises(
                af.RunCancelled, match=r"run 'r' was cancelled \(first reason\) and everything it had done is undone"
            ) as cancelled:
                await one
            assert cancelled.value.reason == "first reason" and cancelled.value.run_id == "r"
            assert door.log == ["waits", "undone"]
            one.cancel()
            one.suspend()
            assert await engine.cancel("r") is RunState.CANCELLED
            assert one.state is RunState.CANCELLED

    run(main)


def test_cancelling_a_run_that_has_succeeded_does_nothing() -> None:
    """What is done is done; undoing it would be another flow."""

    async def main() -> None:
        door = Door()
        door.open.set()
        async with af.Engine() as engine:
            one = await engine.start(behind(door), run_id="r")
            await one
            one.cancel()
            assert await engine.cancel("r") is RunState.SUCCEEDED
            assert (await one)["before"] == 1 and door.log == ["waits"]

    run(main)


def test_cancelling_a_run_that_fails_leaves_the_failure_as_its_end() -> None:
    """The cause must not be hidden by whoever gave up on it a moment later."""

    async def main() -> None:
        @af.task
        async def first() -> None: ...

        @first.revert
        async def undo() -> None:
            await asyncio.sleep(5.0)

        @af.task
        async def bad() -> None:
            raise ValueError("the cause")

        async with af.Engine() as engine:
            one = await engine.start(af.linear("flow", first, bad))
            await asyncio.sleep(1.0)
            assert one.state is RunState.REVERTING
            one.cancel()
            with pytest.raises(af.RunFailed) as failure:
                await one
            assert failure.group_contains(ValueError, match="the cause") and one.state is RunState.REVERTED

    run(main)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_suspended_run_goes_on_in_the_same_engine(where: str, tmp_path: Path) -> None:
    """What was done stays done; what was stopped is made again and knows it."""

    async def main() -> None:
        deeds: list[tuple[str, int, bool]] = []
        let_through = False

        @af.task(provides="a")
        async def a(ctx: af.Context) -> int:
            deeds.append(("a", ctx.attempt, ctx.recovered))
            return 1

        @af.task(provides="b")
        async def b(ctx: af.Context, a: int) -> int:
            deeds.append(("b", ctx.attempt, ctx.recovered))
            if not let_through:
                await asyncio.Event().wait()
            return a + 1

        flow = af.linear("flow", a, b)
        async with af.Engine(tmp_path / "runs.db" if where == "file" else None) as engine:
            one = await engine.start(flow, run_id="r")
            await until(lambda: ("b", 1, False) in deeds)
            one.suspend("for lunch", grace=0.0)
            with pytest.raises(
                af.RunSuspended, match=r"run 'r' is suspended \(for lunch\); resume it with"
            ) as suspended:
                await one
            assert suspended.value.reason == "for lunch" and one.state is RunState.SUSPENDED
            assert one.task("b").state is TaskState.PENDING
            let_through = True
            assert await engine.resume("r", flow) == {"a": 1, "b": 2}
            assert deeds == [("a", 1, False), ("b", 1, False), ("b", 2, True)]
            assert await engine.resume("r", flow) == {"a": 1, "b": 2}, "a run that has ended gives its value again"

    run(main, owns_time=False)


def test_what_runs_may_end_within_the_grace_of_a_suspend() -> None:
    """Most bodies are almost done; stopping them would only mean to do them again."""

    async def main() -> None:
        log: list[str] = []

        @af.task
        async def quick() -> None:
            await asyncio.sleep(3.0)
            log.append("quick")

        @af.task
        async def slow() -> None:
            await asyncio.sleep(30.0)
            log.append("slow")

        @af.task
        async def later() -> None:
            log.append("later")

        async with af.Engine(clock=LoopClock(), grace=5.0) as engine:
            one = await engine.start(af.unordered("flow", af.linear("chain", quick, later), slow))
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(1.0)
            one.suspend()
            with pytest.raises(af.RunSuspended):
                await one
            assert log == ["quick"], "nothing starts any more"
            assert asyncio.get_running_loop().time() - began == pytest.approx(6.0)
            states = {task.path: task.state for task in one.tasks()}
            assert states == {
                "chain/quick": TaskState.SUCCEEDED, "chain/later": TaskState.PENDING, "slow": TaskState.PENDING
            }  # fmt: skip

    run(main)


def test_a_suspend_may_lose_its_patience() -> None:
    """A second, stricter order shortens the grace of the first."""

    async def main() -> None:
        door = Door()
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(behind(door))
            began = asyncio.get_running_loop().time()
            one.suspend(grace=100.0)
            await asyncio.sleep(2.0)
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one
            assert asyncio.get_running_loop().time() - began == pytest.approx(2.0)

    run(main)


def test_a_run_may_be_stopped_by_who_watches_it() -> None:
    """An observer is called in the middle of things; its order waits for the next turn."""

    async def main() -> None:
        door = Door()
        running: list[af.Run[Any]] = []

        def stop(happening: af.Happening) -> None:
            if happening.path == "door" and happening.kind == "AttemptStarted":
                running[0].cancel("by an observer")

        async with af.Engine(observers=[stop]) as engine:
            running.append(await engine.start(behind(door)))
            with pytest.raises(af.RunCancelled, match="by an observer"):
                await running[0]

    run(main)


def test_a_run_taken_up_again_at_once_is_not_forgotten() -> None:
    """Its first life may still be saying goodbye to slow observers when its second begins."""

    async def main() -> None:
        door = Door()
        flow = behind(door)

        async def slow(happening: af.Happening) -> None:
            await asyncio.sleep(0.05)

        async with af.Engine(observers=[slow], clock=LoopClock()) as engine:
            one = await engine.start(flow, run_id="r")
            await asyncio.sleep(1.0)
            one.suspend(grace=0.0)
            await until(lambda: one.state is RunState.SUSPENDED)
            for _ in range(100):
                try:
                    two = await engine.take_up("r", flow)
                    break
                except af.RunBusy:
                    await asyncio.sleep(0)
            assert not one.is_over, "this test is about the moment in between"
            with pytest.raises(af.RunSuspended):
                await one
            assert engine.running() == [two]
            door.open.set()
            assert (await two)["after"] == "after the door" and not engine.running()

    run(main)


# --- Engines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "file"])
def test_closing_suspends_what_runs_and_reverts_nothing(where: str, tmp_path: Path) -> None:
    """A deployment stops the process in the middle of things every day."""

    async def main() -> None:
        door = Door()
        flow = behind(door)
        path = tmp_path / "runs.db" if where == "file" else None
        engine = af.Engine(path, grace=0.01, on_cancel="revert")
        async with engine:
            one = await engine.start(flow, run_id="r")
            waiting = asyncio.ensure_future(engine.run(behind(door), run_id="s"))
            await until(lambda: door.log == ["waits", "waits"])
        assert door.log == ["waits", "waits"] and one.state is RunState.SUSPENDED
        with pytest.raises(af.RunSuspended, match="the engine is closing"):
            await waiting
        assert not others()
        if path is not None:
            async with af.Engine(path) as engine:
                door.open.set()
                assert (await engine.resume("r", flow))["after"] == "after the door"

    run(main, owns_time=False)


def test_a_closed_engine_says_so() -> None:
    """Using it outside of its block is the first mistake that everyone makes."""

    async def main() -> None:
        door = Door()
        engine = af.Engine()
        calls: list[Callable[[], Any]] = [
            lambda: engine.run(behind(door)),
            lambda: engine.start(behind(door)),
            lambda: engine.resume("r", behind(door)),
            lambda: engine.take_up("r"),
            lambda: engine.recover(),
            lambda: engine.cancel("r"),
            lambda: engine.runs(),
            lambda: engine.inspect("r"),
        ]
        for stage in ("not open yet", "closed"):
            for call in calls:
                with pytest.raises(af.EngineClosed, match="the engine is not open; use it inside 'async with Engine"):
                    await call()
            if stage == "not open yet":
                await engine.open()
                with pytest.raises(af.EngineClosed, match="the engine is open already"):
                    await engine.open()
                await engine.close()
        await engine.close()
        assert not door.log

    run(main)


def test_nothing_starts_in_an_engine_that_is_closing() -> None:
    """Else a shutdown would race with whoever is still being served."""

    async def main() -> None:
        door = Door()
        engine = await af.Engine(clock=LoopClock(), grace=10.0).open()
        one = await engine.start(behind(door))
        await asyncio.sleep(1.0)
        closing = [asyncio.ensure_future(engine.close()) for _ in range(2)]
        await asyncio.sleep(1.0)
        with pytest.raises(af.EngineClosed, match="the engine is closing"):
            await engine.start(behind(door))
        assert repr(engine) == "<Engine on memory: closing, 1 runs>"
        await asyncio.wait(closing)
        assert one.state is RunState.SUSPENDED and all(each.exception() is None for each in closing)
        assert repr(engine) == "<Engine on memory: closed, 0 runs>"

    run(main)


def test_a_cancel_does_not_take_up_a_run_in_an_engine_that_has_begun_to_close() -> None:
    """The engine looks once for what must end before its store is closed."""

    async def main() -> None:
        door = Door()
        engine = await af.Engine(clock=LoopClock()).open()
        one = await engine.start(behind(door), run_id="r")
        one.suspend(grace=0.0)
        with pytest.raises(af.RunSuspended):
            await one
        look = engine._store.info

        async def look_slowly(run_id: str) -> af.RunInfo:
            info = await look(run_id)
            await engine.close()
            return info

        engine._store.info = look_slowly  # type: ignore[method-assign]
        with pytest.raises(af.EngineClosed):
            await engine.cancel("r")
        assert one.state is RunState.SUSPENDED and not engine.running()

    run(main)


def test_a_heartbeat_goes_on_after_any_failure(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Without it, requests of other processes are not seen, and this one is taken for dead."""

    async def main() -> None:
        door = Door()
        async with af.Engine(tmp_path / "runs.db") as engine:
            one = await engine.start(behind(door), run_id="r")
            beat, beats = engine._store.beat, 0

            async def fails_once(runs: Any) -> Any:
                nonlocal beats
                beats += 1
                if beats == 1:
                    raise OSError("no more files")
                return await beat(runs)

            engine._store.beat = fails_once  # type: ignore[method-assign]
            await engine._store.request("r", "cancel", "from elsewhere")
            with pytest.raises(af.RunCancelled, match="from elsewhere"):
                await one

    asyncio.run(main())
    assert "the heartbeat could not be written" in caplog.text


def test_what_is_asked_of_a_run_that_has_just_ended_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It ended while the question was read; what is asked of the others is done."""
    monkeypatch.setattr(heart, "HEARTBEAT", 0.0)

    async def beat(runs: Any) -> list[Request]:
        return [Request(run_id, "cancel", "from elsewhere") for run_id in ("gone", "r")]

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            engine._store.beat = beat  # type: ignore[method-assign]
            with pytest.raises(af.RunCancelled, match="from elsewhere"):
                await engine.run(behind(Door()), run_id="r")

    asyncio.run(main())


def test_a_run_that_has_ended_tells_so_although_its_inputs_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Their class may be gone since; whoever waits for one of its tasks must not wait for ever."""

    async def main() -> None:
        door = Door()
        door.open.set()
        flow = behind(door)

        def fail(values: RunValues) -> None:
            raise af.CodecError("class 'Order' is not at hand")

        async with af.Engine(tmp_path / "runs.db") as engine:
            await engine.run(flow, run_id="r")
            monkeypatch.setattr(RunValues, "load_inputs", fail)
            one = await engine.take_up("r", flow)
            with pytest.raises(af.CodecError, match="class 'Order' is not at hand"):
                await one
            assert one.supervisor.is_over
            assert [happening async for happening in one.events()] == []
            assert await one.task("door") == "door"

    asyncio.run(main())


@pytest.mark.parametrize("ending", ["value", "failure", "cancelled", "timeout"])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_run_leaves_nothing_running(ending: str, where: str, tmp_path: Path) -> None:
    """Structured concurrency: after ``engine.run`` there is nothing to look after, however it ended."""

    async def main() -> None:
        children: list[str] = []

        async def child() -> None:
            try:
                await asyncio.sleep(60.0)
            finally:
                children.append("gone")

        async def end() -> None:
            async with asyncio.TaskGroup() as group:
                mine = group.create_task(child())
                await asyncio.sleep(0.01)
                if ending == "failure":
                    raise ValueError("no")
                if ending != "value":
                    await asyncio.sleep(60.0)
                mine.cancel()

        flow = af.unordered("flow", *(af.task(name=f"t{at}")(end) for at in range(5)))
        async with af.Engine(tmp_path / "runs.db" if where == "file" else None) as engine:
            running = asyncio.ensure_future(engine.run(flow, on_cancel="revert"))
            if ending == "cancelled":
                await until(lambda: engine.running())
                running.cancel()
            if ending == "timeout":
                running = asyncio.ensure_future(_within(0.05, running))
            await asyncio.wait([running])
            expected = {"failure": af.RunFailed, "timeout": TimeoutError}.get(ending)
            if ending == "cancelled":
                assert running.cancelled()
            else:
                assert type(running.exception()) is (expected or type(None))
            assert not others() and not engine.running()
            assert ending == "cancelled" or len(children) == 5

    run(main, owns_time=False)


async def _within(seconds: float, running: asyncio.Future[Any]) -> Any:
    async with asyncio.timeout(seconds):
        return await running


def test_a_loop_that_goes_down_at_the_very_end_of_a_run_does_not_hang() -> None:
    """The run has ended and waits for a slow observer; whoever waits for the run must still be told."""

    async def slow(happening: af.Happening) -> None:
        await asyncio.sleep(100.0)

    @af.task
    async def quick() -> None: ...

    engine = af.Engine(observers=[slow], clock=LoopClock())
    waiting: list[asyncio.Future[Any]] = []

    async def main() -> None:
        await engine.open()
        waiting.append(asyncio.ensure_future(engine.run(af.linear("flow", quick), on_cancel="suspend")))
        await until(lambda: engine.running() and engine.running()[0].state is RunState.SUCCEEDED)
        raise ValueError("the application fails")

    with pytest.raises(ValueError, match="the application fails"):
        run(main)
    assert waiting[0].cancelled()


# --- What they look like ----------------------------------------------------------------------------------------------


def test_everything_that_lives_tells_its_state() -> None:
    """What a debugger or a log line shows of a run should answer the first question."""

    async def main() -> None:
        door = Door()
        engine = af.Engine(concurrency=1, clock=LoopClock())
        assert repr(engine) == "<Engine on memory: closed, 0 runs>"
        async with engine:
            flow = behind(door)
            assert repr(flow) == "<flow 'flow'>"
            assert repr(flow.compile()) == "<Plan 'flow': 3 tasks, 2 edges, 0 gates>"
            one = await engine.start(flow, run_id="r")
            await until(lambda: door.log)
            assert repr(engine) == "<Engine on memory: open, 1 runs>"
            assert repr(one) == "<Run 'r' of flow 'flow': RUNNING, 1 of 3 tasks done>"
            assert repr(one.supervisor) == "<Supervisor of run 'r': RUNNING, 1 actors, 0 messages>"
            assert repr(one.task("door")) == "<task 'door' of run 'r': RUNNING, attempt 1>"
            [actor] = one.supervisor._dispatcher.actors.values()
            assert repr(actor) == "<Actor 'door' of run 'r': running, attempt 1>"
            two = await engine.start(flow, run_id="s")
            await asyncio.sleep(0)
            pool = next(iter(reversed(engine._launcher.environment.pools.values())))
            assert repr(pool) == "<Pool 'the engine': 1 of 1 taken, 1 waiting>"
            one.cancel()
            with pytest.raises(af.RunCancelled):
                await one
            assert repr(one) == "<Run 'r' of flow 'flow': CANCELLED, 0 of 3 tasks done>"
            assert repr(one.supervisor) == "<Supervisor of run 'r': CANCELLED, 0 actors, 0 messages>"
            two.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await two
            assert repr(two) == "<Run 's' of flow 'flow': SUSPENDED, 1 of 3 tasks done>"

    run(main)


@pytest.mark.parametrize(
    ("concurrency", "left", "state"),
    [(None, 0, TaskState.RUNNING), (1, 0, TaskState.PENDING), (1, 1, TaskState.RUNNING)],
    ids=["its start is not durable", "its permit is on its way", "its permit is granted"],
)
def test_a_run_whose_journal_breaks_stops_at_once_and_holds_nothing(
    concurrency: int | None, left: int, state: TaskState
) -> None:
    """A full disk stops a run; the engine must not lose permits by it, and nobody who waits may wait for ever."""

    async def main() -> None:
        door = Door()
        flow = behind(door)
        capture = Capture()
        async with af.Engine(observers=[capture], concurrency=concurrency, clock=LoopClock()) as engine:
            one = await engine.start(flow, run_id="r")
            await asyncio.sleep(1.0)
            one.supervisor._journal = FullJournal(one.supervisor._journal, left)
            waiting = asyncio.ensure_future(_await(one.task("after")))
            await asyncio.sleep(0)
            began = asyncio.get_running_loop().time()
            door.open.set()
            with pytest.raises(af.StoreError, match="the disk is full"):
                await one
            found = f"task 'after' of run 'r' has no value: it is {state.name}, and its run had to stop where it stood"
            with pytest.raises(af.RunBroken, match=found):
                await waiting
            assert asyncio.get_running_loop().time() - began < 1.0, "there is no body to wait for"
            assert all(pool.taken == 0 for pool in engine._launcher.environment.pools.values())
            assert "RunEnded" not in capture.kinds() and not engine.running()
            assert (await engine.resume("r", flow))["after"] == "after the door"

    run(main)


def test_cancelling_who_merely_waits_leaves_the_run_alone() -> None:
    """A run of ``engine.start()`` belongs to the engine; anyone may wait for it, and stop waiting."""

    @af.task
    async def slow() -> int:
        await asyncio.sleep(1.0)
        return 5

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(slow)

            async def wait() -> int:
                return await one

            waiters = [asyncio.create_task(wait()) for _ in range(3)]
            await asyncio.sleep(0)
            waiters[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiters[0]
            assert await waiters[1] == await waiters[2] == await one == 5

    run(main)
