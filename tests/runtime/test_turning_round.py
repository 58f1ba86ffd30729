"""Corners of flows that fail, run again, or are taken up after a failure."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import RunState
from tests.runtime.loops import LoopClock, run, until
from tests.stepping import up_to


@af.task
async def bad() -> None:
    raise ValueError("bad")


@pytest.mark.parametrize("stopped_by", ["cancel", "deadline", "its flow's timeout"])
def test_what_may_finish_is_stopped_by_whoever_wants_the_run_to_end(stopped_by: str) -> None:
    """A sibling is let finish since nobody is in a hurry; a cancel or a time limit is one."""
    said: list[str] = []

    @af.task
    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            said.append("stopped")
            raise

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with af.Engine(clock=LoopClock(), on_failure="finish") as engine:
            limit = 5.0 if stopped_by == "its flow's timeout" else None
            deadline = loop.time() + 5.0 if stopped_by == "deadline" else None
            flow = af.unordered("f", bad, af.linear("slow", hangs, timeout=limit))
            started = await engine.start(flow, deadline=deadline)
            await until(lambda: started.state is RunState.REVERTING)
            assert said == []
            if stopped_by == "cancel":
                started.cancel("enough")
            with pytest.raises(af.RunFailed) as failed:
                await started
            assert failed.value.reverted and set(failed.value.failures) == {"bad"}

    run(main)
    assert said == ["stopped"]


def test_a_failure_counts_although_its_task_is_gone(tmp_path: Path) -> None:
    """What has happened has happened, whatever the code is today."""

    @af.task
    async def kept() -> None: ...

    @kept.revert
    async def undo() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            await up_to(engine, af.linear("f", kept, bad), "-kept")
            kept_only = af.linear("f", kept.with_options(name="kept"))
            for _ in range(2):  # the second time the run has ended
                with pytest.raises(af.RunFailed, match="failed in 'bad'") as failed:
                    await engine.resume("r", quick(kept_only))
                assert list(failed.value.failures) == ["bad"] and failed.group_contains(ValueError, match="bad")
            assert list((await engine.inspect("r")).failures) == ["bad"]

    def quick(flow: Any) -> Any:
        @af.task(name="kept")
        async def again() -> None: ...

        @again.revert
        async def undo_again() -> None: ...

        return af.linear(flow.name, again)

    run(main, owns_time=False)


def test_a_controller_hears_of_a_failure_whose_task_is_gone() -> None:
    """It is asked about the attempt that failed, and that is the one of the old flow."""
    heard: list[set[str]] = []

    class Listens(af.Controller):
        name = "listens"

        async def execute(self) -> None: ...

        async def on_failure(self, history: af.History) -> af.Decision:
            await asyncio.sleep(0)
            heard.append(set(history[-1].failures))
            return af.Decision.RETRY

    @af.task
    async def good() -> None: ...

    async def main() -> None:
        async with af.Engine() as engine:
            await up_to(engine, af.linear("o", af.linear("f", good, bad, retry=Listens())), "?f")
            await engine.resume("r", af.linear("o", af.linear("f", good, retry=Listens())))

    run(main)
    assert heard == [{"f/bad"}]


def test_a_flow_that_is_undone_cannot_lose_its_name() -> None:
    """Its tasks would be taken for new ones, and what they did would stay."""

    @af.task
    async def done() -> None: ...

    @done.revert
    async def undo() -> None: ...

    async def main() -> None:
        async with af.Engine() as engine:
            inner = af.linear("inner", done, bad, retry=af.Times(2))
            await up_to(engine, af.linear("outer", inner), "-inner/done")
            renamed = af.linear("other", done, bad, retry=af.Times(2))
            with pytest.raises(af.PlanChanged, match="inner/done: is gone, and is still to be reverted"):
                await engine.resume("r", af.linear("outer", renamed))

    run(main)


def test_a_flow_that_runs_again_starts_its_inner_flows_afresh() -> None:
    """Also one that was waiting for its next attempt: that wait was the last round's."""
    tried: list[float] = []
    failed: list[str] = []

    @af.task
    async def work() -> None:
        tried.append(asyncio.get_running_loop().time())
        if len(tried) == 1:
            raise ValueError

    @af.task
    async def sibling() -> None:
        await asyncio.sleep(1.0)
        if not failed:
            failed.append("sibling")
            raise ValueError

    async def main() -> None:
        inner = af.linear("inner", work, retry=af.Times(3, backoff=af.Fixed(60.0)))
        async with af.Engine(clock=LoopClock()) as engine:
            await engine.run(af.unordered("outer", inner, sibling, retry=af.Times(2)))

    run(main)
    assert len(tried) == 2 and tried[1] - tried[0] == pytest.approx(1.0)


