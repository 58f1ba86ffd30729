"""Which files a store opens, and which it leaves alone."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from asyncflow.codec import Codec
from asyncflow.errors import InputError, NotAJournal, SchemaTooNew, StoreError
from asyncflow.stores import schema
from asyncflow.stores.sqlite import SqliteStore
from tests.stores.journals import append, create, numbers, opened


def open_and_close(path: str | Path) -> None:
    async def main() -> None:
        async with opened(path):
            pass

    asyncio.run(main())


def beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


@pytest.mark.parametrize("text", ["id,total\n" * 100, "S"])
def test_a_file_that_is_not_sqlite_is_refused_and_left_as_it_is(tmp_path: Path, text: str) -> None:
    """A mistyped path must not cost anyone a file, be it one that SQLite takes for empty."""
    path = tmp_path / "orders.csv"
    path.write_text(text)
    before = path.read_bytes()
    with pytest.raises(NotAJournal, match=r"'.*orders\.csv' is not an SQLite file.*another file"):
        open_and_close(path)
    assert path.read_bytes() == before
    assert beside(path) == ["orders.csv"]


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_a_database_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path, mode: str) -> None:
    """An application's own database must not get our tables."""
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
        database.execute("CREATE TABLE orders(id)")
    database.close()
    before = path.read_bytes()
    with pytest.raises(NotAJournal, match=r"'.*app\.db' is an SQLite database of something else"):
        open_and_close(path)
    assert path.read_bytes() == before
    assert beside(path) == ["app.db"]


def test_a_foreign_database_that_was_left_in_the_middle_of_a_checkpoint_is_left_as_it_is(tmp_path: Path) -> None:
    """Its first page says by then how long it will be; the rest is in its log, for its application to find."""
    path = tmp_path / "app.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode = wal")
        database.execute("CREATE TABLE orders(id)")
        database.executemany("INSERT INTO orders VALUES (?)", [("x" * 4000,)] * 8)
    database.close()
    os.truncate(path, 8192)
    with pytest.raises(NotAJournal, match=r"'.*app\.db' is an SQLite database of something else"):
        open_and_close(path)
    assert path.stat().st_size == 8192
    assert beside(path) == ["app.db"]


def test_a_database_that_is_half_made_is_finished_or_refused(tmp_path: Path) -> None:
    """A process may die at any moment, also while it makes the file; another's half-written file is still another's."""
    path = tmp_path / "runs.db"
    path.touch()
    Path(f"{path}-journal").touch()
    open_and_close(path)
    foreign = tmp_path / "app.db"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE orders(id)")
    database.close()
    Path(f"{foreign}-journal").touch()
    with pytest.raises(NotAJournal, match="something else"):
        open_and_close(foreign)


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    """Temporary files are made empty and then handed to whoever wants one."""
    path = tmp_path / "runs.db"
    path.touch()
    open_and_close(path)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert database.execute("PRAGMA application_id").fetchone() == (schema.APPLICATION_ID,)
    database.close()


def test_a_journal_of_a_newer_asyncflow_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """An old program must not write what a new one can no longer read."""
    path = tmp_path / "runs.db"
    open_and_close(path)
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA user_version = {schema.VERSION + 2}")
    database.close()
    before = path.read_bytes()
    words = f"has journal version {schema.VERSION + 2} and this asyncflow reads up to {schema.VERSION}; open it with"
    with pytest.raises(SchemaTooNew, match=words):
        open_and_close(path)
    assert path.read_bytes() == before


def test_an_older_journal_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new release must go on with the runs of the last one."""
    path = tmp_path / "runs.db"

    async def old() -> None:
        async with opened(path) as store:
            await append(await create(store, "a"), 1)

    async def new() -> None:
        async with opened(path) as store:
            assert await numbers(store, "a") == [0, 1]
            await append(await store.claim("a"), 2)
            assert await numbers(store, "a") == [0, 1, 2]

    asyncio.run(old())
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, ("ALTER TABLE runs ADD COLUMN label TEXT",)))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    asyncio.run(new())
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT label FROM runs").fetchall() == [(None,)]
        assert database.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
    database.close()


def test_a_step_forward_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal between two versions could be read by no program."""
    path = tmp_path / "runs.db"
    open_and_close(path)
    monkeypatch.setattr(schema, "STEPS", (*schema.STEPS, ("CREATE TABLE extra(x)", "CREATE TABLE runs(x)")))
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
    with pytest.raises(StoreError, match="runs already exists"):
        open_and_close(path)
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (schema.VERSION - 1,)
        assert not database.execute("SELECT * FROM sqlite_master WHERE name = 'extra'").fetchall()
    database.close()


