"""One life of a process: it opens an engine, starts runs or takes them up, and dies at a point or sees them all end."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import asyncflow as af
from asyncflow.graph import record as recorded
from asyncflow.machine.replay import plans_named
from asyncflow.stores.writer import Writer
from tests.kills import flows
from tests.kills.deeds import KEPT, Deed
from tests.kills.flows import Play, Stage
from tests.kills.points import Death, Points

TOO_LONG = 15
"""Seconds after which a life is taken for stuck."""


def fork(play: Play, folder: Path, life: int, death: Death | None) -> int:
    """Live one life in a child of this process, which has no threads; return how it ended, as ``wait`` tells."""
    child = os.fork()
    if child == 0:
        _live(play, folder, life, death)
    return os.waitpid(child, 0)[1]


def _live(play: Play, folder: Path, life: int, death: Death | None) -> NoReturn:
    try:
        gc.disable()
        signal.alarm(TOO_LONG)
        points = Points(death)
        Stage.present = stage = Stage(folder, life, points)
        points.watch_statements()
        stage.watch_machines()
        _watch_writer(stage)
        with asyncio.Runner(loop_factory=points.loop) as runner:
            runner.run(_live_in(play, folder / "runs.db", life))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def _watch_writer(stage: Stage) -> None:
    """Note each record of which the writer has said that it is durable."""
    append = Writer.append

    def watch(self: Writer, line: Any, *args: Any) -> Any:
        number = line.next
        kept = append(self, line, *args)
        if kept is None:
            if line.durability != "lazy":
                note(line, number)
        else:
            kept.add_done_callback(lambda done: done.cancelled() or done.exception() or note(line, number))
        return kept

    def note(line: Any, number: int) -> None:
        stage.deeds.note(Deed(KEPT, stage.life, line.run_id, "", number, line.durability))

    setattr(Writer, "append", watch)  # noqa: B010


async def _live_in(play: Play, file: Path, life: int) -> None:
    rng = random.Random(f"life {play.seed} {life}")
    async with af.Engine(file, durability=play.durability, concurrency=play.concurrency) as engine:
        if play.recovers:
            await engine.recover()
        # In this order: a run that ends while the listing is read must not be taken for one that is left.
        mine = {run.run_id for run in engine.running()}
        there = {info.run_id: info for info in await engine.runs()}
        takings = [
            _take(engine, play, run_id, there.get(run_id), rng.random() < 0.5)
            for run_id in play.run_ids
            if run_id not in mine
        ]
        await asyncio.gather(*takings)
        runs = engine.running()
        if play.trouble in ("cancel", "suspend") and runs and life < 3:
            for _ in range(rng.randint(0, 60)):
                await asyncio.sleep(0)
            chosen = rng.choice(runs)
            chosen.cancel("enough") if play.trouble == "cancel" else chosen.suspend("enough")
        await asyncio.gather(*runs, return_exceptions=True)


async def _take(engine: af.Engine, play: Play, run_id: str, info: af.RunInfo | None, accept: bool) -> None:
    """Start a run, or take it up if it has not ended."""
    if info is not None and info.state.is_ended:
        return
    if play.sort == "changing":
        await _take_changed(engine, play, run_id, is_new=info is None)
        return
    flow = flows.flow_of(play.seed, run_id)
    if info is None:
        deadline = time.time() + 0.05 if play.trouble == "deadline" else None
        await engine.start(flow, run_id=run_id, deadline=deadline, never_revert=play.never_revert)
    else:
        await engine.take_up(run_id, flow, accept_changes=accept)


async def _take_changed(engine: af.Engine, play: Play, run_id: str, *, is_new: bool) -> None:
    """Start a run, or take it up with another flow than before; where that does not fit, with the one that it had."""
    life = Stage.present.life
    rng = random.Random(f"changes {play.seed} {life}")
    had: flows.Extras = ()
    if not is_new:
        store = engine._store
        named = plans_named(await store.read(run_id))
        had = flows.extras_of(recorded.decode(await store.plan(named[-1])))
    flow = flows.flow_of(play.seed, run_id, flows.written(flows.changed(had, life, rng, is_new=is_new)))
    if is_new:
        await engine.start(flow, run_id=run_id, never_revert=play.never_revert)
        return
    try:
        await engine.take_up(run_id, flow)
    except af.PlanChanged:
        await engine.take_up(run_id, flows.flow_of(play.seed, run_id, flows.written(had)))
