"""Flows to be disturbed, and what became of their tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import attrs

import asyncflow as af
from asyncflow.graph.flow import Flow


class Deeds:
    """What bodies and reverts did, in order: ``("do", path)`` and ``("undo", path)``."""

    def __init__(self) -> None:
        self.list: list[tuple[str, str]] = []

    def begun(self) -> set[str]:
        return {path for what, path in self.list if what == "do"}

    def undone(self) -> set[str]:
        """Tasks whose revert ran and that were not done again after it."""
        last = {path: what for what, path in self.list}
        return {path for path, what in last.items() if what == "undo"}

    def count(self, what: str, path: str) -> int:
        return self.list.count((what, path))


@attrs.frozen
class Scene:
    """A flow, what it returns if nobody disturbs it (an exception class where it fails), and its tasks' deeds."""

    flow: Flow[..., Any]
    value: Any
    deeds: Deeds


async def pause(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def step(
    deeds: Deeds,
    name: str,
    *,
    turns: int = 1,
    undo_turns: int = 1,
    body: Callable[[af.Context], Any] | None = None,
    before_undo: Callable[[af.Context], Any] | None = None,
    **options: Any,
) -> af.Task:
    """
    Return a task that takes anything, waits a few turns and returns its name, with a revert that waits as well.

    *body* is awaited for what it returns instead, *before_undo* before the revert counts as done.
    """

    async def do(ctx: af.Context, *inputs: Any) -> Any:
        deeds.list.append(("do", ctx.path))
        await pause(turns)
        return name if body is None else await body(ctx)

    async def undo(ctx: af.Context) -> None:
        await pause(undo_turns)
        if before_undo is not None:
            await before_undo(ctx)
        deeds.list.append(("undo", ctx.path))

    made = af.task(name=name, **options)(do)
    made.revert(undo)
    return made


def chain() -> Scene:
    """Three in a row: the plain case."""
    deeds = Deeds()
    a, b, c = (step(deeds, name) for name in "abc")
    return Scene(af.flow(name="chain")(lambda: c(b(a()))), "c", deeds)


def fan() -> Scene:
    """Siblings of different lengths at once, between a source and a sink."""
    deeds = Deeds()
    source, sink = step(deeds, "source"), step(deeds, "sink", turns=0)
    wings = [step(deeds, f"wing{turns}", turns=turns, undo_turns=3 - turns) for turns in range(4)]

    @af.flow
    def fan() -> Any:
        first = source()
        return sink(*(wing(first) for wing in wings))

    return Scene(fan, "sink", deeds)


def retry() -> Scene:
    """A task that waits for its next attempt, beside one that runs."""
    deeds = Deeds()

    async def third_time(ctx: af.Context) -> str:
        if ctx.attempt < 3:
            raise ConnectionError("not yet")
        return "there"

    shaky = step(deeds, "shaky", body=third_time, retry=af.Retry(3, af.Fixed(0.002)))
    steady, last = step(deeds, "steady", turns=3), step(deeds, "last")

    @af.flow
    def retry() -> Any:
        return last(shaky(steady()), steady())

    return Scene(retry, "last", deeds)


def failing() -> Scene:
    """A run that is being undone by itself when the cancel comes."""
    deeds = Deeds()

    async def fail(ctx: af.Context) -> None:
        raise ValueError("no")

    a, b = step(deeds, "a", undo_turns=3), step(deeds, "b", undo_turns=2)
    bad = step(deeds, "bad", body=fail)
    return Scene(af.flow(name="failing")(lambda: bad(a(), b())), ValueError, deeds)


def nested() -> Scene:
    """Patterns in patterns, with gates between the groups."""
    deeds = Deeds()
    inner = af.linear("inner", step(deeds, "one"), step(deeds, "two", provides="second"))
    group = af.unordered("group", inner, step(deeds, "beside", turns=3))
    flow = af.linear("nested", step(deeds, "first"), group, step(deeds, "end", turns=0, provides="end"))
    return Scene(flow, {"second": "two", "end": "end"}, deeds)


def timeouts() -> Scene:
    """An attempt that is cut off, and its next one."""
    deeds = Deeds()

    async def hangs_once(ctx: af.Context) -> str:
        if ctx.attempt == 1:
            await asyncio.sleep(60.0)
        return "in time"

    slow = step(deeds, "slow", body=hangs_once, timeout=0.003, retry=af.Retry(2, on=(TimeoutError,)))
    first = step(deeds, "first")
    return Scene(af.flow(name="timeouts", timeout=50.0)(lambda: slow(first())), "in time", deeds)


def stubborn() -> Scene:
    """A body that takes its time to give way, and one that finishes its work first."""
    deeds = Deeds()

    async def gives_way_slowly(ctx: af.Context) -> str:
        try:
            await pause(3)
        except asyncio.CancelledError:
            await pause(2)
            raise
        return "slowly"

    async def finishes_first(ctx: af.Context) -> str:
        work = asyncio.ensure_future(pause(3))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await work
        return "finished"

    slow, thorough = step(deeds, "slow", body=gives_way_slowly), step(deeds, "thorough", body=finishes_first)
    return Scene(af.flow(name="stubborn")(lambda: [slow(), thorough()]), ["slowly", "finished"], deeds)


def limited() -> Scene:
    """Tasks that wait for permits."""
    deeds = Deeds()
    limit = af.Limit("scarce", 1)
    group = af.unordered("limited", *(step(deeds, f"t{at}", limits=limit) for at in range(4)), concurrency=2)
    return Scene(group, {}, deeds)


def threads() -> Scene:
    """Plain functions in threads, which nothing can interrupt."""
    deeds = Deeds()

    def task(name: str) -> af.Task:
        @af.task(name=name)
        def do(ctx: af.Context, *inputs: Any) -> str:
            deeds.list.append(("do", ctx.path))
            return name

        @do.revert
        def undo(ctx: af.Context) -> None:
            deeds.list.append(("undo", ctx.path))

        return do

    a, b, c = task("a"), task("b"), task("c")
    return Scene(af.flow(name="threads")(lambda: c(a(), b())), "c", deeds)


ON_THE_LOOP = (chain, fan, retry, failing, nested, timeouts, stubborn, limited)


class FullJournal:
    """A journal that takes *left* more records and then no more."""

    grows = lags = False

    def __init__(self, journal: Any, left: int) -> None:
        self.journal, self.left = journal, left

    def append(self, record: Any, blobs: Any, state: Any) -> None:
        self.left -= 1
        if self.left < 0:
            raise af.StoreError("the disk is full")
        self.journal.append(record, blobs, state)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.journal, name)
