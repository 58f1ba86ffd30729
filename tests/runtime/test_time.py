"""Limits of time: of an attempt, a revert, a flow, a run; and bodies that do not care. All in virtual seconds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import RunState, TaskState
from asyncflow.interfaces import Call
from asyncflow.observers import Capture
from tests.runtime.loops import LoopClock, others, run, until


def now() -> float:
    return asyncio.get_running_loop().time()


class Deaf:
    """A body that goes on when it is told to stop, until it is let go; and what it and its revert did, with times."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.deeds: list[tuple[str, float]] = []
        self._began = now()

    def note(self, what: str) -> None:
        self.deeds.append((what, round(now() - self._began, 3)))

    def task(self, *, deaf_attempts: int = 1, **options: Any) -> af.Task:
        async def deaf(ctx: af.Context) -> str:
            self.note(f"attempt {ctx.attempt}")
            while ctx.attempt <= deaf_attempts and not self.let_go.is_set():
                try:
                    await self.let_go.wait()
                except asyncio.CancelledError:
                    self.note("told to stop")
            if ctx.attempt <= deaf_attempts:
                self.note("gone")
            return f"value of attempt {ctx.attempt}"

        async def undo() -> None:
            self.note("undone")

        made = af.task(**options)(deaf)
        made.revert(undo)
        return made


# --- An attempt -------------------------------------------------------------------------------------------------------


def test_an_attempt_that_takes_too_long_is_cut_off_and_the_run_fails_with_a_timeout() -> None:
    """The one thing that a caller can do about a service that never answers."""

    async def main() -> None:
        @af.task(timeout=5.0)
        async def slow() -> None:
            await asyncio.sleep(1e6)

        async with af.Engine(clock=LoopClock()) as engine:
            began = now()
            with pytest.raises(af.RunFailed, match="failed in 'slow'") as failure:
                await engine.run(slow)
            assert now() - began == pytest.approx(5.0)
            assert failure.group_contains(TimeoutError, match=r"task 'slow' took longer than its timeout of 5\.0 s")

    run(main)


def test_a_timeout_counts_from_the_start_of_each_attempt() -> None:
    """A retry gets the same time again, and waiting for it does not count."""

    async def main() -> None:
        times: list[float] = []

        @af.task(timeout=5.0, retry=af.Retry(3, af.Fixed(20.0), on=(TimeoutError,)))
        async def slow(ctx: af.Context) -> int:
            times.append(round(now() - began, 3))
            await asyncio.sleep(1e6 if ctx.attempt < 3 else 4.9)
            return ctx.attempt

        async with af.Engine(clock=LoopClock()) as engine:
            began = now()
            assert await engine.run(slow) == 3
        assert times == [0.0, 25.0, 50.0]

    run(main)


def test_a_timeout_is_retried_only_where_the_policy_says_so() -> None:
    """It counts as a TimeoutError, and as nothing else."""

    async def main() -> None:
        @af.task(timeout=5.0, retry=af.Retry(3, af.Fixed(1.0), on=(ConnectionError,)))
        async def slow() -> None:
            await asyncio.sleep(1e6)

        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(af.linear("f", slow))
            with pytest.raises(af.RunFailed):
                await one
            assert one.task("slow").attempts == 1 and one.task("slow").outcome == af.TimedOut()

    run(main)


def test_a_value_that_comes_after_the_order_to_stop_counts() -> None:
    """The work was done, perhaps with effects; throwing it away would have it done twice."""

    async def main() -> None:
        @af.task(timeout=5.0)
        async def finishes_first() -> str:
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                await asyncio.sleep(1.0)
            return "just in time"

        async with af.Engine(clock=LoopClock()) as engine:
            assert await engine.run(finishes_first) == "just in time"

    run(main)


def test_an_exception_that_comes_after_the_order_to_stop_is_the_failure() -> None:
    """What went wrong while stopping is what a person needs to know."""

    async def main() -> None:
        @af.task(timeout=5.0)
        async def fails_at_last() -> str:
            try:
                await asyncio.sleep(1e6)
            finally:
                raise ValueError("could not clean up")

        async with af.Engine(clock=LoopClock()) as engine:
            with pytest.raises(af.RunFailed) as failure:
                await engine.run(fails_at_last)
            assert failure.group_contains(ValueError, match="could not clean up")

    run(main)


