"""Random nested flows in simulated worlds: promises are kept whatever happens, and a seed tells one story."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from asyncflow import messages as m
from asyncflow.errors import StoreError
from asyncflow.graph.controller import ForEach, Times
from asyncflow.graph.flow import Flow
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.policy import Exponential, Retry
from asyncflow.graph.task import Task
from asyncflow.states import RunState
from asyncflow.testing import Case, Deadlock, Disk, Ending, World, WorldEngine, check_invariants, run_virtual
from tests.nested.trees import chance

ROOT = Path(__file__).parent.parent.parent


class Doing(Task):
    """A task that takes its time, and fails as often as the seed says."""

    def __init__(self, seed: int, name: str, **options: Any) -> None:
        super().__init__(name=name, provides=name, **options)
        self.seed = seed
        self.asked: Counter[str] = Counter()

    def luck(self, what: str) -> float:
        self.asked[what] += 1
        return chance(self.seed, self.name, what, self.asked[what])

    async def execute(self) -> int:
        for _ in range(int(self.luck("waits") * 3)):
            await asyncio.sleep(int(self.luck("seconds") * 3))
        if self.luck("body") < 0.15:
            raise ValueError(self.name)
        return self.seed

    async def revert(self) -> None:
        await asyncio.sleep(int(self.luck("undo seconds") * 2))
        if self.luck("undo") < 0.05:
            raise LookupError(self.name)


class DoingInAThread(Doing):
    """The same for a plain function."""

    def execute(self) -> int:  # type: ignore[override]
        if self.luck("body") < 0.15:
            raise ValueError(self.name)
        return self.seed


def random_flow(seed: int, rng: random.Random, size: int, name: str = "root") -> Flow[..., Any]:
    """Return a flow of about *size* tasks, with controllers and conditions."""
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["retry"] = rng.choice((Times(2), ForEach([1, 2])))
    if name != "root" and rng.random() < 0.2:
        is_wanted = rng.random() < 0.5
        options["when"] = lambda: is_wanted
    flow = rng.choice((linear, unordered, graph))(name, **options)
    number = 0
    while size > 0:
        part = min(size, rng.randint(1, 4))
        if part > 1 and rng.random() < 0.4:
            flow.add(random_flow(seed, rng, part, f"{name}-{number}"))
        else:
            part = 1
            kind = rng.choice((Doing, Doing, DoingInAThread))
            how: dict[str, Any] = {}
            if rng.random() < 0.3:
                how["retry"] = Retry(2, Exponential(0.5))
            if rng.random() < 0.2:
                how["timeout"] = 2.0
            flow.add(kind(seed, f"{name}-{number}", **how))
        size -= part
        number += 1
    return flow


def world_of(seed: int) -> World:
    """Return the world of a seed."""
    rng = random.Random(f"world test {seed}")
    flow = random_flow(seed, rng, rng.randint(1, 10))
    kinds = ("before", "after", "await")
    crashes = tuple((rng.choice(kinds), rng.randint(1, 60)) for _ in range(rng.choice((0, 1, 2, 3))))
    cancel = rng.randint(1, 120) if rng.random() < 0.3 else None
    fault = (rng.randint(1, 8), rng.choice(("write", "sync", "full"))) if rng.random() < 0.3 else None
    concurrency, durability = rng.choice((None, None, 1, 2)), rng.choice(("full", "process", "lazy"))
    return World(flow, {}, Case(seed, crashes, cancel, fault), concurrency=concurrency, durability=durability)


def go(seed: int) -> bytes:
    """Bring the world of a seed to its end, check it, and return its journal."""
    with world_of(seed) as world:
        try:
            ending = world.run()
            assert ending.state.is_ended
            check_invariants(world.plan, ending)
        except BaseException as error:
            error.add_note(f"seed {seed}: {world.case}\n{world.timeline()}")
            raise
        return world.journal


def test_random_flows_keep_every_promise_in_any_world() -> None:
    """With crashes, cancels, failing disks, controllers and conditions, every run ends, and as it may."""
    for seed in range(200):
        go(seed)


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(20))
def test_random_flows_keep_every_promise_in_many_worlds(thousand: int) -> None:
    """Twenty thousand of them; each second one twice, for the same journal."""
    for seed in range(thousand * 1_000, (thousand + 1) * 1_000):
        journal = go(seed)
        assert seed % 2 or go(seed) == journal, f"seed {seed} tells two stories"


PROGRAM = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from tests.world.test_world import go
print(hashlib.sha256(b"".join(go(seed) for seed in range(20))).hexdigest())
"""


