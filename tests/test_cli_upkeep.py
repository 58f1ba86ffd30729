"""The commands that look after a journal, as a shell sees them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

import asyncflow as af
from asyncflow.cli import upkeep  # noqa: F401  # its commands are known once it is imported
from asyncflow.cli.app import app


def asked(path: Path, *arguments: str) -> tuple[int, str]:
    """Return the exit code and what was printed."""
    result = CliRunner().invoke(app, [*arguments, "--db", str(path)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def plain(path: Path, *arguments: str) -> Any:
    """Return what a command prints with --json."""
    code, text = asked(path, *arguments, "--json")
    assert code == 0
    return json.loads(text)


@af.task
async def double(n: int) -> int:
    return n * 2


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal with one run that has ended."""

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            await engine.run(af.linear("one", double), {"n": 4}, run_id="a")

    asyncio.run(main())
    return tmp_path / "runs.db"


def test_why_and_export_answer_for_people_and_for_programs(journal: Path) -> None:
    """Scripts read the one, people the other."""
    assert asked(journal, "why", "a", "double") == (0, "double waits for nothing: it is SUCCEEDED\n")
    assert plain(journal, "why", "a", "double")["reasons"] == ["double waits for nothing: it is SUCCEEDED"]
    code, text = asked(journal, "export", "a")
    assert (code, json.loads(text)["run"]) == (0, "a")
    with pytest.raises(af.InputError, match="no task 'duoble'"):
        asked(journal, "why", "a", "duoble")


def test_diff_exits_with_2_where_a_resume_would_be_refused(journal: Path) -> None:
    """So a deploy can ask before it is one."""
    flows = journal.parent / "changed_flows.py"
    flows.write_text(
        "import asyncflow as af\n\n@af.task\nasync def double(n: int) -> int: ...\n\n"
        "same = af.linear('one', double)\nother = af.linear('one', double.with_options(version=2))\n"
    )
    assert asked(journal, "diff", "a", f"{flows}:same") == (0, "nothing has changed for run 'a'\n")
    assert asked(journal, "diff", "a", f"{flows}:other") == (2, "! double: was version None and is 2\n")
    code, text = asked(journal, "diff", "a", f"{flows}:other", "--json")
    assert code == 2 and json.loads(text)["changes"][0]["kind"] == "changed version"


def test_a_table_in_a_pipe_is_not_folded(journal: Path) -> None:
    """A script that takes a line for a run must find its whole id in it."""
    long = "a" * 150

    async def main() -> None:
        async with af.Engine(journal) as engine:
            await engine.run(af.linear("one", double), {"n": 4}, run_id=long)

    asyncio.run(main())
    code, text = asked(journal, "ls")
    assert code == 0 and [line.split()[0] for line in text.splitlines()] == ["RUN", long, "a"]


def test_an_id_like_an_option_goes_behind_two_dashes(journal: Path) -> None:
    """The commands that messages end with do so."""

    async def main() -> str:
        async with af.Engine(journal) as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(af.linear("one", double), {"n": None}, run_id="-a")
            return failed.value.message

    assert asyncio.run(main()).endswith(f"look at it with: asyncflow show --db {journal} -- -a")
    shown = CliRunner().invoke(app, ["show", "--db", str(journal), "--", "-a"])
    assert shown.exit_code == 0 and shown.stdout.startswith("run -a of flow one: REVERTED")


def test_verify_exits_with_5_where_something_is_damaged(journal: Path) -> None:
    """A nightly job looks at the exit code alone."""
    assert asked(journal, "verify") == (0, f"{journal} is sound\n")
    assert CliRunner().invoke(app, ["verify", str(journal)]).stdout == f"{journal} is sound\n"
    with pytest.raises(af.InputError, match="two journals are named"):
        asked(journal, "verify", "another.db")
    with sqlite3.connect(journal) as database:
        database.execute("DELETE FROM records WHERE number = 1")
    database.close()
    code, text = asked(journal, "verify")
    assert code == 5
    assert text.startswith("record 1 of run 'a': is missing; restore the file from a backup\n")


def test_backup_purge_and_doctor_do_what_they_say(journal: Path) -> None:
    """Each prints one line, or JSON, and leaves the rest alone."""
    copy = journal.with_name("copy.db")
    assert asked(journal, "backup", str(copy))[0] == 0
    assert asked(copy, "verify") == (0, f"{copy} is sound\n")
    assert plain(journal, "suspend", "a") == {"run": "a", "state": "SUCCEEDED", "asked": False}
    assert asked(journal, "purge", "--older-than", "1h") == (0, f"0 runs purged from {journal}\n")
    assert plain(journal, "purge", "--older-than", "0s") == {"purged": ["a"]}
    assert {remark["about"] for remark in plain(journal, "doctor")} >= {"python", "sqlite", "file system", "size"}
    with pytest.raises(af.InputError, match="'soon' is no age"):
        asked(journal, "purge", "--older-than", "soon")
