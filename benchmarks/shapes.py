"""The shapes of work that are measured, as plain data: which tasks each task waits for, and how long it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

_DAGS = Path(__file__).parent / "dags"


class Shape(NamedTuple):
    """
    Work to be done: ``before`` has, for each task, the tasks whose values it takes, which all stand before it.

    ``seconds`` is how long each task takes; empty where bodies are trivial.
    """

    name: str
    before: list[tuple[int, ...]]
    seconds: list[float]

    @property
    def size(self) -> int:
        """How many tasks there are."""
        return len(self.before)

    @property
    def critical_path(self) -> float:
        """Seconds that the work takes at least, however many hands there are."""
        ends: list[float] = []
        for task, before in enumerate(self.before):
            ends.append(max((ends[one] for one in before), default=0.0) + self.seconds[task])
        return max(ends)


def chain(size: int) -> Shape:
    """Each task takes the value of the one before."""
    return Shape(f"chain of {size:,}", [(), *((task,) for task in range(size - 1))], [])


def fan(size: int) -> Shape:
    """One task feeds all but two others, which feed the last."""
    return Shape(f"fan of {size:,}", [(), *[(0,)] * (size - 2), tuple(range(1, size - 1))], [])


def layers(depth: int, width: int, each: int) -> Shape:
    """*depth* layers of *width* tasks, each on *each* tasks of the layer before."""
    before: list[tuple[int, ...]] = [()] * width
    for layer in range(1, depth):
        first = (layer - 1) * width
        before.extend(tuple(first + (place + step) % width for step in range(each)) for place in range(width))
    return Shape(f"{depth} x {width}, each on {each}", before, [])


def serving() -> Shape:
    """
    The nine tasks of a recommendation gateway: parse, user and blacklist, two recalls, merge, rank, policy, response.

    Source: ``recmd_test.json`` of LionkingYang/taskflow, without its condition.
    """
    return Shape("serving", [(), (0,), (0,), (1, 2), (1, 2), (3, 4), (5,), (6,), (7,)], [])


def real(name: str, critical_path: float) -> Shape:
    """
    A run of a scientific workflow that took place, its times scaled so that the critical path takes so many seconds.

    Source: WfCommons WfInstances; the file names the instance.
    """
    tasks = json.loads((_DAGS / f"{name}.json").read_text())["tasks"]
    # In an order in which each comes after those that it waits for.
    order: list[int] = []
    places: dict[int, int] = {}
    stack = list(range(len(tasks)))[::-1]
    while stack:
        task = stack[-1]
        missing = [one for one in tasks[task][1] if one not in places]
        if missing:
            stack.extend(missing)
            continue
        stack.pop()
        if task not in places:
            places[task] = len(order)
            order.append(task)
    before = [tuple(places[one] for one in tasks[task][1]) for task in order]
    shape = Shape(name, before, [tasks[task][0] for task in order])
    scale = critical_path / shape.critical_path
    return shape._replace(seconds=[seconds * scale for seconds in shape.seconds])


REAL = ("epigenomics", "montage", "rnaseq", "genome1000")
"""The names that :func:`real` takes."""
