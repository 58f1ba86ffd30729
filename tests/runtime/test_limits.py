"""How much runs at once: never more than allowed, in order, in turns, and every permit given back."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import RunState
from asyncflow.runtime import permits
from asyncflow.runtime.permits import Claim, Pool
from tests.runtime.loops import LoopClock, run, until


class Gauge:
    """Counts who is inside, by label, and the most that ever were."""

    def __init__(self) -> None:
        self.inside: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.order: list[str] = []
        self._lock = threading.Lock()

    def enter(self, *labels: str) -> None:
        with self._lock:
            self.inside.update(labels)
            self.most |= self.inside

    def leave(self, *labels: str) -> None:
        with self._lock:
            self.inside.subtract(labels)

    def task(self, name: str, *labels: str, turns: int = 3, fails: bool = False, **options: Any) -> af.Task:
        """Return a task that counts itself in while it runs, and while it is undone."""

        async def body(ctx: af.Context) -> None:
            self.order.append(name)
            self.enter(*labels)
            try:
                for _ in range(turns):
                    await asyncio.sleep(0)
            finally:
                self.leave(*labels)
            if fails:
                raise ValueError(name)

        async def undo() -> None:
            self.order.append(f"-{name}")
            self.enter(*labels)
            for _ in range(turns):
                await asyncio.sleep(0)
            self.leave(*labels)

        made = af.task(name=name, **options)(body)
        made.revert(undo)
        return made


def taken(engine: af.Engine) -> dict[str, tuple[int, int, int]]:
    """Return what is left in the engine's pools: permits taken, of them lingering, and who waits."""
    pools = engine._launcher.environment.pools
    return {
        name: (pool.taken, pool.lingering, len(pool._reverts) + len(pool._starts))
        for name, pool in pools.items()
        if pool.taken or pool.lingering or pool._reverts or pool._starts
    }


# --- How many ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 3])
def test_an_engine_runs_no_more_bodies_than_its_concurrency(size: int) -> None:
    """Over all of its runs: the limit protects the machine, which does not care whose body it is."""

    async def main() -> None:
        gauge = Gauge()
        async with af.Engine(concurrency=size) as engine:
            flows = [af.unordered(f"f{at}", *(gauge.task(f"t{n}", "all") for n in range(10))) for at in range(3)]
            runs = [await engine.start(flow) for flow in flows]
            for one in runs:
                await one
            assert gauge.most["all"] == size and len(gauge.order) == 30
            assert not taken(engine)

    run(main)


def test_a_flow_runs_no_more_bodies_than_its_concurrency() -> None:
    """Each run of it, and each nested flow with those around it."""

    async def main() -> None:
        gauge = Gauge()
        inner = af.unordered("inner", *(gauge.task(f"i{n}", "inner", "outer") for n in range(8)), concurrency=2)
        beside = [gauge.task(f"o{n}", "outer") for n in range(8)]
        flow = af.unordered("outer", inner, *beside, concurrency=3)
        async with af.Engine() as engine:
            await engine.run(flow)
            assert gauge.most == {"inner": 2, "outer": 3}
            one, other = await engine.start(flow), await engine.start(flow)
            await one
            await other
            assert gauge.most["outer"] == 6, "a flow's limit counts for each run of it"

    run(main)


def test_a_named_limit_holds_over_flows_and_runs() -> None:
    """A service that takes five calls at once does not care which flow they come from."""

    async def main() -> None:
        gauge = Gauge()
        api, disk = af.Limit("api", 2), af.Limit("disk", 1)
        tasks = [
            *(gauge.task(f"a{n}", "api", limits=api) for n in range(6)),
            *(gauge.task(f"d{n}", "disk", limits=disk) for n in range(4)),
            *(gauge.task(f"b{n}", "api", "disk", limits=[disk, api]) for n in range(6)),
            *(gauge.task(f"n{n}", "none") for n in range(6)),
        ]
        async with af.Engine() as engine:
            runs = [await engine.start(af.unordered(f"f{at}", *tasks)) for at in range(3)]
            for one in runs:
                await one
            assert gauge.most["api"] == 2 and gauge.most["disk"] == 1
            assert gauge.most["none"] == 18, "what has no limit waits for nothing"
            assert len(gauge.order) == 3 * 22 and not taken(engine)

    run(main)


