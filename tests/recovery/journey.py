"""Runs, prefixes of their journals, and what is taken up from those: in virtual time, watched at every record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from asyncflow import messages as m
from asyncflow.engine import Engine
from asyncflow.errors import RunCancelled, RunFailed, RunSuspended
from asyncflow.interfaces import NewRun
from asyncflow.machine.replay import fold
from asyncflow.machine.run import RunMachine
from asyncflow.runtime import supervisor
from asyncflow.states import RunState
from asyncflow.stores.memory import MemoryJournal, MemoryStore
from tests.model import Model
from tests.recovery import virtual
from tests.recovery.flows import OUTLIVES, Built, World
from tests.runtime.loops import LoopClock

CANCEL_GRACE = 10.0

Trouble = Callable[[int, Any], None]
"""Called with the number of each record and the run, right after it was appended."""


class WatchedJournal:
    """A journal in memory that tells the world what is on record, before anybody acts on it."""

    lags = False

    def __init__(self, journal: MemoryJournal, appended: Callable[[m.Record], None], *, grows: bool) -> None:
        self.run_id = journal.run_id
        self.grows = grows
        self._journal = journal
        self._appended = appended
        self.records, self.blob, self.release = journal.records, journal.blob, journal.release

    def append(self, record: m.Record, blobs: Mapping[str, bytes], state: RunState) -> None:
        self._journal.append(record, blobs, state)
        self._appended(record)


class WatchedStore(MemoryStore):
    """A store in memory whose journals tell of each record."""

    def __init__(self, appended: Callable[[m.Record], None], *, grows: bool = False) -> None:
        super().__init__()
        self._appended = appended
        self._grows = grows

    async def create(self, *args: Any) -> Any:
        journal = await super().create(*args)
        self._appended(args[2])
        return WatchedJournal(journal, self._appended, grows=self._grows)

    async def claim(self, run_id: str) -> Any:
        return WatchedJournal(await super().claim(run_id), self._appended, grows=self._grows)


@attrs.define
class Journey:
    """How a run went: its journal, its state and value at the end, and what to compare."""

    records: list[m.Record]
    state: RunState
    value: Any
    failures: tuple[str, ...]
    model: Model

    def same(self) -> dict[str, Any]:
        """Return what two journeys have in common where nothing depends on the schedule."""
        return {
            "state": self.state,
            "value": self.value,
            "states": self.model.states(),
            "values": self.model.values(),
            "failures": self.failures,
        }


class Traveller:
    """
    Makes journeys with one flow. *turn* is how many events a turn may have, *engine_options* are every engine's; where
    the journal *grows*, plain tasks are performed in one go.
    """

    def __init__(
        self,
        built: Built,
        *,
        deadline: float | None = None,
        turn: int = supervisor.EVENTS_A_TURN,
        grows: bool = False,
        **engine_options: Any,
    ) -> None:
        self.built = built
        self.turn = turn
        self.grows = grows
        self.plan = built.flow.compile()
        self.deadline = deadline
        self.engine_options = engine_options

    # --- Going --------------------------------------------------------------------------------------------------------

    def set_out(self, trouble: Trouble | None = None, *, watch: bool = True) -> Journey:
        """Run the flow from the start; a run that was suspended on the way goes on in a new engine."""
        journey = virtual.run(self._go([], trouble, watch=watch))
        while journey.state is RunState.SUSPENDED:
            journey = self.go_on(journey.records, watch=watch)
        return journey

    def go_on(
        self, records: Sequence[m.Record], trouble: Trouble | None = None, *, rest: float = 0.0, watch: bool = False
    ) -> Journey:
        """Take the run up from *records*, a prefix of its journal, *rest* seconds after the last of them."""
        now = records[-1].at + rest
        journey = virtual.run(self._go(list(records), trouble, watch=watch), now)
        while journey.state is RunState.SUSPENDED:
            journey = self.go_on(journey.records, watch=watch)
        return journey

    async def _go(self, prefix: list[m.Record], trouble: Trouble | None, *, watch: bool) -> Journey:
        world = self.built.world = _world_after(prefix, self.plan.path)
        self._let_into(world)
        watcher = _Watcher(world, self, prefix, trouble, watch=watch)
        store = WatchedStore(watcher.appended, grows=self.grows)
        world.look = watcher.look
        if prefix:
            await _lay_down(store, prefix)
        engine = Engine(store=store, clock=LoopClock(), cancel_grace=CANCEL_GRACE, grace=1.0, **self.engine_options)
        supervisor.EVENTS_A_TURN = self.turn
        async with engine:
            watcher.engine = engine
            if prefix:
                run = await engine.take_up("run", self.built.flow)
            else:
                run = await engine.start(self.built.flow, run_id="run", deadline=self.deadline)
            value, failures = None, tuple[str, ...]()
            try:
                value = await run
            except RunFailed as failed:
                failures = tuple(failed.failures)
            except (RunCancelled, RunSuspended):
                pass
            records = await store.read("run")
            watcher.look()
            # Bodies that were left behind are gone by then.
            await asyncio.sleep(OUTLIVES + 1)
            assert len(await store.read("run")) == len(records), "a run that is over goes on writing"
        assert not world.problems, world.problems
        watcher.check_end(run.supervisor.machine)
        model = watcher.model
        assert model.state == run.state.value
        assert not +world.at_work, f"still at work: {+world.at_work}"
        return Journey(records, run.state, value, failures, model)

    def _let_into(self, world: World) -> None:
        for task in self.plan.tasks or ():
            task.world = world  # type: ignore[attr-defined]


class _Watcher:
    """Sees each record as it is appended: the model takes it, and a replay is compared with the living machine."""

    def __init__(
        self, world: World, traveller: Traveller, prefix: list[m.Record], trouble: Trouble | None, *, watch: bool
    ) -> None:
        self.engine: Engine | None = None
        self.model = Model(traveller.plan)
        self._world = world
        self._plan = traveller.plan
        self._trouble = trouble
        self._replay: RunMachine | None = None
        self._watch = watch
        self._grows = traveller.grows
        self._last: m.Record | None = None
        self._seen = 0  # of the events of the last record
        self._count = len(prefix)
        self._records = list(prefix)
        for record in prefix:
            self.model.take(record)
        if prefix and watch:
            self._replay = _fold(prefix, self._plan)

    def look(self) -> None:
        """Take note of what the last record has been given since it was appended."""
        if self._last is not None and len(self._last.events) > self._seen:
            more = m.Record(self._last.at, self._last.events[self._seen :])
            self._seen = len(self._last.events)
            _note(self._world, more, self._plan.path)
            self.model.take(more)

    def appended(self, record: m.Record) -> None:
        self.look()
        self._last, self._seen = record, len(record.events)
        try:
            self._see(record)
        except AssertionError as error:
            # Raised here it would only be one more trouble for the engine to survive.
            self._world.problems.append(f"record {self._count}: {error}")

    def _see(self, record: m.Record) -> None:
        self._count += 1
        self._records.append(record)
        _note(self._world, record, self._plan.path)
        self.model.take(record)
        if self.engine is None or "run" not in self.engine._launcher.runs:
            if self._watch:
                self._replay = _fold([record], self._plan)
            return
        run = self.engine._launcher.runs["run"]
        if self._replay is not None and not self._grows:  # what grows is complete at the end only
            for event in record.events:
                self._replay.apply(event)
            compare(self._replay, run.supervisor.machine)
        if self._trouble is not None:
            self._trouble(self._count, run)

    def check_end(self, machine: RunMachine) -> None:
        compare(_fold(self._records, self._plan), machine)


def compare(replay: RunMachine, living: RunMachine) -> None:
    """Assert that a machine folded from a journal is the one that wrote it."""
    one, other = replay.snapshot(), living.snapshot()
    for what in one:
        assert one[what] == other[what], f"the replay's {what} is {one[what]}, and the living machine's {other[what]}"
    blocked = [machine._undoing and machine._undoing._blocked for machine in (replay, living)]
    assert blocked[0] == blocked[1], "the replay would undo in another order"


def _fold(records: Sequence[m.Record], plan: Any) -> RunMachine:
    first = records[0].events[0]
    assert isinstance(first, m.RunStarted)
    return fold(records, {first.plan: plan})


async def _lay_down(store: WatchedStore, records: Sequence[m.Record]) -> None:
    """Put *records* into a store, as if a process had died after the last of them."""
    first = records[0].events[0]
    assert isinstance(first, m.RunStarted)
    new = NewRun(run_id="run", flow=first.flow, flow_ref=None, plan=first.plan, durability="full")
    journal = await MemoryStore.create(store, new, lambda: b"", records[0], {})
    for record in records[1:]:
        journal.append(record, {}, RunState.RUNNING)
    await journal.release()


def _world_after(records: Sequence[m.Record], path: Callable[[int], str]) -> World:
    world = World()
    for record in records:
        _note(world, record, path)
    return world


def _note(world: World, record: m.Record, path: Callable[[int], str]) -> None:
    for event in record.events:
        match event:
            case m.AttemptStarted(task=task, attempt=attempt):
                world.durable.add(("body", path(task), attempt))
            case m.RevertStarted(task=task, attempt=attempt):
                world.durable.add(("revert", path(task), attempt))
            case m.AttemptFailed(task=task) | m.AttemptTimedOut(task=task):
                world.endings["body", path(task)] += 1
            case m.RevertFailed(task=task):
                world.endings["revert", path(task)] += 1
