"""What a competent user would write who does not keep the event loop waiting: commits go through ``aiosqlite``."""

from __future__ import annotations

from importlib.metadata import version as version_of
from pathlib import Path

from benchmarks.by_hand import BookInThread
from benchmarks.peers import by_hand
from benchmarks.peers.workload import Workload

ABOUT = "the same eighty lines, with a commit a task through aiosqlite, so that the loop waits for no disk"


def version() -> str:
    """Return what was measured."""
    return version_of("aiosqlite")


async def _in_thread(file: Path, is_synced: bool) -> BookInThread:
    return await BookInThread.open(file, is_synced=is_synced)


async def die_half_way(folder: Path, size: int) -> None:
    """Run a chain in *folder*, and die in the middle of it."""
    await by_hand.die_half_way(folder, size, _in_thread)


def workloads() -> list[Workload]:
    """Return what it can do besides what it does in memory, which is the same."""
    return by_hand.durable_workloads("by_hand_aiosqlite", _in_thread)
