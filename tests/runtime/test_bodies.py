"""A body finds itself in an ordinary asyncio task, or thread: nothing that works elsewhere may break inside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import asyncflow as af
from asyncflow import RunState, TaskState
from asyncflow.graph.pattern import as_flow

uvloop = pytest.importorskip("uvloop")

Main = Callable[[], Coroutine[Any, Any, Any]]
tenant: ContextVar[str] = ContextVar("tenant", default="nobody")


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> Callable[[Main], Any]:
    """What runs a coroutine function on a fresh loop of either kind."""

    def run(main: Main) -> Any:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main())

    return run


async def perform(*tasks: Any, **options: Any) -> dict[str, Any]:
    """Run *tasks* one after the other in memory and return what they provide."""
    async with af.Engine(**options) as engine:
        return await engine.run(af.linear("bodies", *tasks))


# --- The asyncio task -------------------------------------------------------------------------------------------------


def test_the_current_task_is_the_bodys_own(loop: Callable[[Main], Any]) -> None:
    """Libraries keep what belongs to a task by it; two bodies, or a body and its caller, must never share one."""
    seen: list[asyncio.Task[Any] | None] = []

    async def look() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    async def main() -> None:
        caller = asyncio.current_task()
        await perform(af.task(name="a")(look), af.task(name="b")(look))
        assert asyncio.current_task() is caller, "an eager start gives the caller its task back"
        assert caller not in seen and None not in seen
        assert seen[0] is seen[1] and seen[2] is seen[3] and seen[0] is not seen[2]
        assert seen[0] is not None and seen[0].get_name() == "a"

    loop(main)


def test_context_variables_of_the_caller_are_seen_and_changes_stay_inside(loop: Callable[[Main], Any]) -> None:
    """Request ids, tenants and transactions travel in them; one body's must not leak into another's or the caller's."""

    @af.task(provides="a")
    async def a() -> str:
        seen = tenant.get()
        tenant.set("changed by a")
        await asyncio.sleep(0)
        return seen + "," + tenant.get()

    @af.task(provides="b")
    async def b() -> str:
        return tenant.get()

    @af.task(provides="c")
    def c() -> str:
        seen = tenant.get()
        tenant.set("changed by c")
        return seen

    @af.task(provides="d", executor="inline")
    def d() -> str:
        seen = tenant.get()
        tenant.set("changed by d")
        return seen

    async def main() -> None:
        tenant.set("acme")
        found = await perform(a, b, c, d)
        assert found == {"a": "acme,changed by a", "b": "acme", "c": "acme", "d": "acme"}
        assert tenant.get() == "acme"

    loop(main)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_each_run_sees_the_context_in_which_it_was_started(where: str, tmp_path: Path) -> None:
    """Also when the task that started it is long gone, and when another resumes it."""

    @af.task
    async def look(ready: asyncio.Event = af.resource()) -> str:  # noqa: B008
        await ready.wait()
        return tenant.get()

    flow = as_flow(look)

    async def start(engine: af.Engine, name: str) -> af.Run[str]:
        tenant.set(name)
        return await engine.start(flow, run_id=name)

    async def main() -> None:
        ready = asyncio.Event()
        path = tmp_path / "runs.db" if where == "file" else None
        async with af.Engine(path, resources={"ready": ready}) as engine:
            one = await asyncio.ensure_future(start(engine, "one"))
            two = await asyncio.ensure_future(start(engine, "two"))
            three = await asyncio.ensure_future(start(engine, "three"))
            three.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await three
            ready.set()
            tenant.set("who resumes")
            assert [await one, await two, await engine.resume("three", flow)] == ["one", "two", "who resumes"]

    asyncio.run(main())


def test_a_timeout_inside_a_body_cancels_the_body_alone(loop: Callable[[Main], Any]) -> None:
    """A body that limits a call of its own must not take its run, or the engine, with it."""

    @af.task(provides="first")
    async def at_once() -> str:
        try:
            async with asyncio.timeout(0.001):
                await asyncio.sleep(60)
        except TimeoutError:
            return "timed out"
        return "slept"

    @af.task(provides="second")
    async def later() -> str:
        await asyncio.sleep(0)
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.001)
        except TimeoutError:
            me = asyncio.current_task()
            assert me is not None and me.cancelling() == 0
            return "timed out"
        return "waited"

    async def main() -> None:
        assert await perform(at_once, later) == {"first": "timed out", "second": "timed out"}

    loop(main)


