"""
A process with a mixed load that is killed every 20 seconds and goes on, for 20 minutes: ``python tests/kills/soak.py``.

Runs that have ended are purged all the time, so the file has to stay as small as what goes on. This samples memory,
descriptors and files twice a second, prints a line for each life, and fails where something grows, where a run did not
end as it must, or where an effect in the journal's own file came twice.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from zlib import crc32

import attrs

import asyncflow as af

MIB = 1 << 20
WAL_LIMIT = 64 * MIB
DRIVERS = 3
"""How many runs of each short kind are under way at once."""
LOST_OFTEN = 1_000_000
"""Nothing here is taken for what kills the process: that is someone else's work."""


# --- What runs --------------------------------------------------------------------------------------------------------


@af.task(max_crashes=LOST_OFTEN)
async def begin(n: int) -> int:
    await asyncio.sleep(0.001)
    return n


@begin.revert
async def unbegin(n: int) -> None:
    await asyncio.sleep(0.001)


@af.task(max_crashes=LOST_OFTEN)
def in_a_thread(n: int) -> int:
    return n * 2


@af.task(max_crashes=LOST_OFTEN, retry=af.Retry(3, af.Fixed(0.01), on=(ConnectionError,)))
async def flaky(ctx: af.Context, n: int) -> int:
    if ctx.attempt < 3:
        raise ConnectionError(f"attempt {ctx.attempt}")
    return n


@af.task(max_crashes=LOST_OFTEN)
async def doomed(n: int) -> int:
    raise ValueError(n)


@af.task(max_crashes=LOST_OFTEN)
async def enlarge(n: int) -> bytes:
    return n.to_bytes(4, "big") * 17_500  # more than a record holds


@af.task(max_crashes=LOST_OFTEN)
async def measure(content: bytes) -> int:
    return len(content)


@af.task(max_crashes=LOST_OFTEN)
async def wait_until(when: float) -> None:
    await asyncio.sleep(when - time.time())


@af.task(max_crashes=LOST_OFTEN)
async def wait_for_nothing() -> None:
    await asyncio.Event().wait()


def enter(connection: sqlite3.Connection, key: str) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS payments(run_id)")
    connection.execute("INSERT INTO payments VALUES (?)", (key,))


@af.task(max_crashes=LOST_OFTEN)
async def pay(ctx: af.Context, n: int) -> None:
    return ctx.transaction(enter, ctx.run_id)


@af.flow
def quick(n: int) -> int:
    return in_a_thread(begin(n))


@af.flow
def retried(n: int) -> int:
    return flaky(begin(n))


@af.flow
def undone(n: int) -> int:
    return doomed(begin(n))


@af.flow
def large(n: int) -> int:
    return measure(enlarge(n))


@af.flow
def paid(n: int) -> None:
    return pay(begin(n))


@af.flow
def patient(when: float) -> None:
    return wait_until(when)


@af.flow
def cancelled(n: int) -> None:
    return wait_for_nothing.after(begin(n))()


SHORT = (quick, retried, undone, large, paid)
ENDS = {"undone": "REVERTED", "cancelled": "CANCELLED"}
"""How a run of each flow must end; all others succeed."""


def end_of(run_id: str) -> str:
    return ENDS.get(run_id.partition("-")[0], "SUCCEEDED")


# --- A life -----------------------------------------------------------------------------------------------------------


