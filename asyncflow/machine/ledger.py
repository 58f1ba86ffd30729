"""
What a run knows of itself: a byte, a number and a slot for each task, and a dictionary for whatever few tasks have.

A task's state is one byte, its count of unmet predecessors one number, its value one slot. A failure, a wait, a lost
attempt is in a dictionary that is empty in most runs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Any

from asyncflow import messages as m
from asyncflow.errors import IllegalTransition
from asyncflow.graph.plan import Plan
from asyncflow.machine.revert import ReverseOrder
from asyncflow.outcomes import Cancelled, Failure, TimedOut
from asyncflow.states import ALLOWED_TASK_STEPS, RunState, TaskState, check_task_step

# Plain numbers: a byte read from `states` compares with these faster than with the enum.
PENDING, RUNNING, WAITING = int(TaskState.PENDING), int(TaskState.RUNNING), int(TaskState.WAITING)
SUCCEEDED, FAILED, TIMED_OUT = int(TaskState.SUCCEEDED), int(TaskState.FAILED), int(TaskState.TIMED_OUT)
CANCELLED, SKIPPED, REVERTING = int(TaskState.CANCELLED), int(TaskState.SKIPPED), int(TaskState.REVERTING)
REVERTED, REVERT_FAILED = int(TaskState.REVERTED), int(TaskState.REVERT_FAILED)
SETTLED = frozenset({SUCCEEDED, SKIPPED})
UNDOABLE = frozenset({SUCCEEDED, FAILED, TIMED_OUT, CANCELLED})


class _NoValue:
    """Stands where a task has no value."""

    def __repr__(self) -> str:
        return "<no value>"


NO_VALUE: Any = _NoValue()


class Ledger:
    """
    The state of one run, to read and not to touch; :class:`~asyncflow.machine.run.RunMachine` is what changes it.

    ``states`` has a byte for each task, ``values`` a slot, ``attempts`` a count, ``order`` the tasks as they started,
    ``failures`` those that failed for good, in order, and ``outcomes`` how each that did not succeed ended.
    """

    __slots__ = (
        "_bodies",
        "_cancels",
        "_end_due",
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
        "revert_lost",
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
        self.revert_lost: dict[int, int] = {}  # tries at a revert that have no ending
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

    # --- Reading ------------------------------------------------------------------------------------------------------

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
            if (state == RUNNING and task not in ended) or (state == REVERTING and task in reverting)
        ]

    def wants(self, task: int, *, is_revert: bool = False) -> bool:
        """Whether a start of *task* that was handed out, or a revert, is still to be done."""
        if self.suspend_reason is not None or self.is_suspended:
            return False
        state = self.states[task]
        if not is_revert:
            return self.phase is RunState.RUNNING and state in (PENDING, WAITING)
        return self.phase is RunState.REVERTING and (state in UNDOABLE or state in (REVERTING, REVERT_FAILED))

    def is_late(self, scope: int) -> bool:
        """Whether *scope* still has something to do, so that the passing of its deadline matters."""
        if self.phase is not RunState.RUNNING:
            return False
        if scope <= 0:
            return self._left > 0
        plan = self.plan
        return any(
            state not in SETTLED and scope in plan.enclosing(plan.scope_of[task])
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
            "reverts lost": dict(self.revert_lost),
            "reverting": (sorted(self.reverting), sorted(self.revert_values)),
            "scopes": (dict(self.scope_deadlines), list(self.late_scopes)),
            "undecided": sorted(self._ended),
            "counts": (self._left, self._bodies, self._reverts_open),
            "retired": dict(self.retired),
        }

    # --- Changing the plan --------------------------------------------------------------------------------------------

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
            "outcomes", "waits", "lost", "crashes", "executions", "revert_attempts", "revert_lost", "revert_failures",
            "revert_values", "_ended",
        ):  # fmt: skip
            table: dict[int, Any] = getattr(self, name)
            setattr(self, name, {moved[task]: entry for task, entry in table.items() if task in moved})
        # A flow keeps its deadline only where its name and place are unchanged; one that is not known starts afresh.
        self.scope_deadlines = {}

    def _recount(self) -> None:
        states, size = self.states, self.plan.size
        self._waiting_for = list(self.plan.pending)
        self._left = sum(state in (PENDING, RUNNING, WAITING) for state in states)
        self._bodies = sum(state == RUNNING for state in states)
        for node in self.plan.roots():
            if node >= size:
                self._settle(node)
        for task in range(size):
            if states[task] in SETTLED:
                self._settle(task)
        if self.phase in (RunState.REVERTING, RunState.FAILED):
            self._reverse = ReverseOrder(self.plan)
            self.places = {task: place for place, task in enumerate(self.order)}
            # Draining marks what is clear; which of the opened are undone next is for the resume to list.
            self._reverse.start(self.attempts)
            for _ in self._reverse.clear((t for t in range(size) if states[t] == REVERTED), self.attempts):
                pass

    # --- Small steps --------------------------------------------------------------------------------------------------

    def _unopened_scopes(self, tasks: list[int]) -> Iterator[int]:
        """Yield each flow around *tasks* that has a time limit and no deadline yet, once, the outer ones first."""
        plan = self.plan
        for task in tasks:
            for scope in reversed(plan.enclosing(plan.scope_of[task])):
                is_timed = plan.scopes[scope].timeout is not None
                if is_timed and scope not in self.scope_deadlines and scope not in self._opening:
                    self._opening.add(scope)
                    yield scope

    def _step(self, task: int, new: int) -> int:
        old = self.states[task]
        if not ALLOWED_TASK_STEPS[old << 4 | new]:
            check_task_step(old, new, self.plan.path(task))
        self.states[task] = new
        return old

    def _check_in_flight(self, task: int) -> None:
        """Let an ending pass only for what has started and has none: one ending an attempt."""
        state = self.states[task]
        if task in self._ended or not (state == RUNNING or (state == REVERTING and task in self.reverting)):
            raise IllegalTransition(
                f"task {self.plan.path(task)!r} is {TaskState(state).name} and has nothing in flight that could end"
            )

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
