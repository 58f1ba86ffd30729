"""Something for each run, of the latest runs only: what watches an engine for months must not grow with its runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Shelf(Generic[T]):
    """Run id to something that is made the first time; beyond *keep*, the oldest goes."""

    def __init__(self, make: Callable[[], T], keep: int) -> None:
        self._make = make
        self._keep = keep
        self._runs: dict[str, T] = {}

    def __getitem__(self, run_id: str) -> T:
        found = self._runs.get(run_id)
        if found is None:
            if len(self._runs) >= self._keep:
                del self._runs[next(iter(self._runs))]
            found = self._runs[run_id] = self._make()
        return found

    def find(self, run_id: str) -> T | None:
        """Return what is kept for a run, or None."""
        return self._runs.get(run_id)

    def __len__(self) -> int:
        return len(self._runs)
