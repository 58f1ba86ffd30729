"""How often is the disk synced for a task, as strace sees it: once with "full", never with "process" and "lazy"?"""

from __future__ import annotations

from benchmarks.bench import Bench, Yardstick
from benchmarks.synced import reason_not_to, syncs


async def ask(bench: Bench) -> None:
    """Count the syncs of two chains, and take the difference."""
    if reason := reason_not_to():
        bench.skip("syncs of a chain", reason)
        return
    small, large = 20, 70 if bench.is_quick else 220
    for durability, due in (("full", 1.0), ("process", 0.0), ("lazy", 0.0)):
        a_task = (syncs(durability, large) - syncs(durability, small)) / (large - small)
        bench.add(f"syncs of a chain, {durability}", "syncs/task", [a_task], yardstick=Yardstick(due, due, least=due))
