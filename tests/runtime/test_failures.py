"""What a failed run raises: the original exceptions, in order, in a group that says what to do next."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from tests.runtime.loops import LoopClock, run


def bad(name: str, error: BaseException, *, after: float = 0.0, **options: Any) -> af.Task:
    """Return a task that raises *error* after some seconds."""

    async def fail(*inputs: Any) -> None:
        await asyncio.sleep(after)
        raise error

    return af.task(name=name, **options)(fail)


def undone_badly(name: str, error: Exception | None, **options: Any) -> af.Task:
    """Return a task that succeeds, and whose revert raises *error*."""

    async def succeed() -> str:
        return name

    async def undo() -> None:
        if error is not None:
            raise error

    made = af.task(name=name, **options)(succeed)
    made.revert(undo)
    return made


async def failure_of(flow: Any, path: Path | None = None, **options: Any) -> af.RunFailed:
    """Run *flow* as run ``r`` and return what it raises."""
    async with af.Engine(path, clock=None if path else LoopClock(), **options) as engine:
        with pytest.raises(af.RunFailed) as failure:
            await engine.run(flow, run_id="r")
        return failure.value


def test_except_star_finds_the_original_exceptions() -> None:
    """Code that calls an engine handles errors as if it had called the function itself."""

    async def main() -> None:
        original = ValueError("bad value")
        caught: list[BaseException] = []
        async with af.Engine() as engine:
            try:
                await engine.run(af.unordered("flow", bad("a", original)))
            except* KeyError:
                pytest.fail("nothing raised that")
            except* ValueError as group:
                caught.append(group)
        [group] = caught
        assert isinstance(group, af.RunFailed), "the class stays, also in part of the group"
        assert group.exceptions == (original,) and group.exceptions[0] is original

    run(main)


def test_parts_of_a_failure_still_say_which_run_it_was() -> None:
    """``split``, ``subgroup`` and ``except*`` make groups of their own; the run must not get lost on the way."""

    async def main() -> None:
        one, other = ValueError("one"), KeyError("other")
        failure = await failure_of(
            af.linear("flow", undone_badly("first", other), bad("bad", one)),
        )
        matching, rest = failure.split(ValueError)
        part = failure.subgroup(lambda error: isinstance(error, KeyError))
        assert isinstance(matching, af.RunFailed) and isinstance(rest, af.RunFailed) and isinstance(part, af.RunFailed)
        for group, members in ((matching, (one,)), (rest, (other,)), (part, (other,)), (failure.derive([one]), (one,))):
            assert group.exceptions == members and group.message == failure.message
            assert (group.run_id, group.reverted, group.failures) == ("r", False, failure.failures)
        assert failure.subgroup(OSError) is None
        assert isinstance(failure, af.AsyncflowError) and isinstance(failure, ExceptionGroup)

    run(main)


def test_members_are_task_failures_first_and_then_failures_of_reverts() -> None:
    """The cause comes before its consequences, and siblings that were cancelled are not to blame."""

    async def main() -> None:
        late, early = ValueError("late"), ValueError("early")

        async def fails_while_stopping() -> None:
            try:
                await asyncio.sleep(1e6)
            except asyncio.CancelledError:
                raise late from None

        undo = OSError("undo")
        group = af.unordered(
            "group",
            bad("sleeps", ValueError("never"), after=1e6),
            af.task(name="stopping")(fails_while_stopping),
            bad("early", early, after=1.0),
        )
        failure = await failure_of(af.linear("flow", undone_badly("first", undo), group))
        assert failure.exceptions == (early, late, undo)
        assert list(failure.failures) == ["group/early", "group/stopping", "first (revert)"]
        assert [entry.exception for entry in failure.failures.values()] == [early, late, undo]
        assert not failure.reverted

    run(main)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_the_message_names_the_run_the_task_and_the_next_command(where: str, tmp_path: Path) -> None:
    """It is what a person finds in a log, hours later."""

    async def main() -> None:
        path = tmp_path / "runs.db" if where == "file" else None
        look = f"; look at it with: asyncflow show r --db {path}" if path else ""
        undone, not_undone = "everything it had done is undone", "NOT everything it had done could be undone"
        failure = await failure_of(af.linear("flow", bad("fetch", ValueError("no"))), path)
        assert failure.message == f"run 'r' failed in 'fetch'; {undone}{look}"
        assert failure.reverted and failure.exceptions[0].__notes__ == ["in task 'fetch' of run 'r'"]
        if path is not None:
            path = tmp_path / "others.db"
            look = look.replace("runs.db", "others.db")
        failure = await failure_of(
            af.linear("flow", undone_badly("a", OSError("b")), bad("fetch", ValueError("no"))), path
        )
        assert failure.message == f"run 'r' failed in 'fetch' and 1 more; {not_undone}{look}"
        assert failure.exceptions[1].__notes__ == ["in task 'a (revert)' of run 'r'"]

    run(main, owns_time=False)


def test_a_group_raised_by_a_body_stays_a_group() -> None:
    """A task group's exception is one failure with members, and policies look at all of its leaves."""

    async def main() -> None:
        group = ExceptionGroup("several", [ConnectionError("a"), TimeoutError("b")])
        times: list[int] = []

        @af.task(retry=af.Retry(3, af.Fixed(1.0), on=(ConnectionError, TimeoutError)))
        async def several(ctx: af.Context) -> None:
            times.append(ctx.attempt)
            if ctx.attempt == 2:
                raise ExceptionGroup("mixed", [ConnectionError("a"), ValueError("not to be retried")])
            raise group

        failure = await failure_of(several)
        assert times == [1, 2], "one leaf that does not match is enough"
        [mixed] = failure.exceptions
        assert isinstance(mixed, ExceptionGroup) and mixed.message == "mixed"
        assert failure.subgroup(ConnectionError) is not None and failure.subgroup(ValueError) is not None

    run(main)


