"""What does it cost to import asyncflow, and to compile a flow?"""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.bench import Bench
from benchmarks.flows import flow_of
from benchmarks.shapes import chain, fan, layers

_IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


async def ask(bench: Bench) -> None:
    """Import in fresh processes, and compile fresh flows."""
    for module in ("asyncflow", "asyncio"):
        taken = [_import(module) for _ in range(bench.runs)]
        bench.add(f"import {module}", "ms", taken)
    for shape in (chain(1_000), fan(1_000), layers(30, 30, 30)):
        us: list[float] = []
        for _ in range(bench.runs):
            flow = flow_of(shape)
            begun = time.perf_counter()
            flow.compile()
            us.append((time.perf_counter() - begun) / shape.size * 1e6)
        bench.add(f"compile {shape.name}", "us/task", us)


def _import(module: str) -> float:
    said = subprocess.run([sys.executable, "-c", _IMPORT.format(module)], capture_output=True, text=True, check=True)
    return float(said.stdout) * 1e3
