"""Values that were not kept and are made again at a resume: for everybody who reads them, and before they do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af

log: list[str] = []
waiting: list[asyncio.Event] = []
"""Set once a body waits for its engine to be closed."""


@pytest.fixture(autouse=True)
def _clear() -> None:
    log.clear()


def first_time(name: str) -> bool:
    """Note that *name* is called, and return whether it never was before."""
    log.append(name)
    return log.count(name) == 1


async def stay() -> None:
    waiting[-1].set()
    await asyncio.Event().wait()


@af.task(provides="v", checkpoint=False)
async def make() -> str:
    log.append("make")
    if log.count("make") == 2:
        for _ in range(5):
            await asyncio.sleep(0)  # whoever does not wait for this would be first
    return "V"


nameless = af.task(name="make", checkpoint=False)(make.fn)
"""The same for flows that do not give the value to whoever asks."""


@af.task
async def ok() -> None:
    log.append("ok")


@af.task
async def slow() -> None:
    if first_time("slow"):
        await stay()


@af.task
async def read(v: str) -> None:
    log.append(f"read {v}")


@read.revert
async def unread() -> None:
    log.append("-read")


@af.task
async def read_or(v: str = "nothing") -> None:
    log.append(f"read {v}")


@af.task
async def broken_once() -> None:
    if first_time("broken"):
        raise ValueError("once")


@af.task
async def stays_and_breaks() -> None:
    if first_time("breaks"):
        await stay()
    if log.count("breaks") == 2:
        raise ValueError("once")


def says(v: str = "nothing") -> bool:
    log.append(f"asked {v}")
    return True


@af.flow
def fails_before_it_reads() -> None:
    read.after(broken_once())(nameless())


@af.flow(retry=af.Times(2))
def again(v: Any) -> None:
    stays_and_breaks.after(read(v))()


@af.flow
def runs_again() -> None:
    again(nameless())


@af.flow(when=lambda v: says(v))
def chosen(v: Any) -> None:
    ok()


@af.flow
def asks() -> None:
    value = nameless()
    chosen.after(slow())(value)


async def over(run: af.Run[Any]) -> None:
    await run


def pattern(*items: Any) -> Callable[[], Any]:
    return lambda: af.linear("f", make, *items)


@pytest.mark.parametrize(
    ("flow", "options", "after"),
    [
        pytest.param(
            pattern(af.linear("g", ok, slow, read_or)), {}, ["make", "slow", "read V"],
            id="a reader far behind waits, and does not take its default",
        ),
        pytest.param(
            pattern(af.linear("g", ok, slow, af.task(name="w", when=says)(lambda: log.append("w")), retry=af.Times(1))),
            {}, ["make", "slow", "asked V", "w"],
            id="so does the condition of a task in a flow that has begun",
        ),
        pytest.param(
            pattern(af.linear("g", slow, af.linear("h", ok, when=says), retry=af.Times(1))),
            {}, ["make", "slow", "asked V", "ok"],
            id="and that of a flow",
        ),
        pytest.param(lambda: asks, {}, ["make", "slow", "asked V", "ok"], id="what a condition alone reads is made"),
        pytest.param(
            lambda: runs_again, {}, ["make", "breaks", "-read", "read V", "breaks"],
            id="what has been read and will be again, once its flow starts over, is made",
        ),
        pytest.param(
            lambda: fails_before_it_reads, {"never_revert": True}, ["make", "broken", "read V"],
            id="a run that failed and goes on makes what it reads",
        ),
    ],
)  # fmt: skip
def test_who_reads_what_is_made_again(
    flow: Callable[[], Any], options: dict[str, Any], after: list[str], tmp_path: Path
) -> None:
    """Each was once read before it was there, or never made again."""

    async def main() -> None:
        waiting.append(asyncio.Event())
        async with af.Engine(tmp_path / "runs.db") as engine:
            run = await engine.start(flow(), run_id="r", **options)
            reached = asyncio.ensure_future(waiting[-1].wait())
            ending = asyncio.ensure_future(over(run))
            await asyncio.wait([reached, ending], return_when=asyncio.FIRST_COMPLETED)
            reached.cancel()
            run.suspend(grace=0.0)
            with pytest.raises((af.RunSuspended, af.RunFailed)):
                await ending
        log.append("|")
        async with af.Engine(tmp_path / "runs.db") as engine:
            await engine.resume("r", flow())

    asyncio.run(main())
    rest = log[log.index("|") + 1 :]
    assert sorted(rest) == sorted(after)
    assert all(rest.index("make") < place for place, word in enumerate(rest) if word.endswith(" V"))
