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

What concerns more than one task, such as a flow that runs again, is in ``flows``; the state is in ``ledger``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar

from asyncflow import messages as m
from asyncflow.errors import IllegalTransition, InternalError
from asyncflow.machine import lifecycle
from asyncflow.machine.flows import Flows
from asyncflow.machine.intake import Intake
from asyncflow.machine.ledger import (
    FAILED,
    NO_VALUE,
    PENDING,
    REVERTED,
    REVERTING,
    RUN_DEADLINE,
    RUNNING,
    SUCCEEDED,
    TIMED_OUT,
    WAITING,
    WHOLE_RUN,
)
from asyncflow.outcomes import Cancelled, Failure, TimedOut
from asyncflow.states import RunState, check_run_step

__all__ = ["RUN_DEADLINE", "RunMachine"]


class RunMachine(Intake):
    """
    Decides one run. ``apply`` an event to change the state, ask ``due`` what is to be done, or, while that can only be
    starts, ``starts``.

    Both hand each thing out once; whoever takes it answers with an event or keeps it.
    """

    __slots__ = ()

    # --- Deciding -----------------------------------------------------------------------------------------------------

    def due(self, most_starts: int = sys.maxsize) -> list[m.Command]:
        """
        Return what is to be done now, in the order in which to do it, and forget having said so.

        No more than *most_starts* bodies; the rest are due the next time.

        Cancels come first, then decisions; once those are answered, reverts, in reverse order of start, or starts:
        highest priority first, then plan order. A run that is still asks for its end.
        """
        commands: list[m.Command] = []
        if self._cancels:
            commands.extend(self._cancels)
            self._cancels.clear()
        if self._undecided:
            # Alone: what is decided may turn the run round, and then nothing more may start.
            self._decide(commands)
            return commands
        if self.suspend_reason is None and not self.is_suspended:
            if self._halts:
                self._list_questions(commands)
            if self._reverts:
                self._list_reverts(commands)
            if self._gates or self._skips:
                # Alone: what is skipped may make other tasks ready, which then take their place in line.
                self._list_conditions(commands)
                if commands:
                    return commands
            if self.ready:
                self._list_starts(commands, most_starts)
        if not commands and not self.bodies:
            self._list_ending(commands)
        self.calm_down()
        return commands

    def _decide(self, commands: list[m.Command]) -> None:
        declared = self.plan.tasks
        if declared is None:
            raise InternalError(f"the plan of run {self.run_id!r} was read from a journal and cannot decide anything")
        undecided, self._undecided = self._undecided, []
        for task in undecided:
            attempt = self.attempts[task]
            if self.states[task] == REVERTING:
                retriable = self._ended[task][1]
                tried, lost = self.revert_attempts[task], self.revert_lost.get(task, 0)
                commands.append(lifecycle.after_failed_revert(task, declared[task], tried, lost, retriable=retriable))
            else:
                retriable = self._ended[task][1] and self.phase is RunState.RUNNING and not self.is_halted(task)
                lost = self.lost.get(task, 0)
                commands.append(lifecycle.after_failure(task, declared[task], attempt, lost, retriable=retriable))

    def _list_starts(self, commands: list[m.Command], most: int) -> None:
        if self.in_doubt and (hopeless := self._hopeless()) is not None:
            commands.append(hopeless)
            return
        ready, self.ready = self.ready, []
        if self._halts and self._has_changed:
            # What waited for a task that a changed flow has put before it, and whose flow has failed meanwhile.
            ready = [task for task in ready if not self.is_halted(task)]
        if self._remaking:
            held = {task for task in ready if self._reads_remaking(task)}
            self._held.extend(task for task in ready if task in held)
            ready = [task for task in ready if task not in held]
        if len(ready) > 1:
            # What an earlier call left over is in order already, which makes this a merge.
            ready.sort(key=None if self.plan.ranks is None else self.plan.ranks.__getitem__)
            if len(ready) > most:
                ready, self.ready = ready[:most], ready[most:]
        states, attempts = self.states, self.attempts
        if self.plan.guards:
            asked: list[m.Command] = []
            ready = self._admitted(ready, asked)
            if asked:
                # First: in a changed flow a no may reach what else is ready.
                self.ready += ready
                commands += asked
                return
        if self.plan.has_timed_scopes:
            commands.extend(m.OpenScope(scope) for scope in self._unopened_scopes(ready))
        for task in ready:
            state = states[task]
            if state == PENDING:
                if task in self.in_doubt:
                    commands.append(self._after_loss(task))
                else:
                    commands.append(m.Start(task, attempts[task] + 1, self.waits.get(task) if self.waits else None))
            elif state == WAITING:
                commands.append(m.Start(task, attempts[task] + 1, self.waits[task]))

    def _hopeless(self) -> m.Command | None:
        """Return what gives up a lost attempt that is not to be made again; alone, since that turns the run round."""
        for task in sorted(self.in_doubt.intersection(self.ready)):
            if type(command := self._after_loss(task)) is m.GiveUp:
                self.ready.remove(task)
                return command
        return None

    def _after_loss(self, task: int) -> m.Command:
        assert self.plan.tasks is not None
        attempt, crashes = self.attempts[task], self.crashes.get(task, 0)
        return lifecycle.after_loss(task, self.plan.tasks[task], self.plan.path(task), attempt, crashes)

    def _list_reverts(self, commands: list[m.Command]) -> None:
        reverts, self._reverts = self._reverts, []
        if len(reverts) > 1:
            reverts.sort(key=self.started.__getitem__, reverse=True)
        for task in reverts:
            if task in self.reverting or task in self._ended:
                continue  # one that another order had handed out has begun since
            attempt = self.revert_attempts.get(task, 0) + 1
            commands.append(m.Revert(task, attempt, self.waits.get(task)))

    def _list_ending(self, commands: list[m.Command]) -> None:
        if self.phase is RunState.RUNNING:
            # Without what failed, all may be done in a flow that is still to be asked about.
            if not self._left and not self._halts and not self._end_due:
                self._end_due = True
                commands.append(m.End(RunState.SUCCEEDED.value))
        elif self.phase is RunState.REVERTING:
            # Where one flow is undone, reverts of another, which was to run again, may still be running.
            is_undone = self._undoing is not None and not self._undoing.left and not self.reverting
            if is_undone and not self._end_due:
                self._end_due = True
                assert self.goal is not None
                # What a changed flow no longer has cannot be undone.
                complete = self.undo_scope == WHOLE_RUN and not self.forsaken
                complete = complete and not any(map(self._must_undo, range(self.plan.size)))
                commands.append(m.End((self.goal if complete else RunState.FAILED).value))
        if self.suspend_reason is not None and not (
            self._end_due or self._suspend_due or self.reverting or self.is_suspended or self.phase.is_ended
        ):
            self._suspend_due = True
            commands.append(m.Suspend())

    # --- Applying -----------------------------------------------------------------------------------------------------

    def _change(self, event: m.Event) -> None:
        self._APPLY[type(event)](self, event)

    def mark(self, at: float) -> RunState:
        """
        Take note of when the events applied last happened, POSIX seconds, and return the run's state. For statistics,
        and for no decision.
        """
        state = RunState.SUSPENDED if self.is_suspended else self.phase
        waiting = self.states.count(WAITING) if self.waits else 0
        self.tally.take(at, state, self.bodies, len(self.reverting), waiting)
        return state

    def snapshot(self) -> dict[str, Any]:
        """Return the whole state in plain values, to compare a machine with its replay."""
        return {
            "run": (self.run_id, self.flow, self.phase.value, self.is_suspended, self.suspend_reason),
            "goal": (self.goal, self.lets_finish, self.cancel_reason, self.deadline, sorted(self.inputs)),
            "states": bytes(self.states),
            "attempts": list(self.attempts),
            "valued": [value is not NO_VALUE for value in self.values],
            "started": list(self.started),
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
            "scope failures": {scope: repr(failure) for scope, failure in self.scope_failures.items()},
            "controls": {scope: control.snapshot() for scope, control in self.controls.items()},
            "halts": (sorted(self._halts), sorted(self._settled), sorted(self._remaking)),
            "conditions": (dict(self.answers), sorted(self._to_skip)),
            "tally": (self.tally.attempts, self.tally.reverts, self.tally.losses, self.tally.start_overs),
            "undecided": sorted(self._ended),
            "counts": (self._left, self.bodies, self._undoing and self._undoing.left),
            "retired": (dict(self.retired), sorted(self.gone_failures), list(self.forsaken)),
            "gone": dict(self.gone_executions),
        }

    def _cancel_requested(self, event: m.CancelRequested) -> None:
        if self.phase is RunState.RUNNING:
            self.cancel_reason = event.reason
            self._turn_round(RunState.CANCELLED)
        elif self.phase is RunState.REVERTING:
            self._stop_finishing(WHOLE_RUN)

    def _suspend_requested(self, event: m.SuspendRequested) -> None:
        if not self.phase.is_ended and self.suspend_reason is None:
            self.suspend_reason = event.reason

    def _run_suspended(self, event: m.RunSuspended) -> None:
        check_run_step(self.phase, RunState.SUSPENDED, self.run_id)
        self.is_suspended = True

    def _deadline_passed(self, event: m.DeadlinePassed) -> None:
        if self.phase is RunState.RUNNING:
            self.late_scopes.append(event.scope)
            if event.scope <= 0:
                self._turn_round(RunState.REVERTED)
            else:
                self._fail_late(event.scope)
        elif self.phase is RunState.REVERTING:
            self._stop_finishing(event.scope)

    def _run_ended(self, event: m.RunEnded) -> None:
        self._go(RunState(event.state))

    def _scope_started(self, event: m.ScopeStarted) -> None:
        if event.deadline is not None:
            self.scope_deadlines[event.scope] = event.deadline
        self._opening.discard(event.scope)

    def _attempt_started(self, event: m.AttemptStarted) -> None:
        task = event.task
        if self.phase is not RunState.RUNNING or (self._halts and self.is_halted(task)):
            raise IllegalTransition(f"task {self.plan.path(task)!r} cannot start in a run that is {self.phase.value}")
        self._step(task, RUNNING)
        self.attempts[task] = event.attempt
        self.tally.attempts += 1
        self.bodies += 1
        if not self.started[task]:
            self._starts += 1
            self.started[task] = self._starts
        if self.waits:
            self.waits.pop(task, None)
        if self.in_doubt:
            self.in_doubt.discard(task)

    def _reconcile_started(self, event: m.ReconcileStarted) -> None:
        task = event.task
        self._step(task, RUNNING)
        self.bodies += 1
        # The lost attempt is about to get its ending after all, or to be lost again.
        self.lost[task] -= 1
        self.in_doubt.discard(task)

    def _attempt_succeeded(self, event: m.AttemptSucceeded) -> None:
        task = event.task
        if self._ended:
            self._check_in_flight(task)
        self._step(task, SUCCEEDED)
        self.values[task] = event.value
        self.bodies -= 1
        self._left -= 1
        if self.crashes:
            self.crashes.pop(task, None)
        if task in self._remaking:
            self._is_made(task)
        if self._halts and self.is_halted(task):
            self._body_gone(task)
        elif self.phase is RunState.RUNNING:
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
        self._check_in_flight(task)
        self._ended[task] = (ending, retriable)
        self._undecided.append(task)
        self.crashes.pop(task, None)

    def _attempt_cancelled(self, event: m.AttemptCancelled) -> None:
        self._check_in_flight(event.task)
        self.bodies -= 1
        self._body_gone(event.task)
        self._stop(event.task, Cancelled(event.abandoned))

    def _attempt_lost(self, event: m.AttemptLost) -> None:
        task = event.task
        self._check_in_flight(task)
        self.tally.losses += 1
        if self.states[task] == REVERTING:
            self.reverting.discard(task)
            self.revert_lost[task] = self.revert_lost.get(task, 0) + 1
            self._revert_again(task)
            return
        self.bodies -= 1
        self._body_gone(task)
        self.lost[task] = self.lost.get(task, 0) + 1
        if event.cause != "reconciled":
            self.in_doubt.add(task)
        if event.cause == "crash":
            self.crashes[task] = self.crashes.get(task, 0) + 1
        if self.phase is RunState.RUNNING and not self.is_halted(task):
            self._step(task, PENDING)
            self._list_again(task)
        else:
            self._stop(task, Cancelled())

    def _list_again(self, task: int) -> None:
        """Have another attempt of *task* made, behind what a changed flow has put before it."""
        if not self._waiting_for[task]:
            self.ready.append(task)

    def _revert_again(self, task: int) -> None:
        """A try at the revert of *task* is over; another is to be made in its turn, by whoever undoes it by then."""
        self._body_gone(task)
        order = self._undoing_of(task)
        if order is not None and order.is_open(task):
            self._reverts.append(task)

    def _values_lost(self, event: m.ValuesLost) -> None:
        self._reopen_flows()
        self._remaking.update(event.tasks)
        for task in event.tasks:
            self._step(task, PENDING)
            self.values[task] = NO_VALUE
            # The attempt that made the value does not use up a retry.
            self.lost[task] = self.lost.get(task, 0) + 1
        self._recount()
        self._relist()

    def _time_limit_passed(self, event: m.TimeLimitPassed) -> None:
        if self.states[event.task] == RUNNING and event.task not in self._ended:
            self._cancels.append(m.Cancel(event.task, "timeout"))

    def _retry_scheduled(self, event: m.RetryScheduled) -> None:
        task = event.task
        ending, _ = self._ended.pop(task)
        self.waits[task] = event.at
        if self.states[task] == REVERTING:
            self._revert_again(task)
            return
        self._step(task, WAITING)
        self.outcomes[task] = ending
        self.bodies -= 1
        self._body_gone(task)
        if self.phase is RunState.RUNNING and not self.is_halted(task):
            self._list_again(task)
        else:
            # Two endings in one turn: the first was to be tried again, then the second failed the run.
            self._stop(task, Cancelled())

    def _task_failed(self, event: m.TaskFailed) -> None:
        task = event.task
        ending = self._ended.pop(task, None)
        if ending is not None:
            self.bodies -= 1
            self._body_gone(task)
        outcome = event.failure or (ending[0] if ending else None)
        if outcome is None:
            raise InternalError(f"task {self.plan.path(task)!r} failed without a reason")
        new = TIMED_OUT if isinstance(outcome, TimedOut) else FAILED
        self._step(task, new)
        self.outcomes[task] = outcome
        self._count_failure(task)
        self.waits.pop(task, None)
        if self.phase is RunState.RUNNING:
            self._fail(self._home(task))
        else:
            self._undo_when_open(task)

    def _revert_started(self, event: m.RevertStarted) -> None:
        task = event.task
        if self._step(task, REVERTING) == SUCCEEDED:
            self._left += 1
        self.revert_attempts[task] = event.attempt
        self.tally.reverts += 1
        self.reverting.add(task)
        self.waits.pop(task, None)

    def _revert_succeeded(self, event: m.RevertSucceeded) -> None:
        task = event.task
        self._check_in_flight(task)
        self._step(task, REVERTED)
        self.reverting.discard(task)
        self.values[task] = NO_VALUE
        self.revert_values[task] = event.value
        self.executions[task] = self.executions.get(task, 0) + 1
        self._body_gone(task)
        order = self._undoing_of(task)
        if order is None or not order.is_open(task):
            # The flow around the one that was being undone has failed too, and is about to be asked. Or the run has
            # turned round, and a changed flow has put something behind the task that is to be undone as well.
            return
        order.left -= 1
        # What is opened by this may still be running, and then is undone when it ends.
        for opened in order.clear((task,)):
            if self._can_be_undone(opened):
                order.left += 1
                self._reverts.append(opened)

    def _revert_failed(self, event: m.RevertFailed) -> None:
        task = event.task
        self._check_in_flight(task)
        self.reverting.discard(task)
        self._ended[task] = (event.failure, event.retriable)
        self._undecided.append(task)

    def _revert_given_up(self, event: m.RevertGivenUp) -> None:
        task = event.task
        failure, _ = self._ended.pop(task)
        assert isinstance(failure, Failure)
        self.revert_failures[task] = failure
        self._given_up_undoing(task)

    def _ignored(self, event: m.Event) -> None:
        """Progress and what tasks emit are for observers."""

    _APPLY: ClassVar[dict[type[m.Event], Callable[[RunMachine, Any], None]]] = {
        m.RunStarted: Intake._run_started,
        m.RunResumed: Intake._run_resumed,
        m.CancelRequested: _cancel_requested,
        m.SuspendRequested: _suspend_requested,
        m.RunSuspended: _run_suspended,
        m.DeadlinePassed: _deadline_passed,
        m.RunEnded: _run_ended,
        m.RunReset: Intake._run_reset,
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
        m.ValuesLost: _values_lost,
        m.RevertStarted: _revert_started,
        m.RevertSucceeded: _revert_succeeded,
        m.RevertFailed: _revert_failed,
        m.RevertGivenUp: _revert_given_up,
        m.ConditionAnswered: Flows._condition_answered,
        m.TaskSkipped: Flows._task_skipped,
        m.ControllerAnswered: Flows._controller_answered,
        m.FlowStartedOver: Flows._started_over,
        m.Progressed: _ignored,
        m.Emitted: _ignored,
    }
