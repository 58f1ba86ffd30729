"""
A whole run against the machine, without an event loop: bodies, conditions and controllers are called, one at a time.

What happens is written down in a few words, so that a test can state the sequence of a run on one line:

====================  ==========================================================================
``a``, ``a!``         the body of a returned, or raised and a has failed for good
``a/``, ``a!!``       it gave way to a cancel; a failed without having started
``-a``, ``-a!``       a was undone, or could not be
``~a``                a was skipped
``a?yes``, ``a?no``   the condition of a, or of flow a, was asked; ``a?!`` it raised
``f:retry``           the controller of flow f was asked and said so; ``f:!`` it raised
``f:again``           flow f is undone and starts over
``SUCCEEDED``         the run has ended
====================  ==========================================================================
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import asyncflow as af
from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.graph.controller import Controller, Decision
from asyncflow.graph.flow import Flow
from asyncflow.graph.inputs import NoValue
from asyncflow.graph.plan import Plan
from asyncflow.machine.replay import fold, recovery
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Failure
from asyncflow.runtime.values import RunValues
from asyncflow.states import TaskState
from tests.graph.perform import tasks_behind

PLAN = "the plan"
ALWAYS = 1_000_000


def t(name: str, body: Callable[..., Any] | None = None, **options: Any) -> af.Task:
    """Return a task that gives its name, or what *body* returns."""

    def give() -> str:
        return name

    return af.task(name=name, executor="inline", **options)(body or give)


class Stage:
    """
    Plays a run of *flow* to its end.

    Args:
        flow: The flow.
        fails: Name of a task to how many of its bodies fail, the first ones.
        undo_fails: Names of tasks whose revert fails.
        first: Names of tasks whose bodies and reverts end before others that are under way, in this order.
        seed: Any number of bodies are under way at once, and dice say which ends next; None for one at a time.
        side_by_side: Any number of bodies are under way at once, and end in the order in which they started.
    """

    def __init__(
        self,
        flow: Flow[..., Any],
        fails: Mapping[str, int] | None = None,
        *,
        inputs: Mapping[str, Any] | None = None,
        undo_fails: Iterable[str] = (),
        first: Iterable[str] = (),
        seed: int | None = None,
        side_by_side: bool = False,
        on_failure: str = "cancel",
        never_revert: bool = False,
        journal: Iterable[m.Record] = (),
    ) -> None:
        self.plan: Plan = flow.compile()
        self.fails = dict(fails or {})
        self.undo_fails = set(undo_fails)
        self.first = list(first)
        self.dice = None if seed is None else random.Random(seed)
        self.is_wide = side_by_side or seed is not None or bool(self.first)
        self.journal: list[m.Record] = list(journal)
        self.now = 0.0
        self.commands = 0
        self._endings: dict[int, int] = {}
        if self.journal:
            self.machine = fold(self.journal, {PLAN: self.plan})
            for record in self.journal:
                for event in record.events:
                    self._count(event)
        else:
            self.machine = RunMachine(self.plan)
        self.values = RunValues(self.machine, Codec(), {}, hands_on_copies=False)
        self._starts: list[m.Start | m.Revert] = []
        self._flying: dict[int, bool] = {}  # task to whether it was told to stop
        self._answered = False  # whether anything has happened since ``due`` was asked last
        if not self.journal:
            given = self.plan.check_inputs(inputs or {})
            self.tell(m.RunStarted("run", self.plan.flow, PLAN, given, None, on_failure, never_revert))
        else:
            for event in recovery(self.machine):
                self.tell(event)
        self.values.load_inputs()

    # --- What happened ------------------------------------------------------------------------------------------------

    @property
    def told(self) -> str:
        """Everything that happened, in words."""
        return " ".join(words(self.plan, self.journal))

    @property
    def states(self) -> dict[str, str]:
        """The state of each task, by path."""
        return {self.plan.path(at): TaskState(state).name for at, state in enumerate(self.machine.states)}

    def names_in(self, state: str) -> str:
        """Return the names of the tasks in *state*, in plan order."""
        return " ".join(path.rpartition("/")[2] for path, one in self.states.items() if one == state)

    def past(self, flow: str = "") -> list[Any]:
        """Return what the controller of the flow at *flow* has given, attempt by attempt, the present one last."""
        scope = next(at for at, scope in enumerate(self.plan.scopes) if scope.path == flow)
        return self.values.history(scope, with_present=True).values

    # --- Playing ------------------------------------------------------------------------------------------------------

    def tell(self, event: m.Event) -> None:
        self.machine.apply(event)
        self.journal.append(m.Record(self.now, [event]))
        self._count(event)

    def _count(self, event: m.Event) -> None:
        if isinstance(event, (m.AttemptSucceeded, m.AttemptFailed)):
            self._endings[event.task] = self._endings.get(event.task, 0) + 1

    def play(self, most: int = 1_000_000) -> Stage:
        """Go on until the run has ended, or *most* bodies and reverts have."""
        while not self.machine.phase.is_ended and most > 0:
            self.answer()
            if self.machine.phase.is_ended:
                break
            self._begin()
            if not self._flying:
                # What was handed out is not wanted any more, or had an input that nothing gives.
                assert self._answered, f"the run stands still after: {self.told}"
                continue
            self._finish(self._next())
            most -= 1
        check_order(self.plan, self.journal)
        return self

    def answer(self) -> None:
        """Answer all that can be answered at once, and keep what is to be started."""
        self._answered = False
        while commands := self.machine.due():
            self._answered = True
            self.commands += len(commands)
            for command in commands:
                self._do(command)

    def _do(self, command: m.Command) -> None:
        match command:
            case m.Start() | m.Revert():
                self._starts.append(command)
            case m.Cancel(task=task):
                assert task in self._flying, "only what runs is told to stop"
                self._flying[task] = True
            case m.GiveUp(task=task, reverting=True):
                self.tell(m.RevertGivenUp(task))
            case m.GiveUp(task=task, failure=why):
                self.tell(m.TaskFailed(task, why))
            case m.ScheduleRetry(task=task):
                self.tell(m.RetryScheduled(task, self.now))
            case m.Evaluate(guard=guard):
                self._evaluate(guard)
            case m.Decide(scope=scope):
                self._decide(scope)
            case m.StartOver(scope=scope, tasks=tasks, wait=wait):
                self.tell(m.FlowStartedOver(scope, tasks, self.now + wait if wait else None))
            case m.Skip(task=task):
                self.tell(m.TaskSkipped(task))
            case m.Suspend():
                self.tell(m.RunSuspended())
            case m.End(state=state):
                self.tell(m.RunEnded(state))
            case _:
                raise AssertionError(command)

    def _evaluate(self, index: int) -> None:
        if not self.machine.expects_condition(index):
            return
        guard = self.plan.guards[index]
        assert guard.condition is not None
        try:
            _, kwargs = guard.binding.read(self.values)
            answer = guard.condition.ask(kwargs)
        except Exception as error:
            self.tell(m.ConditionAnswered(index, False, Failure(error)))
        else:
            self.tell(m.ConditionAnswered(index, answer))

    def _decide(self, scope: int) -> None:
        if not self.machine.expects_answer(scope):
            return
        task = self.plan.scopes[scope].controller
        assert self.plan.tasks is not None
        controller = self.plan.tasks[task]
        assert isinstance(controller, Controller)
        kwargs = controller.decider_wants.select(self.plan.bindings[task].by_name(self.values), self.values)
        if controller.decider_wants.history:
            kwargs["history"] = self.values.history(scope, with_present=True)
        try:
            decision = controller.on_failure(**kwargs)
            assert isinstance(decision, Decision)
        except Exception as error:
            self.tell(m.ControllerAnswered(scope, "revert", failure=Failure(error)))
        else:
            self.tell(m.ControllerAnswered(scope, decision.value))

    def _begin(self) -> None:
        """Begin what was handed out: all of it, or the first of it if nothing is under way."""
        # In the order in which permits are granted: reverts first, then by place in line.
        self._starts.sort(key=self._place)
        while self._starts and (self.is_wide or not self._flying):
            command = self._starts.pop(0)
            task, is_revert = command.task, isinstance(command, m.Revert)
            if not self.machine.wants(task, is_revert=is_revert):
                continue
            if is_revert:
                self.tell(m.RevertStarted(task, command.attempt))
                self._flying[task] = False
                continue
            try:
                self.plan.bindings[task].read(self.values)
            except NoValue as error:
                self.tell(m.TaskFailed(task, Failure(af.InputUnavailable(error.name))))
                self._answered = True
                continue
            self.tell(m.AttemptStarted(task, command.attempt))
            self._flying[task] = False

    def _place(self, command: m.Start | m.Revert) -> tuple[int, int]:
        if isinstance(command, m.Revert):
            return (0, -self.machine.started[command.task])
        return (1, command.task if self.plan.ranks is None else self.plan.ranks[command.task])

    def _next(self) -> int:
        flying = list(self._flying)
        stopped = [task for task in flying if self._flying[task]]
        if self.dice is not None:
            return self.dice.choice(flying)
        if stopped:
            return stopped[0]
        for name in self.first:
            for task in flying:
                if self.plan.names[task] == name:
                    return task
        return flying[0]

    def _finish(self, task: int) -> None:
        was_stopped = self._flying.pop(task)
        name = self.plan.names[task]
        if self.machine.states[task] == TaskState.REVERTING:
            if name in self.undo_fails:
                self.tell(m.RevertFailed(task, Failure(OSError(f"{name} cannot be undone")), False))
            else:
                self.tell(m.RevertSucceeded(task, None))
            return
        if was_stopped:
            self.tell(m.AttemptCancelled(task))
            return
        assert self.plan.tasks is not None
        try:
            if self._endings.get(task, 0) < self.fails.get(name, 0):
                raise ConnectionError(f"{name} is broken")
            args, kwargs = self.plan.bindings[task].read(self.values)
            value = self.plan.tasks[task].body(*args, **kwargs)
        except Exception as error:
            self.tell(m.AttemptFailed(task, Failure(error), True))
        else:
            self.tell(m.AttemptSucceeded(task, value))


def words(plan: Plan, journal: Iterable[m.Record]) -> list[str]:
    """Return what *journal* says, in the words above."""
    found: list[str] = []
    failing: set[int] = set()
    for event in (event for record in journal for event in record.events):
        name = plan.names[event.task] if hasattr(event, "task") else ""
        flow = plan.scopes[event.scope].name if hasattr(event, "scope") else ""
        match event:
            case m.AttemptSucceeded():
                found.append(name)
            case m.AttemptFailed():
                failing.add(event.task)
            case m.TaskFailed():
                found.append(f"{name}!" if event.task in failing else f"{name}!!")
                failing.discard(event.task)
            case m.RetryScheduled():
                found.append(f"{name}..")
                failing.discard(event.task)
            case m.AttemptCancelled():
                found.append(f"{name}/")
            case m.AttemptLost():
                found.append(f"lost:{name}")
            case m.RevertSucceeded():
                found.append(f"-{name}")
            case m.RevertGivenUp():
                found.append(f"-{name}!")
            case m.TaskSkipped():
                found.append(f"~{name}")
            case m.ConditionAnswered(guard=index):
                guard = plan.guards[index]
                what = plan.scopes[guard.scope].name if guard.scope >= 0 else plan.names[guard.node]
                found.append(f"{what}?{'!' if event.failure else 'yes' if event.answer else 'no'}")
            case m.ControllerAnswered():
                found.append(f"{flow}:{'!' if event.failure else event.decision}")
            case m.FlowStartedOver():
                found.append(f"{flow}:again")
            case m.CancelRequested():
                found.append("cancel")
            case m.RunEnded(state=state):
                found.append(state)
            case _:
                pass
    return found


def check_order(plan: Plan, journal: Iterable[m.Record]) -> None:
    """
    Raise AssertionError where a task starts before one that it waits for, or is undone before one that waits for it.
    """
    after = [tasks_behind(plan, task) for task in range(plan.size)]
    before: list[set[int]] = [set() for _ in range(plan.size)]
    for task, behind in enumerate(after):
        for one in behind:
            before[one].add(task)
    # "new" is what has not started, or is undone.
    states = ["new"] * plan.size
    for event in (event for record in journal for event in record.events):
        match event:
            case m.AttemptStarted(task=task):
                early = [plan.path(one) for one in before[task] if states[one] not in ("settled", "skipped")]
                assert not early, f"{plan.path(task)} started before {early}"
                states[task] = "started"
            case m.AttemptSucceeded(task=task):
                states[task] = "settled"
            case m.TaskSkipped(task=task):
                states[task] = "skipped"
            case m.RevertStarted(task=task):
                late = [plan.path(one) for one in after[task] if states[one] in ("started", "settled")]
                assert not late, f"{plan.path(task)} was undone before {late}"
            case m.RevertSucceeded(task=task):
                states[task] = "new"
            case m.FlowStartedOver(tasks=tasks):
                for one in tasks:
                    states[one] = "new"
            case m.RunReset():
                states = ["new"] * plan.size
            case _:
                pass


def survives_everywhere(make: Callable[..., Stage]) -> Stage:
    """
    Play a run, then stop it after each event, resume it from its journal, and hold each end against the first.

    *make* makes the stage of the run, given ``journal=`` if it is taken up. Returns the undisturbed one.
    """
    whole = make().play()
    journal = whole.journal
    living = fold(journal, {PLAN: whole.plan}).snapshot()
    assert living == whole.machine.snapshot(), "replay is living"
    for length in range(1, len(journal)):
        again = make(journal=journal[:length]).play()
        assert again.machine.phase is whole.machine.phase, f"stopped after {journal[length - 1]}: {again.told}"
        assert again.states == whole.states, f"stopped after {journal[length - 1]}: {again.told}"
        assert again.machine.values == whole.machine.values
        decided = [word for word in again.told.split() if ":" in word and not word.startswith("lost")]
        assert decided == [word for word in whole.told.split() if ":" in word], "nobody is asked twice"
    return whole
