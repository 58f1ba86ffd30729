"""
Does my flow survive? Every crash, every cancel and many orders, tried on the user's own flow in worlds of their own.
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import attrs

from asyncflow.errors import DeclarationError
from asyncflow.graph.flow import Flow
from asyncflow.graph.options import is_async
from asyncflow.graph.pattern import as_flow
from asyncflow.interfaces import Call, Executor, Work
from asyncflow.states import RunState
from asyncflow.testing.invariants import check_invariants, hold
from asyncflow.testing.world import Case, Ending, World

T = TypeVar("T")

Points = Literal["every-record", "every-await"]
Check = Callable[[Ending], object]


class DoesNotSurvive(AssertionError):
    """A flow came to harm. ``case`` is the smallest that was found, ``timeline`` what happened in it."""

    def __init__(self, message: str, *, case: Case, timeline: str) -> None:
        super().__init__(message)
        self.case = case
        self.timeline = timeline


@attrs.frozen
class Survey:
    """What was tried: how many cases, and how the undisturbed run ended."""

    cases: int
    undisturbed: Ending


def survive(
    flow: Flow[..., Any],
    inputs: Mapping[str, Any] | None = None,
    *,
    crashes: Points | None = "every-record",
    cancels: Literal["every-await"] | None = None,
    seeds: int = 200,
    before: Callable[[], object] = lambda: None,
    check: Check | None = None,
    same_ending: bool = True,
    only: Case | None = None,
    **engine_options: Any,
) -> Survey:
    """
    Run *flow* again and again, let it crash and be cancelled, resume it, and look at how it ends. For plain tests.

    It survives if every run comes to an end, in the state and with the value of the run that nobody disturbed (or
    CANCELLED, if it was cancelled), keeps the promises that hold for every run, and satisfies *check*. First come the
    crash points one by one, earliest first, then the cancels, then *seeds* worlds with an order, delays and troubles of
    their own. What fails is made as small as it gets before it is reported.

    Args:
        flow: What to run. Its bodies run in virtual time, and plain functions on the loop.
        inputs: Its inputs, by name.
        crashes: Where a process dies: right before every record of the journal lasts, when what it tells of has
            happened, and right after; with "every-await" after every step of the event loop too. None: nowhere.
        cancels: "every-await": the run is cancelled after every step of the event loop. None: never.
        seeds: How many worlds to try after those.
        before: Called before each run, to put back what lies outside of it: fakes, counters.
        check: Called with each :class:`~asyncflow.testing.Ending`; raises if something outside is not as it should be.
        same_ending: Whether every run must end as the undisturbed one. Say False of a flow whose outcome depends on who
            comes first, and let *check* tell what is right.
        only: One case, from a report, to look at again.
        engine_options: For every :class:`~asyncflow.Engine`, such as ``resources`` or ``concurrency``.

    Raises:
        DeclarationError, InputError: No engine would take this flow, or these inputs.
        DoesNotSurvive: A case fails. It names the smallest one found, how to repeat it, and what happened in it.
    """
    _check_plain(before=before, check=check)
    trial = _Trial(flow, inputs, before, check, same_ending, engine_options)
    return trial.survey(crashes, cancels, seeds, only)


async def assert_survives(flow: Flow[..., Any], inputs: Mapping[str, Any] | None = None, **options: Any) -> Survey:
    """
    Do as :func:`survive`, from a coroutine. The caller's loop stands still meanwhile.

    The worlds have loops of their own, which a thread of their own turns; any loop will do for the caller, also one of
    trio's or in virtual time.
    """
    return _elsewhere(lambda: survive(flow, inputs, **options))


def revert_survey(
    flow: Flow[..., Any],
    inputs: Mapping[str, Any] | None = None,
    *,
    fail_at: str,
    crashes: Points | None = "every-record",
    seeds: int = 50,
    before: Callable[[], object] = lambda: None,
    check: Check | None = None,
    only: Case | None = None,
    **engine_options: Any,
) -> Survey:
    """
    Have the task at path *fail_at* fail for good, once its body is done, and see that everything is undone.

    The run must end REVERTED, also if the process crashes on the way; *check* may look at what is left outside, which
    alone tells that a task should have had a revert. The rest is as for :func:`survive`.

    Raises:
        DeclarationError: The flow has no such task; or none with a revert, and there is no *check*.
        DoesNotSurvive: Something was not undone.
    """
    plan = as_flow(flow).compile()
    paths = [plan.path(task) for task in range(plan.size)]
    if fail_at not in paths:
        raise DeclarationError(f"flow {plan.flow!r} has no task {fail_at!r} to fail at; it has {', '.join(paths)}")
    tasks = plan.tasks or ()
    body = tasks[plan.index(fail_at)].body
    if check is None and all(task.undo is None for task in tasks):
        raise DeclarationError(
            f"flow {plan.flow!r} has no revert, so there is nothing to undo; say by check= what must be left outside"
        )

    def is_undone(ending: Ending) -> None:
        hold(ending.state is RunState.REVERTED, f"task {fail_at!r} failed, and the run ended {ending.state.value}")
        if check is not None:
            hold(check(ending) is not False, "check returned False")

    _check_plain(before=before, check=check)
    trial = _Trial(flow, inputs, before, is_undone, True, engine_options)
    trial.around = lambda executor: _Failing(executor, fail_at, body)
    return trial.survey(crashes, None, seeds, only)


async def assert_reverts(flow: Flow[..., Any], inputs: Mapping[str, Any] | None = None, **options: Any) -> Survey:
    """Do as :func:`revert_survey`, from a coroutine. The caller's loop stands still meanwhile."""
    return _elsewhere(lambda: revert_survey(flow, inputs, **options))


