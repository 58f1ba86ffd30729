"""
A world of its own for one run: a disk, a clock, an order, and processes that die in it where they are told to.

Everything that happens follows from the seed and from the case, so the same case gives the same journal, byte for byte,
on one version of Python.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import attrs

from asyncflow import messages as m
from asyncflow.engine import Engine
from asyncflow.errors import RunCancelled, RunFailed, RunNotFound, RunSuspended, StoreError
from asyncflow.graph.flow import Flow
from asyncflow.graph.pattern import as_flow
from asyncflow.graph.plan import Plan
from asyncflow.interfaces import Executor
from asyncflow.outcomes import Sealed
from asyncflow.states import RunState
from asyncflow.testing.disk import Disk, SimulatedStore
from asyncflow.testing.loop import EPOCH, Crash, Deadlock, InlineThreads, LoopClock, SeededLoop

RUN_ID = "run"
MOST_LIVES = 100
"""A run that is not over after so many processes never will be."""


_PLACES = {
    "before": "a crash before record {}",
    "after": "a crash after record {}",
    "await": "a crash after step {}",
}


@attrs.frozen
class Case:
    """
    One course of the world.

    Args:
        seed: The order of what is ready, how long commits take, what a crash leaves of the last one.
        crashes: Where each process dies, one after the other: ``("before", n)`` when the nth record of the journal
            is about to last, ``("after", n)`` as soon as it does, ``("await", n)`` after n steps of its event loop. The
            process after the last of them lives on.
        cancel: After how many steps of its event loop the first process is told to cancel the run.
        fault: A commit, counted from 1, and how it fails; see :class:`~asyncflow.testing.Disk`.
    """

    seed: int = 0
    crashes: tuple[tuple[str, int], ...] = ()
    cancel: int | None = None
    fault: tuple[int, str] | None = None

    def __str__(self) -> str:
        parts = [_PLACES[kind].format(number) for kind, number in self.crashes]
        if self.cancel is not None:
            parts.append(f"a cancel after step {self.cancel}")
        if self.fault is not None:
            parts.append(f"commit {self.fault[0]} failing ({self.fault[1]})")
        return f"{' and '.join(parts) or 'no disturbance'}, seed {self.seed}"


@attrs.frozen
class Ending:
    """
    How a run ended in a world.

    ``value`` is the flow's, decoded from the journal's bytes if it succeeded, else None; ``failures`` are the paths of
    the tasks that failed for good; ``states`` has every task's last state by path; ``lives`` says how many processes it
    took, ``steps`` how many steps the last of them made.
    """

    state: RunState
    value: Any
    failures: tuple[str, ...]
    states: Mapping[str, str]
    records: Sequence[m.Record] = attrs.field(repr=False)
    lives: int
    steps: int


class _Threads(InlineThreads):
    """Made when the engine opens, since only then there is a loop."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SeededLoop)
        super().__init__(loop)

    def __repr__(self) -> str:
        return "<the threads of a world>"


class WorldEngine(Engine):
    """
    An engine on a :class:`SeededLoop` and a simulated disk: its threads are the loop, and its heart does not beat.

    With a heartbeat something would always be about to happen, and a run that is stuck would wait for ever.
    """

    def __init__(
        self,
        disk: Disk,
        *,
        around: Callable[[Executor], Executor] = lambda executor: executor,
        debug: bool = True,
        **options: Any,
    ) -> None:
        # No thread may look in: what it sends to the loop would come when it likes.
        options = {"blocked_after": math.inf, **options}
        super().__init__(store=SimulatedStore(disk), clock=LoopClock(), debug=debug, **options)
        self._around = around

    async def open(self) -> Self:
        """Open it as any engine, then put the world's own in place of threads and heart."""
        await super().open()
        executors = self._executors
        executors["thread"] = _Threads()
        for name, executor in executors.items():
            executors[name] = self._around(executor)
        if self._heart is not None:
            self._heart.cancel()
        return self


