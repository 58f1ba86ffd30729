"""Measuring: the same thing several times, between runs of what it is compared with."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping

import attrs

Work = Callable[[], Awaitable[object]]


@attrs.frozen
class Yardstick:
    """
    How much it may cost, in the unit of its row, or as a ratio to its floor: what must be, and what should.

    ``least`` is for what would be wrong if it were less.
    """

    must: float
    reach: float
    is_ratio: bool = False
    least: float = 0.0


@attrs.frozen
class Row:
    """
    One line of the table.

    Attributes:
        question: Who asked.
        what: What was measured.
        unit: Of ``median`` and ``best``, such as "us/task".
        median: The middle of all counted runs.
        best: The best of them.
        floor: The median of what it is compared with, in the same unit, measured in the same run; None if nothing is.
        compared: What that is.
        yardstick: How much it may cost; None if nobody has said.
    """

    question: str
    what: str
    unit: str
    median: float
    best: float
    floor: float | None = None
    compared: str = ""
    yardstick: Yardstick | None = None

    @property
    def ratio(self) -> float | None:
        """How many times the floor it costs."""
        return None if self.floor is None else self.median / self.floor

    @property
    def verdict(self) -> str:
        """Whether the yardstick is reached: "reach", "must" or "missed"; empty without one."""
        yardstick = self.yardstick
        if yardstick is None:
            return ""
        value = self.ratio if yardstick.is_ratio else self.median
        if value is None:
            return ""
        if not yardstick.least <= value <= yardstick.must:
            return "missed"
        return "reach" if value <= yardstick.reach else "must"


class Bench:
    """
    Takes measurements and prints each as soon as it is there.

    Attributes:
        runs: Counted runs of each, after one that warms up.
        is_quick: Whether sizes are to be small: to see that everything works, and for no figures.
    """

    def __init__(self, runs: int = 9, *, is_quick: bool = False) -> None:
        self.runs = 2 if is_quick else runs
        self.is_quick = is_quick
        self.rows: list[Row] = []
        self.skipped: list[str] = []
        self.question = ""

    def sizes(self, *sizes: int) -> list[int]:
        """Return *sizes*, or the smaller ones where it must be quick."""
        return [size for size in sizes if not self.is_quick or size <= 1_000]

    async def race(self, works: Mapping[str, Work], *, runs: int | None = None) -> dict[str, list[float]]:
        """
        Return how long each took in each run, in seconds.

        They take turns, so that a slow moment of the machine hits all of them.
        """
        taken: dict[str, list[float]] = {name: [] for name in works}
        for run in range((runs or self.runs) + 1):
            for name, work in works.items():
                gc.collect()
                begun = time.perf_counter()
                await work()
                if run:
                    taken[name].append(time.perf_counter() - begun)
        return taken

    def add(
        self,
        what: str,
        unit: str,
        values: list[float],
        *,
        floor: list[float] | None = None,
        compared: str = "",
        yardstick: Yardstick | None = None,
    ) -> None:
        """Put a row into the table, of several *values* in *unit* each."""
        compare = None if floor is None else statistics.median(floor)
        row = Row(self.question, what, unit, statistics.median(values), min(values), compare, compared, yardstick)
        self.rows.append(row)
        print(line_of(row), flush=True)

    def skip(self, what: str, reason: str) -> None:
        """Say that something is not measured, and why."""
        self.skipped.append(f"{what}: {reason}")
        print(f"{what:<44}not measured: {reason}", flush=True)


def heading() -> str:
    """Return the table's first line."""
    return f"{'':<44}{'median':>10}{'best':>10}  {'unit':<12}{'ratio':>7}  {'of':<22}{'yardstick':<22}"


def line_of(row: Row) -> str:
    """Return a row as a line of text."""
    ratio = "" if row.ratio is None else f"{row.ratio:.2f}x"
    stick = ""
    if row.yardstick is not None:
        sign = "x" if row.yardstick.is_ratio else ""
        stick = f"{row.verdict} ({row.yardstick.must:g}{sign} / {row.yardstick.reach:g}{sign})"
    figures = f"{row.median:>10.2f}{row.best:>10.2f}  {row.unit:<12}{ratio:>7}"
    return f"{row.what:<44}{figures}  {row.compared:<22}{stick:<22}".rstrip()