def test_all_limits_hold_together() -> None:
    """Engine, flow and names at once, in two runs: the narrowest counts, and nobody is stuck between two of them."""

    async def main() -> None:
        gauge = Gauge()
        api, disk = af.Limit("api", 3), af.Limit("disk", 2)
        inner = af.unordered(
            "inner", *(gauge.task(f"i{n}", "all", "inner", "api", limits=api) for n in range(9)), concurrency=2
        )
        both = [gauge.task(f"b{n}", "all", "api", "disk", limits=(api, disk)) for n in range(9)]
        flow = af.unordered("flow", inner, *both, *(gauge.task(f"d{n}", "all", "disk", limits=disk) for n in range(9)))
        async with af.Engine(concurrency=4) as engine:
            one, other = await engine.start(flow), await engine.start(flow)
            await one
            await other
            assert gauge.most["all"] == 4 and gauge.most["api"] <= 3 and gauge.most["disk"] <= 2
            assert gauge.most["inner"] <= 4, "two for each run"
            assert len(gauge.order) == 54 and not taken(engine)

    run(main)


def test_threads_are_as_many_as_the_engine_allows() -> None:
    """What waits for a thread has not started: its timeout does not run, and a crash does not lose it."""
    gauge = Gauge()
    gate = threading.Semaphore(0)

    def body(ctx: af.Context) -> None:
        gauge.enter("threads")
        gate.acquire()
        gauge.leave("threads")

    async def main() -> None:
        async with af.Engine(threads=2) as engine:
            one = await engine.start(af.unordered("f", *(af.task(name=f"t{n}")(body) for n in range(6))))
            await until(lambda: gauge.inside["threads"] == 2)
            states = Counter(task.state.name for task in one.tasks())
            assert states == {"RUNNING": 2, "PENDING": 4}
            for _ in range(6):
                gate.release()
            await one
            assert gauge.most["threads"] == 2 and not taken(engine)

    asyncio.run(main())


def test_one_name_has_one_size() -> None:
    """Two ideas of how much a service can take would mean that one of them is ignored."""

    async def main() -> None:
        gauge = Gauge()
        async with af.Engine() as engine:
            await engine.run(gauge.task("a", limits=af.Limit("api", 2)))
            with pytest.raises(
                af.DeclarationError, match=r"task 'b' gives limit 'api' 3 permits, and another task gave it 2; declare"
            ):
                await engine.run(gauge.task("b", limits=af.Limit("api", 3)))

    run(main)


@pytest.mark.parametrize(("option", "value"), [("concurrency", 0), ("concurrency", True), ("threads", -1)])
def test_a_limit_of_nothing_is_refused(option: str, value: Any) -> None:
    """An engine that can run nothing would look like one that hangs."""
    with pytest.raises(af.DeclarationError, match=rf"{option}={value!r} must be a whole number of at least 1"):
        af.Engine(**{option: value})


# --- In which order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["engine", "flow", "name"])
def test_one_at_a_time_goes_by_priority_and_then_by_plan(limit: str) -> None:
    """With ``concurrency=1`` a flow is a list to be read from top to bottom; people rely on it when they debug."""

    async def main() -> None:
        gauge = Gauge()
        options: dict[str, Any] = {"limits": af.Limit("one", 1)} if limit == "name" else {}
        ranks = [0, 5, -1, 5, 0, 9, -1, 0]
        tasks = [gauge.task(f"t{at}", priority=rank, **options) for at, rank in enumerate(ranks)]
        flow = af.unordered("f", *tasks, concurrency=1 if limit == "flow" else None)
        async with af.Engine(concurrency=1 if limit == "engine" else None) as engine:
            await engine.run(flow)
        assert gauge.order == ["t5", "t1", "t3", "t0", "t4", "t7", "t2", "t6"]

    run(main)


def test_what_an_ending_makes_ready_competes_for_the_permit_that_it_sets_free() -> None:
    """Otherwise a long line of unimportant tasks would hold up the important one that has just become possible."""

    async def main() -> None:
        gauge = Gauge()
        first, urgent = gauge.task("first", priority=9, provides="x"), gauge.task("urgent", priority=8)
        chain = af.linear("chain", first, urgent)
        flow = af.unordered("f", chain, *(gauge.task(f"t{n}") for n in range(4)))
        async with af.Engine(concurrency=1) as engine:
            await engine.run(flow)
        assert gauge.order == ["first", "urgent", "t0", "t1", "t2", "t3"]

    run(main)


