"""What those who work for a supervisor need of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import Any, Protocol

from asyncflow import messages as m
from asyncflow.interfaces import CoroutineExecutor
from asyncflow.runtime.actor import Home
from asyncflow.runtime.large import LargeValues
from asyncflow.runtime.values import RunValues


class Desk(Home, Protocol):
    """What a dispatcher needs of the supervisor whose commands it answers, besides being its actors' home."""

    values: RunValues
    large: LargeValues
    loop_executor: CoroutineExecutor | None
    orders: list[tuple[Callable[..., None], tuple[Any, ...]]]
    """What :meth:`order` adds to, with its arguments."""

    @property
    def watching(self) -> Sequence[object]:
        """Who is told of what happens, at any moment."""
        ...

    @property
    def inbox(self) -> Sized:
        """What has come in and not been taken."""
        ...

    def take(self, event: m.Event) -> None:
        """Apply *event* and put it on record."""
        ...

    def order(self, act: Callable[..., None], *args: Any) -> None:
        """Call *act* once this turn's events are durable."""
        ...

    def note(self, act: Callable[[], None]) -> None:
        """Call *act* in the next turn."""
        ...

    def wake(self) -> None:
        """Have another turn soon, whatever the inbox holds."""
        ...

    def later(self, key: object, when: float, act: Callable[[], None]) -> None:
        """Call *act* in a turn at *when*, POSIX seconds. One timer a key: a later one takes its place."""
        ...

    def watch_deadlines(self) -> None:
        """Set timers for deadlines that have none."""
        ...
