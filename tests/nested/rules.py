"""
What may happen in a run of nested flows with controllers and conditions, looked at event by event.

It knows the plan's edges and scopes and none of the machine's code, and looks at everything each time. Time limits,
policies and lost attempts are :mod:`tests.model`'s business; here it is about what one flow may do to another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from asyncflow import messages as m
from asyncflow.graph.inputs import Binding
from asyncflow.graph.plan import Plan
from asyncflow.graph.policy import DEPTHS

SETTLED = ("SUCCEEDED", "SKIPPED")
ENDED = ("SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED")
NOBODY = -1


@attrs.define
class Life:
    """One task, in its present execution."""

    path: str
    scopes: tuple[int, ...]
    before: set[int] = attrs.field(factory=set)
    after: set[int] = attrs.field(factory=set)
    state: str = "PENDING"
    attempt: int = 0
    has_started: bool = False
    has_failed: bool = False
    is_performing: bool = False
    is_lost: bool = False
    is_remade: bool = False
    is_undecided: bool = False


def closure(after: list[tuple[int, ...]], node: int) -> set[int]:
    """Return all nodes that can be reached from *node*."""
    found: set[int] = set()
    stack = [node]
    while stack:
        for one in after[stack.pop()]:
            if one not in found:
                found.add(one)
                stack.append(one)
    return found


class Shape:
    """What can be read from a plan's edges and scopes, each thing by its plainest definition."""

    def __init__(self, plan: Plan, tolerant: Iterable[int] = ()) -> None:
        self.plan = plan
        self.size = plan.size
        self.after = [tuple(nodes) for nodes in plan.successors]
        self.all_after = [closure(self.after, node) for node in range(len(self.after))]
        self.before: list[set[int]] = [set() for _ in self.after]
        for node, nodes in enumerate(self.after):
            for one in nodes:
                self.before[one].add(node)
        self.right_after = [self._next({task}) for task in range(self.size)]
        self.tolerant = frozenset(tolerant)
        self.around = [self._around(plan.scope_of[task]) for task in range(self.size)]
        self.span = [
            {task for task in range(self.size) if scope in self.around[task]} for scope in range(len(plan.scopes))
        ]
        self.guards: dict[int, list[int]] = {}
        for index, guard in enumerate(plan.guards):
            self.guards.setdefault(guard.node, []).append(index)

    def _around(self, scope: int) -> tuple[int, ...]:
        found = []
        while scope >= 0:
            found.append(scope)
            scope = self.plan.scopes[scope].parent
        return tuple(found)

    def controlled(self, scope: int) -> int:
        """Return the nearest flow with a controller at *scope* or around it, or NOBODY."""
        while scope >= 0 and self.plan.scopes[scope].controller < 0:
            scope = self.plan.scopes[scope].parent
        return scope

    def outer(self, scope: int) -> int:
        """Return the nearest flow with a controller around *scope*, or NOBODY."""
        return self.controlled(self.plan.scopes[scope].parent)

    def home(self, task: int) -> int:
        """Return the flow that fails when *task* does: for a controller the one around its own."""
        scope = self.plan.scope_of[task]
        return self.plan.scopes[scope].parent if self.plan.scopes[scope].controller == task else scope

    def scope_of_guard(self, index: int) -> int:
        """Return the flow that a guard is in: for one that guards a flow the one around that."""
        guard = self.plan.guards[index]
        return self.plan.scopes[guard.scope].parent if guard.scope >= 0 else self.plan.scope_of[guard.node]

    def reach(self, node: int, noes: Iterable[int]) -> set[int]:
        """Return the tasks that are skipped when the guards *noes*, all of them at *node*, say no."""
        guards = [self.plan.guards[index] for index in noes]
        depth = max((guard.depth for guard in guards), key=DEPTHS.index)
        scope = max(guard.scope for guard in guards)
        found = self._whole({node} | (self.span[scope] if scope >= 0 else set()))
        if depth == "neighbours":
            found = self._whole(found | self._next(found))
        elif depth in ("flow", "all"):
            found |= {behind for one in found for behind in self.all_after[one]}
            if depth == "flow":
                inside = self.plan.scopes[scope].parent if scope >= 0 else self.plan.scope_of[node]
                found = {one for one in found if one < self.size and inside in self.around[one]}
        elif depth == "dominated":
            while more := {
                one
                for one in range(len(self.after))
                if one not in found and one not in self.tolerant and self.before[one] and self.before[one] <= found
            }:
                found = self._whole(found | more)
        return {one for one in found if one < self.size}

    def _whole(self, nodes: set[int]) -> set[int]:
        """Return *nodes*, and all of each flow whose controller is among them, with its end."""
        found = set(nodes)
        for index, scope in enumerate(self.plan.scopes):
            if scope.controller in nodes:
                found |= self.span[index] | {scope.end}
                found |= {one for one in self.all_after[scope.controller] if scope.end in self.all_after[one]}
        return found

    def _next(self, nodes: set[int]) -> set[int]:
        found: set[int] = set()
        stack = list(nodes)
        while stack:
            for one in self.after[stack.pop()]:
                if one not in found:
                    found.add(one)
                    if one >= self.size:
                        stack.append(one)
        return found


