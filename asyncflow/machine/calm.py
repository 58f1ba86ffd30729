"""
The calm of a run: while its tasks only start, succeed and make others ready, there is nothing to decide.

Most runs spend nearly all their time so. A calm machine takes those two kinds of event by the few lines here; any other
ends the calm, and once :meth:`~asyncflow.machine.run.RunMachine.due` has handed out what followed from that it may be
back. What a calm machine becomes is what it would have become otherwise: a journal is folded without ever being calm,
and tests hold the two against each other.

There are three ways to go on, each for what the one before cannot do. :meth:`Calm.stride` performs tasks one after the
other and applies both their events itself, for runs that may go ahead of their records (a chain takes 2 us a task that
way). :meth:`Calm.starts` hands out many at once, for runs whose starts must be durable before a body is called.
``due`` knows everything else: permits, waits, conditions, failures, reverts.
"""

from __future__ import annotations

from collections.abc import Generator, Sized
from typing import Any

from asyncflow import messages as m
from asyncflow.machine.ledger import PENDING, RUNNING, SKIPPED, SUCCEEDED, Ledger
from asyncflow.states import RunState

MOST_AT_ONCE = 500
"""How many of those that are ready are handed out at once; each makes two events."""


class _Unfinished:
    """The answer of who performs a task of :meth:`Calm.stride`, where there is no value."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __repr__(self) -> str:
        return f"<{self._what}>"


UNDER_WAY: Any = _Unfinished("under way")
"""The body goes on, or its ending comes as an event of its own."""
LATE: Any = _Unfinished("late")
"""The same, and it is time to look up."""
NOT_STARTED: Any = _Unfinished("not started")
"""The body was not called, so the start is taken back."""


class Calm(Ledger):
    """The part of a run's machine for tasks that start and succeed, with nothing else to be done."""

    __slots__ = ()

    def starts(self, most: int) -> list[int]:
        """
        Return the tasks to start now, no more than *most*, and forget having said so: highest priority first, then plan
        order. What ``due`` says by a command for each, while the run is calm. Those in hand already come alone.
        """
        if self.line:
            line, self.line = self.line, []
            line.reverse()
            return line
        ready, self.ready = self.ready, []
        if len(ready) > 1:
            ready.sort(key=None if self.plan.ranks is None else self.plan.ranks.__getitem__)
            if len(ready) > most:
                ready, self.ready = ready[:most], ready[most:]
        return ready

    def has_starts(self) -> bool:
        """Whether there is something to start."""
        return bool(self.line or self.ready)

    def is_busy(self) -> bool:
        """Whether something is to be started or under way, so that the run cannot have come to its end."""
        return bool(self.bodies or self.line or self.ready)

    def stride(self, page: list[m.Event], answer: list[Any], interruption: Sized) -> Generator[int, None, None]:
        """
        Yield what :meth:`starts` would return, each task to be performed before the next is asked for. *answer* then
        has its value, or UNDER_WAY, LATE or NOT_STARTED. Both events of each are added to *page*, the first before it
        is yielded.

        Ends where nothing is ready, and after LATE. What was ready at one moment is started whatever becomes of the
        others, as in a turn: what is left of it comes first in the next stride, before any message is taken. Only
        behind it *interruption*, if it has something in it, ends this.

        A generator keeps its place and its names, so this takes half as long as two calls of ``apply``; and to leave an
        answer takes less than to send it.
        """
        states, attempts, started, values = self.states, self.attempts, self.started, self.values
        waiting_for, successors, size = self._waiting_for, self.plan.successors, len(self.states)
        line, ready, starts, done, settled = self.line, self.ready, self._starts, 0, 0
        put, attempt_started, attempt_succeeded = page.append, m.AttemptStarted, m.AttemptSucceeded
        try:
            while True:
                if line:
                    task = line.pop()
                elif interruption or not ready:
                    return
                elif len(ready) == 1:
                    task = ready.pop()
                else:
                    self.line = line = self.starts(MOST_AT_ONCE)
                    ready = self.ready
                    line.reverse()
                    continue
                if states[task] != PENDING:
                    continue  # it has started since
                states[task] = RUNNING
                attempts[task] = attempt = attempts[task] + 1
                is_first = not started[task]
                if is_first:
                    starts += 1
                    started[task] = starts
                place = len(page)
                put(attempt_started(task, attempt))
                yield task
                value = answer[0]
                if value is NOT_STARTED:
                    # Nobody has seen that start. What is behind it on the page was told while its inputs were read.
                    del page[place]
                    states[task] = PENDING
                    attempts[task] -= 1
                    if is_first:
                        starts -= 1
                        started[task] = 0
                    ready.extend((task, *line))
                    line.clear()
                    self.is_calm = False
                    return
                done += 1
                if value is UNDER_WAY:
                    self.bodies += 1
                elif value is LATE:
                    self.bodies += 1
                    return
                else:
                    states[task] = SUCCEEDED
                    values[task] = value
                    put(attempt_succeeded(task, value))
                    settled += 1
                    for after in successors[task]:
                        left = waiting_for[after] - 1
                        waiting_for[after] = left
                        if not left:
                            if after < size:
                                ready.append(after)
                            else:
                                self._settle(after)
        finally:
            self._starts = starts
            self._left -= settled
            self.tally.attempts += done

    def calm_down(self) -> None:
        """Be calm from here on where, behind what has been handed out, nothing can be due but starts and the end."""
        self.is_calm = (
            self.phase is RunState.RUNNING
            and not (self._cancels or self._undecided or self._reverts or self._gates or self._skips or self._held)
            and not (self._ended or self._halts or self.waits or self.in_doubt or self.crashes or self._remaking)
            and not (self.is_suspended or self.suspend_reason is not None)
            # A task that was skipped has no value to be read.
            and not (self.plan.guards or self.plan.has_timed_scopes or SKIPPED in self.states)
        )

    def apply(self, event: m.Event) -> None:
        """
        Change the state by one *event*.

        Raises:
            IllegalTransition: The event does not fit the state. That is a bug, or a journal that was tampered with.
        """
        if self.is_calm:
            kind = type(event)
            if kind is m.AttemptSucceeded and self.states[task := event.task] == RUNNING:  # type: ignore[attr-defined]
                self.states[task] = SUCCEEDED
                self.values[task] = event.value  # type: ignore[attr-defined]
                self.bodies -= 1
                self._left -= 1
                self._settle(task)
                return
            if kind is m.AttemptStarted and self.states[task := event.task] == PENDING:  # type: ignore[attr-defined]
                self.states[task] = RUNNING
                self.attempts[task] = event.attempt  # type: ignore[attr-defined]
                self.tally.attempts += 1
                self.bodies += 1
                if not self.started[task]:
                    self._starts += 1
                    self.started[task] = self._starts
                return
            self.is_calm = False
        self._change(event)

    def _change(self, event: m.Event) -> None:
        """Apply any event, at any time."""
        raise NotImplementedError  # pragma: no cover  # a whole machine has it