PAYS = """
import asyncio, os, sys
import asyncflow as af

@af.task(on_crash="fail")
async def pay():
    print("pays", flush=True)
    try:
        await asyncio.Event().wait()
    finally:
        os._exit(9)

@af.task
async def bad():
    raise ValueError("bad")

flow = af.unordered("f", pay, bad)

async def main():
    async with af.Engine("runs.db", never_revert=True) as engine:
        if sys.argv[1] == "start":
            await engine.run(flow, run_id="r")
        for _ in range(3):
            try:
                await engine.resume("r", flow)
            except af.RunFailed as failed:
                print(sorted(failed.failures), flush=True)

asyncio.run(main())
"""


def test_what_is_to_be_done_at_most_once_stays_in_doubt_where_nothing_is_undone(tmp_path: Path) -> None:
    """However often a run is resumed that keeps what it has done: an attempt that was lost may have had its effect."""
    (tmp_path / "job.py").write_text(PAYS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def job(what: str) -> list[str]:
        script = [sys.executable, "job.py", what]
        ended = subprocess.run(script, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        return ended.stdout.splitlines()

    assert job("start") == ["pays"]
    # The first resume puts the crash on record; the others would run what failed, and must not.
    assert job("resume") == ["['bad']", "['pay']", "['pay']"]


def test_a_skipped_provider_is_passed_over_in_what_a_flow_returns() -> None:
    """As it is for readers, and in ``run.results``."""

    @af.task(provides="v")
    async def one() -> int:
        return 1

    @af.task(provides="v", when=lambda: False, depth="task")
    async def two() -> int:
        return 2

    @af.task(provides="w")
    async def reads(v: int) -> int:
        return v

    async def main() -> None:
        async with af.Engine() as engine:
            flow = af.linear("f", one, two, reads)
            assert await engine.run(flow) == {"v": 1, "w": 1}
            assert await engine.run(flow.target("reads")) == {"v": 1, "w": 1}
            assert await engine.run(af.linear("g", flow, reads.named("more"))) == {"v": 1, "w": 1}

    run(main)


def test_a_run_in_memory_that_failed_knows_its_flow() -> None:
    """The message says: go on with engine.resume(...), and so one can, as with reset."""
    given = iter([False, True, True])

    @af.task(provides="v")
    async def second_time() -> int:
        if not next(given):
            raise ValueError
        return 7

    async def main() -> None:
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed, match=r"go on with engine.resume\('r'\)"):
                await engine.run(af.linear("f", second_time), run_id="r", never_revert=True)
            assert await engine.resume("r") == {"v": 7}
            assert await engine.resume("r") == {"v": 7}
            assert await (await engine.reset("r")) == {"v": 7}

    run(main)


def test_steps_of_a_run_that_is_taken_up_take_nothing_that_it_has_already() -> None:
    """Ignored without a word, new inputs would be taken for accepted."""

    async def main() -> None:
        async with af.Engine() as engine:
            for given in ({"inputs": {}}, {"durability": "lazy"}, {"never_revert": False}):
                with pytest.raises(
                    af.InputError, match="run 'r' keeps the inputs, the durability and the never_revert"
                ):
                    await anext(engine.steps(bad, run_id="r", resume=True, **given))  # type: ignore[arg-type]
        with pytest.raises(af.DeclarationError, match="never_revert='no' must be True or False"):
            af.Engine(never_revert="no")  # type: ignore[arg-type]

    run(main)


# --- Taken up after a failure -----------------------------------------------------------------------------------------


def named(name: str, log: list[str], *, fails: Any = (), **options: Any) -> Any:
    """Return a task that says so when it runs and, with a "-" before, when it is undone; it fails if *fails* has it."""

    @af.task(name=name, **options)
    async def work() -> None:
        log.append(name)
        if name in fails:
            raise ValueError(name)

    @work.revert
    async def undo() -> None:
        log.append(f"-{name}")

    return work


def test_a_run_that_was_to_be_undone_never_goes_forward_again() -> None:
    """Also where it ended FAILED because a task is gone that nobody can undo any more."""
    log: list[str] = []

    async def main() -> None:
        async with af.Engine() as engine:
            a, b, c = (named(name, log) for name in "abc")
            steps = engine.steps(af.linear("f", a, b, c), run_id="r")
            async for step in steps:
                if "c" in step.due:
                    step.run.cancel("enough")
                if "-b" in step.due:
                    break
            await steps.aclose()
            for _ in range(2):
                with pytest.raises(af.RunFailed, match="NOT everything") as failed:
                    await engine.resume("r", af.linear("f", a, c), accept_changes=True)
                assert list(failed.value.failures) == ["b (revert)"]

    run(main)
    assert log == ["a", "b", "-a"]


def test_a_failed_run_goes_on_under_a_changed_flow() -> None:
    """The very case that a resume is for: somebody has mended the flow."""
    log: list[str] = []

    async def main() -> None:
        async with af.Engine() as engine:
            inner = af.linear("i", named("a", log, fails="a"), retry=af.AlwaysRevert(), revert_scope="flow")
            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("f", inner), run_id="r")
            mended = af.linear("i", named("a", log), retry=af.AlwaysRevert(), revert_scope="flow")
            await engine.resume("r", af.linear("f", mended, named("b", log)))

    run(main)
    assert log == ["a", "-a", "a", "b"]


