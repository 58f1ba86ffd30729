"""Coroutine functions, each call an asyncio task of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context as ContextVars
from typing import Any, TypeVar

from asyncflow.executors.eager import OPTIONS, check_loop, start
from asyncflow.executors.over import OVER
from asyncflow.interfaces import Call, Work

T = TypeVar("T")


def begin(
    body: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop, name: str, context: ContextVars | None = None
) -> asyncio.Task[T]:
    """
    Start an asyncio task at once, so that a body which never waits is done when this returns.

    The task is made here and not by the loop, whose task factory may not know about eager starts (uvloop 0.23's breaks
    on Python 3.13.0).
    """
    return start(body, loop=loop, name=name, context=context, **OPTIONS)


async def _drive(call: Call, done: Callable[[Any, BaseException | None], None]) -> None:
    # Every ending is told to `done`, so that nothing is ever left in the asyncio task for the loop to complain about.
    # KeyboardInterrupt and SystemExit go the same way: the run is suspended first, then its supervisor raises them.
    try:
        value = await call.fn(*call.args, **call.kwargs)
    except BaseException as error:
        done(None, error)
    else:
        done(value, None)


class LoopExecutor:
    """Runs coroutine functions on the loop; user code finds itself in an ordinary asyncio task."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # What the stock loop's method calls, in a third of the time; a loop with a clock of its own is asked for it.
        is_stock = type(self._loop).time is asyncio.BaseEventLoop.time
        self.now: Callable[[], float] = time.monotonic if is_stock else self._loop.time
        check_loop(self._loop)
        self.start = start
        self.options: Mapping[str, Any] = {"loop": self._loop, **OPTIONS}

    def submit(self, call: Call, done: Callable[[Any, BaseException | None], None]) -> Work:
        """Start *call*; it may have ended when this returns."""
        task = begin(_drive(call, done), self._loop, call.name, call.context)
        return OVER if task.done() else task

    async def close(self) -> None:
        """Nothing to let go of: calls on their way belong to their runs."""
