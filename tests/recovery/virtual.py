"""An event loop whose time passes only while nothing else happens: an hour costs nothing and is always alike."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_MOST_TURNS = 1_000_000


class Deadlock(Exception):
    """Everything waits, and no timer is set that could end it."""


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Never waits: where a loop would, its time is moved on."""

    def __init__(self, pass_time: Callable[[float | None], None]) -> None:
        super().__init__()
        self._pass_time = pass_time

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and (timeout is None or timeout > 0):
            self._pass_time(timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    A loop that begins at *now*, POSIX seconds, and jumps to the next timer whenever nothing is left to do.

    For what stays on the loop: a thread would find that all its time has passed.
    """

    def __init__(self, now: float) -> None:
        self._now = now
        self._turns = 0
        super().__init__(_Selector(self._pass_time))

    def time(self) -> float:
        return self._now

    def _pass_time(self, seconds: float | None) -> None:
        if seconds is None:
            raise Deadlock("everything waits, and no timer is set")
        self._now += seconds

    def _run_once(self) -> None:
        self._turns += 1
        if self._turns > _MOST_TURNS:
            raise Deadlock(f"{_MOST_TURNS} turns of the loop, and no end")
        super()._run_once()  # type: ignore[misc]


class VirtualClock:
    """The clock of an engine on such a loop: POSIX seconds are the loop's own."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_at(max(when, loop.time()), callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(delay, callback, *args)


def run(main: Coroutine[Any, Any, T], now: float = 0.0) -> T:
    """
    Run *main* in virtual time.

    Raises:
        Deadlock: It waits for what will never be.
        AssertionError: It left an asyncio task behind.
    """
    loop = VirtualLoop(now)
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
