"""
Measures one peer in this process and environment, and writes what it finds as JSON after each figure.

    python -m benchmarks.peers.measure dask out.json               # as far as the peer can bear
    python -m benchmarks.peers.measure asyncflow out.json --like dask.json   # what another was measured on
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.peers.workload import Workload

COUNTED = 5
"""Counted runs of each size, after one that warms up."""
ENOUGH = 2.0
"""Seconds after which there are enough of them; a warm-up that took longer is the one that counts."""
PATIENCE = 4.0
"""Seconds that the next size may be expected to take, ten times those of the last; else it is left out."""


async def measure(workload: Workload, size: int) -> list[float]:
    """Return how many seconds each counted run took."""
    seconds: list[float] = []
    if workload.is_fresh:
        while not seconds or (len(seconds) < COUNTED and sum(seconds) < ENOUGH):
            async with workload.prepare(size) as work:
                seconds.append(await _time(work))
        return seconds
    async with workload.prepare(size) as work:
        warm_up = await _time(work)
        if warm_up > ENOUGH:
            return [warm_up]
        while not seconds or (len(seconds) < COUNTED and sum(seconds) < ENOUGH):
            seconds.append(await _time(work))
    return seconds


async def _time(work: Any) -> float:
    gc.collect()
    begun = time.perf_counter()
    await work()
    return time.perf_counter() - begun


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.measure")
    parser.add_argument("peer")
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--like", type=Path, help="measure what the peer of this file was measured on")
    parser.add_argument("--half", nargs=2, metavar=("FOLDER", "SIZE"), help="die in the middle of a chain")
    parser.add_argument("--quick", action="store_true", help="the smallest sizes only")
    options = parser.parse_args()
    module: Any = importlib.import_module(f"benchmarks.peers.{options.peer}")
    if options.half:
        asyncio.run(module.die_half_way(Path(options.half[0]), int(options.half[1])))
        return
    chosen: set[tuple[str, str, int]] | None = None
    if options.like:
        chosen = {(row["name"], row["where"], row["size"]) for row in json.loads(options.like.read_text())["rows"]}
    found: dict[str, Any] = {"about": module.ABOUT, "python": platform.python_version(), "rows": [], "errors": []}
    found["version"] = module.version()
    for workload in module.workloads():
        for size in workload.sizes[: 1 if options.quick else None]:
            if chosen is not None and (workload.name, workload.where, size) not in chosen:
                continue
            try:
                seconds = asyncio.run(measure(workload, size))
            except Exception as error:  # what one cannot do says nothing about the rest
                found["errors"].append(f"{workload.name} of {size:,}, {workload.where}: {error!r}"[:300])
                break
            row = {"name": workload.name, "where": workload.where, "size": size, "seconds": seconds}
            found["rows"].append(row)
            options.out.write_text(json.dumps(found, indent=1))
            if chosen is None and statistics.median(seconds) * 10 > PATIENCE:
                break
    options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