class Worker:
    """One life of the process that is killed: takes up what was left, and goes on until *last* is there."""

    def __init__(self, folder: Path, life: int, waits: float) -> None:
        self._file, self._last, self._up = folder / "runs.db", folder / "last", folder / "up"
        self._waits = waits
        self._ids = (f"{life}-{number}" for number in itertools.count())

    async def live(self) -> None:
        async with af.Engine(self._file) as engine, asyncio.TaskGroup() as group:
            for run in await engine.recover():
                group.create_task(_end(run))
            for flow in SHORT * DRIVERS:
                group.create_task(self._drive(lambda flow=flow: self._run(engine, flow)))
            group.create_task(self._drive(lambda: self._wait(engine)))
            group.create_task(self._drive(lambda: self._cancel(engine)))
            group.create_task(self._drive(lambda: self._purge(engine)))
            self._up.touch()

    async def end(self) -> None:
        """Do what a purge that was killed has left to do."""
        async with af.Engine(self._file) as engine:
            await engine.purge(older_than=self._waits)

    async def _drive(self, act: Callable[[], Awaitable[None]]) -> None:
        while not self._last.exists():
            await act()

    async def _run(self, engine: af.Engine, flow: af.Flow[..., Any]) -> None:
        name = f"{flow.name}-{next(self._ids)}"
        await _end(await engine.start(flow, {"n": crc32(name.encode())}, run_id=name))
        await asyncio.sleep(0.05)

    async def _wait(self, engine: af.Engine) -> None:
        """Start a run that lives longer than its process."""
        when = time.time() + self._waits
        await engine.start(patient, {"when": when}, run_id=f"patient-{next(self._ids)}")
        await asyncio.sleep(self._waits / 10)

    async def _cancel(self, engine: af.Engine) -> None:
        await _end(await engine.start(cancelled, {"n": 1}, run_id=f"cancelled-{next(self._ids)}"))
        await asyncio.sleep(0.1)

    async def _purge(self, engine: af.Engine) -> None:
        """Remove what ended half a life ago: much of it in another life, and some of it cut off by the kill."""
        await engine.purge(older_than=self._waits / 4)
        await asyncio.sleep(self._waits / 40)


async def _end(run: af.Run[Any]) -> None:
    """
    See *run* to its end, which is cancelled if it would have none.

    Whether that is the right one is looked at here, where it cannot have been purged yet.
    """
    if run.run_id.startswith("cancelled"):
        await asyncio.sleep(0.02)
        run.cancel("enough")
    try:
        await run
    except* (ValueError, af.RunCancelled):
        pass
    assert run.state.value == end_of(run.run_id), f"run {run.run_id!r} has ended {run.state.value}"


# --- Watching ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Sample:
    """What a process and its files take up."""

    memory: int
    descriptors: int
    log: int
    file: int


@attrs.define
class Life:
    """One life as it was seen."""

    number: int
    seconds: float
    samples: list[Sample]
    runs: int = 0

    def most(self, what: str) -> int:
        return max((getattr(sample, what) for sample in self.samples), default=0)

    def line(self) -> str:
        columns = (f"{self.most(what) / MIB:9.1f}" for what in ("memory", "log", "file"))
        memory, log, file = columns
        return f"{self.number:4} {self.seconds:7.1f} {self.runs:7} {memory} {self.most('descriptors'):5} {log} {file}"


HEAD = "life seconds    runs    memory   fds       log      file   (MiB, the most that was seen)"


def sample(process: int, file: Path) -> Sample | None:
    """Look at a process and the files of its journal; None where it is gone."""
    try:
        status = Path(f"/proc/{process}/statm").read_text().split()
        descriptors = sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return None
    sizes = (part.stat().st_size if part.exists() else 0 for part in (Path(f"{file}-wal"), file))
    return Sample(int(status[1]) * os.sysconf("SC_PAGE_SIZE"), descriptors, *sizes)


def count_runs(file: Path) -> int:
    if not file.exists():
        return 0
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT max(key) FROM runs").fetchone()[0] or 0)


