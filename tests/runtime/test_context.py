"""What a body may know and say: its context, and the resources of its engine."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.observers import Capture
from tests.runtime.loops import LoopClock, run

# --- Context ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["loop", "thread", "inline"])
def test_a_context_says_where_a_body_is(kind: str) -> None:
    """Keys for other systems, log lines and file names are made of it."""
    seen: list[tuple[Any, ...]] = []

    def look(ctx: af.Context) -> None:
        same = af.current()
        assert (same.run_id, same.path, same.attempt) == (ctx.run_id, ctx.path, ctx.attempt)
        seen.append((ctx.run_id, ctx.path, ctx.attempt, ctx.recovered, ctx.deadline, ctx.is_cancelling, repr(ctx)))

    async def look_async(ctx: af.Context) -> None:
        look(ctx)

    body = {"loop": af.task(look_async), "thread": af.task(look), "inline": af.task(executor="inline")(look)}[kind]

    async def main() -> None:
        async with af.Engine() as engine:
            await engine.run(af.linear("flow", af.linear("inner", body.named("look"))), run_id="r")

    asyncio.run(main())
    assert seen == [("r", "inner/look", 1, False, None, False, "<Context 'inner/look' of run 'r', attempt 1>")]


def test_a_key_is_the_same_for_all_attempts_and_another_for_the_revert() -> None:
    """A payment service asked twice under one key charges once."""

    async def main() -> None:
        keys: list[str] = []

        @af.task(retry=af.Retry(3, af.Fixed(0.0)))
        async def charge(ctx: af.Context) -> None:
            keys.append(ctx.idempotency_key)
            raise ConnectionError

        @charge.revert
        async def refund(ctx: af.Context) -> None:
            keys.append(ctx.idempotency_key)

        async with af.Engine() as engine:
            for run_id in ("r", "s"):
                with pytest.raises(af.RunFailed):
                    await engine.run(charge, run_id=run_id)
        assert keys[0] == keys[1] == keys[2] != keys[3]
        assert len(set(keys)) == 4, "another run has others"

    run(main)


def test_a_logger_carries_run_and_path(caplog: pytest.LogCaptureFixture) -> None:
    """Structured logs are searched by these fields."""

    @af.task
    async def work(ctx: af.Context) -> None:
        ctx.log.warning("half way through %s", "it")

    async def main() -> None:
        async with af.Engine() as engine:
            await engine.run(af.linear("flow", work), run_id="r")

    asyncio.run(main())
    [line] = [record for record in caplog.records if record.name == "asyncflow.task"]
    assert (line.getMessage(), line.run, line.path) == ("half way through it", "r", "work")  # type: ignore[attr-defined]


def test_progress_is_told_at_most_once_a_second() -> None:
    """A loop may report each item; those who watch need not see each."""

    async def main() -> None:
        capture = Capture()

        @af.task
        async def work(ctx: af.Context) -> None:
            for item in range(100):
                ctx.progress(item / 100, f"item {item}")
                await asyncio.sleep(0.1)
            ctx.progress(1.0, "done")

        async with af.Engine(observers=[capture], clock=LoopClock()) as engine:
            await engine.run(af.unordered("flow", work.named("a"), work.named("b")))
        for path in "ab":
            told = [
                happening.event.fraction
                for happening in capture.happenings
                if isinstance(happening.event, m.Progressed) and happening.path == path
            ]
            # Once a second, give or take the rounding of a tenth, and the end in any case.
            assert 9 <= len(told) <= 12 and told == sorted(told) and told[-1] == 1.0

    run(main)


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_progress_out_of_range_is_refused(fraction: float) -> None:
    """A bar at 4200 % is a percentage where a fraction was asked for."""

    @af.task
    async def work(ctx: af.Context) -> None:
        ctx.progress(fraction)

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed) as failure:
                await engine.run(work)
            assert failure.group_contains(ValueError, match="progress of task 'work' must be from 0.0 to 1.0, not ")

    asyncio.run(main())


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize("kind", ["loop", "thread"])
def test_what_a_body_tells_is_journaled_with_the_next_record(kind: str, where: str, tmp_path: Path) -> None:
    """It costs no commit of its own, and is there for who looks later."""

    def tell(ctx: af.Context) -> None:
        ctx.progress(0.5, "half")
        ctx.emit("found", count=3, names=["a"])

    async def tell_async(ctx: af.Context) -> None:
        tell(ctx)
        await asyncio.sleep(0)

    body = af.task(name="work")(tell if kind == "thread" else tell_async)

    async def main() -> None:
        capture = Capture()
        path = tmp_path / "runs.db" if where == "file" else None
        async with af.Engine(path, observers=[capture]) as engine:
            await engine.run(af.linear("flow", body), run_id="r")
            records = await engine._store.read("r")
            events = [event for record in records for event in record.events]
            [progressed] = [event for event in events if isinstance(event, m.Progressed)]
            [emitted] = [event for event in events if isinstance(event, m.Emitted)]
            assert (progressed.fraction, progressed.message, emitted.name) == (0.5, "half", "found")
            data = engine._codec.open(emitted.data) if path else emitted.data
            assert data == {"count": 3, "names": ["a"]}
            assert len(records) <= 4, "started, attempt, ending, end"
        assert capture.of("work")[:4] == ["AttemptStarted", "Progressed", "Progressed", "Emitted"]

    asyncio.run(main())


def test_a_body_that_was_left_behind_tells_nobody_anything() -> None:
    """Quiet after the end: a run that is over must not go on in the eyes of those who watch."""

    async def main() -> None:
        capture = Capture()
        let_go = asyncio.Event()

        @af.task(revert_timeout=1.0)
        async def deaf(ctx: af.Context) -> None:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue
            ctx.progress(1.0)
            ctx.emit("late")

        async with af.Engine(observers=[capture], clock=LoopClock(), cancel_grace=1.0) as engine:
            one = await engine.start(af.linear("flow", deaf))
            await asyncio.sleep(1.0)
            one.cancel()
            with pytest.raises(af.RunFailed):
                await one
            let_go.set()
            await asyncio.sleep(1.0)
        assert capture.kinds()[-1] == "RunEnded"

    run(main)


# --- Resources --------------------------------------------------------------------------------------------------------


class Pool:
    """Something that an engine lends to its bodies."""


def test_a_resource_is_found_by_name_then_by_type() -> None:
    """Most engines have one of a kind, and then its name is of no interest."""

    async def main() -> None:
        db, cache = Pool(), threading.Lock()

        @af.task
        async def work(db: Any = af.resource(), other: Any = af.resource("db"), pool: Pool = af.resource()) -> bool:  # noqa: B008
            return db is other is pool

        class Named(af.Task):
            """Takes it as an input by name."""

            provides = "named"

            async def execute(self, db: Any) -> bool:
                return isinstance(db, Pool)

        async with af.Engine(resources={"db": db, "cache": cache}) as engine:
            assert await engine.run(work) is True
            assert await engine.run(af.linear("flow", Named())) == {"named": True}

    run(main)


def test_a_revert_may_have_resources_too() -> None:
    """What was written through a connection is taken back through one."""

    async def main() -> None:
        used: list[Any] = []

        @af.task
        async def work(db: Pool = af.resource()) -> None:  # noqa: B008
            raise ValueError

        @work.revert
        async def undo(db: Pool = af.resource()) -> None:  # noqa: B008
            used.append(db)

        db = Pool()
        async with af.Engine(resources={"db": db}) as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(work)
        assert used == [db]

    run(main)


def test_a_resource_that_is_missing_or_not_the_only_one_is_named() -> None:
    """The way out stands in the message."""

    async def main() -> None:
        @af.task
        async def work(pool: Pool = af.resource()) -> None: ...  # noqa: B008

        for resources, have in (({}, "none"), ({"one": Pool(), "two": Pool()}, "one, two"), ({"x": 1}, "x")):
            async with af.Engine(resources=resources) as engine:
                with pytest.raises(af.RunFailed) as failure:
                    await engine.run(work)
                [error] = failure.value.exceptions
                assert isinstance(error, af.ResourceMissing)
                assert str(error) == (
                    f"the engine has no resource 'pool' (it has: {have}); pass it as Engine(resources={{'pool': ...}})"
                )
                assert "while the inputs of task 'work' were put together" in error.__notes__

    run(main)


def test_logging_of_the_runtime_is_quiet_when_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    """A library that chats in its user's logs is switched off there, and then its warnings are lost too."""

    @af.task
    async def work() -> None: ...

    async def main() -> None:
        async with af.Engine() as engine:
            await engine.run(work)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert not [record for record in caplog.records if record.name.startswith("asyncflow")]
