"""The seven invariants of ``asyncflow.machine.run``, each under its name."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Mapping
from typing import Any

import pytest

from asyncflow import messages as m
from asyncflow.context import Context
from asyncflow.engine import Engine
from asyncflow.errors import IllegalTransition, RunFailed, RunOvertaken, RunSuspended
from asyncflow.graph.flow import Flow
from asyncflow.graph.pattern import linear, unordered
from asyncflow.graph.task import FunctionTask
from asyncflow.interfaces import NewRun
from asyncflow.machine.replay import fold
from asyncflow.states import RunState
from asyncflow.stores.memory import MemoryStore
from tests.machine.flows import PLAN, Play, chain, diamond, failure
from tests.machine.walk import Walk, random_plan

SEEDS = range(150)


class SlowJournal:
    """A journal that takes its time: a record is on its way for three turns of the loop, and then it is durable."""

    grows = lags = False

    def __init__(self, journal: Any, log: list[str]) -> None:
        self.run_id = journal.run_id
        self._journal = journal
        self._log = log
        self._tail: asyncio.Task[None] | None = None
        self.records, self.blob = journal.records, journal.blob

    def append(self, record: m.Record, blobs: Mapping[str, bytes], state: RunState) -> asyncio.Task[None]:
        self._tail = asyncio.get_running_loop().create_task(self._write(self._tail, record, blobs, state))
        return self._tail

    async def _write(
        self, before: asyncio.Task[None] | None, record: m.Record, blobs: Mapping[str, bytes], state: RunState
    ) -> None:
        if before is not None:
            await before
        for _ in range(3):
            await asyncio.sleep(0)
        self._journal.append(record, blobs, state)
        for event in record.events:
            task = getattr(event, "task", "")
            self._log.append(f"{type(event).__name__} {task}".strip())

    async def release(self) -> None:
        if self._tail is not None:
            await self._tail
        await self._journal.release()


class SlowStore(MemoryStore):
    """A store that logs each event once it is durable."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []

    async def create(self, *args: Any) -> Any:
        return SlowJournal(await super().create(*args), self.log)

    async def claim(self, run_id: str) -> Any:
        return SlowJournal(await super().claim(run_id), self.log)


def noting(name: str, log: list[str], *, fails: bool = False) -> FunctionTask[..., Any]:
    """Return a task that notes in *log* when its body and its revert are called."""

    async def body() -> None:
        log.append(f"body {name}")
        if fails:
            raise ValueError(name)

    async def undo() -> None:
        log.append(f"undo {name}")

    made = FunctionTask(body, name=name)
    made.revert(undo)
    return made


def test_journal_first() -> None:
    """No command leaves before the events behind it are durable: a crash may lose a command, never an event."""
    store = SlowStore()
    flow = linear("f", noting("a", store.log), noting("b", store.log), noting("c", store.log, fails=True))

    async def main() -> None:
        async with Engine(store=store) as engine:
            with pytest.raises(RunFailed):
                await engine.run(flow)

    asyncio.run(main())
    log = store.log
    for task, name in enumerate("abc"):
        assert log.index(f"AttemptStarted {task}") < log.index(f"body {name}")
        assert log.index(f"RevertStarted {task}") < log.index(f"undo {name}")
    for task, name in enumerate("bc"):
        assert log.index(f"AttemptSucceeded {task}") < log.index(f"body {name}"), (
            "its input is durable before it starts"
        )
    assert log.index("TaskFailed 2") < log.index("undo c")
    assert log[-1] == "RunEnded"


def test_journal_first_holds_for_cancels() -> None:
    """A process killed while undoing goes on undoing, since the cancel was on record before any body heard of it."""
    store = SlowStore()

    async def main() -> None:
        begun = asyncio.Event()

        async def body() -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                store.log.append("told to stop")

        async with Engine(store=store) as engine:
            run = await engine.start(linear("f", FunctionTask(body, name="a")))
            await begun.wait()
            run.cancel("enough")
            await asyncio.wait([run.ending])
            assert run.state is RunState.CANCELLED

    asyncio.run(main())
    assert store.log.index("CancelRequested") < store.log.index("told to stop")