class World:
    """
    Runs a flow as one case says, through as many processes as it takes.

    Args:
        flow: What to run.
        inputs: Its inputs, by name.
        case: The seed, and what happens.
        around: Wraps each executor of each engine, for tests that have bodies fail.
        engine_options: What each :class:`~asyncflow.Engine` is given besides, such as ``resources``.
    """

    def __init__(
        self,
        flow: Flow[..., Any],
        inputs: Mapping[str, Any] | None = None,
        case: Case | None = None,
        *,
        around: Callable[[Executor], Executor] = lambda executor: executor,
        **engine_options: Any,
    ) -> None:
        self.flow = as_flow(flow)
        self.plan: Plan = self.flow.compile()
        # What has no names is for the engine to refuse.
        self.inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
        self.case = case or Case()
        self.disk = Disk(self.case.seed, fault=self.case.fault)
        self.lives = 0
        self.deaths: list[int] = []
        self._around = around
        self._options = engine_options
        self._now = 0.0
        self._dead: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self) -> Ending:
        """
        Run the flow, let processes die as the case says, and resume until the run is over.

        Raises:
            Deadlock: The run is stuck: nothing is left to happen, and it has not ended.
        """
        # What the engine draws, such as the jitter of a backoff, comes from here.
        drawn_before = random.getstate()
        random.seed(f"world {self.case.seed}")
        try:
            while True:
                ending = self._live()
                if ending is not None:
                    return ending
                if self.lives >= MOST_LIVES:
                    raise Deadlock(f"the run is not over after {MOST_LIVES} processes")
        finally:
            random.setstate(drawn_before)

    def close(self) -> None:
        """Let go of what dead processes have left. Their coroutines are closed only now: the dead do not tidy up."""
        for task in self._dead:
            with contextlib.suppress(BaseException):
                task.get_coro().close()
        self._dead.clear()
        self.disk.close()

    @property
    def has_begun(self) -> bool:
        """Whether anything of the run was ever recorded; else it was refused, or died too early."""
        return RUN_ID in self.disk.files

    @property
    def journal(self) -> bytes:
        """Every byte that the disk keeps of the run's records."""
        return self.disk.journal(RUN_ID)

    def _live(self) -> Ending | None:
        """Live the life of one process; return how the run ended in it, or None if it did not."""
        life, self.lives = self.lives, self.lives + 1
        loop = SeededLoop((self.case.seed, life), now=self._now)
        loop.set_exception_handler(lambda loop, context: None)  # what a body leaves unlooked at is its own affair
        if life < len(self.case.crashes):
            self._doom(loop, *self.case.crashes[life])
        main = loop.create_task(self._main(loop, life))
        try:
            ending = loop.run_until_complete(main)
        except Crash:
            self.disk.restart()
            self.deaths.append(self.disk.count)
            ending = None
        finally:
            self.disk.restart()
            self._now = loop.time()
            for task in asyncio.all_tasks(loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                self._dead.append(task)
            loop.close()
        return ending

    def _doom(self, loop: SeededLoop, kind: str, number: int) -> None:
        def die(*_: object) -> None:
            raise Crash

        if kind == "before":
            self.disk.committing = lambda count: die() if count == number else None
        elif kind == "after":
            self.disk.committed = lambda count: die() if count == number else None
        elif kind == "await":
            loop.at_step(number, die)
        else:
            raise ValueError(f"a crash is ('before', n), ('after', n) or ('await', n), not {(kind, number)!r}")

    async def _main(self, loop: SeededLoop, life: int) -> Ending | None:
        async with WorldEngine(self.disk, around=self._around, **self._options) as engine:
            value, failures = None, tuple[str, ...]()
            try:
                # One that is INTERRUPTED or SUSPENDED goes on; one that had ended tells how.
                run = await engine.take_up(RUN_ID, self.flow)
            except RunNotFound:
                try:
                    run = await engine.start(self.flow, self.inputs, run_id=RUN_ID)
                except StoreError:
                    return None
            except StoreError:
                return None
            try:
                if life == 0 and self.case.cancel is not None:
                    loop.at_step(max(self.case.cancel, loop.steps), lambda: run.cancel("the world says so"))
                value = await run
            except RunFailed as failed:
                failures = tuple(sorted(failed.failures))
            except RunCancelled:
                pass
            except (RunSuspended, StoreError):
                return None
            if run.state is RunState.SUSPENDED:
                return None
            states = {task.path: task.state.name for task in run.tasks()}
            records = await SimulatedStore(self.disk).read(RUN_ID)
            return Ending(run.state, value, failures, states, records, self.lives, loop.steps)

    def timeline(self) -> str:
        """Return a line for each event of the run so far, with its virtual time in seconds."""
        if not self.has_begun:
            return "    nothing was recorded"
        lines: list[str] = []
        deaths = list(self.deaths)
        store = SimulatedStore(self.disk)
        for count, record in enumerate(store.decoded(self.disk.files[RUN_ID])):
            while deaths and deaths[0] <= count:
                lines.append(f"    --------- crash {len(self.deaths) - len(deaths) + 1} ---------")
                deaths.pop(0)
            lines += [
                f"{record.at - EPOCH:10.3f}  record {count + 1:<3} {self._line(event)}" for event in record.events
            ]
        lines += ["    --------- crash, nothing recorded since ---------" for _ in deaths]
        return "\n".join(lines)

    def _line(self, event: m.Event) -> str:
        path = self.plan.path(event.task) if isinstance(getattr(event, "task", None), int) else ""  # type: ignore[attr-defined]
        details: list[str] = []
        for name in event.__struct_fields__:
            detail = getattr(event, name)
            if name in ("task", "run_id", "plan") or detail is None or detail == {}:
                continue
            if isinstance(detail, Sealed):
                detail = SimulatedStore(self.disk).codec.summary(detail, width=60)
            details.append(f"{name}={detail!s:.80}")
        return " ".join([type(event).__name__, path, *details]).rstrip()
