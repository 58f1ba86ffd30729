"""What a journal says of one run, for people to read: folded by the same machine, opened by nobody's class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.graph.plan import Plan
from asyncflow.interfaces import Store
from asyncflow.machine.control import ControlPhase
from asyncflow.machine.failures import failures_of
from asyncflow.machine.ledger import NO_VALUE
from asyncflow.machine.replay import fold
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Failure, Sealed
from asyncflow.runtime.statistics import Statistics, statistics
from asyncflow.runtime.transcript import Transcript, transcript_of
from asyncflow.states import RunState, TaskState


@attrs.frozen
class TaskReport:
    """
    One task of a run.

    ``started`` and ``ended`` are POSIX seconds of its latest attempt (or revert), None where there is none; ``value``
    is a one-line picture of what it returned, ``failure`` of what it failed with. ``said_no`` is whether it is skipped
    for a condition of its own, and not only since something before it is.
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
    said_no: bool

    @property
    def seconds(self) -> float | None:
        """How long its latest attempt took, None while it has not ended."""
        return None if self.started is None or self.ended is None else self.ended - self.started


@attrs.frozen
class FlowReport:
    """
    One flow with a controller: which attempt at it is or was the last, as of now; 0 before the first.

    ``state`` is PENDING, RUNNING, REVERTING, SUCCEEDED (it has ended well), FAILED (its controller gave up), REVERTED,
    REVERT_FAILED or SKIPPED.
    """

    path: str
    controller: str
    state: TaskState
    attempts: int


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
    flows: Sequence[FlowReport]
    statistics: Statistics
    plan: Plan = attrs.field(repr=False)

    def states(self) -> dict[str, TaskState]:
        """Return path to state."""
        return {task.path: task.state for task in self.tasks}

    def critical_path(self) -> list[TaskReport]:
        """
        Return the tasks that the run's duration hangs on, first to last: from the one that ended last, always on to the
        one before it that ended last. Empty if none has ended. Latest attempts count, so a retry shows as a gap.
        """
        ends = [-math.inf if task.ended is None else task.ended for task in self.tasks]
        before, size = self.plan.predecessors(), self.plan.size
        task = max(range(size), key=ends.__getitem__, default=-1)
        found: list[TaskReport] = []
        while task >= 0 and ends[task] > -math.inf:
            found.append(self.tasks[task])
            last, seen, stack = -1, {task}, [task]
            while stack:
                for node in before[stack.pop()]:
                    if node < size and ends[node] > -math.inf:
                        last = node if last < 0 or ends[node] > ends[last] else last
                    elif node not in seen:
                        # A gate, or a task that was skipped: what is before it comes before.
                        seen.add(node)
                        stack.append(node)
            task = last
        return found[::-1]


async def inspect(store: Store, codec: Codec, run_id: str, now: float) -> RunReport:
    """Return the report of a run as *store* has it *now* (POSIX seconds); *codec* pictures the values."""
    return report(await transcript_of(store, run_id), lambda value: _picture(value, codec), now)


def report(transcript: Transcript, summary: Callable[[Any], str], now: float) -> RunReport:
    """Return the report of a run, *now*; *summary* pictures a value, sealed or not, in one line."""
    info, records = transcript.info, transcript.records
    machine = fold(records, transcript.plans)
    if info.state is RunState.INTERRUPTED:
        machine.tally.was_away(now)
    spans, progress = spans_of(records, machine)
    plan = machine.plan
    tasks = [_task_report(machine, task, spans.get(task), progress.get(task), summary) for task in range(plan.size)]
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
        failures=failures_of(machine),
        flows=[_flow_report(machine, scope) for scope in plan.controlled],
        statistics=statistics(machine, now),
        plan=plan,
    )


def _flow_report(machine: RunMachine, scope: int) -> FlowReport:
    plan, control = machine.plan, machine.controls[scope]
    controller = plan.scopes[scope].controller
    state = TaskState(machine.states[controller])
    attempts = len(control.history) + (0 if control.has_answered or not machine.attempts[controller] else 1)
    if control.phase is ControlPhase.UNDOING:
        state = TaskState.REVERTING
    elif state in (TaskState.SUCCEEDED, TaskState.CANCELLED):
        # So is the controller; what it controls may be under way.
        has_failed = control.phase is ControlPhase.GIVEN_UP or machine.phase not in (
            RunState.RUNNING,
            RunState.SUCCEEDED,
        )
        state = TaskState.FAILED if has_failed else TaskState.RUNNING
        if machine.is_settled(scope):
            state = TaskState.SUCCEEDED
    elif attempts and state is TaskState.PENDING:
        state = TaskState.RUNNING  # between two attempts
    return FlowReport(plan.scopes[scope].path, plan.path(controller), state, attempts)


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
        said_no=state is TaskState.SKIPPED
        and any(machine.answers.get(guard) is False for guard in machine.plan.guards_of(task)),
    )


def spans_of(
    records: Sequence[m.Record], machine: RunMachine
) -> tuple[dict[int, tuple[float | None, float | None]], dict[int, float]]:
    """
    Return, for each task of the plan in force, when its latest attempt began and ended, and its latest progress.

    A changed plan numbers tasks anew and a reset forgets them, so spans from before either are dropped.
    """
    spans: dict[int, tuple[float | None, float | None]] = {}
    progress: dict[int, float] = {}
    for record in records:
        for event in record.events:
            if isinstance(event, (m.RunResumed, m.RunReset)) and event.plan is not None:
                spans.clear()
                progress.clear()
            elif isinstance(event, m.STARTS):
                spans[event.task] = (record.at, None)
                progress.pop(event.task, None)
            elif isinstance(event, m.ENDINGS):
                spans[event.task] = (spans.get(event.task, (None, None))[0], record.at)
            elif isinstance(event, m.Progressed):
                progress[event.task] = event.fraction
    return spans, progress


def _picture(value: Any, codec: Codec) -> str:
    """Picture a value in a line, a large one without loading it."""
    if not isinstance(value, Sealed):
        return repr(value)
    return codec.summary(value.payload) if value.payload is not None else f"<{value.size_bytes:,} bytes, kept apart>"
