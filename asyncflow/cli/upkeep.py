"""The commands that look after a journal: why, diff, verify, doctor, purge, backup, export, suspend."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import attrs
import typer

import asyncflow as af
from asyncflow.cli import render
from asyncflow.cli.app import (
    BROKEN,
    DEFAULT_DB,
    REFUSED,
    AsJson,
    Db,
    FlowOfRun,
    RunId,
    app,
    finish,
    must_exist,
    path_of_here,
)
from asyncflow.cli.locate import locate

_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}

File = Annotated[Path | None, typer.Argument(metavar="FILE", help="the journal; the same as --db FILE")]


def _journal(context: typer.Context, file: Path | None, db: Path) -> Path:
    """Return the journal that is meant, by *file* or by --db; two of them are one too many."""
    if file is None:
        return db
    source = context.get_parameter_source("db")
    if source is not None and source.name == "COMMANDLINE":
        raise af.InputError(f"two journals are named, {str(file)!r} and --db {str(db)!r}; name one")
    return file


@app.command()
def why(
    run_id: RunId,
    path: Annotated[str, typer.Argument(metavar="TASK", help="the task's path, as `asyncflow show` has it")],
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """
    Say what a task waits for: an input, a condition, a backoff, a revert, or an owner that is gone.

    Example: asyncflow why order-7 charge --db orders.db
    """
    must_exist(db)

    async def doing() -> list[str]:
        async with af.Engine(db) as engine:
            return await engine.why(run_id, path)

    reasons = finish(doing())
    if as_json:
        render.print_json({"run": run_id, "task": path, "reasons": reasons})
    else:
        print("\n".join(reasons))


@app.command()
def diff(
    run_id: RunId,
    target: FlowOfRun = None,
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """
    Say what has changed in a flow since a run of it was recorded; a ! marks what no longer fits what the run has done.

    Exit code 2 if a resume would be refused for it; --accept-changes takes what may be accepted.

    Example: asyncflow diff order-7 shop/flows.py:checkout --db orders.db
    """
    must_exist(db)
    path_of_here()
    flow = locate(target) if target else None

    async def doing() -> list[af.Verdict]:
        async with af.Engine(db) as engine:
            return await engine.diff(run_id, flow)

    found = finish(doing())
    if as_json:
        render.print_json({"run": run_id, "changes": [attrs.asdict(verdict) for verdict in found]})
    else:
        for verdict in found:
            print(f"{'!' if verdict.is_refused else ' '} {verdict}")
        if not found:
            print(f"nothing has changed for run {run_id!r}")
    if any(verdict.is_refused for verdict in found):
        raise typer.Exit(REFUSED)


@app.command()
def verify(context: typer.Context, file: File = None, db: Db = DEFAULT_DB, as_json: AsJson = False) -> None:
    """
    Read a whole journal and check it: pages, checksums, every run folded again, and what is left over.

    Works on a copy that cannot be written, and while runs go on. Exit code 5 if something is damaged.

    Example: asyncflow verify orders.db
    """
    db = _journal(context, file, db)
    must_exist(db)
    damaged = 0
    findings: list[af.Finding] = []
    for finding in af.verify(db):
        damaged += finding.is_damage
        if as_json:
            findings.append(finding)
        else:
            print(f"{finding.where}: {finding.what}; {finding.advice}")
    if as_json:
        render.print_json({"damaged": bool(damaged), "findings": [attrs.asdict(each) for each in findings]})
    elif not damaged:
        print(f"{db} is sound")
    if damaged:
        raise typer.Exit(BROKEN)


@app.command()
def doctor(context: typer.Context, file: File = None, db: Db = DEFAULT_DB, as_json: AsJson = False) -> None:
    """
    Look at what is around a journal: Python, SQLite and its known bugs, file system, log, owners. Changes nothing.

    Exit code 5 if something is likely to make trouble. Without a journal, the rest is looked at.
    """
    db = _journal(context, file, db)
    if file is not None:
        must_exist(db)
    remarks = af.doctor(db if db.exists() else None)
    if as_json:
        render.print_json([attrs.asdict(remark) for remark in remarks])
    else:
        for remark in remarks:
            mark = "!" if remark.is_trouble else " "
            print(f"{mark} {remark.about:<12} {remark.found}{f' ({remark.advice})' if remark.advice else ''}")
    if any(remark.is_trouble for remark in remarks):
        raise typer.Exit(BROKEN)


@app.command()
def purge(
    older_than: Annotated[str, typer.Option("--older-than", metavar="AGE", help="such as 90s, 15m, 12h, 30d or 4w")],
    state: Annotated[
        list[str] | None, typer.Option(help="only runs in this state; repeat for more; all ended ones if left out")
    ] = None,
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """
    Remove runs that ended long ago, and give their room back. Other runs go on meanwhile.

    Example: asyncflow purge --older-than 30d --db orders.db
    """
    must_exist(db)
    age = _AGE.fullmatch(older_than)
    if age is None:
        raise af.InputError(f"--older-than {older_than!r} is no age; give a number and a unit, such as 12h or 30d")
    seconds = float(age[1]) * _SECONDS[age[2]]
    try:
        states = [af.RunState(each.upper()) for each in state or ()]
    except ValueError as error:
        known = ", ".join(member.value for member in af.RunState if member.is_ended)
        raise af.InputError(f"{error.args[0]}: no state of a run; one of {known}, SUSPENDED, INTERRUPTED") from None

    async def doing() -> list[str]:
        async with af.Engine(db) as engine:
            if states:
                return await engine.purge(older_than=seconds, states=states)
            return await engine.purge(older_than=seconds)

    gone = finish(doing())
    if as_json:
        render.print_json({"purged": gone})
    else:
        print(f"{len(gone)} {'run' if len(gone) == 1 else 'runs'} purged from {db}")


@app.command()
def backup(
    to: Annotated[Path, typer.Argument(metavar="FILE", help="where the copy goes; there must be nothing")],
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """
    Copy a journal while runs go on. In the copy nobody owns a run.

    Example: asyncflow backup /backups/orders-monday.db --db orders.db
    """
    must_exist(db)

    async def doing() -> None:
        async with af.Engine(db) as engine:
            await engine.backup(to)

    finish(doing())
    if as_json:
        render.print_json({"backup": str(to), "size_bytes": to.stat().st_size})
    else:
        print(f"{db} is copied to {to}; check it with: asyncflow verify --db {shlex.quote(str(to))}")


@app.command()
def export(
    run_id: RunId,
    db: Db = DEFAULT_DB,
    as_json: Annotated[bool, typer.Option("--json", help="as for other commands; this one prints JSON anyway")] = True,
) -> None:
    """
    Print a run as JSON: its plan, all its events, and its values as far as JSON can show them.

    Example: asyncflow export order-7 --db orders.db > order-7.json
    """
    must_exist(db)

    async def doing() -> dict[str, object]:
        async with af.Engine(db) as engine:
            return await engine.export(run_id)

    render.print_json(finish(doing()))


@app.command()
def suspend(
    run_id: RunId,
    reason: Annotated[str, typer.Option(help="kept in the journal")] = "suspended from the command line",
    db: Db = DEFAULT_DB,
    as_json: AsJson = False,
) -> None:
    """
    Ask the process that owns a run to suspend it, which it does within about a second. Nothing is undone.

    Example: asyncflow suspend order-7 --db orders.db
    """
    must_exist(db)

    async def doing() -> tuple[af.RunState, bool]:
        async with af.Engine(db) as engine:
            owner = (await engine.inspect(run_id)).owner
            return await engine.suspend(run_id, reason=reason), owner is not None

    state, is_owned = finish(doing())
    if as_json:
        render.print_json({"run": run_id, "state": state.value, "asked": is_owned and not state.is_ended})
    elif is_owned and not state.is_ended:
        print(f"run {run_id!r} is {state.value}; its owner has been asked to suspend it")
    else:
        print(f"run {run_id!r} is {state.value}, and nobody runs it")
