"""Corners of a run's life: what comes too late, twice, or where nobody expects it."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import RunState
from asyncflow.executors.thread import ThreadExecutor
from asyncflow.stores.memory import MemoryStore
from tests.runtime.loops import LoopClock, others, run, until


def waits_for_ever(begun: list[str]) -> Any:
    @af.task
    async def hang() -> None:
        begun.append("hang")
        await asyncio.Event().wait()

    return af.linear("waits", hang)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_deadline_that_has_passed_starts_nothing(where: str, tmp_path: Path) -> None:
    """Whoever comes too late must not have had an effect."""
    begun: list[str] = []

    @af.task
    async def quick() -> None:
        begun.append("quick")

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db" if where == "file" else None) as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(af.linear("f", quick), deadline=1.0)
            assert failed.group_contains(af.DeadlineExceeded) and failed.value.reverted

    run(main, owns_time=False)
    assert begun == []


def test_the_earlier_of_two_graces_counts() -> None:
    """A second suspend may be in more of a hurry than the first, and never takes away what the first has given."""

    async def main() -> list[float]:
        lasted: list[float] = []
        for graces in ((60.0, 60.0), (60.0, 5.0), (5.0, 60.0)):
            async with af.Engine(clock=LoopClock()) as engine:
                begun: list[str] = []
                one = await engine.start(waits_for_ever(begun))
                await until(lambda begun=begun: begun)  # type: ignore[misc]
                began = asyncio.get_running_loop().time()
                one.suspend(grace=graces[0])
                await asyncio.sleep(1.0)
                one.suspend(grace=graces[1])
                with pytest.raises(af.RunSuspended):
                    await one
                lasted.append(round(asyncio.get_running_loop().time() - began, 2))
        return lasted

    assert run(main) == [60.0, 6.0, 5.0]


def test_a_run_does_not_wait_for_observers_of_another() -> None:
    """Only for what they have not seen of itself; and nobody who waited in vain is kept."""

    @af.task
    async def quick() -> None: ...

    async def main() -> None:
        loop = asyncio.get_running_loop()
        held = asyncio.Event()

        async def slow(happening: af.Happening) -> None:
            if happening.run_id == "talkative":
                await held.wait()

        async with af.Engine(clock=LoopClock()) as engine:
            engine.observe(slow)
            began = loop.time()
            first = await engine.start(af.linear("f", quick), run_id="talkative")
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(asyncio.shield(first.ending), 0.5)
            held.set()
            await first
            for _ in range(3):
                await engine.run(af.linear("f", quick))
            assert loop.time() - began < 0.6
            assert not any(subscription._waiting for subscription in engine._announcer.subscriptions)

    run(main)


def test_an_observer_whose_own_waiting_was_cancelled_is_told_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    """That is its own affair, unlike a cancel of whoever hands on."""
    told: list[str] = []

    @af.task
    async def quick() -> None: ...

    async def main() -> None:
        async def clumsy(happening: af.Happening) -> None:
            told.append(happening.kind)
            if happening.kind == "RunStarted":
                raise asyncio.CancelledError

        async with af.Engine() as engine:
            engine.observe(clumsy)
            await engine.run(af.linear("f", quick))

    run(main)
    assert told == ["RunStarted", "AttemptStarted", "AttemptSucceeded", "RunEnded"]
    assert "failed on RunStarted" in caplog.text


def test_a_call_for_which_there_is_no_thread_is_not_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has been recorded as failed must not happen after all."""
    calls: list[str] = []

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    @af.task
    def first() -> None:
        calls.append("first")

    @af.task
    def second() -> None:
        calls.append("second")

    async def main() -> None:
        async with af.Engine() as engine:
            with monkeypatch.context() as patched:
                patched.setattr(threading.Thread, "start", refuse)
                with pytest.raises(af.RunFailed) as failed:
                    await engine.run(af.linear("f", first))
                assert failed.group_contains(RuntimeError, match="can't start new thread")
            await engine.run(af.linear("g", second))

    run(main, owns_time=False)
    assert calls == ["second"]


