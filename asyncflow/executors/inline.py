"""Quick plain functions, called right where the supervisor stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncflow.interfaces import Call


class InlineWork:
    """A call that is over."""

    __slots__ = ()
    can_stop = False

    def stop(self) -> None:
        """Do nothing: it is over."""


_OVER = InlineWork()


class InlineExecutor:
    """Calls plain functions on the loop. For what takes microseconds: the loop stands still meanwhile."""

    def submit(self, call: Call, done: Callable[[Any, BaseException | None], None]) -> InlineWork:
        """Call, and tell *done* before returning."""
        try:
            value = call.context.run(call.fn, *call.args, **call.kwargs)
        except BaseException as error:
            done(None, error)
        else:
            done(value, None)
        return _OVER

    async def close(self) -> None:
        """Nothing to let go of."""
