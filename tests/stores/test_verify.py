"""Damage is found wherever it is, named, and nothing that is sound is complained about."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from pathlib import Path

import pytest

import asyncflow as af
from asyncflow.stores import verify as verify_module
from asyncflow.stores.doctor import _kind_among
from asyncflow.stores.schema import VERSION
from asyncflow.stores.seal import seal_record, seal_run


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


def test_a_journal_of_another_version_says_who_can_read_it(tmp_path: Path) -> None:
    """Reading one by the rules of another would find damage where there is none."""
    path = tmp_path / "runs.db"
    written(path)
    for version, error, words in (
        (VERSION + 1, af.SchemaTooNew, f"has journal version {VERSION + 1} and this asyncflow reads up to {VERSION}"),
        (1, af.StoreError, f"has journal version 1; open it once with an Engine, which brings it to {VERSION}"),
    ):
        with sqlite3.connect(path) as database:
            database.execute(f"PRAGMA user_version = {version}")
        database.close()
        with pytest.raises(error, match=words):
            list(af.verify(path))


def root_page(path: Path, name: str) -> slice:
    """Return where in the file the first page of a table or an index is."""
    database = sqlite3.connect(path)
    [(page,)] = database.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (name,)).fetchall()
    database.close()
    return slice((page - 1) * 4096, page * 4096)


@pytest.mark.parametrize("table", ["records", "plans"])
def test_a_page_that_cannot_be_read_is_a_finding(tmp_path: Path, table: str) -> None:
    """One torn page must not keep the rest from being looked at, nor end in a traceback."""
    path = tmp_path / "runs.db"
    written(path)
    body = bytearray(path.read_bytes())
    body[root_page(path, table)] = b"\xff" * 4096
    path.write_bytes(body)
    found = [each.what for each in af.verify(path) if each.where == "the file"]
    assert any(what.startswith("SQLite cannot read on: ") for what in found)


def test_what_sqlite_itself_finds_is_a_finding(tmp_path: Path) -> None:
    """An index that lacks a row answers wrongly, and each row for itself is whole."""
    path = tmp_path / "runs.db"
    written(path)
    body = bytearray(path.read_bytes())
    page = root_page(path, "sqlite_autoindex_runs_1")
    rows = slice(page.start + 3, page.start + 5)
    body[rows] = (int.from_bytes(body[rows], "big") - 1).to_bytes(2, "big")
    path.write_bytes(body)
    found = [each.what for each in af.verify(path) if each.where == "the file"]
    assert any(what.startswith("SQLite says: ") for what in found)


@pytest.mark.parametrize(
    ("statements", "what"),
    [
        (["DELETE FROM records WHERE run = 1"], "has no records"),
        (["UPDATE records SET at = 'noon' WHERE run = 1 AND number = 1"], "its checksum is wrong"),
        (["INSERT INTO purged(run, plan) VALUES (1, 'p')"], "is noted as purged, and is there"),
    ],
)
def test_damage_of_a_run_is_found_and_named(tmp_path: Path, statements: list[str], what: str) -> None:
    """What SQLite itself takes for good order."""
    path = tmp_path / "runs.db"
    written(path)
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()
    assert what in [each.what for each in af.verify(path) if "run-1" in each.where]


def test_what_was_sealed_and_makes_no_sense_is_found(tmp_path: Path) -> None:
    """A seal proves that bytes are as they were written, not that they were right when they were."""
    path = tmp_path / "runs.db"
    written(path)
    with sqlite3.connect(path) as database:
        [(at, state)] = database.execute("SELECT at, state FROM records WHERE run = 1 AND number = 1").fetchall()
        database.execute(
            "UPDATE records SET body = ?, checksum = ? WHERE run = 1 AND number = 1",
            (b"nothing", seal_record(1, 1, at, state, b"nothing")),
        )
        [row] = database.execute("SELECT id, flow, flow_ref, durability, created FROM runs WHERE key = 2").fetchall()
        run_id, flow, flow_ref, durability, created = row
        sealed = seal_run(run_id, flow, flow_ref, "another", durability, created)
        database.execute("UPDATE runs SET plan = 'another', seal = ? WHERE key = 2", (sealed,))
    database.close()
    found = {each.where: each.what for each in af.verify(path)}
    assert found["record 1 of run 'run-1'"].startswith("cannot be decoded: ")
    assert found["run 'run-2'"] == "is listed under a plan that it did not begin with"


def test_a_run_that_is_purged_meanwhile_is_no_finding(tmp_path: Path) -> None:
    """It is run beside a service that purges; what has gone in good order is not lost."""
    path = tmp_path / "runs.db"
    written(path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE runs SET state = 'FAILED' WHERE key = 1")
    database.close()
    findings = af.verify(path)
    assert next(findings).where == "run 'run-1'"

    async def main() -> None:
        async with af.Engine(path) as engine:
            assert await engine.purge(older_than=0, states=[af.RunState.SUCCEEDED]) == ["run-2"]

    asyncio.run(main())
    assert list(findings) == []


def test_any_number_of_plans_is_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of years has thousands, and memory for a few; who comes back to the first reads it again."""
    monkeypatch.setattr(verify_module, "_PLANS_KEPT", 1)
    path = tmp_path / "runs.db"

    async def main() -> None:
        async with af.Engine(path) as engine:
            for name in ("a", "b", "a"):
                await engine.run(af.linear(name, load), {"n": 1})

    asyncio.run(main())
    assert list(af.verify(path)) == []
