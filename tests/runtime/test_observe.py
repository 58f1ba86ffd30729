"""Those who watch: they see everything, in order, and nobody who is slow or broken is any burden to a run."""

from __future__ import annotations

import asyncio
import io
import logging
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import messages as m
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
                "RunStarted", "AttemptStarted", "AttemptSucceeded", "AttemptStarted", "Progressed", "AttemptFailed",
                "RetryScheduled", "AttemptStarted", "Progressed", "AttemptFailed", "TaskFailed", "RevertStarted",
                "RevertSucceeded", "RevertStarted", "RevertSucceeded", "RunEnded",
            ]  # fmt: skip
            numbered = [happening for happening in capture.happenings if happening.number >= 0]
            assert [happening.number for happening in numbered] == list(range(14))
            seen = [(happening.path, happening.attempt) for happening in numbered]
            assert seen[:8] == [("", 0), ("a", 1), ("a", 1), ("bad", 1), ("bad", 1), ("bad", 1), ("bad", 2), ("bad", 2)]
            assert {(happening.run_id, happening.flow) for happening in capture.happenings} == {("r", "flow")}
            records = await engine._store.read("r")
            journaled = [(record.at, type(event)) for record in records for event in record.events]
            assert [(each.at, type(each.event)) for each in numbered] == journaled
            assert repr(capture) == "<Capture: 16 events>"

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
            assert capture.kinds()[-1] == "AttemptStarted", "the body's end finds the journal full"

    run(main)


# --- Slow and broken ones ---------------------------------------------------------------------------------------------


def test_a_broken_observer_is_logged_and_dropped_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake in what draws a progress bar must not stop the work, nor fill the log once an event."""

    async def main() -> None:
        capture = Capture()

        def broken(happening: af.Happening) -> None:
            raise ZeroDivisionError("in the observer")

        async def broken_later(happening: af.Happening) -> None:
            await asyncio.sleep(0)
            raise ZeroDivisionError("in the other observer")

        async with af.Engine(observers=[broken, broken_later, capture]) as engine:
            await engine.run(quick_flow(1), run_id="r")
            assert repr(engine._announcer) == "<Announcer: 1 observers, 0 of them behind>"
            await engine.run(quick_flow(1), run_id="s")
        assert capture.kinds()[-1] == "RunEnded"

    run(main)
    lines = [record for record in caplog.records if record.name == "asyncflow.observe"]
    assert len(lines) == 2, "one for each"
    for line in lines:
        assert "failed on RunStarted of run 'r'; it is dropped and hears nothing more" in line.getMessage()
        assert line.exc_info is not None


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
            assert seen == ["RunStarted", "AttemptStarted"] and not engine._announcer.subscriptions

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


# --- Some events only -------------------------------------------------------------------------------------------------


def nested_flow() -> Any:
    """Return a flow with a flow in it, and a task whose path begins like that flow's."""

    @af.task
    async def work() -> None: ...

    return af.linear("whole", af.unordered("part", work.named("a"), work.named("b")), work.named("party"))


WHOLE_RUN = [
    *(("r", path, "AttemptSucceeded") for path in ("part/a", "part/b", "party")),
    ("r", "", "RunEnded"),
]


@pytest.mark.parametrize(
    ("wanted", "seen"),
    [
        ({"kinds": "RunEnded"}, [("r", "", "RunEnded"), ("s", "", "RunEnded")]),
        ({"kinds": ["RunStarted", "RunEnded"], "run_id": "s"}, [("s", "", "RunStarted"), ("s", "", "RunEnded")]),
        ({"path": "party", "run_id": "r"}, [("r", "party", "AttemptStarted"), ("r", "party", "AttemptSucceeded")]),
        (
            {"path": "part", "kinds": {"AttemptSucceeded"}},
            [(one, f"part/{task}", "AttemptSucceeded") for one in "rs" for task in "ab"],
        ),
        ({"path": "", "run_id": "r", "kinds": ["RunEnded", "AttemptSucceeded"]}, WHOLE_RUN),
        ({"run_id": "t"}, []),
    ],
)
def test_an_observer_may_ask_for_some_events_only(wanted: dict[str, Any], seen: list[tuple[str, str, str]]) -> None:
    """Who waits for the end of one run is not called a million times for another."""

    async def main() -> None:
        capture = Capture()
        async with af.Engine() as engine:
            engine.observe(capture, **wanted)
            for run_id in "rs":
                await engine.run(nested_flow(), run_id=run_id)
        assert [(each.run_id, each.path, each.kind) for each in capture.happenings] == seen

    run(main)


