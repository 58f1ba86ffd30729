"""A run in numbers."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from asyncflow.machine.run import RunMachine
from asyncflow.states import TaskState


@attrs.frozen
class Statistics:
    """
    What a run has done and how long it took, since it was started or reset, over crashes and resumes.

    Attributes:
        seconds: State of the run to seconds in it: RUNNING, REVERTING, SUSPENDED, and INTERRUPTED from the last that a
            process recorded before it died to the resume. States that the run was never in are absent.
        task_seconds: RUNNING, REVERTING and WAITING (for the next attempt) to seconds of all tasks together. More than
            the run's own where tasks ran side by side.
        tasks: State to how many tasks are in it now; states of none are absent.
        attempts: How many attempts were started, those included that a controller or a revert has undone.
        reverts: How many reverts were started.
        lost: How many attempts and reverts had no ending, since their process died or the run was suspended.
        start_overs: How often controllers ran their flows again.
    """

    seconds: Mapping[str, float]
    task_seconds: Mapping[str, float]
    tasks: Mapping[str, int]
    attempts: int
    reverts: int
    lost: int
    start_overs: int


def statistics(machine: RunMachine, now: float | None) -> Statistics:
    """Return the statistics of a run up to *now*, POSIX seconds; with None, up to its last record."""
    tally = machine.tally.until(now)
    task_seconds = {"RUNNING": tally.running, "REVERTING": tally.reverting, "WAITING": tally.waiting}
    counts = {state.name: machine.states.count(state) for state in TaskState}
    return Statistics(
        seconds={state.value: seconds for state, seconds in tally.seconds.items() if seconds},
        task_seconds={state: seconds for state, seconds in task_seconds.items() if seconds},
        tasks={state: count for state, count in counts.items() if count},
        attempts=tally.attempts,
        reverts=tally.reverts,
        lost=tally.losses,
        start_overs=tally.start_overs,
    )
