"""The command line, as a shell sees it: what it prints, where, and the exit code."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")

PROJECT = Path(__file__).parent.parent
FLOWS = """
import asyncio
import pathlib

import asyncflow as af

HERE = pathlib.Path(__file__).parent


@af.task
async def double(n: int) -> int:
    return n * 2


@double.revert
async def undo_double() -> None:
    (HERE / "undone").touch()


@af.task
async def wait(n: int) -> int:
    if not (HERE / "go").exists():
        (HERE / "waiting").touch()
        await asyncio.Event().wait()
    return n + 1


@af.task
async def fail(n: int) -> int:
    raise ValueError(f"no {n}")


@af.flow
def simple(n: int) -> int:
    return double(n)


@af.flow
def slow(n: int) -> int:
    return wait(double(n))


@af.flow
def failing(n: int) -> int:
    return fail(double(n))


@af.task
async def odd() -> dict:
    return {(1, 2): float("nan"), "plain": [1.5, float("inf")]}


@af.flow
def sized(n: int, limit: int = 2) -> list[int]:
    return [double(n), double(limit)]


@af.task
async def fails_twice(attempt: int) -> int:
    if attempt < 3:
        raise ValueError(attempt)
    return attempt


again = af.unordered(
    "again",
    af.linear("inner", fails_twice, retry=af.Times(5, provides="attempt")),
    double.with_options(name="no", when=lambda n: n > 9),
    double.with_options(name="yes", when=lambda n: n < 9),
)


@af.flow
def typo(n: int) -> int:
    return duoble(n)


nothing = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a module of flows."""
    (tmp_path / "flows.py").write_text(FLOWS)
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    return tmp_path


# Whoever is started in a shell's background inherits that Ctrl-C is ignored.
COMMAND = """
import signal
from asyncflow.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(PROJECT), "COLUMNS": "200", "NO_COLOR": "1"}
    environment.pop("ASYNCFLOW_DB", None)
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
    )


