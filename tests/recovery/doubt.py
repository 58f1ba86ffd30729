"""
What ``test_in_doubt`` kills: a flow with an effect of each kind, in a process that counts the points it passes.

A point lies before and after each effect, inside each function of a transaction, and before each statement of the
journal's writer, so also between a function and its commit. :func:`live` is one life of the process: it starts the run
or takes it up, and kills itself at a given point, if it gets there.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import asyncflow as af
from asyncflow.graph.flow import Flow
from asyncflow.stores.sqlite import SqliteStore


class World:
    """What lies outside of the run: a file with a line for each effect, and the points that this life has passed."""

    def __init__(self, folder: Path, die_at: int | str | None) -> None:
        self._deeds = folder / "deeds"
        self._die_at = die_at
        self._points = itertools.count(1)  # counted in the loop and in the writer's thread, by one instruction

    def point(self, name: str = "") -> None:
        """Pass a point, or die at it, which is told by its number or its name."""
        if self._die_at in (next(self._points), name):
            os.kill(os.getpid(), signal.SIGKILL)

    def do(self, what: str, key: str) -> None:
        """Have an effect, which cannot be taken back, in one write."""
        self.point(f"before {what} {key}")
        handle = os.open(self._deeds, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{what} {key}\n".encode())
        os.close(handle)
        self.point(f"after {what} {key}")

    def deeds(self) -> list[tuple[str, str]]:
        """Return what was done, and under which key, in order."""
        if not self._deeds.exists():
            return []
        return [(what, key) for what, _, key in (line.partition(" ") for line in self._deeds.read_text().splitlines())]

    def points_passed(self) -> int:
        """Return how many points there have been, as the last thing that is asked."""
        return next(self._points) - 1


def flow_in(world: World) -> Flow[..., Any]:
    """Return the flow: its last task fails in the first turn, so that all of it is undone and done again."""

    def move(connection: sqlite3.Connection, path: str, key: str, amount: int) -> int:
        connection.execute("CREATE TABLE IF NOT EXISTS ledger(path, key, amount)")
        world.point()
        connection.execute("INSERT INTO ledger VALUES (?, ?, ?)", (path, key, amount))
        world.point()
        return amount

    def mover(name: str) -> af.Task:
        @af.task(name=name, provides=name)
        async def forth(ctx: af.Context) -> int:
            world.point()
            return ctx.transaction(move, ctx.path, ctx.idempotency_key, 1)

        @forth.revert
        async def back(ctx: af.Context) -> int:
            world.point()
            return ctx.transaction(move, ctx.path, ctx.idempotency_key, -1)

        return forth

    @af.task(provides="keyed")
    async def keyed(ctx: af.Context) -> str:
        world.do("keyed", ctx.idempotency_key)
        return ctx.idempotency_key

    @keyed.revert
    async def unkeyed(ctx: af.Context) -> None:
        world.do("unkeyed", ctx.idempotency_key)

    @af.task(provides="asked")
    async def asked(ctx: af.Context) -> str:
        world.do("asked", ctx.idempotency_key)
        return "by the body"

    @asked.reconcile
    async def ask(ctx: af.Context) -> af.Outcome[str] | None:
        world.point()
        return af.Success("by the hook") if ("asked", ctx.idempotency_key) in world.deeds() else None

    @af.task(provides="careful", on_crash="fail")
    async def careful(ctx: af.Context) -> None:
        world.do("careful", ctx.idempotency_key)

    @af.task
    async def end(turn: int) -> None:
        if turn == 1:
            raise RuntimeError("not in the first turn")

    parts = (mover("first"), keyed, mover("second"), asked, careful, end)
    return af.linear("doubt", *parts, retry=af.Times(2, provides="turn"))


def live(folder: Path, die_at: int | str | None) -> int:
    """Live one life; return how many points there were in it."""
    world = World(folder, die_at)
    asyncio.run(_live(folder / "runs.db", world))
    return world.points_passed()


async def _live(file: Path, world: World) -> None:
    flow = flow_in(world)
    async with af.Engine(file, durability="process") as engine:
        store = engine._store
        assert isinstance(store, SqliteStore) and store._database is not None
        await store._database.call(lambda connection: connection.set_trace_callback(lambda sql: world.point()))
        try:
            if await engine.runs():
                await engine.resume("r", flow)
            else:
                await engine.run(flow, run_id="r")
        except* af.AttemptInDoubt:
            pass  # it is tried in two turns, and both may be in doubt
