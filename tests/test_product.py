"""What a newcomer meets before any code: the README's commands, the package's description, the files beside it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def setup_commands() -> list[str]:
    """Return the commands of the README's section on setting up, without prompts and comments."""
    section = re.search(r"^## Set up\n(.*?)^## ", read("README.md"), re.MULTILINE | re.DOTALL)
    assert section is not None, "README.md has no section called 'Set up'"
    blocks = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ").partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_readme_and_the_machine_run_the_same_commands() -> None:
    """A green check of other commands than those that newcomers type says nothing about what they will see."""
    steps = re.findall(r'^step "(.*)"$', read(".ci/run"), re.MULTILINE)
    assert setup_commands() == steps[:2]


def test_the_check_can_be_called() -> None:
    """A script without its executable bit is found out on the machine that needs it."""
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_versions_agree() -> None:
    """Two versions in one package make every report of a mistake ambiguous."""
    import asyncflow

    assert tomllib.loads(read("pyproject.toml"))["project"]["version"] == asyncflow.__version__


def test_every_supported_python_is_named_everywhere() -> None:
    """A Python that is promised and not tested, or tested and not promised, is a promise by accident."""
    project = tomllib.loads(read("pyproject.toml"))["project"]
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    tested = re.search(r"^SUPPORTED = \((.*)\)$", read("noxfile.py"), re.MULTILINE)
    assert tested is not None
    assert re.findall(r"3\.\d+", tested[1]) == promised
    assert project["requires-python"] == f">={promised[0]}"
    assert f"for minor in {' '.join(promised)}; do" in read(".ci/run")


def test_the_package_says_that_it_is_typed() -> None:
    """Without this file type checkers see nothing but Any in everything that is imported."""
    assert (ROOT / "asyncflow" / "py.typed").is_file()
