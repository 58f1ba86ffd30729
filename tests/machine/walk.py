"""A world that answers a machine in any order that is possible, and kills its process now and then."""

from __future__ import annotations

import random
from typing import Any

from asyncflow import messages as m
from asyncflow.graph.flow import Flow
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.plan import Plan
from asyncflow.graph.policy import Retry
from asyncflow.machine.replay import fold, recovery
from asyncflow.machine.run import RunMachine
from asyncflow.states import RunState, TaskState
from tests.machine.flows import PLAN, failure, task
from tests.model import Model


def random_plan(seed: int, most: int = 14) -> Plan:
    """Return a plan of nested flows and random links, its tasks with random policies."""
    rng = random.Random(seed)
    return _flow(rng, "f", rng.randint(1, most)).compile()


def _flow(rng: random.Random, name: str, size: int) -> Flow[..., Any]:
    make = rng.choice((linear, unordered, graph, graph))
    flow = make(name)
    while size:
        more = rng.randint(1, size)
        size -= more
        inner = f"{name}{len(flow.layout.items)}"
        flow.add(task(inner, **_options(rng)) if more == 1 else _flow(rng, inner, more))
    names = list(flow.layout.names)
    if make is graph and len(names) > 1:
        for _ in range(rng.randint(0, 2 * len(names))):
            one, other = sorted(rng.sample(range(len(names)), 2))
            flow.link(names[one], names[other])
    return flow


def _options(rng: random.Random) -> dict[str, Any]:
    return {
        "retry": rng.choice((None, Retry(rng.randint(1, 4)))),
        "revert_retry": rng.choice((None, Retry(rng.randint(1, 3)))),
        "on_crash": rng.choice(("retry", "retry", "retry", "fail")),
        "max_crashes": rng.choice((1, 2, 5, 5)),
        "reconcile": rng.choice((None, None, _ask)),
        "priority": rng.choice((0, 0, 1)),
        "timeout": rng.choice((None, 1.0)),
    }