class Soak:
    """Lives one after the other, each but the last killed."""

    def __init__(self, folder: Path, every: float) -> None:
        self._folder, self._every = folder, every
        self.file = folder / "runs.db"
        self.lives: list[Life] = []

    def live(self) -> None:
        """Let a process live for as long as one does, and kill it."""
        process, life = self._begin()
        try:
            # However long it takes to start: what is killed is a process at work.
            self._watch(process, life, time.monotonic() + 60, is_over=(self._folder / "up").exists)
            self._watch(process, life, time.monotonic() + self._every)
            assert process.poll() is None, f"life {life.number} ended by itself with {process.returncode}"
        finally:
            process.kill()
            process.wait()
        self._end(life)

    def live_on(self) -> None:
        """Let a process take up all that is left, and bring it to its end."""
        (self._folder / "last").touch()
        process, life = self._begin()
        try:
            self._watch(process, life, time.monotonic() + 600)
        finally:
            process.kill()
        assert process.wait() == 0, f"the last life ended with {process.returncode}"
        self._end(life)

    def _begin(self) -> tuple[subprocess.Popen[bytes], Life]:
        life = Life(len(self.lives), time.monotonic(), [])
        waits = str(self._every * 2)
        (self._folder / "up").unlink(missing_ok=True)
        command = [sys.executable, __file__, "--live", str(self._folder), str(life.number), waits]
        return subprocess.Popen(command), life

    def _watch(
        self,
        process: subprocess.Popen[bytes],
        life: Life,
        until: float,
        *,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        while time.monotonic() < until and process.poll() is None and not is_over():
            if (seen := sample(process.pid, self.file)) is not None:
                life.samples.append(seen)
            try:
                process.wait(min(0.5, max(0.0, until - time.monotonic())))
            except subprocess.TimeoutExpired:
                continue

    def _end(self, life: Life) -> None:
        life.seconds = time.monotonic() - life.seconds
        life.runs = count_runs(self.file) - sum(each.runs for each in self.lives)
        self.lives.append(life)
        print(life.line(), flush=True)

    # --- What must be so ----------------------------------------------------------------------------------------------

    def check_ends(self) -> None:
        """Every run that is left has ended as it must, none has paid twice, and nothing is there that is not theirs."""
        with closing(sqlite3.connect(f"{self.file.as_uri()}?mode=ro", uri=True)) as database:
            wrong = [
                (run_id, state)
                for run_id, state in database.execute("SELECT id, state FROM runs")
                if state != end_of(run_id)
            ]
            assert not wrong, f"{len(wrong)} runs ended otherwise: {wrong[:5]}"
            [(paid_for, payments)] = database.execute("SELECT count(DISTINCT run_id), count(*) FROM payments")
            assert paid_for == payments, f"{payments - paid_for} of {payments} payments came twice"
            unpaid = "SELECT count(*) FROM runs WHERE flow = 'paid' AND id NOT IN (SELECT run_id FROM payments)"
            assert database.execute(unpaid).fetchall() == [(0,)], "a run that pays has ended and not paid"
            [(left,)] = database.execute("SELECT count(*) FROM runs")
        assert left < sum(life.runs for life in self.lives), "nothing was purged"
        found = list(af.verify(self.file))
        assert not found, f"the journal is not in order: {found[:5]}"

    def check_growth(self) -> None:
        """
        The log stays bounded, and late lives take no more than early ones, of the file neither: what is left of a run
        that was purged is the line of the payment that the load itself has made, a few bytes.

        The first life and the last are not compared: one has nothing to take up, the other starts nothing.
        """
        assert max(life.most("log") for life in self.lives) < WAL_LIMIT, "the log has outgrown its limit"
        lives = self.lives[1:-1]
        third = len(lives) // 3
        for what, slack in (("memory", 16 * MIB), ("descriptors", 4), ("file", 16 * MIB)):
            if third:
                early, late = (max(life.most(what) for life in part) for part in (lives[:third], lives[-third:]))
                assert late <= early + slack, f"{what} has grown from {early} to {late}"


def soak(folder: Path, seconds: float, every: float) -> list[Life]:
    """Do it all in *folder*, which is empty, and return what was seen."""
    watched = Soak(folder, every)
    print(HEAD)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        watched.live()
    watched.live_on()
    watched.check_ends()
    watched.check_growth()
    return watched.lives


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=1200.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds from one kill to the next")
    parser.add_argument("--live", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.live is not None:
        folder, life, waits = options.live
        worker = Worker(Path(folder), int(life), float(waits))
        asyncio.run(worker.live())
        asyncio.run(worker.end())
        return
    with tempfile.TemporaryDirectory() as name:
        lives = soak(Path(name), options.seconds, options.every)
    print(f"{sum(life.runs for life in lives)} runs in {len(lives)} lives, each of which ended as it must")


if __name__ == "__main__":
    main()
