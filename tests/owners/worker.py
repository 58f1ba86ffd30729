"""
An engine in a process of its own: ``python -m tests.owners.worker FILE LEASE WHAT``.

What happens to a run it tells line by line, and it goes on to its next step when it is told to.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
import time
from pathlib import Path

import asyncflow as af

# Also in the copy of this module that recover() imports, by the path that a journal keeps of a flow in ``__main__``.
FILE = Path(sys.argv[1] if Path(sys.argv[0]).name == "worker.py" else "runs.db")


def say(what: str) -> None:
    """Tell the one who has started this process."""
    print(what, flush=True)


@af.task
async def waits(ctx: af.Context) -> str:
    """Waits for ever the first time, with nothing to put on record, and is told to stop."""
    say(f"begun {ctx.attempt}")
    if ctx.attempt > 1 or ctx.recovered:
        return "done"
    try:
        await asyncio.Event().wait()
    finally:
        say("stopped")
    return "never"


@af.flow
def waiting() -> str:
    return waits()


@af.task
async def blocks(seconds: float) -> str:
    """Blocks the event loop, as nobody should."""
    say("begun")
    time.sleep(seconds)  # noqa: ASYNC251
    say("awake")
    return "done"


@af.flow
def blocking(seconds: float) -> str:
    return blocks(seconds)


@af.task
async def deed(number: int) -> int:
    """Leaves a line behind, in one write."""
    with (FILE.parent / "deeds").open("a") as deeds:
        deeds.write(f"{number}\n")
    await asyncio.sleep(0)
    return number


@af.task
async def gate(number: int) -> int:
    """Has the run wait the first time, so that many are unfinished when their process is killed."""
    if not (FILE.parent / "open").exists():
        await asyncio.Event().wait()
    return number


@af.flow
def job(number: int) -> int:
    return deed(gate(number))


async def start_waiting(engine: af.Engine) -> None:
    try:
        await engine.run(waiting, run_id="r")
    except af.RunOvertaken as overtaken:
        say(f"overtaken {overtaken.run_id}")


async def resume(engine: af.Engine) -> None:
    say("waiting")
    say("value " + await engine.resume("r", waiting, wait=60.0))


async def start_blocking(engine: af.Engine) -> None:
    say("value " + await engine.run(blocking, {"seconds": 2.5}, run_id="r"))


async def start_jobs(engine: af.Engine) -> None:
    for number in range(200):
        await engine.start(job, {"number": number}, run_id=f"job-{number}", durability="process")
    say("started")
    await asyncio.Event().wait()


async def recover(engine: af.Engine) -> None:
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    runs = await engine.recover()
    for run in runs:
        await run
    say(f"did {len(runs)}")


async def pool(engine: af.Engine) -> None:
    """Take up whatever is left, until it is told to go."""
    recovering = asyncio.create_task(engine.recover(wait=math.inf))
    say("ready")
    await asyncio.to_thread(sys.stdin.readline)
    recovering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await recovering


async def main(lease: float, what: str) -> None:
    async with af.Engine(FILE, lease=lease) as engine:
        await globals()[what](engine)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[2]), sys.argv[3]))
