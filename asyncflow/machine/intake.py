"""How a run is taken up: for the first time, again where it stood, and from its start."""

from __future__ import annotations

from asyncflow import messages as m
from asyncflow.machine.flows import Flows
from asyncflow.machine.ledger import CANCELLED, FAILED, PENDING, REVERTED, SKIPPED, SUCCEEDED, WAITING, WHOLE_RUN
from asyncflow.states import RunState, check_run_step


class Intake(Flows):
    """The part of a run's machine that starts, resumes and resets it."""

    __slots__ = ()

    def _run_started(self, event: m.RunStarted) -> None:
        self._go(RunState.RUNNING)
        self.run_id, self.flow = event.run_id, event.flow
        self.inputs, self.deadline = event.inputs, event.deadline
        self.on_failure, self.never_revert = event.on_failure, event.never_revert
        self._open_roots()

    def _open_roots(self) -> None:
        size = self.plan.size
        for node in self.plan.roots():
            if node < size:
                self.ready.append(node)
            else:
                self._pass(node)

    def _run_reset(self, event: m.RunReset) -> None:
        check_run_step(self.phase, RunState.PENDING, self.run_id)
        executions, gone, undone = self.executions, self.gone_executions, (REVERTED, PENDING, SKIPPED)
        for task, state in enumerate(self.states):
            if self.started[task] and state not in undone:
                executions[task] = executions.get(task, 0) + 1
        here = {self.plan.path(task) for task in range(self.plan.size)} if self.retired else ()
        for path, state in self.retired.items():
            if state not in undone and path not in here:
                gone[path] = gone.get(path, 0) + 1
        given = m.RunStarted(
            self.run_id, self.flow, event.plan, self.inputs, event.deadline, self.on_failure, self.never_revert
        )
        self.__init__(self.plan)  # type: ignore[misc]
        self.executions, self.gone_executions = executions, gone
        self._run_started(given)

    def _run_resumed(self, event: m.RunResumed) -> None:
        self.is_suspended = False
        self.suspend_reason = None
        self._suspend_due = self._end_due = False
        if event.deadline is not None:
            self.deadline = event.deadline
        if self.phase is RunState.FAILED:
            if self.may_go_forward:
                self._run_what_failed()
            else:
                self._go(RunState.REVERTING)
                self.revert_attempts.clear()
                self.revert_lost.clear()
                self.revert_failures.clear()
        self._relist()

    @property
    def may_go_forward(self) -> bool:
        """Whether a run that is taken up still tries to get its tasks done."""
        if self.phase is RunState.FAILED:
            # One that was to be undone as a whole never goes forward again, also where nothing can be tried.
            return not self.revert_failures and self.undo_scope != WHOLE_RUN
        return self.is_forward

    def _run_what_failed(self) -> None:
        """Go forward again: the run failed and nothing, or one flow only, was undone."""
        self._go(RunState.RUNNING)
        remaking = set(self._remaking)
        for task, state in enumerate(self.states):
            if task in self.in_doubt and state in (FAILED, CANCELLED):
                # Its last attempt was lost, and nobody has said yet what became of that.
                self._step(task, PENDING)
                self.outcomes.pop(task, None)
                self.crashes.pop(task, None)
            elif state not in (PENDING, SUCCEEDED, SKIPPED):
                self._clear(task)
        self._remaking = remaking  # whoever reads what is made again may stand far behind it, and waits for it still
        if self.undo_scope >= 0:
            # All of it was undone, so its conditions are asked again as well.
            for task in self.plan.span(self.undo_scope):
                if self.states[task] == SKIPPED:
                    self._clear(task)
            self._forget_flows(self.undo_scope)
            if self.undo_scope in self.controls:  # a changed flow may have none there any more
                self.controls[self.undo_scope].start_over()
        self.goal, self._undoing, self.undo_scope = None, None, WHOLE_RUN
        self.failures.clear()
        self.gone_failures.clear()
        self.late_scopes.clear()
        self.scope_failures.clear()
        self.scope_deadlines.clear()
        self._halts.clear()
        for control in self.controls.values():
            if not self.is_settled(control.scope):
                control.go_on()
        self._to_skip = self._marked()
        self._recount()

    def _relist(self) -> None:
        # A resume starts from the state alone: whatever had been handed out before it was handed to a process that is
        # gone.
        self.ready.clear()
        self.line.clear()
        self._held.clear()
        self._gates.clear()
        self._reverts.clear()
        self._cancels.clear()
        self._opening.clear()
        self._skips = [task for task in self._to_skip if not self._waiting_for[task] and not self.is_halted(task)]
        self._undecided = sorted(self._ended)
        size, states = self.plan.size, self.states
        for control in self.controls.values():
            control.is_asked = False
            if control.undoing is not None:
                control.undoing = self._begin_undoing(control.scope)
        if self.phase is RunState.RUNNING:
            waiting_for = self._waiting_for
            self.ready.extend(
                task
                for task in range(size)
                # One that waits for its next attempt may have to wait for a value, too, that is made again.
                if states[task] in (PENDING, WAITING) and not (waiting_for[task] or self.is_halted(task))
            )
            if self.plan.guards:
                self._relist_gates()
        elif self.phase is RunState.REVERTING:
            self._undoing = self._run_order()
            self._list_open(self._undoing, range(size))

    def _relist_gates(self) -> None:
        self._gates = sorted(
            gate
            for gate in self.plan.flow_gates().values()
            if not self._waiting_for[gate] and self._verdict(gate) is None and not self._is_gate_moot(gate)
        )
