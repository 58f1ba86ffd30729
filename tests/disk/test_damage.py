"""A database file that was cut or has turned bytes tells the truth or names what is wrong, and never anything else."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

import asyncflow as af
from asyncflow.codec.records import digest_of
from asyncflow.errors import AsyncflowError, CorruptRecord, NotAJournal, StoreError
from asyncflow.states import RunState
from tests.disk import truth
from tests.disk.truth import Answers, ask, lay_out, lies, make
from tests.stores.journals import append, create, numbers, opened

_SHARE = 150
_WHOLE = 20_000


def _cuts(rng: random.Random, whole: bytes) -> Iterator[tuple[str, bytes]]:
    while True:
        end = rng.choice((rng.randrange(len(whole)), rng.randrange(0, len(whole), 4096), rng.randrange(200)))
        yield f"cut at {end}", whole[:end]


def _turned(rng: random.Random, whole: bytes) -> Iterator[tuple[str, bytes]]:
    while True:
        # A page's header and the list of its rows decide over all that is on it, and are few of its bytes.
        page = rng.randrange(0, len(whole), 4096)
        place = rng.choice((rng.randrange(len(whole)), page + rng.randrange(40), rng.randrange(100)))
        mask = rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
        yield f"{mask:#04x} at {place}", whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]


async def _found_lies(folder: Path, count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    path = folder / "runs.db"
    whole = (folder / "whole.db").read_bytes()
    lay_out(path, {"": whole})
    found = await ask(path, [])
    assert isinstance(found, Answers) and isinstance(found.runs, list) and len(found.runs) == 20
    run_ids = [info.run_id for info in found.runs]
    lay_out(path, {"": whole})
    true = await ask(path, run_ids)
    assert isinstance(true, Answers)
    assert not any(isinstance(answer, AsyncflowError) for answer in true.others.values())
    wrong: list[str] = []
    cuts, turned = _cuts(rng, whole), _turned(rng, whole)
    for number in range(count):
        what, damaged = next(turned if number % 10 else cuts)
        lay_out(path, {"": damaged, "-wal": None, "-shm": None, "-owners": b"" if number % 2 else None})
        if not damaged and not number % 2:
            continue  # an empty file with nothing beside it was never a journal
        async with asyncio.timeout(60):
            wrong += [f"{what}: {lie}" for lie in lies(await ask(path, run_ids), true)]
    return wrong


def _check(folder: Path, count: int, seed: int) -> None:
    make(folder / "whole.db", random.Random(seed))
    wrong = asyncio.run(_found_lies(folder, count, seed))
    assert not wrong, f"{len(wrong)} lies, such as\n" + "\n".join(wrong[:10])


def test_a_damaged_file_never_lies(tmp_path: Path) -> None:
    """Who goes on from a journal that is silently wrong does wrong things in the name of durability."""
    _check(tmp_path, _SHARE, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_file_never_lies_wherever_it_is_damaged(tmp_path: Path, seed: int) -> None:
    """The same at 20,000 places in ten files."""
    _check(tmp_path, _WHOLE // 10, 100 + seed)


# --- Damage of one kind each ------------------------------------------------------------------------------------------


def three_runs(path: Path) -> None:
    """Leave runs a, b and c with three records each, which nobody owns; b and c have one blob in common."""

    async def main() -> None:
        async with opened(path) as store:
            for run_id in "abc":
                journal = await create(store, run_id)
                await append(journal, 1, blobs={digest_of(b"x" * 70_000): b"x" * 70_000} if run_id != "a" else {})
                await append(journal, 2)

    asyncio.run(main())


def change(path: Path, statement: str) -> None:
    """Change a closed journal behind its back."""
    with sqlite3.connect(path) as database:
        assert database.execute(statement).rowcount == 1
    database.close()


def root_page(path: Path, name: str) -> int:
    database = sqlite3.connect(path)
    [(page,)] = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchall()
    database.close()
    return int(page)


def forget_last_row(path: Path, name: str) -> None:
    """Have the page of a table or an index, which has but one, count one row less."""
    page = root_page(path, name)
    body = bytearray(path.read_bytes())
    count = slice((page - 1) * 4096 + 3, (page - 1) * 4096 + 5)
    body[count] = (int.from_bytes(body[count], "big") - 1).to_bytes(2, "big")
    path.write_bytes(body)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("UPDATE runs SET flow = 'shop' WHERE id = 'b'", "its row is not as it was written"),
        ("UPDATE runs SET plan = 'plam' WHERE id = 'b'", "its row is not as it was written"),
        ("UPDATE runs SET durability = 'lazy' WHERE id = 'b'", "its row is not as it was written"),
        ("UPDATE runs SET created = 3.0 WHERE id = 'b'", "its row is not as it was written"),
        ("UPDATE runs SET flow = CAST(x'ff' AS TEXT) WHERE id = 'b'", "its row is not as it was written"),
        ("UPDATE runs SET state = 'RUNNINH' WHERE id = 'b'", "it is in state 'RUNNINH', which there is not"),
        ("UPDATE runs SET epoch = 'x' WHERE id = 'b'", "its owner is not as it was written"),
        ("UPDATE runs SET records = 2 WHERE id = 'b'", "its last record is not as it was written"),
        ("UPDATE runs SET last = 2 WHERE id = 'b'", "its last record is not as it was written"),
        ("DELETE FROM records WHERE run = 2 AND number = 2", "its last record of 3 is missing"),
        ("UPDATE records SET at = 7.0 WHERE run = 2 AND number = 2", "its last record is not as it was written"),
    ],
)
def test_a_damaged_run_is_listed_as_such_and_hides_no_other(tmp_path: Path, statement: str, words: str) -> None:
    """Who looks for what can be saved must see the rest, and who goes on with it must be stopped."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as store:
            infos = await store.runs()
            assert [(info.run_id, info.state) for info in infos] == [
                ("c", RunState.INTERRUPTED),
                ("b", RunState.DAMAGED),
                ("a", RunState.INTERRUPTED),
            ]
            assert infos[1].damage == words
            # It is in each list, since nobody knows in which it belongs.
            for state in (RunState.INTERRUPTED, RunState.DAMAGED):
                assert "b" in [info.run_id for info in await store.runs(state=state)]
            for ask_for in (store.info, store.read, store.claim):
                with pytest.raises(CorruptRecord, match=rf"run 'b' in .* is damaged: {words}; restore") as caught:
                    await ask_for("b")
                assert caught.value.run_id == "b"
            with pytest.raises(CorruptRecord):
                await store.request("b", "cancel", "")
            assert await numbers(store, "a") == [0, 1, 2]

    three_runs(path)
    change(path, statement)
    asyncio.run(main())


