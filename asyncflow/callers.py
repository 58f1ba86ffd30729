"""Who called ``engine.run`` and its like: waits for a run that belongs to it, and may be cancelled meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from asyncflow.executors.loop import begin
from asyncflow.runtime.handle import Run
from asyncflow.runtime.shelter import outlast, see_through, until_done
from asyncflow.states import RunState


class Callers:
    """
    Those who wait for runs of one engine.

    Attributes:
        launching: Runs that are being launched.
        is_closing: Whether the engine is, so that nothing is undone for a caller's sake any more.
    """

    def __init__(self, *, keeps_bytes: bool, undo_grace: float) -> None:
        self.launching: set[asyncio.Task[Run[Any]]] = set()
        self.is_closing = False
        self._keeps_bytes = keeps_bytes
        self._undo_grace = undo_grace

    async def hold(self, launching: Coroutine[Any, Any, Run[Any]], policy: str) -> Run[Any]:
        """Wait until a run is launched. One that was, and whose caller was cancelled meanwhile, is not forgotten."""
        if not self._keeps_bytes:
            return await launching  # never waits, so no cancel can come between
        doing = begin(launching, asyncio.get_running_loop(), "launching a run")
        self.launching.add(doing)
        try:
            run, cancelled = await see_through(doing)
        finally:
            self.launching.discard(doing)
        if cancelled is not None:
            await self._abandoned_by_caller(run, policy, cancelled)
            raise cancelled
        return run

    async def attend(self, run: Run[Any], policy: str) -> Any:
        """Wait for a run that belongs to the caller, and see to it when the caller is cancelled."""
        try:
            await until_done(run.ending)
        except asyncio.CancelledError as cancelled:
            await self._abandoned_by_caller(run, policy, cancelled)
            raise
        return run.ending.result()

    async def _abandoned_by_caller(self, run: Run[Any], policy: str, cancelled: asyncio.CancelledError) -> None:
        ending, supervisor = run.ending, run.supervisor
        if policy == "revert" and not self.is_closing and not supervisor.is_going_down():
            run.cancel("the caller was cancelled")
            if not await outlast(ending, self._undo_grace):
                supervisor.suspend("the caller was cancelled", grace=0.0, recover=True)
        else:
            supervisor.suspend("the caller was cancelled", grace=0.0, recover=True)
        await outlast(ending, None)
        if run.state is RunState.SUSPENDED:
            cancelled.add_note(f"run {run.run_id!r} is suspended; go on with engine.resume({run.run_id!r})")
        elif run.state is RunState.SUCCEEDED:
            cancelled.add_note(f"run {run.run_id!r} had succeeded; engine.resume({run.run_id!r}) gives its value")
        elif run.state is not RunState.CANCELLED:
            cancelled.add_note(f"run {run.run_id!r} is {run.state.value}: {ending.exception()}")
