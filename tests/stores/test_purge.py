"""Runs that nobody needs leave the file, in small steps, and take with them only what is theirs."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow.codec import Codec
from asyncflow.codec.records import digest_of
from asyncflow.interfaces import NewRun
from asyncflow.states import RunState
from asyncflow.stores import purge as purge_module
from asyncflow.stores.database import LendableConnection
from asyncflow.stores.sqlite import SqliteStore
from asyncflow.stores.writer import Writer
from asyncflow.upkeep import ENDED
from tests.stores.journals import append, create, note, numbers, opened

LATER = 1e12
"""A moment behind everything that these tests write."""


async def end(
    store: SqliteStore, run_id: str, *, records: int = 3, blobs: Sequence[bytes] = (), plan: str = "plan"
) -> None:
    """Write a run that has SUCCEEDED."""
    new = NewRun(run_id=run_id, flow="ship", flow_ref=None, plan=plan, durability="process")
    journal = await store.create(new, lambda: f"body of {plan}".encode(), note(0), {})
    for number in range(1, records):
        await append(journal, number, blobs={digest_of(body): body for body in blobs} if number == 1 else None)
    pending = journal.append(note(records), {}, RunState.SUCCEEDED)
    if pending is not None:
        await pending
    await journal.release()


async def purged(store: SqliteStore, before: float = LATER) -> list[str]:
    gone: list[str] = []
    await store.purge(before, ENDED, gone.append)
    return gone


def counts(path: Path) -> dict[str, int]:
    """Return how many rows each table of a closed journal has."""
    with sqlite3.connect(path) as database:
        tables = ("runs", "records", "plans", "blobs", "uses", "adoptions", "purged", "requests")
        found = {table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    return found


def test_a_purged_run_takes_with_it_what_only_it_used(tmp_path: Path) -> None:
    """What runs share stays as long as one of them does."""
    path = tmp_path / "runs.db"
    shared, own = b"s" * 70_000, b"o" * 70_000

    async def main() -> None:
        async with opened(path) as store:
            await end(store, "old", blobs=[shared, own], plan="of old")
            await end(store, "kept", blobs=[shared], plan="of kept")
            await store.save_plan("adopted", lambda: b"by both", run_id="old")
            await store.save_plan("adopted", lambda: b"by both", run_id="kept")
            await create(store, "going on")
            held = await store.claim("kept")  # ended, and somebody has it
            assert await purged(store) == ["old"]
            assert await store.read_blob(digest_of(shared)) == shared
            assert await store.plan("adopted") == b"by both"
            assert await store.plan("of kept") == b"body of of kept"
            for lost in (store.read_blob(digest_of(own)), store.plan("of old")):
                with pytest.raises(af.StoreError, match="has no"):
                    await lost
            with pytest.raises(af.RunNotFound):
                await store.claim("old")
            assert await numbers(store, "going on") == [0]
            await held.release()
            assert await purged(store) == ["kept"]

    asyncio.run(main())
    rows = counts(path)
    assert (rows["runs"], rows["records"], rows["blobs"], rows["uses"], rows["adoptions"]) == (1, 1, 0, 0, 0)
    assert (rows["plans"], rows["purged"]) == (1, 0)


def test_only_what_is_old_and_has_ended_is_purged(tmp_path: Path) -> None:
    """A run that changed after the moment given, or that may still go on, is somebody's."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await end(store, "of 3", records=3)
            await end(store, "of 9", records=9)
            journal = await create(store, "open")
            await journal.release()
            assert await purged(store, before=5.0) == ["of 3"]
            assert {info.run_id for info in await store.runs()} == {"of 9", "open"}
            gone: list[str] = []
            await store.purge(LATER, [RunState.INTERRUPTED], gone.append)
            assert gone == ["open"]

    asyncio.run(main())


def test_many_small_runs_go_in_a_few_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit of others comes between any two steps; with a few for each run, runs came faster than they went."""
    run = Writer.run
    steps = [0]

    def counting(self: Writer, *args: Any, **options: Any) -> Any:
        steps[0] += 1
        return run(self, *args, **options)

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            for number in range(100):
                await end(store, f"r{number}", blobs=[number.to_bytes(4, "big") * 17_500], plan=f"plan {number % 3}")
            monkeypatch.setattr(Writer, "run", counting)
            assert len(await purged(store)) == 100

    asyncio.run(main())
    assert steps[0] < 40
    assert not any(counts(tmp_path / "runs.db").values())


def test_a_plan_that_was_purged_is_recorded_again_for_the_next_run(tmp_path: Path) -> None:
    """An engine remembers which plans are in the file; another may have purged one since."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as one, opened(tmp_path / "runs.db") as two:
            await end(one, "a", plan="plan")
            assert await purged(two) == ["a"]
            await end(one, "b", plan="plan")
            assert await two.plan("plan") == b"body of plan"

    asyncio.run(main())


