"""Those who watch: they see everything, in order, and nobody who is slow or broken is any burden to a run."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow.observers import Capture, Console, LogLines
from asyncflow.runtime import observe
from tests.runtime.loops import LoopClock, others, run
from tests.runtime.scenes import FullJournal


def failing_flow() -> Any:
    """Return a flow with a retry, a failure and a revert in it."""

    @af.task(provides="a")
    async def a() -> int:
        return 1

    @af.task(retry=af.Retry(2, af.Fixed(0.0)))
    async def bad(ctx: af.Context, a: int) -> None:
        raise ValueError(f"attempt {ctx.attempt}")

    return af.linear("flow", a, bad)


def quick_flow(size: int = 3, *, in_order: bool = False) -> Any:
    """Return a flow of *size* tasks that succeed at once."""

    @af.task
    async def work() -> None:
        await asyncio.sleep(0)

    make = af.linear if in_order else af.unordered
    return make("quick", *(work.named(f"t{number}") for number in range(size)))


# --- What they see ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "file"])
def test_an_observer_has_seen_everything_when_the_run_returns(where: str, tmp_path: Path) -> None:
    """Tests, reports and shutdowns rely on it."""

    async def main() -> None:
        capture = Capture()
        async with af.Engine(tmp_path / "runs.db" if where == "file" else None, observers=[capture]) as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(failing_flow(), run_id="r")
            assert capture.kinds() == [
                "RunStarted", "AttemptStarted", "AttemptSucceeded", "AttemptStarted", "AttemptFailed", "RetryScheduled",
                "AttemptStarted", "AttemptFailed", "TaskFailed", "RevertStarted", "RevertSucceeded", "RevertStarted",
                "RevertSucceeded", "RunEnded",
            ]  # fmt: skip
            assert [happening.number for happening in capture.happenings] == list(range(14))
            seen = [(happening.path, happening.attempt) for happening in capture.happenings]
            assert seen[:8] == [("", 0), ("a", 1), ("a", 1), ("bad", 1), ("bad", 1), ("bad", 1), ("bad", 2), ("bad", 2)]
            assert {(happening.run_id, happening.flow) for happening in capture.happenings} == {("r", "flow")}
            records = await engine._store.read("r")
            journaled = [(record.at, type(event)) for record in records for event in record.events]
            assert [(each.at, type(each.event)) for each in capture.happenings] == journaled
            assert repr(capture) == "<Capture: 14 events>"

    run(main, owns_time=False)


def test_numbers_go_on_after_a_resume() -> None:
    """They are places in the journal, by which a page that was away for a while catches up."""

    async def main() -> None:
        flow, capture = quick_flow(in_order=True), Capture()
        async with af.Engine(observers=[capture]) as engine:
            one = await engine.start(flow, run_id="r")
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one
            await engine.resume("r", flow)
            assert [happening.number for happening in capture.happenings] == list(range(len(capture.happenings)))
            assert "RunResumed" in capture.kinds()

    run(main)


def test_an_event_is_told_only_once_it_is_durable() -> None:
    """Who acts on an event must be able to rely on it, whatever happens to the process."""

    async def main() -> None:
        capture = Capture()
        async with af.Engine(observers=[capture]) as engine:
            one = await engine.start(quick_flow(1), run_id="r")
            one.supervisor._journal = FullJournal(one.supervisor._journal, left=0)
            with pytest.raises(af.StoreError):
                await one
            assert capture.kinds() == [
                type(event).__name__ for record in await engine._store.read("r") for event in record.events
            ]
            assert capture.kinds()[-1] == last

    # The body's end finds the journal full; on Python 3.11 its start does.
    last = "AttemptStarted" if sys.version_info >= (3, 12) else "RunStarted"
    run(main)


# --- Slow and broken ones ---------------------------------------------------------------------------------------------


def test_a_broken_observer_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake in what draws a progress bar must not stop the work."""

    async def main() -> None:
        capture = Capture()

        def broken(happening: af.Happening) -> None:
            raise ZeroDivisionError("in the observer")

        async def broken_later(happening: af.Happening) -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError("in the other observer")

        async with af.Engine(observers=[broken, broken_later, capture]) as engine:
            await engine.run(quick_flow(1), run_id="r")
        assert capture.kinds()[-1] == "RunEnded"

    run(main)
    lines = [record for record in caplog.records if record.name == "asyncflow.observe"]
    assert len(lines) == 8, "four events, two observers"
    assert "failed on RunStarted of run 'r'" in lines[0].getMessage() and lines[0].exc_info is not None


