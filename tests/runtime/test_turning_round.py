"""Corners of flows that fail, run again, or are taken up after a failure."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import RunState
from tests.runtime.loops import LoopClock, run, until


@af.task
async def bad() -> None:
    raise ValueError("bad")


async def up_to(due: str, engine: af.Engine, flow: Any) -> None:
    """Run *flow* as run ``r`` in steps until *due* is due, and leave it there."""
    steps = engine.steps(flow, run_id="r")
    async for step in steps:
        if due in step.due:
            break
    await steps.aclose()


@pytest.mark.parametrize("stopped_by", ["cancel", "deadline", "its flow's timeout"])
def test_what_may_finish_is_stopped_by_whoever_wants_the_run_to_end(stopped_by: str) -> None:
    """A sibling is let finish since nobody is in a hurry; a cancel or a time limit is one."""
    said: list[str] = []

    @af.task
    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            said.append("stopped")
            raise

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with af.Engine(clock=LoopClock(), on_failure="finish") as engine:
            limit = 5.0 if stopped_by == "its flow's timeout" else None
            deadline = loop.time() + 5.0 if stopped_by == "deadline" else None
            flow = af.unordered("f", bad, af.linear("slow", hangs, timeout=limit))
            started = await engine.start(flow, deadline=deadline)
            await until(lambda: started.state is RunState.REVERTING)
            assert said == []
            if stopped_by == "cancel":
                started.cancel("enough")
            with pytest.raises(af.RunFailed) as failed:
                await started
            assert failed.value.reverted and set(failed.value.failures) == {"bad"}

    run(main)
    assert said == ["stopped"]


def test_a_failure_counts_although_its_task_is_gone(tmp_path: Path) -> None:
    """What has happened has happened, whatever the code is today."""

    @af.task
    async def kept() -> None: ...

    @kept.revert
    async def undo() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            await up_to("-kept", engine, af.linear("f", kept, bad))
            kept_only = af.linear("f", kept.with_options(name="kept"))
            for _ in range(2):  # the second time the run has ended
                with pytest.raises(af.RunFailed, match="failed in 'bad'") as failed:
                    await engine.resume("r", quick(kept_only))
                assert list(failed.value.failures) == ["bad"] and failed.group_contains(ValueError, match="bad")
            assert list((await engine.inspect("r")).failures) == ["bad"]

    def quick(flow: Any) -> Any:
        @af.task(name="kept")
        async def again() -> None: ...

        @again.revert
        async def undo_again() -> None: ...

        return af.linear(flow.name, again)

    run(main, owns_time=False)


def test_a_controller_hears_of_a_failure_whose_task_is_gone() -> None:
    """It is asked about the attempt that failed, and that is the one of the old flow."""
    heard: list[set[str]] = []

    class Listens(af.Controller):
        name = "listens"

        async def execute(self) -> None: ...

        async def on_failure(self, history: af.History) -> af.Decision:
            heard.append(set(history[-1].failures))
            return af.Decision.RETRY

    @af.task
    async def good() -> None: ...

    async def main() -> None:
        async with af.Engine() as engine:
            await up_to("?f", engine, af.linear("o", af.linear("f", good, bad, retry=Listens())))
            await engine.resume("r", af.linear("o", af.linear("f", good, retry=Listens())))

    run(main)
    assert heard == [{"f/bad"}]


def test_a_flow_that_is_undone_cannot_lose_its_name() -> None:
    """Its tasks would be taken for new ones, and what they did would stay."""

    @af.task
    async def done() -> None: ...

    @done.revert
    async def undo() -> None: ...

    async def main() -> None:
        async with af.Engine() as engine:
            inner = af.linear("inner", done, bad, retry=af.Times(2))
            await up_to("-inner/done", engine, af.linear("outer", inner))
            renamed = af.linear("other", done, bad, retry=af.Times(2))
            with pytest.raises(af.PlanChanged, match="inner/done: is gone, and is still to be reverted"):
                await engine.resume("r", af.linear("outer", renamed))

    run(main)


def test_a_flow_that_runs_again_starts_its_inner_flows_afresh() -> None:
    """Also one that was waiting for its next attempt: that wait was the last round's."""
    tried: list[float] = []
    failed: list[str] = []

    @af.task
    async def work() -> None:
        tried.append(asyncio.get_running_loop().time())
        if len(tried) == 1:
            raise ValueError

    @af.task
    async def sibling() -> None:
        await asyncio.sleep(1.0)
        if not failed:
            failed.append("sibling")
            raise ValueError

    async def main() -> None:
        inner = af.linear("inner", work, retry=af.Times(3, backoff=af.Fixed(60.0)))
        async with af.Engine(clock=LoopClock()) as engine:
            await engine.run(af.unordered("outer", inner, sibling, retry=af.Times(2)))

    run(main)
    assert len(tried) == 2 and tried[1] - tried[0] == pytest.approx(1.0)


