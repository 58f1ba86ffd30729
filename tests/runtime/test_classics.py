"""The flows that every workflow engine is asked for, each at several depths of nesting, in memory and in a file."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow.graph.flow import Flow

DEPTHS = (0, 1, 4)


def bury(flow: Flow[..., Any], depth: int) -> Flow[..., Any]:
    """Return *flow* within *depth* flows that have nothing to say, linear, unordered and graph by turns."""
    innermost = flow.name
    for level in range(depth):
        flow = (af.linear, af.unordered, af.graph)[level % 3](f"{innermost} {level}", flow)
    return flow


@pytest.fixture(params=["memory", "file"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    return None if request.param == "memory" else tmp_path / "runs.db"


def play(journal: Path | None, work: Callable[[af.Engine], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def main() -> Any:
        async with af.Engine(journal, durability="process", **options) as engine:
            return await work(engine)

    return asyncio.run(main())


class World:
    """What exists because tasks made it, and what was done, in order."""

    def __init__(self) -> None:
        self.has: list[str] = []
        self.deeds: list[str] = []
        self.broken: Counter[str] = Counter()

    def make(self, thing: str) -> str:
        self.deeds.append(thing)
        self.has.append(thing)
        if self.broken[thing]:
            self.broken[thing] -= 1
            raise ConnectionError(f"{thing} does not answer")
        return thing

    def task(self, thing: str, *requires: str, provides: str | None = None, **options: Any) -> af.Task:
        """Return a task that makes *thing* and whose revert unmakes it."""

        async def do(**inputs: Any) -> str:
            await asyncio.sleep(0)
            return self.make(thing)

        async def undo() -> None:
            await asyncio.sleep(0)
            if thing in self.has:  # else it was told to stop before
                self.deeds.append(f"-{thing}")
                self.has.remove(thing)

        options.setdefault("name", thing)
        task = af.task(provides=provides or thing, requires=requires, **options)(do)
        task.revert(undo)
        return task


# --- A virtual machine boots ------------------------------------------------------------------------------------------


def boot(world: World, depth: int) -> Flow[..., Any]:
    """Return the flow that TaskFlow's documentation opens with: everything that a machine needs, then the machine."""
    network = af.linear("network", world.task("ip"), world.task("port", "ip"))
    storage = af.linear("storage", world.task("volume"))
    prepare = af.unordered("prepare", bury(network, depth), bury(storage, depth))
    return af.linear("vm", world.task("quota"), bury(prepare, depth), world.task("vm", "port", "volume"))


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_machine_boots(journal: Path | None, depth: int) -> None:
    """What it needs is there when it starts."""
    world = World()
    results = play(journal, lambda engine: engine.run(boot(world, depth)))
    assert sorted(results) == sorted(world.has) == ["ip", "port", "quota", "vm", "volume"]
    assert world.deeds[0] == "quota" and world.deeds[-1] == "vm"


