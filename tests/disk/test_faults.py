"""Whichever statement a disk fails at, and however: a run goes on or says why not, and can be resumed afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

import asyncflow as af
from asyncflow.codec import Codec
from asyncflow.errors import AsyncflowError, RunFailed, RunNotFound, StoreError
from asyncflow.states import RunState
from asyncflow.stores.sqlite import SqliteStore
from tests.disk.faults import FAULTS, Disk, Fault, installed
from tests.stores.journals import ROOT, append, create, numbers, opened

_LARGE = "x" * 70_000


@af.task
async def first(size: int) -> str:
    return _LARGE[:size]


@af.task
async def grown(text: str) -> str:
    return text + "y"


@af.flow
def chain(size: int) -> str:
    """Large values, one after the other, each a blob."""
    text = first(size)
    for number in range(3):
        text = grown.named(f"grown {number}")(text)
    return text


@af.task
async def charge() -> int:
    return 7


@charge.revert
async def refund(outcome: af.Outcome[int]) -> None: ...


@af.task(retry=af.Retry(2, af.Fixed(0.0)))
async def ship(charged: int) -> None:
    raise ConnectionError(f"no ship for {charged}")


@af.flow
def order(size: int) -> None:
    """Fails for good after a retry, and is undone."""
    ship(charge())


@af.task
def part(size: int, number: int) -> int:
    return size + number


@af.task
async def total(*parts: int) -> int:
    return sum(parts)


@af.flow
def fan(size: int) -> int:
    """Several at once, in threads."""
    return total(*[part.named(f"part {number}")(size, number) for number in range(5)])


def enter(connection: sqlite3.Connection, amount: int) -> int:
    connection.execute("CREATE TABLE IF NOT EXISTS entries(amount)")
    connection.execute("INSERT INTO entries VALUES (?)", (amount,))
    return amount


@af.task
async def booked(ctx: af.Context, amount: int) -> int:
    return ctx.transaction(enter, amount)


@af.flow
def books(size: int) -> int:
    """Each amount is in a table of the user's exactly once, whatever happens."""
    return total(*[booked.named(f"booked {number}")(number) for number in range(3)])


@attrs.frozen
class Case:
    """A flow and what comes of it: a value, or the type of the failure for which it was undone."""

    flow: af.Flow[..., Any]
    value: Any = None
    failure: type[Exception] | None = None

    def is_right(self, value: Any, error: BaseException | None) -> bool:
        if self.failure is None:
            return error is None and value == self.value
        return isinstance(error, RunFailed) and error.reverted and error.subgroup(self.failure) is not None


CASES = {
    "chain": Case(chain, _LARGE + "yyy"),
    "order": Case(order, failure=ConnectionError),
    "fan": Case(fan, 5 * 70_000 + 10),
    "books": Case(books, 3),
}


async def _ending(going: Any) -> tuple[Any, BaseException | None]:
    try:
        async with asyncio.timeout(120):
            return await going, None
    except (AsyncflowError, RunFailed) as error:
        return None, error


async def _once(path: Path, case: Case, level: str, disk: Disk) -> None:
    async def live() -> Any:
        async with af.Engine(path, durability=level) as engine:
            return await engine.run(case.flow, {"size": 70_000}, run_id="run")

    async def go_on() -> Any:
        async with af.Engine(path) as engine:
            try:
                return await engine.resume("run", case.flow)
            except RunNotFound:
                return await engine.run(case.flow, {"size": 70_000}, run_id="run")

    with installed(disk):
        value, error = await _ending(live())
    # It goes on and ends as it should, or says that it is the disk's fault.
    assert isinstance(error, StoreError) or case.is_right(value, error), repr(error)
    value, error = await _ending(go_on())
    assert case.is_right(value, error), f"taken up again: {value!r:.80}, {error!r}"
    async with opened(path) as store:
        info = await store.info("run")
        if case.flow is books:
            assert store._database is not None
            entries = await store._database.fetch("SELECT amount FROM entries ORDER BY amount")
            assert entries == [(0,), (1,), (2,)], f"written {entries}"
        assert info.damage is None and info.state is (RunState.REVERTED if case.failure else RunState.SUCCEEDED)


def _statements(folder: Path, case: Case, level: str) -> int:
    """Return how many statements a run takes where nothing fails."""
    disk = Disk(FAULTS[0])
    asyncio.run(_once(folder / "whole.db", case, level, disk))
    return disk.count


def _everywhere(folder: Path, case: Case, fault: Fault, level: str, chosen: Callable[[int], bool]) -> None:
    for n in range(1, _statements(folder, case, level) + 1):
        if chosen(n):
            try:
                asyncio.run(_once(folder / f"{n}.db", case, level, Disk(fault, n)))
            except BaseException as error:
                error.add_note(f"statement {n} failed with {fault.name!r}")
                raise


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_failing_disk_costs_no_run(tmp_path: Path, name: str, fault: Fault) -> None:
    """Disks fail at the worst moment; afterwards a run is where it was, or further."""
    rng = random.Random(f"{name} {fault.name}")
    _everywhere(tmp_path, CASES[name], fault, "full", lambda n: rng.random() < 0.06)