def test_several_that_make_the_same_file_at_once_make_one(tmp_path: Path) -> None:
    """Workers of one service all start in the same second."""

    async def main() -> None:
        stores = [SqliteStore(tmp_path / "runs.db", codec=Codec()) for _ in range(8)]
        await asyncio.gather(*[store.open() for store in stores])
        journals = await asyncio.gather(*[create(store, f"run-{which}") for which, store in enumerate(stores)])
        assert len(await stores[0].runs()) == len(journals)
        await asyncio.gather(*[store.close() for store in stores])

    asyncio.run(main())


@pytest.mark.parametrize("path", [":memory:", "", "file:runs.db", "runs\0.db"])
def test_what_names_no_file_is_refused(path: str) -> None:
    """SQLite would take these for something else than a file, or a file for something else."""
    with pytest.raises(StoreError, match=r"is not the path of a file; Engine\(\) without a path keeps runs in memory"):
        SqliteStore(path, codec=Codec())


def test_a_folder_is_not_a_journal(tmp_path: Path) -> None:
    """The commonest slip: the folder instead of the file in it."""
    with pytest.raises(StoreError, match="is a folder; name a file in it"):
        open_and_close(tmp_path)


def test_what_is_no_ordinary_file_is_left_alone(tmp_path: Path) -> None:
    """A pipe or a device would be written to, and keep nothing."""
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/null", tmp_path / "pipe"):
        with pytest.raises(StoreError, match="is no ordinary file; give the path of another"):
            open_and_close(path)
    assert beside(tmp_path / "pipe") == ["pipe"]


def test_a_name_that_is_too_long_is_a_plain_error(tmp_path: Path) -> None:
    """Names are made of what people type, and a web application has none but our own errors in mind."""
    with pytest.raises(StoreError, match="cannot be looked at: File name too long"):
        open_and_close(tmp_path / ("x" * 300))

    async def copy(name: str) -> None:
        async with opened(tmp_path / "runs.db") as store:
            await store.backup(str(tmp_path / name))

    with pytest.raises(StoreError, match="cannot be opened"):
        asyncio.run(copy("x" * 250))
    with pytest.raises(StoreError, match="cannot be made there: File name too long"):
        asyncio.run(copy("x" * 300))
    with pytest.raises(InputError, match="cannot be the name of a file"):
        asyncio.run(copy("x\0"))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """SQLite only says that it is unable to open the file."""
    with pytest.raises(StoreError, match=r"there is no folder '.*var'; create it first"):
        open_and_close(tmp_path / "var" / "runs.db")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"there is no folder '.*file'"):
        open_and_close(tmp_path / "file" / "runs.db")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is a folder in which nobody can make files")
def test_a_folder_that_cannot_be_written_is_a_plain_error() -> None:
    """Whoever deploys this must see that it is the permissions."""
    with pytest.raises(StoreError, match=r"'/proc/self/runs\.db'.*cannot be opened; check the permissions"):
        open_and_close("/proc/self/runs.db")


def test_a_name_that_needs_quoting_is_just_a_name(tmp_path: Path) -> None:
    """Paths go to SQLite as addresses, in which some characters mean something."""
    path = tmp_path / "50% of #1? it's ünï.db"
    open_and_close(path)
    assert path.name in beside(path)


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """A call behind the end of the block is a mistake that should be found at once."""

    async def main() -> None:
        async with opened(tmp_path / "runs.db") as store:
            journal = await create(store, "a")
            with pytest.raises(StoreError, match="is open already"):
                await store.open()
        for ask in (store.runs, store.beat, lambda: store.claim("a"), lambda: store.plan("p"), journal.records):
            with pytest.raises(StoreError, match=r"runs\.db' is not open"):
                await ask()
        await store.close()
        await store.open()
        assert "open, owner" in repr(store)
        await store.close()

    asyncio.run(main())