def test_a_seed_gives_the_same_journal_byte_for_byte() -> None:
    """A failure that cannot be repeated cannot be mended; also another process hashes otherwise."""
    found = set()
    for hash_seed in ("1", "2"):
        command = [sys.executable, "-c", PROGRAM, str(ROOT)]
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


def ending_of(flow: Flow[..., Any], case: Case) -> tuple[World, Ending]:
    with World(flow, {}, case) as world:
        return world, world.run()


def slow_pair() -> Flow[..., Any]:
    class Sleeper(Task):
        async def execute(self) -> str:
            await asyncio.sleep(86_400 * 182)
            return self.name

        async def revert(self) -> None:
            await asyncio.sleep(1)

    return linear("pair", Sleeper(name="first", provides="first"), Sleeper(name="second", provides="second"))


def test_a_year_passes_at_once() -> None:
    """Timers cost turns of the loop, not time."""
    world, ending = ending_of(slow_pair(), Case())
    assert ending.value == {"first": "first", "second": "second"}
    assert world._now > 86_400 * 364 and ending.steps < 100


def test_a_crash_before_a_record_loses_it_and_after_it_does_not() -> None:
    """The two sides of the moment on which everything rests."""
    _, undisturbed = ending_of(slow_pair(), Case())
    place = next(
        number
        for number, record in enumerate(undisturbed.records, 1)
        if any(isinstance(event, m.AttemptSucceeded) for event in record.events)
    )
    for side, attempts in (("before", 2), ("after", 1)):
        _, ending = ending_of(slow_pair(), Case(0, ((side, place),)))
        started = [e for r in ending.records for e in r.events if isinstance(e, m.AttemptStarted) and e.task == 0]
        assert len(started) == attempts and ending.lives == 2 and ending.value == undisturbed.value


@pytest.mark.parametrize("kind", ["write", "sync", "full"])
def test_a_run_outlives_a_disk_that_fails(kind: str) -> None:
    """At any commit: nothing depends on what was not written, and the run goes on once that is mended."""
    for commit in range(2, 5):
        _, ending = ending_of(slow_pair(), Case(0, fault=(commit, kind)))
        assert ending.value == {"first": "first", "second": "second"}


def test_the_dead_do_not_tidy_up() -> None:
    """A process that was killed runs no ``finally``, so neither must one that is said to be."""
    tidied: list[str] = []

    class Tidy(Task):
        async def execute(self) -> None:
            try:
                await asyncio.sleep(10)
            finally:
                tidied.append("tidied")

    with World(linear("tidy", Tidy()), {}, Case(0, (("await", 9),))) as world:
        assert world.run().lives == 2
        assert tidied == ["tidied"]


def test_a_run_that_is_stuck_is_found() -> None:
    """It waits for what will never be, and that is told at once."""

    class Stuck(Task):
        async def execute(self) -> None:
            await asyncio.get_running_loop().create_future()

    with pytest.raises(Deadlock, match="everything waits"):
        ending_of(linear("stuck", Stuck()), Case())


def test_seeds_take_ready_tasks_in_different_orders() -> None:
    """Were the order always the same, a thousand seeds would be one."""
    orders = set()
    for seed in range(20):
        order: list[str] = []

        class Noting(Task):
            async def execute(self) -> None:
                await asyncio.sleep(1)
                order.append(self.name)  # noqa: B023

        ending_of(unordered("all", *(Noting(name=name) for name in "abc")), Case(seed))
        orders.add(tuple(order))
    assert len(orders) > 3


def test_a_disk_forgets_a_run_that_is_purged() -> None:
    """A store that had the run goes on beating."""
    disk = Disk()

    async def main() -> None:
        async with WorldEngine(disk) as engine:
            await engine.run(slow_pair(), run_id="r")
            await asyncio.sleep(1)
            assert await engine.purge(older_than=0) == ["r"] and await engine.runs() == []
            assert await engine._store.beat() == []

    run_virtual(main())
    disk.close()


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_lazy_run_whose_end_could_not_be_written_says_so(is_cancelled: bool) -> None:
    """It goes ahead of its records; were its value given all the same, a resume would do again what was called done."""
    disk = Disk(fault=(2, "full"))

    async def main() -> None:
        async with WorldEngine(disk, durability="lazy") as engine:
            run = await engine.start(slow_pair(), run_id="r")
            if is_cancelled:
                run.cancel("no more")
            with pytest.raises(StoreError, match="disk is full"):
                await run
            assert (await engine.runs())[0].state is RunState.INTERRUPTED

    run_virtual(main())
    disk.restart()

    async def again() -> None:
        async with WorldEngine(disk) as engine:
            assert await engine.resume("r", slow_pair()) == {"first": "first", "second": "second"}

    run_virtual(again())
    disk.close()