def test_what_is_no_exception_is_wrapped() -> None:
    """An ExceptionGroup can hold nothing else, and a body may raise anything."""

    class Odd(BaseException):
        """Neither an Exception nor one of those that Python itself raises."""

    async def main() -> None:
        failure = await failure_of(bad("odd", Odd("strange")))
        [error] = failure.exceptions
        assert type(error) is af.AsyncflowError and str(error) == "task 'odd' raised Odd: strange"
        assert isinstance(error.__cause__, Odd)

    run(main)


def test_two_failures_at_once_are_both_told() -> None:
    """The second must not be lost because the first has turned the run round already."""

    async def main() -> None:
        one, other = ValueError("one"), ValueError("other")
        failure = await failure_of(af.unordered("flow", bad("a", one), bad("b", other)))
        assert failure.exceptions == (one, other)
        assert failure.message == "run 'r' failed in 'a' and 1 more; everything it had done is undone"

    run(main)


def test_a_promised_element_that_is_missing_fails_its_producer() -> None:
    """The reader could only say that something is missing, and not whose fault it is."""

    async def main() -> None:
        undone: list[str] = []

        @af.task(provides=("a", "b"), retry=af.Retry(3))
        async def pair() -> Any:
            return (1,)

        @pair.revert
        async def undo(outcome: af.Outcome[Any]) -> None:
            undone.append(type(outcome).__name__)

        failure = await failure_of(af.linear("flow", pair))
        [error] = failure.exceptions
        assert isinstance(error, af.MissingElement)
        assert str(error) == "task 'pair' promised to provide 'b' and returned a tuple of 1 without it"
        assert undone == ["Failure"]

    run(main)


def test_a_revert_is_told_what_it_undoes_and_why() -> None:
    """It may have to ask the outside world how far a failed body came."""

    async def main() -> None:
        told: dict[str, Any] = {}
        error = ValueError("no")

        @af.task(provides="a")
        async def a(x: int) -> int:
            return x + 1

        @a.revert
        async def undo_a(x: int, outcome: af.Outcome[int], failures: Any) -> str:
            told["a"] = (x, outcome, {path: failure.exception for path, failure in failures.items()})
            return "kept"

        @af.task
        async def sleeps(a: int) -> None:
            await asyncio.sleep(1e6)

        @sleeps.revert
        async def undo_sleeps(a: int, outcome: Any) -> None:
            told["sleeps"] = (a, outcome)

        failing = bad("failing", error, after=1.0)

        @failing.revert
        async def undo_failing(outcome: Any) -> None:
            told["failing"] = outcome.exception

        async with af.Engine(clock=LoopClock()) as engine:
            flow = af.linear("flow", a, af.unordered("group", sleeps, failing))
            one = await engine.start(flow, {"x": 1})
            with pytest.raises(af.RunFailed):
                await one
            assert told == {
                "a": (1, af.Success(2), {"group/failing": error}), "sleeps": (2, af.Cancelled()), "failing": error,
            }  # fmt: skip
            assert one.supervisor.machine.revert_values[0] == "kept"

    run(main)


def test_what_a_failed_revert_depends_on_is_left_as_it_is() -> None:
    """Undoing the ground under something that still stands would make it worse; what is independent goes on."""

    async def main() -> None:
        flow = af.linear(
            "flow",
            undone_badly("base", None),
            af.unordered("group", undone_badly("stuck", OSError("stuck")), undone_badly("free", None)),
            bad("bad", ValueError("no")),
        )
        async with af.Engine() as engine:
            one = await engine.start(flow)
            with pytest.raises(af.RunFailed):
                await one
            states = {task.path: task.state.name for task in one.tasks()}
            assert states == {
                "base": "SUCCEEDED", "group/stuck": "REVERT_FAILED", "group/free": "REVERTED", "bad": "REVERTED",
            }  # fmt: skip
            assert one.state is af.RunState.FAILED

    run(main)
