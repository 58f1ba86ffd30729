"""A life in virtual time that begins where another ended, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from asyncflow.testing import SeededLoop

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], now: float = 0.0) -> T:
    """
    Run *main* on a loop of its own whose time begins at *now*, and passes only while nothing else happens.

    Raises:
        Deadlock: It waits for what will never be.
        AssertionError: It left an asyncio task behind.
    """
    loop = SeededLoop(now=now)
    try:
        value = loop.run_until_complete(main)
        left = [task for task in asyncio.all_tasks(loop) if not task.done()]
        assert not left, f"asyncio tasks were left behind: {left}"
        return value
    finally:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
