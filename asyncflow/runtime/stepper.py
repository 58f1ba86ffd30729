"""A run taken step by step: it goes on only when someone asks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import attrs

from asyncflow.interfaces import Happening


@attrs.frozen
class Step:
    """
    One turn of a run.

    Attributes:
        happened: What has happened since the step before, in order; it is durable.
        due: What is about to be done: paths of tasks to start, of tasks to revert with a "-" before, and of flows whose
            controller is to be asked with a "?" before.
        run: The :class:`~asyncflow.Run`, which can be suspended, cancelled, looked at, or left. To await it between two
            steps would wait for ever: it goes on only when the next one is asked for.
    """

    happened: Sequence[Happening]
    due: Sequence[str]
    run: Any


class Stepper:
    """Holds up a supervisor before each turn in which something is to be decided, until somebody asks to go on."""

    def __init__(self) -> None:
        self._happened: list[Happening] = []
        self._due: list[str] = []
        self._arrived: asyncio.Future[None] | None = None
        self._go: asyncio.Future[None] | None = None
        self._is_free = False

    def take(self, happened: Sequence[Happening]) -> None:
        """Take note of what has happened."""
        self._happened.extend(happened)

    async def pause(self, due: list[str]) -> bool:
        """
        Show what has happened and what is *due*, and wait for somebody to ask; not if there is nothing to show.

        Return whether there was a wait.
        """
        if self._is_free or not (self._happened or due):
            return False
        self._due = due
        asked = self._go = asyncio.get_running_loop().create_future()
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
        await asked
        return True

    def go_on(self) -> None:
        """Let the supervisor take its turn."""
        asked, self._go = self._go, None
        if asked is not None and not asked.done():
            asked.set_result(None)

    def set_free(self) -> None:
        """Let the supervisor go on without asking, from here to the end."""
        self._is_free = True
        self.go_on()

    async def next(self, run: Any) -> Step | None:
        """Return the next step of *run*, or None when it is over and everything that happened has been shown."""
        if self._go is None:
            self._arrived = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._arrived, run.ending], return_when=asyncio.FIRST_COMPLETED)
        happened, due = self._happened, self._due
        self._happened, self._due = [], []
        return Step(happened, due, run) if happened or due else None
