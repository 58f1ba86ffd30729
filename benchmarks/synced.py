"""
Counts how often a durable chain has the disk synced, as strace sees it.

    python -m benchmarks.synced full 50     # runs a chain of 50; what strace is put around
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import asyncflow as af
from benchmarks.flows import flow_of
from benchmarks.shapes import chain


def reason_not_to() -> str:
    """Return why syncs cannot be counted here; empty if they can."""
    if shutil.which("strace") is None:
        return "there is no strace here"
    tried = subprocess.run(["strace", "-f", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    return f"strace may not trace here: {tried.stderr.strip()[-200:]}" if tried.returncode else ""


def syncs(durability: str, size: int) -> int:
    """Return how often a process that runs a chain of *size* tasks calls fsync or fdatasync."""
    with tempfile.NamedTemporaryFile("r") as seen:
        command = [sys.executable, "-m", "benchmarks.synced", durability, str(size)]
        tracing = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", seen.name]
        subprocess.run([*tracing, *command], check=True, capture_output=True, cwd=Path(__file__).parents[1])
        # A call that another thread interrupts in the listing is shown as begun and as resumed.
        return sum(1 for line in seen if re.search(r"\b(?:fsync|fdatasync)\(", line))


async def _run(durability: str, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with af.Engine(Path(folder) / "runs.db", durability=durability) as engine:
            await engine.run(flow_of(chain(size)))


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], int(sys.argv[2])))
