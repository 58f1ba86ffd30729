"""
What an engine tells of its journal and does for it: listings, reports, exports, backups, purges.

Only a diff needs a flow, and nothing here waits for a run or makes one wait.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncflow.codec import Codec
from asyncflow.errors import InputError
from asyncflow.graph.changes import Verdict
from asyncflow.graph.pattern import Runnable, as_flow
from asyncflow.interfaces import Clock, RunInfo, Store
from asyncflow.launch import recorded_flow
from asyncflow.machine.fit import verdicts_on
from asyncflow.machine.replay import fold
from asyncflow.runtime.export import export
from asyncflow.runtime.handle import Run
from asyncflow.runtime.report import RunReport, inspect
from asyncflow.runtime.shelter import until_done
from asyncflow.runtime.transcript import transcript_of
from asyncflow.runtime.why import why
from asyncflow.states import RunState

ENDED = tuple(state for state in RunState if state.is_ended)
_STANDING = (*ENDED, RunState.SUSPENDED, RunState.INTERRUPTED)


class Upkeep:
    """The part of :class:`~asyncflow.engine.Engine` that looks after the journal."""

    _store: Store
    _codec: Codec
    _clock: Clock
    _runs: dict[str, Run[Any]]

    def _check_open(self) -> None:
        raise NotImplementedError

    # --- Reading ------------------------------------------------------------------------------------------------------

    async def runs(self, *, state: RunState | None = None, limit: int | None = None) -> list[RunInfo]:
        """Return a line for each run in the journal, newest first."""
        self._check_open()
        return await self._store.runs(state=state, limit=limit)

    async def inspect(self, run_id: str) -> RunReport:
        """
        Return what the journal says of a run up to now, whoever owns it: its tasks, their states, values and failures.

        Values are pictured as text, since their classes need not be at hand.

        Raises:
            RunNotFound: The journal has no such run.
            CorruptRecord: The journal is damaged.
        """
        self._check_open()
        return await inspect(self._store, self._codec, run_id, self._clock.now())

    async def why(self, run_id: str, path: str) -> list[str]:
        """
        Return what the task at *path* waits for, or why it stands as it does, in sentences, nearest reason first.

        It follows from the journal alone, so it can be asked of any run, whoever owns it.

        Raises:
            RunNotFound: The journal has no such run.
            InputError: The run has no such task.
            CorruptRecord: The journal is damaged.
        """
        self._check_open()
        return await why(self._store, run_id, path, self._clock.now())

    async def diff(self, run_id: str, flow: Runnable[Any] | None = None) -> list[Verdict]:
        """
        Return what is different in *flow* from what the run has followed so far, task by task; nothing if nothing is.

        This is what :meth:`~asyncflow.Engine.resume` would compare now: of a run that is refused, ``accept_changes``
        takes those that may be accepted. Without a *flow*, it is the one that the journal names. Nothing is changed.

        Raises:
            RunNotFound: The journal has no such run.
            DeclarationError: The flow cannot be found, or is none.
            CorruptRecord: The journal is damaged.
        """
        self._check_open()
        transcript = await transcript_of(self._store, run_id)
        plan = as_flow(recorded_flow(transcript.info) if flow is None else flow).compile()
        return verdicts_on(plan, fold(transcript.records, transcript.plans))

    async def export(self, run_id: str) -> dict[str, Any]:
        """
        Return all that the journal has of a run as plain data that JSON can show: its plan, its events, its values.

        Raises:
            RunNotFound: The journal has no such run.
            CorruptRecord: The journal is damaged.
        """
        self._check_open()
        return await export(self._store, self._codec, run_id)

    # --- Keeping ------------------------------------------------------------------------------------------------------

    async def purge(
        self,
        *,
        older_than: float | timedelta | datetime,
        states: Collection[RunState] = ENDED,
        progress: Callable[[str], None] | None = None,
    ) -> list[str]:
        """
        Remove runs that nobody needs any more, and return their ids. Other runs go on meanwhile.

        A run goes wholly or not at all. Values and plans that other runs use stay. What a purge that was cut off had
        left to do is done by the next one. Nothing is undone by this.

        Args:
            older_than: How long ago the run must have changed last: seconds or a timedelta; or since when, as a
                datetime with a time zone.
            states: Which to remove. Other than ended ones, SUSPENDED and INTERRUPTED runs can be removed; none that an
                engine owns ever is.
            progress: Called with the id of each run once it is gone.

        Raises:
            InputError: *older_than* is negative, or a datetime without a time zone, or *states* names one that goes on.
        """
        self._check_open()
        for state in states:
            if state not in _STANDING:
                raise InputError(f"a run that is {state.value} goes on, so it cannot be purged; cancel it first")
        gone: list[str] = []

        def told(run_id: str) -> None:
            gone.append(run_id)
            if progress is not None:
                progress(run_id)

        if states:
            await self._store.purge(self._before(older_than), states, told)
        return gone

    def _before(self, older_than: float | timedelta | datetime) -> float:
        if isinstance(older_than, datetime):
            if older_than.tzinfo is None:
                raise InputError(f"older_than={older_than} has no time zone; pass an aware datetime, or seconds")
            return older_than.astimezone(UTC).timestamp()
        seconds = older_than.total_seconds() if isinstance(older_than, timedelta) else older_than
        if not seconds >= 0:
            raise InputError(f"older_than={older_than} must be 0 or more: how long ago a run changed last")
        return self._clock.now() - seconds

    async def suspend(self, run_id: str, *, reason: str = "suspended") -> RunState:
        """
        Have a run suspended, wherever it is, and return its state then.

        One of this engine's stands still when this returns. One that another process owns is asked for there; its owner
        looks about once a second. Nothing happens to a run that nobody owns.
        """
        self._check_open()
        run = self._runs.get(run_id)
        if run is not None:
            run.suspend(reason)
            await until_done(run.ending)
            return run.state
        info = await self._store.info(run_id)
        if info.owner is not None and not info.state.is_ended:
            await self._store.request(run_id, "suspend", reason)
        return info.state

    async def backup(self, path: str | os.PathLike[str]) -> None:
        """
        Write the journal as it is now to a new file, while runs go on. Nobody owns a run in the copy: what was under
        way is INTERRUPTED there, and resumable.

        Raises:
            InputError: There is something at *path*.
            StoreError: The journal is in memory, or the copy cannot be written.
        """
        self._check_open()
        await self._store.backup(os.fsdecode(path))