def test_task_groups_work_inside_a_body(loop: Callable[[Main], Any]) -> None:
    """The plain way to do several things at once, with its own cancelling of siblings."""

    async def times(number: int) -> int:
        await asyncio.sleep(0)
        return number * 10

    async def fails() -> None:
        raise ValueError("in the group")

    @af.task(provides="sum")
    async def several() -> int:
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(times(number)) for number in (1, 2, 3)]
        return sum(task.result() for task in made)

    @af.task(provides="caught")
    async def one_fails() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(60))
                group.create_task(fails())
        except* ValueError as error:
            text = str(error.exceptions[0])
        return text

    async def main() -> None:
        assert await perform(several, one_fails) == {"sum": 60, "caught": "in the group"}

    loop(main)


def test_anyio_scopes_and_task_groups_work_inside_a_body(loop: Callable[[Main], Any]) -> None:
    """Half of the ecosystem, HTTP clients among it, is built on them."""

    @af.task(provides="moved_on")
    async def moves_on() -> bool:
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep(60)
        return scope.cancelled_caught

    @af.task(provides="cancelled")
    async def cancels() -> list[str]:
        log: list[str] = []

        async def child(name: str) -> None:
            try:
                await anyio.sleep(60)
            except anyio.get_cancelled_exc_class():
                log.append(name)
                raise

        async with anyio.create_task_group() as group:
            group.start_soon(child, "a")
            group.start_soon(child, "b")
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        return sorted(log)

    @af.task(provides="thread")
    async def in_thread() -> str:
        return await anyio.to_thread.run_sync(lambda: af.current().path)

    @af.task(provides="shielded")
    async def shields() -> str:
        with anyio.CancelScope() as outer:
            outer.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                return "shielded"
        return "cut off"

    async def main() -> None:
        assert await perform(moves_on, cancels, in_thread, shields) == {
            "moved_on": True,
            "cancelled": ["a", "b"],
            "thread": "in_thread",
            "shielded": "shielded",
        }

    loop(main)


