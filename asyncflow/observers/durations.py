"""How long tasks take."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from asyncflow import messages as m
from asyncflow.interfaces import Happening
from asyncflow.observers.shelf import Shelf


@attrs.define
class TaskDuration:
    """
    How long one task of one run took, all its attempts together.

    ``seconds`` were spent in its body and ``reverting`` in its revert; ``latest`` is what its latest attempt took, None
    before one has ended.
    """

    path: str
    attempts: int = 0
    seconds: float = 0.0
    latest: float | None = None
    reverts: int = 0
    reverting: float = 0.0


@attrs.define
class _Times:
    """What is known of one run: its tasks, and since when the bodies that are on their way have been."""

    tasks: dict[str, TaskDuration] = attrs.field(factory=dict[str, TaskDuration])
    begun: dict[str, tuple[float, bool]] = attrs.field(factory=dict[str, tuple[float, bool]])


class Durations:
    """
    Measures each task of each run: from the record of its start to the record of its end.

    Only what is seen counts: of a run that is resumed, what it does from then on. What a run's own duration hangs on is
    ``(await engine.inspect(run_id)).critical_path()``.

    Args:
        keep: How many runs are remembered; the one that was seen first is forgotten first.
    """

    def __init__(self, *, keep: int = 100) -> None:
        self._runs: Shelf[_Times] = Shelf(_Times, keep)

    def __call__(self, happening: Happening, /) -> None:
        """Measure one event."""
        event, path = happening.event, happening.path
        if isinstance(event, (m.AttemptStarted, m.RevertStarted)):
            run = self._runs[happening.run_id]
            task = run.tasks.setdefault(path, TaskDuration(path))
            is_revert = isinstance(event, m.RevertStarted)
            if is_revert:
                task.reverts += 1
            else:
                task.attempts += 1
            run.begun[path] = (happening.at, is_revert)
        elif isinstance(event, m.ENDINGS):
            run = self._runs[happening.run_id]
            began = run.begun.pop(path, None)
            if began is None:
                return  # it began before anybody watched
            task, seconds = run.tasks[path], max(0.0, happening.at - began[0])
            if began[1]:
                task.reverting += seconds
            else:
                task.latest = seconds
                task.seconds += seconds

    def of(self, run_id: str) -> Mapping[str, TaskDuration]:
        """Return path to duration of the tasks that have started, in the order in which they did; empty if unknown."""
        run = self._runs.find(run_id)
        return {} if run is None else dict(run.tasks)

    def slowest(self, run_id: str, count: int = 10) -> list[TaskDuration]:
        """Return the tasks whose bodies took longest, the longest first."""
        found = sorted(self.of(run_id).values(), key=lambda task: task.seconds, reverse=True)
        return found[:count]

    def __repr__(self) -> str:
        return f"<Durations of {len(self._runs)} runs>"
