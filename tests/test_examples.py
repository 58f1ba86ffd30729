"""
Every example and the README's code, run as their reader would run them.

The examples are not run by default; ``pytest -m examples`` does.
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("[!_]*.py"))


def stated_output(source: str) -> str | None:
    """Return the comment below the line ``# Prints:`` as text, or None if there is none."""
    _, heading, rest = f"\n{source}".partition("\n# Prints:\n")
    if not heading:
        return None
    comment = takewhile(lambda line: line.startswith("#"), rest.splitlines())
    return "".join(f"{line[1:].removeprefix(' ').rstrip()}\n" for line in comment)


def agrees(stated: str, printed: str) -> bool:
    """Return whether *printed* is what was stated, where ``...`` stands for anything."""
    printed = "\n".join(line.rstrip() for line in printed.strip().splitlines()) + "\n"
    return doctest.OutputChecker().check_output(stated, printed, doctest.ELLIPSIS | doctest.DONT_ACCEPT_BLANKLINE)


@pytest.mark.examples
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_prints_what_it_says(example: Path, tmp_path: Path) -> None:
    """Examples are copied before anything else is read, so they have to run, and to do what they say."""
    done = subprocess.run(
        [sys.executable, str(example)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "NO_COLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stated = stated_output(example.read_text(encoding="utf-8"))
    if stated is not None:
        assert agrees(stated, done.stdout), f"stated:\n{stated}\nprinted:\n{done.stdout}"


def test_the_readme_s_code_runs_as_it_is_written(tmp_path: Path) -> None:
    """It is the first code that anyone copies. Its blocks go on from each other and say in comments what they print."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "readme.py").write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "readme.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    stated = re.findall(r"  # prints: (.*)", "\n".join(blocks))
    assert stated and done.stdout.splitlines() == stated


def test_the_stated_output_is_read_from_the_source() -> None:
    """An example whose output is not found would pass whatever it prints."""
    source = 'print("sum")\n\n# Prints:\n# sum 10\n#   in ... s\n\n# Something else.\n'
    assert stated_output(source) == "sum 10\n  in ... s\n"
    assert stated_output("print(1)\n") is None


@pytest.mark.parametrize(
    ("printed", "verdict"),
    [("sum 10\n  in 0.1 s\n", True), ("sum 11\n  in 0.1 s\n", False), ("sum 10\n", False), ("", False)],
)
def test_other_output_is_noticed(printed: str, verdict: bool) -> None:
    """A comparison that forgives too much is none."""
    assert agrees("sum 10\n  in ... s\n", printed) is verdict