def test_one_at_a_time_is_undone_in_reverse_order_of_start() -> None:
    """The order in which a person would undo it, whatever the plan allows besides."""

    async def main() -> None:
        gauge = Gauge()
        tasks = [gauge.task(f"t{at}", priority=rank) for at, rank in enumerate([0, 3, 1, 2])]
        flow = af.linear("f", af.unordered("group", *tasks), gauge.task("bad", fails=True))
        async with af.Engine(concurrency=1) as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(flow)
            assert not taken(engine)
        assert gauge.order == ["t1", "t3", "t2", "t0", "bad", "-bad", "-t0", "-t2", "-t3", "-t1"]

    run(main)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_runs_take_turns(count: int) -> None:
    """A run of a thousand tasks must not keep a run of one waiting until it is done."""

    async def main() -> None:
        gauge = Gauge()
        async with af.Engine(concurrency=1) as engine:
            flows = [af.unordered(f"f{at}", *(gauge.task(f"run{at}.{n}") for n in range(8))) for at in range(count)]
            for one in [await engine.start(flow) for flow in flows]:
                await one
        started = [name.partition(".")[0] for name in gauge.order]
        # The first run has begun before the others are there.
        settled = started[count : count * 7]
        for at in range(len(settled) - count):
            assert len(set(settled[at : at + count])) == count, f"a turn was left out: {started}"

    run(main)


def test_a_small_run_is_not_kept_waiting_by_large_ones() -> None:
    """The fairness above, as a user would notice it."""

    async def main() -> None:
        gauge = Gauge()
        async with af.Engine(concurrency=2) as engine:
            large = [
                await engine.start(af.unordered(f"large{at}", *(gauge.task(f"l{n}") for n in range(50))))
                for at in range(3)
            ]
            await engine.run(gauge.task("small"))
            assert gauge.order.index("small") < 12
            for one in large:
                await one

    run(main)


def test_reverts_go_before_starts() -> None:
    """What was promised to be undone holds resources; what has not begun can wait."""

    async def main() -> None:
        gauge = Gauge()
        async with af.Engine(concurrency=1) as engine:
            bad = af.linear("bad", gauge.task("a"), gauge.task("b", fails=True))
            other = await engine.start(af.unordered("other", *(gauge.task(f"o{n}") for n in range(6))))
            with pytest.raises(af.RunFailed):
                await engine.run(bad)
            await other
        began = gauge.order.index("-b")
        assert gauge.order[began + 1] == "-a", "nothing starts between two reverts"

    run(main)


# --- Who holds a permit -----------------------------------------------------------------------------------------------


def test_a_task_in_backoff_holds_no_permit() -> None:
    """A service that is down for a minute must not stop everything else for a minute."""

    async def main() -> None:
        order: list[str] = []

        @af.task(retry=af.Retry(2, af.Fixed(60.0)))
        async def shaky(ctx: af.Context) -> None:
            order.append(f"shaky {ctx.attempt}")
            if ctx.attempt == 1:
                raise ConnectionError

        @af.task
        async def steady(ctx: af.Context) -> None:
            order.append(ctx.path)
            await asyncio.sleep(1.0)

        async with af.Engine(concurrency=1, clock=LoopClock()) as engine:
            flow = af.unordered("f", shaky, *(steady.named(f"s{n}") for n in range(3)))
            await engine.run(flow)
            assert order == ["shaky 1", "s0", "s1", "s2", "shaky 2"] and not taken(engine)

    run(main)


def test_what_waits_for_one_permit_holds_no_other() -> None:
    """Else two limits could hold each other up for ever."""

    async def main() -> None:
        gauge = Gauge()
        narrow, wide = af.Limit("narrow", 1), af.Limit("wide", 2)
        both = [gauge.task(f"b{n}", limits=(wide, narrow), turns=5) for n in range(3)]
        only = [gauge.task(f"o{n}", "only", limits=wide, turns=2) for n in range(4)]
        async with af.Engine() as engine:
            await engine.run(af.unordered("f", *both, *only))
            assert gauge.most["only"] >= 1
            assert gauge.order.index("o0") < gauge.order.index("b1"), "b1 waits for narrow, and leaves wide to o0"
            assert not taken(engine)

    run(main)


