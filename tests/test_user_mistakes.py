"""What people get wrong, and what they are told: the thing, the place, what was found, and the way out."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af


@af.task
async def one() -> int:
    return 1


@af.task
async def inc(x: int) -> int:
    return x + 1


@af.task
async def text(s: str) -> str:
    return s


@af.task(provides="page")
async def fetch(url: str) -> str:
    return url


@af.task(provides="page")
async def fetch_too(url: str) -> str:
    return url


@af.task
async def parse(page: str) -> int:
    return len(page)


@af.task(provides=("first", "second"))
async def pair() -> Any:
    return (1,)


@af.task
async def wants_pool(pool: str = af.resource()) -> None:
    pass


async def takes_outcome(outcome: af.Outcome[int]) -> None: ...


@af.task
async def gives_a_function() -> Any:
    return lambda: 1


@af.task
async def gives_a_circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


@af.task
async def overshoots(ctx: af.Context) -> None:
    ctx.progress(2)


class Unwritten(af.Task):
    """A class task without a body."""


class Undecided(af.Controller):
    """A controller that cannot be asked."""

    def execute(self) -> None:
        pass


class Bodiless(af.Controller):
    """A controller that gives nothing."""

    def on_failure(self, history: af.History) -> af.Decision:
        return af.Decision.RETRY


class Curious(Undecided):
    def on_failure(self, history: af.History, nope: int) -> af.Decision:
        return af.Decision.RETRY


class CuriousToUndo(Undecided):
    def on_failure(self, history: af.History) -> af.Decision:
        return af.Decision.RETRY

    def revert(self, nope: int) -> None:
        pass


class Vague(Undecided):
    name = "vague"

    def on_failure(self, history: af.History) -> Any:
        return "retry"


class Raising(Undecided):
    name = "raising"

    async def on_failure(self, history: af.History) -> af.Decision:
        raise LookupError("no idea")


@af.task
async def fails() -> None:
    raise ValueError("broken")


async def slowly(x: int) -> bool:
    return True


@af.task(when=lambda: True)
async def perhaps() -> int:
    return 1


class Listed(af.Task):
    """A class task that takes what it lists."""

    requires = ("a", "b")

    async def execute(self, **inputs: int) -> int:
        return sum(inputs.values())


@dataclasses.dataclass
class Order:
    """Something with a field."""

    lines: Any


def bare() -> int:
    return 1


async def bare_async() -> int:
    return 1


def yields() -> Any:
    yield 1


def run(flow: Any, inputs: dict[str, Any] | None = None, *, path: Path | None = None, **options: Any) -> Any:
    """Run *flow* in an engine of its own; what fails in a task is raised as it is."""

    async def main() -> Any:
        async with af.Engine(path) as engine:
            before = await engine.runs()
            try:
                return await engine.run(flow, inputs, **options)
            except af.RunFailed as failed:
                raise failed.exceptions[0] from None
            except af.AsyncflowError:
                # Refused: the run does not exist.
                assert await engine.runs() == before
                raise

    return asyncio.run(main())


def second_failure(flow: Any, inputs: dict[str, Any] | None = None) -> None:
    """Run *flow* and raise the last of the failures that it reports."""

    async def main() -> None:
        async with af.Engine() as engine:
            try:
                await engine.run(flow, inputs)
            except af.RunFailed as failed:
                raise failed.exceptions[-1] from None

    asyncio.run(main())


def reset_while(state: str) -> None:
    """Reset a run that is in *state*, or that is not there."""

    async def main() -> None:
        started = asyncio.Event()

        @af.task
        async def wait() -> None:
            started.set()
            await asyncio.Event().wait()

        flow = af.linear("f", wait)
        async with af.Engine(grace=0.0) as engine:
            if state != "unknown":
                run = await engine.start(flow, run_id="r")
                await started.wait()
            if state == "suspended":
                run.suspend(grace=0.0)
                with pytest.raises(af.RunSuspended):
                    await run
            await engine.reset("r", flow)

    asyncio.run(main())


def returning(*tasks: Any) -> Callable[[], Any]:
    """Return what compiles a builder that returns the value of the last of *tasks*, each fed with the one before."""

    def wire() -> Any:
        value = tasks[0]()
        for task in tasks[1:]:
            value = task(value)
        return value

    return lambda: af.flow(name="f")(wire).compile()


def controlled(**options: Any) -> Callable[[], Any]:
    """Return what compiles a flow of one task with *options*."""
    return lambda: af.linear("f", one, **options).compile()


def out_of_a_flow_and_back() -> Any:
    inner = af.graph("in", fetch, inc, retry=af.Times(2))
    return af.graph("g", inner, parse.with_options(provides="x")).compile()


def resume(run_id: str, path: Path, flow: Any = None) -> Any:
    async def main() -> Any:
        async with af.Engine(path) as engine:
            return await engine.resume(run_id, flow)

    return asyncio.run(main())


def twice_at_once(path: Path | None) -> None:
    @af.task
    async def waits() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with af.Engine(path, grace=0.0) as engine:
            await engine.start(waits, run_id="r")
            await engine.resume("r", waits)

    asyncio.run(main())


def build(body: Callable[[], Any]) -> Callable[[], Any]:
    """Return what compiles *body* as a builder called ``f``."""
    return lambda: af.flow(name="f")(body).compile()


def function() -> Callable[[], int]:
    def thing() -> int:
        return 1

    return thing


def with_reverts(count: int, revert: Callable[..., Any]) -> None:
    task = af.task(function())
    for _ in range(count):
        task.revert(revert)


def in_a_circle() -> None:
    flow = af.graph("g", one.named("a"), one.named("b"))
    flow.link("a", "b")
    flow.link("b", "a")
    flow.compile()


def two_sizes() -> Any:
    limited = one.with_options(limits=af.Limit("api", 1)), inc.with_options(limits=af.Limit("api", 2))
    return run(af.linear("f", *limited), {"x": 1})


Mistake = tuple[Callable[[], Any], type[BaseException], str]

DECLARING: dict[str, Mistake] = {
    "a slash in a name": (lambda: one.named("a/b"), af.DeclarationError, r"task name 'a/b' .* without '/'"),
    "an empty flow name": (lambda: af.linear(""), af.DeclarationError, r"flow name '' is unusable; give 1 to 200"),
    "an unknown option": (
        lambda: one.with_options(retires=3),  # type: ignore[call-arg]
        af.DeclarationError,
        r"task 'one' has an unknown option 'retires' \(did you mean 'requires'\?\); options are name, ",
    ),
    "a number for a policy": (
        lambda: one.with_options(retry=3),  # type: ignore[arg-type]
        af.DeclarationError,
        r"task 'one' has retry=3; give a policy such as af\.Retry\(3\)",
    ),
    "no attempts": (lambda: af.Retry(0), af.DeclarationError, r"attempts of af\.Retry is 0; give .* 1 or more"),
    "time that runs backwards": (
        lambda: one.with_options(timeout=-1),
        af.DeclarationError,
        r"timeout of task 'one' is -1; give seconds",
    ),
    "an unknown on_crash": (
        lambda: one.with_options(on_crash="ignore"),  # type: ignore[arg-type]
        af.DeclarationError,
        r"on_crash='ignore'; give \"retry\".*\"fail\"",
    ),
    "a body that yields": (lambda: af.task(yields), af.DeclarationError, r"task 'yields' yields, .*; return a list"),
    "two reverts": (lambda: with_reverts(2, lambda: None), af.DeclarationError, r"'thing' has two reverts; keep one"),
    "a revert of something else": (
        lambda: with_reverts(1, lambda nope: None),
        af.DeclarationError,
        r"revert of task 'thing' takes 'nope', which is no input of its task; it may take",
    ),
    "a class without a body": (Unwritten, af.DeclarationError, r"Unwritten has no execute\(\); subclass it and write"),
    "an async body inline": (
        lambda: one.with_options(executor="inline").ready(),
        af.DeclarationError,
        r"task 'one' is async and has executor=\"inline\"; leave executor out",
    ),
    "a limit of nothing": (lambda: af.Limit("api", 0), af.DeclarationError, r"permits of af\.Limit is 0; give"),
}

WIRING: dict[str, Mistake] = {
    "a call outside a flow": (one, af.DeclarationError, r"'one' was called outside a flow; .* one\.fn\(\.\.\.\)"),
    "a bare function": (
        lambda: af.linear("f", bare),
        af.DeclarationError,
        r"bare function; decorate it with @af\.task",
    ),
    "a builder that raises": (
        build(lambda: {"order": one()}["ordre"]),
        af.DeclarationError,
        r"flow 'f' raised KeyError while it was being declared: 'ordre'",
    ),
    "one name twice": (
        lambda: af.linear("f", one, one).compile(),
        af.DuplicateName,
        r"flow 'f' has two tasks or flows named 'one'; give one another name",
    ),
    "a test of a reference": (
        build(lambda: inc(one()) if one() else 1),
        af.ReferenceMisuse,
        r"'one' has no value while flow 'f' .* tested for truth; do it in a task",
    ),
    "arithmetic": (build(lambda: inc(one() + 1)), af.ReferenceMisuse, r"cannot be calculated with; do it in a task"),
    "a comparison": (build(lambda: one() == 1), af.ReferenceMisuse, r"cannot be compared; do it in a task"),
    "an iteration": (
        build(lambda: list(one())),  # type: ignore[call-overload]
        af.ReferenceMisuse,
        r"iterated over or unpacked: .*; annotate the task -> tuple\[A, B\]",
    ),
    "a length": (build(lambda: len(one())), af.ReferenceMisuse, r"it has no length"),  # type: ignore[arg-type]
    "formatting": (build(lambda: text(f"{one()}")), af.ReferenceMisuse, r"cannot be formatted or printed"),
    "a missing argument": (
        build(lambda: inc()),  # type: ignore[call-arg]
        af.DeclarationError,
        r"task 'inc' is called in flow 'f' without 'x'; pass a reference or a constant",
    ),
    "a task that is not called": (
        build(lambda: inc(one)),  # type: ignore[arg-type]
        af.DeclarationError,
        r"<task 'one'> stands where its value belongs; call it: one\(\.\.\.\)",
    ),
    "a flow that is not called": (
        build(lambda: text([{"s": af.linear("g", one)}])),  # type: ignore[arg-type]
        af.DeclarationError,
        r"<flow 'g'> stands where its value belongs; call it",
    ),
    "a builder that returns a task": (build(lambda: one), af.DeclarationError, r"<task 'one'> stands where its value"),
    "a coroutine": (
        build(lambda: inc(bare_async())),  # type: ignore[arg-type]
        af.DeclarationError,
        r"a coroutine of 'bare_async' stands where a value belongs; decorate the function with @af\.task",
    ),
    "a reference in an object": (
        build(lambda: text(Order(one()))),  # type: ignore[arg-type]
        af.ReferenceMisuse,
        r"a Order cannot hold references, .*; pass them in a list, tuple or dict",
    ),
    "a reference injected": (
        build(lambda: inc.with_options(inject={"x": one()})()),  # type: ignore[call-arg]
        af.DeclarationError,
        r"task 'inc' injects a reference; inject constants, and pass references in the call",
    ),
    "an input that requires= names": (
        build(lambda: Listed()(a=1)),
        af.DeclarationError,
        r"task class Listed is called in flow 'f' without 'b'; pass a reference or a constant",
    ),
    "an argument twice": (
        build(lambda: inc(one(), x=2)),  # type: ignore[misc]
        af.DeclarationError,
        r"'inc' is called with 'x' twice, by position and by keyword",
    ),
    "an unknown argument": (
        build(lambda: inc(y=one())),  # type: ignore[call-arg]
        af.DeclarationError,
        r"'inc' is called with 'y', which it does not take",
    ),
    "types that cannot fit": (
        build(lambda: text(one())),  # type: ignore[arg-type]
        af.TypeMismatch,
        r"flow 'f': task 'text' takes 's' as str, and 'one' gives int; change one",
    ),
    "two providers": (
        lambda: af.graph("g", fetch, fetch_too, parse).compile(),
        af.AmbiguousProvider,
        r"flow 'g': 'parse' needs input 'page', which both 'fetch' and 'fetch_too' provide; give",
    ),
    "a circle": (in_a_circle, af.CycleError, r"flow 'g' has a cycle: a -> b -> a; an input may only come from"),
    "a link to nothing": (
        lambda: af.graph("g", one).link("one", "two"),
        af.DeclarationError,
        r"flow 'g' has no item 'two' to link; add it first",
    ),
    "an aim at nothing": (
        lambda: af.linear("f", one).target("two").compile(),
        af.UnknownTarget,
        r"flow 'f' has no task or flow 'two' to aim at",
    ),
}

STARTING: dict[str, Mistake] = {
    "a missing input": (
        lambda: run(af.linear("f", fetch, parse)),
        af.InputError,
        r"flow 'f' needs input 'url' for task 'fetch', which nothing in it provides; pass \{'url': \.\.\.\}",
    ),
    "a provider that comes later": (
        lambda: run(af.linear("f", parse, fetch), {"url": "x"}),
        af.InputError,
        r"flow 'f' needs input 'page' for task 'parse', and 'fetch', which provides it, does not come before; put it",
    ),
    "a provider beside its reader": (
        lambda: run(af.unordered("f", fetch, parse), {"url": "x"}),
        af.InputError,
        r"'page' for task 'parse', and 'fetch', .*, put both in an af\.graph, or pass \{'page': \.\.\.\} to the run",
    ),
    "a context that is not said to be one": (
        lambda: run(af.linear("f", af.task(name="t")(lambda ctx: None))),
        af.InputError,
        r"needs input 'ctx' for task 't', .*; what shall be the task's context is annotated af\.Context",
    ),
    "a misspelt input": (
        lambda: run(af.linear("f", fetch, parse), {"url": "x", "ulr": 1}),
        af.InputError,
        r"input 'ulr' \(did you mean 'url'\?\)",
    ),
    "an input without a name": (
        lambda: run(inc, 5),  # type: ignore[arg-type]
        af.InputError,
        r"the inputs of flow 'inc' are 5, which has no names; pass \{'x': \.\.\.\} to the run",
    ),
    "resuming what runs": (
        lambda: twice_at_once(None),
        af.RunBusy,
        r"run 'r' is already running in this engine; await it: engine\.running\(\) has it",
    ),
    "an empty run id": (lambda: run(one, run_id=""), af.InputError, r"run id '' is unusable; give 1 to 200"),
    "a run id of control characters": (lambda: run(one, run_id="a\nb"), af.InputError, r"printable characters"),
    "an unknown durability": (
        lambda: af.Engine(durability="safe"),
        af.DeclarationError,
        r"durability='safe' is not one of 'full', 'process', 'lazy'",
    ),
    "no concurrency": (lambda: af.Engine(concurrency=0), af.DeclarationError, r"concurrency=0 must be .* at least 1"),
    "no threads": (lambda: af.Engine(threads=0), af.DeclarationError, r"threads=0 must be .* at least 1"),
    "an unknown on_cancel": (
        lambda: run(one, on_cancel="ignore"),
        af.DeclarationError,
        r"on_cancel='ignore' is not one of 'suspend', 'revert'",
    ),
    "an observer that is none": (lambda: af.Engine(observers=[3]), af.DeclarationError, r"and 3 cannot be called"),  # type: ignore[list-item]
    "an engine that is not open": (
        lambda: asyncio.run(af.Engine().run(one)),
        af.EngineClosed,
        r"not open; use it inside 'async with Engine\(\.\.\.\)'",
    ),
    "a deadline without a zone": (
        lambda: run(one, deadline=dt.datetime(2030, 1, 1)),  # noqa: DTZ001
        af.InputError,
        r"has no time zone; pass an aware datetime",
    ),
    "a limit of two sizes": (two_sizes, af.DeclarationError, r"limit 'api' 2 permits, .* it 1; declare the limit once"),
    "an unknown executor": (
        lambda: run(one.with_options(executor="gpu")),
        af.DeclarationError,
        r"'one' asks for executor 'gpu'; this engine has: inline, loop, thread",
    ),
    "something that is no flow": (lambda: run(3), af.DeclarationError, r"3 is neither a flow nor a task"),
}

RUNNING: dict[str, Mistake] = {
    "a missing resource": (
        lambda: run(wants_pool),
        af.ResourceMissing,
        r"no resource 'pool' \(it has: none\); pass it as Engine\(resources=\{'pool': \.\.\.\}\)",
    ),
    "a broken promise": (
        lambda: run(pair),
        af.MissingElement,
        r"'pair' promised to provide 'second' and returned a tuple of 1 without it",
    ),
    "too much progress": (lambda: run(overshoots), ValueError, r"progress of task 'overshoots' .* from 0\.0 to 1\.0"),
    "asking for a context outside": (af.current, af.AsyncflowError, r"no task is running here"),
}


CONTROLLING: dict[str, Mistake] = {
    "a task's policy on a flow": (
        controlled(retry=af.Retry(3)),
        af.DeclarationError,
        r"flow 'f' has retry=Retry\(n=3.*which is for tasks; a flow takes a controller, such as af\.Times\(3\)",
    ),
    "a controller on a task": (
        lambda: one.with_options(retry=af.Times(3)),  # type: ignore[arg-type]
        af.DeclarationError,
        r"task 'one' has retry=<task 'times'>; give a policy such as af\.Retry\(3\), and the controller to a flow",
    ),
    "a controller's class": (
        controlled(retry=af.ForEach),
        af.DeclarationError,
        r"flow 'f' has retry=ForEach, a class; make one: ForEach\(\.\.\.\)",
    ),
    "a number for a controller": (
        controlled(retry=3),
        af.DeclarationError,
        r"flow 'f' has retry=3; give a controller, such as af\.Times\(3\)",
    ),
    "a task for a controller": (
        controlled(retry=one),
        af.DeclarationError,
        r"flow 'f' has retry=<task 'one'>; give a controller",
    ),
    "fewer than no attempts": (lambda: af.Times(-1), af.DeclarationError, r"af\.Times\(-1\) is no number of attempts"),
    "half an attempt": (lambda: af.Times(1.5), af.DeclarationError, r"af\.Times\(1\.5\) .* whole number, 0 or more"),  # type: ignore[arg-type]
    "a word for a flag": (
        lambda: af.Times(2, revert_all="yes"),  # type: ignore[arg-type]
        af.DeclarationError,
        r"af\.Times has revert_all='yes'; give True or False",
    ),
    "values that are a text": (
        lambda: af.ForEach("hosts"),
        af.DeclarationError,
        r"af\.ForEach was given 'hosts'; give a list of what to try",
    ),
    "values that are none": (lambda: af.ForEach(3), af.DeclarationError, r"af\.ForEach was given 3; give a list"),  # type: ignore[arg-type]
    "values for the name of an input": (
        lambda: af.ForEachInput(["a"]),  # type: ignore[arg-type]
        af.DeclarationError,
        r"af\.ForEachInput was given \['a'\]; give the name of an input, as in \"hosts\"",
    ),
    "a number for a backoff": (
        lambda: controlled(retry=af.Times(3, backoff=2))(),  # type: ignore[arg-type]
        af.DeclarationError,
        r"the backoff of controller 'times' is 2; give af\.Fixed",
    ),
    "no on_failure": (
        lambda: controlled(retry=Undecided())(),
        af.DeclarationError,
        r"Undecided has no on_failure\(\); write one that returns an af\.Decision",
    ),
    "no execute": (lambda: controlled(retry=Bodiless())(), af.DeclarationError, r"Bodiless has no execute\(\)"),
    "an on_failure that takes what is no input": (
        lambda: controlled(retry=Curious())(),
        af.DeclarationError,
        r"the on_failure of controller 'curious' takes 'nope', which is no input .*; it may take .* and 'history'",
    ),
    "a revert of a controller that does": (
        lambda: controlled(retry=CuriousToUndo())(),
        af.DeclarationError,
        r"the revert of task 'curious_to_undo' takes 'nope', which is no input",
    ),
    "a controller named like a task": (
        controlled(retry=af.Times(3, name="one")),
        af.DuplicateName,
        r"flow 'f' has an item named 'one', like its controller; give the controller another name with name=",
    ),
    "a controller among the items": (
        lambda: af.linear("f", af.Times(3), one).compile(),
        af.DeclarationError,
        r"flow 'f' has controller 'times' among its items; give it to the flow .* as retry=",
    ),
    "a controller that is run": (lambda: run(af.Times(3)), af.DeclarationError, r"controller 'times' among its items"),
    "a controller that is called": (
        returning(af.AlwaysRevert()),
        af.DeclarationError,
        r"controller 'always_revert' is called in flow 'f'; put it on the flow: @af\.flow\(retry=",
    ),
    "a controller in a builder that reads what is no parameter": (
        lambda: af.flow(name="f", retry=af.ForEachInput("hosts"))(lambda: one()).compile(),
        af.UnknownProvider,
        r"the controller or condition of flow 'f' reads 'hosts', which is not among the inputs of that flow; add it",
    ),
    "an unknown option of a flow": (
        controlled(retries=3),
        af.DeclarationError,
        r"flow 'f' has an unknown option 'retries' \(did you mean 'retry'\?\); options are timeout, concurrency, retry",
    ),
    "an unknown policy for siblings": (
        controlled(on_failure="stop"),
        af.DeclarationError,
        r"flow 'f' has on_failure='stop'; give one of 'cancel', 'finish'",
    ),
    "the same of an engine": (
        lambda: af.Engine(on_failure="stop"),
        af.DeclarationError,
        r"on_failure='stop' is not one of 'cancel', 'finish'",
    ),
    "an unknown scope of undoing": (
        controlled(revert_scope="all"),
        af.DeclarationError,
        r"flow 'f' has revert_scope='all'; give one of 'run', 'flow'",
    ),
    "a scope of undoing that nobody asks about": (
        controlled(revert_scope="flow"),
        af.DeclarationError,
        r"has revert_scope=\"flow\" and no controller; add one, such as retry=af\.AlwaysRevert\(\)",
    ),
    "out of a flow with a controller and back": (
        out_of_a_flow_and_back,
        af.CycleError,
        r"flow 'in' has a controller, so what it gives is there only when all of it has ended",
    ),
    "no input for a controller": (
        lambda: run(af.linear("f", one, retry=af.ForEachInput("hosts"))),
        af.InputError,
        r"flow 'f' needs input 'hosts' for task 'for_each_input', which takes it as 'values', which nothing in it",
    ),
    "no value to try": (
        lambda: run(af.linear("f", one, retry=af.ForEach([]))),
        af.NothingToTry,
        r"controller 'for_each' has no values to try its flow with; give it at least one",
    ),
    "no value in an input": (
        lambda: run(af.linear("f", one, retry=af.ForEachInput("hosts")), {"hosts": []}),
        af.NothingToTry,
        r"controller 'for_each_input' has no values to try",
    ),
    "an answer that is none": (
        lambda: second_failure(af.linear("f", fails, retry=Vague())),
        af.WrongDecision,
        r"the on_failure of controller 'vague' returned 'retry'; return an af\.Decision, such as af\.Decision\.RETRY",
    ),
    "no answer at all": (
        lambda: second_failure(af.linear("f", fails, retry=Raising())),
        LookupError,
        r"no idea",
    ),
    "a reset while it runs": (lambda: reset_while("running"), af.RunBusy, r"run 'r' is already running"),
    "a reset of a run that has not ended": (
        lambda: reset_while("suspended"),
        af.RunUnfinished,
        r"run 'r' is SUSPENDED, and only one that has ended can start over; cancel it first, or resume it",
    ),
    "a reset of an unknown run": (lambda: reset_while("unknown"), af.RunNotFound, r"there is no run 'r'"),
}

CHOOSING: dict[str, Mistake] = {
    "an unknown depth": (
        controlled(when=bare, depth="deep"),
        af.DeclarationError,
        r"flow 'f' has depth='deep'; give one of 'task', 'neighbours', 'dominated', 'flow', 'all'",
    ),
    "an unknown depth of a task": (
        lambda: one.with_options(when=bare, depth="deep").ready(),  # type: ignore[arg-type]
        af.DeclarationError,
        r"task 'one' has depth='deep'; give one of",
    ),
    "an unknown depth of a link": (
        lambda: af.graph("g", one, inc).link("one", "inc", when=bare, depth="deep"),  # type: ignore[arg-type]
        af.DeclarationError,
        r"the link from 'one' in flow 'g' has depth='deep'; give one of",
    ),
    "an async condition": (
        controlled(when=slowly),
        af.DeclarationError,
        r"the condition of flow 'f' is async or yields; make it a plain def",
    ),
    "an async condition of a task": (
        lambda: one.with_options(when=slowly).ready(),
        af.DeclarationError,
        r"the condition of task 'one' is async or yields",
    ),
    "a condition that yields": (controlled(when=yields), af.DeclarationError, r"of flow 'f' is async or yields"),
    "a truth for a condition": (
        controlled(when=True),
        af.DeclarationError,
        r"flow 'f' has when=True; give a function of the values that it names, or a string",
    ),
    "a class for a condition": (controlled(when=int), af.DeclarationError, r"has when=<class 'int'>; give a function"),
    "a task for a condition": (controlled(when=one), af.DeclarationError, r"has when=<task 'one'>; give a function"),
    "a condition that takes anything": (
        controlled(when=lambda **values: True),
        af.DeclarationError,
        r"the condition of flow 'f' takes the context, \*args or \*\*names; name what it reads",
    ),
    "a condition that takes any number": (
        controlled(when=lambda *values: True),
        af.DeclarationError,
        r"the condition of flow 'f' takes the context, \*args",
    ),
    "a condition that takes by position": (
        controlled(when=lambda x, /: x),
        af.DeclarationError,
        r"the condition of flow 'f' takes 'x' by position only; drop the /",
    ),
    "a string that is no expression": (
        controlled(when="x >"),
        af.DeclarationError,
        r"the condition 'x >' of flow 'f' cannot be read: invalid syntax",
    ),
    "a string that calls": (
        controlled(when="len(x) > 1"),
        af.DeclarationError,
        r"of flow 'f' has 'len\(x\)' in it, which is not understood; use names, constants, .* or write a function",
    ),
    "a string that looks inside": (controlled(when="x.y > 1"), af.DeclarationError, r"has 'x\.y' in it, which is not"),
    "a string of great depth": (controlled(when="not " * 60 + "x"), af.DeclarationError, r"which is not understood"),
    "a string of great length": (controlled(when="x" * 20_000), af.DeclarationError, r"is 20000 characters long"),
    "a condition of an unknown name": (
        lambda: run(af.linear("f", one, when=lambda total: total > 1)),
        af.InputError,
        r"flow 'f' needs input 'total', which nothing in it provides",
    ),
    "a string with an unknown name": (
        lambda: run(af.linear("f", one, when="total > 1")),
        af.InputError,
        r"flow 'f' needs input 'total', which nothing in it provides",
    ),
    "a condition in a builder of an unknown name": (
        returning(one, inc.with_options(when=lambda total: total)),
        af.UnknownProvider,
        r"flow 'f': the condition of task 'inc' reads 'total', which is no parameter of the task; in a builder",
    ),
    "a condition of a builder of an unknown name": (
        lambda: af.flow(name="f", when=lambda total: total)(lambda: one()).compile(),
        af.UnknownProvider,
        r"the controller or condition of flow 'f' reads 'total', which is not among the inputs of that flow",
    ),
    "a condition that raises": (
        lambda: run(af.linear("f", one, when=lambda: 1 / 0)),
        ZeroDivisionError,
        r"division by zero",
    ),
    "a string that raises": (lambda: run(af.linear("f", one, when="x > 1"), {"x": "a"}), TypeError, r"not supported"),
    "a value that may be skipped": (
        returning(perhaps),
        af.FlowError,
        r"flow 'f' returns the value of 'perhaps', which may be skipped; say what it is then: ref\.otherwise",
    ),
    "a value that goes with one that may be": (
        returning(perhaps, inc),
        af.FlowError,
        r"flow 'f' returns the value of 'inc', which may be skipped",
    ),
    "a reader of what was skipped": (
        lambda: run(af.linear("f", fetch.with_options(when=lambda: False, depth="task"), parse), {"url": "x"}),
        af.InputUnavailable,
        r"task 'parse' needs '\w+', which has no value; give the input a default",
    ),
}


@pytest.mark.parametrize("mistake", [*DECLARING, *WIRING, *STARTING, *RUNNING, *CONTROLLING, *CHOOSING])
def test_a_mistake_is_explained(mistake: str) -> None:
    """A message is read by someone who does not know what we know."""
    make, kind, message = (DECLARING | WIRING | STARTING | RUNNING | CONTROLLING | CHOOSING)[mistake]
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize(
    ("flow", "note"),
    [
        (af.linear("f", one, when=lambda: 1 / 0), "raised by the condition of flow 'f'"),
        (af.linear("f", one.with_options(when=lambda: 1 / 0)), "raised by the condition of task 'one'"),
        (af.linear("f", one, when=lambda: 1 / 0), "in flow 'f' of run 'r'"),
        (af.linear("f", one.with_options(when=lambda: 1 / 0)), "in task 'one' of run 'r'"),
    ],
)
def test_a_failure_says_whose_condition_it_was(flow: Any, note: str) -> None:
    """Division by zero alone is no place to look."""
    with pytest.raises(ZeroDivisionError) as raised:
        run(flow, run_id="r")
    assert note in raised.value.__notes__


def journal_of(place: Path, version: int) -> Path:
    """Return a journal that says it is of another schema."""
    run(one, path=place)
    connection = sqlite3.connect(place)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    return place


def damaged(place: Path, change: str) -> Path:
    """Return a journal with a suspended run ``r`` and one *change* that nobody should make."""

    async def main() -> None:
        async with af.Engine(place) as engine:
            run = await engine.start(slow, run_id="r")
            await started.wait()
            run.suspend(grace=0.0)
            with pytest.raises(af.RunSuspended):
                await run

    started = asyncio.Event()

    @af.task
    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    @af.flow
    def slow() -> None:
        wait()

    asyncio.run(main())
    connection = sqlite3.connect(place)
    connection.execute(change)
    connection.commit()
    connection.close()
    return place


def other_database(place: Path) -> Path:
    connection = sqlite3.connect(place)
    connection.execute("CREATE TABLE mine (a)")
    connection.close()
    return place


def text_file(place: Path) -> Path:
    place.write_text("This is no database. " * 100)
    return place


FILES: dict[str, tuple[Callable[[Path], Any], type[BaseException], str]] = {
    "a text file": (lambda place: run(one, path=text_file(place)), af.NotAJournal, r"is not an SQLite file"),
    "another database": (
        lambda place: run(one, path=other_database(place)),
        af.NotAJournal,
        r"SQLite database of something else, not a journal of asyncflow; give the path of another file",
    ),
    "a folder": (lambda place: run(one, path=place.parent), af.StoreError, r"is a folder; name a file in it"),
    "a folder that is not there": (
        lambda place: run(one, path=place / "below"),
        af.StoreError,
        r"there is no folder .*; create it first",
    ),
    "a newer schema": (
        lambda place: run(one, path=journal_of(place, 999)),
        af.SchemaTooNew,
        r"version 999 and this asyncflow reads up to \d+; .*newer asyncflow",
    ),
    "a damaged record": (
        lambda place: resume("r", damaged(place, "UPDATE records SET body = x'00' WHERE number = 1"), one),
        af.CorruptRecord,
        r"record 1 of run 'r'",
    ),
    "a missing record": (
        lambda place: resume("r", damaged(place, "DELETE FROM records WHERE number = 1"), one),
        af.CorruptRecord,
        r"record 1 of run 'r'",
    ),
    "an unknown run": (
        lambda place: (run(one, path=place), resume("nope", place)),
        af.RunNotFound,
        r"no run 'nope' in .*; see what there is with 'asyncflow ls",
    ),
    "resuming what runs, with a journal": (
        twice_at_once,
        af.RunBusy,
        r"run 'r' is already running in this engine; await it: engine\.running\(\) has it",
    ),
    "a run that exists": (
        lambda place: (run(one, run_id="r", path=place), run(one, run_id="r", path=place)),
        af.RunExists,
        r"there is a run 'r' .* already; go on with engine\.resume\('r'\)",
    ),
    "a flow that cannot be found": (
        lambda place: (run(af.linear("f", one), run_id="r", path=place), resume("r", place)),
        af.DeclarationError,
        r"does not say where its flow 'f' is, .*; pass the flow",
    ),
    "a value that cannot be kept": (
        lambda place: run(gives_a_function, path=place),
        af.UnkeepableValue,
        r"'gives_a_function' returned .* builtins\.function .*register.*checkpoint=False.*reference",
    ),
    "a revert that looks at what is not kept": (
        lambda place: one.with_options(checkpoint=False).revert(takes_outcome),
        af.DeclarationError,
        r"the revert of task 'one' takes outcome, and with checkpoint=False a value is gone after a crash",
    ),
    "at most once, and made again": (
        lambda place: af.linear("f", one.with_options(checkpoint=False, on_crash="fail")).compile(),
        af.DeclarationError,
        r"task 'one' has on_crash=\"fail\" and checkpoint=False, .* keep the value, or allow another attempt",
    ),
    "a value in a circle": (
        lambda place: run(gives_a_circle, path=place),
        af.UnkeepableValue,
        r"'gives_a_circle' .* at \[0\] contains itself",
    ),
    "an input that cannot be kept": (
        lambda place: run(af.linear("f", inc), {"x": object()}, path=place),
        af.InputError,
        r"input 'x' of flow 'f' cannot be kept in the journal: a value of type builtins\.object",
    ),
}


@pytest.mark.parametrize("mistake", FILES)
def test_a_mistake_about_a_journal_is_explained(tmp_path: Path, mistake: str) -> None:
    """A journal holds what people cannot do without, so whatever is wrong with one must be said plainly."""
    make, kind, message = FILES[mistake]
    with pytest.raises(kind, match=message):
        make(tmp_path / "runs.db")


def test_a_refused_resume_leaves_the_run_resumable(tmp_path: Path) -> None:
    """Nothing is lost by trying."""
    place = damaged(tmp_path / "runs.db", "SELECT 1")

    @af.task
    async def wait() -> None:
        return None

    @af.flow
    def slow() -> None:
        wait()

    with pytest.raises(af.PlanChanged):
        resume("r", place, af.linear("slow", one.named("wait")).target("wait"))
    with pytest.raises(af.DeclarationError):
        resume("r", place)
    assert resume("r", place, slow) is None
