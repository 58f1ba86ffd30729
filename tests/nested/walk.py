"""A world that answers a machine: one body at a time in plan order, or in any order that is possible."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from asyncflow import messages as m
from asyncflow.graph.controller import Controller
from asyncflow.graph.inputs import NoValue
from asyncflow.graph.plan import Plan
from asyncflow.graph.record import body_of, decode
from asyncflow.machine.ledger import NO_VALUE
from asyncflow.machine.replay import fold, recovery
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Failure, Sealed
from asyncflow.runtime.values import RunValues
from asyncflow.states import RunState, TaskState
from tests.machine.flows import PLAN, failure
from tests.nested.rules import Rules
from tests.nested.trees import DEFAULT, Own, World, value_of


class Walk:
    """
    One run, every event of it checked by the rules. ``events`` is its journal.

    Args:
        plan: What runs.
        world: Who answers.
        rules: Who checks; of a new run.
        prefix: A journal that a process left behind.
        watch: Whether a twin is fed the same events, under the plan as a journal has it, and must stay equal to the
            machine.
        loser: Says which values were not kept when the process dies; None keeps all.
    """

    def __init__(
        self,
        plan: Plan,
        world: World,
        rules: Rules,
        *,
        prefix: list[m.Event] | None = None,
        watch: bool = True,
        loser: random.Random | None = None,
    ) -> None:
        self.plan = plan
        self.plans = {PLAN: plan}
        self.world = world
        self.rules = rules
        self.watch = watch
        self.loser = loser
        self.machine = RunMachine(plan)
        self.twin = RunMachine(as_recorded(plan))
        self.events: list[m.Event] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.starts: list[m.Start | m.Revert] = []
        self.asks: list[int] = []
        self.told: set[int] = set()
        self.values = self._values()
        if prefix is None:
            self.tell(
                m.RunStarted("run", plan.flow, PLAN, {}, None, rules.on_failure, rules.never_revert),
            )
        else:
            for event in prefix:
                self._note(event)
            self.crash()

    def _values(self) -> RunValues:
        values: Any = RunValues(self.machine, None, {}, hands_on_copies=False)  # type: ignore[arg-type]
        return values

    def tell(self, *events: m.Event) -> None:
        for event in events:
            self.machine.apply(event)
            self._note(event)
            if self.watch:
                self.twin.apply(event)
                assert self.twin.snapshot() == self.machine.snapshot(), f"a replay differs after {event}"
                for task, life in enumerate(self.rules.lives):
                    state = TaskState(self.machine.states[task]).name
                    assert state == life.state, f"{life.path} is {state}, not {life.state}, after {event}"

    def _note(self, event: m.Event) -> None:
        self.events.append(event)
        self.rules.take(event)
        path = self.plan.path(event.task) if hasattr(event, "task") else ""
        match event:
            case m.AttemptSucceeded() | m.AttemptFailed() | m.AttemptCancelled():
                self.counts["body", path] += 1
                self.counts["all", "bodies"] += 1
            case m.RevertSucceeded() | m.RevertFailed():
                self.counts["revert", path] += 1
                self.counts["all", "reverts"] += 1
            case m.ConditionAnswered(guard=guard):
                self.counts["guard", str(guard)] += 1
            case m.ControllerAnswered(scope=scope):
                self.counts["decision", str(scope)] += 1

    def crash(self) -> None:
        """Have the process die, and another take the run up from the journal."""
        journal = [m.Record(1.0, self.events)]
        self.machine = fold(journal, self.plans)
        self.twin = fold(journal, {name: as_recorded(plan) for name, plan in self.plans.items()})
        named = self.change()
        self.values = self._values()
        self.starts.clear()
        self.asks.clear()
        self.told.clear()
        self.tell(*recovery(self.machine, plan=named), *self._lost())

    def change(self) -> str | None:
        """Have the run go on with a changed flow; return what the journal calls the new plan, if there is one."""
        return None

    def _lost(self) -> list[m.Event]:
        """Have some values not been kept, and lose those of them that may be read; the others nobody can read now."""
        machine, loser = self.machine, self.loser
        if loser is None or not machine.may_go_forward:
            return []
        assert self.plan.tasks is not None
        for task, declared in enumerate(self.plan.tasks):
            if machine.values[task] is not NO_VALUE and not isinstance(declared, Controller) and loser.random() < 0.5:
                machine.values[task] = Sealed()
        return [event for event in recovery(machine) if isinstance(event, m.ValuesLost)]

    # --- Answering ----------------------------------------------------------------------------------------------------

    def take_due(self, most: int = 1000) -> bool:
        """Take what is due and answer what needs no body; return whether there was anything."""
        commands = self.machine.due(most)
        undone = [self.machine.started[command.task] for command in commands if isinstance(command, m.Revert)]
        assert undone == sorted(undone, reverse=True), "reverts are handed out in reverse order of start"
        starts = [command for command in commands if isinstance(command, m.Start)]
        unwanted = [command for command in starts if not self.machine.wants(command.task, command.attempt)]
        assert not unwanted and len({command.task for command in starts}) == len(starts), f"it would start {starts}"
        for command in commands:
            self._answer(command)
        return bool(commands)

    def _answer(self, command: m.Command) -> None:
        match command:
            case m.Start() | m.Revert():
                self.starts.append(command)
            case m.Cancel(task=task):
                assert self.rules.may_cancel(task), f"{self.plan.path(task)} is told to stop, and nothing says so"
                if task in self.machine.in_flight():
                    self.told.add(task)
            case m.ScheduleRetry(task=task):
                self.tell(m.RetryScheduled(task, 1.0))
            case m.GiveUp(task=task, reverting=True):
                self.tell(m.RevertGivenUp(task))
            case m.GiveUp(task=task, failure=why):
                self.tell(m.TaskFailed(task, why))
            case m.OpenScope(scope=scope):
                self.tell(m.ScopeStarted(scope, 1.0))
            case m.Evaluate(guard=guard):
                self._evaluate(guard)
            case m.Skip(task=task):
                self.tell(m.TaskSkipped(task))
            case m.Decide(scope=scope):
                self.asks.append(scope)
            case m.StartOver(scope=scope, tasks=tasks, wait=wait):
                self.tell(m.FlowStartedOver(scope, tasks, 1.0 if wait else None))
            case m.Suspend():
                self.tell(m.RunSuspended())
            case m.End(state=state):
                self.tell(m.RunEnded(state))
            case _:
                raise AssertionError(f"nobody asked for {command}")

    def _evaluate(self, index: int) -> None:
        if not self.machine.expects_condition(index):
            return
        guard = self.plan.guards[index]
        assert guard.condition is not None
        label = guard.condition.fn.__dict__["label"]
        try:
            _, inputs = guard.binding.read(self.values)
            inputs = dict.fromkeys(guard.condition.fn.__code__.co_varnames, DEFAULT) | inputs
            answer = self.world.condition(label, self.counts["guard", str(index)], inputs)
        except (NoValue, ValueError) as error:
            self.tell(m.ConditionAnswered(index, False, Failure(error)))
        else:
            self.tell(m.ConditionAnswered(index, answer))

    def decide(self, scope: int) -> None:
        """Ask a controller."""
        if not self.machine.expects_answer(scope):
            return
        assert self.plan.tasks is not None
        controller: Any = self.plan.tasks[self.plan.scopes[scope].controller]
        history = self.values.history(scope, with_present=True)
        failed = set(history[-1].failures)
        assert failed == self.rules.failures_in(scope), f"history has {failed}, not {self.rules.failures_in(scope)}"
        path = self.plan.path(self.plan.scopes[scope].controller)
        try:
            if isinstance(controller, Own):
                past = [(attempt.value, tuple(sorted(attempt.failures))) for attempt in history]
                decision = self.world.decision(path, self.counts["decision", str(scope)], past)
            else:
                decision = controller.on_failure(history).value
        except ValueError as error:
            self.tell(m.ControllerAnswered(scope, "revert", 0.0, Failure(error)))
        else:
            self.tell(m.ControllerAnswered(scope, decision))

    def grant(self, command: m.Start | m.Revert) -> None:
        """Let a body or a revert begin, if it is still wanted."""
        task = command.task
        if not self.machine.wants(task, command.attempt, is_revert=isinstance(command, m.Revert)):
            return
        if isinstance(command, m.Revert):
            self.tell(m.RevertStarted(task, command.attempt))
            return
        try:
            self._inputs(task)
        except NoValue as error:
            self.tell(m.TaskFailed(task, Failure(error)))
        else:
            self.tell(m.AttemptStarted(task, command.attempt))

    def _inputs(self, task: int) -> dict[str, Any]:
        positional, named = self.plan.bindings[task].read(self.values)
        assert self.plan.tasks is not None
        code = getattr(self.plan.tasks[task], "fn", None)
        if code is None:
            return dict(named)
        names = code.__code__.co_varnames
        return dict.fromkeys(names, DEFAULT) | dict(zip(names, positional, strict=False)) | dict(named)

    def end(self, task: int) -> None:
        """Let what is in flight end as the world says."""
        assert self.plan.tasks is not None
        path, declared = self.plan.path(task), self.plan.tasks[task]
        assert task in self.machine.in_flight()
        if self.machine.states[task] != TaskState.RUNNING:
            how = self.world.revert(path, self.counts["revert", path])
            if how == "ok":
                self.tell(m.RevertSucceeded(task, None))
            else:
                self.tell(m.RevertFailed(task, failure(), how == "retriable"))
            return
        self.told.discard(task)
        call = self.counts["body", path]
        value: Any = None
        if isinstance(declared, Controller):
            how = self.world.controller(path, call)
            try:
                value = (
                    declared.execute(history=self.values.history(self.plan.scope_of[task])) if _asks(declared) else None
                )
            except Exception:
                how = "fail"
        else:
            how = self.world.body(path, call)
            value = value_of(path, self._inputs(task))
        if how == "ok":
            self.tell(m.AttemptSucceeded(task, value))
        else:
            self.tell(m.AttemptFailed(task, failure(), how == "retriable"))

    # --- Reading ------------------------------------------------------------------------------------------------------

    def final(self) -> dict[str, Any]:
        """Return what is compared of a run that has ended."""
        machine, plan = self.machine, self.plan
        return {
            "state": machine.phase.value,
            "states": {plan.path(task): TaskState(state).name for task, state in enumerate(machine.states)},
            "values": {
                plan.path(task): machine.values[task]
                for task, state in enumerate(machine.states)
                if state == TaskState.SUCCEEDED
            },
            "undone": [plan.path(event.task) for event in self.events if isinstance(event, m.RevertSucceeded)],
        }

    def trace(self) -> list[str]:
        """Return what began, in order."""
        return [
            ("+" if isinstance(event, m.AttemptStarted) else "-") + self.plan.path(event.task)
            for event in self.events
            if isinstance(event, m.AttemptStarted | m.RevertStarted)
        ]


def as_recorded(plan: Plan) -> Plan:
    """Return *plan* as it is read back from a journal."""
    return decode(body_of(plan))


def _asks(controller: Controller) -> bool:
    return "history" in type(controller).execute.__code__.co_varnames


Trouble = tuple[str, int] | None
"""What happens once: "before", "in" or "undo" and a number of bodies, or reverts, that have ended by then."""


def one_at_a_time(walk: Walk, trouble: Trouble = None, crash: Callable[[], bool] = lambda: False) -> None:
    """Bring a run to its end with one body at a time: reverts first, backwards, then starts in plan order."""
    machine = walk.machine
    for _ in range(100_000):
        machine = walk.machine
        if machine.phase.is_ended:
            return
        if crash():
            walk.crash()
            continue
        if walk.take_due():
            continue
        if walk.asks:
            walk.decide(walk.asks.pop(0))
        elif flying := machine.in_flight():
            (task,) = flying
            is_body = machine.states[task] == TaskState.RUNNING
            if _is_time(walk, trouble, "in" if is_body else "undo"):
                walk.tell(m.CancelRequested("enough"))
            elif is_body and task in walk.told:
                walk.told.discard(task)
                walk.tell(m.AttemptCancelled(task))
            else:
                walk.end(task)
        else:
            _grant_next(walk, trouble)
    raise AssertionError(f"no end in sight: {machine.snapshot()}")


def _is_time(walk: Walk, trouble: Trouble, what: str) -> bool:
    if trouble is None or trouble[0] != what or walk.machine.phase is not RunState.RUNNING:
        return False
    return walk.counts["all", "reverts" if what == "undo" else "bodies"] == trouble[1]


def _grant_next(walk: Walk, trouble: Trouble) -> None:
    machine = walk.machine
    walk.starts = [
        one for one in walk.starts if machine.wants(one.task, one.attempt, is_revert=isinstance(one, m.Revert))
    ]
    assert walk.starts, f"stuck: {machine.snapshot()}"
    reverts = [one for one in walk.starts if isinstance(one, m.Revert)]
    if reverts:
        chosen: m.Start | m.Revert = max(reverts, key=lambda one: machine.started[one.task])
    elif _is_time(walk, trouble, "before"):
        walk.tell(m.CancelRequested("enough"))
        return
    else:
        chosen = min(walk.starts, key=lambda one: one.task)
    walk.starts.remove(chosen)
    walk.grant(chosen)


def at_random(walk: Walk, rng: random.Random, mischief: float) -> None:
    """Bring a run to its end in any order, with crashes, suspends, cancels and deadlines on the way."""
    doomed = rng.randint(0, 3)
    for _ in range(100_000):
        machine = walk.machine
        if machine.phase is RunState.FAILED and doomed:
            doomed -= 1
            walk.crash()
            machine = walk.machine
        if machine.phase.is_ended:
            return
        walk.take_due(rng.choice((1, 3, 1000)))
        if machine.phase.is_ended:
            continue
        if machine.is_suspended:
            walk.crash()
            continue
        if not machine._undecided:
            for task in walk.rules.must_cancel():
                assert task in walk.told or machine._cancels, f"{walk.plan.path(task)} should be told to stop"
        choice = rng.random()
        if choice < 0.1 and rng.random() < mischief:
            doomed -= _disturb(walk, rng, doomed)
        elif choice < 0.45 and (flying := machine.in_flight()):
            task = rng.choice(flying)
            if machine.suspend_reason is not None and rng.random() < 0.5:
                walk.tell(m.AttemptLost(task, "suspend"))
            elif task in walk.told and rng.random() < 0.8:
                walk.told.discard(task)
                walk.tell(m.AttemptCancelled(task))
            else:
                walk.end(task)
        elif choice < 0.6 and walk.asks:
            walk.decide(walk.asks.pop(rng.randrange(len(walk.asks))))
        elif walk.starts:
            walk.grant(walk.starts.pop(rng.randrange(len(walk.starts))))
    raise AssertionError(f"no end in sight: {walk.machine.snapshot()}")


def _disturb(walk: Walk, rng: random.Random, doomed: int) -> int:
    machine = walk.machine
    what = rng.choice(("crash", "crash", "suspend", "cancel", "deadline", "late"))
    if what == "crash" and doomed:
        walk.crash()
        return 1
    if what == "suspend" and machine.suspend_reason is None:
        walk.tell(m.SuspendRequested("closing"))
    elif what == "cancel" and machine.heeds_cancel and rng.random() < 0.3:
        walk.tell(m.CancelRequested("enough"))
    elif what == "deadline" and machine.is_late(-1) and rng.random() < 0.3:
        walk.tell(m.DeadlinePassed(-1))
    elif what == "late":
        late = [
            scope for scope in machine.scope_deadlines if scope not in machine.late_scopes and machine.is_late(scope)
        ]
        if late:
            walk.tell(m.DeadlinePassed(rng.choice(late)))
    return 0
