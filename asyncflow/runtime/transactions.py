"""
Transactions of tasks: on their way from a body that returned one to the commit that records the task's ending.

A record that is made in its own commit is known only once it is durable. So it holds that one event, the supervisor
waits for it with nothing else on its way, and applies it then: the machine hears events in the order of their records,
and what is to follow is decided behind them, as ever.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from asyncflow import messages as m
from asyncflow.context import Transaction
from asyncflow.errors import TransactionMisuse
from asyncflow.graph.task import Task
from asyncflow.interfaces import Clock, Journal
from asyncflow.outcomes import Failure
from asyncflow.runtime.large import LargeValues

AT_ONCE = 64
"""How many transactions of one run go into the journal before its supervisor looks at what else has happened."""

MakeEvent = Callable[[sqlite3.Connection], m.Event]
"""Writes what the user wants written, and returns the event that tells of it."""

Settle = Callable[[BaseException | None], None]
"""Is told that a transaction has been committed, or what undid it."""


class Transactions:
    """The transactions of one run that bodies have returned and nobody has been told of; ``waiting`` are in line."""

    __slots__ = ("_clock", "_journal", "_large", "_on_their_way", "waiting")

    def __init__(self, journal: Journal, clock: Clock, large: LargeValues) -> None:
        self._journal = journal
        self._clock = clock
        self._large = large
        self.waiting: deque[tuple[MakeEvent, Settle]] = deque()
        self._on_their_way: list[tuple[asyncio.Future[m.Record | Failure], Settle]] = []

    def __bool__(self) -> bool:
        return bool(self.waiting or self._on_their_way)

    def add(self, make: MakeEvent, settle: Settle) -> None:
        """Put a transaction in line."""
        self.waiting.append((make, settle))

    async def commit(self) -> list[tuple[m.Record | Failure, Settle]]:
        """
        Have some committed, and return the record of each, or the failure that undid it, in the order of the journal.

        Where this is cancelled, what is on its way goes on: the next call waits for it. Nothing else may be appended
        before that.

        Raises:
            RunOvertaken, StoreError: One of them could not be written.
        """
        while self.waiting and len(self._on_their_way) < AT_ONCE:
            make, settle = self.waiting.popleft()
            self._on_their_way.append((self._journal.append_with(self._recording(make)), settle))
        await asyncio.wait([written for written, _ in self._on_their_way])
        done, self._on_their_way = self._on_their_way, []
        return [(written.result(), settle) for written, settle in done]

    def _recording(self, make: MakeEvent) -> Callable[[sqlite3.Connection], tuple[m.Record, Mapping[str, bytes]]]:
        def record(connection: sqlite3.Connection) -> tuple[m.Record, Mapping[str, bytes]]:
            events = [make(connection)]
            return m.Record(self._clock.now(), events), self._large.blobs_of(events)

        return record

    def __repr__(self) -> str:
        return f"<Transactions: {len(self.waiting)} waiting, {len(self._on_their_way)} on their way>"


def look_for_misuse(
    path: str, declared: Task, value: Any, transaction: Transaction | None, *, is_undoing: bool
) -> TransactionMisuse | None:
    """Return what is wrong where a body that made *transaction*, if it made one, has returned *value*."""
    what = f"the revert of task {path!r}" if is_undoing else f"task {path!r}"
    if transaction is None:
        return TransactionMisuse(
            f"{what} returned a transaction that another attempt has made; return the one that its own "
            "ctx.transaction() returns"
        )
    if value is not transaction:
        return TransactionMisuse(
            f"{what} made a transaction and returned {value!r:.80}; return what ctx.transaction() returns, by itself: "
            "only then is it committed, and what its function returns becomes the value"
        )
    if not declared.checkpoint and not is_undoing:
        return TransactionMisuse(
            f"{what} has checkpoint=False, so a resume may run it again after its transaction has been committed; "
            "leave that out"
        )
    return None