PAYS = """
import asyncio, os, sys
import asyncflow as af

@af.task(on_crash="fail")
async def pay():
    print("pays", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        os._exit(9)

@af.task
async def bad():
    raise ValueError("bad")

flow = af.unordered("f", pay, bad)

async def main():
    async with af.Engine("runs.db", never_revert=True) as engine:
        if sys.argv[1] == "start":
            await engine.run(flow, run_id="r")
        for _ in range(3):
            try:
                await engine.resume("r", flow)
            except af.RunFailed as failed:
                print(sorted(failed.failures), flush=True)

asyncio.run(main())
"""


def test_what_is_to_be_done_at_most_once_stays_in_doubt_where_nothing_is_undone(tmp_path: Path) -> None:
    """However often a run is resumed that keeps what it has done: an attempt that was lost may have had its effect."""
    (tmp_path / "job.py").write_text(PAYS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def job(what: str) -> list[str]:
        script = [sys.executable, "job.py", what]
        ended = subprocess.run(script, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        return ended.stdout.splitlines()

    assert job("start") == ["pays"]
    # The first resume puts the crash on record; the others would run what failed, and must not.
    assert job("resume") == ["['bad']", "['pay']", "['pay']"]


def test_a_skipped_provider_is_passed_over_in_what_a_flow_returns() -> None:
    """As it is for readers, and in ``run.results``."""

    @af.task(provides="v")
    async def one() -> int:
        return 1

    @af.task(provides="v", when=lambda: False, depth="task")
    async def two() -> int:
        return 2

    @af.task(provides="w")
    async def reads(v: int) -> int:
        return v

    async def main() -> None:
        async with af.Engine() as engine:
            flow = af.linear("f", one, two, reads)
            assert await engine.run(flow) == {"v": 1, "w": 1}
            assert await engine.run(flow.target("reads")) == {"v": 1, "w": 1}
            assert await engine.run(af.linear("g", flow, reads.named("more"))) == {"v": 1, "w": 1}

    run(main)


def test_a_run_in_memory_that_failed_knows_its_flow() -> None:
    """The message says: go on with engine.resume(...), and so one can, as with reset."""
    given = iter([False, True, True])

    @af.task(provides="v")
    async def second_time() -> int:
        if not next(given):
            raise ValueError
        return 7

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed, match=r"go on with engine.resume\('r'\)"):
                await engine.run(af.linear("f", second_time), run_id="r", never_revert=True)
            assert await engine.resume("r") == {"v": 7}
            assert await engine.resume("r") == {"v": 7}
            assert await (await engine.reset("r")) == {"v": 7}

    run(main)


def test_steps_of_a_run_that_is_taken_up_take_nothing_that_it_has_already() -> None:
    """Ignored without a word, new inputs would be taken for accepted."""

    async def main() -> None:
        async with af.Engine() as engine:
            for given in ({"inputs": {}}, {"durability": "lazy"}, {"never_revert": False}):
                with pytest.raises(
                    af.InputError, match="run 'r' keeps the inputs, the durability and the never_revert"
                ):
                    await anext(engine.steps(bad, run_id="r", resume=True, **given))  # type: ignore[arg-type]
        with pytest.raises(af.DeclarationError, match="never_revert='no' must be True or False"):
            af.Engine(never_revert="no")  # type: ignore[arg-type]

    run(main)
