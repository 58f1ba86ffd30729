"""What other processes ask of an engine's runs, and what they leave to it: requests, takeovers, orphans, old plans."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import attrs
import pytest

import asyncflow as af
from asyncflow import RunState, heart
from asyncflow.errors import RunBusy
from asyncflow.interfaces import RunInfo
from asyncflow.patience import Gleaner
from tests.stores.journals import create, opened


@attrs.frozen
class Room:
    """Where bodies wait until somebody opens."""

    entered: asyncio.Event = attrs.field(factory=asyncio.Event)
    opened: asyncio.Event = attrs.field(factory=asyncio.Event)


@af.task
async def waits(room: Room = af.resource()) -> str:  # noqa: B008
    room.entered.set()
    await room.opened.wait()
    return "done"


waiting = af.flow(name="waiting")(lambda: waits())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heart, "HEARTBEAT", 0.01)


def engine(path: Path, room: Room | None = None) -> af.Engine:
    return af.Engine(path, grace=0.0, resources={"room": room or Room()})


def test_an_owner_does_what_others_ask_of_its_runs(tmp_path: Path) -> None:
    """Whoever is at the terminal need not know which process has the run."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with engine(path) as ours, engine(path) as theirs:
            to_cancel = await ours.start(waiting, run_id="a")
            to_suspend = await ours.start(waiting, run_id="b")
            # One that no engine attends to, as between a claim and its resumption: nobody to tell, and no harm done.
            await create(ours._store, "c")  # type: ignore[arg-type]
            for run_id in "ca":
                assert await theirs.cancel(run_id, reason="from elsewhere") is RunState.RUNNING
            await theirs.suspend("b", reason="for lunch")
            with pytest.raises(af.RunCancelled, match="from elsewhere"):
                await to_cancel
            with pytest.raises(af.RunSuspended, match="for lunch"):
                await to_suspend
            assert await theirs.cancel("a") is RunState.CANCELLED, "it has ended"
            # Nobody owns this one, so it is undone here.
            assert await theirs.cancel("b", waiting, reason="enough") is RunState.CANCELLED

    asyncio.run(main())


def test_an_owner_that_was_overtaken_stops_its_run(tmp_path: Path) -> None:
    """Its body may be in the middle of something that the new owner is doing as well."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        room = Room()
        async with engine(path, room) as ours:
            run = await ours.start(waiting, run_id="a")
            await room.entered.wait()
            with contextlib.closing(sqlite3.connect(path)) as other, other:
                other.execute("UPDATE runs SET epoch = epoch + 1, owner = owner + 1")
            with pytest.raises(af.RunOvertaken, match="another engine has taken over run 'a'"):
                await run

    asyncio.run(main())


def test_one_waits_for_what_others_leave(tmp_path: Path) -> None:
    """A worker that starts a moment too early must not go home."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with engine(path) as theirs:
            await theirs.start(waiting, run_id="a")
            async with engine(path) as ours:
                recovering = asyncio.ensure_future(ours.recover(wait=60.0))
                with pytest.raises(RunBusy):
                    await ours.resume("a", waiting, wait=0.01)
                assert not recovering.done()
                recovering.cancel()
                await asyncio.wait([recovering])
                assert await ours.recover(wait=0.01) == []

    asyncio.run(main())


def test_what_another_was_quicker_to_take_is_looked_at_again(tmp_path: Path) -> None:
    """The quicker one may die of it; and what cannot be taken up is asked about once, until it changes."""
    path = tmp_path / "runs.db"
    taken: list[str] = []

    async def is_left(info: RunInfo) -> bool:
        # Ended by another, between two looks at it.
        taken.append(f"look at {info.run_id}")
        return info.run_id != "ended" or taken.count("look at ended") == 1

    async def take_up(run_id: str) -> Any:
        taken.append(f"take {run_id}")
        if run_id == "busy" and taken.count("take busy") == 1:
            raise RunBusy("another was quicker", run_id=run_id, owner="another")
        return run_id

    async def main() -> None:
        async with opened(path) as store:
            for run_id in ("busy", "ended", "ours"):
                await (await create(store, run_id)).release()
            ours: Any = {"ours": None}
            gleaner = Gleaner(store, ours, is_left=is_left, take_up=take_up)
            await gleaner.look()
            assert gleaner.found == [] and taken.count("look at ended") == 2
            await gleaner.look()
            assert gleaner.found == ["busy"], "the one that was busy is looked at again"
            assert taken.count("look at ended") == 2, "the other has not changed since"
            assert "look at ours" not in taken

    asyncio.run(main())


def test_what_starts_over_follows_the_flow_of_today(tmp_path: Path) -> None:
    """Nothing of the old one is gone on with, so there is nothing to refuse; and a purge keeps the new plan too."""

    @af.task(provides="n")
    async def one() -> int:
        return 1

    @af.task(provides="n")
    async def two() -> int:
        return 2

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            assert await engine.run(af.linear("count", one), run_id="r") == {"n": 1}
            assert await (await engine.reset("r", af.linear("count", two))) == {"n": 2}
        assert list(af.verify(tmp_path / "runs.db")) == []

    asyncio.run(main())
