"""A run's timers: each rings in a turn of its supervisor, not between two."""

from __future__ import annotations

from collections.abc import Callable

from asyncflow import messages as m
from asyncflow.interfaces import Timer
from asyncflow.machine.run import RUN_DEADLINE
from asyncflow.runtime.desk import Desk
from asyncflow.states import RunState


class Alarms:
    """What is to be done in one run at a time, deadlines among it."""

    __slots__ = ("_desk", "_timers", "_watched")

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._timers: dict[object, Timer] = {}
        self._watched: dict[int, float] = {}  # deadlines that have a timer, by scope

    def later(self, key: object, when: float, act: Callable[[], None]) -> None:
        """Call *act* in a turn at *when*, POSIX seconds. One timer a key: a later one takes its place."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._timers[key] = self._desk.clock.call_at(when, self._ring, key, act)

    def _ring(self, key: object, act: Callable[[], None]) -> None:
        self._timers.pop(key, None)
        self._desk.note(act)

    def watch_deadlines(self) -> None:
        """Set timers for deadlines that have none."""
        machine = self._desk.machine
        if machine.deadline is not None:
            self._watch(RUN_DEADLINE, machine.deadline)
        for scope, deadline in machine.scope_deadlines.items():
            self._watch(scope, deadline)

    def _watch(self, scope: int, deadline: float) -> None:
        desk, machine = self._desk, self._desk.machine

        def passed() -> None:
            # A flow that runs again has a deadline of its own, and the timer of its last attempt may still ring.
            if machine.is_late(scope) and machine.scope_deadlines.get(scope, deadline) <= deadline:
                desk.take(m.DeadlinePassed(scope))

        if machine.phase is not RunState.RUNNING:
            return
        if deadline <= desk.clock.now():
            passed()  # before anything starts
        elif self._watched.get(scope) != deadline:
            self._watched[scope] = deadline
            self.later(("scope", scope), deadline, passed)

    def close(self) -> None:
        """
        Let nothing ring any more, and forget the desk: a run that is over is no cycle. Nobody asks for a timer behind
        this, since whoever would comes by way of the inbox, which is closed too.
        """
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        del self._desk

    def __repr__(self) -> str:
        return f"<Alarms: {len(self._timers)} set>"