def test_a_flow_that_has_settled_is_not_asked_when_its_value_is_made_again(tmp_path: Path) -> None:
    """Later tasks have used it: undoing it under them would break the order."""
    log: list[str] = []

    class Asked(af.Controller):
        name = "asked"

        async def execute(self) -> None: ...

        async def on_failure(self, history: af.History) -> af.Decision:
            log.append("asked")
            return af.Decision.RETRY

    @af.task(provides="v", checkpoint=False)
    async def made() -> object:
        log.append("made")
        if log.count("made") == 2:
            raise ValueError
        return object()

    @made.revert
    async def unmade() -> None:
        log.append("-made")

    @af.task
    async def reads(v: object) -> None:
        log.append("reads")

    @reads.revert
    async def unread() -> None:
        log.append("-reads")

    @af.task
    async def last(v: object) -> None: ...

    async def main() -> None:
        flow = af.linear("f", af.linear("inner", made, retry=Asked()), reads, last)
        async with af.Engine(tmp_path / "runs.db") as engine:
            await up_to(engine, flow, "last")
        async with af.Engine(tmp_path / "runs.db") as engine:
            with pytest.raises(af.RunFailed) as failed:
                await engine.resume("r", flow)
            assert failed.value.reverted

    run(main, owns_time=False)
    assert log == ["made", "reads", "made", "-reads", "-made"]


@pytest.mark.parametrize("wait", ["3", None, -1, float("inf"), float("nan"), True])
@pytest.mark.parametrize("of", ["flow", "task"])
def test_a_backoff_that_gives_no_seconds_is_a_failure(wait: Any, of: str, tmp_path: Path) -> None:
    """And leaves a journal that can be read."""

    class Odd:
        def delay(self, attempt: int, rng: Any = None) -> Any:
            return wait

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            task = bad.with_options(retry=af.Retry(3, Odd())) if of == "task" else bad
            flow = af.linear("f", task, retry=af.Times(3, backoff=Odd()) if of == "flow" else None)
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(flow, run_id="r")
            assert failed.group_contains(ValueError, match="says to wait .* return seconds, 0 or more")
            assert (await engine.inspect("r")).state is RunState.REVERTED

    run(main, owns_time=False)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_condition_suspends_the_run(error: type[BaseException], tmp_path: Path) -> None:
    """As one in a body does, so that nothing is lost by Ctrl-C at an odd moment."""

    def interrupts() -> bool:
        raise error

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            await engine.run(af.linear("f", bad.with_options(when=interrupts)), run_id="r")

    with pytest.raises(error):
        asyncio.run(main())

    async def look() -> RunState:
        async with af.Engine(tmp_path / "runs.db") as engine:
            return (await engine.inspect("r")).state

    assert asyncio.run(look()) is RunState.SUSPENDED


def test_a_controller_goes_on_with_its_attempt_after_a_run_has_failed_elsewhere() -> None:
    """What it has tried it has tried, and what it was about to try it still tries once."""
    tried: list[int] = []
    log: list[str] = []
    hangs = asyncio.Event()

    @af.task
    async def tries(value: int) -> None:
        tried.append(value)
        if value == 2 and not hangs.is_set():
            hangs.set()
            await asyncio.Event().wait()
        if value < 3:
            raise ValueError

    @af.task
    async def fails_once() -> None:
        await hangs.wait()
        if log.append("elsewhere") or len(log) == 1:
            raise ValueError

    async def main() -> None:
        each = af.linear("each", tries, retry=af.ForEach([1, 2, 3], provides="value"))
        other = af.linear("other", fails_once, retry=af.AlwaysRevert(), revert_scope="flow")
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed):
                await engine.run(af.unordered("f", each, other), run_id="r")
            await engine.resume("r")

    run(main)
    assert tried == [1, 2, 2, 3]


