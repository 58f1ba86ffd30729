"""
A whole run: events in, commands out.

Seven invariants hold, and each has a test of its name:

- *journal first*: no command leaves before the events behind it are durable, in the sense of the run's level. The
  machine's part: a command follows from the state alone, so the events that made the state are all that it needs.
- *one owner*: one engine at a time appends to a run's journal.
- *one ending*: an attempt may happen more than once, its outcome is recorded exactly once.
- *inputs first*: a task starts only when everything before it has settled.
- *reverse order*: a task is undone only after everything after it that started has been.
- *quiet after the end*: a run that has ended asks for nothing.
- *replay is living*: the machine folded from a journal equals the machine that wrote it.

A task's state is one byte, its count of unmet predecessors one number, its value one slot. Whatever few tasks have (a
failure, a wait, a lost attempt) is in a dictionary that is empty in most runs.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable
from typing import Any, ClassVar

from asyncflow import messages as m
from asyncflow.errors import InternalError
from asyncflow.graph.plan import Plan
from asyncflow.machine import lifecycle
from asyncflow.machine.revert import ReverseOrder
from asyncflow.outcomes import Cancelled, Failure, TimedOut
from asyncflow.states import ALLOWED_TASK_STEPS, RunState, TaskState, check_run_step, check_task_step

_PENDING, _RUNNING, _WAITING = int(TaskState.PENDING), int(TaskState.RUNNING), int(TaskState.WAITING)
_SUCCEEDED, _FAILED, _TIMED_OUT = int(TaskState.SUCCEEDED), int(TaskState.FAILED), int(TaskState.TIMED_OUT)
_CANCELLED, _SKIPPED, _REVERTING = int(TaskState.CANCELLED), int(TaskState.SKIPPED), int(TaskState.REVERTING)
_REVERTED, _REVERT_FAILED = int(TaskState.REVERTED), int(TaskState.REVERT_FAILED)
_SETTLED = frozenset({_SUCCEEDED, _SKIPPED})
_UNDOABLE = frozenset({_SUCCEEDED, _FAILED, _TIMED_OUT, _CANCELLED})

RUN_DEADLINE = -1
"""The scope that ``DeadlinePassed`` names for the deadline of the run, which lies around all flows."""


class _NoValue:
    """Stands where a task has no value."""

    def __repr__(self) -> str:
        return "<no value>"


NO_VALUE: Any = _NoValue()


class RunMachine:
    """
    Decides one run. ``apply`` an event to change the state, ask ``due`` what is to be done.

    ``due`` hands each thing out once; whoever takes it answers with an event or keeps it. Everything else here is state
    to read and not to touch: ``states`` has a byte for each task, ``values`` a slot, ``failures`` the tasks that failed
    for good, in order, ``outcomes`` how each task that did not succeed ended.
    """

    __slots__ = (
        "_bodies",
        "_cancels",
        "_ended",
        "_left",
        "_opening",
        "_ready",
        "_reverse",
        "_reverts",
        "_reverts_open",
        "_suspend_due",
        "_undecided",
        "_waiting_for",
        "_end_due",
        "attempts",
        "cancel_reason",
        "crashes",
        "deadline",
        "executions",
        "failures",
        "flow",
        "goal",
        "in_doubt",
        "inputs",
        "is_suspended",
        "late_scopes",
        "lost",
        "order",
        "outcomes",
        "phase",
        "places",
        "plan",
        "retired",
        "revert_attempts",
        "revert_failures",
        "revert_values",
        "reverting",
        "run_id",
        "scope_deadlines",
        "states",
        "suspend_reason",
        "values",
        "waits",
    )

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run_id = ""
        self.flow = plan.flow
        self.inputs: dict[str, Any] = {}
        self.deadline: float | None = None

        # The run: how far it is, and where it is going to end once it is being undone.
        self.phase = RunState.PENDING
        self.goal: RunState | None = None
        self.is_suspended = False
        self.suspend_reason: str | None = None
        self.cancel_reason: str | None = None

        # Each task.
        size = plan.size
        self.states = bytearray(size)
        self.attempts = array("I", bytes(4 * size))
        self.values: list[Any] = [NO_VALUE] * size
        self.order: list[int] = []  # tasks as they started, each once in an execution

        # What few tasks have.
        self.outcomes: dict[int, Failure | TimedOut | Cancelled] = {}
        self.failures: list[int] = []
        self.waits: dict[int, float] = {}  # task to when its next attempt, or next try at its revert, is due
        self.lost: dict[int, int] = {}  # attempts lost in this execution
        self.crashes: dict[int, int] = {}  # those of them in a row, without an ending, that the process died of
        self.in_doubt: set[int] = set()
        self.executions: dict[int, int] = {}  # executions completed and undone
        self.reverting: set[int] = set()  # tasks whose revert is on its way
        self.revert_attempts: dict[int, int] = {}
        self.revert_failures: dict[int, Failure] = {}
        self.revert_values: dict[int, Any] = {}
        self.scope_deadlines: dict[int, float] = {}
        self.late_scopes: list[int] = []  # scopes whose deadline passed
        self.retired: dict[str, int] = {}  # path to last state of tasks that a changed flow no longer has

        # Counts that tell when a run is still, and what is due.
        self._waiting_for = list(plan.pending)
        self._left = size  # tasks that have not settled
        self._bodies = 0  # bodies running, or ended and not yet decided about
        self._reverts_open = 0  # reverts due, running or waiting
        self._reverse: ReverseOrder | None = None
        self.places: dict[int, int] = {}  # task to its place in `order`, once the run is being undone
        self._ended: dict[int, tuple[Failure | TimedOut, bool]] = {}  # attempts to decide about: ending, retriable
        self._undecided: list[int] = []
        self._ready: list[int] = []
        self._reverts: list[int] = []
        self._cancels: list[m.Cancel] = []
        self._opening: set[int] = set()  # scopes whose OpenScope has been handed out
        self._end_due = False
        self._suspend_due = False

    # --- Reading ----------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> RunState:
        """The run's state: SUSPENDED while it stands still, else its phase."""
        return RunState.SUSPENDED if self.is_suspended else self.phase

    @property
    def is_forward(self) -> bool:
        """Whether the run still tries to get its tasks done."""
        return self.phase is RunState.RUNNING

    def has_started(self, task: int) -> bool:
        """Whether *task* has started in its present execution, so that undoing the run concerns it."""
        return self.attempts[task] > 0

    def in_flight(self) -> list[int]:
        """Return the tasks whose body or revert has started and has no ending: what a crash loses."""
        ended, reverting = self._ended, self.reverting
        return [
            task
            for task, state in enumerate(self.states)
            if (state == _RUNNING and task not in ended) or (state == _REVERTING and task in reverting)
        ]

    def wants(self, task: int) -> bool:
        """Whether a start or revert of *task* that was handed out is still to be done."""
        if self.suspend_reason is not None or self.is_suspended:
            return False
        state = self.states[task]
        if self.phase is RunState.RUNNING:
            return state == _PENDING or state == _WAITING
        return self.phase is RunState.REVERTING and (state in _UNDOABLE or state == _REVERTING)

    def is_late(self, scope: int) -> bool:
        """Whether *scope* still has something to do, so that the passing of its deadline matters."""
        if self.phase is not RunState.RUNNING:
            return False
        if scope <= 0:
            return True
        plan = self.plan
        return any(
            state not in _SETTLED and scope in plan.enclosing(plan.scope_of[task])
            for task, state in enumerate(self.states)
        )

    def deadline_of(self, task: int) -> float | None:
        """Return the nearest deadline of the run and of all flows around *task*, POSIX seconds, or None."""
        found = self.deadline
        if self.scope_deadlines:
            for scope in self.plan.enclosing(self.plan.scope_of[task]):
                limit = self.scope_deadlines.get(scope)
                if limit is not None and (found is None or limit < found):
                    found = limit
        return found

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state in plain values, to compare a machine with its replay."""
        return {
            "run": (self.run_id, self.flow, self.phase.value, self.is_suspended, self.suspend_reason),
            "goal": (self.goal, self.cancel_reason, self.deadline, sorted(self.inputs)),
            "states": bytes(self.states),
            "attempts": self.attempts.tolist(),
            "valued": [value is not NO_VALUE for value in self.values],
            "order": list(self.order),
            "waiting_for": list(self._waiting_for),
            "outcomes": {task: repr(outcome) for task, outcome in self.outcomes.items()},
            "failures": list(self.failures),
            "waits": dict(self.waits),
            "lost": (dict(self.lost), dict(self.crashes), sorted(self.in_doubt)),
            "executions": dict(self.executions),
            "reverts": (dict(self.revert_attempts), {t: repr(f) for t, f in self.revert_failures.items()}),
            "reverting": (sorted(self.reverting), sorted(self.revert_values)),
            "scopes": (dict(self.scope_deadlines), list(self.late_scopes)),
            "undecided": sorted(self._ended),
            "counts": (self._left, self._bodies, self._reverts_open),
            "retired": dict(self.retired),
        }

    # --- Deciding ---------------------------------------------------------------------------------------------------------

    def due(self, most_starts: int = sys.maxsize) -> list[m.Command]:
        """
        Return what is to be done now, in the order in which to do it, and forget having said so.

        No more than *most_starts* bodies; the rest are due the next time.

        Cancels come first, then decisions, then reverts, then starts: highest priority first, then plan order; reverts in
        reverse order of start. A run that is still asks for its end.
        """
        commands: list[m.Command] = []
        if self._cancels:
            commands.extend(self._cancels)
            self._cancels.clear()
        if self._undecided:
            self._decide(commands)
        if self.suspend_reason is None and not self.is_suspended:
            if self._ready and self.phase is RunState.RUNNING:
                self._list_starts(commands, most_starts)
            elif self._reverts and self.phase is RunState.REVERTING:
                self._list_reverts(commands)
        if not commands and not self._bodies:
            self._list_ending(commands)
        return commands

    def _decide(self, commands: list[m.Command]) -> None:
        declared = self.plan.tasks
        if declared is None:
            raise InternalError(f"the plan of run {self.run_id!r} was read from a journal and cannot decide anything")
        undecided, self._undecided = self._undecided, []
        for task in undecided:
            attempt = self.attempts[task]
            if self.states[task] == _REVERTING:
                retriable = self._ended[task][1]
                commands.append(
                    lifecycle.after_failed_revert(
                        task, declared[task], self.revert_attempts[task], retriable=retriable
                    )
                )
            else:
                retriable = self._ended[task][1] and self.phase is RunState.RUNNING
                lost = self.lost.get(task, 0)
                commands.append(
                    lifecycle.after_failure(task, declared[task], attempt, lost, retriable=retriable)
                )

    def _list_starts(self, commands: list[m.Command], most: int) -> None:
        ready, self._ready = self._ready, []
        if len(ready) > 1:
            # What an earlier call left over is in order already, which makes this a merge.
            ready.sort(key=None if self.plan.ranks is None else self.plan.ranks.__getitem__)
            if len(ready) > most:
                ready, self._ready = ready[:most], ready[most:]
        states, attempts = self.states, self.attempts
        if self.plan.has_timed_scopes:
            self._list_scopes(ready, commands)
        for task in ready:
            state = states[task]
            if state == _PENDING:
                if task in self.in_doubt:
                    commands.append(self._after_loss(task))
                else:
                    commands.append(m.Start(task, attempts[task] + 1))
            elif state == _WAITING:
                commands.append(m.Start(task, attempts[task] + 1, self.waits[task]))

    def _after_loss(self, task: int) -> m.Command:
        assert self.plan.tasks is not None
        attempt, crashes = self.attempts[task], self.crashes.get(task, 0)
        return lifecycle.after_loss(task, self.plan.tasks[task], self.plan.path(task), attempt, crashes)

    def _list_scopes(self, ready: list[int], commands: list[m.Command]) -> None:
        for task in ready:
            for scope in reversed(self.plan.enclosing(self.plan.scope_of[task])):
                timed = self.plan.scopes[scope].timeout is not None
                if timed and scope not in self.scope_deadlines and scope not in self._opening:
                    self._opening.add(scope)
                    commands.append(m.OpenScope(scope))

    def _list_reverts(self, commands: list[m.Command]) -> None:
        reverts, self._reverts = self._reverts, []
        if len(reverts) > 1:
            reverts.sort(key=self.places.__getitem__, reverse=True)
        for task in reverts:
            attempt = self.revert_attempts.get(task, 0) + 1
            commands.append(m.Revert(task, attempt, self.waits.get(task)))

    def _list_ending(self, commands: list[m.Command]) -> None:
        if self.phase is RunState.RUNNING:
            if not self._left and not self._end_due:
                self._end_due = True
                commands.append(m.End(RunState.SUCCEEDED.value))
        elif self.phase is RunState.REVERTING:
            if not self._reverts_open and not self._end_due:
                self._end_due = True
                assert self.goal is not None
                complete = all(state not in _UNDOABLE or not self.attempts[task] for task, state in enumerate(self.states))
                complete = complete and not self.revert_failures
                commands.append(m.End((self.goal if complete else RunState.FAILED).value))
        if self.suspend_reason is not None and not (
            self._end_due or self._suspend_due or self.reverting or self.is_suspended or self.phase.is_ended
        ):
            self._suspend_due = True
            commands.append(m.Suspend())

    # --- Applying ---------------------------------------------------------------------------------------------------------

    def apply(self, event: m.Event) -> None:
        """
        Change the state by one *event*.

        Raises:
            IllegalTransition: The event does not fit the state. That is a bug, or a journal that was tampered with.
        """
        self._APPLY[type(event)](self, event)

    def _run_started(self, event: m.RunStarted) -> None:
        self._go(RunState.RUNNING)
        self.run_id, self.flow = event.run_id, event.flow
        self.inputs, self.deadline = event.inputs, event.deadline
        self._open_roots()

    def _open_roots(self) -> None:
        size = self.plan.size
        for node in self.plan.roots():
            if node < size:
                self._ready.append(node)
            else:
                self._settle(node)

    def _run_resumed(self, event: m.RunResumed) -> None:
        self.is_suspended = False
        self.suspend_reason = None
        self._suspend_due = self._end_due = False
        if event.deadline is not None:
            self.deadline = event.deadline
        if self.phase is RunState.FAILED:
            self._go(RunState.REVERTING)
            self.revert_attempts.clear()
            self.revert_failures.clear()
        self._relist()

    def _relist(self) -> None:
        # A resume starts from the state alone: whatever had been handed out before it was handed to a process that is gone.
        self._ready.clear()
        self._reverts.clear()
        self._cancels.clear()
        self._opening.clear()
        self._undecided = sorted(self._ended)
        size, states = self.plan.size, self.states
        if self.phase is RunState.RUNNING:
            waiting_for = self._waiting_for
            self._ready.extend(
                task
                for task in range(size)
                if states[task] == _WAITING or (states[task] == _PENDING and not waiting_for[task])
            )
        elif self.phase is RunState.REVERTING:
            assert self._reverse is not None
            self._reverts_open = 0
            for task in range(size):
                state = states[task]
                if state == _REVERTING:
                    self._reverts_open += 1
                    if task not in self.reverting and task not in self._ended:
                        self._reverts.append(task)
                elif state == _REVERT_FAILED or (state in _UNDOABLE and self.attempts[task]):
                    if self._reverse.is_open(task):
                        self._reverts_open += 1
                        self._reverts.append(task)

    def _cancel_requested(self, event: m.CancelRequested) -> None:
        if self.phase is RunState.RUNNING:
            self.cancel_reason = event.reason
            self._undo(RunState.CANCELLED)

    def _suspend_requested(self, event: m.SuspendRequested) -> None:
        if not self.phase.is_ended and self.suspend_reason is None:
            self.suspend_reason = event.reason

    def _run_suspended(self, event: m.RunSuspended) -> None:
        check_run_step(self.phase, RunState.SUSPENDED, self.run_id)
        self.is_suspended = True

    def _deadline_passed(self, event: m.DeadlinePassed) -> None:
        if self.phase is RunState.RUNNING:
            self.late_scopes.append(event.scope)
            self._undo(RunState.REVERTED)

    def _run_ended(self, event: m.RunEnded) -> None:
        self._go(RunState(event.state))

    def _scope_started(self, event: m.ScopeStarted) -> None:
        if event.deadline is not None:
            self.scope_deadlines[event.scope] = event.deadline
        self._opening.discard(event.scope)

    def _attempt_started(self, event: m.AttemptStarted) -> None:
        task = event.task
        old = self._step(task, _RUNNING)
        self.attempts[task] = event.attempt
        self._bodies += 1
        if event.attempt == 1:
            self.order.append(task)
        if old == _WAITING:
            del self.waits[task]
        if self.in_doubt:
            self.in_doubt.discard(task)

    def _reconcile_started(self, event: m.ReconcileStarted) -> None:
        task = event.task
        self._step(task, _RUNNING)
        self._bodies += 1
        # The lost attempt is about to get its ending after all, or to be lost again.
        self.lost[task] -= 1
        self.in_doubt.discard(task)

    def _attempt_succeeded(self, event: m.AttemptSucceeded) -> None:
        task = event.task
        self._step(task, _SUCCEEDED)
        self.values[task] = event.value
        self._bodies -= 1
        self._left -= 1
        if self.crashes:
            self.crashes.pop(task, None)
        if self.phase is RunState.RUNNING:
            self._settle(task)
        else:
            self._undo_when_open(task)

    def _attempt_failed(self, event: m.AttemptFailed) -> None:
        self._attempt_ended(event.task, event.failure, event.retriable)

    def _attempt_timed_out(self, event: m.AttemptTimedOut) -> None:
        self._attempt_ended(event.task, TimedOut(event.abandoned), event.retriable)

    def _attempt_ended(self, task: int, ending: Failure | TimedOut, retriable: bool) -> None:
        # The task stays RUNNING until due() has decided whether another attempt follows, which reads the policy; what
        # it decided is the next event, so a replay reads no policy.
        check_task_step(self.states[task], _FAILED, self.plan.path(task))
        self._ended[task] = (ending, retriable)
        self._undecided.append(task)
        self.crashes.pop(task, None)

    def _attempt_cancelled(self, event: m.AttemptCancelled) -> None:
        self._bodies -= 1
        self._stop(event.task, Cancelled(event.abandoned))

    def _stop(self, task: int, outcome: Cancelled) -> None:
        self._step(task, _CANCELLED)
        self.outcomes[task] = outcome
        self._left -= 1
        self.waits.pop(task, None)
        self.crashes.pop(task, None)
        self._undo_when_open(task)

    def _attempt_lost(self, event: m.AttemptLost) -> None:
        task = event.task
        if self.states[task] == _REVERTING:
            self.reverting.discard(task)
            self._reverts.append(task)
            return
        self._bodies -= 1
        self.lost[task] = self.lost.get(task, 0) + 1
        if event.cause != "reconciled":
            self.in_doubt.add(task)
        if event.cause == "crash":
            self.crashes[task] = self.crashes.get(task, 0) + 1
        if self.phase is RunState.RUNNING:
            self._step(task, _PENDING)
            self._ready.append(task)
        else:
            self._stop(task, Cancelled())

    def _time_limit_passed(self, event: m.TimeLimitPassed) -> None:
        if self.states[event.task] == _RUNNING and event.task not in self._ended:
            self._cancels.append(m.Cancel(event.task, "timeout"))

    def _retry_scheduled(self, event: m.RetryScheduled) -> None:
        task = event.task
        ending, _ = self._ended.pop(task)
        self.waits[task] = event.at
        if self.states[task] == _REVERTING:
            self._reverts.append(task)
            return
        self._step(task, _WAITING)
        self.outcomes[task] = ending
        self._bodies -= 1
        if self.phase is RunState.RUNNING:
            self._ready.append(task)
        else:
            # Two endings in one turn: the first was to be tried again, then the second failed the run.
            self._stop(task, Cancelled())

    def _task_failed(self, event: m.TaskFailed) -> None:
        task = event.task
        ending = self._ended.pop(task, None)
        if ending is not None:
            self._bodies -= 1
        outcome = event.failure or (ending[0] if ending else None)
        if outcome is None:
            raise InternalError(f"task {self.plan.path(task)!r} failed without a reason")
        new = _TIMED_OUT if isinstance(outcome, TimedOut) else _FAILED
        self._step(task, new)
        self.outcomes[task] = outcome
        self.failures.append(task)
        self.in_doubt.discard(task)
        self._left -= 1
        if self.phase is RunState.RUNNING:
            self._undo(RunState.REVERTED)
        else:
            self._undo_when_open(task)

    def _revert_started(self, event: m.RevertStarted) -> None:
        task = event.task
        self._step(task, _REVERTING)
        self.revert_attempts[task] = event.attempt
        self.reverting.add(task)
        self.waits.pop(task, None)

    def _revert_succeeded(self, event: m.RevertSucceeded) -> None:
        task = event.task
        self._step(task, _REVERTED)
        self.reverting.discard(task)
        self.values[task] = NO_VALUE
        self.revert_values[task] = event.value
        self.executions[task] = self.executions.get(task, 0) + 1
        self._reverts_open -= 1
        assert self._reverse is not None
        # What is opened by this may still be running, and then is undone when it ends.
        for opened in self._reverse.clear((task,), self.attempts):
            if self.states[opened] in _UNDOABLE:
                self._reverts_open += 1
                self._reverts.append(opened)

    def _revert_failed(self, event: m.RevertFailed) -> None:
        task = event.task
        check_task_step(self.states[task], _REVERT_FAILED, self.plan.path(task))
        self.reverting.discard(task)
        self._ended[task] = (event.failure, event.retriable)
        self._undecided.append(task)

    def _revert_given_up(self, event: m.RevertGivenUp) -> None:
        task = event.task
        check_task_step(self.states[task], _REVERT_FAILED)
        failure, _ = self._ended.pop(task)
        assert isinstance(failure, Failure)
        self.states[task] = _REVERT_FAILED
        self.revert_failures[task] = failure
        self._reverts_open -= 1

    def _ignored(self, event: m.Event) -> None:
        """Progress and what tasks emit are for observers."""

    # --- Undoing ----------------------------------------------------------------------------------------------------------

    def _undo(self, goal: RunState) -> None:
        """Turn the run round: nothing more starts, what runs is told to stop, what has ended is undone in reverse."""
        self._go(RunState.REVERTING)
        self.goal = goal
        self._ready.clear()
        self._reverse = ReverseOrder(self.plan)
        self.places = {task: place for place, task in enumerate(self.order)}
        opened = self._reverse.start(self.attempts)
        states = self.states
        for task in opened:
            if states[task] in _UNDOABLE:
                self._reverts_open += 1
                self._reverts.append(task)
        for task, state in enumerate(states):
            if state == _RUNNING:
                if task not in self._ended:
                    self._cancels.append(m.Cancel(task, "cancel"))
            elif state == _WAITING or (state == _PENDING and self.attempts[task]):
                self._stop(task, Cancelled())

    def _undo_when_open(self, task: int) -> None:
        if self.attempts[task] and self._reverse is not None and self._reverse.is_open(task):
            self._reverts_open += 1
            self._reverts.append(task)

    # --- Changing the plan ------------------------------------------------------------------------------------------------

    def adopt(self, plan: Plan) -> None:
        """
        Go on under another *plan*: every task keeps its state by its path.

        Whether the plan fits is for ``graph.record`` to say, before. A task that is gone keeps its last state in
        ``retired``; a new one is PENDING. Called right before the ``RunResumed`` that names the plan.
        """
        old, moved = self.plan, dict[int, int]()
        known = {plan.path(task): task for task in range(plan.size)}
        for task in range(old.size):
            path = old.path(task)
            if path in known:
                moved[task] = known[path]
            elif self.attempts[task]:
                self.retired[path] = self.states[task]
        self.plan = plan
        self._move(moved)
        self._recount()

    def _move(self, moved: dict[int, int]) -> None:
        states, attempts, values = self.states, self.attempts, self.values
        size = self.plan.size
        self.states, self.attempts, self.values = bytearray(size), array("I", bytes(4 * size)), [NO_VALUE] * size
        for task, new in moved.items():
            self.states[new], self.attempts[new], self.values[new] = states[task], attempts[task], values[task]
        self.order = [moved[task] for task in self.order if task in moved]
        self.failures = [moved[task] for task in self.failures if task in moved]
        self.in_doubt = {moved[task] for task in self.in_doubt if task in moved}
        self.reverting = {moved[task] for task in self.reverting if task in moved}
        for name in (
            "outcomes", "waits", "lost", "crashes", "executions", "revert_attempts", "revert_failures", "revert_values", "_ended",
        ):  # fmt: skip
            table: dict[int, Any] = getattr(self, name)
            setattr(self, name, {moved[task]: entry for task, entry in table.items() if task in moved})
        # A flow keeps its deadline only where its name and place are unchanged; one that is not known starts afresh.
        self.scope_deadlines = {}

    def _recount(self) -> None:
        states, size = self.states, self.plan.size
        self._waiting_for = list(self.plan.pending)
        self._left = sum(state in (_PENDING, _RUNNING, _WAITING) for state in states)
        self._bodies = sum(state == _RUNNING for state in states)
        for node in self.plan.roots():
            if node >= size:
                self._settle(node)
        for task in range(size):
            if states[task] in _SETTLED:
                self._settle(task)
        if self.phase in (RunState.REVERTING, RunState.FAILED):
            self._reverse = ReverseOrder(self.plan)
            self.places = {task: place for place, task in enumerate(self.order)}
            # Draining marks what is clear; which of the opened are undone next is for the resume to list.
            self._reverse.start(self.attempts)
            for _ in self._reverse.clear((t for t in range(size) if states[t] == _REVERTED), self.attempts):
                pass

    # --- Small steps ------------------------------------------------------------------------------------------------------

    def _step(self, task: int, new: int) -> int:
        old = self.states[task]
        if not ALLOWED_TASK_STEPS[old << 4 | new]:
            check_task_step(old, new, self.plan.path(task))
        self.states[task] = new
        return old

    def _go(self, new: RunState) -> None:
        check_run_step(self.phase, new, self.run_id)
        self.phase = new
        self._end_due = False

    def _settle(self, node: int) -> None:
        """Count *node* in at everything after it. Gates pass on the way, by a stack and not by recursion."""
        successors, waiting_for, size = self.plan.successors, self._waiting_for, self.plan.size
        ready = self._ready
        gates = None
        while True:
            for after in successors[node]:
                left = waiting_for[after] - 1
                waiting_for[after] = left
                if not left:
                    if after < size:
                        ready.append(after)
                    elif gates is None:
                        gates = [after]
                    else:
                        gates.append(after)
            if not gates:
                return
            node = gates.pop()

    _APPLY: ClassVar[dict[type[m.Event], Callable[[RunMachine, Any], None]]] = {
        m.RunStarted: _run_started,
        m.RunResumed: _run_resumed,
        m.CancelRequested: _cancel_requested,
        m.SuspendRequested: _suspend_requested,
        m.RunSuspended: _run_suspended,
        m.DeadlinePassed: _deadline_passed,
        m.RunEnded: _run_ended,
        m.ScopeStarted: _scope_started,
        m.AttemptStarted: _attempt_started,
        m.AttemptSucceeded: _attempt_succeeded,
        m.AttemptFailed: _attempt_failed,
        m.AttemptTimedOut: _attempt_timed_out,
        m.AttemptCancelled: _attempt_cancelled,
        m.AttemptLost: _attempt_lost,
        m.TimeLimitPassed: _time_limit_passed,
        m.RetryScheduled: _retry_scheduled,
        m.TaskFailed: _task_failed,
        m.ReconcileStarted: _reconcile_started,
        m.RevertStarted: _revert_started,
        m.RevertSucceeded: _revert_succeeded,
        m.RevertFailed: _revert_failed,
        m.RevertGivenUp: _revert_given_up,
        m.Progressed: _ignored,
        m.Emitted: _ignored,
    }