class FailedOnPurpose(Exception):
    """What a task raises that a test has chosen to fail."""


class _Failing:
    """An executor whose bodies do their work, except that one of them fails instead of returning."""

    def __init__(self, executor: Executor, path: str, body: Any) -> None:
        self._executor = executor
        self._path = path
        self._body = body
        self.close = executor.close

    def submit(self, call: Call, done: Callable[[Any, BaseException | None], None]) -> Work:
        if call.name != self._path or call.fn != self._body:
            return self._executor.submit(call, done)

        def fail(value: Any, error: BaseException | None) -> None:
            done(None, error or FailedOnPurpose(f"a test has task {self._path!r} fail"))

        return self._executor.submit(call, fail)


@attrs.define
class _Trial:
    """One flow, and what is asked of its runs."""

    flow: Flow[..., Any]
    inputs: Mapping[str, Any] | None
    before: Callable[[], object]
    check: Check | None
    same_ending: bool
    options: Mapping[str, Any]
    around: Callable[[Executor], Executor] = attrs.field(default=lambda executor: executor)
    undisturbed: Ending | None = None

    def survey(self, crashes: Points | None, cancels: Points | None, seeds: int, only: Case | None) -> Survey:
        if crashes not in ("every-record", "every-await", None):
            raise DeclarationError(f"crashes={crashes!r} must be 'every-record', 'every-await' or None")
        if cancels not in ("every-await", None):
            raise DeclarationError(f"cancels={cancels!r} must be 'every-await' or None")
        self._try(Case())
        undisturbed = self.undisturbed
        assert undisturbed is not None
        count = 1
        for case in (only,) if only is not None else self._cases(undisturbed, crashes, cancels, seeds):
            self._try(case)
            count += 1
        return Survey(count, undisturbed)

    def _cases(self, whole: Ending, crashes: Points | None, cancels: Points | None, seeds: int) -> Iterator[Case]:
        records, steps = len(whole.records), whole.steps
        if crashes is not None:
            for number in range(1, records + 1):
                yield Case(0, (("before", number),))
                yield Case(0, (("after", number),))
        if crashes == "every-await":
            yield from (Case(0, (("await", number),)) for number in range(1, steps + 1))
        if cancels is not None:
            yield from (Case(0, cancel=number) for number in range(1, steps + 1))
        for seed in range(1, seeds + 1):
            rng = random.Random(f"case {seed}")
            deaths = []
            for _ in range(rng.choice((0, 1, 1, 2, 3)) if crashes is not None else 0):
                # Records are counted over all lives; what an early one leaves the next begins with.
                is_step = crashes == "every-await" and rng.random() < 0.7
                side = rng.choice(("before", "after"))
                deaths.append(("await", rng.randint(1, steps)) if is_step else (side, rng.randint(1, records + 2)))
            cancel = rng.randint(1, steps) if cancels is not None and rng.random() < 0.4 else None
            yield Case(seed, tuple(deaths), cancel)

    def _try(self, case: Case) -> None:
        """Run one case. One that fails is made smaller as long as it goes on failing, and reported."""
        harm = self._harm(case)
        if harm is None:
            return
        is_smaller = True
        while is_smaller:
            is_smaller = False
            for smaller in _smaller(case):
                if (found := self._harm(smaller)) is not None:
                    case, harm, is_smaller = smaller, found, True
                    break
        reason, timeline, error = harm
        raise DoesNotSurvive(
            f"flow {as_flow(self.flow).name!r} does not survive {case}\n  {reason}\n"
            f"repeat it with only={case!r}\n{timeline}",
            case=case,
            timeline=timeline,
        ) from error

    def _harm(self, case: Case) -> tuple[str, str, BaseException | None] | None:
        """Return what is wrong with a case, its timeline and what was raised; None if nothing is."""
        self.before()
        with World(self.flow, self.inputs, case, around=self.around, **self.options) as world:
            try:
                ending = world.run()
                self._look(world, case, ending)
            except _complaints() as error:
                if case == Case() and not world.has_begun:
                    raise  # the engine takes no such flow, inputs or options, so there is nothing to survive
                text = str(error) or "it says nothing more"
                return f"{type(error).__name__}: {text}", world.timeline(), error
        if case == Case():
            self.undisturbed = ending
        return None

    def _look(self, world: World, case: Case, ending: Ending) -> None:
        check_invariants(world.plan, ending)
        expected = self.undisturbed
        if self.same_ending and expected is not None:
            is_cancelled = case.cancel is not None and ending.state is RunState.CANCELLED
            hold(
                is_cancelled or ending.state is expected.state,
                f"the run ended {ending.state.value}, and undisturbed it ends {expected.state.value}",
            )
            hold(
                is_cancelled or ending.value == expected.value,
                f"the run returned {ending.value!r}, and undisturbed it returns {expected.value!r}",
            )
            hold(
                is_cancelled or ending.failures == expected.failures,
                f"tasks {', '.join(ending.failures) or 'none'} failed, and undisturbed it is "
                f"{', '.join(expected.failures) or 'none'}",
            )
        if self.check is not None:
            hold(self.check(ending) is not False, "check returned False")
        elif expected is None:
            # Else a flow that can do nothing but fail would survive whatever it is tried with.
            hold(
                ending.state is RunState.SUCCEEDED,
                f"undisturbed the run ends {ending.state.value} ({', '.join(ending.failures) or 'nothing'} failed); if "
                "that is as it should be, say so by check=",
            )


