"""When tasks and runs entered their states."""

from __future__ import annotations

from collections.abc import Mapping

from asyncflow import messages as m
from asyncflow.interfaces import Happening
from asyncflow.observers.shelf import Shelf
from asyncflow.outcomes import TimedOut

_ENTERED: Mapping[type[m.Event], str] = {
    m.RunStarted: "RUNNING",
    m.RunReset: "RUNNING",
    m.RunSuspended: "SUSPENDED",
    m.AttemptStarted: "RUNNING",
    m.ReconcileStarted: "RUNNING",
    m.RetryScheduled: "WAITING",
    m.AttemptSucceeded: "SUCCEEDED",
    m.AttemptCancelled: "CANCELLED",
    m.TaskSkipped: "SKIPPED",
    m.RevertStarted: "REVERTING",
    m.RevertSucceeded: "REVERTED",
    m.RevertGivenUp: "REVERT_FAILED",
}


class Timestamps:
    """
    Notes when each task, and each run, entered each of its states, POSIX seconds.

    Only what is seen counts, and what has an event of its own: a task that became PENDING again, or a run that has
    turned round, has none.

    Args:
        keep: How many runs are remembered; the one that was seen first is forgotten first.
    """

    def __init__(self, *, keep: int = 100) -> None:
        self._runs: Shelf[dict[str, list[tuple[str, float]]]] = Shelf(dict, keep)

    def __call__(self, happening: Happening, /) -> None:
        """Note one event."""
        state = _entered(happening)
        if state is not None:
            entered = self._runs[happening.run_id].setdefault(happening.path, [])
            if state != "WAITING" or (entered and entered[-1][0] == "RUNNING"):  # a revert that waits is REVERTING
                entered.append((state, happening.at))

    def of(self, run_id: str, path: str = "") -> dict[str, float]:
        """Return state to when the task at *path*, or the run itself, entered it last; empty if nothing is known."""
        return dict(self.history(run_id, path))

    def history(self, run_id: str, path: str = "") -> list[tuple[str, float]]:
        """Return every state that it entered, and when, in order."""
        return list((self._runs.find(run_id) or {}).get(path, ()))

    def __repr__(self) -> str:
        return f"<Timestamps of {len(self._runs)} runs>"


def _entered(happening: Happening) -> str | None:
    event = happening.event
    if isinstance(event, m.RunEnded):
        return event.state
    if isinstance(event, m.TaskFailed):
        seen = happening.circumstances
        return "TIMED_OUT" if seen is not None and isinstance(seen.outcome, TimedOut) else "FAILED"
    return _ENTERED.get(type(event))
