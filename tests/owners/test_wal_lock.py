"""Those who write take turns: a lock that nobody keeps, and whose stopped holder is waited for only so long."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyncflow.errors import StoreError
from asyncflow.stores import wal_lock
from asyncflow.stores.owners import OwnerLocks
from asyncflow.stores.wal_lock import Taken, WalLock
from tests.stores.journals import process

HOLD = """
import fcntl
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.lockf(file, fcntl.LOCK_EX, 1, 0)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_holder_that_is_stopped_is_waited_for_only_so_long(tmp_path: Path) -> None:
    """Else one stopped process would have all others hang, and none could say why."""
    locks, database = OwnerLocks(str(tmp_path / "runs.db")), sqlite3.connect(":memory:", isolation_level=None)
    lock = WalLock(locks.turn, shown="runs.db", patience=0.05)
    with process(HOLD, tmp_path / "runs.db-owners") as child:
        assert child.stdout is not None and child.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=r"held by another process for 0\.05 s in the middle of a commit"):
            lock.around(database, lambda: None)
        with pytest.raises(Taken):
            lock.around_now(database, lambda: None)
        with ThreadPoolExecutor(1) as another:
            assert another.submit(locks.turn.mutex.acquire, False).result(), "who does not wait keeps nobody else out"
            another.submit(locks.turn.mutex.release).result()
        child.communicate()
    assert lock.around(database, lambda: 7) == 7, "the kernel frees what the dead held"
    database.close()
    locks.close()


def test_who_lets_go_of_whatever_it_may_have_leaves_to_another_what_is_the_other_s(tmp_path: Path) -> None:
    """An interrupt may have come before the lock was taken, and by now somebody else has it."""
    locks = OwnerLocks(str(tmp_path / "runs.db"))
    lock = WalLock(locks.turn, shown="runs.db", patience=0.01)
    with ThreadPoolExecutor(1) as another:
        assert another.submit(locks.turn.mutex.acquire, False).result()
        lock.mend()
        assert not locks.turn.mutex.acquire(blocking=False)
        another.submit(locks.turn.mutex.release).result()
    locks.close()


def test_a_transaction_is_one_turn(tmp_path: Path) -> None:
    """Who came between two of its statements would wait for SQLite's lock with the other's turn in hand."""
    locks, database = OwnerLocks(str(tmp_path / "runs.db")), sqlite3.connect(":memory:", isolation_level=None)
    one, other = (WalLock(locks.turn, shown="runs.db", patience=0.01) for _ in range(2))
    one.around(database, lambda: database.execute("BEGIN"))
    with ThreadPoolExecutor(1) as another, pytest.raises(StoreError, match="another engine of this process"):
        another.submit(other.around, database, lambda: None).result()
    one.around(database, lambda: database.execute("COMMIT"))
    other.around(database, lambda: None)
    database.close()
    locks.close()


@pytest.mark.parametrize(("version", "is_needed"), [((3, 51, 2), True), ((3, 51, 3), False), ((3, 52, 0), False)])
def test_only_an_old_sqlite_needs_it(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], is_needed: bool
) -> None:
    """Where SQLite sees to it itself, two locks would only be slower."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    assert wal_lock.is_needed() is is_needed
    assert ("lets one at a time" in wal_lock.explain()) is is_needed
