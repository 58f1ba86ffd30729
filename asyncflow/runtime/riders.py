"""What bodies tell while they run: it rides on the run's next record, and never causes one."""

from __future__ import annotations

import asyncio

from asyncflow import messages as m
from asyncflow.machine.run import RunMachine

SECONDS_BETWEEN = 1.0
"""Progress of one attempt is told no oftener."""


class Riders:
    """Events that wait for the next record of their run."""

    __slots__ = ("_last", "_loop", "_machine", "waiting")

    def __init__(self, machine: RunMachine, loop: asyncio.AbstractEventLoop) -> None:
        self._machine = machine
        self._loop = loop
        self.waiting: list[m.Event] = []
        # By task: which body it was, when (by the loop's clock), and what it told.
        self._last: dict[int, tuple[object, float, float]] = {}

    def add(self, event: m.Event, page: list[m.Event] | None) -> bool:
        """
        Have *event* wait, or put it on the open *page* at once; not if it is progress told too soon. Return whether it
        is not.
        """
        if isinstance(event, m.Progressed) and self._is_too_soon(event):
            return False
        (self.waiting if page is None else page).append(event)
        return True

    def take(self) -> list[m.Event]:
        """Return what waits, for the record that is about to be written."""
        waiting, self.waiting = self.waiting, []
        return waiting

    def _is_too_soon(self, event: m.Progressed) -> bool:
        """Whether the same attempt told less than a second ago how far it is; its end, once, is never too soon."""
        machine, task, now = self._machine, event.task, self._loop.time()
        body = (machine.executions.get(task), machine.attempts[task], machine.revert_attempts.get(task))
        last = self._last.get(task)
        if last is not None and last[0] == body and now - last[1] < SECONDS_BETWEEN:
            if event.fraction < 1.0 or last[2] == 1.0:
                return True
        self._last[task] = (body, now, event.fraction)
        return False

    def __repr__(self) -> str:
        return f"<Riders: {len(self.waiting)} waiting>"
