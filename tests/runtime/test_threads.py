"""The engine's own threads: as many as are allowed, used again, and never in anybody's way."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

import asyncflow as af
from asyncflow.executors.thread import ThreadExecutor, ThreadWork
from asyncflow.interfaces import Call
from tests.runtime.loops import until


class Bench:
    """Gives calls to an executor and keeps how each ended."""

    def __init__(self) -> None:
        self.executor = ThreadExecutor()
        self.endings: list[tuple[Any, BaseException | None]] = []
        self._changed = asyncio.Event()
        self._loop_thread = threading.get_ident()

    def submit(self, fn: Callable[..., Any], *args: Any) -> ThreadWork:
        return self.executor.submit(Call(fn, args, {}, contextvars.copy_context(), "bench"), self._done)

    def _done(self, value: Any, error: BaseException | None) -> None:
        assert threading.get_ident() == self._loop_thread, "endings are told on the loop"
        self.endings.append((value, error))
        self._changed.set()

    async def ended(self, count: int) -> None:
        while len(self.endings) < count:
            self._changed.clear()
            await self._changed.wait()


def test_many_short_calls_use_few_threads() -> None:
    """A thread that has nothing to do takes the next call; starting one for each would cost more than the calls."""
    names: set[str] = set()

    async def main() -> None:
        bench = Bench()

        def call(number: int) -> int:
            names.add(threading.current_thread().name)
            return number

        for number in range(500):
            bench.submit(call, number)
            await bench.ended(number + 1)
        assert [value for value, _ in bench.endings] == list(range(500))
        # A thread reports its call before it is idle, so the next call may come a moment too early for it.
        assert len(names) <= 100
        await bench.executor.close()

    asyncio.run(main())


def test_each_of_many_calls_at_once_gets_a_thread() -> None:
    """How many may run is decided by permits before; here nothing may wait for another that waits for it."""

    async def main() -> None:
        bench = Bench()
        together = threading.Barrier(20)
        for _ in range(20):
            bench.submit(together.wait, 30.0)
        await bench.ended(20)
        assert sorted(value for value, _ in bench.endings) == list(range(20))
        assert repr(bench.executor).startswith("<ThreadExecutor: 20 threads, ")
        await bench.executor.close()

    asyncio.run(main())


def test_a_call_that_no_thread_has_taken_can_be_withdrawn() -> None:
    """It has not begun, so nobody need wait for it; it ends as cancelled, once."""

    async def main() -> None:
        bench = Bench()
        called: list[str] = []
        with bench.executor._changed:  # keeps the thread from taking it
            work = bench.submit(called.append, "no")
            assert work.cancel()
            assert not work.cancel()
        await bench.ended(1)
        [(value, error)] = bench.endings
        assert value is None and isinstance(error, asyncio.CancelledError) and not called
        await bench.executor.close()

    asyncio.run(main())


def test_a_call_that_a_thread_has_taken_cannot_be_withdrawn() -> None:
    """It runs to its end, and that is its ending."""

    async def main() -> None:
        bench = Bench()
        begun, let_go = threading.Event(), threading.Event()

        def call() -> str:
            begun.set()
            let_go.wait()
            return "done"

        work = bench.submit(call)
        begun.wait()
        assert not work.cancel()
        let_go.set()
        await bench.ended(1)
        assert bench.endings == [("done", None)]
        await bench.executor.close()

    asyncio.run(main())


def test_any_exception_of_a_call_is_its_ending() -> None:
    """Also one that would end a thread; the next call needs a living one."""

    async def main() -> None:
        bench = Bench()

        def fail(error: BaseException) -> None:
            raise error

        errors = [ValueError("a"), SystemExit(3), KeyboardInterrupt(), StopIteration("b")]
        for number, error in enumerate(errors):
            bench.submit(fail, error)
            await bench.ended(number + 1)
        assert [error for _, error in bench.endings] == errors
        await bench.executor.close()

    asyncio.run(main())


def test_an_idle_thread_keeps_nothing_alive() -> None:
    """The last value of a day may be a gigabyte."""

    class Value:
        """Something large."""

    async def main() -> None:
        bench = Bench()
        bench.submit(Value)
        await bench.ended(1)
        alive = weakref.ref(bench.endings.pop()[0])
        # The thread lets go before it waits again, which the next call proves that it has come to.
        bench.submit(int)
        await bench.ended(1)
        for _ in range(1000):
            if alive() is None:
                break
            gc.collect()
            await asyncio.sleep(0.001)
        assert alive() is None
        await bench.executor.close()

    asyncio.run(main())


def test_closing_ends_idle_threads_and_refuses_calls() -> None:
    """An engine that is opened and closed a thousand times must not leave a thousand threads."""

    async def main() -> None:
        before = set(threading.enumerate())
        bench = Bench()
        together = threading.Barrier(5)
        for _ in range(5):
            bench.submit(together.wait, 30.0)
        await bench.ended(5)
        started = set(threading.enumerate()) - before
        await bench.executor.close()
        for thread in started:
            await asyncio.to_thread(thread.join, 30.0)
        assert repr(bench.executor) == "<ThreadExecutor: closed, 0 threads, 0 idle, 0 calls waiting>"
        with pytest.raises(af.EngineClosed, match="the engine's threads are closed; nothing can be started in them"):
            bench.submit(int)

    asyncio.run(main())


def test_a_thread_that_ends_after_its_loop_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was left behind by an engine that has closed; there is nobody left to be told."""
    let_go = threading.Event()
    threads: list[threading.Thread] = []
    complaints: list[Any] = []

    def call() -> None:
        threads.append(threading.current_thread())
        let_go.wait()

    async def main() -> None:
        bench = Bench()
        bench.submit(call)
        await until(lambda: threads)
        await bench.executor.close()

    monkeypatch.setattr(threading, "excepthook", complaints.append)
    asyncio.run(main())
    let_go.set()
    threads[0].join(30.0)
    assert not threads[0].is_alive() and not complaints