def test_a_slow_observer_costs_a_run_a_second_at_most() -> None:
    """It is waited for at the end, so that a good one has seen everything; but only so long."""

    async def main() -> None:
        seen: list[str] = []

        async def slow(happening: af.Happening) -> None:
            await asyncio.sleep(0.4)
            seen.append(happening.kind)

        async with af.Engine(observers=[slow], clock=LoopClock()) as engine:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await engine.run(quick_flow(1))
            assert loop.time() - began == pytest.approx(1.0)
            assert seen == ["RunStarted", "AttemptStarted"]
            await asyncio.sleep(60.0)
            assert seen == ["RunStarted", "AttemptStarted", "AttemptSucceeded", "RunEnded"], "it still gets the rest"

    run(main)


def test_an_observer_that_never_returns_holds_up_neither_run_nor_engine(caplog: pytest.LogCaptureFixture) -> None:
    """Not even one that ignores being cancelled."""

    async def main() -> None:
        let_go = asyncio.Event()

        async def stuck(happening: af.Happening) -> None:
            await asyncio.Event().wait()

        async def deaf(happening: af.Happening) -> None:
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue

        loop = asyncio.get_running_loop()
        began = loop.time()
        async with af.Engine(observers=[stuck, deaf], clock=LoopClock()) as engine:
            await engine.run(quick_flow(1))
        assert loop.time() - began < 5.0
        let_go.set()
        await asyncio.sleep(1.0)
        assert not others()

    run(main)
    assert "goes on after it was told to stop; it is left behind" in caplog.text


def test_a_backlog_has_an_end(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """An observer that hangs for a week must not fill the memory; what it misses is said once."""
    monkeypatch.setattr(observe, "BACKLOG", 20)

    async def main() -> None:
        seen: list[int] = []
        gate = asyncio.Event()

        async def slow(happening: af.Happening) -> None:
            await gate.wait()
            seen.append(happening.number)

        async with af.Engine(observers=[slow], clock=LoopClock()) as engine:
            await engine.run(quick_flow(50))
            gate.set()
            await asyncio.sleep(1.0)
        assert seen[-20:] == list(range(82, 102)) and len(seen) == 21, "the one at hand, and the last twenty"

    run(main)
    assert caplog.text.count("more than 20 events behind; the oldest are dropped") == 1


def test_a_wide_run_does_not_hold_up_the_loop_for_its_observers() -> None:
    """Handing on ten thousand events is cut into pieces too."""

    async def main() -> None:
        beside = 0

        async def other() -> None:
            nonlocal beside
            while True:
                await asyncio.sleep(0)
                beside += 1

        running = asyncio.ensure_future(other())
        capture = Capture()
        async with af.Engine(observers=[capture]) as engine:
            await engine.run(quick_flow(2_000))
        assert len(capture.happenings) == 4_002 and beside >= 40
        running.cancel()
        await asyncio.wait([running])

    run(main)


# --- Coming and going -------------------------------------------------------------------------------------------------


def test_an_observer_may_come_later_and_leave() -> None:
    """A page that shows a run is opened and closed at any time; after it has left it hears nothing more."""

    async def main() -> None:
        first, second = Capture(), Capture()
        async with af.Engine(observers=[first]) as engine:
            await engine.run(quick_flow(1))
            leave = engine.observe(second)
            await engine.run(quick_flow(1))
            leave()
            leave()
            await engine.run(quick_flow(1))
            assert (len(first.happenings), len(second.happenings)) == (12, 4)
            assert repr(engine._announcer) == "<Announcer: 1 observers, 0 of them behind>"

    run(main)


def test_who_leaves_hears_nothing_more_even_of_what_was_in_line() -> None:
    """What it closed over may be gone already."""

    async def main() -> None:
        seen: list[str] = []

        async def slow(happening: af.Happening) -> None:
            seen.append(happening.kind)
            await asyncio.sleep(0.4)

        async with af.Engine(clock=LoopClock()) as engine:
            leave = engine.observe(slow)
            await engine.run(quick_flow(5))
            assert len(seen) == 3
            leave()
            assert repr(engine._announcer) == "<Announcer: 1 observers, 1 of them behind>"
            await asyncio.sleep(60.0)
            assert len(seen) == 3
            assert repr(engine._announcer) == "<Announcer: 0 observers, 0 of them behind>"

    run(main)


def test_an_observer_may_leave_from_within() -> None:
    """Waiting for one event and then going is what most do."""

    async def main() -> None:
        seen: list[str] = []

        def until_started(happening: af.Happening) -> None:
            seen.append(happening.kind)
            if happening.kind == "AttemptStarted":
                leave()

        async with af.Engine() as engine:
            leave = engine.observe(until_started)
            await engine.run(quick_flow(5))
            assert seen == ["RunStarted", "AttemptStarted"] and not engine._announcer

    run(main)


def test_what_left_while_it_was_busy_is_gone_when_the_engine_closes() -> None:
    """No asyncio task may outlive the engine because nobody remembers it."""

    async def main() -> None:
        async def stuck(happening: af.Happening) -> None:
            await asyncio.Event().wait()

        async with af.Engine(clock=LoopClock()) as engine:
            leave = engine.observe(stuck)
            await engine.run(quick_flow(1))
            leave()
        assert not others()

    run(main)


def test_an_observer_that_cannot_be_called_is_refused() -> None:
    """Found when it is given, not at the first event."""

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.DeclarationError, match="an observer is called with each event, and 42 cannot"):
                engine.observe(42)  # type: ignore[arg-type]

    run(main)


