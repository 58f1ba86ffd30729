"""Type checkers see through flows: what is right passes and each line marked E in ``builders.py`` is an error."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SAMPLE = HERE / "builders.py"


def lines_marked() -> set[int]:
    lines = SAMPLE.read_text().splitlines()
    return {number for number, line in enumerate(lines, 1) if line.endswith("# E")}


def test_mypy_checks_the_wiring_of_a_builder(tmp_path: Path) -> None:
    """A wrong argument is found while it is typed, not when the flow runs."""
    api = pytest.importorskip("mypy.api")
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\nstrict = true\nmypy_path = {ROOT}\nfollow_imports = silent\ncache_dir = {tmp_path}\n")
    out, err, _ = api.run(["--config-file", str(config), "--output", "json", str(SAMPLE)])
    assert not err
    found = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    errors = {entry["line"]: entry["message"] for entry in found if entry["severity"] == "error"}
    assert errors.keys() == lines_marked(), errors


@pytest.mark.pyright
def test_pyright_checks_the_wiring_of_a_builder(tmp_path: Path) -> None:
    """Editors that use pyright show the same."""
    pytest.importorskip("pyright")
    config = tmp_path / "pyrightconfig.json"
    # A copy: the project's own settings leave these files out.
    sample = tmp_path / SAMPLE.name
    sample.write_text(SAMPLE.read_text())
    settings = {"include": [sample.name], "typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    config.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["summary"]["filesAnalyzed"] == 1, done.stdout
    errors = {
        entry["range"]["start"]["line"] + 1: entry["message"]
        for entry in report["generalDiagnostics"]
        if entry["severity"] == "error"
    }
    assert errors.keys() == lines_marked(), errors
