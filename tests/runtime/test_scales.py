"""Flows with controllers of a size that nobody writes by hand: counted in steps and bytes, and not in seconds."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.graph.flow import Flow
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Failure
from asyncflow.states import RunState

MACHINE = str(Path(sys.modules[RunMachine.__module__].__file__ or "").parent)


@af.task(executor="inline")
def nothing() -> None:
    pass


def row(name: str, size: int, **options: Any) -> Flow[..., Any]:
    """Return *size* tasks in a row."""
    return af.linear(name, *(nothing.named(f"t{at}") for at in range(size)), **options)


def diamonds(count: int) -> Flow[..., Any]:
    """Return *count* diamonds, the end of one the beginning of the next."""
    flow = af.graph("diamonds", nothing.named("a0"))
    for at in range(count):
        flow.add(*(nothing.named(f"{name}{at}") for name in "bc"), nothing.named(f"a{at + 1}"))
        for side in "bc":
            flow.link(f"a{at}", f"{side}{at}").link(f"{side}{at}", f"a{at + 1}")
    return flow


class Drive:
    """A machine whose commands are answered at once, each ending in an event of its own; *fails* counts down."""

    def __init__(self, flow: Flow[..., Any], fails: dict[str, int] | None = None) -> None:
        self.plan = flow.compile()
        self.fails = Counter(fails or {})
        self.machine = RunMachine(self.plan)
        self.told: Counter[str] = Counter()
        self.on_attempt: Callable[[], None] = lambda: None

    def tell(self, event: m.Event) -> None:
        self.told[type(event).__name__] += 1
        self.machine.apply(event)

    def play(self) -> Drive:
        self.tell(m.RunStarted("run", "f", "plan", {}))
        broken = Failure(ValueError("broken"))
        while not self.machine.phase.is_ended:
            commands = self.machine.due()
            assert commands, "the run stands still"
            endings: list[m.Event] = []
            for command in commands:
                match command:
                    case m.Start(task=task, attempt=attempt):
                        self.tell(m.AttemptStarted(task, attempt))
                        path = self.plan.path(task)
                        if self.fails[path] > 0:
                            self.fails[path] -= 1
                            endings.append(m.AttemptFailed(task, broken, False))
                        else:
                            endings.append(m.AttemptSucceeded(task, None))
                    case m.Revert(task=task, attempt=attempt):
                        self.tell(m.RevertStarted(task, attempt))
                        endings.append(m.RevertSucceeded(task, None))
                    case m.GiveUp(task=task, failure=failure):
                        self.tell(m.TaskFailed(task, failure))
                    case m.Decide(scope=scope):
                        self.tell(m.ControllerAnswered(scope, "retry"))
                    case m.StartOver(scope=scope, tasks=tasks):
                        self.on_attempt()
                        self.tell(m.FlowStartedOver(scope, tasks))
                    case m.End(state=state):
                        self.tell(m.RunEnded(state))
                    case m.Cancel():
                        raise AssertionError("nothing is broken off: failures come last")
                    case _:
                        raise AssertionError(command)
            # What failed ends last, so that its siblings have something to be undone.
            for ending in sorted(endings, key=lambda ending: isinstance(ending, m.AttemptFailed)):
                self.tell(ending)
        return self


def steps(drive: Drive) -> int:
    """Return how many lines of the machine's code a run takes: what a quadratic cost cannot hide from."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(MACHINE):
            return None
        lines += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        drive.play()
    finally:
        sys.settrace(before)
    assert drive.machine.phase is RunState.SUCCEEDED
    return lines


def last(size: int) -> str:
    return f"t{size - 1}"