def test_an_opening_that_is_tried_again_leaves_no_pulse_behind(tmp_path: Path) -> None:
    """It would write to whatever file is given the descriptor next, and hold the lock of another process's owner."""

    async def open_and_close() -> None:
        async with af.Engine(tmp_path / "runs.db"):
            pass

    for n in range(1, 40):
        with installed(Disk(Fault("busy", sqlite3.SQLITE_BUSY), n)):
            asyncio.run(open_and_close())
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncflow pulse")]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@pytest.mark.parametrize("level", ["full", "process", "lazy"])
def test_a_failing_disk_costs_no_run_at_any_statement(tmp_path: Path, name: str, fault: Fault, level: str) -> None:
    """The same at every statement."""
    _everywhere(tmp_path, CASES[name], fault, level, lambda n: True)


# --- A failed fsync ---------------------------------------------------------------------------------------------------


def test_after_a_failed_fsync_nothing_more_is_asked_of_the_connection(tmp_path: Path) -> None:
    """The kernel drops what it could not write and says so once; a second fsync succeeds, and the data is gone."""

    def log_bytes(path: Path) -> int:
        return Path(f"{path}-wal").stat().st_size

    path = tmp_path / "runs.db"
    disk = Disk(Fault("fsync", sqlite3.SQLITE_IOERR_FSYNC, is_done=True))

    async def main() -> None:
        store = SqliteStore(path, codec=Codec())
        await store.open()
        try:
            one, other = await create(store, "a", durability="full"), await create(store, "b", durability="full")
            await append(one, 1)
            disk.n = disk.count + 1
            words = r"fsync failed.*in doubt and nothing more is written; mend the disk, then open a new engine"
            with pytest.raises(StoreError, match=words):
                await append(one, 2)
            asked = disk.count
            for refused in (append(one, 3), append(other, 1), create(store, "c")):
                with pytest.raises(StoreError, match="fsync failed"):
                    await refused
            # Even reading the level of syncing, or copying the log, would be one more use.
            assert disk.count - asked <= 1, "only the reader has been asked, whether it has the plan of 'c'"
            # The lock is gone with the connection: others need not wait until somebody closes the engine.
            with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0.0)) as another:
                another.execute("BEGIN IMMEDIATE")
            before = log_bytes(path)
        finally:
            with pytest.raises(StoreError, match="fsync failed"):
                await store.close()
        assert log_bytes(path) >= before > 0, "the log was copied by one who cannot know what is in it"
        async with opened(path) as store:
            assert (await numbers(store, "a"))[:2] == [0, 1]
            await append(await store.claim("b"), 1)

    with installed(disk):
        asyncio.run(main())


# --- Real limits ------------------------------------------------------------------------------------------------------

_CHILD = """
import asyncio, resource, signal, sys
import asyncflow as af
from tests.disk.test_faults import CASES

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))

async def main():
    try:
        async with af.Engine(sys.argv[1], durability="full") as engine:
            print(len(await engine.run(CASES["chain"].flow, {"size": 70_000}, run_id="run")))
    except af.AsyncflowError as error:
        print(type(error).__name__, error)

asyncio.run(main())
"""


def test_a_file_that_may_not_grow_ends_a_run_with_a_named_error(tmp_path: Path) -> None:
    """The kernel's own refusal, at whatever byte it comes, leaves a journal that goes on elsewhere."""
    ends: set[str] = set()
    # Not measured: a measurement may not grow there either, and half of one spoils all others.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    for number, limit in enumerate((1, 5_000, 60_000, 150_000, 300_000, 10_000_000)):
        path = tmp_path / f"{number}.db"
        child = subprocess.run(
            [sys.executable, "-c", _CHILD, str(path), str(limit)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert child.returncode == 0, child.stderr
        ends.add(child.stdout.split()[0])
        assert "Error" in child.stdout or child.stdout.strip() == str(len(_LARGE) + 3)

        async def go_on(path: Path = path) -> str:
            async with af.Engine(path) as engine:
                try:
                    return await engine.resume("run", chain)
                except RunNotFound:
                    return await engine.run(chain, {"size": 70_000}, run_id="run")

        assert asyncio.run(go_on()) == _LARGE + "yyy"
    assert ends == {"StoreError", str(len(_LARGE) + 3)}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KiB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="tmpfs is Linux's")
@pytest.mark.parametrize("level", ["full", "process", "lazy"])
def test_a_disk_that_is_really_full_leaves_a_run_that_goes_on_once_there_is_room(small_disk: Path, level: str) -> None:
    """The kernel's own ENOSPC, wherever in a commit it comes."""
    filler = small_disk / "filler"
    for free_kib in (300, 200, 120, 80, 60, 40, 20, 4):
        path = small_disk / f"{free_kib}.db"
        filler.write_bytes(b"x" * ((600 - free_kib) << 10))

        async def live(path: Path = path) -> str:
            async with af.Engine(path, durability=level) as engine:
                return await engine.run(chain, {"size": 30_000}, run_id="run")

        value, error = asyncio.run(_ending(live()))
        assert isinstance(error, StoreError) or value == _LARGE[:30_000] + "yyy", repr(error)
        filler.unlink()

        async def go_on(path: Path = path) -> str:
            async with af.Engine(path) as engine:
                try:
                    return await engine.resume("run", chain)
                except RunNotFound:
                    return await engine.run(chain, {"size": 30_000}, run_id="run")

        assert asyncio.run(go_on()) == _LARGE[:30_000] + "yyy"
        for left in small_disk.iterdir():
            left.unlink()
