"""What the tests of stores share: short records, stores at a path, and other processes."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.interfaces import NewRun, Store
from asyncflow.states import RunState
from asyncflow.stores.sqlite import SqliteJournal, SqliteStore

ROOT = Path(__file__).parent.parent.parent


def note(number: int, text: str = "") -> m.Record:
    """Return a record that can be told from others."""
    return m.Record(float(number), [m.Progressed(number, 0.5, text)])


@asynccontextmanager
async def opened(path: str | Path) -> AsyncGenerator[SqliteStore, None]:
    """Open a store at *path*, and close it."""
    store = SqliteStore(path, codec=Codec())
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def create(store: SqliteStore, run_id: str, *, durability: str = "process") -> SqliteJournal:
    """Begin a run whose first record is ``note(0)``."""
    new = NewRun(run_id=run_id, flow="ship", flow_ref=None, plan="plan", durability=durability)
    return await store.create(new, lambda: b"the plan", note(0), {})


async def append(journal: SqliteJournal, number: int, text: str = "", blobs: Mapping[str, bytes] | None = None) -> None:
    """Append ``note(number)`` and wait until it is durable."""
    pending = journal.append(note(number, text), blobs or {}, RunState.RUNNING)
    if pending is not None:
        await pending


async def numbers(store: SqliteStore, run_id: str) -> list[int]:
    """Return the numbers of the notes that a run has."""
    return [int(record.at) for record in await store.read(run_id)]


@contextmanager
def disturbed(store: Store, beginning: str, errors: Iterable[BaseException]) -> Iterator[None]:
    """Have statements of a store's writer that begin so raise *errors*, each once, instead of being run."""
    assert isinstance(store, SqliteStore) and store._database is not None
    connection, left = store._database._connection._conn, iter(errors)
    execute = connection.execute

    def disturb(sql: str, *parameters: Any) -> Any:
        if sql.startswith(beginning) and (error := next(left, None)) is not None:
            raise error
        return execute(sql, *parameters)

    connection.execute = disturb  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        connection.execute = execute  # type: ignore[method-assign]


def failed(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("made up")
    error.sqlite_errorcode = code
    return error


async def over(doing: asyncio.Task[Any]) -> None:
    """Wait for the end of a task, whatever that is."""
    await asyncio.wait([doing], timeout=30)


def process(script: str, *args: object) -> subprocess.Popen[str]:
    """Start another Python that runs *script*, which finds this module's names and ``asyncio`` imported."""
    prelude = (
        "import asyncio, os, sys\nfrom asyncflow.codec.records import digest_of\nfrom tests.stores.journals import *\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", prelude + script, *map(str, args)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(script: str, *args: object) -> str:
    """Return what another Python prints that runs *script* to its end."""
    with process(script, *args) as child:
        output, _ = child.communicate(timeout=60)
    assert child.returncode == 0, output
    return output.strip()
