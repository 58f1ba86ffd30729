"""Quick plain functions, called right where the supervisor stands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncflow.executors.over import OVER, Over
from asyncflow.interfaces import Call


class InlineExecutor:
    """Calls plain functions on the loop. For what takes microseconds: the loop stands still meanwhile."""

    def submit(self, call: Call, done: Callable[[Any, BaseException | None], None]) -> Over:
        """Call, and tell *done* before returning."""
        try:
            value = call.context.run(call.fn, *call.args, **call.kwargs)
        except BaseException as error:
            done(None, error)
        else:
            done(value, None)
        return OVER

    async def close(self) -> None:
        """Nothing to let go of."""