@pytest.mark.parametrize("name", ["runs", "sqlite_autoindex_runs_1"])
def test_a_run_that_the_table_or_the_index_has_lost_is_missed(tmp_path: Path, name: str) -> None:
    """One page that counts a row less must not turn "damaged" into "there is no such run"."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as store:
            if name == "runs":
                assert [(info.run_id, info.damage) for info in await store.runs()] == [
                    ("c", "its row is lost"),
                    ("b", None),
                    ("a", None),
                ]
                with pytest.raises(StoreError, match="damaged"):
                    await store.info("c")
            else:
                with pytest.raises(StoreError, match="has 3 runs and its index 2; restore"):
                    await store.runs()
                with pytest.raises(CorruptRecord, match="the index of the runs has lost it"):
                    await store.info("c")

    three_runs(path)
    forget_last_row(path, name)
    asyncio.run(main())


def test_a_list_out_of_order_is_not_believed(tmp_path: Path) -> None:
    """SQLite looks for a run by halving: where rows have changed places, it finds some and misses others."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as store:
            with pytest.raises(StoreError, match=r"the list of runs in journal .* is damaged: it is out of order"):
                await store.runs()

    three_runs(path)
    begin = (root_page(path, "runs") - 1) * 4096 + 8
    body = bytearray(path.read_bytes())
    body[begin : begin + 4] = body[begin + 2 : begin + 4] + body[begin : begin + 2]
    path.write_bytes(body)
    asyncio.run(main())


