"""
What a journal may say, stated a second time and without any of the machine's code.

The machine counts, so that each event costs the same however large the plan is. The model looks at everything each time
and is slow, which makes it easy to believe. Fed the events of a journal in their order, it accepts or rejects each.
Controllers and conditions are not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import attrs

from asyncflow import messages as m
from asyncflow.graph.plan import Plan

RUN = -1
"""The scope that a passed deadline names for the run itself."""
SOON = 1e-6
"""Seconds by which two times that should be equal may differ."""

SETTLED = ("SUCCEEDED", "SKIPPED")
ENDED = ("SUCCEEDED", "FAILED", "TIMED_OUT", "CANCELLED")


class Times(Protocol):
    """What the model reads of a retry policy."""

    @property
    def n(self) -> int: ...


class Declaration(Protocol):
    """What the model reads of a task's declaration."""

    @property
    def retry(self) -> Times | None: ...
    @property
    def revert_retry(self) -> Times | None: ...
    @property
    def on_crash(self) -> str: ...
    @property
    def max_crashes(self) -> int: ...
    @property
    def timeout(self) -> float | None: ...
    @property
    def reconciler(self) -> Any: ...


@attrs.define
class Life:
    """One task. ``lost`` and ``revert_lost`` count what has no ending and so uses up no try."""

    path: str
    declared: Declaration
    before: set[int] = attrs.field(factory=set)
    after: set[int] = attrs.field(factory=set)
    scopes: tuple[int, ...] = ()
    state: str = "PENDING"
    attempt: int = 0
    lost: int = 0
    crashes: int = 0
    started_at: float = 0.0
    is_in_doubt: bool = False
    is_performing: bool = False  # a body or revert has started and has no ending
    is_over_time: bool = False
    was_abandoned: bool = False
    ending: m.Event | None = None  # the ending of a body or revert that is yet to be decided about
    due: float = 0.0
    revert_try: int = 0
    revert_lost: int = 0
    value: Any = None

    @property
    def has_started(self) -> bool:
        return self.attempt > 0


def check_journal(
    records: Iterable[m.Record], plan: Plan, declarations: Mapping[str, Declaration] | None = None
) -> None:
    """
    Raise AssertionError, naming the event, where a journal says what may not be.

    *declarations* has the declaration of each task by path; None takes those of the plan.
    """
    model = Model(plan, declarations)
    for record in records:
        model.take(record)