def test_a_run_that_is_refused_leaves_no_plan_behind(tmp_path: Path) -> None:
    """No purge would find it: a plan goes with the last run that uses it."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await end(store, "a", plan="plan")
            with pytest.raises(af.RunExists):
                await end(store, "a", plan="another plan")
            assert await purged(store) == ["a"]

    asyncio.run(main())
    assert not any(counts(tmp_path / "runs.db").values())


def test_who_reads_a_run_while_it_is_purged_hears_that_it_is_gone(tmp_path: Path) -> None:
    """Half a journal must never look like a damaged one."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await end(store, "a")
            _, reader = store._opened()
            records = reader.records

            async def late(run_id: str) -> Any:
                await purged(store)
                return await records(run_id)

            reader.records = late  # type: ignore[method-assign]
            with pytest.raises(af.RunNotFound):
                await store.read("a")

    asyncio.run(main())


# --- Crashes --------------------------------------------------------------------------------------------------------


class Died(Exception):
    """Stands for the end of the process: from here on nothing reaches the file."""


async def filled(store: SqliteStore) -> None:
    for run_id in ("a", "b"):
        await end(store, run_id, records=7, blobs=[b"both" * 20_000, run_id.encode() * 80_000], plan=f"of {run_id}")
    await end(store, "young", records=20, blobs=[b"both" * 20_000])


@pytest.mark.parametrize(
    ("more_rows", "stride"),
    [
        (False, 11),
        (True, 5),
        pytest.param(False, 1, marks=pytest.mark.slow),
        pytest.param(True, 1, marks=pytest.mark.slow),
    ],
)
def test_a_purge_that_dies_at_any_statement_leaves_whole_runs_and_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more_rows: bool, stride: int
) -> None:
    """A run is listed and can be read, or is gone; what is left of it is found and removed by whoever purges next."""
    monkeypatch.setattr(purge_module, "_ROWS", 256 if more_rows else 2)
    monkeypatch.setattr(purge_module, "_PAGES", 256 if more_rows else 8)
    execute = LendableConnection.execute
    at = [0]
    countdown: list[int] = []

    def dying(self: LendableConnection, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Cursor:
        if countdown:
            countdown[0] -= 1
            if countdown[0] <= 0:
                raise Died
        return execute(self, sql, parameters)

    async def crash(path: Path) -> bool:
        """Purge until the n-th statement; return whether that was reached."""
        store = SqliteStore(path, codec=Codec())
        await store.open()
        await filled(store)
        monkeypatch.setattr(LendableConnection, "execute", dying)
        countdown[:] = [at[0]]
        died = False
        try:
            await purged(store, before=10.0)
        except Died:
            died = True
        countdown.clear()
        monkeypatch.setattr(LendableConnection, "execute", execute)
        assert store._database is not None and store._reader is not None
        # As the end of a process would: whatever is not committed is lost.
        await store._reader.close()
        await store._database.close()
        assert store._locks is not None
        store._locks.let_go(store._owner)
        store._locks.close()
        return died

    async def go_on(path: Path) -> None:
        async with opened(path) as store:
            for info in await store.runs():
                expected = 21 if info.run_id == "young" else 8
                assert await numbers(store, info.run_id) == list(range(expected))
                assert await store.read_blob(digest_of(b"both" * 20_000))
                await store.plan(info.plan)
            await purged(store, before=10.0)
            assert [info.run_id for info in await store.runs()] == ["young"]
            assert await store.read_blob(digest_of(b"both" * 20_000))

    steps = 0
    while True:
        at[0] += stride
        path = tmp_path / f"{at[0]}.db"
        died = asyncio.run(crash(path))
        asyncio.run(go_on(path))
        assert counts(path) == {
            "runs": 1, "records": 21, "plans": 1, "blobs": 1, "uses": 1, "adoptions": 0, "purged": 0, "requests": 0,
        }  # fmt: skip
        if not died:
            break
        steps += 1
    assert steps * stride > 10


@pytest.mark.parametrize(
    "damage",
    [
        "INSERT INTO purged(run, plan) VALUES (1, 'plan-1')",
        "UPDATE records SET at = at / 2 WHERE run = 1",
        "UPDATE records SET at = 'x' WHERE run = 1",
        "UPDATE runs SET owner = 'x' WHERE key = 1",
        "UPDATE runs SET owner = -5 WHERE key = 1",
    ],
)
def test_what_is_damaged_is_not_purged(tmp_path: Path, damage: str) -> None:
    """Nothing that it says of its age, its owner or its end can be believed."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            await end(store, "a")
            assert store._database is not None
            await store._database.fetch(damage)
            gone: list[str] = []
            await store.purge(1e12, ENDED, gone.append)
            assert gone == (["a"] if damage.startswith("INSERT") else [])

    asyncio.run(main())
