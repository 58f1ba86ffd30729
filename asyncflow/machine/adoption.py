"""Going on under another plan: what a changed flow takes over from the one that a run has followed so far."""

from __future__ import annotations

from typing import Any

from asyncflow.graph.plan import ROOT, Plan
from asyncflow.graph.record import record_of
from asyncflow.machine.choices import Choices
from asyncflow.machine.control import Control, ControlPhase
from asyncflow.machine.failures import failure_of, lateness_of
from asyncflow.machine.ledger import NO_VALUE, NOTHING, REVERTED, RUN_DEADLINE
from asyncflow.states import RunState


class Adoption(Choices):
    """The part of a run's machine that changes its plan."""

    __slots__ = ()

    def adopt(self, plan: Plan) -> None:
        """
        Go on under another *plan*: every task keeps its state by its path.

        Whether the plan fits is for ``machine.fit`` to say, before. A task that is gone keeps its last state in
        ``retired``; a new one is PENDING. Called right before the ``RunResumed`` that names the plan.
        """
        self._has_changed = True
        self._reopen_flows()
        old, moved = self.plan, dict[int, int]()
        recorded = record_of(old)
        known = {plan.path(task): task for task in range(plan.size)}
        for task in range(old.size):
            path = old.path(task)
            if path in known:
                moved[task] = known[path]
                continue
            if task in self.executions:
                self.gone_executions[path] = self.executions[task]
            if task in self.failures:
                self.gone_failures[path] = failure_of(self, task)
            if self.attempts[task]:
                self.retired[path] = self.states[task]
                if self.states[task] != REVERTED and recorded.kind_of(task).has_revert:
                    self.forsaken.append(path)
        self.plan = plan
        self._move(moved)
        for path in self.gone_executions.keys() & known.keys():
            self.executions[known[path]] = self.gone_executions.pop(path)
        self._move_flows(old)
        if self.phase is RunState.RUNNING:
            self._to_skip = self._marked()
        self._recount()

    def _reopen_flows(self) -> None:
        """
        Let there be something to do again in flows that had ended well. What is behind them may have begun, so they
        stay settled; and those that had ended in time have their time again.
        """
        going = [scope for scope, control in self.controls.items() if control.phase is ControlPhase.GOING]
        self._settled.update(scope for scope in going if self.is_settled(scope))
        self.scope_deadlines = {scope: at for scope, at in self.scope_deadlines.items() if self.is_late(scope)}

    def _move(self, moved: dict[int, int]) -> None:
        states, attempts, started, values = self.states, self.attempts, self.started, self.values
        size = self.plan.size
        self.states, self.attempts, self.values = bytearray(size), [0] * size, [NO_VALUE] * size
        self.started = [0] * size
        for task, new in moved.items():
            self.states[new], self.attempts[new], self.values[new] = states[task], attempts[task], values[task]
            self.started[new] = started[task]
        self.in_doubt = {moved[task] for task in self.in_doubt if task in moved}
        self._remaking = {moved[task] for task in self._remaking if task in moved}
        self.reverting = {moved[task] for task in self.reverting if task in moved}
        for name in (
            "outcomes", "failures", "waits", "lost", "crashes", "executions", "revert_attempts", "revert_lost",
            "revert_failures", "revert_values", "_ended",
        ):  # fmt: skip
            table: dict[int, Any] = getattr(self, name)
            setattr(self, name, {moved[task]: entry for task, entry in table.items() if task in moved})

    def _move_flows(self, old: Plan) -> None:
        """Let flows keep what is known of them, by their path, and conditions what they said."""
        plan = self.plan
        known = {scope.path: index for index, scope in enumerate(plan.scopes)}
        moved = {index: known[scope.path] for index, scope in enumerate(old.scopes) if scope.path in known}
        for index, failure in self.scope_failures.items():
            if index not in moved:
                self.gone_failures[old.scopes[index].path] = failure
        for index in self.late_scopes:
            if index != RUN_DEADLINE and index not in moved:
                self.gone_failures[old.scopes[index].path] = lateness_of(old, index)
        controls, self.controls = self.controls, {scope: Control(scope) for scope in plan.controlled}
        for scope, control in controls.items():
            if moved.get(scope) in self.controls:
                control.scope = moved[scope]
                self.controls[control.scope] = control
        self._halts = {moved[scope] for scope in self._halts if moved.get(scope) in self.controls}
        self._settled = {moved[scope] for scope in self._settled if moved.get(scope) in self.controls}
        self.scope_failures = {moved[one]: failure for one, failure in self.scope_failures.items() if one in moved}
        moved[RUN_DEADLINE] = RUN_DEADLINE
        self.late_scopes = [moved[scope] for scope in self.late_scopes if scope in moved]
        deadlines, self.scope_deadlines = self.scope_deadlines, {}
        for index, at in deadlines.items():
            limit = plan.scopes[moved[index]].timeout if index in moved else None
            if limit is not None:  # another one counts from the same moment on
                self.scope_deadlines[moved[index]] = at + limit - (old.scopes[index].timeout or 0.0)
        if self.undo_scope > ROOT:
            self.undo_scope = moved.get(self.undo_scope, NOTHING)
        said = {name: self.answers[index] for index, name in enumerate(old.guard_names()) if index in self.answers}
        self.answers = {index: said[name] for index, name in enumerate(plan.guard_names()) if name in said}
        for index, guard in enumerate(plan.guards):
            if guard.scope >= 0 and self._has_begun_in(guard.scope):
                self.answers.setdefault(index, True)  # what has begun is not skipped any more