def test_the_first_order_decides_how_an_attempt_ended() -> None:
    """A cancel that comes while a body gives way to its time limit does not make it a cancelled one, and vice versa."""

    async def main() -> None:
        async def gives_way_slowly() -> None:
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                await asyncio.sleep(2.0)
                raise

        late, early = af.task(name="late", timeout=5.0)(gives_way_slowly), af.task(name="early")(gives_way_slowly)
        soon = af.task(name="soon", timeout=7.0)(gives_way_slowly)
        async with af.Engine(clock=LoopClock()) as engine:
            one = await engine.start(af.unordered("f", late, early, soon))
            await asyncio.sleep(6.0)
            one.cancel()
            with pytest.raises(af.RunCancelled):
                await one
            report = await engine.inspect(one.run_id)
            assert report.states() == dict.fromkeys(("late", "early", "soon"), TaskState.REVERTED)
            assert one.task("late").outcome == af.TimedOut()
            assert one.task("early").outcome == one.task("soon").outcome == af.Cancelled()

    run(main)


# --- Flows and runs ---------------------------------------------------------------------------------------------------


def test_a_flow_that_takes_too_long_fails_and_is_undone() -> None:
    """Its time spans all its tasks and their attempts, from the start of the first."""

    async def main() -> None:
        undone: list[str] = []

        @af.task(retry=af.Retry(100, af.Fixed(1.0)))
        async def shaky() -> None:
            await asyncio.sleep(1.0)
            raise ConnectionError

        @af.task
        async def before() -> None:
            await asyncio.sleep(30.0)

        @before.revert
        async def undo_before() -> None:
            await asyncio.sleep(60.0)  # deadlines limit going forward only
            undone.append("before")

        inner = af.linear("inner", shaky, timeout=5.5)
        async with af.Engine(clock=LoopClock()) as engine:
            began = now()
            with pytest.raises(af.RunFailed, match="failed in 'inner'") as failure:
                await engine.run(af.linear("outer", before, inner))
            assert now() - began == pytest.approx(30.0 + 5.5 + 60.0)
            [error] = failure.value.exceptions
            assert isinstance(error, af.FlowTimedOut) and isinstance(error, TimeoutError)
            assert str(error) == "flow 'inner' took longer than its timeout of 5.5 s"
            assert set(failure.value.failures) == {"inner"} and undone == ["before"]

    run(main)


def test_a_flow_that_is_done_in_time_is_left_alone() -> None:
    """Its deadline passes while later tasks run, and is none of theirs."""

    async def main() -> None:
        @af.task
        async def quick() -> None:
            await asyncio.sleep(4.0)

        @af.task(provides="end")
        async def later() -> str:
            await asyncio.sleep(60.0)
            return "end"

        async with af.Engine(clock=LoopClock()) as engine:
            flow = af.linear("outer", af.linear("inner", quick, timeout=5.0), later)
            assert await engine.run(flow) == {"end": "end"}

    run(main)


@pytest.mark.parametrize("kind", ["seconds", "datetime"])
def test_a_run_past_its_deadline_is_undone(kind: str) -> None:
    """An answer that nobody waits for any more is not worth going on for."""

    async def main() -> None:
        deaf = Deaf()
        deaf.let_go.set()

        @af.task
        async def forever() -> None:
            await asyncio.sleep(1e6)

        async with af.Engine(clock=LoopClock()) as engine:
            deadline: Any = now() + 100.0
            if kind == "datetime":
                deadline = datetime.fromtimestamp(deadline, UTC)
            with pytest.raises(af.RunFailed) as failure:
                await engine.run(af.linear("f", deaf.task(), forever), run_id="r", deadline=deadline)
            [error] = failure.value.exceptions
            assert isinstance(error, af.DeadlineExceeded) and str(error) == "run 'r' passed its deadline"
            assert deaf.deeds[-1] == ("undone", 100.0) and failure.value.reverted

    run(main)


