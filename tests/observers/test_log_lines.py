"""Lines of standard logging: loud where something is wrong, with what is needed to see why, and without secrets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

import asyncflow as af
from asyncflow.observers import LogLines


@af.task(provides="config")
async def load() -> dict[str, Any]:
    return {"host": "h", "password": "hunter2"}


@af.task
async def connect(config: dict[str, Any], token: str, tries: int = 3) -> None:
    raise ConnectionError("refused")


def lines_of(caplog: pytest.LogCaptureFixture, flow: Any, inputs: dict[str, Any], **options: Any) -> list[Any]:
    """Return the records that a run of *flow* writes, which may fail."""

    async def main() -> None:
        async with af.Engine(observers=[LogLines(**options)]) as engine:
            with contextlib.suppress(af.RunFailed):
                await engine.run(flow, inputs, run_id="r")

    with caplog.at_level(logging.DEBUG, logger="asyncflow.events"):
        asyncio.run(main())
    return [record for record in caplog.records if record.name == "asyncflow.events"]


def test_the_line_of_a_failing_task_has_its_inputs_and_predecessors(caplog: pytest.LogCaptureFixture) -> None:
    """They are the first that anyone asks for who reads of a failure; secrets are covered at any depth."""
    masks = ["password", "token"]
    [line] = [
        record
        for record in lines_of(caplog, af.linear("flow", load, connect), {"token": "t0k3n"}, masks=masks)
        if record.levelname == "ERROR"
    ]
    assert line.getMessage() == (
        "r connect: TaskFailed: builtins.ConnectionError: refused; "
        "inputs config={'host': 'h', 'password': ***}, token=***, tries=3; after load SUCCEEDED"
    )
    assert line.inputs == {"config": "{'host': 'h', 'password': ***}", "token": "***", "tries": "3"}
    assert line.predecessors == {"load": "SUCCEEDED"}
    assert "hunter2" not in caplog.text and "t0k3n" not in caplog.text


def test_a_crowd_of_predecessors_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """A line with a thousand paths is read by nobody."""

    @af.task
    async def quick() -> None: ...

    @af.task
    async def bad() -> None:
        raise ValueError

    crowd = af.unordered("crowd", *(quick.named(f"t{number}") for number in range(13)))
    [line] = [record for record in lines_of(caplog, af.linear("f", crowd, bad), {}) if record.levelname == "ERROR"]
    assert line.getMessage().startswith("r bad: TaskFailed: builtins.ValueError; after crowd/t0 SUCCEEDED, crowd/t1 ")
    assert line.getMessage().endswith("crowd/t9 SUCCEEDED and 3 more")


def test_levels_are_chosen_by_kind_of_event(caplog: pytest.LogCaptureFixture) -> None:
    """What is loud for one application is noise for another."""
    levels = {"AttemptStarted": logging.INFO, "RunStarted": None, "TaskFailed": logging.CRITICAL}
    found = lines_of(caplog, af.linear("flow", load, connect), {"token": "t"}, levels=levels)
    assert [(line.levelname, line.getMessage().split(": ")[1]) for line in found] == [
        ("INFO", "AttemptStarted"), ("DEBUG", "AttemptSucceeded"), ("INFO", "AttemptStarted"),
        ("WARNING", "AttemptFailed"), ("CRITICAL", "TaskFailed"), ("DEBUG", "RevertStarted"),
        ("DEBUG", "RevertSucceeded"), ("DEBUG", "RevertStarted"), ("DEBUG", "RevertSucceeded"), ("INFO", "RunEnded"),
    ]  # fmt: skip


def test_a_level_for_no_event_is_refused() -> None:
    """It would change nothing, and nobody would notice."""
    with pytest.raises(af.DeclarationError, match=r"names 'TaskFail', which is no event \(did you mean 'TaskFailed'\?"):
        LogLines(levels={"TaskFail": logging.INFO})


def test_what_a_body_emits_is_in_its_line_and_masked(caplog: pytest.LogCaptureFixture) -> None:
    """It was told to be read, though not by everybody."""

    @af.task
    async def work(ctx: af.Context) -> None:
        ctx.emit("logged_in", user="ada", token="t0k3n")

    said = [line.getMessage() for line in lines_of(caplog, work, {}, masks="token")]
    assert "r work: Emitted: logged_in; user='ada', token=***" in said


def test_conditions_and_controllers_say_what_they_answered(caplog: pytest.LogCaptureFixture) -> None:
    """They decide where a run goes; one that raises is as bad as a task that fails."""

    def raises() -> bool:
        raise KeyError("gone")

    @af.task
    async def bad() -> None:
        raise ValueError

    inner = af.linear("inner", bad, retry=af.Times(2, backoff=af.Fixed(0.01)))
    skipped = bad.with_options(name="no", when=lambda: False, depth="task")
    flow = af.linear("flow", skipped, inner, on_failure="finish")
    found = [(line.levelname, line.getMessage()) for line in lines_of(caplog, flow, {})]
    assert ("DEBUG", "r no: ConditionAnswered: no") in found and ("DEBUG", "r no: TaskSkipped") in found
    assert ("WARNING", "r inner: ControllerAnswered: retry after 0.01 s") in found
    assert ("INFO", "r inner: FlowStartedOver: 2 tasks") in found
    assert ("WARNING", "r inner: ControllerAnswered: revert") in found
    caplog.clear()
    broken = [
        (line.levelname, line.getMessage())
        for line in lines_of(caplog, af.linear("f", bad.with_options(when=raises)), {})
    ]
    assert ("ERROR", "r bad: ConditionAnswered: builtins.KeyError: 'gone'") in broken
