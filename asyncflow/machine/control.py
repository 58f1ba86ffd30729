"""How far one flow with a controller is."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from asyncflow.machine.revert import ReverseOrder
from asyncflow.outcomes import Failure


class ControlPhase(IntEnum):
    """Where a flow with a controller stands. In all but GOING nothing in it starts."""

    GOING = 0
    """It has not begun, is under way, or has ended well."""
    STOPPING = 1
    """Something in it failed for good: it falls still, and then its controller is asked."""
    GIVEN_UP = 2
    """It has failed, and it is for a flow around it to say what becomes of it."""
    UNDOING = 3
    """What started in it is being undone, so that it can run again."""


class Control:
    """
    One flow with a controller.

    Attributes:
        scope: The flow.
        phase: Where it stands.
        busy: While it falls still: how many bodies and reverts in it have no ending yet.
        is_asked: Whether ``due`` has handed out the question.
        has_answered: Whether its controller has answered for the present attempt, which is then the last in history.
        wait: Seconds to wait before it runs again.
        history: Each attempt that its controller has answered for: what the controller gave, and path to failure.
        undoing: The order in which it is undone, while it is.
    """

    __slots__ = ("busy", "has_answered", "history", "is_asked", "phase", "scope", "undoing", "wait")

    def __init__(self, scope: int) -> None:
        self.scope = scope
        self.phase = ControlPhase.GOING
        self.busy = 0
        self.is_asked = False
        self.has_answered = False
        self.wait = 0.0
        self.history: list[tuple[Any, dict[str, Failure]]] = []
        self.undoing: ReverseOrder | None = None

    def start_over(self) -> None:
        """Forget everything: a flow around this one runs again."""
        self.go_on()
        self.history.clear()

    def go_on(self) -> None:
        """Let the present attempt go on, whatever was to become of it: the run goes forward again."""
        if self.has_answered:
            self.history.pop()
        self.phase, self.busy, self.is_asked = ControlPhase.GOING, 0, False
        self.wait, self.undoing, self.has_answered = 0.0, None, False

    def snapshot(self) -> tuple[Any, ...]:
        """Return the whole state in plain values."""
        undoing = None if self.undoing is None else self.undoing.left
        past = [sorted((path, repr(failure)) for path, failure in failures.items()) for _, failures in self.history]
        return (self.phase.name, self.busy if self.phase is ControlPhase.STOPPING else 0, self.wait, past, undoing)