def test_a_cancel_of_the_run_reaches_through_scopes_and_groups_in_a_body(loop: Callable[[Main], Any]) -> None:
    """What a body has started must end with it: nobody else knows of it."""
    log: list[str] = []

    async def child(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            log.append(name)

    @af.task
    async def body(ready: asyncio.Event = af.resource()) -> None:  # noqa: B008
        async with asyncio.TaskGroup() as group, anyio.create_task_group() as other:
            group.create_task(child("asyncio"))
            other.start_soon(child, "anyio")
            with anyio.CancelScope():
                ready.set()
                await child("body")

    async def main() -> None:
        ready = asyncio.Event()
        async with af.Engine(resources={"ready": ready}) as engine:
            run = await engine.start(as_flow(body))
            await ready.wait()
            run.cancel()
            with pytest.raises(af.RunCancelled):
                await run
        assert sorted(log) == ["anyio", "asyncio", "body"]

    loop(main)


def test_a_body_may_take_a_cancel_back(loop: Callable[[Main], Any]) -> None:
    """``uncancel`` is how structured code says that a cancel was its own; the run must believe it."""

    @af.task
    async def body() -> str:
        me = asyncio.current_task()
        assert me is not None and me.cancelling() == 0
        me.cancel()
        assert me.cancelling() == 1
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            assert me.uncancel() == 0
        await asyncio.sleep(0)
        return "goes on"

    async def main() -> None:
        async with af.Engine() as engine:
            assert await engine.run(body) == "goes on"

    loop(main)


def test_a_body_that_never_waits_ends_before_its_run_has_been_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trivial body costs no trip through the loop."""
    # However slow the machine: a turn that takes long gives way to the loop.
    monkeypatch.setattr("asyncflow.runtime.supervisor.SECONDS_A_TURN", 3600.0)

    @af.task
    async def quick(x: int) -> int:
        return x + 1

    @af.flow
    def chain(x: int) -> int:
        for _ in range(20):
            x = quick(x)
        return x

    async def main() -> tuple[RunState, int]:
        async with af.Engine() as engine:
            run = await engine.start(chain, {"x": 0})
            state = run.state
            return state, await run

    state, value = asyncio.run(main())
    assert value == 20
    assert state is RunState.SUCCEEDED


@pytest.mark.parametrize("shape", ["chain", "fan"])
def test_a_flow_of_quick_bodies_lets_others_have_their_turn(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An application must answer its requests while a flow of tiny tasks is being run."""
    # Any turn is too long now, so that what is counted does not depend on how fast the machine is.
    monkeypatch.setattr("asyncflow.runtime.supervisor.SECONDS_A_TURN", -1.0)

    @af.task
    async def quick(x: int) -> int:
        return x + 1

    @af.flow
    def chain(x: int) -> int:
        for _ in range(320):
            x = quick(x)
        return x

    @af.flow
    def fan(x: int) -> list[int]:
        return [quick(x) for _ in range(320)]

    async def main() -> int:
        others_turns = 0

        async def other() -> None:
            nonlocal others_turns
            while True:
                await asyncio.sleep(0)
                others_turns += 1

        beside = asyncio.ensure_future(other())
        await asyncio.sleep(0)
        async with af.Engine() as engine:
            began = others_turns
            assert await engine.run(chain if shape == "chain" else fan, {"x": 0}) in (320, [1] * 320)
            ended = others_turns
        beside.cancel()
        return ended - began

    # The clock is looked at after every 8 starts.
    assert asyncio.run(main()) >= 320 / 8


def test_sleep_zero_lets_siblings_take_turns() -> None:
    """Bodies that yield must interleave, whatever started them eagerly."""
    order: list[str] = []

    async def body(ctx: af.Context) -> None:
        for _ in range(20):
            order.append(ctx.path)
            await asyncio.sleep(0)

    async def main() -> None:
        async with af.Engine() as engine:
            await engine.run(af.unordered("pair", af.task(name="a")(body), af.task(name="b")(body)))

    asyncio.run(main())
    # On a busy machine the loop may have had a turn between the two starts.
    assert sorted(order) == ["a"] * 20 + ["b"] * 20 and "".join(order).count("ab") > 15, order


# --- Threads ----------------------------------------------------------------------------------------------------------


def test_a_plain_function_runs_in_a_thread_of_the_engine(loop: Callable[[Main], Any]) -> None:
    """Blocking code must hold up neither the loop nor the loop's own pool, and must know its task all the same."""

    @af.task(provides="first")
    def blocking(ctx: af.Context) -> tuple[str, str, bool]:
        thread = threading.current_thread()
        assert af.current().idempotency_key == ctx.idempotency_key
        return af.current().path, thread.name.partition("-")[0], thread.daemon

    @af.task(provides="second", executor="inline")
    def quick() -> bool:
        return threading.current_thread() is threading.main_thread() and af.current().path == "quick"

    async def main() -> None:
        assert await perform(blocking, quick) == {"first": ("blocking", "asyncflow", True), "second": True}

    loop(main)


def test_there_is_no_current_task_outside_of_one() -> None:
    """Asking in the wrong place is a mistake that should say so, also right after a run in the same context."""

    @af.task
    async def inside() -> str:
        return af.current().path

    async def main() -> None:
        async with af.Engine() as engine:
            assert await engine.run(inside) == "inside"
            with pytest.raises(af.AsyncflowError, match=r"no task is running here; call af\.current\(\) from the body"):
                af.current()

    asyncio.run(main())


# --- Endings that are not plain exceptions ----------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_body_that_cancels_itself_has_failed(when: str, loop: Callable[[Main], Any]) -> None:
    """A stray CancelledError, often from a library, would otherwise look like somebody's wish, and end in silence."""

    @af.task
    async def stray() -> None:
        if when == "after":
            await asyncio.sleep(0)
        raise asyncio.CancelledError("from somewhere")

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed) as failure:
                await engine.run(stray)
            [error] = failure.value.exceptions
            assert isinstance(error, af.StrayCancellation)
            assert str(error) == "the body of task 'stray' was cancelled, but not by its run"
            assert isinstance(error.__cause__, asyncio.CancelledError) and error.__cause__.args == ("from somewhere",)

    loop(main)


