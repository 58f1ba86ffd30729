"""Runs as tables, trees and JSON."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import asyncflow as af
from asyncflow.ids import shell_command

_COLOURS = {
    "SUCCEEDED": "green",
    "RUNNING": "cyan",
    "WAITING": "cyan",
    "REVERTING": "yellow",
    "REVERTED": "yellow",
    "SUSPENDED": "yellow",
    "CANCELLED": "yellow",
    "INTERRUPTED": "magenta",
    "FAILED": "red",
    "DAMAGED": "red",
    "TIMED_OUT": "red",
    "REVERT_FAILED": "red",
    "SKIPPED": "dim",
}


def coloured(state: str) -> str:
    """Return a state's name with markup."""
    colour = _COLOURS.get(state)
    return f"[{colour}]{state}[/{colour}]" if colour else state


def age(when: float) -> str:
    """Return how long ago *when* (POSIX seconds) was, as a person would say it."""
    seconds = max(0.0, time.time() - when)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def runs_table(runs: Sequence[af.RunInfo]) -> Table:
    """Return a table with a line for each run."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("RUN", "FLOW", "STATE", "UPDATED", "OWNER"):
        table.add_column(heading, overflow="fold")
    for run in runs:
        table.add_row(
            escape(run.run_id), escape(run.flow), coloured(run.state.value), age(run.updated), escape(run.owner or "")
        )
    return table


def runs_json(runs: Sequence[af.RunInfo]) -> list[dict[str, Any]]:
    """Return the same as plain data."""
    return [
        {
            "run": run.run_id,
            "flow": run.flow,
            "flow_ref": run.flow_ref,
            "state": run.state.value,
            "durability": run.durability,
            "created": run.created,
            "updated": run.updated,
            "records": run.records,
            "owner": run.owner,
            "damage": run.damage,
        }
        for run in runs
    ]


def report_text(report: af.RunReport, console: Console, *, db: str, everything: bool) -> None:
    """Print a run: its state, its tasks as a tree, and what failed."""
    done = sum(task.state is af.TaskState.SUCCEEDED for task in report.tasks)
    skipped = sum(task.state is af.TaskState.SKIPPED for task in report.tasks)
    flows = {flow.path: flow for flow in report.flows}
    console.print(
        f"run [bold]{escape(report.run_id)}[/bold] of flow {escape(report.flow)}: {coloured(report.state.value)}, "
        f"{done} of {len(report.tasks)} tasks done{f', {skipped} skipped' if skipped else ''}, "
        f"last change {age(report.updated)}"
    )
    if "" in flows:
        console.print(f"  {_attempt(flows[''])}")
    console.print(f"  {_statistics(report.statistics)}")
    if report.owner:
        console.print(f"  owned by {escape(report.owner)}")
    if report.reason:
        console.print(f"  reason: {escape(report.reason)}")
    for name, value in report.inputs.items():
        console.print(f"  input {escape(name)} = {escape(value)}", overflow="ellipsis", no_wrap=True)
    _tree(report.tasks, flows, console, everything=everything)
    for path, failure in report.failures.items():
        console.print(f"[red]{escape(path)}[/red]: {escape(failure.type_name)}: {escape(failure.text)}")
    if report.state in (af.RunState.INTERRUPTED, af.RunState.SUSPENDED):
        if report.flow_ref is None:
            how = f"engine.resume({report.run_id!r}, flow): the flow was made by the program that ran it"
        else:
            how = shell_command("resume", report.run_id, db)
        console.print(f"go on with {escape(how)}", soft_wrap=True)


def _statistics(found: af.Statistics) -> str:
    """Return where the time went, and how often something was done more than once."""
    spent = ", ".join(f"{seconds:.3f} s {state}" for state, seconds in found.seconds.items()) or "no time"
    parts = [f"took {spent}", f"{found.attempts} attempts"]
    for count, word in ((found.reverts, "reverts"), (found.lost, "lost"), (found.start_overs, "flows run again")):
        if count:
            parts.append(f"{count} {word}")
    return "; ".join(parts)


def _attempt(flow: af.FlowReport) -> str:
    return f"{coloured(flow.state.name)}, attempt {flow.attempts} of its controller {escape(flow.controller)}"


def _tree(
    tasks: Sequence[af.TaskReport], flows: Mapping[str, af.FlowReport], console: Console, *, everything: bool
) -> None:
    shown: list[str] = []
    hidden: dict[str, int] = {}
    for task in tasks:
        # A long run is mostly done or not begun: those are counted, what is under way or went wrong is listed.
        dull = task.state in (af.TaskState.SUCCEEDED, af.TaskState.PENDING, af.TaskState.SKIPPED)
        if dull and not everything and len(tasks) > 40:
            hidden[task.state.name] = hidden.get(task.state.name, 0) + 1
            continue
        *around, name = task.path.split("/")
        for depth, flow in enumerate(around):
            if shown[depth : depth + 1] != [flow]:
                del shown[depth:]
                shown.append(flow)
                line = f"  {'  ' * depth}[bold]{escape(flow)}[/bold]"
                controlled = flows.get("/".join(around[: depth + 1]))
                console.print(f"{line}  {_attempt(controlled)}" if controlled else line)
        del shown[len(around) :]
        line = f"  {'  ' * len(around)}{escape(name):<24} {coloured(task.state.name)}"
        if task.attempts > 1:
            line += f"  attempt {task.attempts}" + (f" ({task.lost} lost)" if task.lost else "")
        if task.seconds is not None:
            line += f"  {task.seconds:.3f} s"
        if task.progress is not None:
            line += f"  {task.progress:.0%}"
        detail = task.failure or task.value
        if task.said_no:
            detail = "its condition said no"
        if detail:
            line += f"  {escape(detail)}"
        console.print(line, overflow="ellipsis", no_wrap=True)
    for state, count in hidden.items():
        console.print(f"  {count} more {coloured(state)} (--all lists them)")


def report_json(report: af.RunReport) -> dict[str, Any]:
    """Return a run as plain data."""
    return {
        "run": report.run_id,
        "flow": report.flow,
        "flow_ref": report.flow_ref,
        "state": report.state.value,
        "phase": report.phase.value,
        "owner": report.owner,
        "created": report.created,
        "updated": report.updated,
        "deadline": report.deadline,
        "reason": report.reason,
        "inputs": dict(report.inputs),
        "tasks": [
            {
                "path": task.path,
                "state": task.state.name,
                "attempts": task.attempts,
                "lost": task.lost,
                "started": task.started,
                "ended": task.ended,
                "value": task.value,
                "failure": task.failure,
                "said_no": task.said_no,
            }
            for task in report.tasks
        ],
        "flows": [
            {"path": flow.path, "controller": flow.controller, "state": flow.state.name, "attempts": flow.attempts}
            for flow in report.flows
        ],
        "statistics": {
            "seconds": dict(report.statistics.seconds),
            "task_seconds": dict(report.statistics.task_seconds),
            "tasks": dict(report.statistics.tasks),
            "attempts": report.statistics.attempts,
            "reverts": report.statistics.reverts,
            "lost": report.statistics.lost,
            "start_overs": report.statistics.start_overs,
        },
        "failures": {path: f"{failure.type_name}: {failure.text}" for path, failure in report.failures.items()},
    }


def print_json(data: Any) -> None:
    """Print plain data as JSON; what JSON does not know, as its text, be it a value, a key, or a number like NaN."""
    print(json.dumps(_known(data), indent=2, default=str, ensure_ascii=False, allow_nan=False))


def _known(data: Any) -> Any:
    if isinstance(data, dict):
        return {key if isinstance(key, (str, int)) else str(key): _known(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_known(value) for value in data]
    return str(data) if isinstance(data, float) and not math.isfinite(data) else data