# --- Through an engine ------------------------------------------------------------------------------------------------


def perform(main: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    asyncio.run(main())


def test_a_thousand_tasks_in_two_threads_all_run() -> None:
    """A line longer than there are threads is the usual case for blocking work."""
    lock = threading.Lock()
    done = 0

    def work() -> None:
        nonlocal done
        with lock:
            done += 1

    async def main() -> None:
        async with af.Engine(threads=2) as engine:
            body = af.task(work)
            await engine.run(af.unordered("flow", *(body.named(f"t{number}") for number in range(1_000))))
            assert engine._launcher.environment.pools["the engine's threads"].taken == 0

    perform(main)
    assert done == 1_000


def test_a_run_cancelled_while_its_tasks_wait_for_threads_starts_no_more() -> None:
    """What waits in line has not started, so there is nothing to undo and nothing to wait for."""
    begun: list[str] = []
    let_go, first = threading.Event(), threading.Event()

    def work(ctx: af.Context) -> None:
        begun.append(ctx.path)
        first.set()
        let_go.wait()

    async def main() -> None:
        async with af.Engine(threads=1) as engine:
            body = af.task(work)
            one = await engine.start(af.unordered("flow", *(body.named(f"t{number}") for number in range(50))))
            await until(lambda: first.is_set())
            one.cancel()
            await asyncio.sleep(0)
            let_go.set()
            with pytest.raises(af.RunCancelled):
                await one
            assert begun == ["t0"]
            assert engine._launcher.environment.pools["the engine's threads"].taken == 0

    perform(main)


@pytest.mark.parametrize("order", ["cancel", "suspend"])
def test_a_body_in_a_thread_may_stop_its_run(order: str) -> None:
    """An order from beside the loop wakes the run as any other does, and not when something else happens in it."""
    seen: list[bool] = []
    running: list[af.Run[Any]] = []

    @af.task
    def stops(ctx: af.Context) -> None:
        getattr(running[0], order)("from a thread")
        until = time.monotonic() + 30.0
        while not ctx.is_cancelling and time.monotonic() < until:
            time.sleep(0.001)
        seen.append(ctx.is_cancelling)

    async def main() -> None:
        async with af.Engine(grace=0.0) as engine:
            running.append(await engine.start(af.linear("f", stops)))
            with pytest.raises((af.RunCancelled, af.RunSuspended), match="from a thread"):
                await running[0]
            await until(lambda: seen)
        assert seen == [True]

    perform(main)


def test_a_body_may_go_on_telling_after_its_loop_has_closed() -> None:
    """It was left behind, which is no fault of its own: what it says goes nowhere, and nothing is raised into it."""
    let_go = threading.Event()
    threads: list[threading.Thread] = []
    endings: list[str] = []

    @af.task
    def tells(ctx: af.Context) -> None:
        threads.append(threading.current_thread())
        let_go.wait()
        ctx.progress(0.5, "half")
        ctx.emit("found", pages=3)
        endings.append("told")

    async def main() -> None:
        async with af.Engine(grace=0.0, cancel_grace=0.01) as engine:
            await engine.start(af.linear("f", tells))
            await until(lambda: threads)

    perform(main)
    let_go.set()
    threads[0].join(30.0)
    assert endings == ["told"]


def test_the_loops_own_threads_are_left_to_the_application() -> None:
    """Blocking tasks that fill the loop's pool would stop name look-ups, file access and everything else in it."""
    let_go = threading.Event()

    def work() -> None:
        let_go.wait()

    async def main() -> None:
        async with af.Engine(threads=40) as engine:
            body = af.task(work)
            one = await engine.start(af.unordered("flow", *(body.named(f"t{number}") for number in range(40))))
            await asyncio.sleep(0)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 30.0) == "free"
            let_go.set()
            await one

    perform(main)
