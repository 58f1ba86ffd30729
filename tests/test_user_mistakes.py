"""What people get wrong, and what they are told: the thing, the place, what was found, and the way out."""

from __future__ import annotations

import asyncio
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


def bare() -> int:
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


@pytest.mark.parametrize("mistake", [*DECLARING, *WIRING, *STARTING, *RUNNING])
def test_a_mistake_is_explained(mistake: str) -> None:
    """A message is read by someone who does not know what we know."""
    make, kind, message = (DECLARING | WIRING | STARTING | RUNNING)[mistake]
    with pytest.raises(kind, match=message):
        make()


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