def test_a_deadline_without_a_time_zone_is_refused() -> None:
    """It would mean another moment in each process."""

    async def main() -> None:
        @af.task
        async def nothing() -> None: ...

        async with af.Engine() as engine:
            with pytest.raises(af.InputError, match="deadline 2026-01-01 00:00:00 has no time zone; pass an aware"):
                await engine.run(nothing, deadline=datetime(2026, 1, 1))  # noqa: DTZ001

    run(main)


def test_a_deadline_runs_on_while_the_run_stands_still_and_can_be_renewed() -> None:
    """It is a moment, not a budget."""

    async def main() -> None:
        @af.task
        async def work() -> str:
            await asyncio.sleep(10.0)
            return "done"

        flow = af.linear("f", work)
        async with af.Engine(clock=LoopClock()) as engine:
            for run_id in ("late", "renewed"):
                one = await engine.start(flow, run_id=run_id, deadline=now() + 20.0)
                await asyncio.sleep(1.0)
                one.suspend(grace=0.0)
                with pytest.raises(af.RunSuspended):
                    await one
            await asyncio.sleep(30.0)
            with pytest.raises(af.RunFailed) as failure:
                await engine.resume("late", flow)
            assert failure.group_contains(af.DeadlineExceeded)
            assert await engine.resume("renewed", flow, deadline=now() + 11.0) == {}

    run(main)


def test_a_body_sees_the_nearest_deadline_around_it() -> None:
    """So that it can hand it on to what it calls."""

    async def main() -> None:
        seen: dict[str, float | None] = {}

        async def look(ctx: af.Context) -> None:
            seen[ctx.path] = None if ctx.deadline is None else round(ctx.deadline - began, 3)

        async def undo(ctx: af.Context) -> None:
            seen[f"-{ctx.path}"] = None if ctx.deadline is None else round(ctx.deadline - began, 3)

        async def fail() -> None:
            raise ValueError

        plain = af.task(name="plain", revert_timeout=40.0)(look)
        plain.revert(undo)
        timed = af.task(name="timed", timeout=3.0)(look)
        inner = af.unordered(
            "inner", af.task(name="in_flow")(look), af.task(name="in_both", timeout=50.0)(look), timeout=7.0
        )
        async with af.Engine(clock=LoopClock()) as engine:
            began = now()
            await engine.run(af.unordered("free", plain, timed))
            assert seen == {"plain": None, "timed": 3.0}
            flow = af.linear("outer", plain, timed, inner, af.task(name="bad")(fail))
            with pytest.raises(af.RunFailed):
                await engine.run(flow, deadline=began + 100.0)
            assert seen == {
                "plain": 100.0, "timed": 3.0, "inner/in_flow": 7.0, "inner/in_both": 7.0, "-plain": 40.0,
            }  # fmt: skip

    run(main)


# --- Bodies that go on ------------------------------------------------------------------------------------------------


def test_a_body_that_ignores_its_cancel_is_left_behind_and_undone_when_it_is_gone() -> None:
    """Undoing what is still being done would undo half of it; what it gives at last is nobody's any more."""

    async def main() -> None:
        deaf = Deaf()
        capture = Capture()
        async with af.Engine(clock=LoopClock(), cancel_grace=10.0, observers=[capture]) as engine:
            one = await engine.start(af.linear("f", deaf.task(name="deaf", provides="x")))
            await asyncio.sleep(1.0)
            one.cancel()
            await asyncio.sleep(60.0)
            assert deaf.deeds == [("attempt 1", 0.0), ("told to stop", 1.0)]
            assert one.task("deaf").state is TaskState.REVERTING
            assert one.task("deaf").outcome == af.Cancelled(abandoned=True)
            assert "lingering" in repr(next(iter(one.supervisor._dispatcher.actors.values())))
            deaf.let_go.set()
            with pytest.raises(af.RunCancelled):
                await one
            assert deaf.deeds[2:] == [("gone", 61.0), ("undone", 61.0)]
            assert "x" not in one.results
        assert capture.of("deaf").count("AttemptCancelled") == 1 and "AttemptSucceeded" not in capture.kinds()

    run(main)


