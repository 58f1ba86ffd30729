"""Where does the time of a task go, by the part of asyncflow that spends it?"""

from __future__ import annotations

import collections
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import asyncflow as af
from benchmarks.bench import Bench
from benchmarks.floors import trivial
from benchmarks.flows import flow_of
from benchmarks.shapes import Shape, chain, fan, serving

EVERY = 0.001
"""Seconds of the processor's time between two looks at what runs."""
SHOWN = 0.02
"""Parts that take a smaller share than this are one."""

_PACKAGE = f"{Path(af.__file__).parent}/"
_BODY = trivial.__code__.co_filename


async def ask(bench: Bench) -> None:
    """Look every millisecond at what the loop's thread does, in three workloads."""
    seconds = 0.1 if bench.is_quick else 2.0
    for where in ("memory", "process"):
        with tempfile.TemporaryDirectory() as folder:
            path = None if where == "memory" else Path(folder) / "runs.db"
            async with af.Engine(path, durability="process", keep=1) as engine:
                for shape in (chain(1_000), fan(1_000), serving()):
                    await _profile(bench, engine, shape, where, seconds)


async def _profile(bench: Bench, engine: af.Engine, shape: Shape, where: str, seconds: float) -> None:
    flow = flow_of(shape)
    await engine.run(flow)
    with _looking() as seen:
        looks = int(seconds / EVERY)
        await _until(lambda: seen.total() >= looks, lambda: engine.run(flow))
    small = 0
    for part, count in seen.most_common():
        if count / seen.total() >= SHOWN:
            bench.add(f"{shape.name}, {where}: {part}", "%", [count / seen.total() * 100])
        else:
            small += count
    if small:
        bench.add(f"{shape.name}, {where}: all other parts", "%", [small / seen.total() * 100])


async def _until(is_over: Callable[[], bool], work: Callable[[], Awaitable[object]]) -> None:
    while not is_over():
        await work()


@contextmanager
def _looking() -> Iterator[collections.Counter[str]]:
    """Count in which part of asyncflow the thread is whenever the clock of its processor rings."""
    seen: collections.Counter[str] = collections.Counter()

    def look(number: int, frame: FrameType | None) -> None:
        seen[_part_of(frame)] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
    try:
        yield seen
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _part_of(frame: FrameType | None) -> str:
    """Return the module of asyncflow that is nearest: what it calls elsewhere is done for it."""
    if frame is not None and frame.f_code.co_filename.endswith("selectors.py"):
        return "SQLite's thread, while the loop waits"
    while frame is not None:
        file = frame.f_code.co_filename
        if file == _BODY:
            return "the body"
        if file.startswith(_PACKAGE):
            return file.removeprefix(_PACKAGE).removesuffix(".py")
        frame = frame.f_back
    return "asyncio"
