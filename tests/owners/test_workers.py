"""Engines in processes of their own, on one file: stopped, blocked, killed, and many at once."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import pytest

import asyncflow as af
from tests.owners.arena import children
from tests.owners.worker import waiting

WORKER = ["-m", "tests.owners.worker"]


def worker(path: Path, lease: float, what: str) -> list[object]:
    return [*WORKER, path, lease, what]


def test_a_process_that_was_stopped_finds_itself_overtaken(tmp_path: Path) -> None:
    """It has nothing to write, so only a look tells it: its body stops, and who waits for the run hears why."""
    path = tmp_path / "runs.db"
    with children(worker(path, 0.3, "start_waiting")) as [first]:
        first.hears("begun 1")
        first.stop()
        with children(worker(path, 0.3, "resume")) as [second]:
            second.hears("waiting")
            assert second.hears("begun") in ("1", "2")
            assert second.hears("value") == "done"
        first.go_on()
        assert [first.hears(), first.hears()] == ["stopped", "overtaken r"]
        assert first.process.wait() == 0


def test_a_dead_owner_is_noticed_while_waiting(tmp_path: Path) -> None:
    """With a lease of an hour: it is not needed, for the lock is free."""
    path = tmp_path / "runs.db"
    with children(worker(path, 3600.0, "start_waiting")) as [first]:
        first.hears("begun 1")
        with children(worker(path, 3600.0, "resume")) as [second]:
            second.hears("waiting")
            first.kill()
            second.hears("begun")
            assert second.hears("value") == "done"


def test_a_blocked_loop_loses_no_run(tmp_path: Path) -> None:
    """A body that sleeps through two leases and a half; the thread that shows life is another."""
    path = tmp_path / "runs.db"

    async def covet() -> None:
        async with af.Engine(path, lease=1.0) as engine:
            resuming = asyncio.create_task(engine.resume("r", wait=math.inf))
            assert await asyncio.to_thread(child.hears) == "awake"
            assert await asyncio.to_thread(child.hears) == "value done", "nobody has taken the run from it"
            child.process.wait()
            assert await resuming == "done", "and then it has ended"

    with children(worker(path, 1.0, "start_blocking")) as [child]:
        child.hears("begun")
        asyncio.run(covet())


def test_who_asks_once_is_told_who_has_the_run(tmp_path: Path) -> None:
    """And, once that has been seen, that it stands still, and what to do then."""
    path = tmp_path / "runs.db"

    async def ask() -> None:
        async with af.Engine(path) as engine:
            with pytest.raises(af.RunBusy, match=rf"belongs to process {child.process.pid} on .*, which is alive"):
                await engine.resume("r", waiting)
            child.stop()
            # Short of its lease.
            with pytest.raises(af.RunBusy, match=r"has shown no life for [\d.]+ s; resume with wait= to take over"):
                await engine.resume("r", waiting, wait=1.5)

    with children(worker(path, 2.5, "start_waiting")) as [child]:
        child.hears("begun 1")
        asyncio.run(ask())


def test_a_pool_takes_over_from_members_that_die_or_stand_still(tmp_path: Path) -> None:
    """Whoever is left has the run in the end, and nobody had to ask for it by name."""
    path = tmp_path / "runs.db"
    with children(worker(path, 0.3, "start_waiting"), worker(path, 0.3, "pool")) as [first, second]:
        first.hears("begun 1")
        second.hears("ready")
        first.stop()
        second.hears("begun")
        second.tell("go")
        assert second.process.wait() == 0


def test_eight_processes_share_what_one_has_left(tmp_path: Path) -> None:
    """Each run is done exactly once, whoever gets it."""
    path = tmp_path / "runs.db"
    with children(worker(path, 10.0, "start_jobs")) as [first]:
        first.hears("started")
        first.kill()
    (tmp_path / "open").touch()
    with children(*[worker(path, 10.0, "recover")] * 8) as workers:
        for each in workers:
            each.hears("ready")
        for each in workers:
            each.tell("go")
        # A run may be met twice, the second time when it has ended; that does nothing.
        assert sum(int(each.hears("did")) for each in workers) >= 200
    deeds = (tmp_path / "deeds").read_text().split()
    assert sorted(map(int, deeds)) == list(range(200))

    async def ended() -> list[af.RunInfo]:
        async with af.Engine(path) as engine:
            return await engine.runs(state=af.RunState.SUCCEEDED)

    assert len(asyncio.run(ended())) == 200