def test_a_body_that_is_never_gone_cannot_be_undone() -> None:
    """The run must end and say so, within the time that a revert may take."""

    async def main() -> None:
        deaf = Deaf()
        async with af.Engine(clock=LoopClock(), cancel_grace=10.0) as engine:
            one = await engine.start(af.linear("f", deaf.task(name="deaf", revert_timeout=100.0)))
            await asyncio.sleep(1.0)
            one.cancel()
            with pytest.raises(af.RunFailed, match="NOT everything it had done could be undone") as failure:
                await one
            assert now() == pytest.approx(deaf._began + 1.0 + 10.0 + 100.0)
            assert one.state is RunState.FAILED and one.task("deaf").state is TaskState.REVERT_FAILED
            assert failure.group_contains(
                af.AttemptAbandoned, match="task 'deaf' was told to stop and is still running"
            )
            assert set(failure.value.failures) == {"deaf (revert)"} and not failure.value.reverted
            deaf.let_go.set()
            await asyncio.sleep(1.0)
            assert deaf.deeds[-1][0] == "gone", "it is not undone after the run has said that it could not be"
            assert not others()

    run(main)


def test_a_time_limit_that_was_pending_when_a_body_was_left_behind_does_no_harm() -> None:
    """Three limits of one task overlap here, and each must know what it is the limit of."""

    async def main() -> None:
        deaf = Deaf()
        task = deaf.task(name="deaf", timeout=50.0, revert_timeout=100.0)

        async with af.Engine(clock=LoopClock(), cancel_grace=10.0) as engine:
            slow = asyncio.Event()

            @af.task
            async def first() -> None: ...

            @first.revert
            async def undo_first() -> None:
                await slow.wait()

            one = await engine.start(af.linear("f", first, task))
            await asyncio.sleep(1.0)
            one.cancel()
            await asyncio.sleep(79.0)  # left behind at 11; the limit of the attempt passes at 50
            deaf.let_go.set()  # undone now, and the wait until 111 is over
            await asyncio.sleep(80.0)
            assert one.task("deaf").state is TaskState.REVERTED
            slow.set()
            with pytest.raises(af.RunCancelled):
                await one
            assert [what for what, _ in deaf.deeds] == ["attempt 1", "told to stop", "gone", "undone"]

    run(main)


def test_the_next_attempt_waits_until_the_abandoned_one_is_gone() -> None:
    """Two bodies of one task at once would be worse than a late one."""

    async def main() -> None:
        deaf = Deaf()
        task = deaf.task(name="deaf", timeout=5.0, retry=af.Retry(2, af.Fixed(1.0), on=(TimeoutError,)))
        async with af.Engine(clock=LoopClock(), cancel_grace=10.0) as engine:
            one = await engine.start(af.linear("f", task, af.task(name="next")(_nothing)))
            await asyncio.sleep(40.0)
            assert deaf.deeds == [("attempt 1", 0.0), ("told to stop", 5.0)]
            deaf.let_go.set()
            await one
            assert await one.task("deaf") == "value of attempt 2"
            assert deaf.deeds[2:] == [("gone", 40.0), ("attempt 2", 40.0)]

    run(main)


class Prompt:
    """Threads whose calls end as soon as they are told to stop, before whoever tells them has gone on."""

    def __init__(self) -> None:
        self.calls = 0

    def submit(self, call: Call, done: Callable[[Any, BaseException | None], None]) -> Prompt:
        self.calls += 1
        self._done = done
        if self.calls == 2:
            asyncio.get_running_loop().call_later(3.0, done, "second", None)
        return self

    def cancel(self) -> bool:
        self._done(None, asyncio.CancelledError())
        return True

    async def close(self) -> None: ...


def test_a_body_that_ends_while_it_is_told_to_stop_leaves_nothing_behind() -> None:
    """Its grace must not be another attempt's, which would be taken for one that does not listen."""

    async def main() -> None:
        @af.task(timeout=5.0, retry=af.Retry(9, af.Fixed(0.0), on=(TimeoutError,)))
        def body() -> str: ...

        async with af.Engine(clock=LoopClock(), cancel_grace=1.0) as engine:
            engine._executors["thread"] = prompt = Prompt()
            one = await engine.start(af.linear("f", body))
            assert await one.task("body") == "second"
            await one
            assert prompt.calls == 2

    run(main)


