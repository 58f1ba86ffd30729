"""Damage is found wherever it is, named, and nothing that is sound is complained about."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path

import pytest

import asyncflow as af
from asyncflow.stores.doctor import _kind_among
from asyncflow.stores.seal import seal_record


@af.task
async def load(n: int) -> list[int]:
    return [n] * 90_000  # large enough to be kept apart


@af.task
async def count(values: list[int]) -> int:
    return len(values)


@af.flow
def counting(n: int) -> int:
    return count(load(n))


def written(path: Path) -> None:
    """Write a journal of two runs, each with a large value."""

    async def main() -> None:
        async with af.Engine(path) as engine:
            for n in (1, 2):
                await engine.run(counting, {"n": n}, run_id=f"run-{n}")

    asyncio.run(main())


def test_a_sound_journal_has_no_findings_even_while_it_is_written(tmp_path: Path) -> None:
    """A tool that cries wolf is not run."""
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with af.Engine(path) as engine:
            run = await engine.start(counting, {"n": 3}, run_id="live")
            assert list(af.verify(path)) == []
            await run
            await engine.backup(tmp_path / "copy.db")
            assert list(af.verify(path)) == []

    written(path)
    asyncio.run(main())
    (tmp_path / "copy.db").chmod(0o444)
    assert list(af.verify(tmp_path / "copy.db")) == []


@pytest.mark.parametrize(
    ("statement", "where", "what"),
    [
        ("DELETE FROM records WHERE run = 1 AND number = 1", "record 1 of run 'run-1'", "is missing"),
        ("UPDATE records SET body = body || x'00' WHERE run = 2 AND number = 1", "record 1 of run 'run-2'", "checksum"),
        ("UPDATE plans SET body = body || x'00'", "plan ", "checksum"),
        ("UPDATE blobs SET body = body || x'00' WHERE key = 1", "blob ", "not those"),
        ("DELETE FROM blobs WHERE key = 1", "run 'run-1'", "which is not there"),
        ("DELETE FROM uses WHERE run = 1", "run 'run-1'", "a purge would not know"),
        ("DELETE FROM plans", "run 'run-1'", "does not hold together: plan"),
        ("UPDATE runs SET state = 'FAILED' WHERE key = 1", "run 'run-1'", "listed as FAILED.*says SUCCEEDED"),
        ("UPDATE records SET run = 9 WHERE run = 1", "the file", "records of 1 runs that are not listed"),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, statement: str, where: str, what: str) -> None:
    """Whoever reads the finding must know which run is concerned, and what to do."""
    path = tmp_path / "runs.db"
    written(path)
    with sqlite3.connect(path) as database:
        database.execute(statement)
    database.close()
    found = [each for each in af.verify(path) if each.where.startswith(where)]
    assert found and found[0].is_damage
    assert any(re.search(what, each.what) for each in found)


def test_an_event_that_the_machine_refuses_is_found(tmp_path: Path) -> None:
    """Whole and well-formed records may still tell a story that cannot be."""
    path = tmp_path / "runs.db"
    written(path)
    with sqlite3.connect(path) as database:
        rows = database.execute("SELECT number, at, state, body FROM records WHERE run = 1 ORDER BY number").fetchall()
        (last, at, state, _), again = rows[-1], rows[1][3]
        sealed = seal_record(1, last, at, state, again)
        database.execute(
            "UPDATE records SET body = ?, checksum = ? WHERE run = 1 AND number = ?", (again, sealed, last)
        )
        database.execute("UPDATE runs SET last = ? WHERE key = 1", (sealed,))
    database.close()
    assert [(each.where, "does not hold together" in each.what) for each in af.verify(path)] == [("run 'run-1'", True)]


def test_what_is_left_over_is_told_from_damage(tmp_path: Path) -> None:
    """A purge that was cut off has lost nothing."""
    path = tmp_path / "runs.db"
    written(path)
    with sqlite3.connect(path) as database:
        database.execute("DELETE FROM runs WHERE key = 1")
    database.close()
    [finding] = af.verify(path)
    assert not finding.is_damage
    assert "purge" in finding.advice


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    """To verify the wrong file says nothing about the right one."""
    (tmp_path / "text").write_text("nothing of SQLite's\n" * 100)
    with sqlite3.connect(tmp_path / "other.db") as database:
        database.execute("CREATE TABLE orders(id)")
    database.close()
    for name in ("text", "other.db"):
        with pytest.raises(af.NotAJournal):
            list(af.verify(tmp_path / name))
    with pytest.raises(af.StoreError, match="there is no journal"):
        list(af.verify(tmp_path / "none.db"))


@pytest.mark.parametrize(
    ("folder", "kind"),
    [("/", "ext4"), ("/mnt/büro daten/runs", "nfs4"), ("/mnt/büro", "ext4"), ("/mnt/back\\slash/x", "cifs")],
)
def test_the_doctor_knows_the_file_system_of_a_folder(folder: str, kind: str) -> None:
    """A share is told by its mount, whatever letters its path has."""
    mounts = [
        "/dev/sda1 / ext4 rw 0 0",
        r"server:/daten /mnt/büro\040daten nfs4 rw 0 0",
        r"//server/x /mnt/back\134slash cifs rw 0 0",
    ]
    assert _kind_among(mounts, Path(folder)) == kind


def test_the_doctor_names_a_dead_owner_and_changes_nothing(tmp_path: Path) -> None:
    """It is asked when something is wrong, which is no time to make files."""
    path = tmp_path / "runs.db"
    written(path)
    (tmp_path / "runs.db-owners").unlink()
    about = {remark.about: remark for remark in af.doctor(path)}
    assert {"python", "sqlite", "file system", "log", "size"} <= set(about)
    assert not (tmp_path / "runs.db-owners").exists()
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO owners(host, pid, beat, started) VALUES ('elsewhere', 7, 1, 1.0)")
        database.execute("UPDATE runs SET owner = (SELECT max(key) FROM owners) WHERE key = 1")
    database.close()
    [owner] = [remark for remark in af.doctor(path) if remark.about == "owner"]
    assert owner.is_trouble and "process 7 on elsewhere, 1 runs: dead" in owner.found
