"""Small flows and a machine at work on them, without an event loop: tests play the world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from asyncflow import messages as m
from asyncflow.graph.flow import Flow
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.plan import Plan
from asyncflow.graph.policy import Retry
from asyncflow.graph.task import FunctionTask
from asyncflow.machine.replay import fold, recovery
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Failure
from asyncflow.states import TaskState
from tests.model import Model

PLAN = "the plan"
THRICE = Retry(3)


def task(name: str, **options: Any) -> FunctionTask[..., Any]:
    """Return a task that takes nothing and does nothing."""

    async def nothing() -> None: ...

    return FunctionTask(nothing, name=name, **options)


def chain(*names: str, **options: Any) -> Plan:
    """Return a plan of one task after the other."""
    return linear("chain", *(task(name, **options) for name in names)).compile()


def side_by_side(*names: str, **options: Any) -> Plan:
    """Return a plan of tasks that have nothing to do with each other."""
    return unordered("side by side", *(task(name, **options) for name in names)).compile()


def dag(edges: Mapping[str, Iterable[str]], **options: Mapping[str, Any]) -> Plan:
    """Return a plan of tasks, each with the names of those that it comes after; *options* are by task."""
    flow = graph("dag", *(task(name, **options.get(name, {})) for name in edges))
    for name, before in edges.items():
        for one in before:
            flow.link(one, name)
    return flow.compile()


def diamond(**options: Mapping[str, Any]) -> Plan:
    """Return a plan of a, then b and c, then d."""
    return dag({"a": (), "b": "a", "c": "a", "d": "bc"}, **options)


def two_groups() -> Plan:
    """Return a plan of a and b, then a gate, then c and d."""
    return linear("groups", unordered("one", task("a"), task("b")), unordered("two", task("c"), task("d"))).compile()


def failure(text: str = "broken") -> Failure:
    """Return a failure as an actor reports one."""
    return Failure(ValueError(text))


class Play:
    """
    A machine, its journal, and a world that does as it is told.

    ``do`` answers commands in the plainest way. Every event is checked against the model as it happens.
    """

    def __init__(self, plan: Plan | Flow[..., Any], *, deadline: float | None = None, begin: bool = True) -> None:
        self.plan = plan if isinstance(plan, Plan) else plan.compile()
        self.machine = RunMachine(self.plan)
        self.model = Model(self.plan)
        self.journal: list[m.Record] = []
        self.now = 0.0
        if begin:
            self.tell(m.RunStarted("run", self.plan.flow, PLAN, {}, deadline))

    def at(self, name: str) -> int:
        """Return the number of the one task of that name, or at that path."""
        if "/" not in name:
            return list(self.plan.names).index(name)
        return self.plan.index(name)

    # --- Events -------------------------------------------------------------------------------------------------------

    def tell(self, *events: m.Event) -> None:
        """Put *events* on one record."""
        for event in events:
            self.machine.apply(event)
        self.journal.append(m.Record(self.now, list(events)))
        self.model.take(self.journal[-1])

    def start(self, *names: str) -> None:
        for name in names:
            self.tell(m.AttemptStarted(self.at(name), self.machine.attempts[self.at(name)] + 1))

    def succeed(self, *names: str) -> None:
        for name in names:
            self.tell(m.AttemptSucceeded(self.at(name), name.upper()))

    def fail(self, name: str, *, retriable: bool = False) -> None:
        self.tell(m.AttemptFailed(self.at(name), failure(name), retriable))

    def run(self, *names: str) -> None:
        """Have each task started and succeed, the one after the other, and forget what was due."""
        for name in names:
            self.machine.due()
            self.start(name)
            self.succeed(name)

    def undo(self, *names: str) -> None:
        for name in names:
            self.begin_undo(name)
            self.tell(m.RevertSucceeded(self.at(name), None))

    def begin_undo(self, name: str) -> None:
        at = self.at(name)
        self.tell(m.RevertStarted(at, self.machine.revert_attempts.get(at, 0) + 1))

    # --- Commands -----------------------------------------------------------------------------------------------------

    def due(self, most: int | None = None) -> list[str]:
        """Return what the machine wants done, each command in a few words: ``start a#1``."""
        commands = self.machine.due() if most is None else self.machine.due(most)
        return [self.word(command) for command in commands]

    def word(self, command: m.Command) -> str:
        name = self.plan.path(command.task) if hasattr(command, "task") else ""
        match command:
            case m.Start():
                return f"start {name}#{command.attempt}" + _not_before(command.not_before)
            case m.Revert():
                return f"revert {name}#{command.attempt}" + _not_before(command.not_before)
            case m.ScheduleRetry():
                return f"retry {'revert of ' if command.reverting else ''}{name}#{command.attempt}"
            case m.GiveUp():
                why = f": {command.failure.type_name.rpartition('.')[2]}" if command.failure else ""
                return f"give up {'revert of ' if command.reverting else ''}{name}{why}"
            case m.Cancel():
                return f"cancel {name}: {command.cause}"
            case m.Reconcile():
                return f"reconcile {name}"
            case m.OpenScope():
                return f"open {self.plan.scopes[command.scope].path or 'all'}"
            case m.End():
                return f"end {command.state}"
            case m.Suspend():
                return "suspend"
        raise AssertionError(command)

    def decide(self) -> list[str]:
        """Take what is due, and answer decisions and endings at once, as a supervisor does; return the words."""
        words: list[str] = []
        while commands := self.machine.due():
            events: list[m.Event] = []
            for command in commands:
                words.append(self.word(command))
                match command:
                    case m.GiveUp(task=task, reverting=True):
                        events.append(m.RevertGivenUp(task))
                    case m.GiveUp(task=task, failure=why):
                        events.append(m.TaskFailed(task, why))
                    case m.ScheduleRetry(task=task):
                        events.append(m.RetryScheduled(task, self.now))
                    case m.OpenScope(scope=scope):
                        timeout = self.plan.scopes[scope].timeout
                        assert timeout is not None
                        events.append(m.ScopeStarted(scope, self.now + timeout))
                    case m.Suspend():
                        events.append(m.RunSuspended())
                    case m.End(state=state):
                        events.append(m.RunEnded(state))
            if events:
                self.tell(*events)
        return words

    # --- Reading and dying --------------------------------------------------------------------------------------------

    @property
    def states(self) -> dict[str, str]:
        """The state of each task, by path."""
        return {self.plan.path(at): TaskState(state).name for at, state in enumerate(self.machine.states)}

    def crash(self) -> None:
        """Have the process die, and another take the run up from the journal."""
        self.machine = fold(self.journal, {PLAN: self.plan})
        self.tell(*recovery(self.machine))

    resume = crash


def _not_before(when: float | None) -> str:
    return "" if when is None else f" at {when:g}"


def play_through(play: Play, ending: Callable[[str, int], str] = lambda name, attempt: "succeed") -> list[str]:
    """
    Bring a run to its end, one body at a time, and return what was done, in order.

    *ending* says how an attempt ends: "succeed", "fail" or "retriable".
    """
    done: list[str] = []
    starts: list[str] = []
    while not play.machine.phase.is_ended and not play.machine.is_suspended:
        words = play.decide()
        starts.extend(word for word in words if word.startswith(("start", "revert ")))
        done.extend(word for word in words if not word.startswith(("start", "revert ")))
        if not starts:
            assert play.machine.phase.is_ended or play.machine.is_suspended, f"stuck after {done}"
            break
        word = starts.pop(0)
        done.append(word)
        verb, _, rest = word.partition(" ")
        name, _, attempt = rest.partition("#")
        if verb == "revert":
            play.undo(name)
            continue
        play.start(name)
        how = ending(name, int(attempt.partition(" ")[0]))
        if how == "succeed":
            play.succeed(name)
        else:
            play.fail(name, retriable=how == "retriable")
            if play.machine.phase.name != "RUNNING":
                starts.clear()
    return done