def test_a_kind_that_does_not_exist_is_refused() -> None:
    """A filter with a slip of the pen would wait for ever."""

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.DeclarationError, match=r"no event 'TaskFaild' \(did you mean 'TaskFailed'\?\)"):
                engine.observe(print, kinds=["RunEnded", "TaskFaild"])

    run(main)


# --- What comes with an event -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_failure_for_good_comes_with_what_the_task_had_read(where: str, tmp_path: Path) -> None:
    """By the time that somebody looks, all of it may be undone and gone."""

    @af.task(provides="a")
    async def a() -> str:
        return "a" * 70_000

    @af.task(provides="b")
    async def b() -> list[int]:
        return [1, 2]

    @af.task
    async def bad(a: str, b: list[int], given: int, fallback: int = 7) -> None:
        raise ValueError("no good")

    async def main() -> None:
        capture = Capture()
        flow = af.linear("whole", af.unordered("pair", a, b), bad)
        async with af.Engine(tmp_path / "runs.db" if where == "file" else None, observers=[capture]) as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(flow, {"given": 3})
        [failed] = [each for each in capture.happenings if each.circumstances is not None]
        assert failed.kind == "TaskFailed" and failed.circumstances is not None
        outcome, inputs, before = (
            getattr(failed.circumstances, each) for each in ("outcome", "inputs", "predecessors")
        )
        assert outcome.text == "no good"
        assert inputs == {"a": "a" * 70_000, "b": [1, 2], "given": 3, "fallback": 7}
        assert before == {"pair/a": af.TaskState.SUCCEEDED, "pair/b": af.TaskState.SUCCEEDED}

    run(main, owns_time=False)


def test_a_revert_given_up_comes_with_its_failure_and_a_cut_off_task_with_its_timeout() -> None:
    """They fail for good too."""

    @af.task
    async def first(number: int) -> None: ...

    @first.revert
    async def undo(number: int) -> None:
        raise OSError("cannot be undone")

    @af.task(timeout=1.0)
    async def slow() -> None:
        await asyncio.sleep(9.0)

    async def main() -> None:
        capture = Capture()
        async with af.Engine(observers=[capture], clock=LoopClock()) as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("whole", first, slow), {"number": 1})
        found = {each.kind: each for each in capture.happenings if each.circumstances is not None}
        assert found.keys() == {"TaskFailed", "RevertGivenUp"}
        late, lost = found["TaskFailed"].circumstances, found["RevertGivenUp"].circumstances
        assert late is not None and lost is not None
        assert isinstance(late.outcome, af.TimedOut) and late.predecessors == {"first": af.TaskState.SUCCEEDED}
        assert isinstance(lost.outcome, af.Failure) and lost.inputs == {"number": 1} and not lost.predecessors

    run(main)