def test_hooks_that_ask_after_lost_attempts_take_permits(tmp_path: Path) -> None:
    """After a crash of a wide flow there may be thousands of them."""
    most = now = 0
    lock = threading.Lock()

    def make(is_first: bool) -> Any:
        @af.task
        async def pay() -> str:
            await asyncio.Event().wait()
            return "paid"

        @pay.reconcile
        def ask() -> Any:
            nonlocal most, now
            with lock:
                now += 1
                most = max(most, now)
            threading.Event().wait(0.002)
            with lock:
                now -= 1
            return af.Success("paid already")

        return af.unordered("wide", *[pay.named(f"pay{n}") for n in range(20)])

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", threads=2, grace=0.0) as engine:
            await engine.start(make(True), run_id="r")
        async with af.Engine(tmp_path / "runs.db", threads=2) as engine:
            await engine.resume("r", make(False))

    run(main, owns_time=False)
    assert most <= 2


def test_an_engine_is_opened_once_even_by_two_at_once(tmp_path: Path) -> None:
    """And whoever is cancelled while it opens leaves nothing open."""

    async def main() -> None:
        engine = af.Engine(tmp_path / "runs.db")
        first, second = await asyncio.gather(engine.open(), engine.open(), return_exceptions=True)
        assert first is engine and isinstance(second, af.EngineClosed)
        await engine.close()
        opening = asyncio.ensure_future(engine.open())
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled() and not others()
        async with engine:
            assert await engine.runs() == []

    run(main, owns_time=False)


@pytest.mark.parametrize(
    ("undo_fails", "said"), [(False, None), (True, r"run 'r' is FAILED: .*NOT everything it had done could be undone")]
)
def test_a_cancelled_caller_is_told_what_came_of_its_run(undo_fails: bool, said: str | None) -> None:
    """A failed undo is nothing to be silent about."""

    @af.task
    async def done() -> int:
        return 1

    @done.revert
    async def undo() -> None:
        if undo_fails:
            raise ValueError("cannot")

    @af.task
    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> list[str]:
        async with af.Engine() as engine:
            calling = asyncio.ensure_future(engine.run(af.linear("f", done, hang), run_id="r", on_cancel="revert"))
            for _ in range(10):
                await asyncio.sleep(0)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError) as cancelled:
                await calling
            return list(getattr(cancelled.value, "__notes__", []))

    notes = run(main)
    if said is None:
        assert notes == []
    else:
        assert len(notes) == 1 and re.match(said, notes[0], re.DOTALL)


def test_an_error_of_a_store_that_nobody_knows_reaches_who_waits() -> None:
    """Whatever a store of one's own raises when it lets go of a run, nobody waits for ever."""

    class Broken(MemoryStore):
        async def create(self, *args: Any) -> Any:
            journal = await super().create(*args)

            class Torn:
                async def release(self) -> None:
                    raise OSError("the cable")

                def __getattr__(self, name: str) -> Any:
                    return getattr(journal, name)

            return Torn()

    @af.task
    async def quick() -> None: ...

    async def main() -> None:
        async with af.Engine(store=Broken()) as engine:
            with pytest.raises(OSError, match="the cable"):
                await engine.run(af.linear("f", quick))

    run(main)


def test_an_engine_whose_store_cannot_close_is_closed_all_the_same() -> None:
    """It was neither open nor closed: nothing could be run, and it could not be opened again."""

    class Stuck(MemoryStore):
        async def close(self) -> None:
            raise af.StoreError("the disk is full", path="somewhere")

    async def main() -> None:
        engine = await af.Engine(store=Stuck()).open()
        with pytest.raises(af.StoreError, match="the disk is full"):
            await engine.close()
        with pytest.raises(af.EngineClosed, match="the engine is not open"):
            await engine.run(af.linear("f"))
        await engine.open()

    run(main)