@pytest.mark.parametrize("broken", ["quota", "ip", "port", "volume", "vm"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_machine_that_does_not_boot_leaves_nothing_behind(journal: Path | None, depth: int, broken: str) -> None:
    """Whatever was made for it is given back, last first."""
    world = World()
    world.broken[broken] = 1

    async def work(engine: af.Engine) -> None:
        with pytest.raises(af.RunFailed) as failed:
            await engine.run(boot(world, depth))
        assert failed.value.reverted
        assert [str(error) for error in failed.value.exceptions] == [f"{broken} does not answer"]

    play(journal, work)
    assert world.has == []
    deeds = world.deeds
    made = [deed for deed in deeds if not deed.startswith("-")]
    assert sorted(f"-{thing}" for thing in made) == sorted(deed for deed in deeds if deed.startswith("-"))
    for before, after in (("quota", "ip"), ("ip", "port"), ("quota", "volume"), ("port", "vm"), ("volume", "vm")):
        if after in made:
            assert deeds.index(f"-{after}") < deeds.index(f"-{before}")


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_machine_boots_the_second_time(journal: Path | None, depth: int) -> None:
    """With a controller around it, what it needs is made anew."""
    world = World()
    world.broken["vm"] = 1
    flow = af.linear("again", boot(world, depth).with_options(retry=af.Times(2)), world.task("dns", "vm"))
    play(journal, lambda engine: engine.run(flow))
    assert sorted(world.has) == ["dns", "ip", "port", "quota", "vm", "volume"]
    assert Counter(world.deeds)["quota"] == 2 and Counter(world.deeds)["-quota"] == 1


# --- One host after the other -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["list", "run", "task"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_hosts_are_tried_in_turn(journal: Path | None, depth: int, source: str) -> None:
    """The second host fails as well, and the third is tried with what was undone for the first two."""
    hosts = ["alpha", "beta", "alpha", "gamma", "delta"]
    tried: list[str] = []

    @af.task(provides="connection")
    async def connect(host: str) -> str:
        tried.append(host)
        if host != "gamma":
            raise ConnectionError(host)
        return f"to {host}"

    @connect.revert
    async def disconnect(host: str) -> None:
        tried.append(f"-{host}")

    controller = af.ForEach(hosts, provides="host") if source == "list" else af.ForEachInput("hosts", provides="host")
    inner = af.linear("reach", bury(af.linear("via", connect), depth), retry=controller)
    items: list[Any] = [bury(inner, depth)]
    if source == "task":
        items.insert(0, af.task(name="find", provides="hosts")(lambda: hosts))
    inputs = {"hosts": hosts} if source == "run" else {}
    results = play(journal, lambda engine: engine.run(af.linear("all", *items), inputs))
    assert results["connection"] == "to gamma"
    assert tried == ["alpha", "-alpha", "beta", "-beta", "alpha", "-alpha", "gamma"]


def test_no_host_answers(journal: Path | None) -> None:
    """The failure that is reported is the last one's."""

    @af.task
    async def connect(host: str) -> None:
        raise ConnectionError(host)

    async def work(engine: af.Engine) -> None:
        flow = af.linear("reach", connect, retry=af.ForEach(["alpha", "beta"], provides="host"))
        with pytest.raises(af.RunFailed) as failed:
            await engine.run(flow)
        assert [str(error) for error in failed.value.exceptions] == ["beta"]

    play(journal, work)


# --- Subflows at once -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", range(12))
@pytest.mark.parametrize("depth", DEPTHS)
def test_one_subflow_gives_up_while_the_other_is_retrying(depth: int, turns: int) -> None:
    """Reverting the run wins, at whatever moment it comes, and nothing is left of either."""
    world = World()
    world.broken["shaky"] = 1_000

    @af.task
    async def gives_up() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        raise ValueError("no more")

    retrying = af.linear("retrying", world.task("base"), world.task("shaky", "base"), retry=af.Times(1_000))
    exhausted = af.linear("exhausted", world.task("other"), gives_up, retry=af.Times(1))
    flow = af.linear(
        "both", world.task("first"), af.unordered("at once", bury(retrying, depth), bury(exhausted, depth))
    )

    async def work(engine: af.Engine) -> None:
        with pytest.raises(af.RunFailed) as failed:
            await engine.run(flow)
        assert failed.value.reverted
        assert "no more" in [str(error) for error in failed.value.exceptions]

    play(None, work)
    assert world.has == []
    assert world.deeds[-1] == "-first"


@pytest.mark.parametrize("depth", DEPTHS)
def test_subflows_retry_each_for_itself(journal: Path | None, depth: int) -> None:
    """Ten at once, each with failures of its own, and none starts over because of another."""
    world = World()
    flows: list[Any] = []
    for at in range(10):
        world.broken[f"b{at}"] = at % 4
        inner = af.linear(f"flow{at}", world.task(f"a{at}"), world.task(f"b{at}", f"a{at}"), retry=af.Times(4))
        flows.append(bury(inner, depth).named(f"item{at}"))
    results = play(journal, lambda engine: engine.run(af.unordered("ten", *flows)))
    assert len(results) == 20 and len(world.has) == 20
    assert all(Counter(world.deeds)[f"a{at}"] == at % 4 + 1 for at in range(10))


# --- A branch and a join ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("total", "expected"), [(50, "50, gift: none"), (500, "500, gift: pen")])
@pytest.mark.parametrize("depth", DEPTHS)
def test_a_branch_that_is_skipped_joins_with_a_default(
    journal: Path | None, depth: int, total: int, expected: str
) -> None:
    """By name: the reader's own default stands in."""

    @af.task(provides="gift")
    async def choose() -> str:
        return "pen"

    @af.task(provides="letter")
    async def write(total: int, gift: str = "none") -> str:
        return f"{total}, gift: {gift}"

    branch = bury(af.linear("branch", choose, when=lambda total: total > 100), depth)
    join = af.linear("order", branch, write)
    results = play(journal, lambda engine: engine.run(join, {"total": total}))
    assert results["letter"] == expected
    assert ("gift" in results) is (total > 100)


@pytest.mark.parametrize(("total", "expected"), [(50, "50, gift: none"), (500, "500, gift: pen")])
def test_a_branch_in_a_builder_joins_with_otherwise(journal: Path | None, total: int, expected: str) -> None:
    """By reference: the caller says what it is if it is skipped."""

    @af.task(when=lambda total: total > 100)
    async def choose(total: int) -> str:
        return "pen"

    @af.task
    async def write(total: int, gift: str) -> str:
        return f"{total}, gift: {gift}"

    @af.flow
    def order(total: int) -> str:
        return write(total, choose(total).otherwise("none"))  # type: ignore[attr-defined]

    assert play(journal, lambda engine: engine.run(order, {"total": total})) == expected


# --- Controllers in controllers in controllers ------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("failures", [0, 1, 3, 7, 8])
def test_controllers_three_deep_try_everything(journal: Path | None, depth: int, failures: int) -> None:
    """Two attempts each are eight in all; the eighth failure is the run's."""
    world = World()
    world.broken["deep"] = failures
    flow: Any = world.task("deep")
    for level in ("inner", "middle", "outer"):
        flow = bury(af.linear(level, world.task(f"with {level}"), flow, retry=af.Times(2)), depth).named(f"at {level}")

    async def work(engine: af.Engine) -> None:
        run = await engine.start(flow)
        if failures < 8:
            await run
        else:
            with pytest.raises(af.RunFailed):
                await run

    play(journal, work)
    made = Counter(world.deeds)
    attempts = min(failures + 1, 8)
    assert made["deep"] == made["with inner"] == attempts
    assert made["with middle"] == (attempts + 1) // 2 and made["with outer"] == (attempts + 3) // 4
    assert sorted(world.has) == ([] if failures == 8 else ["deep", "with inner", "with middle", "with outer"])


# --- Resuming ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("controller", [None, af.Times(3)])
def test_a_flow_is_resumed_with_one_more_task(journal: Path | None, depth: int, controller: Any) -> None:
    """What is done keeps its value, and the new task runs."""
    world = World()

    def flow(*more: str) -> Flow[..., Any]:
        @af.task(name="pause", provides="paused")
        async def pause(a: str) -> str:
            if not more:
                started.set()
                await asyncio.Event().wait()
            return "paused"

        inner = af.linear("inner", world.task("a"), pause, *(world.task(name) for name in more), retry=controller)
        return af.linear("main", bury(inner, depth), world.task("last"))

    async def work(engine: af.Engine) -> None:
        run = await engine.start(flow(), run_id="r")
        await started.wait()
        run.suspend(grace=0.0)
        with pytest.raises(af.RunSuspended):
            await run
        assert await engine.resume("r", flow("b")) == {"a": "a", "paused": "paused", "b": "b", "last": "last"}

    started = asyncio.Event()
    play(journal, work)
    assert world.deeds == ["a", "b", "last"]


def test_a_flow_that_is_retrying_is_resumed_where_it_was(tmp_path: Path) -> None:
    """The history survives: the third value is tried next, and not the first."""
    tried: list[str] = []

    def flow(answers: bool) -> Flow[..., Any]:
        @af.task
        async def connect(host: str) -> str:
            tried.append(host)
            if host == "c" and not answers:
                started.set()
                await asyncio.Event().wait()
            if host != "d":
                raise ConnectionError(host)
            return host

        return af.linear("reach", connect, retry=af.ForEach(["a", "b", "c", "d"], provides="host"))

    async def first(engine: af.Engine) -> None:
        run = await engine.start(flow(False), run_id="r")
        await started.wait()
        run.suspend(grace=0.0)
        with pytest.raises(af.RunSuspended):
            await run

    started = asyncio.Event()
    play(tmp_path / "runs.db", first)
    assert tried == ["a", "b", "c"]
    play(tmp_path / "runs.db", lambda engine: engine.resume("r", flow(True)))
    assert tried == ["a", "b", "c", "c", "d"]


class Counted(af.Task):
    """Succeeds from its nth call on; its revert from the nth on as well."""

    def __init__(self, world: World, *, fails: int = 0, undo_fails: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.world, self.fails, self.undo_fails = world, fails, undo_fails

    async def execute(self) -> str:
        self.world.deeds.append(self.name)
        if Counter(self.world.deeds)[self.name] <= self.fails:
            raise ValueError(f"{self.name} failed")
        return self.name

    async def revert(self) -> None:
        self.world.deeds.append(f"-{self.name}")
        if Counter(self.world.deeds)[f"-{self.name}"] <= self.undo_fails:
            raise OSError(f"{self.name} cannot be undone")


def ended(world: World, kind: str) -> tuple[Flow[..., Any], dict[str, Any], af.RunState]:
    """Return a flow that ends in a way, the options of its run, and the state that it ends in."""
    a, b, c = (Counted(world, name=name, provides=name) for name in "abc")
    fails = Counted(world, name="b", provides="b", fails=1)
    if kind == "succeeded":
        return af.linear("f", a, b, c, retry=af.Times(2)), {}, af.RunState.SUCCEEDED
    if kind == "reverted":
        return af.linear("f", a, fails, c, retry=af.Times(1)), {}, af.RunState.REVERTED
    if kind == "not undone":
        stuck = Counted(world, name="a", provides="a", undo_fails=1)
        return af.linear("f", stuck, fails, c, retry=af.Times(1)), {}, af.RunState.FAILED
    if kind == "never reverted":
        return af.linear("f", a, fails, c, retry=af.Times(5)), {"never_revert": True}, af.RunState.FAILED
    assert kind == "one flow undone"
    inner = af.linear("in", fails, c, retry=af.Times(1), revert_scope="flow")
    return af.linear("f", a, inner), {}, af.RunState.FAILED


ENDINGS = {
    # How the run ended: what was done by then; what the resume adds, and gives; what the reset adds.
    "succeeded": ("a b c", "", af.RunState.SUCCEEDED, "a b c"),
    "reverted": ("a b -b -a", "", af.RunState.REVERTED, "a b c"),
    "not undone": ("a b -b -a", "-a", af.RunState.REVERTED, "a b c"),
    "never reverted": ("a b", "b c", af.RunState.SUCCEEDED, "a b c"),
    "one flow undone": ("a b -b", "b c", af.RunState.SUCCEEDED, "a b c"),
}


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_resume_of_a_run_that_has_ended(journal: Path | None, kind: str) -> None:
    """It goes on if there is anything to be done, and else says again what it said."""
    done, added, state, _ = ENDINGS[kind]
    world = World()
    flow, options, first = ended(world, kind)

    async def work(engine: af.Engine) -> None:
        run = await engine.start(flow, run_id="r", **options)
        before = await outcome(run)
        assert run.state is first
        assert world.deeds == done.split()
        again = await engine.take_up("r", flow)
        after = await outcome(again)
        assert again.state is state
        assert world.deeds == [*done.split(), *added.split()]
        if not added:
            assert type(before) is type(after) and str(before) == str(after)
        elif state is af.RunState.SUCCEEDED:
            assert after == {"a": "a", "b": "b", "c": "c"}

    play(journal, work)


async def outcome(run: af.Run[Any]) -> Any:
    try:
        return await run
    except (af.RunFailed, af.RunCancelled) as error:
        return error


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("reverted", "everything it had done is undone"),
        ("not undone", "NOT everything it had done could be undone"),
        ("never reverted", r"all that it had done is kept; go on with engine\.resume\('r'\)"),
        ("one flow undone", r"all but flow 'in' that it had done is kept; go on with engine\.resume\('r'\)"),
    ],
)
def test_a_run_that_failed_says_what_is_left_of_it(kind: str, said: str) -> None:
    """What was kept on purpose is no alarm, and there is a way on."""

    async def work(engine: af.Engine) -> None:
        flow, options, _ = ended(World(), kind)
        with pytest.raises(af.RunFailed, match=said):
            await engine.run(flow, run_id="r", **options)

    play(None, work)


@pytest.mark.parametrize("kind", ENDINGS)
def test_a_reset_of_a_run_that_has_ended(journal: Path | None, kind: str) -> None:
    """Everything is done again, whatever it ended with; a task that failed the first time does not the second."""
    done, _, _, added = ENDINGS[kind]
    world = World()
    flow, options, first = ended(world, kind)

    async def work(engine: af.Engine) -> None:
        run = await engine.start(flow, run_id="r", **options)
        await outcome(run)
        assert run.state is first
        again = await engine.reset("r", flow)
        assert await again == {"a": "a", "b": "b", "c": "c"}
        assert world.deeds == [*done.split(), *added.split()]
        assert await engine.resume("r", flow) == {"a": "a", "b": "b", "c": "c"}

    play(journal, work)


def test_a_cancelled_run_says_so_again_until_it_is_reset(journal: Path | None) -> None:
    """A cancel is an ending as any other."""
    world = World()
    flow = af.linear("f", world.task("a"), world.task("b"), retry=af.Times(3))

    async def work(engine: af.Engine) -> None:
        run = await engine.start(flow, run_id="r")
        run.cancel("enough")
        with pytest.raises(af.RunCancelled, match="enough"):
            await run
        with pytest.raises(af.RunCancelled, match="enough"):
            await engine.resume("r", flow)
        again = await engine.reset("r", flow)
        assert await again == {"a": "a", "b": "b"}

    play(journal, work)


def test_keys_of_idempotency_are_new_with_each_attempt_of_a_flow_and_with_a_reset(journal: Path | None) -> None:
    """What was undone must not be taken for done by whoever keeps the keys."""
    keys: list[str | None] = []

    @af.task
    async def charge(ctx: af.Context) -> None:
        keys.append(ctx.idempotency_key)
        if len(keys) < 3:
            raise ConnectionError

    flow = af.linear("f", charge, retry=af.Times(3))

    async def work(engine: af.Engine) -> None:
        await engine.run(flow, run_id="r")
        await (await engine.reset("r", flow))

    play(journal, work)
    assert len(keys) == len(set(keys)) == 4


def test_values_of_a_flow_with_a_controller_are_results_only_at_its_end(journal: Path | None) -> None:
    """What may yet be undone is nobody's result."""
    world = World()
    seen: list[list[str]] = []

    @af.task(name="look")
    async def look() -> None:
        seen.append(sorted(runs[0].results))

    inner = af.linear("in", world.task("a"), look, retry=af.Times(2))
    flow = af.linear("out", world.task("p"), inner, look.named("look again"))
    runs: list[Any] = []

    async def work(engine: af.Engine) -> None:
        runs.append(await engine.start(flow))
        await runs[0]

    play(journal, work)
    assert seen == [["p"], ["a", "p"]]


def test_a_backoff_waits_between_attempts() -> None:
    """At least as long as it says, and only between two."""
    times: list[float] = []

    @af.task
    async def shaky() -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) < 3:
            raise ConnectionError

    flow = af.linear("f", shaky, retry=af.Times(3, backoff=af.Fixed(0.02)))
    play(None, lambda engine: engine.run(flow))
    assert all(later - earlier >= 0.015 for earlier, later in itertools.pairwise(times))