@pytest.mark.parametrize("order", ["cancel", "suspend", "close"])
def test_an_attempt_that_waits_for_an_abandoned_one_can_be_stopped(order: str) -> None:
    """Otherwise one body that never ends would make its run immortal, and its engine impossible to close."""

    async def main() -> None:
        deaf = Deaf()
        task = deaf.task(
            name="deaf", timeout=5.0, retry=af.Retry(2, af.Fixed(1.0), on=(TimeoutError,)), revert_timeout=30.0
        )
        engine = await af.Engine(clock=LoopClock(), cancel_grace=10.0, grace=2.0).open()
        one = await engine.start(af.linear("f", task))
        await asyncio.sleep(40.0)
        assert one.task("deaf").attempts == 2, "it is on record, and waits"
        if order == "cancel":
            one.cancel()
            with pytest.raises(af.RunFailed, match="NOT everything"):
                await one
        else:
            one.suspend() if order == "suspend" else await engine.close()
            with pytest.raises(af.RunSuspended):
                await one
        assert now() - deaf._began < 40.0 + 45.0
        deaf.let_go.set()
        await asyncio.sleep(1.0)
        assert ("attempt 2", 41.0) not in deaf.deeds
        await engine.close()
        assert not others()

    run(main)


@pytest.mark.parametrize("order", ["suspend", "close"])
def test_a_revert_that_waits_for_an_abandoned_body_can_be_suspended(order: str) -> None:
    """The wait may be five minutes long, and a shutdown has seconds."""

    async def main() -> None:
        deaf = Deaf()
        engine = await af.Engine(clock=LoopClock(), cancel_grace=10.0, grace=2.0).open()
        one = await engine.start(af.linear("f", deaf.task(name="deaf")))
        await asyncio.sleep(1.0)
        one.cancel()
        await asyncio.sleep(20.0)
        one.suspend() if order == "suspend" else await engine.close()
        with pytest.raises(af.RunSuspended):
            await one
        assert now() - deaf._began < 21.0 + 15.0
        deaf.let_go.set()
        await engine.close()
        await asyncio.sleep(0)
        assert "undone" not in dict(deaf.deeds) and not others()

    run(main)


def test_a_revert_that_takes_too_long_has_failed() -> None:
    """Nothing else limits a revert: cancels do not reach it, and deadlines do not count for it."""

    async def main() -> None:
        told: list[str] = []

        @af.task(revert_timeout=20.0)
        async def a() -> None: ...

        @a.revert
        async def undo() -> None:
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                told.append("told to stop")
                raise

        @af.task
        async def bad() -> None:
            raise ValueError("first")

        async with af.Engine(clock=LoopClock()) as engine:
            with pytest.raises(af.RunFailed) as failure:
                await engine.run(af.linear("f", a, bad))
            assert [type(error) for error in failure.value.exceptions] == [ValueError, af.TaskTimedOut]
            assert str(failure.value.exceptions[1]) == "the revert of task 'a' took longer than 20.0 s"
            assert told == ["told to stop"]

    run(main)


def test_a_revert_that_gives_way_to_a_suspend_past_its_limit_is_made_again() -> None:
    """The first order decides: its time limit, which passed while it was giving way, is no failure of the revert."""

    async def main() -> None:
        undone: list[str] = []

        @af.task(revert_timeout=20.0)
        async def a() -> None: ...

        @a.revert
        async def undo(ctx: af.Context) -> None:
            undone.append("begun")
            if len(undone) > 1:
                return
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                await asyncio.sleep(8.0)
                raise

        flow = af.linear("f", a, af.task(name="next")(_forever))
        async with af.Engine(clock=LoopClock(), cancel_grace=10.0) as engine:
            one = await engine.start(flow, run_id="r")
            await asyncio.sleep(1.0)
            one.cancel("no more")
            await asyncio.sleep(15.0)
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one
            with pytest.raises(af.RunCancelled, match="no more"):
                await engine.resume("r", flow)
            assert undone == ["begun", "begun"]

    run(main)


