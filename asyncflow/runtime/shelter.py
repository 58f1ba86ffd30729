"""Finishing what must be finished although the caller has been cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def outlast(pending: asyncio.Future[Any], timeout: float | None) -> bool:
    """
    Wait until *pending* is done, however often the caller is cancelled meanwhile, but not longer than *timeout*
    seconds.

    Return whether it is done. It is not cancelled. The shield keeps an anyio scope from cancelling again at every
    await; the loop takes the native cancels, which no shield holds off. Cancels are swallowed: the caller, who has one
    in hand, raises that one.
    """
    loop = asyncio.get_running_loop()
    until = None if timeout is None else loop.time() + timeout
    with anyio.CancelScope(shield=True):
        while not pending.done():
            left = None if until is None else until - loop.time()
            if left is not None and left <= 0:
                return False
            try:
                await asyncio.wait([pending], timeout=left)
            except asyncio.CancelledError:
                continue
    return True


async def see_through(work: Coroutine[Any, Any, T]) -> tuple[T, asyncio.CancelledError | None]:
    """
    Run *work* to its end although the caller may be cancelled; return its value and the cancel to be raised, if any.
    """
    doing = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait([doing])
    except asyncio.CancelledError as cancelled:
        await outlast(doing, None)
        return doing.result(), cancelled
    return doing.result(), None
