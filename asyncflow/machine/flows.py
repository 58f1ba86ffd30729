"""
What is decided for more than one task: a flow falls still, is undone and runs again; a part of a plan is skipped; the
run turns round.
"""

from __future__ import annotations

from asyncflow import messages as m
from asyncflow.errors import IllegalTransition
from asyncflow.graph.plan import ROOT
from asyncflow.ids import is_below
from asyncflow.machine.adoption import Adoption
from asyncflow.machine.control import Control, ControlPhase
from asyncflow.machine.failures import present_attempt
from asyncflow.machine.ledger import (
    CANCELLED,
    FAILED,
    NO_VALUE,
    NOTHING,
    PENDING,
    REVERT_FAILED,
    RUNNING,
    SETTLED,
    SKIPPED,
    WAITING,
    WHOLE_RUN,
)
from asyncflow.machine.revert import ReverseOrder
from asyncflow.outcomes import Cancelled, Failure
from asyncflow.states import RunState, check_run_step


class Flows(Adoption):
    """The part of a run's machine that looks at flows: those with a controller, conditions, and the whole run."""

    __slots__ = ()

    # --- Failing ------------------------------------------------------------------------------------------------------

    def _count_failure(self, task: int) -> None:
        self.failures[task] = self._fails
        self._fails += 1

    def _fail(self, scope: int) -> None:
        """
        Something right in *scope* has failed for good: the nearest flow that has a controller and has not ended, be it
        *scope* or one around it, falls still; without one the run turns round.
        """
        around = [] if scope < 0 else self.plan.enclosing(scope)
        if not self._halts.isdisjoint(around):
            return  # what is falling still, or has, counts one failure more
        for one in around:
            if one in self.controls and not self.is_settled(one) and not self.never_revert:
                self._stop_flow(self.controls[one])
                return
        self._turn_round(RunState.REVERTED)

    def _stop_flow(self, control: Control) -> None:
        """Let nothing more start in a flow; what runs is told to stop, or may finish, as the flow says."""
        scope = control.scope
        span = self.plan.span(scope)
        control.phase, control.is_asked = ControlPhase.STOPPING, False
        self._halts.add(scope)
        for inner in self._halts.intersection(self.plan.within(scope)):
            # Whatever it was about to ask or to undo is for this flow to say now.
            self.controls[inner].phase, self.controls[inner].undoing = ControlPhase.GIVEN_UP, None
        self.ready = [task for task in self.ready if task not in span]
        self._held = [task for task in self._held if task not in span]
        self._reverts = [task for task in self._reverts if task not in span]
        self._gates = [gate for gate in self._gates if not self._leads_into(gate, scope)]
        self._skips = [task for task in self._skips if task not in span]
        self._tell_to_stop(span)
        control.busy = self._busy_in(scope)

    def halted(self) -> list[int]:
        """Return the flows that have failed and are not over: they fall still, are asked about, or are being undone."""
        return sorted(self._halts)

    def _leads_into(self, gate: int, scope: int) -> bool:
        guard = self.plan.guards[self.plan.guards_of(gate)[0]]
        return scope in self.plan.enclosing(guard.scope)

    def _fail_late(self, scope: int) -> None:
        """The time limit of *scope* has passed, which its own controller has no say in."""
        self._fail(self.plan.scopes[scope].parent)
        # Whatever the flows around it do with siblings: what is in it is late.
        self._tell_to_stop(self.plan.span(scope), all_=True)

    def _policy(self, scope: int) -> str:
        """Return what becomes of what still runs in a flow that has failed."""
        return self.plan.scopes[scope].on_failure or self.on_failure

    def _tell_to_stop(self, tasks: range, *, all_: bool = False) -> bool:
        """
        Cancel what runs among *tasks*, or as much of it as may not finish, and what waits between two attempts.

        Return whether some are left that may finish.
        """
        states, are_left = self.states, False
        told = {command.task for command in self._cancels}
        for task in tasks:
            state = states[task]
            if state == RUNNING:
                is_stopped = all_ or self._policy(self.plan.scope_of[task]) == "cancel"
                if not is_stopped:
                    are_left = True
                elif task not in self._ended and task not in told:
                    self._cancels.append(m.Cancel(task, "cancel"))
            elif state == WAITING or (state == PENDING and self.attempts[task]):
                self._stop(task, Cancelled())
        return are_left

    def _stop(self, task: int, outcome: Cancelled) -> None:
        self._step(task, CANCELLED)
        self.outcomes[task] = outcome
        self.waits.pop(task, None)
        self.crashes.pop(task, None)
        self._undo_when_open(task)

    def _body_gone(self, task: int) -> None:
        """Take note that a body in *task*, or a revert, has got its ending and that is decided about."""
        if self._halts:
            for scope in self.plan.enclosing(self.plan.scope_of[task]):
                if scope in self._halts and self.controls[scope].phase is ControlPhase.STOPPING:
                    self.controls[scope].busy -= 1

    # --- Controllers --------------------------------------------------------------------------------------------------

    def _list_questions(self, commands: list[m.Command]) -> None:
        """Ask the controllers of flows that have fallen still, and start those over that are undone."""
        for scope in sorted(self._halts):
            control = self.controls[scope]
            if control.is_asked:
                continue
            if self._is_still(scope):
                control.is_asked = True
                commands.append(m.Decide(scope))
            elif control.phase is ControlPhase.UNDOING and control.undoing is not None and not control.undoing.left:
                control.is_asked = True
                states, span = self.states, self.plan.span(scope)
                changed = [task for task in span if states[task] != PENDING]
                commands.append(m.StartOver(scope, changed, control.wait))

    def _controller_answered(self, event: m.ControllerAnswered) -> None:
        scope = event.scope
        control = self.controls[scope]
        if not self.expects_answer(scope):
            path = self.plan.scopes[scope].path or self.flow
            raise IllegalTransition(f"the controller of flow {path!r} was not asked and answers {event.decision!r}")
        control.history.append(present_attempt(self, scope))
        control.is_asked, control.has_answered = False, True
        if event.failure is not None:
            self.scope_failures[scope] = event.failure
        if event.decision == "retry":
            control.phase, control.wait = ControlPhase.UNDOING, event.wait
            control.undoing = self._begin_undoing(scope)
        elif event.decision == "revert":
            control.phase = ControlPhase.GIVEN_UP
            self._hand_on(scope)
        else:
            self._turn_round(RunState.REVERTED)

    def _hand_on(self, scope: int) -> None:
        """The controller of *scope* gives up: let the next one out be asked, or undo the flow alone, or the run."""
        declared = self.plan.scopes[scope]
        around = self.plan.enclosing(declared.parent) if declared.parent >= 0 else []
        if declared.revert_scope == "flow" and scope != ROOT and not any(one in self.controls for one in around):
            self._turn_round(RunState.REVERTED, scope)
        else:
            self._fail(declared.parent)

    def _started_over(self, event: m.FlowStartedOver) -> None:
        scope, plan = event.scope, self.plan
        control = self.controls[scope]
        if control.undoing is None or control.undoing.left:
            raise IllegalTransition(f"flow {plan.scopes[scope].path!r} cannot start over; it is not undone")
        self.tally.start_overs += 1
        for task in event.tasks:
            self._clear(task)
        for node in plan.inside(scope):
            self._waiting_for[node] = plan.pending[node]
        self._forget_flows(scope)
        for path in [path for path in self.gone_failures if is_below(path, plan.scopes[scope].path)]:
            del self.gone_failures[path]
        control.phase, control.undoing = ControlPhase.GOING, None
        control.is_asked = control.has_answered = False
        self._halts.discard(scope)
        self._settled.discard(scope)
        controller = plan.scopes[scope].controller
        if event.at is not None:
            self.waits[controller] = event.at
        if not self._waiting_for[controller]:  # else what comes before has a value to make again
            # A no that a changed flow has put before it may reach it, now that it has not begun.
            (self._skips if controller in self._to_skip else self.ready).append(controller)

    def _clear(self, task: int) -> None:
        """Make *task* one that has not started, in an execution of its own."""
        old = self._step(task, PENDING)
        if old in SETTLED:
            self._left += 1
            if self.started[task]:
                self.executions[task] = self.executions.get(task, 0) + 1
        self.attempts[task] = self.started[task] = 0
        self.values[task] = NO_VALUE
        for table in (
            self.outcomes, self.failures, self.waits, self.lost, self.crashes, self.revert_attempts,
            self.revert_lost, self.revert_values, self.revert_failures,
        ):  # fmt: skip
            if table:
                table.pop(task, None)
        self.in_doubt.discard(task)
        self._remaking.discard(task)

    def _forget_flows(self, scope: int) -> None:
        """Forget what is known of the flows within *scope*, which runs again, and of conditions in it."""
        plan, span, within = self.plan, self.plan.span(scope), self.plan.within(scope)
        self.scope_failures.pop(scope, None)
        for inner in within:
            if inner in self.controls:
                self.controls[inner].start_over()
                self._halts.discard(inner)
                self._settled.discard(inner)
                # It may have been between two attempts: then its controller is PENDING, and nobody has cleared it.
                self.waits.pop(plan.scopes[inner].controller, None)
            self.scope_failures.pop(inner, None)
            self.scope_deadlines.pop(inner, None)
        self.late_scopes = [inner for inner in self.late_scopes if inner not in within]
        gates = plan.flow_gates()
        asked = [task for task in span if task != plan.scopes[scope].controller] if self.answers else []
        asked.extend(gates[inner] for inner in within if inner in gates)
        for node in asked:
            for index in plan.guards_of(node):
                self.answers.pop(index, None)
        if self._to_skip or (self._has_changed and not all(self.answers.values())):
            # What is behind the flow as well: a no in it has skipped nothing there before the flow has ended. And a no
            # that a changed flow has put before it may reach it, now that it has not begun.
            self._to_skip = self._marked()

    # --- Conditions ---------------------------------------------------------------------------------------------------

    def _condition_answered(self, event: m.ConditionAnswered) -> None:
        guard, plan = self.plan.guards[event.guard], self.plan
        if not self.expects_condition(event.guard):
            raise IllegalTransition(f"a condition of run {self.run_id!r} was not asked and answers {event.answer}")
        node = guard.node
        if event.failure is not None:
            self._condition_raised(guard.scope, node, event.failure)
            return
        self.answers[event.guard] = event.answer
        verdict = self._verdict(node)
        if verdict is False:
            self._mark(node)
        if verdict is not None and node >= plan.size:
            self._settle(node)
        elif verdict:
            self.ready.append(node)

    def _mark(self, node: int) -> None:
        """Let whatever the noes at *node* reach be skipped, once all before it has settled."""
        waiting_for, plan, gates = self._waiting_for, self.plan, self.plan.flow_gates()
        reached = [task for task in self._reached(node) if task not in self._to_skip]
        around = {scope for task in reached for scope in plan.enclosing(plan.scope_of[task])} if gates else set[int]()
        # Flows that now are skipped as a whole, whose conditions nobody asks any more.
        asked = [gates[scope] for scope in sorted(around) if scope in gates]
        asked = [gate for gate in asked if not waiting_for[gate] and self._verdict(gate) is None]
        for task in reached:
            self._to_skip[task] = None
            if not waiting_for[task]:
                self._skips.append(task)
        for gate in asked:
            if self._verdict(gate) is not None and not self._is_gate_moot(gate):
                self._settle(gate)

    def _condition_raised(self, scope: int, node: int, failure: Failure) -> None:
        if scope >= 0:
            self.scope_failures[scope] = failure
            self._fail(self.plan.scopes[scope].parent)
            return
        self._step(node, FAILED)
        self.outcomes[node] = failure
        self._count_failure(node)
        self._fail(self._home(node))

    def _home(self, task: int) -> int:
        """Return the scope that a failure of *task* is a failure in: for a controller the one around its flow."""
        scope = self.plan.scope_of[task]
        declared = self.plan.scopes[scope]
        return declared.parent if declared.controller == task else scope

    def _task_skipped(self, event: m.TaskSkipped) -> None:
        task = event.task
        self._step(task, SKIPPED)
        self._to_skip.pop(task, None)
        self._left -= 1
        if task in self._remaking:
            self._is_made(task)
        self._settle(task)

    def _is_made(self, task: int) -> None:
        """Let go on what was held back for the value of *task*, which has been made again or will not be."""
        self._remaking.discard(task)
        self.ready, self._held = self.ready + self._held, []

    # --- Undoing ------------------------------------------------------------------------------------------------------

    def _begin_undoing(self, scope: int) -> ReverseOrder:
        """Return the order in which *scope* is undone, with what can be undone at once listed."""
        order = self._reverse_order(scope)
        self._list_open(order, self.plan.span(scope))
        return order

    def _list_open(self, order: ReverseOrder, tasks: range) -> None:
        """List those of *tasks* that can be undone and are not being undone."""
        for task in tasks:
            if (
                order.is_open(task)
                and self._must_undo(task)
                and self._can_be_undone(task)
                and task not in self.reverting
                and task not in self._ended
            ):
                self._reverts.append(task)

    def _turn_round(self, goal: RunState, scope: int = WHOLE_RUN) -> None:
        """
        Turn the run round: nothing more starts, what runs is told to stop, what has ended is undone in reverse.

        That is the whole run, or *scope* and its controller alone, or nothing where a run that failed is never to be
        reverted; then the run ends FAILED.
        """
        self._go(RunState.REVERTING)
        self.goal = goal
        self.ready.clear()
        self._held.clear()
        self._reverts.clear()
        self._gates.clear()
        self._skips.clear()
        self._to_skip.clear()
        self._halts.clear()
        for control in self.controls.values():
            control.phase = ControlPhase.GIVEN_UP if control.phase is not ControlPhase.GOING else ControlPhase.GOING
            control.undoing, control.is_asked = None, False
        self.undo_scope = NOTHING if self.never_revert and goal is RunState.REVERTED else scope
        self._undoing = self._run_order()
        self._list_open(self._undoing, range(self.plan.size))
        is_urgent = goal is RunState.CANCELLED or bool(self.late_scopes)
        self.lets_finish = self._tell_to_stop(range(self.plan.size), all_=is_urgent)

    def _stop_finishing(self, scope: int) -> None:
        """In a run that has turned round, stop also what was let finish: all, or what is within *scope*."""
        if scope <= ROOT:
            self.lets_finish = self._tell_to_stop(range(self.plan.size), all_=True)
        else:
            self._tell_to_stop(self.plan.span(scope), all_=True)
            del self.scope_deadlines[scope]

    def _undo_when_open(self, task: int) -> None:
        order = self._undoing_of(task)
        if self.started[task] and order is not None and order.is_open(task):
            order.left += 1
            self._reverts.append(task)

    def _go(self, new: RunState) -> None:
        check_run_step(self.phase, new, self.run_id)
        self.phase = new
        self._end_due = False

    def _given_up_undoing(self, task: int) -> None:
        """A revert failed for good: a flow that was to run again cannot, and the run turns round."""
        self._step(task, REVERT_FAILED)
        self._body_gone(task)
        order = self._undoing_of(task)
        if order is not None and order.is_open(task):
            order.left -= 1
        if self.phase is RunState.RUNNING:
            self._turn_round(RunState.REVERTED)
