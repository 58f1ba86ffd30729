"""
The pytest plugin of asyncflow: the fixtures ``engine`` and ``virtual_time``.

It stands beside the package and imports nothing of it until a fixture is used, so a suite that never does so pays
nothing for it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from asyncflow import Engine

T = TypeVar("T")


class VirtualTime:
    """Runs coroutines in virtual time. ``seed`` decides who goes next; None is first come, first served."""

    def __init__(self) -> None:
        from asyncflow.testing import Disk

        self.seed: object = None
        self._disk = Disk()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run *main* on a loop of its own, where time passes only when nothing is left to do."""
        from asyncflow.testing import run_virtual

        return run_virtual(main, seed=self.seed)

    def engine(self, **options: Any) -> Engine:
        """Return an engine for such a loop, not yet open, on a disk that all engines of the test share."""
        from asyncflow.testing import WorldEngine

        return WorldEngine(self._disk, **options)

    def close(self) -> None:
        """Let go of the disk."""
        self._disk.close()


@pytest.fixture
def virtual_time() -> Iterator[VirtualTime]:
    """Virtual time: ``virtual_time.run(main())``, with engines from ``virtual_time.engine()``."""
    time = VirtualTime()
    yield time
    time.close()


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """
    An engine, not yet open: ``async with engine:``. It has a journal in a file of the test's own, and ``debug=True``.

    Not opened here, so that it works in whatever loop the test has, whichever plugin runs it.
    """
    from asyncflow import Engine

    return Engine(tmp_path / "runs.db", debug=True)
