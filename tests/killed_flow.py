"""
What ``test_kills`` kills: a flow with controllers in controllers, whose bodies leave traces in a folder.

Run as ``python killed_flow.py FOLDER NAME``: starts the run, or takes it up. Whether a body fails is a function of its
path and of what the controllers around it give, so every run ends alike, however often it is killed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import asyncflow as af

folder = Path(sys.argv[1] if __name__ == "__main__" else ".")


def note(what: str) -> None:
    """Leave a line behind, in one write, so that a kill leaves all of it or none."""
    handle = os.open(folder / "deeds", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(handle, f"{what}\n".encode())
    os.close(handle)


def step(name: str, *, turns: int = 1) -> af.Task:
    """Return a task that makes a file and whose revert takes it away; both may be done twice."""

    async def do(ctx: af.Context) -> str:
        note(f"do {ctx.path}")
        await asyncio.sleep(0.001 * turns)
        (folder / "made" / ctx.path.replace("/", ".")).touch()
        return name

    async def undo(ctx: af.Context) -> None:
        note(f"undo {ctx.path}")
        await asyncio.sleep(0.001)
        (folder / "made" / ctx.path.replace("/", ".")).unlink(missing_ok=True)

    made = af.task(name=name, provides=name)(do)
    made.revert(undo)
    return made


@af.task(name="shaky", provides="shaky")
async def shaky(ctx: af.Context, outer: int, middle: str, inner: int) -> str:
    """Succeeds where all three controllers give what it wants."""
    note(f"try {outer} {middle} {inner}")
    await asyncio.sleep(0.001)
    if (outer, middle, inner) != (2, "c", 2):
        raise ConnectionError(f"{outer} {middle} {inner}")
    return f"{outer} {middle} {inner}"


@shaky.revert
async def unshake(ctx: af.Context) -> None:
    note(f"undo {ctx.path}")


@af.task(name="choosy", provides="choosy", when=lambda outer: outer > 1)
async def choosy(ctx: af.Context) -> str:
    note(f"do {ctx.path}")
    return "chosen"


@af.task(name="twice")
async def twice(ctx: af.Context, other: int) -> None:
    """Fails the first time round, beside the deep flow."""
    note(f"other {other}")
    await asyncio.sleep(0.004)
    if other < 2:
        raise ConnectionError("beside")


def build() -> Any:
    inner = af.linear("inner", step("a"), shaky, retry=af.Times(2, provides="inner"))
    pair = af.unordered("pair", step("b", turns=3), inner)
    middle = af.linear("middle", pair, step("c"), retry=af.ForEach(["a", "b", "c"], provides="middle"))
    beside = af.linear("beside", step("d"), twice, retry=af.Times(3, provides="other"))
    both = af.unordered("both", middle, beside)
    choice = af.unordered("choice", choosy, step("e"))
    outer = af.linear("outer", choice, both, step("f"), retry=af.Times(2, provides="outer"))
    return af.linear("all", step("first"), outer, step("last"))


FLOWS = {
    "succeeds": build(),
    "fails": af.linear("fails", build().named("within"), step("doomed"), af.task(name="end")(lambda: 1 / 0)),
}


async def main(which: str) -> None:
    (folder / "made").mkdir(exist_ok=True)
    async with af.Engine(folder / "runs.db", durability="process") as engine:
        try:
            if await engine.runs():
                await engine.resume("r", FLOWS[which])
            else:
                await engine.run(FLOWS[which], run_id="r")
        except af.RunFailed as failed:
            print(failed)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[2]))