def _complaints() -> tuple[type[BaseException], ...]:
    """Return what counts as a complaint: any Exception, and what ``pytest.fail()`` raises, which is none."""
    pytest = sys.modules.get("pytest")
    return (Exception,) if pytest is None else (Exception, pytest.fail.Exception)


def _check_plain(**functions: Any) -> None:
    for name, function in functions.items():
        if is_async(function):
            raise DeclarationError(f"{name}={function!r:.80} is async, and nobody would await it; make it a plain def")


def _smaller(case: Case) -> Iterator[Case]:
    """Yield cases with less trouble than *case*, the smallest first."""
    if case.cancel is not None:
        yield attrs.evolve(case, cancel=None)
    for place in range(len(case.crashes)):
        # A crash that is left out leaves fewer records behind, so the same place has another number.
        for fewer in range(3):
            later = ((kind, max(1, number - fewer)) for kind, number in case.crashes[place + 1 :])
            yield attrs.evolve(case, crashes=(*case.crashes[:place], *later))
    if case.seed:
        yield attrs.evolve(case, seed=0)
    for place, (kind, number) in enumerate(case.crashes):
        for less in sorted({number // 2, number - 1} - {0, number}):
            yield attrs.evolve(case, crashes=(*case.crashes[:place], (kind, less), *case.crashes[place + 1 :]))


def _elsewhere(act: Callable[[], T]) -> T:
    """Call *act* in a thread where no loop runs, and wait for it."""
    values: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            values.append(act())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=call, name="asyncflow worlds")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return values[0]