def test_a_revert_that_ignores_its_limit_is_left_behind() -> None:
    """The run ends all the same, and says which revert is still at it."""

    async def main() -> None:
        deaf = asyncio.Event()

        @af.task(revert_timeout=20.0)
        async def a() -> None: ...

        @a.revert
        async def undo() -> None:
            while not deaf.is_set():
                try:
                    await deaf.wait()
                except asyncio.CancelledError:
                    continue

        async with af.Engine(clock=LoopClock(), cancel_grace=10.0) as engine:
            one = await engine.start(af.linear("f", a, af.task(name="next")(_forever)))
            await asyncio.sleep(1.0)
            one.cancel()
            with pytest.raises(af.RunFailed) as failure:
                await one
            assert failure.group_contains(
                af.AttemptAbandoned, match=r"the revert of task 'a' went on after its 20\.0 s"
            )
            deaf.set()
            await asyncio.sleep(1.0)
            assert one.state is RunState.FAILED and not others()

    run(main)


def test_a_revert_is_retried_after_its_own_backoff() -> None:
    """Undoing talks to the same unreliable world."""

    async def main() -> None:
        times: list[float] = []

        @af.task(revert_retry=af.Retry(3, af.Fixed(30.0)))
        async def a() -> None: ...

        @a.revert
        async def undo(ctx: af.Context) -> None:
            times.append(round(now() - began, 3))
            if ctx.attempt < 3:
                raise ConnectionError

        async with af.Engine(clock=LoopClock()) as engine:
            began = now()
            one = await engine.start(af.linear("f", a, af.task(name="next")(_forever)))
            await asyncio.sleep(1.0)
            one.cancel()
            with pytest.raises(af.RunCancelled):
                await one
        assert times == [1.0, 31.0, 61.0]

    run(main)


async def _forever() -> None:
    await asyncio.sleep(1e6)


async def _nothing() -> None:
    await asyncio.sleep(0)


# --- Threads, in real time --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_thread_that_outlives_its_timeout_is_left_behind(where: str, tmp_path: Path) -> None:
    """Nothing can stop it; its task goes on without it, but never beside it."""
    let_go = threading.Event()
    seen: list[tuple[int, bool]] = []

    @af.task(timeout=0.2, retry=af.Retry(2, af.Fixed(0.0), on=(TimeoutError,)))
    def blocks(ctx: af.Context) -> str:
        if ctx.attempt == 1:
            let_go.wait()
            seen.append((1, ctx.is_cancelling))
            return "too late"
        seen.append((ctx.attempt, ctx.is_cancelling))
        return "in time"

    async def main() -> None:
        capture = Capture()
        path = tmp_path / "runs.db" if where == "file" else None
        async with af.Engine(path, observers=[capture]) as engine:
            one = await engine.start(af.linear("f", blocks, af.task(name="next")(_nothing)))
            await until(lambda: "AttemptTimedOut" in capture.of("blocks"))
            assert not seen
            let_go.set()
            await one
            assert await one.task("blocks") == "in time"
            assert seen == [(1, True), (2, False)]
            assert [kind for kind in capture.of("blocks") if kind != "Progressed"] == [
                "AttemptStarted", "TimeLimitPassed", "AttemptTimedOut", "RetryScheduled", "AttemptStarted",
                "AttemptSucceeded",
            ]  # fmt: skip

    run(main, owns_time=False)


def test_a_cancelled_run_waits_for_its_thread_and_then_undoes_it() -> None:
    """It may look at ``ctx.is_cancelling`` and give way; what it returns then still counts, and is undone."""
    deeds: list[str] = []

    @af.task
    def loops(ctx: af.Context) -> str:
        deeds.append("begun")
        while not ctx.is_cancelling:
            pass
        return "gave way"

    @loops.revert
    def undo(outcome: af.Outcome[str]) -> None:
        deeds.append(repr(outcome))

    async def main() -> None:
        async with af.Engine() as engine:
            one = await engine.start(af.linear("f", loops))
            await until(lambda: deeds)
            one.cancel()
            with pytest.raises(af.RunCancelled):
                await one
        assert deeds == ["begun", "Success(value='gave way')"]

    run(main, owns_time=False)
