"""Large values: kept beside the records, in memory only while someone who has not ended reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from asyncflow import messages as m
from asyncflow.interfaces import Journal
from asyncflow.machine.ledger import PENDING, RUNNING, WAITING
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import UNOPENED, Sealed
from asyncflow.runtime.values import RunValues

UNFINISHED = frozenset({PENDING, RUNNING, WAITING})


class LargeValues:
    """Which values of a run are in memory, and which must be fetched before they can be read."""

    __slots__ = ("_journal", "_machine", "_readers", "_values", "loading")

    def __init__(self, machine: RunMachine, values: RunValues, journal: Journal) -> None:
        self._machine = machine
        self._values = values
        self._journal = journal
        # Task with a large value to the tasks that read it and have not ended.
        self._readers: dict[int, set[int]] = {}
        # What fetches values that somebody waits for.
        self.loading: set[asyncio.Task[None]] = set()

    def missing(self, tasks: Iterable[int], scopes: Iterable[int] = ()) -> list[Sealed]:
        """
        Return what must be fetched before the values of *tasks* can be opened, and what is in the history of *scopes*.
        """
        machine = self._machine
        wanted = [machine.values[task] for task in tasks]
        wanted.extend(value for scope in scopes for value, _ in machine.controls[scope].history)
        return [
            value
            for value in wanted
            if type(value) is Sealed and not value.is_open and value.payload is None and value.is_kept
        ]

    async def load(self, tasks: Iterable[int], scopes: Iterable[int] = ()) -> None:
        """Fetch the bytes of what is missing of *tasks* and *scopes*."""
        for sealed in self.missing(tasks, scopes):
            assert sealed.blob is not None
            sealed.payload = await self._journal.blob(sealed.blob)
        if self._machine.is_forward:
            for task in tasks:
                value = self._machine.values[task]
                if type(value) is Sealed and value.blob and (readers := self._readers_of(task)):
                    self._readers[task] = readers

    def load_for(
        self,
        tasks: Iterable[int],
        scopes: Iterable[int],
        note: Callable[[Callable[[], None]], None],
        again: Callable[[], None],
    ) -> None:
        """Have *again* called by way of *note* once all that is there, or what stops that raised in its place."""

        async def load() -> None:
            broken: Exception | None = None
            try:
                await self.load(tasks, scopes)
            except Exception as error:
                broken = error

            def go_on() -> None:
                if broken is not None:
                    raise broken  # in the supervisor, whose run stops where it stands
                again()

            note(go_on)

        loading = asyncio.get_running_loop().create_task(load())
        self.loading.add(loading)
        loading.add_done_callback(self.loading.discard)

    def close(self) -> None:
        """Wait for nothing any more."""
        for loading in self.loading:
            loading.cancel()

    def blobs_of(self, events: Sequence[m.Event]) -> dict[str, bytes]:
        """Return the large values among *events*, which the journal keeps beside the record, by digest."""
        blobs: dict[str, bytes] = {}
        for event in events:
            value = getattr(event, "data" if type(event) is m.Emitted else "value", None)
            if type(value) is Sealed and value.blob is not None and value.payload is not None:
                blobs[value.blob] = value.payload
        return blobs

    def let_go(self, events: Sequence[m.Event], *, is_durable: bool) -> None:
        """Drop the bytes of *events* that are durable, and large values that nobody who has not ended will read."""
        for event in events:
            if type(event) is m.AttemptSucceeded:
                value = event.value
                if is_durable and type(value) is Sealed and not self._values.hands_on_copies:
                    value.payload = None
                    if value.blob is not None:
                        self._watch(event.task)
                if self._readers:
                    self._has_read(event.task)
            elif self._readers and type(event) in (m.TaskFailed, m.AttemptCancelled, m.TaskSkipped):
                self._has_read(event.task)  # type: ignore[attr-defined]

    def _watch(self, task: int) -> None:
        if readers := self._readers_of(task):
            self._readers[task] = readers
        else:
            self._forget(task)

    def _readers_of(self, task: int) -> set[int]:
        """Return the tasks that read the value of *task* and have not ended."""
        plan, states = self._machine.plan, self._machine.states
        return {
            after
            for after in plan.successors[task]
            if after < plan.size and states[after] in UNFINISHED and task in plan.bindings[after].reads()
        }

    def _has_read(self, reader: int) -> None:
        for task in self._machine.plan.bindings[reader].reads():
            readers = self._readers.get(task)
            if readers is not None:
                readers.discard(reader)
                if not readers:
                    del self._readers[task]
                    self._forget(task)

    def _forget(self, task: int) -> None:
        value = self._machine.values[task]
        if type(value) is Sealed:
            value.value, value.payload = UNOPENED, None
