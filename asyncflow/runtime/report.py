"""What a journal says of one run, for people to read: folded by the same machine, opened by nobody's class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.graph import record as recorded
from asyncflow.graph.plan import Plan
from asyncflow.interfaces import RunInfo, Store
from asyncflow.machine.ledger import NO_VALUE
from asyncflow.machine.replay import fold, plans_named
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Failure, Sealed
from asyncflow.states import RunState, TaskState


@attrs.frozen
class TaskReport:
    """
    One task of a run.

    ``started`` and ``ended`` are POSIX seconds of its latest attempt (or revert), None where there is none; ``value``
    is a one-line picture of what it returned, ``failure`` of what it failed with.
    """

    path: str
    state: TaskState
    attempts: int
    lost: int
    started: float | None
    ended: float | None
    value: str | None
    failure: str | None
    progress: float | None

    @property
    def seconds(self) -> float | None:
        """How long its latest attempt took, None while it has not ended."""
        return None if self.started is None or self.ended is None else self.ended - self.started


@attrs.frozen
class RunReport:
    """
    One run, as its journal tells it up to now.

    ``state`` is INTERRUPTED where its owner is dead; ``phase`` is what it was doing all the same. ``failures`` has path
    to failure of tasks that failed for good and of reverts that did; ``reason`` is why it was cancelled or suspended.
    """

    run_id: str
    flow: str
    flow_ref: str | None
    state: RunState
    phase: RunState
    owner: str | None
    created: float
    updated: float
    deadline: float | None
    reason: str | None
    inputs: Mapping[str, str]
    tasks: Sequence[TaskReport]
    failures: Mapping[str, Failure]
    plan: Plan = attrs.field(repr=False)

    def states(self) -> dict[str, TaskState]:
        """Return path to state."""
        return {task.path: task.state for task in self.tasks}


async def inspect(store: Store, codec: Codec, run_id: str) -> RunReport:
    """Return the report of a run as *store* has it now; *codec* pictures the values."""
    info = await store.info(run_id)
    records = await store.read(run_id)
    plans = {name: recorded.decode(await store.plan(name)) for name in set(plans_named(records))}
    return report(info, records, plans, lambda value: _picture(value, codec))


def report(
    info: RunInfo, records: Sequence[m.Record], plans: Mapping[str, Plan], summary: Callable[[Any], str]
) -> RunReport:
    """Return the report of a run from its *records*; *summary* pictures a value, sealed or not, in one line."""
    machine = fold(records, plans)
    spans, progress = _spans(records, machine)
    plan = machine.plan
    tasks = [_task_report(machine, task, spans.get(task), progress.get(task), summary) for task in range(plan.size)]
    failures = {
        plan.path(task): outcome for task in machine.failures if isinstance(outcome := machine.outcomes[task], Failure)
    }
    failures |= {f"{plan.path(task)} (revert)": failure for task, failure in machine.revert_failures.items()}
    return RunReport(
        run_id=info.run_id,
        flow=info.flow,
        flow_ref=info.flow_ref,
        state=info.state,
        phase=machine.phase,
        owner=info.owner,
        created=info.created,
        updated=info.updated,
        deadline=machine.deadline,
        reason=machine.cancel_reason or machine.suspend_reason,
        inputs={name: summary(value) for name, value in machine.inputs.items()},
        tasks=tasks,
        failures=failures,
        plan=plan,
    )


def _task_report(
    machine: RunMachine,
    task: int,
    span: tuple[float | None, float | None] | None,
    progress: float | None,
    summary: Callable[[Any], str],
) -> TaskReport:
    value, outcome = machine.values[task], machine.outcomes.get(task)
    failure = machine.revert_failures.get(task) or outcome
    started, ended = span or (None, None)
    state = TaskState(machine.states[task])
    return TaskReport(
        path=machine.plan.path(task),
        state=state,
        attempts=machine.attempts[task],
        lost=machine.lost.get(task, 0),
        started=started,
        ended=ended,
        value=None if value is NO_VALUE else summary(value),
        failure=f"{failure.type_name}: {failure.text}" if isinstance(failure, Failure) else None,
        progress=progress if state is TaskState.RUNNING else None,
    )


_STARTS = (m.AttemptStarted, m.RevertStarted, m.ReconcileStarted)
_ENDINGS = (
    m.AttemptSucceeded,
    m.AttemptFailed,
    m.AttemptTimedOut,
    m.AttemptCancelled,
    m.AttemptLost,
    m.RevertSucceeded,
    m.RevertFailed,
)


def _spans(
    records: Sequence[m.Record], machine: RunMachine
) -> tuple[dict[int, tuple[float | None, float | None]], dict[int, float]]:
    """
    Return, for each task of the plan in force, when its latest attempt began and ended, and its latest progress.

    A changed plan numbers tasks anew, so spans from before a change are dropped.
    """
    spans: dict[int, tuple[float | None, float | None]] = {}
    progress: dict[int, float] = {}
    for record in records:
        for event in record.events:
            if isinstance(event, m.RunResumed) and event.plan is not None:
                spans.clear()
                progress.clear()
            elif isinstance(event, _STARTS):
                spans[event.task] = (record.at, None)
                progress.pop(event.task, None)
            elif isinstance(event, _ENDINGS):
                spans[event.task] = (spans.get(event.task, (None, None))[0], record.at)
            elif isinstance(event, m.Progressed):
                progress[event.task] = event.fraction
    return spans, progress


def _picture(value: Any, codec: Codec) -> str:
    """Picture a value in a line, a large one without loading it."""
    if not isinstance(value, Sealed):
        return repr(value)
    return codec.summary(value.payload) if value.payload is not None else f"<{value.size_bytes:,} bytes, kept apart>"
