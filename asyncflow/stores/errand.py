"""Work on a file that must be finished once it has begun, although the loop around it is going down."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _unregister_task  # pyright: ignore[reportPrivateUsage]  # documented under "Extending asyncio"
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


def raise_from_loop(error: BaseException) -> None:
    """Have the running loop raise *error* in its next turn, where it comes out of ``asyncio.run`` and harms no task."""
    asyncio.get_running_loop().call_soon(_raise, error)


def _raise(error: BaseException) -> None:
    raise error


def send_on_errand(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """
    Return an asyncio task that does *work* and that nobody cancels but who holds it.

    ``asyncio.run`` cancels whatever ``all_tasks()`` lists when its main coroutine ends. A write that is cut off between
    two statements would leave a transaction open, just when runs want to record that they are suspended.

    It does not start before the next turn of the loop, whatever the loop's task factory, and sees no context of its
    caller.
    """
    task = asyncio.Task(work, loop=asyncio.get_running_loop(), context=Context())
    _unregister_task(task)
    return task


async def see_out(errand: asyncio.Task[T]) -> T:
    """
    Return what *errand* returns. If the caller is cancelled, let it end first, unless the caller is cancelled again.

    For what takes milliseconds and is better ended than left running behind a caller who is gone.
    """
    try:
        return await asyncio.shield(errand)
    except asyncio.CancelledError:
        await asyncio.wait([errand])
        raise
