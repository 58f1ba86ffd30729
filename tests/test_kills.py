"""
A flow with controllers in controllers, killed with SIGKILL in the middle of attempts, retries and reverts, and resumed
each time: it ends as if nobody had touched it.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import attrs
import pytest

import asyncflow as af
from asyncflow import messages as m
from tests import killed_flow
from tests.machine.stage import check_order

PROJECT = Path(__file__).parent.parent


@attrs.frozen
class End:
    """What can be told of a run that is over: all of it must be the same with and without kills."""

    state: af.RunState
    tasks: list[tuple[str, str, object]]
    made: list[str]
    tries: list[str]
    decisions: list[tuple[str, str]]


class Job:
    """The run of one flow, in processes of its own, with what it leaves behind."""

    def __init__(self, flow: str, folder: Path) -> None:
        self.flow = flow
        self.folder = folder
        folder.mkdir()

    def start(self) -> subprocess.Popen[bytes]:
        script = [sys.executable, str(PROJECT / "tests" / "killed_flow.py"), str(self.folder), self.flow]
        environment = os.environ | {"PYTHONPATH": str(PROJECT)}
        return subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)

    @property
    def deeds(self) -> list[str]:
        file = self.folder / "deeds"
        return file.read_text().splitlines() if file.exists() else []

    def kill_after(self, deeds: int, delay: float) -> bool:
        """Start or resume the run and kill it *delay* seconds after *deeds* more have begun; False if it has ended."""
        wanted = len(self.deeds) + deeds
        job = self.start()
        try:
            while job.poll() is None and len(self.deeds) < wanted:
                pass
            try:
                job.wait(delay)
            except subprocess.TimeoutExpired:
                job.send_signal(signal.SIGKILL)
        finally:
            job.kill()
            _, complaints = job.communicate()
        assert job.returncode in (0, -signal.SIGKILL), complaints.decode()
        return job.returncode != 0

    def finish(self) -> End:
        """Let the run end, and return how it did."""
        job = self.start()
        _, complaints = job.communicate()
        assert job.returncode == 0, complaints.decode()
        return asyncio.run(self._look())

    async def _look(self) -> End:
        async with af.Engine(self.folder / "runs.db") as engine:
            report = await engine.inspect("r")
            records = await engine._store.read("r")
        plan = killed_flow.FLOWS[self.flow].compile()
        check_order(plan, records)
        events = [event for record in records for event in record.events]
        decisions = [event for event in events if isinstance(event, m.ControllerAnswered)]
        return End(
            report.state,
            [(task.path, task.state.name, task.value) for task in report.tasks],
            sorted(file.name for file in (self.folder / "made").iterdir()),
            # An attempt that was lost is made again with the same values.
            [deed for deed, _ in groupby(deed for deed in self.deeds if deed.startswith("try"))],
            # Flows side by side are asked in any order.
            sorted((plan.scopes[event.scope].path, event.decision) for event in decisions),
        )


def survive(flow: str, place: Path, undisturbed: End, kills: int, seed: int) -> int:
    """Kill the run of *flow* up to *kills* times at seeded moments, hold its end against another, count the kills."""
    dice = random.Random(seed)
    job = Job(flow, place / f"{flow}-{seed}")
    killed = 0
    # A task may be lost five times in a row, so no run is killed more often than that.
    while killed < kills and job.kill_after(dice.randint(0, 160 // kills), dice.uniform(0.0, 0.006)):
        killed += 1
    assert job.finish() == undisturbed, f"seed {seed}"
    return killed


def play(flow: str, place: Path, kills: int, runs: int) -> None:
    undisturbed = Job(flow, place / "undisturbed").finish()
    assert undisturbed.state is (af.RunState.SUCCEEDED if flow == "succeeds" else af.RunState.REVERTED)
    assert bool(undisturbed.made) is (flow == "succeeds")
    killed = sum(survive(flow, place, undisturbed, kills, seed) for seed in range(runs))
    assert killed >= kills * runs // 2, "most kills came too late to prove anything"


@pytest.mark.parametrize("flow", killed_flow.FLOWS)
def test_a_flow_that_is_killed_while_it_retries_and_reverts_ends_as_if_it_had_not_been(
    tmp_path: Path, flow: str
) -> None:
    """A controller's history and half an undone flow survive as values do."""
    play(flow, tmp_path, kills=2, runs=1)


@pytest.mark.slow
@pytest.mark.parametrize("flow", killed_flow.FLOWS)
def test_fifty_kills_each(tmp_path: Path, flow: str) -> None:
    """The same at a hundred seeded moments in all, four to a run."""
    play(flow, tmp_path, kills=4, runs=13)