# The question, how large, and a run of that size.
LINEAR: dict[str, tuple[int, Callable[[int], Drive]]] = {
    "tasks of a flow that runs again": (
        100,
        lambda size: Drive(row("f", size, retry=af.Times(9)), {last(size): 3}),
    ),
    "attempts of a flow": (20, lambda size: Drive(row("f", 20, retry=af.Times(9)), {last(20): size})),
    "tasks at once in a flow that runs again": (
        100,
        lambda size: Drive(
            af.unordered("f", *(nothing.named(f"t{at}") for at in range(size)), retry=af.Times(9)), {last(size): 3}
        ),
    ),
    "diamonds in a row": (50, lambda size: Drive(diamonds(size))),
    "flows in a row that each run again": (
        50,
        lambda size: Drive(
            af.linear("all", *(row(f"f{at}", 3, retry=af.Times(9)) for at in range(size))),
            {f"f{at}/t2": 1 for at in range(size)},
        ),
    ),
    "flows in a row of which one runs again": (
        50,
        lambda size: Drive(
            af.linear("all", *(row(f"f{at}", 3, retry=af.Times(9)) for at in range(size))), {"f1/t2": 3}
        ),
    ),
    "flows at once that each run again": (
        50,
        lambda size: Drive(
            af.unordered("all", *(row(f"f{at}", 3, retry=af.Times(9)) for at in range(size))),
            {f"f{at}/t2": 1 for at in range(size)},
        ),
    ),
    "tasks with conditions": (
        100,
        lambda size: Conditional(
            af.linear("f", *(nothing.with_options(name=f"t{at}", when=lambda: True) for at in range(size)))
        ),
    ),
    "tasks that are skipped": (
        100,
        lambda size: Conditional(
            af.linear(
                "f",
                *(nothing.with_options(name=f"t{at}", when=lambda: False, depth="task") for at in range(size)),
            ),
            False,
        ),
    ),
}


class Conditional(Drive):
    """One whose conditions all say *answer*."""

    def __init__(self, flow: Flow[..., Any], answer: bool = True) -> None:
        super().__init__(flow)
        self.answer = answer

    def play(self) -> Drive:
        self.tell(m.RunStarted("run", "f", "plan", {}))
        while not self.machine.phase.is_ended:
            for command in self.machine.due():
                match command:
                    case m.Start(task=task, attempt=attempt):
                        self.tell(m.AttemptStarted(task, attempt))
                        self.tell(m.AttemptSucceeded(task, None))
                    case m.Evaluate(guard=guard):
                        self.tell(m.ConditionAnswered(guard, self.answer))
                    case m.Skip(task=task):
                        self.tell(m.TaskSkipped(task))
                    case m.End(state=state):
                        self.tell(m.RunEnded(state))
                    case _:
                        raise AssertionError(command)
        return self


@pytest.mark.parametrize("question", LINEAR)
def test_twice_the_size_is_twice_the_steps(question: str) -> None:
    """A flow that a program made has no size at which it suddenly stands still."""
    size, make = LINEAR[question]
    one, two, four = (steps(make(size * factor)) for factor in (1, 2, 4))
    assert four - two < 2.3 * (two - one), f"{one}, {two}, {four} steps"