class Model:
    """
    One run as the rules have it. ``state`` is the run's state, ``lives`` its tasks.

    The phase is "forward" or "undoing", and ``goal`` where undoing is to end.
    """

    def __init__(self, plan: Plan, declarations: Mapping[str, Declaration] | None = None) -> None:
        if declarations is None:
            assert plan.tasks is not None
            declarations = {plan.path(task): plan.tasks[task] for task in range(plan.size)}
        self.plan = plan
        self.lives = [Life(plan.path(task), declarations[plan.path(task)]) for task in range(plan.size)]
        for task, life in enumerate(self.lives):
            life.scopes = tuple(plan.enclosing(plan.scope_of[task]))
            life.after = _tasks_behind(plan, task)
            for later in life.after:
                self.lives[later].before.add(task)
        self.state = "PENDING"
        self.phase = "forward"
        self.goal = ""
        self.is_suspending = False
        self.deadline: float | None = None
        self.scope_deadlines: dict[int, float] = {}
        self.failures: list[str] = []
        self.undone: list[str] = []  # paths in the order in which their reverts were done
        self._to_lose: set[int] = set()
        self._turned_in: m.Record | None = None  # the record in which the run was turned round
        self._record = m.Record(0.0, [])
        self._last_at = 0.0

    # --- Reading ------------------------------------------------------------------------------------------------------

    def states(self) -> dict[str, str]:
        """Return the state of each task by path."""
        return {life.path: life.state for life in self.lives}

    def values(self) -> dict[str, Any]:
        """Return the value of each task that has one, by path."""
        return {life.path: life.value for life in self.lives if life.state == "SUCCEEDED"}

    # --- Taking -------------------------------------------------------------------------------------------------------

    def take(self, record: m.Record) -> None:
        """Take a record, or raise AssertionError."""
        assert record.at >= self._last_at - SOON, f"{record} is older than the one before it"
        self._record = record
        for event in record.events:
            try:
                self._take(event)
            except AssertionError as error:
                raise AssertionError(f"{self.describe(event)}: {error}") from error
        self._last_at = record.at

    def describe(self, event: m.Event) -> str:
        """Return *event* with its task's path and state."""
        task = getattr(event, "task", None)
        where = "" if task is None else f" of {self.lives[task].path!r}, which is {self.lives[task].state}"
        return f"{event}{where}, in a run that is {self.state} and {self.phase}"

    def _take(self, event: m.Event) -> None:
        kind = type(event).__name__
        if isinstance(event, (m.Progressed, m.Emitted)):
            return
        if self._to_lose:
            assert isinstance(event, m.AttemptLost), (
                f"{self._paths(self._to_lose)} were in flight and must be lost first"
            )
        if isinstance(event, m.RunStarted):
            assert self.state == "PENDING", "a run starts once"
            self.state, self.deadline = "RUNNING", event.deadline
            return
        if isinstance(event, m.RunResumed):
            self._resume(event)
            return
        assert self.state in ("RUNNING", "REVERTING"), "a run that has ended, or stands still, is quiet"
        getattr(self, f"_on_{kind}")(event)

    def _paths(self, tasks: Iterable[int]) -> str:
        return ", ".join(self.lives[task].path for task in sorted(tasks)) or "nothing"

    def _in_flight(self) -> list[int]:
        return [task for task, life in enumerate(self.lives) if life.is_performing]

    # --- The run ------------------------------------------------------------------------------------------------------

    def _resume(self, event: m.RunResumed) -> None:
        assert self.state in ("RUNNING", "REVERTING", "SUSPENDED", "FAILED"), "there is nothing left to resume"
        assert event.plan is None, "the model knows one plan"
        if self.state == "FAILED":
            for life in self.lives:
                life.revert_try = life.revert_lost = 0
        self.state = "RUNNING" if self.phase == "forward" else "REVERTING"
        self.is_suspending = False
        if event.deadline is not None:
            self.deadline = event.deadline
        self._to_lose = set(self._in_flight())

    def _turn_round(self, goal: str) -> None:
        assert self.phase == "forward", "a run is turned round once"
        self.phase, self.goal, self.state = "undoing", goal, "REVERTING"
        self._turned_in = self._record
        for life in self.lives:
            if life.state == "WAITING" or (life.state == "PENDING" and life.has_started):
                life.state = "CANCELLED"

    def _on_CancelRequested(self, event: m.CancelRequested) -> None:
        self._turn_round("CANCELLED")

    def _on_SuspendRequested(self, event: m.SuspendRequested) -> None:
        assert not self.is_suspending, "it is about to stand still already"
        self.is_suspending = True

    def _on_RunSuspended(self, event: m.RunSuspended) -> None:
        assert self.is_suspending, "nobody asked for it"
        assert not self._in_flight(), f"still in flight: {self._paths(self._in_flight())}"
        self._assert_decided()
        self.state = "SUSPENDED"

    def _on_DeadlinePassed(self, event: m.DeadlinePassed) -> None:
        deadline = self.deadline if event.scope == RUN else self.scope_deadlines.get(event.scope)
        assert deadline is not None, "there is no such deadline"
        assert self._record.at >= deadline - SOON, f"it is {self._record.at}, and the deadline {deadline}"
        left = [life for life in self.lives if life.state not in SETTLED]
        assert any(event.scope == RUN or event.scope in life.scopes for life in left), "nothing is left to do there"
        self._turn_round("REVERTED")

    def _on_ScopeStarted(self, event: m.ScopeStarted) -> None:
        timeout = self.plan.scopes[event.scope].timeout
        assert timeout is not None and event.deadline is not None, "the flow has no time limit"
        assert event.scope not in self.scope_deadlines, "it has started already"
        assert self.phase == "forward" and not self.is_suspending, "nothing starts any more"
        assert self._last_at + timeout - SOON <= event.deadline <= self._record.at + timeout + SOON, "a wrong deadline"
        self.scope_deadlines[event.scope] = event.deadline

    def _on_RunEnded(self, event: m.RunEnded) -> None:
        assert not self._in_flight(), f"still in flight: {self._paths(self._in_flight())}"
        self._assert_decided()
        found = {life.path: life.state for life in self.lives}
        if self.phase == "forward":
            assert event.state == "SUCCEEDED", "it was going forward"
            assert all(state in SETTLED for state in found.values()), f"not all is done: {found}"
        else:
            for life in self.lives:
                if not life.has_started:
                    assert life.state in ("PENDING", "FAILED"), f"{life.path} never started and is {life.state}"
                elif life.state not in ("REVERTED", "REVERT_FAILED"):
                    assert life.state in ENDED and self._is_blocked(life), f"{life.path} could still be undone"
            is_undone = all(life.state == "REVERTED" for life in self.lives if life.has_started)
            assert event.state == (self.goal if is_undone else "FAILED"), f"it should end {self.goal}: {found}"
        self.state = event.state

    def _is_blocked(self, life: Life) -> bool:
        started = [self.lives[task] for task in life.after if self.lives[task].has_started]
        return any(later.state == "REVERT_FAILED" or self._is_blocked(later) for later in started)

    def _assert_decided(self) -> None:
        undecided = [life.path for life in self.lives if life.ending is not None]
        assert not undecided, f"nobody has decided about {undecided}"

    # --- A task going forward -----------------------------------------------------------------------------------------

    def _assert_may_start(self, life: Life) -> None:
        assert self.phase == "forward", "nothing starts while the run is undone"
        assert not self.is_suspending, "nothing starts once a suspend was asked for"
        assert not life.is_performing and life.ending is None, "an earlier attempt has no ending"
        missing = [self.lives[task].path for task in life.before if self.lives[task].state not in SETTLED]
        assert not missing, f"its inputs come first: {missing}"

    def _on_AttemptStarted(self, event: m.AttemptStarted) -> None:
        life = self.lives[event.task]
        self._assert_may_start(life)
        assert life.state in ("PENDING", "WAITING")
        assert event.attempt == life.attempt + 1, f"attempt {life.attempt + 1} is next"
        if life.state == "WAITING":
            assert self._record.at >= life.due - SOON, f"its wait is over at {life.due}"
        if life.is_in_doubt:
            assert life.declared.on_crash == "retry" and life.declared.reconciler is None, "it is in doubt"
            assert life.crashes < life.declared.max_crashes, "it was lost too often"
        assert event.attempt - life.lost <= _tries(life.declared.retry), "its tries are used up"
        for scope in life.scopes:
            if self.plan.scopes[scope].timeout is not None:
                assert scope in self.scope_deadlines, f"the time limit of scope {scope} is not running"
        life.state, life.attempt, life.started_at = "RUNNING", event.attempt, self._record.at
        life.is_performing, life.is_over_time, life.is_in_doubt = True, False, False
        self._assert_within_limits(life)

    def _assert_within_limits(self, life: Life) -> None:
        for scope in life.scopes:
            limit = self.plan.scopes[scope].concurrency
            busy = [
                other.path
                for other in self.lives
                if scope in other.scopes and other.is_performing and not other.was_abandoned
            ]
            assert limit is None or len(busy) <= limit, f"{busy} at once, and no more than {limit} may be"

    def _on_ReconcileStarted(self, event: m.ReconcileStarted) -> None:
        life = self.lives[event.task]
        self._assert_may_start(life)
        assert life.state == "PENDING" and life.is_in_doubt, "there is nothing to reconcile"
        assert life.declared.reconciler is not None, "it has no such hook"
        assert life.crashes < life.declared.max_crashes, "it was lost too often"
        life.state, life.is_performing, life.is_in_doubt = "RUNNING", True, False
        life.lost -= 1

    def _end_body(self, event: Any) -> Life:
        life = self.lives[event.task]
        assert life.state == "RUNNING" and life.is_performing, "no attempt is in flight"
        life.is_performing = False
        life.was_abandoned = getattr(event, "abandoned", False) or life.was_abandoned
        return life

    def _on_AttemptSucceeded(self, event: m.AttemptSucceeded) -> None:
        life = self._end_body(event)
        life.state, life.value, life.crashes = "SUCCEEDED", event.value, 0

    def _on_AttemptFailed(self, event: m.AttemptFailed) -> None:
        life = self._end_body(event)
        life.ending, life.crashes = event, 0

    def _on_AttemptTimedOut(self, event: m.AttemptTimedOut) -> None:
        life = self._end_body(event)
        assert life.is_over_time or life.declared.reconciler is not None, "its time is not over"
        life.ending, life.crashes = event, 0

    def _on_AttemptCancelled(self, event: m.AttemptCancelled) -> None:
        assert self.phase == "undoing", "nobody told it to stop"
        self._end_body(event).state = "CANCELLED"

    def _on_TimeLimitPassed(self, event: m.TimeLimitPassed) -> None:
        life = self.lives[event.task]
        assert life.declared.timeout is not None, "it has no time limit"
        if life.state == "RUNNING" and life.is_performing and not life.is_over_time:
            life.is_over_time = True

    def _on_AttemptLost(self, event: m.AttemptLost) -> None:
        life = self.lives[event.task]
        assert life.is_performing, "nothing is in flight"
        if event.cause == "crash":
            assert event.task in self._to_lose, "no process died"
            self._to_lose.discard(event.task)
        elif event.cause == "suspend":
            also = any(isinstance(other, m.SuspendRequested) for other in self._record.events)
            assert self.is_suspending or also, "nobody asked the run to stand still"
        else:
            assert event.cause == "reconciled" and life.declared.reconciler is not None, "an unknown cause"
        life.is_performing = False
        if life.state == "REVERTING":
            life.revert_lost += 1
            life.due = 0.0
            return
        assert life.state == "RUNNING"
        life.lost += 1
        life.crashes += event.cause == "crash"
        life.is_in_doubt = event.cause != "reconciled"
        life.state = "PENDING" if self.phase == "forward" else "CANCELLED"

    def _on_RetryScheduled(self, event: m.RetryScheduled) -> None:
        life = self.lives[event.task]
        assert life.ending is not None, "there is nothing to try again"
        assert _is_retriable(life.ending), "its ending is not worth another try"
        assert event.at >= self._last_at - SOON, "it is due before its last try ended"
        life.ending, life.due = None, event.at
        if life.state == "REVERTING":
            assert life.revert_try - life.revert_lost < _tries(life.declared.revert_retry), "its tries are used up"
            return
        assert life.attempt - life.lost < _tries(life.declared.retry), "its tries are used up"
        if self.phase == "forward":
            life.state = "WAITING"
        else:
            assert self._turned_in is self._record, "there is no next attempt while the run is undone"
            life.state = "CANCELLED"

    def _on_TaskFailed(self, event: m.TaskFailed) -> None:
        life = self.lives[event.task]
        declared = life.declared
        if life.ending is not None:
            assert event.failure is None, "its last ending says why"
            may_retry = _is_retriable(life.ending) and life.attempt - life.lost < _tries(declared.retry)
            assert not may_retry or self.phase == "undoing", "it may be tried again"
            life.state = "TIMED_OUT" if isinstance(life.ending, m.AttemptTimedOut) else "FAILED"
            life.ending = None
        else:
            self._assert_may_start(life)
            assert event.failure is not None, "nothing says why"
            assert life.state in ("PENDING", "WAITING")
            reason = event.failure.type_name.rpartition(".")[2]
            if reason == "LostTooOften":
                assert life.is_in_doubt and life.crashes >= declared.max_crashes, "it may be tried again"
            elif reason == "AttemptInDoubt":
                forbidden = declared.on_crash == "fail" and declared.reconciler is None
                assert life.is_in_doubt and forbidden, "it may be tried again"
            life.state, life.is_in_doubt = "FAILED", False
        self.failures.append(life.path)
        if self.phase == "forward":
            self._turn_round("REVERTED")

    def _on_ValuesLost(self, event: m.ValuesLost) -> None:
        for task in event.tasks:
            life = self.lives[task]
            assert life.state == "SUCCEEDED" and self.phase == "forward", f"{life.path} has no value to lose"
            life.state, life.value = "PENDING", None
            life.lost += 1

    # --- A task being undone ------------------------------------------------------------------------------------------

    def _on_RevertStarted(self, event: m.RevertStarted) -> None:
        life = self.lives[event.task]
        assert self.phase == "undoing", "the run goes forward"
        assert not self.is_suspending, "nothing starts once a suspend was asked for"
        assert life.has_started, "it never started"
        assert not life.is_performing and life.ending is None, "an earlier try has no ending"
        assert life.state in (*ENDED, "REVERTING", "REVERT_FAILED")
        assert life.state != "REVERT_FAILED" or life.revert_try == 0, "it was given up"
        assert event.attempt == life.revert_try + 1, f"try {life.revert_try + 1} is next"
        assert event.attempt - life.revert_lost <= _tries(life.declared.revert_retry), "its tries are used up"
        if life.state == "REVERTING":
            assert self._record.at >= life.due - SOON, f"its wait is over at {life.due}"
        later = [self.lives[task] for task in life.after]
        standing = [other.path for other in later if other.has_started and other.state != "REVERTED"]
        assert not standing, f"its dependents come first: {standing}"
        life.state, life.revert_try, life.is_performing = "REVERTING", event.attempt, True
        self._assert_within_limits(life)

    def _end_revert(self, task: int) -> Life:
        life = self.lives[task]
        assert life.state == "REVERTING" and life.is_performing, "no revert is in flight"
        life.is_performing = False
        return life

    def _on_RevertSucceeded(self, event: m.RevertSucceeded) -> None:
        life = self._end_revert(event.task)
        life.state, life.value = "REVERTED", None
        self.undone.append(life.path)

    def _on_RevertFailed(self, event: m.RevertFailed) -> None:
        self._end_revert(event.task).ending = event

    def _on_RevertGivenUp(self, event: m.RevertGivenUp) -> None:
        life = self.lives[event.task]
        assert isinstance(life.ending, m.RevertFailed), "its last try has not failed"
        exhausted = life.revert_try - life.revert_lost >= _tries(life.declared.revert_retry)
        assert exhausted or not life.ending.retriable, "it may be tried again"
        life.state, life.ending = "REVERT_FAILED", None


def _tries(policy: Times | None) -> int:
    return 1 if policy is None else policy.n


def _is_retriable(ending: m.Event) -> bool:
    return isinstance(ending, m.AttemptFailed | m.AttemptTimedOut | m.RevertFailed) and ending.retriable


def _tasks_behind(plan: Plan, task: int) -> set[int]:
    found: set[int] = set()
    stack = list(plan.successors[task])
    seen: set[int] = set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node < plan.size:
            found.add(node)
        else:
            stack.extend(plan.successors[node])
    return found


def events_of(records: Sequence[m.Record]) -> list[m.Event]:
    """Return all events of *records*, in order."""
    return [event for record in records for event in record.events]