def test_what_could_not_be_read_is_absent_and_a_crowd_of_predecessors_is_cut() -> None:
    """A task may fail because an input has no value; and a line of the log has an end."""

    @af.task(provides="a", when=lambda: False, depth="task")
    async def a() -> int:
        return 1

    @af.task
    async def needy(a: int, given: int) -> None: ...

    @af.task
    async def bad() -> None:
        raise ValueError

    async def main() -> None:
        capture = Capture()
        async with af.Engine(observers=[capture]) as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("one", a, needy), {"given": 2})
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("two", quick_flow(300), bad))
        one, two = (each.circumstances for each in capture.happenings if each.kind == "TaskFailed")
        assert one is not None and one.inputs == {"given": 2} and one.predecessors == {"a": af.TaskState.SKIPPED}
        assert two is not None and list(two.predecessors) == [f"quick/t{number}" for number in range(100)]

    run(main)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_what_a_body_emits_is_read_the_same_wherever_it_is_kept(where: str, tmp_path: Path) -> None:
    """Who watches must not care about the form in which a journal holds it, nor the journal about its size."""

    @af.task
    async def work(ctx: af.Context) -> None:
        ctx.emit("found", count=3, text="x" * 70_000)

    async def main() -> None:
        capture = Capture()
        async with af.Engine(tmp_path / "runs.db" if where == "file" else None, observers=[capture]) as engine:
            await engine.run(work, run_id="r")
            for record in await engine._store.read("r"):
                for event in record.events:
                    if isinstance(event, m.Emitted) and where == "file":
                        assert len(await engine._store.read_blob(event.data.blob)) == event.data.size_bytes
        [emitted] = [each for each in capture.happenings if each.kind == "Emitted"]
        assert emitted.data == {"count": 3, "text": "x" * 70_000}
        assert not capture.happenings[0].data

    run(main, owns_time=False)


def test_a_question_that_was_answered_has_the_path_of_what_it_was_about() -> None:
    """A number of a guard or a flow says nothing to who reads."""

    @af.task
    async def bad(ctx: af.Context) -> None:
        raise ValueError

    @af.task
    async def other() -> None: ...

    async def main() -> None:
        capture = Capture()
        inner = af.linear("inner", bad, retry=af.Times(2), when=lambda: True)
        async with af.Engine() as engine:
            engine.observe(capture, kinds=["ConditionAnswered", "ControllerAnswered", "FlowStartedOver", "TaskSkipped"])
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("whole", other.with_options(when=lambda: False, depth="task"), inner))
        assert [(each.kind, each.path) for each in capture.happenings] == [
            ("ConditionAnswered", "other"), ("TaskSkipped", "other"), ("ConditionAnswered", "inner"),
            ("ControllerAnswered", "inner"), ("FlowStartedOver", "inner"), ("ControllerAnswered", "inner"),
        ]  # fmt: skip

    run(main)


# --- Progress ---------------------------------------------------------------------------------------------------------


def told(capture: Capture, path: str) -> list[float | str]:
    """Return what was seen of a task's progress, and its other events by kind."""
    return [
        happening.event.fraction if isinstance(happening.event, m.Progressed) else happening.kind
        for happening in capture.happenings
        if happening.path == path
    ]


@pytest.mark.parametrize("says", [[], [0.5], [0.0, 0.5, 1.0], [0.0, 0.0, 1.0, 1.0], [1.0]])
def test_progress_begins_with_0_and_ends_with_1_once_each(says: list[float]) -> None:
    """A bar is drawn from its first to its last, whatever the body says of either."""

    @af.task
    async def work(ctx: af.Context) -> None:
        for fraction in says:
            ctx.progress(fraction)
            await asyncio.sleep(2.0)

    async def main() -> None:
        capture = Capture()
        async with af.Engine(observers=[capture], clock=LoopClock()) as engine:
            await engine.run(af.linear("flow", work), run_id="r")
            records = await engine._store.read("r")
        between = [0.5] if 0.5 in says else []
        found = told(capture, "work")
        assert sorted(found, key=str) == sorted(["AttemptStarted", "AttemptSucceeded", 0.0, *between, 1.0], key=str)
        assert [each for each in found if isinstance(each, float)] == [0.0, *between, 1.0]
        assert found[:2] == ["AttemptStarted", 0.0] and found[-1] == "AttemptSucceeded"
        # None but what the body said is in the journal, whether anybody watches or not.
        journaled = [each.fraction for record in records for each in record.events if isinstance(each, m.Progressed)]
        assert set(journaled) == set(says)

    run(main)


