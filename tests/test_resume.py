"""
Crashes seen from inside: a body takes an image of the journal as a dead process would leave it, and another goes on.
"""

from __future__ import annotations

import asyncio
import enum
import re
import sqlite3
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from tests.stepping import up_to

calls: list[str] = []
"""The bodies that were called, in order."""


@pytest.fixture(autouse=True)
def _forget() -> None:
    calls.clear()


class Crash:
    """A journal at *path*; ``take`` leaves an image of it as a crash at that moment would."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = tmp_path / "runs.db"
        self.images: list[Path] = []

    def take(self) -> None:
        image = self.path.with_name(f"image-{len(self.images)}.db")
        source, target = sqlite3.connect(self.path), sqlite3.connect(image)
        source.backup(target)
        source.close()
        target.close()
        self.images.append(image)

    def crash_again(self) -> Crash:
        """Go on from the newest image."""
        later = Crash(self.path.parent)
        later.path, later.images = self.images[-1], list(self.images)
        return later

    def run(self, flow: af.Flow[..., Any], inputs: dict[str, Any] | None = None) -> Any:
        return self._with_engine(lambda engine: engine.run(flow, inputs, run_id="r"))

    def resume(self, flow: af.Flow[..., Any], **options: Any) -> Any:
        """Resume in the newest image."""
        return self.crash_again()._with_engine(lambda engine: engine.resume("r", flow, **options))

    def _with_engine(self, work: Callable[[af.Engine], Coroutine[Any, Any, Any]]) -> Any:
        async def main() -> Any:
            async with af.Engine(self.path, grace=0.0) as engine:
                return await work(engine)

        return asyncio.run(main())


def test_a_completed_task_is_not_run_again(tmp_path: Path) -> None:
    """The first promise."""
    crash = Crash(tmp_path)

    @af.task
    async def first(x: int) -> int:
        calls.append("first")
        return x + 1

    @af.task
    async def second(ctx: af.Context, x: int) -> str:
        calls.append(f"second {ctx.attempt} {ctx.recovered} {ctx.idempotency_key}")
        crash.take()
        return f"got {x}"

    @af.flow
    def flow(x: int) -> str:
        return second(first(x))

    assert crash.run(flow, {"x": 1}) == "got 2"
    assert crash.resume(flow) == "got 2"
    assert calls == ["first", "second 1 False r/second#1", "second 2 True r/second#1"]


def test_a_value_that_is_not_kept_is_made_again(tmp_path: Path) -> None:
    """``checkpoint=False`` is the way out for what no journal can keep; only what is still needed is made again."""
    crash = Crash(tmp_path)

    @af.task(checkpoint=False)
    async def connect() -> Callable[[], int]:
        calls.append("connect")
        return lambda: 42

    @af.task(checkpoint=False)
    async def unneeded(connection: Any) -> Any:
        calls.append("unneeded")
        return object()

    @af.task
    async def done(thing: Any) -> None:
        calls.append("done")

    @af.task
    async def use(connection: Callable[[], int], after: None) -> int:
        calls.append("use")
        crash.take()
        return connection()

    @af.flow
    def flow() -> int:
        connection = connect()
        return use(connection, done(unneeded(connection)))

    assert crash.run(flow) == 42
    assert crash.resume(flow) == 42
    assert calls == ["connect", "unneeded", "done", "use", "connect", "use"]


def test_an_ended_run_says_which_value_it_has_not_kept(tmp_path: Path) -> None:
    """Nobody runs a task of an ended run again for what it gave."""

    @af.task(checkpoint=False)
    async def connect() -> Any:
        return object()

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            await engine.run(connect, run_id="r")
        async with af.Engine(tmp_path / "runs.db") as engine:
            for _ in range(2):
                with pytest.raises(af.ValueNotAtHand, match=r"'connect' was not kept .* start a new run, or keep"):
                    await engine.resume("r", connect)

    asyncio.run(main())


def test_a_revert_needs_only_what_it_takes(tmp_path: Path) -> None:
    """Whatever else the task has read may be gone: it is not kept, or its bytes are lost."""

    @af.task(checkpoint=False)
    async def connect() -> Any:
        return object()

    @af.task
    async def use(connection: Any, n: int) -> None: ...

    @use.revert
    async def undo(n: int) -> None:
        calls.append(f"undo {n}")

    @af.task
    async def bad() -> None:
        raise ValueError

    @af.flow
    def flow(n: int) -> None:
        bad.after(use(connect(), n))()

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            await up_to(engine, flow, "-bad", "-use", inputs={"n": 7})
        async with af.Engine(tmp_path / "runs.db") as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.resume("r", flow)
            assert failed.value.reverted

    asyncio.run(main())
    assert calls == ["undo 7"]


def test_a_revert_that_reads_what_was_not_kept_is_refused(tmp_path: Path) -> None:
    """
    After a crash it would fail, and what its task did would stay. Where the flow has changed since, it fails by name.
    """

    @af.task(checkpoint=False)
    async def connect() -> Any:
        return object()

    @af.task
    async def use(connection: Any) -> None: ...

    def undo(connection: Any) -> None: ...

    @af.task
    async def bad() -> None:
        raise ValueError

    def flow_with(connect: af.Task, use: af.Task) -> af.Flow:
        @af.flow(name="f")
        def flow() -> None:
            bad.after(use(connect()))()

        return flow

    undone = use.with_options()
    undone.revert(undo)
    with pytest.raises(af.FlowError, match=r"revert of task 'use' takes the value of 'connect', .* gone") as refused:
        flow_with(connect, undone).compile()
    assert refused.value.task == "use"

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            await up_to(engine, flow_with(connect, use), "-bad", "-use")
        async with af.Engine(tmp_path / "runs.db") as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.resume("r", flow_with(connect.with_options(checkpoint=True), undone))
            assert not failed.value.reverted and failed.group_contains(
                af.ValueNotAtHand, match="'connect' was not kept"
            )

    asyncio.run(main())


def test_a_task_that_is_back_does_not_run_again_unasked(tmp_path: Path) -> None:
    """A deploy that is rolled back must not charge anybody twice."""

    @af.task
    async def charge() -> None:
        calls.append("charge")

    @af.task
    async def rest() -> None: ...

    async def main() -> None:
        both, one = af.linear("f", charge, rest), af.linear("f", rest)
        async with af.Engine(tmp_path / "runs.db") as engine:
            for flow in (both, one):
                await up_to(engine, flow, "rest", resume=flow is one)
            with pytest.raises(af.PlanChanged, match="charge: is back, and ran before it was taken out"):
                await engine.resume("r", both)
            assert calls == ["charge"]
            await engine.resume("r", both, accept_changes=True)
            assert calls == ["charge", "charge"]

    asyncio.run(main())


def test_at_most_once_fails_instead_of_running_again(tmp_path: Path) -> None:
    """Some effects are better not done than done twice."""
    crash = Crash(tmp_path)

    @af.task(on_crash="fail")
    async def pay() -> str:
        calls.append("pay")
        crash.take()
        return "paid"

    @pay.revert
    async def look_after(outcome: af.Outcome[str]) -> None:
        calls.append(f"look after {type(outcome).__name__}")

    @af.flow
    def flow() -> str:
        return pay()

    assert crash.run(flow) == "paid"
    with pytest.raises(af.RunFailed, match="failed in 'pay'") as failed:
        crash.resume(flow)
    assert isinstance(failed.value.exceptions[0], af.AttemptInDoubt)
    assert calls == ["pay", "look after Failure"]


@pytest.mark.parametrize(
    ("answer", "value", "expected"),
    [
        (af.Success("paid already"), "paid already", ["pay", "ask"]),
        (None, "paid", ["pay", "ask", "pay"]),
    ],
)
def test_a_reconcile_hook_tells_how_a_lost_attempt_ended(
    tmp_path: Path, answer: Any, value: str, expected: list[str]
) -> None:
    """The outside world knows what the journal cannot."""
    crash = Crash(tmp_path)

    @af.task
    async def pay(amount: int) -> str:
        calls.append("pay")
        crash.take()
        return "paid"

    @pay.reconcile
    async def ask(ctx: af.Context, amount: int) -> Any:
        calls.append("ask")
        assert amount == 7
        assert ctx.idempotency_key == "r/pay#1"
        return answer

    @af.flow
    def flow(amount: int) -> str:
        return pay(amount)

    assert crash.run(flow, {"amount": 7}) == "paid"
    assert crash.resume(flow) == value
    assert calls == expected


class _Colour(enum.Enum):
    RED = "red"


@pytest.mark.parametrize("answer", ["paid already", _Colour.RED])
def test_a_reconcile_hook_that_returns_no_outcome_is_told_what_to_return(tmp_path: Path, answer: Any) -> None:
    """A value by itself may be meant as either: that the attempt succeeded, or what the outside world says of it."""
    crash = Crash(tmp_path)

    @af.task(retry=af.Retry(3, af.Fixed(0.0), on=(Exception,)))
    async def pay() -> str:
        calls.append("pay")
        crash.take()
        return "paid"

    @pay.reconcile
    async def ask() -> Any:
        return answer

    @af.flow
    def flow() -> str:
        return pay()

    assert crash.run(flow) == "paid"
    with pytest.raises(af.RunFailed) as failed:
        crash.resume(flow)
    [error] = failed.value.exceptions
    found = r"the reconcile hook of task 'pay' returned a \w+, which is no outcome; return Success\(value\) or"
    assert isinstance(error, TypeError) and re.match(found, str(error))
    assert calls == ["pay"], "whether it was paid is not known, so it is not paid again"


def test_a_task_that_kills_its_process_is_given_up(tmp_path: Path) -> None:
    """Otherwise a run that crashes its process would crash each process that recovers it, for ever."""
    crash = Crash(tmp_path)

    @af.task(max_crashes=3)
    async def deadly() -> None:
        calls.append("deadly")
        crash.take()

    @af.flow
    def flow() -> None:
        deadly()

    crash.run(flow)
    for _ in range(2):
        crash = crash.crash_again()
        crash._with_engine(lambda engine: engine.resume("r", flow))
    with pytest.raises(af.RunFailed) as failed:
        crash.resume(flow)
    assert isinstance(failed.value.exceptions[0], af.LostTooOften)
    assert calls == ["deadly"] * 3


def test_a_crash_while_undoing_goes_on_undoing(tmp_path: Path) -> None:
    """Half undone is the worst state of all."""
    crash = Crash(tmp_path)

    @af.task
    async def first() -> int:
        return 1

    @first.revert
    async def undo_first() -> None:
        calls.append("undo first")

    @af.task
    async def second(x: int) -> int:
        return 2

    @second.revert
    async def undo_second(ctx: af.Context) -> None:
        calls.append(f"undo second {ctx.attempt}")
        crash.take()

    @af.task
    async def third(x: int) -> int:
        raise ValueError("no")

    @af.flow
    def flow() -> int:
        return third(second(first()))

    for go in (crash.run, crash.resume):
        with pytest.raises(af.RunFailed) as failed:
            go(flow)
        assert failed.value.reverted
        assert [type(error) for error in failed.value.exceptions] == [ValueError]
    assert calls == ["undo second 1", "undo first", "undo second 2", "undo first"]


def test_a_large_value_leaves_memory_and_is_read_back(tmp_path: Path) -> None:
    """
    Values over 64 KiB are kept apart and loaded only when somebody reads them, also after a crash and for a revert.
    """
    crash = Crash(tmp_path)

    @af.task
    async def make() -> bytes:
        return b"x" * 300_000

    @make.revert
    async def unmake(outcome: af.Outcome[bytes]) -> None:
        assert isinstance(outcome, af.Success)
        calls.append(f"unmake {len(outcome.value)}")

    @af.task
    async def size(data: bytes) -> int:
        crash.take()
        return len(data)

    @af.task
    async def check(size: int, data: bytes) -> str:
        raise ValueError(f"{size} {len(data)}")

    @check.revert
    async def uncheck(data: bytes) -> None:
        calls.append(f"uncheck {len(data)}")

    @af.flow
    def flow() -> str:
        data = make()
        return check(size(data), data)

    for go in (crash.run, crash.resume):
        with pytest.raises(af.RunFailed) as failed:
            go(flow)
        assert str(failed.value.exceptions[0]) == "300000 300000"
    assert calls == ["uncheck 300000", "unmake 300000"] * 2


def test_a_changed_flow_is_refused_where_it_meets_what_was_done(tmp_path: Path) -> None:
    """Going on with other code than that which made the values would mix two histories."""
    crash = Crash(tmp_path)

    @af.task
    async def load(path: str) -> str:
        return path

    @af.task
    async def parse(text: str) -> str:
        calls.append("parse")
        crash.take()
        return text

    def flow_of(path: str) -> af.Flow[[], str]:
        @af.flow(name="ingest")
        def ingest() -> str:
            return parse(load(path))

        return ingest

    assert crash.run(flow_of("a")) == "a"
    with pytest.raises(af.PlanChanged, match=r"load: .*constant") as refused:
        crash.resume(flow_of("b"))
    assert len(refused.value.diff) == 1
    assert crash.resume(flow_of("a")) == "a"
    assert crash.resume(flow_of("b"), accept_changes=True) == "a"


@pytest.mark.parametrize("durability", ["full", "process", "lazy"])
def test_every_level_resumes(tmp_path: Path, durability: str) -> None:
    """The levels differ in when a record is durable, never in what is true once it is."""

    @af.task
    async def work(x: int) -> int:
        calls.append("work")
        return x * 2

    @af.flow
    def flow(x: int) -> int:
        return work(work(x))

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", durability=durability) as engine:
            assert await engine.run(flow, {"x": 3}, run_id="r") == 12
        async with af.Engine(tmp_path / "runs.db") as engine:
            assert await engine.resume("r", flow) == 12

    asyncio.run(main())
    assert calls == ["work", "work"]
