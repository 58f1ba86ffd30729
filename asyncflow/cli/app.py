"""The commands about runs: run, resume, ls, show, graph, check, cancel. Those about journals are in ``upkeep``."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console

import asyncflow as af
from asyncflow.cli import render
from asyncflow.cli.locate import locate, parse_inputs
from asyncflow.formats import dot, mermaid, text
from asyncflow.ids import shell_command
from asyncflow.observers import Console as Progress
from asyncflow.runtime.watchdog import BLOCKED_AFTER

T = TypeVar("T")

OK, FAILED, REFUSED, SUSPENDED, CANCELLED, BROKEN = 0, 1, 2, 3, 4, 5

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Run, resume and look at durable flows.

A flow is named [bold]package.module:flow[/bold] or [bold]path/to/file.py:flow[/bold]. Runs are kept in an SQLite file:
[bold]--db[/bold], else $ASYNCFLOW_DB, else asyncflow.db in this folder.

Ctrl-C suspends a run and says how to resume it; a second one stops at once.

Exit codes: 0 done, 1 the run failed, 2 refused (nothing was run), 3 suspended, 4 cancelled, 5 the journal cannot be
read or written.""",
)

Target = Annotated[str, typer.Argument(metavar="MODULE:FLOW", help="package.module:flow or file.py:flow")]
FlowOfRun = Annotated[
    str | None,
    typer.Argument(metavar="[MODULE:FLOW]", help="the flow, where the journal's own note of it is not enough"),
]
RunId = Annotated[
    str,
    typer.Argument(metavar="RUN", help="the run's id, as `asyncflow ls` shows it; if it begins with -, after --"),
]
Db = Annotated[
    Path, typer.Option("--db", envvar="ASYNCFLOW_DB", help="the journal, an SQLite file", show_default="asyncflow.db")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for programs instead of text for people")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no live progress")]
DEFAULT_DB = Path("asyncflow.db")
_WIDEST = 100_000  # what is not a terminal has no edge to fold a line at


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks instead of one line")] = False,
) -> None:
    """Options that go before any command."""
    _debug[0] = debug


_debug = [False]


@app.command()
def run(
    target: Target,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", metavar="NAME=VALUE", help="an input of the flow, JSON or text; repeat for more"),
    ] = None,
    db: Db = DEFAULT_DB,
    run_id: Annotated[str | None, typer.Option("--run-id", help="a name for the run; one is made if left out")] = None,
    durability: Annotated[str, typer.Option(help="full, process or lazy")] = "full",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    Run a flow to its end and print its value.

    Example: asyncflow run examples/checkout.py:checkout -i order_id=7 --db orders.db
    """
    flow = locate(target)
    given = parse_inputs(flow, inputs or [])

    async def doing(engine: af.Engine) -> af.Run[Any]:
        try:
            return await engine.start(flow, given, run_id=run_id)
        except af.RunExists as exists:
            raise af.RunExists(
                f"there is a run {exists.run_id!r} in {str(db)!r} already; go on with: "
                f"{shell_command('resume', exists.run_id, str(db))}; or give this one another --run-id",
                run_id=exists.run_id,
            ) from None

    _run(doing, db, durability, quiet, as_json)


@app.command()
def resume(
    run_id: RunId,
    target: FlowOfRun = None,
    db: Db = DEFAULT_DB,
    accept_changes: Annotated[
        bool, typer.Option(help="go on although the flow has changed in what has started")
    ] = False,
    wait: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="how long to wait for a process that has the run")
    ] = 0.0,
    durability: Annotated[str, typer.Option(help="full, process or lazy, for new runs of the same engine")] = "full",
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    Go on with a run that was killed or suspended, and print its value.

    What is done stays done. A run that has ended gives again what it ended with. With --wait it is taken over from a
    process that dies, or shows no life for its lease.
    """
    must_exist(db)
    path_of_here()
    flow = locate(target) if target else None

    async def doing(engine: af.Engine) -> af.Run[Any]:
        return await engine.take_up(run_id, flow, accept_changes=accept_changes, wait=wait)

    _run(doing, db, durability, quiet, as_json)


