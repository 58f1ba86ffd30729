"""What is checked, and how: ``nox`` runs the tests on every supported Python found, and lints; ``nox -l`` lists all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nox

SUPPORTED = ("3.11", "3.12", "3.13")
PROJECT = nox.project.load_toml("pyproject.toml")


def select_from_pyenv() -> None:
    """
    Let pyenv offer the newest of each supported Python, unless someone has chosen already.

    A shim of pyenv is on the path also where the Python behind it is not selected, and then fails when it is called.
    """
    if "PYENV_VERSION" in os.environ:
        return
    try:
        listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return
    newest: dict[str, int] = {}
    for minor, patch in re.findall(r"^(\d+\.\d+)\.(\d+)$", listed, re.MULTILINE):
        newest[minor] = max(newest.get(minor, 0), int(patch))
    if chosen := [f"{minor}.{newest[minor]}" for minor in SUPPORTED if minor in newest]:
        os.environ["PYENV_VERSION"] = ":".join(chosen)


def is_usable(version: str) -> bool:
    """Return whether ``python<version>`` starts and can make an environment."""
    try:
        subprocess.run([f"python{version}", "-c", "import ensurepip, venv"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


select_from_pyenv()
# Nobody needs all of them; whoever runs nox has at least the Python that it runs on.
PYTHONS = [version for version in SUPPORTED if is_usable(version)] or [sys.executable]

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|venv"
nox.options.sessions = ["tests", "lint"]


def install(session: nox.Session, group: str) -> None:
    """Install asyncflow from this checkout with all its extras, and what *group* needs."""
    session.install("-q", "-e", ".[cli,examples]", *nox.project.dependency_groups(PROJECT, group))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the default test suite. Arguments go to pytest: ``nox -s tests -- -k resume``."""
    install(session, "test")
    # As many processes as there are processors: no test may depend on another, or on being alone.
    session.run("python", "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check the code's form."""
    session.install("-q", *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy and pyright, and that both see through flows."""
    install(session, "types")
    session.run("mypy")
    session.run("pyright")
    session.run("python", "-m", "pytest", "-q", "-m", "", "tests/typing", *session.posargs)


@nox.session
def examples(session: nox.Session) -> None:
    """Run every example and compare what it prints with what it says it prints."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-q", "-m", "examples", "tests/test_examples.py", *session.posargs)


@nox.session
def proof(session: nox.Session) -> None:
    """Run what takes long: ten thousand kills, and many more examples of every property."""
    install(session, "test")
    session.run("python", "-m", "pytest", "-q", "-n", "auto", "-m", "slow", *session.posargs)


# How much the default tests must take of lines and branches together, in percent: of each folder or file on whose word
# a run is resumed, undone or given to another, and last of the package.
THRESHOLDS = {
    "machine/*": 100,
    "stores/*": 100,
    "codec/*": 100,
    "heart.py": 100,
    "patience.py": 100,
    "launch.py": 100,
    "runtime/questions.py": 100,
    "*": 95,
}


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which branches the tests take, and fail below the thresholds. Arguments go to pytest."""
    install(session, "coverage")
    session.run(
        "python", "-m", "pytest", "-q", "-n", "auto", "--dist", "worksteal", "--cov", "--cov-report=", *session.posargs
    )
    for files, least in THRESHOLDS.items():
        session.run(
            "coverage", "report", "--skip-covered", "--show-missing", f"--fail-under={least}",
            f"--include=asyncflow/{files}",
        )  # fmt: skip


@nox.session
def mutants(session: nox.Session) -> None:
    """
    Break the machine in small ways, one at a time, and see that a test notices.

    All of them take hours: ``nox -s mutants -- 300 7`` takes a sample of 300 by the seed 7, and
    ``nox -s mutants -- adoption choices`` all of two modules.
    """
    install(session, "mutants")
    session.run("python", "-m", "tests.mutation", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Keep a process under load for 20 minutes and kill it every 20 s. For less: ``nox -s soak -- 120 --every 5``."""
    install(session, "test")
    session.run("python", "tests/kills/soak.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure what asyncflow costs. Arguments go to the benchmarks: ``nox -s bench -- --list``."""
    session.install("-q", ".[cli]")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(python=PYTHONS)
def guard(session: nox.Session) -> None:
    """
    Count what the hot paths cost, and fail where it is 5 % more than recorded. It takes valgrind, and a minute or two.

    ``nox -s guard-3.13 -- chain fan`` counts some cases, and ``nox -s guard -- --record`` records what is so now.
    """
    session.install("-q", "-e", ".[cli]")
    session.run("python", "-m", "benchmarks.guard", *session.posargs)


@nox.session
def bench_peers(session: nox.Session) -> None:
    """
    Measure what others cost for the same work, each in an environment of its own that this makes; some ten minutes.

    ``nox -s bench_peers -- langgraph dask`` measures some of them.
    """
    session.install("-q", ".[cli]")
    environments = str(Path(session.virtualenv.location).parent / "peers")
    session.run("python", "-m", "benchmarks.peers", "--environments", environments, *session.posargs)


@nox.session(python=PYTHONS)
def performance(session: nox.Session) -> None:
    """
    Write ``docs/performance.md`` anew, from the newest Python, its peers, and the oldest. Have a quiet machine.

    On the oldest a task in memory costs something else, as does the bare mechanism. All take some twenty minutes.
    """
    version = str(session.python)
    if version not in (PYTHONS[0], PYTHONS[-1]):
        session.skip("nothing of it is on the page")
    session.install("-q", ".[cli]")
    if version != PYTHONS[-1]:
        file = f"benchmarks/figures/own-{version}.json"
        session.run("python", "-m", "benchmarks", "in_memory", "uvloop", "--json", file)
        return
    session.run("python", "-m", "benchmarks", "--json", "benchmarks/figures/own.json")
    environments = str(Path(session.virtualenv.location).parent / "peers")
    # 1 says that asyncflow is behind somewhere; so will the page.
    session.run(
        "python", "-m", "benchmarks.peers", "--environments", environments, "--json", "benchmarks/figures/peers.json",
        success_codes=[0, 1],
    )  # fmt: skip
    session.run("python", "-m", "benchmarks.page")
