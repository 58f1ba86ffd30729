"""What a body finds around itself: an ordinary asyncio task, on every loop and every Python."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

import asyncflow as af

colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


def loops() -> list[Any]:
    found: list[Any] = [pytest.param(asyncio.new_event_loop, id="asyncio")]
    try:
        import uvloop
    except ImportError:
        return found
    return [*found, pytest.param(uvloop.new_event_loop, id="uvloop")]


@pytest.fixture(params=loops())
def perform(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return what runs one body as a task of a flow, on one kind of loop."""

    def perform(body: Callable[..., Any]) -> Any:
        async def main() -> Any:
            async with af.Engine() as engine:
                return await engine.run(af.task(body))

        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(main())

    return perform


Perform = Callable[[Callable[..., Coroutine[Any, Any, Any] | Any]], Any]


def test_a_body_is_an_asyncio_task_of_its_own(perform: Perform) -> None:
    """Libraries hang their state on the current task."""
    seen: list[Any] = []

    async def body() -> str:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())
        return "done"

    assert perform(body) == "done"
    assert seen[0] is seen[1] is not None
    assert seen[0].get_name() == "body"


def test_timeouts_in_a_body_stay_in_it(perform: Perform) -> None:
    """Driving a coroutine by hand would have them cancel the engine."""

    async def body() -> list[str]:
        told = []
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            told.append("asyncio")
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep_forever()
        told.append(f"anyio {scope.cancelled_caught}")
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        except TimeoutError:
            told.append("wait_for")
        task = asyncio.current_task()
        assert task is not None
        told.append(f"cancelling {task.cancelling()}")
        return told

    assert perform(body) == ["asyncio", "anyio True", "wait_for", "cancelling 0"]


def test_task_groups_in_a_body_work(perform: Perform) -> None:
    """Structured concurrency inside a task is the user's own affair."""

    async def body() -> list[int]:
        found: list[int] = []

        async def add(number: int) -> None:
            await asyncio.sleep(0)
            found.append(number)

        async with asyncio.TaskGroup() as group:
            group.create_task(add(1))
            group.create_task(add(2))
        async with anyio.create_task_group() as scope:
            scope.start_soon(add, 3)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                raise ValueError("stop")
        except* ValueError:
            found.append(4)
        return found

    assert perform(body) == [1, 2, 3, 4]


def test_a_body_that_cancels_itself_fails(perform: Perform) -> None:
    """A CancelledError that the run did not send is a failure like any other, and its cause is kept."""

    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    with pytest.raises(af.RunFailed) as failed:
        perform(body)
    assert isinstance(failed.value.exceptions[0], af.StrayCancellation)
    assert isinstance(failed.value.exceptions[0].__cause__, asyncio.CancelledError)


@pytest.mark.parametrize("kind", ["async", "thread", "inline"])
def test_context_variables_reach_a_body_and_stay_in_it(kind: str) -> None:
    """An attempt runs in a copy of the context in which its run was started."""

    async def in_loop(ctx: af.Context) -> tuple[str, str]:
        seen = colour.get()
        colour.set("changed")
        await asyncio.sleep(0)
        return seen, af.current().path

    def in_thread(ctx: af.Context) -> tuple[str, str]:
        seen = colour.get()
        colour.set("changed")
        return seen, af.current().path

    body = in_loop if kind == "async" else in_thread
    task = af.task(name="t", executor="inline" if kind == "inline" else "")(body)

    async def main() -> None:
        async with af.Engine() as engine:
            colour.set("blue")
            assert await engine.run(task) == ("blue", "t")
            assert colour.get() == "blue"
            colour.set("red")
            assert await engine.run(task) == ("red", "t")

    asyncio.run(main())


def test_plain_functions_run_in_threads_of_the_engine(perform: Perform) -> None:
    """The loop's own pool is the application's; a full one must not stop tasks, nor tasks it."""

    def body() -> tuple[str, bool]:
        return threading.current_thread().name.partition("-")[0], threading.current_thread().daemon

    assert perform(body) == ("asyncflow", True)