def test_a_run_that_has_more_records_than_it_knows_is_not_believed(tmp_path: Path) -> None:
    """Its row is of yesterday, or its last records are of a run that never was; to go on from either is wrong."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as store:
            with pytest.raises(CorruptRecord, match=r"run 'b' in .* it should have 2 records, and 3 are found"):
                await store.read("b")

    three_runs(path)
    change(
        path,
        "UPDATE runs SET records = 2, last = (SELECT checksum FROM records WHERE run = 2 AND number = 1) WHERE key = 2",
    )
    asyncio.run(main())


def test_an_index_that_leads_to_another_run_is_not_believed(tmp_path: Path) -> None:
    """Found by turning bytes: one in the index, and who asks for a run is told of another, in good order."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path) as store:
            for ask_for in (store.info, store.read, store.claim):
                with pytest.raises(CorruptRecord, match=r"run 'b' .*: the index of the runs leads to another"):
                    await ask_for("b")
            assert await numbers(store, "c") == [0, 1, 2]

    three_runs(path)
    # The page's list of rows, a b c, becomes c b c: what is found on the way to b is b, and where the way ends is c.
    begin = (root_page(path, "sqlite_autoindex_runs_1") - 1) * 4096 + 8
    body = bytearray(path.read_bytes())
    body[begin : begin + 2] = body[begin + 4 : begin + 6]
    path.write_bytes(body)
    asyncio.run(main())


def test_a_damaged_blob_or_plan_is_mended_by_storing_it_again(tmp_path: Path) -> None:
    """Before, the damaged one stayed, and took every later run with it that had the same content."""
    path, body = tmp_path / "runs.db", b"x" * 70_000

    async def main() -> None:
        async with opened(path) as store:
            with pytest.raises(StoreError, match="is damaged"):
                await store.read_blob(digest_of(body))
            await append(await create(store, "d"), 1, blobs={digest_of(body): body})
            assert await store.read_blob(digest_of(body)) == body
            assert await store.plan("plan") == b"the plan"

    three_runs(path)
    change(path, "UPDATE blobs SET body = zeroblob(70000)")
    change(path, "UPDATE plans SET body = x'00'")
    asyncio.run(main())


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("PRAGMA user_version = -3", "it says that it has version -3"),
        ("DROP TRIGGER records_tell_run", "its tables are not those that asyncflow makes"),
    ],
)
def test_a_journal_whose_tables_are_damaged_is_not_opened(tmp_path: Path, statement: str, words: str) -> None:
    """What a file says of itself is obeyed, so it must be what we said."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path):
            pass

    three_runs(path)
    with sqlite3.connect(path) as database:
        database.execute(statement)
    database.close()
    with pytest.raises(StoreError, match=rf"is damaged: {words}; restore it from a backup"):
        asyncio.run(main())


def test_a_journal_that_has_become_empty_is_not_begun_anew(tmp_path: Path) -> None:
    """A shell's redirection or a full disk makes files empty, and what was in them must be missed."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with opened(path):
            pass

    three_runs(path)
    path.write_bytes(b"")
    with pytest.raises(
        NotAJournal, match=r"is empty and was a journal, as '.*-owners' tells; restore it .* or remove it"
    ):
        asyncio.run(main())
    path.unlink()
    asyncio.run(main())


def test_recovery_passes_over_what_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One bad sector must not keep all other runs from going on after a crash."""
    path = tmp_path / "runs.db"

    async def leave() -> None:
        truth.is_open = False
        async with af.Engine(path, grace=0.0) as engine:
            for run_id in "abc":
                await engine.start(truth.waiting, run_id=run_id)

    async def go_on() -> dict[str, int]:
        truth.is_open = True
        async with af.Engine(path) as engine:
            return {run.run_id: await run for run in await engine.recover()}

    asyncio.run(leave())
    change(path, "UPDATE records SET body = x'00' WHERE run = 1 AND number = 1")
    change(path, "UPDATE runs SET flow = 'two' WHERE id = 'b'")
    with caplog.at_level(logging.WARNING):
        assert asyncio.run(go_on()) == {"c": 1}
    told = [record.getMessage() for record in caplog.records if "is not recovered" in record.getMessage()]
    assert len(told) == 2 and "'b'" in told[0] and "'a'" in told[1]