class Walk:
    """
    One run, every step of it chosen by a seed, every event checked by the model.

    ``events`` is its journal, and ``snapshots`` has the state of the machine after each.
    """

    def __init__(self, plan: Plan, seed: int, *, mischief: float | None = None) -> None:
        self.plan = plan
        self.rng = random.Random(seed)
        self.mischief = self.rng.choice((0.02, 0.1, 0.3)) if mischief is None else mischief
        self.machine = RunMachine(plan)
        self.model = Model(plan)
        self.events: list[m.Event] = []
        self.snapshots: list[dict[str, Any]] = []
        self._starts: list[m.Start | m.Revert | m.Reconcile] = []  # handed out, not granted yet
        self._told: dict[int, str] = {}  # what runs and was told to stop, by whom
        self._doomed = self.rng.randint(0, 3)  # crashes to come
        self.tell(m.RunStarted("run", plan.flow, PLAN, {}, 1.0))

    def tell(self, *events: m.Event) -> None:
        for event in events:
            self.machine.apply(event)
            self.events.append(event)
            self.snapshots.append(self.machine.snapshot())
        self.model.take(m.Record(1.0, list(events)))

    def to_the_end(self) -> None:
        """Go on until the run has ended; one that is suspended is resumed."""
        for _ in range(100_000):
            if self.machine.phase is RunState.FAILED and self._doomed:
                # Somebody resumes it, so that failed reverts are tried again.
                self._doomed -= 1
                self._resume()
            if self.machine.phase.is_ended:
                return
            self.step()
        raise AssertionError(f"no end in sight: {self.machine.snapshot()}")

    def step(self) -> None:
        """Take what is due, then let one thing happen."""
        rng, machine = self.rng, self.machine
        commands = machine.due(rng.choice((1, 3, 1000)))
        starts = [command.task for command in commands if isinstance(command, m.Start)]
        assert all(map(machine.wants, starts)) and len(set(starts)) == len(starts), f"it would start {starts}"
        for command in commands:
            self._answer(command)
            if machine.phase.is_ended:
                return
        if machine.is_suspended:
            self._resume()
            return
        chances = [(self._grant, 3), (self._end_one, 3), (self._disturb, 1)]
        rng.choice([act for act, weight in chances for _ in range(weight)])()

    def _answer(self, command: m.Command) -> None:
        match command:
            case m.Start() | m.Revert() | m.Reconcile():
                self._starts.append(command)
            case m.Cancel(task=task, cause=cause):
                self._told.setdefault(task, cause)
            case m.ScheduleRetry(task=task):
                self.tell(m.RetryScheduled(task, 1.0))
            case m.GiveUp(task=task, reverting=True):
                self.tell(m.RevertGivenUp(task))
            case m.GiveUp(task=task, failure=why):
                self.tell(m.TaskFailed(task, why))
            case m.Suspend():
                self.tell(m.RunSuspended())
            case m.End(state=state):
                self.tell(m.RunEnded(state))
            case _:
                raise AssertionError(f"nobody asked for {command}")

    def _grant(self) -> None:
        if not self._starts:
            return
        command = self._starts.pop(self.rng.randrange(len(self._starts)))
        is_revert = isinstance(command, m.Revert)
        if not self.machine.wants(command.task, is_revert=is_revert):
            return
        match command:
            case m.Revert(task=task, attempt=attempt):
                self.tell(m.RevertStarted(task, attempt))
            case m.Reconcile(task=task):
                self.tell(m.ReconcileStarted(task))
            case m.Start(task=task, attempt=attempt) if self.rng.random() < self.mischief / 10:
                self.tell(m.TaskFailed(task, failure("an input cannot be had")))
            case m.Start(task=task, attempt=attempt):
                self.tell(m.AttemptStarted(task, attempt))

    def _end_one(self) -> None:
        flying = self.machine.in_flight()
        if not flying:
            return
        task = self.rng.choice(flying)
        bad = self.rng.random() < self.mischief
        retriable = self.rng.random() < 0.8
        if self.machine.states[task] != 1:
            self.tell(m.RevertFailed(task, failure(), retriable) if bad else m.RevertSucceeded(task, None))
            return
        told = self._told.pop(task, None) if self.rng.random() < 0.8 else None
        if told == "cancel":
            self.tell(m.AttemptCancelled(task, self.rng.random() < 0.1))
        elif told == "timeout":
            self.tell(m.AttemptTimedOut(task, retriable))
        elif self.machine.suspend_reason is not None and self.rng.random() < 0.5:
            self.tell(m.AttemptLost(task, "suspend"))
        else:
            self._told.pop(task, None)
            self.tell(m.AttemptFailed(task, failure(), retriable) if bad else m.AttemptSucceeded(task, task))

    def _disturb(self) -> None:
        rng, machine = self.rng, self.machine
        if rng.random() > self.mischief:
            return
        running = [task for task in machine.in_flight() if machine.states[task] == 1]
        what = rng.choice(("crash", "crash", "suspend", "limit", "limit", "cancel", "deadline"))
        if what == "crash" and self._doomed:
            self._doomed -= 1
            self._resume()
        elif what == "suspend" and machine.suspend_reason is None:
            self.tell(m.SuspendRequested("closing"))
        elif what == "limit" and (late := [task for task in running if self._limit(task) is not None]):
            self.tell(m.TimeLimitPassed(rng.choice(late)))
        elif machine.phase is RunState.RUNNING and rng.random() < 0.3:
            if what == "cancel":
                self.tell(m.CancelRequested("enough"))
            elif what == "deadline" and machine.is_late(-1):
                self.tell(m.DeadlinePassed(-1))

    def _limit(self, task: int) -> float | None:
        assert self.plan.tasks is not None
        return self.plan.tasks[task].timeout

    def _resume(self) -> None:
        self.machine = fold([m.Record(1.0, self.events)], {PLAN: self.plan})
        self._starts.clear()
        self._told.clear()
        events = recovery(self.machine)
        done = [task for task, state in enumerate(self.machine.states) if state == TaskState.SUCCEEDED]
        if done and self.machine.is_forward and self.rng.random() < 0.3:
            # Had they not been kept, and somebody were still to read them.
            events.append(m.ValuesLost(sorted(self.rng.sample(done, self.rng.randint(1, len(done))))))
        self.tell(*events)


async def _ask() -> None:
    """Know nothing of a lost attempt."""
