"""
Two processes fight for one run: the one that has it is stopped, or killed, the other takes it over, the first is
continued and finds out. What an owner writes has its epoch in it, so a write after its time would show.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.owners.arena import Child, Times, can_be_written
from tests.stores.journals import create, opened

FIGHTER = ["-m", "tests.owners.fighter"]


def fight(path: Path, *, takeovers: int, lease: float) -> tuple[Times, Times, int]:
    """
    Have two processes take a run from each other, every tenth time from one that was killed.

    Returns the times of takeovers from the stopped and from the killed, and how often a stop hit a commit.
    """
    stopped, killed, in_a_commit = Times(), Times(), 0

    def enter(name: str, days: int) -> Child:
        child = Child(*FIGHTER, path, name, lease, days)
        child.hears("ready")
        return child

    # By name; the wall clocks are a day apart.
    days = {"a": 0, "b": 1}
    fighters: dict[str, Child] = {}
    try:
        fighters["a"] = enter("a", 0)
        epoch = int(fighters["a"].hears("owns"))
        fighters["b"] = enter("b", 1)
        owner, other = "a", "b"
        for number in range(1, takeovers + 1):
            if number % 10:
                stopped.begin()
                fighters[owner].stop()
                while not can_be_written(path):
                    fighters[owner].go_on()
                    in_a_commit += 1
                    stopped.begin()
                    fighters[owner].stop()
            else:
                killed.begin()
                fighters[owner].kill()
            taken = int(fighters[other].hears("owns"))
            (stopped if number % 10 else killed).end()
            assert taken == epoch + 1
            epoch = taken
            if number % 10:
                fighters[owner].go_on()
                fighters[owner].hears("overtaken")
            else:
                fighters[owner].close()
                fighters[owner] = enter(owner, days[owner])
            owner, other = other, owner
    finally:
        for child in fighters.values():
            child.close()
    return stopped, killed, in_a_commit


async def begin(path: Path) -> None:
    """Leave a run behind that nobody owns."""
    async with opened(path) as store:
        await create(store, "r")


async def written(path: Path) -> list[tuple[int, str]]:
    """Return the epoch and the writer of every record, in order."""
    async with opened(path) as store:
        records = await store.read("r")
    return [(int(record.at), record.events[0].message) for record in records[1:]]  # type: ignore[attr-defined]


def check_writes(found: list[tuple[int, str]]) -> None:
    """No epoch is written under after a later one, and each has one writer."""
    epochs = [epoch for epoch, _ in found]
    assert epochs == sorted(epochs), "somebody wrote after his time"
    assert len(set(found)) == len(set(epochs)), "two wrote under one epoch"


def test_who_was_overtaken_writes_nothing_more(tmp_path: Path) -> None:
    """One stopped, one killed, their clocks a day apart: whoever goes on where he was is too late."""
    path = tmp_path / "runs.db"
    asyncio.run(begin(path))
    fight(path, takeovers=10, lease=0.3)
    check_writes(asyncio.run(written(path)))


@pytest.mark.slow
def test_five_hundred_takeovers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Within a lease and a second from a process that was stopped, within a second from one that was killed."""
    path, lease = tmp_path / "runs.db", 0.3
    asyncio.run(begin(path))
    stopped, killed, in_a_commit = fight(path, takeovers=500, lease=lease)
    found = asyncio.run(written(path))
    with capsys.disabled():
        print(f"\n{len(found)} records; lease {lease} s")
        print(f"stopped: {stopped}; {in_a_commit} stops hit a commit and were tried again\nkilled: {killed}")
    check_writes(found)
    assert max(stopped.seconds) <= lease + 1.0
    assert max(killed.seconds) <= 1.0