@pytest.mark.parametrize("ending", ["failure", "cancel", "suspend", "caller", "close", "deadline"])
@pytest.mark.parametrize("where", ["memory", "file"])
def test_every_permit_comes_back_however_a_run_ends(ending: str, where: str, tmp_path: Path) -> None:
    """One permit lost a failure, and an engine that has run for a month stands still."""

    async def main() -> None:
        gauge = Gauge()
        limit = af.Limit("api", 2)
        path = tmp_path / "runs.db" if where == "file" else None
        engine = await af.Engine(path, concurrency=2, durability="process", on_cancel="revert", grace=0.0).open()
        for many in range(8):
            tasks = [
                gauge.task(f"t{n}", "all", turns=n % 4, fails=ending == "failure" and n == many, limits=limit)
                for n in range(8)
            ]
            flow = af.unordered("f", *tasks, concurrency=2)
            deadline = None
            if ending == "deadline":
                deadline = 1.0 if many == 0 else asyncio.get_running_loop().time()  # long ago, either way
            one = await engine.start(flow, deadline=deadline)
            await until(lambda many=many, one=one: len(gauge.order) >= many or one.is_over)  # type: ignore[misc]
            gauge.order.clear()
            if ending == "cancel":
                one.cancel()
            elif ending == "suspend":
                one.suspend(grace=0.0)
            elif ending == "caller":
                caller = asyncio.ensure_future(engine.run(flow))
                for _ in range(many * 3):
                    await asyncio.sleep(0)
                caller.cancel()
                await asyncio.wait([caller])
            elif ending == "close":
                await engine.close()
                assert not taken(engine)
                await engine.open()
            try:
                await one
            except (af.RunFailed, af.RunCancelled, af.RunSuspended):
                assert one.state is not RunState.SUCCEEDED
            assert not taken(engine), f"after {ending} at {many}"
        assert gauge.most["all"] <= 2
        await engine.close()

    run(main, owns_time=False)


def test_an_abandoned_body_keeps_its_permit_and_reverts_pass() -> None:
    """It still uses what the limit protects; but one body that hangs must not keep all others from being undone."""

    async def main() -> None:
        order: list[str] = []
        let_go = asyncio.Event()

        async def hang(ctx: af.Context) -> None:
            order.append("hang")
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    order.append("told to stop")

        async def first() -> None:
            order.append("first")

        async def undo_first() -> None:
            order.append("-first")

        async def undo_hang() -> None:
            order.append("-hang")

        hanging, begun = af.task(hang), af.task(first)
        begun.revert(undo_first)
        hanging.revert(undo_hang)
        limit = af.Limit("one", 1)
        flow = af.unordered("f", begun.with_options(limits=limit), hanging.with_options(limits=limit))
        other = af.task(name="other", limits=limit)(first)
        async with af.Engine(clock=LoopClock(), cancel_grace=5.0) as engine:
            one = await engine.start(flow)
            await until(lambda: "hang" in order)
            one.cancel()
            second = await engine.start(other)
            pool = engine._launcher.environment.pools["one"]
            await asyncio.sleep(60.0)
            # Its sibling is undone past it, another run's start is not let past it, and its own revert waits for it.
            assert order == ["first", "hang", "told to stop", "-first"]
            assert (pool.taken, pool.lingering) == (1, 1)
            assert repr(pool) == "<Pool 'one': 1 of 1 taken, 1 waiting>"
            let_go.set()
            with pytest.raises(af.RunCancelled):
                await one
            await second
            assert sorted(order[4:]) == ["-hang", "first"]
            assert not taken(engine)

    run(main)


def test_the_next_attempt_behind_an_abandoned_one_counts_as_any_other() -> None:
    """Once the body that hung is gone, its permit is an ordinary one again: no revert may pass it."""

    class Run:
        def granted(self, claim: Claim) -> None:
            granted.append(claim)

    granted: list[Claim] = []
    pool = Pool("api", 1)
    claim = Claim(Run(), 0, 1, 0, (pool,))
    permits.ask(claim)
    pool.serve()
    permits.linger(claim)
    assert pool.has_room(is_revert=True) and not pool.has_room(is_revert=False)
    permits.return_to(claim)
    assert not pool.has_room(is_revert=True)
    permits.release(claim)
    assert granted == [claim] and (pool.taken, pool.lingering) == (0, 0)
