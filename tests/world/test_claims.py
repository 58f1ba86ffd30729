"""What a simulated world has found about permits."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncflow as af


def test_a_task_that_waited_for_a_permit_when_its_flow_failed_waits_again() -> None:
    """Its claim of the first turn is still in line when the second one joins it; two claims have no order."""
    calls: Counter[str] = Counter()

    @af.task(provides="first")
    async def first(turn: int) -> int:
        calls["first"] += 1
        if turn == 1:
            raise RuntimeError("not in the first turn")
        return turn

    @af.task(provides="second")
    async def second() -> int:
        calls["second"] += 1
        return 2

    @af.task(provides="third")
    async def third() -> int:
        calls["third"] += 1
        return 3

    async def main() -> object:
        flow = af.unordered("turns", first, second, third, retry=af.Times(2, provides="turn"))
        async with af.Engine(concurrency=1) as engine:
            return await engine.run(flow)

    assert asyncio.run(main()) == {"first": 2, "second": 2, "third": 3}
    assert calls == {"first": 2, "second": 1, "third": 1}