def test_an_engine_whose_threads_cannot_be_closed_lets_go_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed open, with its thread, for as long as the process lived."""
    closed: list[str] = []

    class Watched(MemoryStore):
        async def close(self) -> None:
            closed.append("store")
            await super().close()

    async def refuse(self: ThreadExecutor) -> None:
        raise OSError("no")

    async def main() -> None:
        monkeypatch.setattr(ThreadExecutor, "close", refuse)
        engine = await af.Engine(store=Watched()).open()
        with pytest.raises(OSError, match="no"):
            await engine.close()
        assert closed == ["store"]

    run(main)


def test_a_run_is_not_resumed_while_a_body_of_it_is_still_there(tmp_path: Path) -> None:
    """Two bodies of one task at once is what a left-behind one must never lead to."""
    goes_on, calls = threading.Event(), []

    @af.task
    def stubborn() -> str:
        calls.append("called")
        goes_on.wait(30.0)
        return "value"

    flow = af.linear("f", stubborn.with_options(provides="x"))

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", cancel_grace=0.01) as engine:
            one = await engine.start(flow, run_id="r")
            await until(lambda: calls)
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one
            with pytest.raises(af.RunBusy, match="'stubborn' in it goes on although it was told to stop"):
                await engine.resume("r", flow)
            goes_on.set()
            await until(lambda: not one.supervisor.left_behind())
            assert await engine.resume("r", flow) == {"x": "value"}

    run(main, owns_time=False)
    assert calls == ["called", "called"]


def test_a_run_is_not_resumed_before_it_is_known_whose_bodies_are_left(tmp_path: Path) -> None:
    """It has been given up, and an observer holds up what comes behind that."""
    goes_on, heard, calls = threading.Event(), asyncio.Event(), []

    @af.task
    def stubborn() -> None:
        calls.append("called")
        goes_on.wait(30.0)

    async def slow(happening: af.Happening) -> None:
        await heard.wait()

    async def main() -> None:
        flow = af.linear("f", stubborn)
        async with af.Engine(tmp_path / "runs.db", cancel_grace=0.01, observers=[slow]) as engine:
            one = await engine.start(flow, run_id="r")
            await until(lambda: calls)
            one.suspend(grace=0.0)
            while (await engine.inspect("r")).owner is not None:
                pass
            with pytest.raises(af.RunBusy, match="'stubborn' in it goes on although it was told to stop"):
                await engine.resume("r", flow)
            heard.set()
            goes_on.set()
            with pytest.raises(af.RunSuspended):
                await one

    run(main, owns_time=False)
    assert calls == ["called"]


@pytest.mark.parametrize("durability", ["full", "process", "lazy"])
def test_a_large_value_that_left_memory_is_asked_for_by_its_task(tmp_path: Path, durability: str) -> None:
    """Results cannot wait for a disk; the message says who can."""

    @af.task(provides="text")
    async def large() -> str:
        return "x" * 200_000

    @af.task(provides="size")
    async def size(text: str) -> int:
        await asyncio.sleep(0)  # so that its ending has a record of its own
        return len(text)

    @af.task
    async def hang(size: int) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", grace=0.0, durability=durability) as engine:
            one = await engine.start(af.linear("f", large, size, hang))
            await one.task("size")
            await until(lambda: one.supervisor.large.missing([0]))
            with pytest.raises(af.ValueNotAtHand, match=r"await run.task\('large'\) to have it"):
                one.results["text"]
            assert len(await one.task("large")) == 200_000
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one
            assert one.state is RunState.SUSPENDED

    run(main, owns_time=False)


def test_a_large_value_leaves_memory_although_one_that_would_read_it_is_skipped(tmp_path: Path) -> None:
    """Nobody is left who will."""
    goes_on = asyncio.Event()

    @af.task(provides="text")
    async def large() -> str:
        return "x" * 200_000

    @af.task
    async def waits() -> None:
        await goes_on.wait()

    @af.task(when=lambda: False, depth="task")
    async def skipped(text: str) -> None: ...

    @af.task
    async def hang() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", grace=0.0) as engine:
            one = await engine.start(af.linear("f", large, waits, skipped, hang))
            await one.task("large")
            assert not one.supervisor.large.missing([0])
            goes_on.set()
            await until(lambda: one.supervisor.large.missing([0]))

    run(main, owns_time=False)


def test_what_a_body_tells_cannot_make_its_run_unreadable(tmp_path: Path) -> None:
    """Whatever is put where a text belongs: the journal must be read again."""

    @af.task(provides="x")
    async def talks(ctx: af.Context) -> int:
        ctx.progress(0.5, 42)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="what task 'talks' emits is named 7; give a string"):
            ctx.emit(7)  # type: ignore[arg-type]
        return 1

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            flow = af.linear("f", talks)
            await engine.run(flow, run_id="r")
            assert await engine.resume("r", flow) == {"x": 1}
            other = await engine.start(waits_for_ever([]), run_id="c")
            other.cancel(5)  # type: ignore[arg-type]
            with pytest.raises(af.RunCancelled, match="5"):
                await other
            assert (await engine.inspect("c")).state is RunState.CANCELLED

    run(main, owns_time=False)


class Sloppy(Exception):
    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


class Text(str):
    """As template libraries have it."""

    __slots__ = ()


class Odd(Exception):
    def __str__(self) -> str:
        return Text("odd")


@pytest.mark.parametrize("kind", [Sloppy, Odd])
def test_any_exception_can_be_put_on_record(kind: type[Exception], tmp_path: Path) -> None:
    """Its class may do what it likes; the run fails by it, and goes on being readable."""

    @af.task
    async def fails() -> None:
        raise kind("it")

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("f", fails), run_id="r")
            report = await engine.inspect("r")
            assert report.state is RunState.REVERTED

    run(main, owns_time=False)


def test_a_hook_that_cannot_tell_does_not_let_the_body_run_again(tmp_path: Path) -> None:
    """Nobody knows whether the payment was made, so it must not be made another time."""
    calls: list[str] = []

    def make() -> Any:
        @af.task(retry=af.Retry(3, on=(ConnectionError,)), on_crash="fail")
        async def pay() -> None:
            calls.append("pay")
            await asyncio.Event().wait()

        @pay.reconcile
        async def ask() -> Any:
            calls.append("ask")
            raise ConnectionError("the bank is down")

        return af.linear("f", pay)

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", grace=0.0) as engine:
            await engine.start(make(), run_id="r")
            await until(lambda: calls)
        async with af.Engine(tmp_path / "runs.db") as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.resume("r", make())
            assert failed.group_contains(ConnectionError)

    run(main, owns_time=False)
    assert calls == ["pay", "ask"]


def test_what_a_changed_flow_can_no_longer_undo_is_not_called_undone() -> None:
    """The revert that would have done it is gone with its task."""
    undone: list[str] = []

    @af.task
    async def charge() -> None: ...

    @charge.revert
    async def refund() -> None:
        undone.append("refund")

    @af.task
    async def hang(ctx: af.Context) -> None:
        if ctx.attempt == 1:
            await asyncio.Event().wait()

    @af.task
    async def bad() -> None:
        raise ValueError("bad")

    async def main() -> None:
        async with af.Engine(grace=0.0) as engine:
            one = await engine.start(af.linear("f", charge, hang), run_id="r")
            for _ in range(10):
                await asyncio.sleep(0)
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one
            with pytest.raises(af.RunFailed) as failed:
                await engine.resume("r", af.linear("f", hang, bad))
            assert not failed.value.reverted

    run(main)
    assert undone == []


def test_a_second_engine_on_a_file_takes_no_lock_of_the_first(tmp_path: Path) -> None:
    """To look into a file and close it again drops every lock that the process has on it."""

    async def main() -> None:
        path = tmp_path / "runs.db"

        def locks() -> list[str]:
            inode = f":{path.stat().st_ino} "
            lines = [line for line in Path("/proc/locks").read_text().splitlines() if inode in line]
            return sorted(line.partition(":")[2] for line in lines)

        async with af.Engine(path) as engine:
            await engine.runs()
            before = locks()
            async with af.Engine(path) as other:
                await other.runs()
            assert locks() == before

    if Path("/proc/locks").exists():
        run(main, owns_time=False)


# --- Flows that run again ---------------------------------------------------------------------------------------------


def test_each_round_of_a_flow_has_its_own_time() -> None:
    """The timer of the round before may still ring, and means nothing any more."""
    rounds: list[int] = []

    @af.task
    async def work() -> None:
        rounds.append(len(rounds))
        if len(rounds) == 1:
            await asyncio.sleep(0.3)
            raise ValueError
        await asyncio.sleep(0.5)

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            await engine.run(af.linear("outer", af.linear("inner", work, timeout=0.6), retry=af.Times(2)))

    run(main)
    assert rounds == [0, 1]


class Slow(af.Controller):
    """Takes long over its first question, which is dropped, and would say something else then."""

    executor = "inline"  # a thread would find that all its time has passed
    asked = 0

    def execute(self) -> None: ...

    async def on_failure(self, history: af.History) -> af.Decision:
        Slow.asked += 1
        if Slow.asked == 1:
            await asyncio.sleep(1.0)
            return af.Decision.REVERT_ALL
        await asyncio.sleep(5.0)
        return af.Decision.RETRY if Slow.asked == 2 else af.Decision.REVERT


def test_a_late_answer_is_not_taken_for_the_next_questions() -> None:
    """The flow around has run again since the first was asked."""
    Slow.asked, tries = 0, list[int]()

    @af.task
    async def inner() -> None:
        tries.append(0)
        if len(tries) < 3:
            raise ValueError

    @af.task
    async def sibling() -> None:
        await asyncio.sleep(0.5)
        if len(tries) < 2:
            raise KeyError

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            parts = af.unordered("parts", af.linear("in", inner, retry=Slow()), sibling)
            await engine.run(af.linear("outer", parts, retry=af.Times(2)))

    run(main)
    assert len(tries) == 3 and Slow.asked == 2


@pytest.mark.parametrize(("when", "is_run"), [("pair == (1, 2)", True), ("pair in [(1, 3)]", False)])
def test_a_tuple_in_a_condition_string_is_one(when: str, is_run: bool) -> None:
    """A list would never be equal to the value."""

    @af.task(provides="x", when=when)
    async def work(pair: tuple[int, int]) -> int:
        return 1

    async def main() -> Any:
        async with af.Engine() as engine:
            return await engine.run(af.linear("f", work), {"pair": (1, 2)})

    assert run(main) == ({"x": 1} if is_run else {})


async def says_no() -> bool:
    return False


def cancelled() -> bool:
    raise asyncio.CancelledError


@pytest.mark.parametrize(("when", "error"), [(lambda: says_no(), TypeError), (cancelled, af.StrayCancellation)])
def test_a_condition_that_does_not_answer_is_a_failure(when: Any, error: type[Exception]) -> None:
    """Of what it guards: neither a yes, nor the end of the loop."""

    @af.task
    async def work() -> None: ...

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(af.linear("f", work.with_options(when=when)))
            assert failed.group_contains(error)

    run(main)


def test_siblings_finish_where_their_own_flow_says_so() -> None:
    """Whatever the flows around do with theirs."""
    ended: list[str] = []

    @af.task
    async def bad() -> None:
        raise ValueError

    @af.task
    async def finishes() -> None:
        await asyncio.sleep(1.0)
        ended.append("finishes")

    @af.task
    async def stops() -> None:
        await asyncio.sleep(1.0)
        ended.append("stops")

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            with pytest.raises(af.RunFailed):
                parts = af.unordered("parts", bad, finishes, on_failure="finish")
                await engine.run(af.unordered("all", parts, stops))

    run(main)
    assert ended == ["finishes"]


def test_a_controller_cannot_be_taken_away_while_its_flow_is_undone() -> None:
    """Nobody could say any more what becomes of the flow."""

    @af.task
    async def done() -> None: ...

    @done.revert
    async def undo() -> None:
        await asyncio.sleep(0.0)

    @af.task
    async def bad() -> None:
        raise ValueError

    async def main() -> None:
        async with af.Engine() as engine:
            steps = engine.steps(af.linear("outer", af.linear("inner", done, bad, retry=af.Times(2))), run_id="r")
            async for step in steps:
                if "-inner/done" in step.due:
                    break
            await steps.aclose()
            with pytest.raises(af.PlanChanged, match="inner: has failed and is being undone"):
                await engine.resume("r", af.linear("outer", af.linear("inner", done, bad)), accept_changes=True)

    run(main)


def test_a_large_value_of_a_lazy_run_is_at_hand_for_its_revert(tmp_path: Path) -> None:
    """Also if that is due before the value is written."""
    seen: list[int] = []

    @af.task(provides="text")
    async def large() -> str:
        return "x" * 200_000

    @large.revert
    async def undo(outcome: af.Outcome[str]) -> None:
        assert isinstance(outcome, af.Success)
        seen.append(len(outcome.value))

    @af.task
    async def bad() -> None:
        raise ValueError

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", durability="lazy") as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(af.linear("f", large, bad))
            assert failed.value.reverted

    run(main, owns_time=False)
    assert seen == [200_000]


def test_a_backoff_that_raises_is_a_failure_of_its_flow() -> None:
    """Like anything else in a controller."""

    class Broken:
        def delay(self, attempt: int, rng: Any = None) -> float:
            raise ZeroDivisionError

    @af.task
    async def bad() -> None:
        raise ValueError

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(af.linear("f", bad, retry=af.Times(2, backoff=Broken())))
            assert failed.group_contains(ZeroDivisionError) and failed.group_contains(ValueError)

    run(main)


def test_a_controller_keeps_what_it_gave() -> None:
    """Its history is made of it."""
    with pytest.raises(af.DeclarationError, match="controller 'times' has checkpoint=False, and its history needs"):
        af.linear("f", retry=af.Times(2, checkpoint=False)).compile()
