"""What does a task cost in memory on uvloop, beside asyncio's own loop?"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asyncflow as af
from benchmarks.bench import Bench, Yardstick
from benchmarks.flows import flow_of
from benchmarks.shapes import chain, fan


async def ask(bench: Bench) -> None:
    """Run a chain and a fan of 1,000 on either loop, each in a thread of its own."""
    try:
        import uvloop
    except ImportError:
        bench.skip("a task on uvloop", "it is not installed")
        return
    # Where there are no eager tasks each body takes a trip through the loop, so that a faster loop shows.
    stick = Yardstick(8, 5.5) if sys.version_info < (3, 12) else None
    for shape in (chain(1_000), fan(1_000)):
        flow = flow_of(shape)
        flow.compile()
        repeats = min(bench.runs, 5)
        ours = await asyncio.to_thread(_on, uvloop.new_event_loop, flow, repeats)
        usual = await asyncio.to_thread(_on, asyncio.new_event_loop, flow, repeats)
        us = [[seconds / shape.size * 1e6 for seconds in taken] for taken in (ours, usual)]
        bench.add(f"{shape.name}, uvloop", "us/task", us[0], floor=us[1], compared="asyncio's loop", yardstick=stick)


def _on(new_loop: Any, flow: af.Flow[[], Any], repeats: int) -> list[float]:
    async def run() -> list[float]:
        async with af.Engine(keep=1) as engine:
            return (await Bench(repeats).race({"engine": lambda: engine.run(flow)}))["engine"]

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(run())