@app.command("ls")
def list_runs(
    db: Db = DEFAULT_DB,
    state: Annotated[str | None, typer.Option(help="only runs in this state, such as INTERRUPTED or FAILED")] = None,
    limit: Annotated[int, typer.Option(min=1, help="how many at most, newest first")] = 50,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first. INTERRUPTED: the process that ran it is gone; resume it. DAMAGED: see --json why."""
    must_exist(db)
    try:
        wanted = None if state is None else af.RunState(state.upper())
    except ValueError:
        known = ", ".join(member.value for member in af.RunState)
        raise af.InputError(f"{state!r} is no state of a run; one of {known}") from None

    async def doing() -> list[af.RunInfo]:
        async with af.Engine(db) as engine:
            return await engine.runs(state=wanted, limit=limit)

    runs = finish(doing())
    if as_json:
        render.print_json(render.runs_json(runs))
    elif runs:
        _console().print(render.runs_table(runs))
    else:
        print(f"no runs in {db}")


@app.command()
def show(
    run_id: RunId,
    db: Db = DEFAULT_DB,
    everything: Annotated[bool, typer.Option("--all", "-a", help="list every task, also of a large run")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run: its tasks with state, duration, value or failure. Works while another process runs it."""
    report = _report(run_id, db)
    if as_json:
        render.print_json(render.report_json(report))
    else:
        render.report_text(report, _console(), db=str(db), everything=everything)


@app.command()
def graph(
    target: Annotated[str, typer.Argument(metavar="MODULE:FLOW | RUN", help="a flow, or a run's id")],
    form: Annotated[str, typer.Option("--format", "-f", help="text, mermaid or dot")] = "text",
    db: Db = DEFAULT_DB,
) -> None:
    """
    Draw a flow, or a run with its states.

    Example: asyncflow graph examples/patterns.py:side_by_side -f mermaid
    """
    forms = {"text": text.render, "mermaid": mermaid.render, "dot": dot.render}
    if form not in forms:
        raise af.InputError(f"--format {form!r} is not one of {', '.join(forms)}")
    report = plan = None
    if ":" not in target:
        report = _report(target, db)
    else:
        try:
            plan = locate(target).compile()
        except af.DeclarationError:
            # A run's id may have a colon too; where there is no such run either, the flow was meant.
            with contextlib.suppress(af.RunNotFound, af.InputError):
                report = _report(target, db)
            if report is None:
                raise
    if report is not None:
        print(forms[form](report.plan, report.states()))
    elif plan is not None:
        print(forms[form](plan))


@app.command()
def check(target: Target, as_json: AsJson = False) -> None:
    """
    Compile a flow without running it: names, wiring, types and circles are checked; its inputs and outputs are printed.

    It needs the inputs that a run cannot do without, and takes those that have a default.
    """
    flow = locate(target)
    plan = flow.compile()
    inputs = {name: _type_name(annotation) for name, annotation in flow.inputs.items()}
    outputs = {name: _type_name(annotation) for name, annotation in flow.outputs.items()}
    if as_json:
        required = [name for name in inputs if name in plan.required]
        render.print_json(
            {"flow": flow.name, "tasks": plan.size, "inputs": inputs, "required": required, "outputs": outputs}
        )
        return
    print(f"flow {flow.name!r} is sound: {plan.size} tasks")
    for name, annotation in inputs.items():
        print(f"  {'needs' if name in plan.required else 'takes'} {name}: {annotation}")
    for name, annotation in outputs.items():
        print(f"  gives {name}: {annotation}")


@app.command()
def cancel(
    run_id: RunId,
    target: Annotated[
        str | None, typer.Argument(metavar="[MODULE:FLOW]", help="the flow, if nobody runs it now")
    ] = None,
    reason: Annotated[str, typer.Option(help="kept in the journal")] = "cancelled from the command line",
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """
    Cancel a run and undo what it has done.

    A run that another process owns is cancelled there, within about a second; one that nobody owns is undone here.
    """
    must_exist(db)
    path_of_here()
    flow = locate(target) if target else None

    async def doing() -> af.RunState:
        async with af.Engine(db) as engine:
            return await engine.cancel(run_id, flow, reason=reason)

    state = finish(doing())
    if as_json:
        render.print_json({"run": run_id, "state": state.value})
    elif state.is_ended:
        print(f"run {run_id!r} is {state.value}")
    else:
        print(f"run {run_id!r} is {state.value}; its owner has been asked to cancel it")


# --- Between the commands and the engine ------------------------------------------------------------------------------


def _run(doing: Any, db: Path, durability: str, quiet: bool, as_json: bool) -> None:
    observers = [] if quiet else [Progress()]
    started: list[af.Run[Any]] = []

    async def whole() -> Any:
        async with af.Engine(db, durability=durability, observers=observers, blocked_after=BLOCKED_AFTER) as engine:
            run = await doing(engine)
            started.append(run)
            stop = asyncio.current_task()
            assert stop is not None
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.cancel)
            try:
                return await run
            except asyncio.CancelledError:
                run.suspend("interrupted from the command line", grace=0.0)
                await asyncio.wait([asyncio.ensure_future(_over(run))])
                raise

    value = finish(whole(), lambda: _how_to_resume(started, db))
    if as_json:
        render.print_json({"run": started[0].run_id, "state": started[0].state.value, "value": value})
    elif isinstance(value, str):
        print(value)
    elif value is not None:
        _console().print(value)


async def _over(run: af.Run[Any]) -> None:
    with contextlib.suppress(af.AsyncflowError):
        await run


def _how_to_resume(started: list[af.Run[Any]], db: Path) -> str:
    if not started:
        return "stopped before the run was started"
    run = started[0]
    if run.state.is_ended:
        return f"run {run.run_id!r} ended as {run.state.value}"
    return f"run {run.run_id!r} is suspended; go on with: {shell_command('resume', run.run_id, str(db))}"


def finish(work: Coroutine[Any, Any, T], interrupted: Any = None) -> T:
    """Run *work* on a loop of its own; Ctrl-C ends it with what *interrupted* says."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(interrupted() if interrupted else "stopped", file=sys.stderr)
        raise typer.Exit(SUSPENDED) from None


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def _report(run_id: str, db: Path) -> af.RunReport:
    must_exist(db)

    async def doing() -> af.RunReport:
        async with af.Engine(db) as engine:
            return await engine.inspect(run_id)

    return finish(doing())


def must_exist(db: Path) -> None:
    """Refuse a journal that is not there: only a run makes one."""
    if not db.exists():
        raise af.InputError(f"there is no journal {str(db)!r}; name it with --db FILE or $ASYNCFLOW_DB")


def path_of_here() -> None:
    """Let the modules of this folder be found, as ``python -m`` does."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDEST
    return console


def _type_name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _exit_code(error: BaseException) -> int:
    match error:
        case af.RunFailed():
            return FAILED
        case af.RunCancelled():
            return CANCELLED
        case af.RunSuspended():
            return SUSPENDED
        case af.StoreError() | af.CodecError() | af.RunOvertaken() | af.RunBroken():
            return BROKEN
        case _:
            return REFUSED


def run_app() -> None:
    """Run the command line: an error of asyncflow's is one line and an exit code, unless ``--debug`` is given."""
    try:
        app()
    except (af.AsyncflowError, OSError) as error:
        if _debug[0] or os.environ.get("ASYNCFLOW_DEBUG"):
            raise
        print(f"asyncflow: {error.message if isinstance(error, af.RunFailed) else error}", file=sys.stderr)
        if isinstance(error, af.RunFailed):
            for path, failure in error.failures.items():
                print(f"  {path}: {failure.type_name}: {failure.text}", file=sys.stderr)
        sys.exit(_exit_code(error))
