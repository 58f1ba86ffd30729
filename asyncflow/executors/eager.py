"""
Asyncio tasks that start at once: what never waits has ended when :func:`start` returns, and took no trip through the
loop.

From Python 3.12 on they are asyncio's own. On Python 3.11 a task hands its first step to ``loop.call_soon``. There it
is caught and made here and now, as the task's own step all the same: in its context, and with it as the current task.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context as ContextVars
from typing import Any, TypeVar

from asyncflow.errors import EngineClosed

T = TypeVar("T")

if sys.version_info >= (3, 12):
    start: Callable[..., asyncio.Task[Any]] = asyncio.Task
    """Make a task of a coroutine, with ``loop=``, ``name=``, ``context=`` and what is in ``OPTIONS``."""
    OPTIONS: Mapping[str, Any] = {"eager_start": True}

    def check_loop(loop: asyncio.AbstractEventLoop) -> None:
        """Raise EngineClosed if tasks of *loop* cannot be started at once."""

else:  # pragma: no cover  # coverage is measured on a newer Python
    # Both are documented under "Extending asyncio".
    from asyncio.tasks import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage]

    OPTIONS: Mapping[str, Any] = {}

    def start(
        body: Coroutine[Any, Any, T],
        *,
        loop: asyncio.AbstractEventLoop,
        name: str | None = None,
        context: ContextVars | None = None,
    ) -> asyncio.Task[T]:
        """Make a task of a coroutine, and make its first step."""
        steps: list[tuple[Callable[[], object], ContextVars]] = []
        own, call_soon = vars(loop).get("call_soon"), loop.call_soon

        def catch(callback: Callable[..., object], *args: Any, context: ContextVars | None = None) -> Any:
            # A handler of a signal, or what the garbage collector frees just now, may have something else called.
            if type(callback).__name__ != "TaskStepMethWrapper" or context is None or steps:
                return call_soon(callback, *args, context=context)
            steps.append((callback, context))
            return None

        loop.call_soon = catch  # type: ignore[method-assign,assignment]
        try:
            task = asyncio.Task(body, loop=loop, name=name, context=context)
        finally:
            if own is None:
                del loop.call_soon
            else:
                loop.call_soon = own  # type: ignore[method-assign]
        caller = asyncio.current_task(loop)
        if caller is not None:
            _leave_task(loop, caller)
        try:
            for step, inside in steps:
                inside.run(step)
        finally:
            if caller is not None:
                _enter_task(loop, caller)
        return task

    def check_loop(loop: asyncio.AbstractEventLoop) -> None:
        """Raise EngineClosed if tasks of *loop* cannot be started at once."""
        if not hasattr(loop, "__dict__"):
            raise EngineClosed(
                f"on Python 3.11 an engine needs an event loop that takes attributes, and a {type(loop).__name__} does "
                "not; use that of asyncio or uvloop, or Python 3.12"
            )