def call(folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Return the exit code, standard output and standard error of one command."""
    process = start(folder, *arguments)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def interrupted(folder: Path, number: int) -> tuple[int, str, str]:
    """Start the slow flow, send it a signal once it waits, and return how it ended."""
    process = start(folder, "run", "flows.py:slow", "-i", "n=4", "--run-id", "r", "--quiet")
    while not (folder / "waiting").exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_run_prints_its_value_and_nothing_else(folder: Path) -> None:
    """Standard output is for programs, progress goes elsewhere."""
    code, out, _ = call(folder, "run", "flows:simple", "-i", "n=4")
    assert (code, out) == (0, "8\n")
    code, out, _ = call(folder, "run", "flows.py:simple", "-i", "n=5", "--json", "--run-id", "five")
    assert code == 0
    assert json.loads(out) == {"run": "five", "state": "SUCCEEDED", "value": 10}


def test_a_failed_run_is_one_line_and_exit_code_1(folder: Path) -> None:
    """A traceback is for those who ask for one."""
    code, out, err = call(folder, "run", "flows:failing", "-i", "n=4", "--run-id", "r", "--quiet")
    assert (code, out) == (1, "")
    assert "run 'r' failed in 'fail'; everything it had done is undone" in err
    assert "fail: builtins.ValueError: no 8" in err
    assert "Traceback" not in err
    assert "Traceback" in call(folder, "--debug", "run", "flows:failing", "-i", "n=4", "--quiet")[2]


def test_a_killed_run_is_listed_shown_and_resumed(folder: Path) -> None:
    """The whole point, from a shell."""
    assert interrupted(folder, signal.SIGKILL)[0] == -signal.SIGKILL
    code, out, _ = call(folder, "ls", "--json")
    assert code == 0
    assert [(run["run"], run["state"]) for run in json.loads(out)] == [("r", "INTERRUPTED")]
    code, out, _ = call(folder, "show", "r")
    assert code == 0
    assert "INTERRUPTED, 1 of 2 tasks done" in out and "asyncflow resume r --db asyncflow.db" in out
    shown = json.loads(call(folder, "show", "r", "--json")[1])
    assert {task["path"]: task["state"] for task in shown["tasks"]} == {"double": "SUCCEEDED", "wait": "RUNNING"}
    (folder / "go").touch()
    assert call(folder, "resume", "r", "--quiet")[:2] == (0, "9\n")
    assert call(folder, "resume", "r", "--quiet")[:2] == (0, "9\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_suspended_and_says_how_to_resume(folder: Path, number: int) -> None:
    """Ctrl-C must cost nothing but the command that it prints."""
    code, out, err = interrupted(folder, number)
    assert (code, out) == (3, "")
    assert "run 'r' is suspended; go on with: asyncflow resume" in err
    assert json.loads(call(folder, "ls", "--json")[1])[0]["state"] == "SUSPENDED"
    (folder / "go").touch()
    assert call(folder, "resume", "r", "--quiet")[:2] == (0, "9\n")


def test_a_run_that_nobody_owns_is_cancelled_here(folder: Path) -> None:
    """What a killed process left must not need another run to be undone."""
    interrupted(folder, signal.SIGKILL)
    code, out, _ = call(folder, "cancel", "r")
    assert (code, out) == (0, "run 'r' is CANCELLED\n")
    assert (folder / "undone").exists()


def test_a_run_that_another_process_owns_is_cancelled_there(folder: Path) -> None:
    """Its owner looks about once a second."""
    process = start(folder, "run", "flows.py:slow", "-i", "n=4", "--run-id", "r", "--quiet")
    while not (folder / "waiting").exists():
        assert process.poll() is None, process.communicate()
    code, out, _ = call(folder, "cancel", "r")
    assert code == 0 and "its owner has been asked to cancel it" in out
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "run 'r' was cancelled (cancelled from the command line)" in err


def test_a_flow_is_drawn_and_checked(folder: Path) -> None:
    """Looking costs nothing: no journal is made."""
    assert "double" in call(folder, "graph", "flows:slow")[1]
    assert "flowchart TD" in call(folder, "graph", "flows:slow", "-f", "mermaid")[1]
    assert call(folder, "graph", "flows:slow", "-f", "dot")[1].startswith("digraph")
    code, out, _ = call(folder, "check", "flows:slow", "--json")
    assert code == 0 and json.loads(out)["inputs"] == {"n": "int"}
    assert not (folder / "asyncflow.db").exists()


def test_a_list_has_at_least_one_line(folder: Path) -> None:
    """SQLite takes a limit below zero for none at all."""
    code, out, err = call(folder, "ls", "--limit", "-3")
    assert (code, out) == (2, "") and "--limit" in err


def test_check_tells_what_a_run_needs_from_what_it_takes(folder: Path) -> None:
    """Who has to give an input that has a default gives one that nobody wanted."""
    code, out, _ = call(folder, "check", "flows:sized")
    assert code == 0 and "\n  needs n: int\n  takes limit: int\n  gives return: list[int]\n" in out
    assert json.loads(call(folder, "check", "flows:sized", "--json")[1])["required"] == ["n"]


def test_a_run_whose_id_has_a_colon_is_drawn(folder: Path) -> None:
    """Orders are often called order:7, and what is before the colon is no module then."""
    assert call(folder, "run", "flows:simple", "-i", "n=4", "--run-id", "order:7", "--quiet")[0] == 0
    code, out, _ = call(folder, "graph", "order:7")
    assert code == 0 and "double" in out and "SUCCEEDED" in out
    code, _, err = call(folder, "graph", "order:8")
    assert code == 2 and "module 'order' cannot be imported" in err


def test_a_value_that_json_does_not_know_is_printed_as_its_text(folder: Path) -> None:
    """The run has succeeded, and a program that reads its value must not be told otherwise, or be given no JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    code, out, _ = call(folder, "run", "flows:odd", "--quiet", "--json", "--run-id", "r")
    assert code == 0
    assert json.loads(out, parse_constant=refuse)["value"] == {"(1, 2)": "nan", "plain": [1.5, "inf"]}


def test_a_run_that_exists_is_resumed_by_a_command(folder: Path) -> None:
    """A shell has no engine to call."""
    for expected in (0, 2):
        code, _, err = call(folder, "run", "flows:simple", "-i", "n=4", "--run-id", "my run", "--quiet")
        assert code == expected
    assert "go on with: asyncflow resume 'my run' --db asyncflow.db; or give this one another --run-id" in err


def test_what_lies_beside_a_file_can_be_imported(folder: Path) -> None:
    """It can with `python sub/job.py`, so the run of such a script must be resumable from the folder above."""
    (folder / "sub").mkdir()
    (folder / "sub" / "beside.py").write_text("STEP = 3\n")
    (folder / "sub" / "job.py").write_text(
        "import asyncflow as af\nfrom beside import STEP\n"
        "@af.task\nasync def step(n: int) -> int: return n + STEP\n"
        "@af.flow\ndef job(n: int) -> int: return step(n)\n"
    )
    assert call(folder, "run", "sub/job.py:job", "-i", "n=4", "--run-id", "r", "--quiet")[:2] == (0, "7\n")
    assert call(folder, "resume", "r", "--quiet")[:2] == (0, "7\n")


def test_the_readme_s_commands_work_as_they_are_written(folder: Path) -> None:
    """They are typed one after the other, and each names the run that the first one made."""
    shutil.copytree(PROJECT / "examples", folder / "examples")
    section = (PROJECT / "README.md").read_text(encoding="utf-8").partition("\n## Command line\n")[2]
    lines = section.partition("```sh\n")[2].partition("```")[0].splitlines()
    said = {}
    for line in lines:
        program, *arguments = shlex.split(line, comments=True)
        assert program == "asyncflow"
        said[arguments[0]] = call(folder, *arguments)
    codes = {command: code for command, (code, _, _) in said.items()}
    # The run fails, as it is meant to, and whoever takes it up hears so again.
    assert codes == dict.fromkeys(said, 0) | {"run": 1, "resume": 1}
    assert "saga-7" in said["ls"][1] and "REVERTED" in said["ls"][1]
    assert "the warehouse is on fire" in said["show"][1] and "the warehouse is on fire" in said["resume"][2]
    assert "flowchart" in said["graph"][1]


def test_show_tells_attempts_of_flows_what_was_skipped_and_where_the_time_went(folder: Path) -> None:
    """A run that took three attempts and left something out looks like any other, unless somebody says so."""
    assert call(folder, "run", "flows.py:again", "-i", "n=4", "--run-id", "r", "--quiet")[0] == 0
    code, out, _ = call(folder, "show", "r")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0 and "3 of 4 tasks done, 1 skipped, last change" in lines[0]
    assert lines[1].startswith("took 0.") and lines[1].endswith(" s RUNNING; 7 attempts; 2 reverts; 2 flows run again")
    assert "inner SUCCEEDED, attempt 3 of its controller inner/times" in lines
    [skipped] = [line for line in lines if line.startswith("no ")]
    assert skipped == "no SKIPPED its condition said no"
    shown = json.loads(call(folder, "show", "r", "--json")[1])
    assert shown["flows"] == [{"path": "inner", "controller": "inner/times", "state": "SUCCEEDED", "attempts": 3}]
    found = shown["statistics"]
    assert (found["attempts"], found["reverts"], found["start_overs"], found["lost"]) == (7, 2, 2, 0)
    assert found["tasks"] == {"SUCCEEDED": 3, "SKIPPED": 1} and found["seconds"]["RUNNING"] > 0.0
    assert {task["path"] for task in shown["tasks"] if task["said_no"]} == {"no"}


@pytest.mark.parametrize("command", [[], ["run"], ["resume"], ["ls"], ["show"], ["graph"], ["check"], ["cancel"]])
def test_every_command_explains_itself(folder: Path, command: list[str]) -> None:
    """Help is where people learn what there is."""
    code, out, _ = call(folder, *command, "--help")
    assert code == 0 and "Usage" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "flows"], r"'flows' does not name a flow; write package.module:flow or path/to/file.py:flow"),
        (["run", "nowhere:flow"], "module 'nowhere' cannot be imported"),
        (["run", "nowhere.py:flow"], "there is no file 'nowhere.py'"),
        (["run", "flows:simpel"], "has no 'simpel' (did you mean 'simple'?)"),
        (["run", "flows:nothing"], "'flows:nothing' is a int, not a flow or task; name one that is"),
        (["run", "flows:simple"], "flow 'simple' needs input 'n', which nothing in it provides"),
        (["run", "flows:simple", "-i", "n"], "-i 'n' is not of the form name=value"),
        (["run", "flows:simple", "-i", "n=7x"], "-i 'n=7x' is text, and input 'n' of flow 'simple' is annotated int"),
        (["run", "flows:simple", "-i", "n=1", "-i", "n=2"], "input 'n' is given twice"),
        (["run", "flows:simple", "-i", "n=1", "--durability", "safe"], "durability='safe' is not one of"),
        (["check", "flows:typo"], "flow 'typo' raised NameError while it was being declared: name 'duoble' is not"),
        (["run", "flows.py:typo", "-i", "n=1"], "flow 'typo' raised NameError while it was being declared"),
        (["check", "leaves.py:flow"], "file 'leaves.py' raised SystemExit: 3"),
        (["check", "leaves:flow"], "module 'leaves' raised SystemExit on import: 3"),
        (["ls"], "there is no journal 'asyncflow.db'; name it with --db FILE"),
        (["graph", "flows:simple", "-f", "png"], "--format 'png' is not one of text, mermaid, dot"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(folder: Path, arguments: list[str], message: str) -> None:
    """Nothing was run, and the line says what to type instead."""
    code, out, err = call(folder, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1
