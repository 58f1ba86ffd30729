"""Asyncio tasks that start at once: on every Python, and with nobody noticing."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from typing import Any

import pytest

from asyncflow.errors import EngineClosed
from asyncflow.executors.eager import OPTIONS, check_loop, start

VARIABLE = contextvars.ContextVar("VARIABLE", default="outside")


def test_what_never_waits_has_ended_and_the_caller_is_who_it_was() -> None:
    """A body of ours is an ordinary asyncio task, as whoever looks from inside can tell."""

    async def body() -> tuple[str, bool, str]:
        task = asyncio.current_task()
        assert task is not None
        VARIABLE.set("inside")
        return task.get_name(), task is not caller, VARIABLE.get()

    async def main() -> None:
        nonlocal caller
        loop = asyncio.get_running_loop()
        caller = asyncio.current_task()
        task = start(body(), loop=loop, name="quick", **OPTIONS)
        assert task.done() and task.result() == ("quick", True, "inside")
        assert asyncio.current_task() is caller and VARIABLE.get() == "outside"

    caller: asyncio.Task[Any] | None = None
    asyncio.run(main())


def test_what_waits_goes_on_as_any_task_does() -> None:
    """Time limits and cancels meet the body, and not whoever started it."""

    async def late() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    async def stopped() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        tasks = [start(body(), loop=loop, name="slow", **OPTIONS) for body in (late, stopped)]
        assert not any(task.done() for task in tasks)
        tasks[1].cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in ended] == [TimeoutError, asyncio.CancelledError]

    asyncio.run(main())


def test_what_else_is_scheduled_meanwhile_is_scheduled() -> None:
    """A handler of a signal may run at any line, and what it asks for must neither get lost nor run too soon."""
    seen: list[str] = []

    class Interrupted(asyncio.SelectorEventLoop):
        is_interrupted = False

        def get_debug(self) -> bool:  # asked while a task is made
            if self.is_interrupted:
                self.is_interrupted = False
                self.call_soon(seen.append, "signal")
            return super().get_debug()

    async def body() -> None:
        seen.append("body")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Interrupted)
        loop.is_interrupted = True
        assert start(body(), loop=loop, name="quick", **OPTIONS).done()
        assert seen == ["body"]
        await asyncio.sleep(0)
        assert seen == ["body", "signal"]

    with asyncio.Runner(loop_factory=Interrupted) as runner:
        runner.run(main())


def test_a_loop_that_was_patched_stays_so() -> None:
    """Whoever watches ``call_soon`` goes on watching."""
    watched: list[Any] = []

    async def body() -> None:
        pass

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call_soon = loop.call_soon

        def watch(callback: Any, *args: Any, context: Any = None) -> Any:
            watched.append(callback)
            return call_soon(callback, *args, context=context)

        loop.call_soon = watch  # type: ignore[method-assign,assignment]
        assert start(body(), loop=loop, name="quick", **OPTIONS).done()
        assert not watched
        loop.call_soon(watched.clear)
        assert watched

    asyncio.run(main())


def test_a_loop_that_cannot_be_used_is_named() -> None:
    """Better when the engine opens than in its first run."""

    class Closed:
        __slots__ = ()

    loop: Any = Closed()
    if sys.version_info >= (3, 12):
        check_loop(loop)
    else:
        with pytest.raises(EngineClosed, match="a Closed does not"):
            check_loop(loop)
