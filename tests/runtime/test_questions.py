"""Asking the user's code: what becomes of a condition or a controller that raises, hangs, or is asked for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

import asyncflow as af
from asyncflow import RunState
from asyncflow.graph import defaults
from tests.runtime.loops import LoopClock, run, until


@af.task
async def nothing() -> None: ...


@af.task
async def bad() -> None:
    raise ValueError("bad")


def asks(on_failure: Any, *tasks: Any, name: str = "asked") -> Any:
    """Return a flow of *tasks* whose controller answers by *on_failure*."""

    class Asked(af.Controller):
        executor = "inline"

        def execute(self) -> None: ...

    Asked.on_failure = on_failure  # type: ignore[method-assign]
    return af.linear(name, *(tasks or (bad,)), retry=Asked())


# --- Questions that nobody needs any more -----------------------------------------------------------------------------


def test_a_condition_is_not_asked_once_another_has_ended_the_run() -> None:
    """It may be slow, or charge for each call."""
    asked: list[str] = []

    def raises() -> bool:
        asked.append("first")
        raise ValueError("no")

    def second() -> bool:
        asked.append("second")
        return True

    async def main() -> None:
        flow = af.unordered(
            "both", nothing.with_options(name="a", when=raises), nothing.with_options(name="b", when=second)
        )
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(flow)

    run(main)
    assert asked == ["first"]


def test_a_controller_is_not_asked_once_the_run_is_cancelled(tmp_path: Path) -> None:
    """What it decides would be thrown away: it reads a large value, and the cancel came while that was fetched."""
    asked: list[str] = []
    reached = asyncio.Event()

    @af.task(provides="text")
    async def write() -> str:
        return "x" * 100_000

    @af.task
    async def waits() -> None:
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()

    class Reads(af.Controller):
        executor = "inline"

        def execute(self, text: str) -> None: ...

        def on_failure(self, text: str) -> af.Decision:
            asked.append(text[:1])
            return af.Decision.REVERT

    flow = af.linear("all", write, af.linear("inner", waits, bad, retry=Reads()))

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", grace=0.0) as engine:
            await engine.start(flow, run_id="r")
            await reached.wait()
        async with af.Engine(tmp_path / "runs.db") as engine:
            store, fetching, go_on = engine._store, asyncio.Event(), asyncio.Event()
            read = store.read_blob

            async def slowly(digest: str) -> bytes:
                fetching.set()
                await go_on.wait()
                return await read(digest)

            store.read_blob = slowly  # type: ignore[method-assign]
            resumed = await engine.take_up("r", flow)
            await fetching.wait()
            resumed.cancel("enough")
            await asyncio.sleep(0)
            go_on.set()
            with pytest.raises(af.RunCancelled, match="enough"):
                await resumed

    asyncio.run(main())
    assert asked == []


def test_a_controller_that_will_not_be_stopped_is_told_once() -> None:
    """Each cancel would break off the cleaning up that the one before it has begun."""
    told: list[str] = []

    async def on_failure(self: af.Controller, history: af.History) -> af.Decision:
        told.append("asked")
        try:
            await asyncio.sleep(60.0)
        except asyncio.CancelledError:
            told.append("stop")
            await asyncio.sleep(5.0)
        return af.Decision.RETRY

    @af.task
    async def waits() -> None:
        await asyncio.sleep(1.0)

    @waits.revert
    async def unwait() -> None:
        await asyncio.sleep(1.0)

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            started = await engine.start(af.linear("all", waits, waits.named("again"), asks(on_failure)))
            await asyncio.sleep(30.0)
            assert told == ["asked"]
            started.cancel("enough")
            with pytest.raises(af.RunCancelled):
                await started

    run(main)
    assert told == ["asked", "stop"]


# --- Controllers that do not answer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_controller_that_exits_suspends_the_run(tmp_path: Path, error: type[BaseException]) -> None:
    """Who presses Ctrl-C while it thinks wants to stop the program, not to decide."""
    answers: list[Any] = [error, af.Decision.REVERT]

    def on_failure(self: af.Controller, history: af.History) -> af.Decision:
        answer = answers.pop(0)
        if answer is error:
            raise error
        return af.Decision.REVERT

    flow = asks(on_failure)

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            started = await engine.start(flow, run_id="r")
            await asyncio.wait([started.ending])
            await asyncio.Event().wait()

    async def again() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            assert (await engine.inspect("r")).state is RunState.SUSPENDED
            with pytest.raises(af.RunFailed):
                await engine.resume("r", flow)

    with pytest.raises(error):
        asyncio.run(main())
    asyncio.run(again())
    assert answers == []


def test_a_controller_that_is_cancelled_by_itself_has_failed() -> None:
    """A CancelledError out of some library is nobody's order, and must not leave the flow without an answer."""

    async def on_failure(self: af.Controller) -> af.Decision:
        raise asyncio.CancelledError

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(asks(on_failure))
            assert any(
                "ended with CancelledError although nobody had told it to stop" in str(error)
                for error in failed.value.exceptions
            )

    run(main)


