"""Engines that wait for what others leave go on doing so, whatever happens to the file meanwhile."""

from __future__ import annotations

import asyncio
import logging
import math
from pathlib import Path

import pytest

import asyncflow as af
from asyncflow.interfaces import Journal


@af.task
async def one() -> int:
    return 1


@af.task
async def wait_for_ever() -> None:
    await asyncio.Event().wait()


@af.flow
def shop() -> int:
    return one.after(wait_for_ever())()


async def leave(path: Path, *run_ids: str) -> None:
    """Leave runs behind as an engine does that closes."""
    async with af.Engine(path, grace=0.0) as engine:
        for run_id in run_ids:
            await engine.start(shop, run_id=run_id)


def test_a_run_at_which_the_disk_failed_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing changes a run that nobody has, so who waits for that waits for ever."""
    path = tmp_path / "runs.db"
    failures = [af.StoreError("the disk is full"), af.StoreError("and still is")]

    async def main() -> None:
        await leave(path, "a", "b")
        async with af.Engine(path, lease=0.01, grace=0.0) as engine:
            claim = engine._store.claim
            claimed = {"a": asyncio.Event(), "b": asyncio.Event()}

            async def failing(run_id: str) -> Journal:
                if run_id == "a" and failures:
                    raise failures.pop(0)
                journal = await claim(run_id)
                claimed[run_id].set()
                return journal

            engine._store.claim = failing  # type: ignore[method-assign]
            recovering = asyncio.create_task(engine.recover(wait=math.inf))
            async with asyncio.timeout(60):
                await claimed["b"].wait()
                await claimed["a"].wait()
            recovering.cancel()

    with caplog.at_level(logging.WARNING, "asyncflow"):
        asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == [
        "run 'a' is not recovered: the disk is full",
        "run 'a' is not recovered: and still is",
    ]


def test_a_run_that_cannot_be_taken_up_is_tried_seldomer_each_time(tmp_path: Path) -> None:
    """Each try is a write, and a pool looks ten times a lease."""
    path = tmp_path / "runs.db"
    looks = [0]
    tries: list[int] = []

    async def main() -> None:
        await leave(path, "a")
        async with af.Engine(path, lease=0.01, grace=0.0) as engine:
            runs = engine._store.runs
            enough = asyncio.Event()

            async def counting(*, state: af.RunState | None = None, limit: int | None = None) -> list[af.RunInfo]:
                looks[0] += state is af.RunState.SUSPENDED
                return await runs(state=state, limit=limit)

            async def failing(run_id: str) -> Journal:
                tries.append(looks[0])
                if len(tries) == 5:
                    enough.set()
                raise af.StoreError("a blob is damaged")

            engine._store.runs = counting  # type: ignore[method-assign]
            engine._store.claim = failing  # type: ignore[method-assign]
            recovering = asyncio.create_task(engine.recover(wait=math.inf))
            async with asyncio.timeout(60):
                await enough.wait()
            recovering.cancel()

    asyncio.run(main())
    assert tries == [1, 3, 7, 15, 31]
