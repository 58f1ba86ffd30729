"""Flows made by a function that runs remember."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import DeclarationError
from asyncflow.graph.find import find_flow

SCRIPT = """
import asyncio, sys
import asyncflow as af

@af.task(provides="x")
async def one() -> int:
    return 1

@af.task(provides="y")
async def times(x: int, n: int) -> int:
    if "stop" in sys.argv:
        await asyncio.Event().wait()
    return x * n

@af.factory
def made(n: int, deep: dict) -> af.Flow:
    return af.linear("made", one, times.with_options(inject={"n": n + deep["a"][0]}))

async def main() -> None:
    async with af.Engine("runs.db", grace=0.0) as engine:
        run = await engine.start(made(5, deep={"a": [2]}), run_id="r")
    print(run.state.value)

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_run_of_a_factory_is_resumed_by_its_name_alone(tmp_path: Path) -> None:
    """Another process rebuilds the flow from what the journal has."""
    (tmp_path / "job.py").write_text(SCRIPT)
    said = subprocess.run([sys.executable, "job.py", "stop"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert said.stdout == "SUSPENDED\n"
    command = "from asyncflow.cli import main; main()"
    resume = [sys.executable, "-c", command, "resume", "r", "--db", "runs.db", "--json"]
    again = subprocess.run(resume, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert '"y": 7' in again.stdout


@af.task(provides="x")
async def given(n: int) -> int:
    return n


@af.factory
def flow_of(n: int, *, label: str = "f") -> Any:
    return af.linear(label, given.with_options(inject={"n": n}))


@af.factory
def task_of(n: int) -> Any:
    return given.with_options(inject={"n": n})


@af.factory
def nothing() -> Any:
    return None


def ran(flow: Any) -> Any:
    async def main() -> Any:
        async with af.Engine() as engine:
            return await engine.run(flow)

    return asyncio.run(main())


def test_what_a_factory_made_is_found_again() -> None:
    """By its reference, which has the arguments in it; a task will do."""
    flow = flow_of(5, label="five")
    assert flow.ref == f'{__name__}:flow_of([[5],{{"label":"five"}}])'
    again = find_flow(flow.ref)
    assert again.name == "five" and ran(again) == {"x": 5}
    assert ran(find_flow(task_of(7).ref or ""))["x"] == 7
    odd = flow_of(5, label="total:max(x)")
    assert find_flow(odd.ref or "").name == "total:max(x)", "what stands in an argument is no place of a flow"
    assert flow.with_options(name="six").ref is None, "the factory would not make this one"


@pytest.mark.parametrize("value", [{1, 2}, (1,), {1: 2}, [object()], float("nan"), b"x"])
def test_arguments_that_cannot_be_written_down_are_refused(value: Any) -> None:
    """When the flow is made, not when its run is to be resumed."""
    with pytest.raises(
        DeclarationError, match=r"argument 1 of factory 'flow_of' has .* in it, a \w+; a run has to write"
    ):
        flow_of(value)


def test_arguments_that_hold_themselves_are_refused() -> None:
    """However deep somebody looks."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(DeclarationError, match="a run has to write it down"):
        flow_of(value)  # type: ignore[arg-type]


def test_what_a_factory_cannot_make_is_said() -> None:
    """No flow, arguments that do not fit, and a reference that was damaged."""
    with pytest.raises(DeclarationError, match="factory 'nothing' returned no flow"):
        nothing()
    with pytest.raises(DeclarationError, match=r"factory 'flow_of' cannot make its flow of no arguments: TypeError"):
        find_flow(f"{__name__}:flow_of")
    with pytest.raises(DeclarationError, match="factory 'flow_of' cannot make its flow of"):
        find_flow(f"{__name__}:flow_of([[1)")
    with pytest.raises(DeclarationError, match="put it on a plain function"):
        af.factory(given)
