"""
The main job, killed with SIGKILL again and again and resumed each time: nothing done is done twice, nothing differs.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

import asyncflow as af

PROJECT = Path(__file__).parent.parent
JOB = PROJECT / "examples" / "library_report.py"
STANDARD_LIBRARY = Path(sysconfig.get_paths()["stdlib"])


class Survey:
    """The main job on *folder*, in processes of its own, with what it leaves behind."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.folder = folder
        self.out = out
        self.effects = out.with_suffix(".effects")
        self.run_id = f"survey-{folder.name}"

    def start(self) -> subprocess.Popen[bytes]:
        arguments = [str(self.folder), "--out", str(self.out), "--effects", str(self.effects), "--quiet"]
        environment = os.environ | {"PYTHONPATH": str(PROJECT)}
        return subprocess.Popen(
            [sys.executable, str(JOB), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )

    def analysed(self) -> Counter[str]:
        """How often each package was analysed, begun analyses included."""
        return Counter(self.effects.read_text().split()) if self.effects.exists() else Counter()

    def kill_after(self, analyses: int, delay: float) -> bool:
        """
        Start the job and kill it once *analyses* have begun in all, *delay* seconds later; False if it ended first.
        """
        job = self.start()
        try:
            while job.poll() is None and sum(self.analysed().values()) < analyses:
                pass
            try:
                job.wait(delay)
            except subprocess.TimeoutExpired:
                job.send_signal(signal.SIGKILL)
        finally:
            job.kill()
            job.communicate()
        return job.returncode == -signal.SIGKILL

    def finish(self) -> bytes:
        """Start the job, let it end, and return what it prints."""
        job = self.start()
        printed, complaints = job.communicate()
        assert job.returncode == 0, complaints.decode()
        return printed

    def show(self) -> af.RunReport | None:
        """What the journal says now; None where the run was killed before it was created."""

        async def look() -> af.RunReport | None:
            async with af.Engine(self.out / "runs.db") as engine:
                if not await engine.runs():
                    return None
                return await engine.inspect(self.run_id)

        return asyncio.run(look()) if (self.out / "runs.db").exists() else None

    def report(self) -> tuple[bytes, bytes]:
        return (self.out / "report.json").read_bytes(), (self.out / "report.txt").read_bytes()


def survive(folder: Path, place: Path, kills: int, seed: int) -> None:
    """Kill the job *kills* times at seeded moments and hold every stop, and the end, against an undisturbed run."""
    undisturbed = Survey(folder, place / "undisturbed")
    printed = undisturbed.finish()
    packages = len(undisturbed.analysed())

    job = Survey(folder, place / "killed")
    dice = random.Random(seed)
    moments = sorted(dice.randint(0, packages) for _ in range(kills))
    completed: dict[str, int] = {}  # package to how often it had been analysed when its completion was on record
    killed = 0
    for moment in moments:
        # Packages that were under way are analysed again after a kill: their second start counts as well.
        repeated = sum(job.analysed().values()) - len(job.analysed())
        killed += job.kill_after(moment + repeated, dice.uniform(0.0, 0.1))
        report = job.show()
        if report is None:
            continue
        analysed = job.analysed()
        done = {task.path.removeprefix("packages/") for task in report.tasks if task.state is af.TaskState.SUCCEEDED}
        assert report.state in (af.RunState.INTERRUPTED, af.RunState.SUCCEEDED)
        assert done.issuperset(completed), "a completed package is no longer on record"
        for package, times in completed.items():
            assert analysed[package] == times, f"{package} was analysed again although its completion was on record"
        # What the journal calls done has really been begun, and what it never started has not.
        for task in report.tasks:
            package = task.path.removeprefix("packages/")
            if task.path.startswith("packages/") and task.state is af.TaskState.SUCCEEDED:
                completed.setdefault(package, analysed[package])
                assert analysed[package] >= 1
            elif task.path.startswith("packages/") and task.state is af.TaskState.PENDING and not task.lost:
                assert analysed[package] == 0
    assert killed >= kills // 2, "most kills came too late to prove anything"

    assert job.finish() == printed
    assert job.report() == undisturbed.report()
    analysed = job.analysed()
    assert all(analysed[package] == times for package, times in completed.items() if package in analysed)
    final = job.show()
    assert final is not None and final.state is af.RunState.SUCCEEDED


@pytest.fixture
def small_library(tmp_path: Path) -> Path:
    """Thirty-odd packages of the standard library."""
    folder = tmp_path / "library"
    folder.mkdir()
    for package in (
        "asyncio",
        "json",
        "email",
        "logging",
        "http",
        "importlib",
        "concurrent",
        "unittest",
        "xml",
        "urllib",
    ):
        shutil.copytree(STANDARD_LIBRARY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for module in sorted(STANDARD_LIBRARY.glob("[a-d]*.py")):
        shutil.copy(module, folder)
    return folder


def test_a_killed_survey_resumes_where_it_was(small_library: Path, tmp_path: Path) -> None:
    """This is the promise on the first page: kill it whenever you like."""
    survive(small_library, tmp_path, kills=6, seed=20261121)


@pytest.mark.slow
def test_a_survey_of_the_standard_library_survives_fifty_kills(tmp_path: Path) -> None:
    """The same on the real input, at fifty seeded moments."""
    survive(STANDARD_LIBRARY, tmp_path, kills=50, seed=50)


def test_a_package_that_appears_between_kill_and_resume_shifts_nothing(small_library: Path, tmp_path: Path) -> None:
    """Tasks are known by their names, so a new neighbour must not disturb what is done."""
    job = Survey(small_library, tmp_path / "out")
    assert job.kill_after(8, 0.0)
    before = job.show()
    assert before is not None
    done = [task.path for task in before.tasks if task.state is af.TaskState.SUCCEEDED]
    analysed = job.analysed()
    (small_library / "aaa_newcomer.py").write_text('"""New."""\nimport json\n')
    assert b"aaa_newcomer" in job.finish() or b"aaa_newcomer" in job.report()[0]
    assert job.analysed()["aaa_newcomer"] == 1
    for path in done:
        package = path.removeprefix("packages/")
        assert job.analysed()[package] == analysed[package]