def test_one_owner() -> None:
    """Of two that hold a journal only the last to claim it appends; the other stops, and writes nothing more."""

    async def main() -> None:
        store = MemoryStore()
        first = m.Record(0.0, [m.RunStarted("run", "f", "plan", {})])
        new = NewRun(run_id="run", flow="f", flow_ref=None, plan="plan", durability="full")
        mine = await store.create(new, lambda: b"", first, {})
        await mine.release()
        yours = await store.claim("run")
        with pytest.raises(RunOvertaken):
            mine.append(m.Record(1.0, [m.RunResumed()]), {}, RunState.RUNNING)
        yours.append(m.Record(2.0, [m.RunResumed()]), {}, RunState.RUNNING)
        assert [record.at for record in await store.read("run")] == [0.0, 2.0]

    asyncio.run(main())


def test_one_owner_stops_a_run_that_was_overtaken() -> None:
    """Its bodies are told to stop, nothing is undone, and who waits for it hears why."""
    flow, log = _waiting_flow()

    async def main() -> None:
        store = MemoryStore()
        async with Engine(store=store) as engine:
            run = await engine.start(flow, run_id="run")
            await asyncio.sleep(0)
            # Another engine takes it: the journal of this one takes nothing more.
            owner = store._shelves["run"].owner
            assert owner is not None
            await owner.release()
            count = len(await store.read("run"))
            run.cancel("enough")
            with pytest.raises(RunOvertaken):
                await run
            assert len(await store.read("run")) == count

    asyncio.run(main())
    assert log == ["begun", "stopped"]


def _waiting_flow() -> tuple[Flow[..., Any], list[str]]:
    log: list[str] = []

    async def body() -> None:
        log.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            log.append("stopped")

    return unordered("f", FunctionTask(body, name="a")), log


def test_one_ending() -> None:
    """An attempt may happen more than once; its outcome is recorded exactly once."""
    endings: list[m.Event] = [
        m.AttemptSucceeded(0, 1),
        m.AttemptFailed(0, failure(), True),
        m.AttemptTimedOut(0, True),
        m.AttemptCancelled(0),
        m.AttemptLost(0, "crash"),
    ]
    for one, other in itertools.product(endings, endings):
        play = Play(chain("a"))
        play.start("a")
        play.machine.apply(one)
        with pytest.raises(IllegalTransition, match="task 'a'"):
            play.machine.apply(other)
    for seed in SEEDS:
        walk = Walk(random_plan(seed), seed)
        walk.to_the_end()
        open_now: set[int] = set()
        for event in walk.events:
            match event:
                case m.AttemptStarted(task=task) | m.RevertStarted(task=task) | m.ReconcileStarted(task=task):
                    assert task not in open_now
                    open_now.add(task)
                case (
                    m.AttemptSucceeded(task=task)
                    | m.AttemptFailed(task=task)
                    | m.AttemptTimedOut(task=task)
                    | m.AttemptCancelled(task=task)
                    | m.AttemptLost(task=task)
                    | m.RevertSucceeded(task=task)
                    | m.RevertFailed(task=task)
                ):
                    open_now.remove(task)
                case _:
                    pass
        assert not open_now, "what started has ended"


def test_inputs_first() -> None:
    """A task starts only when everything before it has settled, through gates and after any number of crashes."""
    for seed in SEEDS:
        walk = Walk(random_plan(seed), seed)
        walk.to_the_end()
        before, done = _before(walk), set[int]()
        for event in walk.events:
            if isinstance(event, m.AttemptStarted):
                assert before[event.task] <= done, f"seed {seed}"
            elif isinstance(event, m.AttemptSucceeded):
                done.add(event.task)


def test_reverse_order() -> None:
    """A task is undone only after everything after it that started has been, and nothing that started is left out."""
    undone_runs = 0
    for seed in SEEDS:
        walk = Walk(random_plan(seed), seed)
        walk.to_the_end()
        before, started, undone = _before(walk), set[int](), set[int]()
        for event in walk.events:
            if isinstance(event, m.AttemptStarted):
                started.add(event.task)
            elif isinstance(event, m.RevertStarted):
                later = {task for task in started if event.task in before[task]}
                assert later <= undone, f"seed {seed}"
            elif isinstance(event, m.RevertSucceeded):
                undone.add(event.task)
        if walk.machine.phase in (RunState.REVERTED, RunState.CANCELLED):
            assert undone == started, f"seed {seed}"
            undone_runs += bool(undone)
    assert undone_runs > 20, "seeds that undo nothing prove nothing"


