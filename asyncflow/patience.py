"""Waiting for runs that others own: until one is free, or as long as others may leave some behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

from asyncflow.errors import AsyncflowError, CorruptRecord, RunBusy, StoreError
from asyncflow.interfaces import RunInfo, Store
from asyncflow.runtime.handle import Run
from asyncflow.states import RunState

log = logging.getLogger("asyncflow")

T = TypeVar("T")

_LONGEST_PAUSE = 0.25
_LOOKS_A_LEASE = 10
_MOST_LOOKS_LEFT_OUT = 256


class Patience:
    """
    How long one call waits, and how often it looks.

    A look costs the file a few reads, and an owner is watched by looking; so often enough to see one die at once, and a
    short lease pass.
    """

    def __init__(self, wait: float, lease: float) -> None:
        self._until = asyncio.get_running_loop().time() + wait
        self._pause = min(_LONGEST_PAUSE, lease / _LOOKS_A_LEASE)

    async def pause(self) -> bool:
        """Wait until it is time to look again, and return True; or return False, since it has waited long enough."""
        left = self._until - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        await asyncio.sleep(min(self._pause, left))
        return True

    async def until_free(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what *attempt* returns once it raises RunBusy no more; raise the last one if that takes too long."""
        while True:
            try:
                return await attempt()
            except RunBusy:
                if not await self.pause():
                    raise


class Gleaner:
    """Takes up what other engines have left unfinished, whenever it is asked to look."""

    def __init__(
        self,
        store: Store,
        ours: Mapping[str, Run[Any]],
        *,
        is_left: Callable[[RunInfo], Awaitable[bool]],
        take_up: Callable[[str], Awaitable[Run[Any]]],
    ) -> None:
        self._store = store
        self._ours = ours
        self._is_left = is_left
        self._take_up = take_up
        self.found: list[Run[Any]] = []
        # Runs that are not to be taken up, or cannot be, each with when it last changed: until then nothing new is to
        # be learned of it.
        self._passed_over: dict[str, float] = {}
        # Runs at which the store failed, each with how many looks leave it out now, and how many of them are to come.
        # Its trouble may pass, or be a value that is damaged: so it is tried again, and seldomer each time.
        self._left_out: dict[str, tuple[int, int]] = {}

    async def look(self) -> None:
        """Take up every run that is left now."""
        for info in await self._listed():
            if info.run_id in self._ours or self._passed_over.get(info.run_id) == info.updated:
                continue
            pause, left = self._left_out.get(info.run_id, (0, 0))
            if left:
                self._left_out[info.run_id] = pause, left - 1
                continue
            try:
                # Looked at anew: while those before it were taken up, another may have brought it to its end.
                if await self._is_left(info) and await self._is_left(await self._store.info(info.run_id)):
                    self.found.append(await self._take_up(info.run_id))
                    continue
            except RunBusy:
                continue  # another was quicker
            except AsyncflowError as error:
                log.warning("run %r is not recovered: %s", info.run_id, error)
                if isinstance(error, StoreError) and not isinstance(error, CorruptRecord):
                    pause = min(2 * pause + 1, _MOST_LOOKS_LEFT_OUT)
                    self._left_out[info.run_id] = pause, pause
                    continue
            self._passed_over[info.run_id] = info.updated

    async def _listed(self) -> Iterable[RunInfo]:
        # Asked for by state: a file may hold a thousand times as many runs that have ended.
        states = (RunState.INTERRUPTED, RunState.SUSPENDED)
        found = {info.run_id: info for state in states for info in await self._store.runs(state=state)}
        return found.values()