def test_progress_begins_again_with_each_attempt_and_each_revert() -> None:
    """What the attempt before had done is gone; one that fails was never through."""

    @af.task(retry=af.Retry(2, af.Fixed(0.0)))
    async def work(ctx: af.Context) -> None:
        ctx.progress(0.5)
        raise ValueError

    @work.revert
    async def undo(ctx: af.Context) -> None: ...

    async def main() -> None:
        capture = Capture()
        async with af.Engine(observers=[capture], clock=LoopClock()) as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("flow", work))
        assert told(capture, "work") == [
            "AttemptStarted", 0.0, 0.5, "AttemptFailed", "RetryScheduled",
            "AttemptStarted", 0.0, 0.5, "AttemptFailed", "TaskFailed",
            "RevertStarted", 0.0, 1.0, "RevertSucceeded",
        ]  # fmt: skip

    run(main)


def test_only_who_can_tell_progress_is_seen_to_begin_and_end_with_it() -> None:
    """For a task that cannot, its start and its end say all; one that finds its context by itself can."""

    @af.task
    async def plain() -> None: ...

    @af.task
    async def current() -> None:
        af.current().progress(0.25)

    async def main() -> None:
        capture = Capture()
        async with af.Engine(observers=[capture]) as engine:
            await engine.run(af.linear("flow", plain, current))
        assert told(capture, "plain") == ["AttemptStarted", "AttemptSucceeded"]
        assert told(capture, "current") == ["AttemptStarted", 0.0, 0.25, 1.0, "AttemptSucceeded"]

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
    lines = [line for line in lines if ": Progressed" not in line[1]]
    assert len(lines) == 14
    assert lines[0] == ("INFO", "r run: RunStarted", "r", "", 0)
    assert lines[1] == ("DEBUG", "r a: AttemptStarted", "r", "a", 1)
    assert lines[4] == ("WARNING", "r bad: AttemptFailed: builtins.ValueError: attempt 1", "r", "bad", 1)
    assert lines[6] == ("DEBUG", "r bad: AttemptStarted (attempt 2)", "r", "bad", 2)
    said = "r bad: TaskFailed (attempt 2): builtins.ValueError: attempt 2; inputs a=1; after a SUCCEEDED"
    assert lines[8][:2] == ("ERROR", said)
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
    assert "bad: TaskFailed" in lines, "what it failed of has been said"
    assert lines[-1].startswith("flow  0 done, 0 running, 1 failed, 2 reverted  0.0 s  REVERTED")


def test_the_console_counts_what_is_true_at_the_end_of_flows_that_run_again() -> None:
    """A task that was done three times, and undone twice, is done once; what was skipped is not waited for."""

    @af.task
    async def work() -> None: ...

    @af.task
    async def fails_twice(n: int) -> None:
        if n < 3:
            raise ValueError(n)

    def raises() -> bool:
        raise KeyError("gone")

    async def main() -> None:
        no = work.with_options(name="no", when=lambda: False, depth="task")
        inner = af.linear("inner", no, work, fails_twice, retry=af.Times(3, provides="n"))
        async with af.Engine(observers=[Console(out)]) as engine:
            await engine.run(af.linear("flow", inner))
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("other", work.with_options(when=raises)))

    out = io.StringIO()
    run(main)
    lines = out.getvalue().splitlines()
    assert lines.count("inner: ControllerAnswered retry") == 2
    assert "work: ConditionAnswered builtins.KeyError: 'gone'" in lines
    ends = [line for line in lines if "running" in line and line.endswith("ED")]
    assert ends[0].startswith("flow  3 done, 0 running, 1 skipped  ") and ends[0].endswith("SUCCEEDED")
    assert ends[1].startswith("other  0 done, 0 running, 1 failed  ") and ends[1].endswith("REVERTED")


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
