"""The last record of a run in memory, while it may still grow."""

from __future__ import annotations

import asyncio

from asyncflow import messages as m
from asyncflow.interfaces import Clock, Journal
from asyncflow.machine.run import RunMachine

MOST_EVENTS = 1_000
MOST_SECONDS = 0.001
"""For how long a page grows: turns that follow each other within it are as one."""


class Page:
    """
    Events of a calm run that follow each other at once and share one record.

    An event is on record as soon as it is among ``events``, which is None while no page is open. All of them count
    as having happened ``at`` the time when it was opened, POSIX seconds. It is full at ``until``, by the loop's clock.
    """

    __slots__ = ("_clock", "_journal", "_loop", "_machine", "at", "events", "until")

    def __init__(self, machine: RunMachine, journal: Journal, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._machine = machine
        self._journal = journal
        self._clock = clock
        self._loop = loop
        self.at = self.until = 0.0
        self.events: list[m.Event] | None = None

    def open(self) -> list[m.Event]:
        """Append a record without events, and return what it is to have."""
        at, events = self._clock.now(), list[m.Event]()
        self._journal.append(m.Record(at, events), {}, self._machine.state)
        self.keep_open(at, events)
        return events

    def keep_open(self, at: float, events: list[m.Event]) -> None:
        """Go on with the record that was appended last, of *events* at *at*."""
        self.at, self.events, self.until = at, events, self._loop.time() + MOST_SECONDS

    def is_full(self) -> bool:
        """Whether the next event belongs on another page."""
        return self.events is None or len(self.events) >= MOST_EVENTS or self._loop.time() > self.until

    def rest(self) -> None:
        """Take note of how the run stands, since time is about to pass; what comes within it may still be added."""
        if self.events is not None:
            self._machine.mark(self.at)

    def close(self) -> None:
        """Let nothing more be added."""
        if self.events is not None:
            self.events = None
            self._machine.mark(self.at)

    def __repr__(self) -> str:
        return f"<Page: {'closed' if self.events is None else f'{len(self.events)} events'}>"
