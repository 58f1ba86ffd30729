"""
The points at which a process may die: around each statement of the journal's writer, at each turn of the loop, and
around each effect. A process counts those of one kind and kills itself at the n-th.

A statement is counted before SQLite runs it and after, in the thread that runs it, so a process also dies when a commit
is done and nobody has been told.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from typing import Any

import aiosqlite
import attrs

from asyncflow.stores import database

KINDS = ("statement", "step", "effect")


@attrs.frozen
class Death:
    """Where a process dies: at the *number*-th point of a *kind*."""

    kind: str
    number: int


class Points:
    """Those that this process has passed."""

    def __init__(self, death: Death | None) -> None:
        self._kind, self._number = (death.kind, death.number) if death is not None else ("", 0)
        self._passed = itertools.count(1)  # by several threads, in one instruction

    def __call__(self, kind: str) -> None:
        """Pass a point, or die at it."""
        if kind == self._kind and next(self._passed) == self._number:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch_statements(self) -> None:
        """Count what all connections of this process are asked to do from now on."""
        execute = aiosqlite.Connection._execute
        watched: set[int] = set()

        def watch(self: Any, fn: Any, *args: Any, **kwargs: Any) -> Any:
            def call() -> Any:
                point("statement")
                if id(self) not in watched:
                    watched.add(id(self))
                    # One call may be many statements, as that of a transaction is.
                    self._conn.set_trace_callback(lambda _: point("statement"))
                result = fn(*args, **kwargs)
                point("statement")
                return result

            return execute(self, call)

        def watch_here(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = here(self, *args, **kwargs)
            point("statement")
            return result

        point, here = self, database._Connection.here
        setattr(aiosqlite.Connection, "_execute", watch)  # noqa: B010
        setattr(database._Connection, "here", watch_here)  # noqa: B010

    def loop(self) -> asyncio.AbstractEventLoop:
        """Return a loop whose every callback is a point: each await that waits ends in one."""
        return _Loop(self)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, point: Points) -> None:
        super().__init__()
        self._point = point

    def call_soon(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self._point("step")
        return super().call_soon(*args, **kwargs)

    def call_soon_threadsafe(self, *args: Any, **kwargs: Any) -> asyncio.Handle:
        self._point("step")
        return super().call_soon_threadsafe(*args, **kwargs)