def test_a_whole_run_that_is_undone_as_a_flow_is_undone() -> None:
    """``revert_scope="flow"`` on the outermost flow leaves nothing to keep."""
    log: list[str] = []

    async def main() -> None:
        flow = af.linear("f", named("a", log), named("b", log, fails="b"), retry=af.Times(1), revert_scope="flow")
        async with af.Engine() as engine:
            with pytest.raises(af.RunFailed, match="everything it had done is undone") as failed:
                await engine.run(flow)
            assert failed.value.reverted

    run(main)
    assert log == ["a", "b", "-b", "-a"]


def test_who_is_not_wanted_any_more_is_not_asked_on() -> None:
    """A controller that is thinking about a flow must not act while the run is being undone."""
    said: list[str] = []
    begun = asyncio.Event()

    class Thinks(af.Controller):
        name = "thinks"

        async def execute(self) -> None: ...

        async def on_failure(self, history: af.History) -> af.Decision:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                said.append("stopped")
            return af.Decision.RETRY

        async def revert(self) -> None:
            said.append("undone")

    async def main() -> None:
        async with af.Engine() as engine:
            started = await engine.start(af.linear("f", bad, retry=Thinks()))
            await begun.wait()
            started.cancel("enough")
            with pytest.raises(af.RunCancelled):
                await started

    run(main)
    assert sorted(said) == ["stopped", "undone"]


def test_a_function_that_is_mapped_may_be_of_any_kind() -> None:
    """A class, an object with an async call; what it fails of is seen as it is."""

    class Doubles:
        __name__ = "doubles"

        async def __call__(self, value: int) -> int:
            return 2 * value

    async def fails(value: int) -> int:
        raise ValueError(value)

    async def main() -> None:
        async with af.Engine() as engine:
            given = {"a": "1", "b": "2"}
            ints = af.map_task(int, requires=["a", "b"], provides="ints")
            assert (await engine.run(af.linear("f", ints), given))["ints"] == [1, 2]
            twice = af.map_task(Doubles(), requires=["a"], provides="twice")
            assert (await engine.run(af.linear("f", twice), {"a": 1}))["twice"] == [2]
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(af.linear("f", af.map_task(fails, requires=["a"])), {"a": 1})
            assert isinstance(failed.value.exceptions[0], ValueError)
            later = af.map_task(lambda value: fails(value), requires=["a"], name="later")
            with pytest.raises(af.RunFailed) as failed:
                await engine.run(af.linear("f", later), {"a": 1})
            assert failed.group_contains(TypeError, match="something to await; make it an async def")

    run(main, owns_time=False)


def test_a_removed_flow_that_was_late_is_named() -> None:
    """And not taken for the flow around it."""

    @af.task
    async def hangs() -> None:
        await asyncio.Event().wait()

    @hangs.revert
    async def undo() -> None: ...

    async def main() -> None:
        async with af.Engine(clock=LoopClock()) as engine:
            late = af.linear("late", hangs, timeout=5.0)
            steps = engine.steps(af.linear("f", late), run_id="r")
            async for step in steps:
                if "-late/hangs" in step.due:
                    break
            await steps.aclose()
            with pytest.raises(af.RunFailed) as failed:
                await engine.resume("r", af.linear("f"), accept_changes=True)
            assert set(failed.value.failures) == {"late", "late/hangs (revert)"}
            assert failed.group_contains(af.FlowTimedOut, match=r"flow 'late' took longer than its timeout of 5\.0 s")

    run(main)


def test_a_controller_is_asked_once_what_it_is_asked_about_is_on_record() -> None:
    """It may call out of the process, and a crash in that moment must not leave a journal that knows nothing of it."""
    seen: list[af.TaskState] = []

    async def main() -> None:
        async with af.Engine() as engine:

            class Looks(af.Controller):
                name = "looks"

                async def execute(self) -> None: ...

                async def on_failure(self, history: af.History) -> af.Decision:
                    seen.append((await engine.inspect("r")).states()["f/bad"])
                    return af.Decision.REVERT

            with pytest.raises(af.RunFailed):
                await engine.run(af.linear("o", af.linear("f", bad, retry=Looks())), run_id="r")

    run(main)
    assert seen == [af.TaskState.FAILED]