@pytest.mark.parametrize("first", ["run", "controller"])
def test_a_loop_that_goes_down_does_not_answer_for_a_controller(tmp_path: Path, first: str) -> None:
    """The question is still open, and is asked again by who goes on, whoever of them was told first."""
    asked: list[int] = []

    async def on_failure(self: af.Controller, history: af.History) -> af.Decision:
        asked.append(1)
        if len(asked) == 1:
            await asyncio.Event().wait()
        return af.Decision.REVERT

    flow = asks(on_failure)
    engines: list[af.Engine] = []

    async def main() -> None:
        engine = af.Engine(tmp_path / "runs.db")
        engines.append(engine)  # never closed: the program just ends
        await engine.__aenter__()
        await engine.start(flow, run_id="r")
        await until(lambda: asked)

    async def again() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.resume("r", flow)
            assert set(failed.value.failures) == {"bad"}

    with asyncio.Runner() as runner:
        runner.run(main())
        [left] = engines[0].running()
        # All at once, as asyncio.run does.
        ordered = sorted(
            asyncio.all_tasks(runner.get_loop()), key=lambda task: (task is left.keeper) is (first != "run")
        )
        for task in ordered:
            task.cancel()
        runner.run(engines[0].close())
    asyncio.run(again())
    assert len(asked) == 2


# --- What they are given ----------------------------------------------------------------------------------------------


class Basket:
    """What may run out."""


def baskets(left: int) -> Callable[[], Basket]:
    """Return what makes as many baskets as are left."""

    def make() -> Basket:
        nonlocal left
        left -= 1
        if left < 0:
            raise LookupError("no baskets left")
        return Basket()

    return make


@af.task(provides="basket")
async def fill() -> Basket:
    return Basket()


def test_a_condition_whose_inputs_cannot_be_put_together_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes a default is the user's code as well, and the error must lead to it."""

    def is_full(basket: Basket) -> bool:
        raise AssertionError("never called")

    monkeypatch.setitem(defaults._makers, Basket, baskets(0))

    async def main() -> None:
        flow = af.linear(
            "shop", fill.with_options(when=lambda: False, depth="task"), nothing.with_options(when=is_full)
        )
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(flow)
            [error] = failed.value.exceptions
            assert "no baskets left" in f"{error} {error.__cause__}"

    run(main)


def test_a_controller_whose_inputs_cannot_be_put_together_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Left without an answer, the run would stand still for ever."""

    class Fills(af.Controller):
        executor = "inline"

        def execute(self, basket: Basket) -> None: ...

        def on_failure(self, history: af.History, basket: Basket) -> af.Decision:
            raise AssertionError("never called")

    # One for its body.
    monkeypatch.setitem(defaults._makers, Basket, baskets(1))

    async def main() -> None:
        skipped = fill.with_options(when=lambda: False, depth="task")
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(af.linear("shop", skipped, af.linear("inner", bad, retry=Fills())))
            assert any("no baskets left" in f"{error} {error.__cause__}" for error in failed.value.exceptions)

    run(main)


@attrs.frozen
class Order:
    """A class that some versions of a program know."""

    number: int


@pytest.mark.parametrize("who", ["condition", "controller"])
def test_what_cannot_be_decoded_stops_a_question_and_not_the_flow(tmp_path: Path, who: str) -> None:
    """A deployment that lacks a class must not take the run for failed and undo it; the next one may have it."""
    door: list[str] = []

    def load_as(annotation: Any) -> af.Task:
        async def load() -> Any:
            return Order(7)

        load.__annotations__["return"] = annotation
        return af.task(name="load", provides="order")(load)

    @af.task(provides="opened")
    async def wait() -> None:
        if door != ["open"]:
            door.append("reached")
            await asyncio.Event().wait()

    def is_seven(order: Any) -> bool:
        return bool(order.number == 7)

    class Reads(af.Controller):
        executor = "inline"

        def execute(self, order: Any) -> None: ...

        def on_failure(self, history: af.History, order: Any) -> af.Decision:
            return af.Decision.REVERT

    def flow(annotation: Any) -> Any:
        if who == "controller":
            return af.linear("shop", load_as(annotation), af.linear("inner", wait, bad, retry=Reads()))
        return af.linear("shop", load_as(annotation), wait, nothing.with_options(when=is_seven))

    async def main() -> None:
        path = tmp_path / "runs.db"
        async with af.Engine(path) as engine:
            started = await engine.start(flow(Order), run_id="r")
            await until(lambda: door)
            door.clear()
            started.suspend("for a deployment", grace=0.0)
            with pytest.raises(af.RunSuspended):
                await started
        door.append("open")
        async with af.Engine(path) as engine:
            with pytest.raises(af.CodecError, match="Order"):
                await engine.resume("r", flow(Any), accept_changes=True)
            assert (await engine.inspect("r")).state is not RunState.FAILED
        async with af.Engine(path) as engine:
            if who == "condition":
                await engine.resume("r", flow(Order), accept_changes=True)
            else:
                with pytest.raises(af.RunFailed):
                    await engine.resume("r", flow(Order), accept_changes=True)

    asyncio.run(main())