def _before(walk: Walk) -> list[set[int]]:
    """Return, for each task, all that must have settled before it."""
    plan = walk.plan
    found: list[set[int]] = [set() for _ in plan.successors]
    left, ready = list(plan.pending), [node for node, count in enumerate(plan.pending) if not count]
    for node in ready:
        for after in plan.successors[node]:
            found[after] |= {*found[node], node}
            left[after] -= 1
            if not left[after]:
                ready.append(after)
    return [{node for node in nodes if node < plan.size} for nodes in found[: plan.size]]


def test_quiet_after_the_end() -> None:
    """A run that has ended, or stands still, asks for nothing, whatever it is told of the time or by whom."""
    states: set[RunState] = set()
    for seed in SEEDS:
        walk = Walk(random_plan(seed), seed)
        walk.to_the_end()
        machine = walk.machine
        states.add(machine.phase)
        assert machine.phase.is_ended
        assert machine.due() == []
        for event in (m.CancelRequested("late"), m.SuspendRequested("late"), m.DeadlinePassed(-1)):
            machine.apply(event)
            assert machine.due() == []
        for task in range(walk.plan.size):
            machine.apply(m.TimeLimitPassed(task))
            assert not machine.wants(task) and not machine.wants(task, is_revert=True)
        assert machine.due() == []
        assert machine.in_flight() == []
    assert states == {RunState.SUCCEEDED, RunState.REVERTED, RunState.CANCELLED, RunState.FAILED}


def test_quiet_after_the_end_holds_while_a_run_stands_still() -> None:
    """A suspended run asks for nothing until it is resumed."""
    play = Play(diamond())
    play.run("a")
    play.tell(m.SuspendRequested("closing"), m.RunSuspended())
    assert play.machine.due() == []
    assert not any(play.machine.wants(task) for task in range(4))


def test_replay_is_living() -> None:
    """The machine folded from a journal, up to any event, equals the machine that wrote it there."""
    for seed in SEEDS:
        walk = Walk(random_plan(seed), seed)
        walk.to_the_end()
        assert len(walk.snapshots) == len(walk.events)
        for end, living in enumerate(walk.snapshots, 1):
            replay = fold([m.Record(0.0, walk.events[:end])], {PLAN: walk.plan})
            assert replay.snapshot() == living, f"seed {seed}, event {end}: {walk.events[end - 1]}"


def test_replay_is_living_for_a_machine_that_nobody_asked() -> None:
    """A replay is never asked what is due, and the answer of one that was does not change its state."""
    rng = random.Random(1)
    asked, silent = Play(diamond()), Play(diamond())
    for name in "acbd":
        for _ in range(rng.randint(1, 3)):
            asked.due()
        for play in (asked, silent):
            play.start(name)
            play.succeed(name)
    assert asked.machine.snapshot() == silent.machine.snapshot()
    assert asked.due() == silent.due() == ["end SUCCEEDED"]


def test_an_idempotency_key_outlives_crashes() -> None:
    """One execution has one key, whoever performs it and however often; the outside world tells it by that."""
    keys: list[str] = []

    async def main() -> None:
        store = MemoryStore()

        async def body(ctx: Context) -> None:
            keys.append(ctx.idempotency_key)
            if ctx.attempt == 1:
                await asyncio.Event().wait()

        flow = linear("f", FunctionTask(body, name="a"))
        async with Engine(store=store, grace=0.0) as engine:
            run = await engine.start(flow, run_id="run")
            await asyncio.sleep(0)
            run.suspend("a test says so", grace=0.0)
            with pytest.raises(RunSuspended):
                await run
            await engine.resume("run", flow)

    asyncio.run(main())
    assert keys == ["run/a#1", "run/a#1"]
