"""
What does a task cost in memory, beyond the bare mechanism that runs it?

    python benchmarks/engine.py [--runs 9] [--json FILE]

Chains and fans of trivial async tasks, compiled once; median of several runs, as microseconds a task and as a ratio to
the floor measured in the same run: one eager asyncio task for each body (on Python 3.11, one ordinary asyncio task).
Then what a task costs at 100,000 against 1,000, and what compiling costs.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import asyncflow as af
from asyncflow.machine.run import RunMachine


@af.task
async def one() -> int:
    return 1


@af.task
async def step(value: int) -> int:
    return value


@af.task
async def count(*values: int) -> int:
    return len(values)


def chain(size: int) -> af.Flow[[], int]:
    """Each task takes the value of the one before."""

    @af.flow(name=f"chain-{size}")
    def flow() -> int:
        value = one()
        for number in range(size - 1):
            value = step.named(f"t{number}")(value)
        return value

    return flow


def fan(size: int) -> af.Flow[[], int]:
    """One task feeds all but one others, which feed the last."""

    @af.flow(name=f"fan-{size}")
    def flow() -> int:
        first = one()
        return count(*[step.named(f"t{number}")(first) for number in range(size - 2)])

    return flow


async def median_us(work: Callable[[], Awaitable[object]], size: int, runs: int) -> tuple[float, float]:
    """Return the median and the best time of *work*, in microseconds a task."""
    times = []
    for _ in range(runs + 1):
        gc.collect()
        start = time.perf_counter()
        await work()
        times.append((time.perf_counter() - start) / size * 1e6)
    return statistics.median(times[1:]), min(times[1:])


async def floor(size: int) -> None:
    """Run *size* bodies with nothing around them."""

    async def body(value: int) -> int:
        return value

    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12):
        for number in range(size):
            asyncio.Task(body(number), loop=loop, eager_start=True)
    else:
        for number in range(size):
            await asyncio.Task(body(number), loop=loop)


def run_state_bytes(plan: object) -> float:
    """Return what a run holds for each task that has not started, in bytes."""
    machine = RunMachine(plan)  # type: ignore[arg-type]
    tables = (machine.states, machine.attempts, machine.values, machine._waiting_for)
    return sum(map(sys.getsizeof, tables)) / len(machine.states)


async def main(runs: int) -> dict[str, object]:
    rows: dict[str, object] = {"python": platform.python_version()}
    bare, _ = await median_us(lambda: floor(10_000), 10_000, runs)
    rows["floor_us"] = round(bare, 2)
    print(f"{'':<16}{'median us/task':>16}{'best':>8}{'x floor':>9}{'compile us/task':>17}")
    print(f"{'floor':<16}{bare:>16.2f}")
    async with af.Engine(keep=1) as engine:
        for make in (chain, fan):
            for size in (1_000, 10_000, 100_000):
                flow = make(size)
                start = time.perf_counter()
                plan = flow.compile()
                compiling = (time.perf_counter() - start) / size * 1e6
                median, best = await median_us(lambda flow=flow: engine.run(flow), size, runs if size < 50_000 else 3)
                name = flow.name
                print(f"{name:<16}{median:>16.2f}{best:>8.2f}{median / bare:>9.1f}{compiling:>17.2f}")
                rows[name] = {
                    "median_us": round(median, 2),
                    "best_us": round(best, 2),
                    "compile_us": round(compiling, 2),
                }
                if size == 100_000:
                    rows[f"{name}_run_state_bytes"] = round(run_state_bytes(plan), 1)
    print(f"run state of a task that has not started: {rows['chain-100000_run_state_bytes']} bytes")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--runs", type=int, default=9, help="counted runs of each, after one warm-up")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    figures = asyncio.run(main(options.runs))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=1)
