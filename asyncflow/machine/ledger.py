"""
What a run knows of itself: a byte, a number and a slot for each task, and a dictionary for whatever few tasks have.

A task's state is one byte, its count of unmet predecessors one number, its value one slot. A failure, a wait, a lost
attempt is in a dictionary that is empty in most runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from asyncflow import messages as m
from asyncflow.errors import IllegalTransition
from asyncflow.graph.plan import Plan
from asyncflow.machine.control import Control, ControlPhase
from asyncflow.machine.revert import ReverseOrder
from asyncflow.machine.tally import Tally
from asyncflow.outcomes import Cancelled, Failure, TimedOut
from asyncflow.states import ALLOWED_TASK_STEPS, RunState, TaskState, check_task_step

# Plain numbers: a byte read from `states` compares with these faster than with the enum.
PENDING, RUNNING, WAITING = int(TaskState.PENDING), int(TaskState.RUNNING), int(TaskState.WAITING)
SUCCEEDED, FAILED, TIMED_OUT = int(TaskState.SUCCEEDED), int(TaskState.FAILED), int(TaskState.TIMED_OUT)
CANCELLED, SKIPPED, REVERTING = int(TaskState.CANCELLED), int(TaskState.SKIPPED), int(TaskState.REVERTING)
REVERTED, REVERT_FAILED = int(TaskState.REVERTED), int(TaskState.REVERT_FAILED)
SETTLED = frozenset({SUCCEEDED, SKIPPED})
UNDOABLE = frozenset({SUCCEEDED, FAILED, TIMED_OUT, CANCELLED})


RUN_DEADLINE = -1
"""The scope that ``DeadlinePassed`` names for the deadline of the run, which lies around all flows."""

WHOLE_RUN, NOTHING = -1, -2
"""What is undone of a run that turns round, where it is not one flow."""


class _NoValue:
    """Stands where a task has no value."""

    def __repr__(self) -> str:
        return "<no value>"


NO_VALUE: Any = _NoValue()


class Ledger:
    """
    The state of one run, to read and not to touch; :class:`~asyncflow.machine.run.RunMachine` is what changes it.

    ``states`` has a byte for each task, ``values`` a slot, ``attempts`` a count, ``started`` its place among those that
    started (counted from 1; 0 where it has not, in this execution), ``failures`` those that failed for good, in order,
    and ``outcomes`` how each that did not succeed ended. ``controls`` has the flows with a controller. ``ready`` are
    those that have nothing to wait for and have not been handed out, ``line`` those in hand at the moment, the next one
    last; ``bodies`` says how many are running, or have ended and are not decided about. While the run ``is_calm``,
    nothing is due but starts, and the end.
    """

    __slots__ = (
        "_cancels",
        "_end_due",
        "_ended",
        "_fails",
        "_gates",
        "_halts",
        "_has_changed",
        "_held",
        "_left",
        "_opening",
        "_remaking",
        "_reverts",
        "_settled",
        "_skips",
        "_starts",
        "_suspend_due",
        "_to_skip",
        "_undecided",
        "_undoing",
        "_waiting_for",
        "answers",
        "attempts",
        "bodies",
        "cancel_reason",
        "controls",
        "crashes",
        "deadline",
        "executions",
        "failures",
        "flow",
        "forsaken",
        "gone_executions",
        "gone_failures",
        "goal",
        "in_doubt",
        "inputs",
        "is_calm",
        "is_suspended",
        "late_scopes",
        "lets_finish",
        "line",
        "lost",
        "never_revert",
        "on_failure",
        "outcomes",
        "phase",
        "plan",
        "ready",
        "retired",
        "revert_attempts",
        "revert_failures",
        "revert_lost",
        "revert_values",
        "reverting",
        "run_id",
        "scope_deadlines",
        "scope_failures",
        "started",
        "states",
        "suspend_reason",
        "tally",
        "undo_scope",
        "values",
        "waits",
    )

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run_id = ""
        self.flow = plan.flow
        self.inputs: dict[str, Any] = {}
        self.deadline: float | None = None
        self.on_failure = "cancel"
        self.never_revert = False

        # The run: how far it is, and where it is going to end once it is being undone.
        self.phase = RunState.PENDING
        self.goal: RunState | None = None
        self.lets_finish = False  # whether it has turned round, and bodies are left that need not stop for that
        self.is_suspended = False
        self.is_calm = False  # whether nothing can be due but starts and the end
        self.suspend_reason: str | None = None
        self.cancel_reason: str | None = None

        # Each task.
        size = plan.size
        self.states = bytearray(size)
        self.attempts = [0] * size
        self.values: list[Any] = [NO_VALUE] * size
        self.started = [0] * size
        self.ready: list[int] = []
        self.line: list[int] = []
        self.bodies = 0

        # What few tasks have.
        self.outcomes: dict[int, Failure | TimedOut | Cancelled] = {}
        self.failures: dict[int, int] = {}  # failed for good, in that order: task to how many had before
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
        self.scope_failures: dict[int, Failure] = {}  # what a flow's controller or condition raised
        self.controls = {scope: Control(scope) for scope in plan.controlled}
        self.answers: dict[int, bool] = {}  # condition to what it said
        self._has_changed = False  # whether the run follows another plan than it began with
        # What a changed flow no longer has, by path.
        self.gone_executions: dict[str, int] = {}  # as in executions, for when they are back
        self.retired: dict[str, int] = {}  # the last state of each task that had started
        self.gone_failures: dict[str, Failure] = {}  # what they failed of, and flows
        self.forsaken: list[str] = []  # those of them that were to be undone and cannot be any more

        # Counts that tell when a run is still, and what is due.
        self._waiting_for = list(plan.pending)
        self._left = size  # tasks that have not settled
        self.tally = Tally()
        self._starts = 0  # tasks that have started, to tell in which order
        self._fails = 0  # the same of those that failed for good
        self._undoing: ReverseOrder | None = None  # while the run is being undone
        self.undo_scope = WHOLE_RUN  # what is undone once the run has turned round: a flow, or one of these
        self._halts: set[int] = set()  # scopes whose control is not GOING
        self._ended: dict[int, tuple[Failure | TimedOut, bool]] = {}  # attempts to decide about: ending, retriable
        self._undecided: list[int] = []
        self._reverts: list[int] = []
        self._cancels: list[m.Cancel] = []
        self._gates: list[int] = []  # gates that wait for a condition
        self._to_skip: dict[int, None] = {}  # what a no reaches, and what is before it has not settled
        self._skips: list[int] = []  # of them, those that can be, and ``due`` has not said so
        # After a resume: tasks whose value was never kept and is being made again, what is ready and reads one of them,
        # and the flows that had ended well before.
        self._remaking: set[int] = set()
        self._held: list[int] = []
        self._settled: set[int] = set()
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

    @property
    def heeds_cancel(self) -> bool:
        """Whether a cancel changes anything: the run goes forward, or has turned round and lets bodies finish."""
        return self.phase is RunState.RUNNING or (self.lets_finish and self.bodies > 0)

    @property
    def is_asking(self) -> bool:
        """Whether a flow has fallen still and its controller is to be asked next."""
        if self.suspend_reason is not None or self._undecided:
            return False
        return any(self._is_still(scope) and not self.controls[scope].is_asked for scope in self._halts)

    def _is_still(self, scope: int) -> bool:
        """Whether the flow at *scope* has fallen still, and what its controller reads is there, also at a resume."""
        control, controller = self.controls[scope], self.plan.scopes[scope].controller
        is_still = control.phase is ControlPhase.STOPPING and not control.busy
        return is_still and not self._waiting_for[controller] and not self._reads_remaking(controller)

    @property
    def order(self) -> list[int]:
        """The tasks that have started in their present execution, as they started."""
        started = self.started
        return sorted((task for task, place in enumerate(started) if place), key=started.__getitem__)

    def in_flight(self) -> list[int]:
        """Return the tasks whose body or revert has started and has no ending: what a crash loses."""
        ended, reverting = self._ended, self.reverting
        return [
            task
            for task, state in enumerate(self.states)
            if (state == RUNNING and task not in ended) or (state == REVERTING and task in reverting)
        ]

    def wants(self, task: int, attempt: int = 0, *, is_revert: bool = False) -> bool:
        """
        Whether a start of *task* that was handed out, or a revert, is still to be done.

        Whoever waited for a permit names the *attempt* too: since then the flow may have run again, or another order
        may have handed out the same revert.
        """
        if self.suspend_reason is not None or self.is_suspended:
            return False
        if not is_revert:
            if not self._may_start(task) or attempt not in (0, self.attempts[task] + 1):
                return False
            return not self.plan.guards or bool(self.started[task] or self._verdict(task))
        order = None if self.phase.is_ended else self._undoing_of(task)
        return (
            order is not None
            and order.is_open(task)
            and task not in self.reverting
            and task not in self._ended
            and attempt in (0, self.revert_attempts.get(task, 0) + 1)
            and self._can_be_undone(task)
        )

    def _may_start(self, task: int) -> bool:
        return (
            self.phase is RunState.RUNNING
            and self.states[task] in (PENDING, WAITING)
            and not self._waiting_for[task]
            and task not in self._to_skip
            and not self.is_halted(task)
            and not self._reads_remaking(task)
        )

    def _reads_remaking(self, node: int) -> bool:
        """Whether *node*, or a condition at it, reads a value being made again; there need be no edge from there."""
        if not self._remaking or self.plan.tasks is None:  # a plan from a journal does not know who reads what
            return False
        readers = [self.plan.guards[index].binding for index in self.plan.guards_of(node)]
        if node < self.plan.size:
            readers.append(self.plan.bindings[node])
        return not all(self._remaking.isdisjoint(reader.reads()) for reader in readers)

    def may_be_undone(self, task: int) -> bool:
        """Whether *task*, if it has started, is being undone, or its flow has failed and may have to be."""
        if self.phase is RunState.RUNNING:
            return self.is_halted(task)
        is_tried = self.phase is RunState.REVERTING or bool(self.revert_failures)
        return is_tried and self._undoing is not None and task in self._undoing

    def is_halted(self, task: int) -> bool:
        """Whether a flow around *task* has failed, so that nothing in it starts."""
        if not self._halts:
            return False
        return not self._halts.isdisjoint(self.plan.enclosing(self.plan.scope_of[task]))

    def expects_answer(self, scope: int) -> bool:
        """Whether the controller of *scope* is still to say what becomes of its flow."""
        is_running = self.phase is RunState.RUNNING and self.suspend_reason is None and not self.is_suspended
        return is_running and self._is_still(scope)

    def is_settled(self, scope: int) -> bool:
        """Whether a flow with a controller has ended well, so that what it gives is there."""
        return scope in self._settled or not self._waiting_for[self.plan.scopes[scope].end]

    def is_result(self, task: int) -> bool:
        """Whether *task* has a value, and each flow with a controller around it has ended well."""
        if self.values[task] is NO_VALUE:
            return False
        controls = self.controls
        if not controls:
            return True
        around = self.plan.enclosing(self.plan.scope_of[task])
        return all(self.is_settled(scope) for scope in around if scope in controls)

    def outlook(self) -> list[str]:
        """Return what is due, by path, and hand nothing out: "-" marks reverts, "?" flows whose controller is asked."""
        if self.suspend_reason is not None or self.is_suspended:
            return []
        plan = self.plan
        asked = [f"?{plan.scopes[scope].path or plan.flow}" for scope in sorted(self._halts) if self._is_still(scope)]
        reverts = sorted(self._reverts, key=self.started.__getitem__, reverse=True)
        ranks = plan.ranks
        starts = sorted(self.ready, key=None if ranks is None else ranks.__getitem__)
        found = [*asked, *(f"-{plan.path(task)}" for task in reverts)]
        return found + [plan.path(task) for task in starts if self._may_start(task)]

    def is_late(self, scope: int) -> bool:
        """Whether *scope* still has something to do, so that the passing of its deadline matters."""
        if scope > 0 and scope not in self.scope_deadlines:
            return False
        states = self.states
        tasks = range(self.plan.size) if scope <= 0 else self.plan.span(scope)
        if self.phase is RunState.REVERTING:
            return self.lets_finish and any(states[task] == RUNNING for task in tasks)
        return self.phase is RunState.RUNNING and any(states[task] not in SETTLED for task in tasks)

    def deadline_of(self, task: int) -> float | None:
        """Return the nearest deadline of the run and of all flows around *task*, POSIX seconds, or None."""
        found = self.deadline
        if self.scope_deadlines:
            for scope in self.plan.enclosing(self.plan.scope_of[task]):
                limit = self.scope_deadlines.get(scope)
                if limit is not None and (found is None or limit < found):
                    found = limit
        return found

    # --- Counting -----------------------------------------------------------------------------------------------------

    def _recount(self) -> None:
        states, size = self.states, self.plan.size
        self._waiting_for = list(self.plan.pending)
        self._left = sum(state not in SETTLED for state in states)
        self.bodies = sum(state == RUNNING for state in states)
        self._gates.clear()
        for node in self.plan.roots():
            if node >= size:
                self._pass(node)
        for task in range(size):
            if states[task] in SETTLED and not self.is_halted(task):
                self._settle(task)
        for control in self.controls.values():
            # Counted down in this phase alone.
            control.busy = self._busy_in(control.scope) if control.phase is ControlPhase.STOPPING else 0
            if control.undoing is not None:
                control.undoing = self._reverse_order(control.scope)
        if self._undoing is not None:
            self._undoing = self._run_order()

    def _busy_in(self, scope: int) -> int:
        """Return how many bodies and reverts within *scope* have no ending, or one that is not decided about."""
        states, reverting, ended = self.states, self.reverting, self._ended
        return sum(
            states[task] == RUNNING or (states[task] == REVERTING and (task in reverting or task in ended))
            for task in self.plan.span(scope)
        )

    def _reverse_order(self, scope: int) -> ReverseOrder:
        """Return the order in which what is within *scope* is undone from now on; what is open is not listed yet."""
        plan = self.plan
        return self._counted(ReverseOrder(plan, dict.fromkeys(plan.inside(scope)), self._must_undo))

    def _run_order(self) -> ReverseOrder:
        """Return the same for the run, or for the part of it that is undone."""
        plan, scope = self.plan, self.undo_scope
        if scope == WHOLE_RUN:
            return self._counted(ReverseOrder(plan, range(len(plan.successors)), self._must_undo))
        # What was being undone elsewhere, in a flow that was to run again, is undone to its end.
        nodes = [task for task, state in enumerate(self.states) if state in (REVERTING, REVERT_FAILED)]
        if scope != NOTHING:
            nodes += (plan.scopes[scope].controller, *plan.inside(scope))
        return self._counted(ReverseOrder(plan, dict.fromkeys(nodes), self._must_undo))

    def _counted(self, order: ReverseOrder) -> ReverseOrder:
        order.left = sum(self._can_be_undone(task) for task in order.start())
        return order

    def _must_undo(self, task: int) -> bool:
        return self.started[task] > 0 and self.states[task] != REVERTED

    def _can_be_undone(self, task: int) -> bool:
        """Whether *task*, which is open, is being undone or can be now; a body that still runs must end before."""
        state = self.states[task]
        # A revert that failed for good is tried again only where a resume has forgotten that.
        return state in UNDOABLE or state == REVERTING or (state == REVERT_FAILED and task not in self.revert_failures)

    def _undoing_of(self, task: int) -> ReverseOrder | None:
        """Return the order in which *task* is undone, if it is."""
        if self._undoing is not None:
            return self._undoing if task in self._undoing else None
        if self._halts:
            for scope in self.plan.enclosing(self.plan.scope_of[task]):
                control = self.controls.get(scope)
                if control is not None and control.undoing is not None:
                    return control.undoing
        return None

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
        ready, guards, skipped = self.ready, self.plan.guards, self._to_skip
        gates = None
        while True:
            for after in successors[node]:
                left = waiting_for[after] - 1
                waiting_for[after] = left
                if not left:
                    if after < size:
                        (self._skips if after in skipped else ready).append(after)
                    elif guards and self._verdict(after) is None:
                        self._gates.append(after)
                    elif gates is None:
                        gates = [after]
                    else:
                        gates.append(after)
            if not gates:
                return
            node = gates.pop()

    def _pass(self, gate: int) -> None:
        """Let a gate pass that has nothing left to wait for, unless a condition is still to be asked."""
        if self.plan.guards and self._verdict(gate) is None:
            self._gates.append(gate)
        else:
            self._settle(gate)

    def _verdict(self, node: int) -> bool | None:
        """Return whether *node* may go on, as its conditions say; None while one of them is to be asked."""
        if node in self._to_skip or (node >= self.plan.size and self._is_passed_over(node)):
            return False
        verdict = True
        for index in self.plan.guards_of(node):
            guard = self.plan.guards[index]
            if guard.sources and all(self.states[task] == SKIPPED for task in guard.sources):
                continue
            if index not in self.answers:
                return None
            verdict = verdict and self.answers[index]
        return verdict

    def _is_passed_over(self, gate: int) -> bool:
        """Whether all that is behind a gate that guards a flow is skipped, so that nobody is asked about it."""
        guards, states = self.plan.guards_of(gate), self.states
        span = self.plan.span(self.plan.guards[guards[0]].scope) if guards else ()
        return bool(span) and all(states[task] == SKIPPED or task in self._to_skip for task in span)