def test_a_thousand_tasks_a_hundred_times() -> None:
    """Every task is started and undone once an attempt, and nothing else happens more often than that."""
    drive = Drive(row("f", 1_000, retry=af.Times(100)), {"t999": 99})
    sizes: list[int] = []
    drive.on_attempt = lambda: sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.start()
    try:
        drive.play()
    finally:
        tracemalloc.stop()
    assert drive.machine.phase is RunState.SUCCEEDED
    assert drive.told == {
        "RunStarted": 1,
        "AttemptStarted": 100 * 1_001,
        "AttemptSucceeded": 100 * 1_001 - 99,
        "AttemptFailed": 99,
        "TaskFailed": 99,
        "ControllerAnswered": 99,
        "RevertStarted": 99 * 1_000,
        "RevertSucceeded": 99 * 1_000,
        "FlowStartedOver": 99,
        "RunEnded": 1,
    }
    # Half of the attempts for tables to find their size. Then each leaves its value and its failure in history.
    growth = (sizes[-1] - sizes[len(sizes) // 2]) / (len(sizes) / 2)
    assert growth < 2_000, f"{growth:.0f} bytes an attempt"


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_ten_groups_of_ten_run(tmp_path: Path, kind: str) -> None:
    """Ten unordered flows of ten in a linear one: each group begins when the one before has ended."""
    ended: list[int] = []

    def group(at: int) -> Flow[..., Any]:
        @af.task
        async def member() -> None:
            assert len(ended) // 10 == at, "the group before has ended, and none behind has begun"
            await asyncio.sleep(0)
            ended.append(at)

        return af.unordered(f"g{at}", *(member.named(f"t{number}") for number in range(10)))

    flow = af.linear("groups", *(group(at) for at in range(10)))
    plan = flow.compile()
    assert (plan.size, sum(map(len, plan.successors))) == (100, 9 * 20), "no group is tied to another member by member"
    run_in(flow, None if kind == "memory" else tmp_path / "runs.db")
    assert ended == [at for at in range(10) for _ in range(10)]


def run_in(flow: Flow[..., Any], path: Path | None = None, **options: Any) -> Any:
    async def main() -> Any:
        async with af.Engine(path, durability="lazy", keep=0, **options) as engine:
            return await engine.run(flow)

    return asyncio.run(main())


def test_ten_groups_of_ten_run_again() -> None:
    """With a controller around each group and one around all."""
    broken = Counter({f"g{at}": 1 for at in range(10)} | {"g9": 4})
    done: Counter[str] = Counter()

    @af.task
    async def member(ctx: af.Context) -> None:
        name = ctx.path.split("/")[0]
        await asyncio.sleep(0)
        if ctx.path.endswith("t7") and broken[name]:
            broken[name] -= 1
            raise ConnectionError(name)
        done[name] += 1

    groups = [
        af.unordered(f"g{at}", *(member.named(f"t{number}") for number in range(10)), retry=af.Times(2, name="twice"))
        for at in range(10)
    ]
    run_in(af.linear("groups", *groups, retry=af.Times(3)))
    assert not +broken
    assert done["g9"] >= 10 and done["g0"] >= 20


def test_a_thousand_diamonds_in_a_row_run() -> None:
    """No recursion over them, in compiling, running or undoing."""
    flow = diamonds(1_000)
    assert flow.compile().size == 3_001
    run_in(flow)
    fails = af.task(name="end", executor="inline")(lambda: 1 / 0)
    undone: list[str] = []

    def observe(what: af.Happening) -> None:
        if isinstance(what.event, m.RevertSucceeded):
            undone.append(what.path)

    flow = diamonds(1_000).add(fails).link("a1000", "end")
    with pytest.raises(af.RunFailed) as failed:
        run_in(flow, observers=[observe])
    assert failed.value.reverted and len(undone) == 3_002
    assert (undone[0], undone[-1]) == ("end", "a0")


@pytest.mark.parametrize("depth", [10, 100])
def test_controllers_nested_deep_run(depth: int) -> None:
    """Each is asked in turn, from the innermost out, and the run is undone."""
    flow: Any = af.task(name="x", executor="inline")(lambda: 1 / 0)
    for level in range(depth):
        flow = af.linear(f"f{level}", flow, retry=af.Times(1, name="c"))
    answers: list[int] = []

    def observe(what: af.Happening) -> None:
        if isinstance(what.event, m.ControllerAnswered):
            answers.append(what.event.scope)

    with pytest.raises(af.RunFailed) as failed:
        run_in(flow, observers=[observe])
    assert failed.value.reverted
    assert answers == list(reversed(range(depth)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_controller_runs_a_thousand_tasks_a_hundred_times(tmp_path: Path, kind: str) -> None:
    """The whole engine does it, bodies and reverts included."""
    counts: Counter[str] = Counter()

    @af.task(executor="inline")
    def step() -> None:
        counts["do"] += 1

    @step.revert
    def undo() -> None:
        counts["undo"] += 1

    @af.task(executor="inline")
    def end(attempt: int) -> None:
        if attempt < 100:
            raise ConnectionError(str(attempt))

    flow = af.linear("f", *(step.named(f"t{at}") for at in range(999)), end, retry=af.Times(100, provides="attempt"))
    run_in(flow, None if kind == "memory" else tmp_path / "runs.db")
    assert counts == {"do": 100 * 999, "undo": 99 * 999}