def test_a_stray_cancel_can_be_retried() -> None:
    """It is a failure like any other, so a policy may name it."""

    @af.task(retry=af.Retry(2, af.Fixed(0.0), on=(af.StrayCancellation,)))
    async def stray(ctx: af.Context) -> int:
        if ctx.attempt == 1:
            raise asyncio.CancelledError
        return ctx.attempt

    async def main() -> None:
        async with af.Engine() as engine:
            assert await engine.run(stray) == 2

    asyncio.run(main())


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("kind", ["eager", "suspended", "thread", "inline", "revert"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_body_suspends_the_run_and_goes_on(
    error: type[BaseException], kind: str, where: str, tmp_path: Path
) -> None:
    """Ctrl-C may hit while any body runs; it must end the program, and lose nothing of the run."""
    runs: list[af.Run[Any]] = []
    undone: list[str] = []
    interrupts = [error]

    def interrupt() -> str:
        if interrupts:
            raise interrupts.pop()
        return "done"

    @af.task
    async def first() -> str:
        return "first"

    @first.revert
    async def undo_first() -> None:
        if kind == "revert":
            interrupt()
        undone.append("first")

    async def eager(x: str) -> str:
        return interrupt()

    async def suspended(x: str) -> str:
        await asyncio.sleep(0)
        return interrupt()

    async def failing(x: str) -> str:
        raise ValueError("so that it is undone")

    def plain(x: str) -> str:
        return interrupt()

    made: dict[str, Any] = {
        "eager": af.task(eager),
        "suspended": af.task(suspended),
        "thread": af.task(plain),
        "inline": af.task(executor="inline")(plain),
        "revert": af.task(failing),
    }
    body = made[kind]
    flow = af.flow(name="flow")(lambda: body(first()))
    path = tmp_path / "runs.db" if where == "file" else None
    engine = af.Engine(path)

    async def main() -> None:
        await engine.open()
        runs.append(await engine.start(flow, run_id="r"))
        await runs[0]

    with pytest.raises(error):
        asyncio.run(main())
    assert runs[0].state is RunState.SUSPENDED
    lost = runs[0].task("first" if kind == "revert" else "plain" if kind in ("thread", "inline") else kind)
    assert lost.state is (TaskState.REVERTING if kind == "revert" else TaskState.PENDING)
    assert not undone
    if path is None:
        return

    async def again() -> None:
        async with af.Engine(path) as engine:
            if kind == "revert":
                with pytest.raises(af.RunFailed, match="failed in 'failing'; everything it had done is undone"):
                    await engine.resume("r", flow)
                assert undone == ["first"]
            else:
                assert await engine.resume("r", flow) == "done"

    asyncio.run(again())


@pytest.mark.parametrize("durability", [None, "lazy", "process", "full"])
def test_a_body_that_cancels_itself_and_returns_all_the_same_has_succeeded(
    durability: str | None, tmp_path: Path
) -> None:
    """Its asyncio task is cancelled then, and nobody may take that for the loop going down."""

    @af.task
    async def stops_itself() -> int:
        task = asyncio.current_task()
        assert task is not None and task.get_name() == "stops_itself"
        task.cancel()
        return 1

    @af.task
    async def more(x: int) -> int:
        return x + 1

    async def main() -> int:
        path = None if durability is None else tmp_path / "runs.db"
        async with af.Engine(path) as engine:
            return await engine.run(af.flow(lambda: more(stops_itself()), name="f"), durability=durability)

    assert asyncio.run(main()) == 2


@pytest.mark.parametrize("durability", [None, "lazy", "process", "full"])
def test_an_input_that_cannot_be_read_fails_its_task_and_not_those_beside_it(
    durability: str | None, tmp_path: Path
) -> None:
    """What is ready at the same moment finds a run that is being undone."""
    began: list[str] = []

    @af.task
    async def gives() -> dict[str, int]:
        return {}

    @af.task
    async def takes(x: Any) -> Any:
        began.append("takes")
        return x

    @af.flow
    def f() -> Any:
        given = gives()
        takes(given["missing"])  # type: ignore[index]
        return takes(given)

    async def main() -> None:
        path = None if durability is None else tmp_path / "runs.db"
        async with af.Engine(path) as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(f, durability=durability)
            assert isinstance(failed.value.exceptions[0], KeyError)

    asyncio.run(main())
    assert not began
