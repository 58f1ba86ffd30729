"""The plugin for pytest: in a suite of its own process, as users have it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

SUITE = """
import asyncio
import asyncflow as af

@af.task
async def remind() -> str:
    await asyncio.sleep(86_400 * 30)
    return "reminded"

flow = af.linear("reminder", remind.with_options(provides="what"))

def test_virtual_time(virtual_time):
    async def main():
        async with virtual_time.engine() as engine:
            return await engine.run(flow)
    assert virtual_time.run(main()) == {"what": "reminded"}

def test_engine(engine, tmp_path):
    @af.task(provides="n")
    def give() -> int:
        return 1
    async def main():
        async with engine:
            return await engine.run(af.linear("giving", give))
    assert asyncio.run(main()) == {"n": 1}
    assert (tmp_path / "runs.db").exists()
"""


def pytest_in(folder: Path, *options: str) -> str:
    # Where asyncflow is installed its plugin is known already, and would be refused a second time.
    known = [one.name for one in entry_points(group="pytest11")]
    named = [] if "asyncflow" in known else ["-p", "pytest_asyncflow"]
    command = [sys.executable, "-m", "pytest", "-q", *named, "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_fixtures_work_with_and_without_other_plugins(tmp_path: Path) -> None:
    """They are plain fixtures, so it does not matter who runs coroutines."""
    (tmp_path / "test_it.py").write_text(SUITE)
    assert "2 passed" in pytest_in(tmp_path)
    assert "2 passed" in pytest_in(tmp_path, "-p", "no:anyio")


def test_a_suite_that_does_not_use_it_does_not_import_asyncflow(tmp_path: Path) -> None:
    """Everyone who has asyncflow installed has the plugin, in all their suites."""
    (tmp_path / "test_it.py").write_text(
        "import sys\ndef test_it():\n    assert 'pytest_asyncflow' in sys.modules and 'asyncflow' not in sys.modules\n"
    )
    assert "1 passed" in pytest_in(tmp_path)
