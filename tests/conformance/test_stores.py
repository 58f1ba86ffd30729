"""Both stores keep what every store must."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.register_assert_rewrite("asyncflow.testing.stores")

from asyncflow.codec import Codec  # noqa: E402
from asyncflow.stores.memory import MemoryStore  # noqa: E402
from asyncflow.stores.sqlite import SqliteStore  # noqa: E402
from asyncflow.testing import Disk, SimulatedStore, run_virtual  # noqa: E402
from asyncflow.testing.stores import LASTING_STORE_CHECKS, STORE_CHECKS, StoreCheck  # noqa: E402


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
def test_a_store_in_memory_conforms(check: StoreCheck) -> None:
    """An engine without a file behaves as one with a file, as long as it lives."""
    asyncio.run(check(MemoryStore))


@pytest.mark.parametrize("check", [*STORE_CHECKS, *LASTING_STORE_CHECKS], ids=lambda check: check.__name__)
def test_a_store_in_sqlite_conforms(check: StoreCheck, tmp_path: Path) -> None:
    """Each promise of DESIGN 3.6 that can be kept without pulling a plug."""
    asyncio.run(check(lambda: SqliteStore(tmp_path / "runs.db", codec=Codec())))


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
def test_a_store_on_a_simulated_disk_conforms(check: StoreCheck) -> None:
    """What is proven in simulated worlds is worth as much as their disk is like a real one."""
    disk = Disk()
    run_virtual(check(lambda: SimulatedStore(disk)))
    disk.close()