# --- Those that come with asyncflow -----------------------------------------------------------------------------------


def test_log_lines_carry_fields_and_levels(caplog: pytest.LogCaptureFixture) -> None:
    """Failures must stand out, and every line must be found by its run and path."""

    async def main() -> None:
        async with af.Engine(observers=[LogLines()]) as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(failing_flow(), run_id="r")

    with caplog.at_level(logging.DEBUG, logger="asyncflow.events"):
        run(main)
    lines = [
        (record.levelname, record.getMessage(), record.run, record.path, record.attempt)  # type: ignore[attr-defined]
        for record in caplog.records
        if record.name == "asyncflow.events"
    ]
    assert len(lines) == 14
    assert lines[0] == ("INFO", "r run: RunStarted", "r", "", 0)
    assert lines[1] == ("DEBUG", "r a: AttemptStarted", "r", "a", 1)
    assert lines[4] == ("WARNING", "r bad: AttemptFailed: builtins.ValueError: attempt 1", "r", "bad", 1)
    assert lines[6] == ("DEBUG", "r bad: AttemptStarted (attempt 2)", "r", "bad", 2)
    assert lines[8][:2] == ("ERROR", "r bad: TaskFailed (attempt 2)")
    assert lines[-1] == ("INFO", "r run: RunEnded: REVERTED", "r", "", 0)


def test_log_lines_that_nobody_wants_are_not_made(caplog: pytest.LogCaptureFixture) -> None:
    """A million DEBUG lines that are thrown away would cost more than the run."""

    async def main() -> None:
        logger = logging.getLogger("tests.runtime.mine")
        async with af.Engine(observers=[LogLines(logger)]) as engine:
            await engine.run(quick_flow(10))

    with caplog.at_level(logging.INFO, logger="tests.runtime.mine"):
        run(main)
    mine = [record.getMessage().split(": ")[1] for record in caplog.records if record.name == "tests.runtime.mine"]
    assert mine == ["RunStarted", "RunEnded"]


def test_the_console_writes_plain_lines_where_there_is_no_terminal() -> None:
    """Output that is piped into a file is read later, by a person or a script, and wants no colours."""

    async def main() -> None:
        async with af.Engine(observers=[Console(out)]) as engine:
            await engine.run(quick_flow(3))
            with pytest.raises(af.RunFailed):
                await engine.run(failing_flow())

    out = io.StringIO()
    run(main)
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue()
    assert any(line.startswith("quick  3 done, 0 running  0.0 s  SUCCEEDED") for line in lines)
    assert "bad: AttemptFailed builtins.ValueError: attempt 1" in lines
    assert lines[-1].startswith("flow  1 done, 0 running, 1 failed, 2 reverted  0.0 s  REVERTED")


def test_the_console_says_that_a_run_was_suspended() -> None:
    """The last line is what a person sees after Ctrl-C."""

    async def main() -> None:
        async with af.Engine(observers=[Console(out)]) as engine:
            one = await engine.start(quick_flow(3, in_order=True))
            one.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await one

    out = io.StringIO()
    run(main)
    assert out.getvalue().splitlines()[-1].endswith("SUSPENDED")
