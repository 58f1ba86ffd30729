"""The shapes as asyncflow flows."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncflow as af
from benchmarks.floors import trivial, trivial_now
from benchmarks.shapes import Shape

body = af.task(trivial)
body_now = af.task(executor="inline")(trivial_now)


@af.task
async def sleeps(seconds: float, *values: Any) -> int:
    """Take its time."""
    await asyncio.sleep(seconds)
    return len(values)


def flow_of(shape: Shape, task: Any = body) -> af.Flow[[], Any]:
    """Return a flow of the shape: trivial tasks, or ones that take their time where the shape has times."""

    def build() -> Any:
        refs: list[Any] = []
        for number, before in enumerate(shape.before):
            values = [refs[one] for one in before]
            if shape.seconds:
                refs.append(sleeps.named(f"t{number}")(shape.seconds[number], *values))
            else:
                refs.append(task.named(f"t{number}")(*values))
        return refs[-1]

    return af.flow(name=shape.name.replace(",", "").replace(" ", "-"))(build)
