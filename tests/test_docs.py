"""The code in ``docs``, run block by block, as a reader would run what they copy."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks_of(page: str) -> list[tuple[int, str]]:
    """Return the Python blocks of *page* that use asyncflow, each with the line that it begins in."""
    found = re.finditer(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [(page.count("\n", 0, block.start(1)) + 1, block[1]) for block in found if "asyncflow" in block[1]]


BLOCKS = [
    pytest.param(code, id=f"{page.stem}-{line}")
    for page in PAGES
    for line, code in blocks_of(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("code", BLOCKS)
def test_a_block_runs_by_itself(code: str, tmp_path: Path) -> None:
    """Each is copied alone, so it imports what it uses; and it asserts what the text around it says."""
    (tmp_path / "block.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", "block.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "assert " in code, "nothing in the block says what it does"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_link_leads_somewhere(page: Path) -> None:
    """A page is moved or a heading renamed, and nobody notices that links to it are dead."""
    text = page.read_text(encoding="utf-8")
    for place in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        path, _, anchor = place.partition("#")
        aim = (page.parent / path).resolve() if path else page
        assert aim.exists(), place
        headings = re.findall(r"^#+ (.+)$", aim.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
        assert not anchor or anchor in [re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings]


def test_only_python_that_uses_asyncflow_is_found() -> None:
    """Were no block found, or another library's, the tests above would pass or fail for nothing."""
    page = "text\n\n```python\nimport os\n```\n\n```python\nimport asyncflow\n```\n\n```sh\nasyncflow ls\n```\n"
    assert blocks_of(page) == [(8, "import asyncflow\n")]
    assert len(BLOCKS) >= 10