class Rules:
    """One run as the rules have it: ``take`` accepts an event or raises AssertionError."""

    def __init__(self, shape: Shape, on_failure: str = "cancel", never_revert: bool = False) -> None:
        self.shape = shape
        self.plan = plan = shape.plan
        self.on_failure, self.never_revert = on_failure, never_revert
        size = plan.size
        self.lives = [Life(plan.path(task), shape.around[task]) for task in range(size)]
        for task, life in enumerate(self.lives):
            life.after = {one for one in shape.all_after[task] if one < size}
            for one in life.after:
                self.lives[one].before.add(task)
        self.state = "PENDING"
        self.is_undoing = False
        self.goal = ""
        self.only: int | None = None  # the one flow that is undone
        self.is_suspending = False
        self.was_ordered = False  # somebody outside wanted the run, or a flow, to stop
        self.phases = {s: "going" for s, scope in enumerate(plan.scopes) if scope.controller >= 0}
        self.asked: dict[int, int] = dict.fromkeys(self.phases, 0)
        self.answers: dict[int, bool] = {}
        self.raised: set[int] = set()
        self.flow_failures: set[int] = set()
        self.settled: set[int] = set()  # flows that had ended when values in them were lost
        self._to_lose: set[int] = set()

    # --- Reading ------------------------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        return {life.path: life.state for life in self.lives}

    def halted(self, task: int) -> bool:
        return any(self.phases.get(scope, "going") != "going" for scope in self.shape.around[task])

    def skipped(self) -> set[int]:
        """Return every task that the answers so far skip."""
        found: set[int] = set()
        for node, guards in self.shape.guards.items():
            noes = [index for index in guards if self.answers.get(index) is False]
            if noes and all(index in self.answers or self._abstains(index) for index in guards):
                found |= self.shape.reach(node, noes)
        return found

    def failures_in(self, scope: int) -> set[str]:
        """Return what has failed for good in the present attempt of a flow, by path."""
        found = {self.lives[task].path for task in self.shape.span[scope] if self.lives[task].has_failed}
        for inner in self.flow_failures:
            if inner != scope and scope in self.shape._around(inner):
                found.add(self.plan.scopes[inner].path)
        return found

    def busy(self, tasks: Iterable[int]) -> list[str]:
        return [self.lives[t].path for t in tasks if self.lives[t].is_performing or self.lives[t].is_undecided]

    def may_cancel(self, task: int) -> bool:
        """Whether a running task may be told to stop."""
        if not (self.is_undoing or self.halted(task)):
            return False
        says = {self.plan.scopes[scope].on_failure or self.on_failure for scope in self.shape.around[task]}
        return self.was_ordered or "cancel" in says

    def must_cancel(self) -> list[int]:
        """Return what runs and must have been told to stop, where no flow lets siblings finish."""
        if self.on_failure != "cancel" or any(scope.on_failure == "finish" for scope in self.plan.scopes):
            return []
        return [
            task
            for task, life in enumerate(self.lives)
            if life.state == "RUNNING" and life.is_performing and self.may_cancel(task)
        ]

    # --- Taking -------------------------------------------------------------------------------------------------------

    def take(self, event: m.Event) -> None:
        try:
            if self._to_lose:
                assert isinstance(event, m.AttemptLost), "what was in flight is lost first"
            if isinstance(event, (m.RunStarted, m.RunResumed)):
                self._begin(event)
                return
            assert self.state in ("RUNNING", "REVERTING"), "a run that has ended, or stands still, is quiet"
            getattr(self, f"_on_{type(event).__name__}")(event)
        except AssertionError as error:
            task, scope = getattr(event, "task", None), getattr(event, "scope", None)
            where = "" if task is None else f" of {self.lives[task].path}, which is {self.lives[task].state}"
            if scope is not None:
                where += f" of flow {self.plan.scopes[scope].path!r}, which is {self.phases.get(scope)}"
            raise AssertionError(f"{event}{where}, the run {self.state}: {error}") from error

    def _begin(self, event: m.Event) -> None:
        if isinstance(event, m.RunStarted):
            assert self.state == "PENDING"
            self.state = "RUNNING"
            return
        assert self.state in ("RUNNING", "REVERTING", "SUSPENDED", "FAILED")
        if self.state == "FAILED" and not any(life.state == "REVERT_FAILED" for life in self.lives):
            self._run_what_failed()
        self.state = "REVERTING" if self.is_undoing else "RUNNING"
        self.is_suspending = False
        self._to_lose = {task for task, life in enumerate(self.lives) if life.is_performing}

    def _run_what_failed(self) -> None:
        if self.only is not None and self.only >= 0:
            for task in self.shape.span[self.only]:
                self.lives[task].state = "PENDING"
            self.settled = {scope for scope in self.settled if self.only not in self.shape._around(scope)}
            self._forget_answers(self.only)
        self.is_undoing, self.goal, self.only, self.was_ordered = False, "", None, False
        for life in self.lives:
            # What was lost is still in doubt: its next attempt is the next one of the same execution.
            is_in_doubt = life.state == "CANCELLED" and life.is_lost
            if life.state not in ("PENDING", "SUCCEEDED", "SKIPPED"):
                life.state = "PENDING"
            if life.state == "PENDING" and not is_in_doubt:
                life.has_started, life.attempt = False, 0
            life.has_failed = False
        self.flow_failures.clear()
        self.raised.clear()
        for scope in self.phases:
            self.phases[scope], self.asked[scope] = "going", 0

    def _on_CancelRequested(self, event: m.CancelRequested) -> None:
        self.was_ordered = True
        if self.is_undoing:
            self._assert_some_may_finish(range(self.shape.size))
        else:
            self._turn_round("CANCELLED")

    def _assert_some_may_finish(self, tasks: Iterable[int]) -> None:
        assert any(self.lives[task].state == "RUNNING" for task in tasks), "the run is undone, and nothing goes on"
        assert "finish" in {self.on_failure, *(scope.on_failure for scope in self.plan.scopes)}, "nothing may finish"

    def _on_ValuesLost(self, event: m.ValuesLost) -> None:
        assert not self.is_undoing
        self.settled.update(filter(self._is_settled, self.phases))
        for task in event.tasks:
            life = self.lives[task]
            assert life.state == "SUCCEEDED"
            life.state, life.is_remade = "PENDING", True

    def _on_SuspendRequested(self, event: m.SuspendRequested) -> None:
        self.is_suspending = True

    def _on_RunSuspended(self, event: m.RunSuspended) -> None:
        assert self.is_suspending and not self.busy(range(self.shape.size))
        self.state = "SUSPENDED"

    def _on_ScopeStarted(self, event: m.ScopeStarted) -> None:
        assert self.plan.scopes[event.scope].timeout is not None

    def _on_DeadlinePassed(self, event: m.DeadlinePassed) -> None:
        assert any(self.lives[task].state not in SETTLED for task in self.shape.span[max(event.scope, 0)])
        self.was_ordered = True
        if self.is_undoing:
            self._assert_some_may_finish(self.shape.span[max(event.scope, 0)])
            return
        if event.scope <= 0:
            self._turn_round("FAILED" if self.never_revert else "REVERTED", NOBODY if self.never_revert else None)
            return
        self._fail(self.plan.scopes[event.scope].parent)
        self.flow_failures.add(event.scope)
        if not self.is_undoing and event.scope in self.phases:
            self.phases[event.scope] = "given up"

    # --- Failing ------------------------------------------------------------------------------------------------------

    def _turn_round(self, goal: str, only: int | None = None) -> None:
        assert not self.is_undoing, "a run is turned round once"
        self.is_undoing, self.goal, self.only, self.state = True, goal, only, "REVERTING"
        self._drop_waits(range(self.shape.size))

    def _drop_waits(self, tasks: Iterable[int]) -> None:
        for task in tasks:
            life = self.lives[task]
            if life.state == "WAITING" or (life.state == "PENDING" and life.has_started):
                life.state = "CANCELLED"

    def _fail(self, home: int) -> None:
        if self.is_undoing:
            return
        if self.never_revert:
            self._turn_round("FAILED", NOBODY)
            return
        scope = self.shape.controlled(home)
        while scope != NOBODY and self._is_settled(scope):  # what is behind it may have begun
            scope = self.shape.outer(scope)
        if scope == NOBODY:
            self._turn_round("REVERTED")
        elif all(self.phases.get(one, "going") == "going" for one in self.shape._around(home)):
            self.phases[scope] = "stopping"
            self._drop_waits(self.shape.span[scope])

    def _is_settled(self, scope: int) -> bool:
        """Whether a flow has ended well, at least before values in it were lost."""
        inside = [one for one in range(len(self.plan.scopes)) if scope in self.shape._around(one)]
        has_failed = any(self.phases.get(one, "going") != "going" or one in self.flow_failures for one in inside)
        end = self.plan.scopes[scope].end
        last = [task for task in self.shape.span[scope] if end in self.shape.right_after[task]]
        has_ended = not has_failed and all(self.lives[task].state in SETTLED for task in last)
        return scope in self.settled or has_ended

    def _on_TaskFailed(self, event: m.TaskFailed) -> None:
        life = self.lives[event.task]
        if life.is_undecided:
            life.is_undecided = False
            life.state = "FAILED"
        else:
            self._assert_may_go(event.task)
            life.state = "FAILED"
        life.has_failed = True
        self._fail(self.shape.home(event.task))

    def _on_ControllerAnswered(self, event: m.ControllerAnswered) -> None:
        scope = event.scope
        assert not self.is_undoing, "the run is undone, so nobody is asked"
        assert not self.is_suspending
        assert self.phases[scope] == "stopping", "its flow has not failed"
        around = [one for one in self.shape._around(scope)[1:] if self.phases.get(one, "going") != "going"]
        assert not around, "a flow around it has failed"
        assert not self.busy(self.shape.span[scope]), f"{self.busy(self.shape.span[scope])} are not still"
        assert not self.asked[scope], "it was asked for this attempt"
        self.asked[scope] += 1
        decision = event.decision if event.failure is None else "revert"
        if event.failure is not None:
            self.flow_failures.add(scope)
        if decision == "retry":
            self.phases[scope] = "undoing"
        elif decision == "revert_all":
            self._turn_round("REVERTED")
        else:
            self.phases[scope] = "given up"
            outer = self.shape.outer(scope)
            if outer != NOBODY:
                self._fail(outer)
            elif self.plan.scopes[scope].revert_scope == "flow" and scope:
                self._turn_round("FAILED", scope)
            else:
                self._turn_round("REVERTED")

    def _on_FlowStartedOver(self, event: m.FlowStartedOver) -> None:
        scope, span = event.scope, self.shape.span[event.scope]
        controller = self.plan.scopes[scope].controller
        assert not self.is_undoing and self.phases[scope] == "undoing", "it is not undone to run again"
        left = [self.lives[t].path for t in span if t != controller and self.lives[t].has_started]
        left = [path for path in left if self.states()[path] != "REVERTED"]
        assert not left, f"{left} are not undone"
        assert not any(self.halted(controller) for _ in [0] if self._halted_outside(scope)), "a flow around it failed"
        changed = sorted(task for task in span if self.lives[task].state != "PENDING")
        assert sorted(event.tasks) == changed, f"those whose state changes are {changed}"
        for task in span:
            life = self.lives[task]
            life.state, life.has_started, life.has_failed, life.attempt = "PENDING", False, False, 0
            life.is_remade = False
        for inner in self.phases:
            if scope in self.shape._around(inner):
                self.phases[inner], self.asked[inner] = "going", 0
                self.settled.discard(inner)
        self.flow_failures = {one for one in self.flow_failures if scope not in self.shape._around(one)}
        self._forget_answers(scope)

    def _forget_answers(self, scope: int) -> None:
        for index in range(len(self.plan.guards)):
            if scope in self.shape._around(self.shape.scope_of_guard(index)):
                self.answers.pop(index, None)
                self.raised.discard(index)

    def _halted_outside(self, scope: int) -> bool:
        return any(self.phases.get(one, "going") != "going" for one in self.shape._around(scope)[1:])

    # --- A task going forward -----------------------------------------------------------------------------------------

    def _missing(self, node: int) -> list[str]:
        """Return what *node* still waits for."""
        found: list[str] = []
        for task, life in enumerate(self.lives):
            # What is between the two has been done already, of what is made again: only the next ones are held up.
            behind = self.shape.right_after[task] if life.is_remade else self.shape.all_after[task]
            if node in behind and life.state not in SETTLED:
                found.append(life.path)
        return found

    def _unmade(self, binding: Binding) -> list[str]:
        """Return what is still being made again of what *binding* reads."""
        return [self.lives[one].path for one in binding.reads() if self.lives[one].is_remade]

    def _assert_may_go(self, task: int) -> None:
        life = self.lives[task]
        assert not self.is_undoing, "nothing starts while the run is undone"
        assert not self.is_suspending, "nothing starts once a suspend was asked for"
        assert not self.halted(task), "nothing starts in a flow that has failed"
        assert life.state in ("PENDING", "WAITING") and not life.is_performing
        missing = self._missing(task) + self._unmade(self.plan.bindings[task])
        assert not missing, f"{missing} come first"
        assert task not in self.skipped(), "it is to be skipped"
        for index, guard in enumerate(self.plan.guards):
            if guard.node == task or (guard.scope >= 0 and task in self.shape.span[guard.scope]):
                says = self.answers.get(index)
                # A flow's own no may have had no reach beyond, but never lets in.
                assert says or (says is None and self._abstains(index)), f"guard {index} has not let it pass"

    def _abstains(self, index: int) -> bool:
        sources = self.plan.guards[index].sources
        return bool(sources) and all(self.lives[one].state == "SKIPPED" for one in sources)

    def _on_AttemptStarted(self, event: m.AttemptStarted) -> None:
        self._assert_may_go(event.task)
        life = self.lives[event.task]
        assert event.attempt == life.attempt + 1, f"attempt {life.attempt + 1} is next"
        life.attempt += 1
        life.state, life.has_started, life.is_performing, life.is_lost = "RUNNING", True, True, False

    def _end(self, task: int) -> Life:
        life = self.lives[task]
        assert life.state == "RUNNING" and life.is_performing, "no attempt is in flight"
        life.is_performing = False
        return life

    def _on_AttemptSucceeded(self, event: m.AttemptSucceeded) -> None:
        life = self._end(event.task)
        life.state, life.is_remade = "SUCCEEDED", False

    def _on_AttemptFailed(self, event: m.AttemptFailed) -> None:
        self._end(event.task).is_undecided = True

    def _on_AttemptCancelled(self, event: m.AttemptCancelled) -> None:
        assert self.may_cancel(event.task), "nobody told it to stop"
        self._end(event.task).state = "CANCELLED"

    def _on_AttemptLost(self, event: m.AttemptLost) -> None:
        life = self.lives[event.task]
        assert life.is_performing
        self._to_lose.discard(event.task)
        life.is_performing = False
        if life.state == "RUNNING":
            life.state = "CANCELLED" if self.is_undoing or self.halted(event.task) else "PENDING"
            life.is_lost = True

    def _on_RetryScheduled(self, event: m.RetryScheduled) -> None:
        life = self.lives[event.task]
        assert life.is_undecided
        life.is_undecided = False
        if life.state == "RUNNING":
            life.state = "CANCELLED" if self.is_undoing or self.halted(event.task) else "WAITING"

    # --- Choosing -----------------------------------------------------------------------------------------------------

    def _on_ConditionAnswered(self, event: m.ConditionAnswered) -> None:
        guard = self.plan.guards[event.guard]
        assert not self.is_undoing, "nothing is chosen while the run is undone"
        home = self.shape.scope_of_guard(event.guard)
        assert all(self.phases.get(one, "going") == "going" for one in self.shape._around(home)), "its flow has failed"
        missing = self._missing(guard.node) + self._unmade(guard.binding)
        assert not missing, f"it is asked before {missing}"
        assert event.guard not in self.answers and event.guard not in self.raised, "it was asked before"
        assert not self._abstains(event.guard), "nothing in front of its link ran"
        guarded = self.shape.span[guard.scope] if guard.scope >= 0 else {guard.node}
        assert not (guarded and guarded <= self.skipped()), "what it guards is skipped anyhow"
        if event.failure is None:
            self.answers[event.guard] = event.answer
            return
        self.raised.add(event.guard)
        if guard.scope < 0:
            life = self.lives[guard.node]
            assert life.state == "PENDING"
            life.state, life.has_failed = "FAILED", True
        else:
            self.flow_failures.add(guard.scope)
        self._fail(home)

    def _on_TaskSkipped(self, event: m.TaskSkipped) -> None:
        life = self.lives[event.task]
        assert not self.is_undoing and not self.halted(event.task)
        assert life.state == "PENDING" and not life.has_started
        assert event.task in self.skipped(), "nobody said no to it"
        missing = self._missing(event.task)
        assert not missing, f"it is skipped before {missing} have settled"
        life.state = "SKIPPED"

    # --- Undoing ------------------------------------------------------------------------------------------------------

    def _undone_flows(self, task: int) -> list[int]:
        """Return the flows around *task* that are being undone, if it is to be."""
        if self.is_undoing:
            whole = 0 if self.only is None else self.only
            # What was being undone to run again is undone to its end, also where only another flow is from here on.
            is_begun = self.lives[task].state in ("REVERTING", "REVERT_FAILED")
            return [whole] if whole in self.shape.around[task] else [*self.shape.around[task][:1]] if is_begun else []
        found = [scope for scope in self.shape.around[task] if self.phases.get(scope) == "undoing"]
        return [scope for scope in found if self.plan.scopes[scope].controller != task and not self._above(scope)]

    def _above(self, scope: int) -> bool:
        return self._halted_outside(scope)

    def _on_RevertStarted(self, event: m.RevertStarted) -> None:
        life = self.lives[event.task]
        assert not self.is_suspending
        assert self._undone_flows(event.task), "no flow around it is undone"
        assert life.has_started, "it never started"
        assert not life.is_performing and not life.is_undecided
        assert life.state in (*ENDED, "REVERTING", "REVERT_FAILED")
        undone = self._undone_flows(event.task)[0]
        standing = [
            self.lives[one].path
            for one in life.after & self.shape.span[undone]
            if self.lives[one].has_started and self.lives[one].state != "REVERTED"
        ]
        assert not standing, f"its dependents come first: {standing}"
        life.state, life.is_performing = "REVERTING", True

    def _end_revert(self, task: int) -> Life:
        life = self.lives[task]
        assert life.state == "REVERTING" and life.is_performing
        life.is_performing = False
        return life

    def _on_RevertSucceeded(self, event: m.RevertSucceeded) -> None:
        self._end_revert(event.task).state = "REVERTED"

    def _on_RevertFailed(self, event: m.RevertFailed) -> None:
        self._end_revert(event.task).is_undecided = True

    def _on_RevertGivenUp(self, event: m.RevertGivenUp) -> None:
        life = self.lives[event.task]
        assert life.is_undecided
        life.is_undecided, life.state = False, "REVERT_FAILED"
        if not self.is_undoing:
            # What it depends on cannot be undone any more, so no flow around it can run again.
            self._turn_round("REVERTED")

    def _on_RunEnded(self, event: m.RunEnded) -> None:
        assert not self.busy(range(self.shape.size))
        if not self.is_undoing:
            assert event.state == "SUCCEEDED"
            skipped = self.skipped()
            for task, life in enumerate(self.lives):
                assert life.state == ("SKIPPED" if task in skipped else "SUCCEEDED"), f"{life.path} is {life.state}"
            assert all(phase == "going" for phase in self.phases.values()), f"flows are {self.phases}"
        else:
            whole = 0 if self.only is None else self.only
            concerned = [life for life in self.lives if whole in life.scopes]
            for life in self.lives:
                if not life.has_started:
                    assert life.state in ("PENDING", "FAILED", "SKIPPED"), f"{life.path} is {life.state}"
                elif life not in concerned:
                    assert life.state in (*ENDED, "REVERTED", "REVERT_FAILED"), f"{life.path} is {life.state}"
                elif life.state not in ("REVERTED", "REVERT_FAILED"):
                    blocked = any(self.lives[one].state == "REVERT_FAILED" for one in life.after)
                    assert life.state in ENDED and blocked, f"{life.path}, {life.state}, could still be undone"
            is_undone = all(life.state == "REVERTED" for life in self.lives if life.has_started)
            expected = self.goal if is_undone and self.only is None else "FAILED"
            assert event.state == expected, f"it should end {expected}: {self.states()}"
        self.state = event.state

    def final(self) -> dict[str, Any]:
        return {"state": self.state, "states": self.states()}
