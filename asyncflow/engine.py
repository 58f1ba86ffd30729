"""
Starts, resumes and lists runs, and chooses what they are made of: the only place that knows which store, which
executors and which clock stand behind the seams.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping
from datetime import datetime
from typing import Any, Self, TypeVar, cast

from asyncflow.callers import Callers
from asyncflow.checks import at_least_one, check_observer, flag, interest_in, one_of, posix, seconds
from asyncflow.codec import Codec
from asyncflow.errors import DeclarationError, EngineClosed, InputError
from asyncflow.executors.inline import InlineExecutor
from asyncflow.executors.loop import LoopExecutor
from asyncflow.executors.thread import ThreadExecutor
from asyncflow.graph.pattern import Runnable, as_flow
from asyncflow.heart import heed
from asyncflow.ids import check_run_id
from asyncflow.interfaces import Clock, Observer, Store
from asyncflow.launch import OBSERVERS_MAY_TAKE, Launcher
from asyncflow.patience import Gleaner, Patience
from asyncflow.runtime.clock import SystemClock
from asyncflow.runtime.environment import Environment
from asyncflow.runtime.handle import Run
from asyncflow.runtime.observe import Announcer
from asyncflow.runtime.permits import ENGINE, THREADS, Pool
from asyncflow.runtime.shelter import outlast, see_through, until_done
from asyncflow.runtime.stepper import Step, Stepper
from asyncflow.runtime.watchdog import BLOCKED_AFTER, Watchdog
from asyncflow.states import RunState
from asyncflow.stores.memory import MemoryStore
from asyncflow.stores.sqlite import SqliteStore
from asyncflow.upkeep import Upkeep

T = TypeVar("T")

DURABILITY = ("full", "process", "lazy")


class Engine(Upkeep):
    """
    Runs flows. Use it as ``async with Engine("runs.db") as engine``.

    Leaving the block suspends what still runs: it gets *grace* seconds, then is stopped and recorded as lost; nothing
    is reverted, and ``recover()`` takes it up again.

    Args:
        path: The journal, an SQLite file, made if it is not there. None: in memory, resumable only in this engine.
        durability: "full" (synced to disk before anything depends on it), "process" (survives the process, not a power
            cut) or "lazy" (at most 100 ms behind); a run may choose its own.
        concurrency: How many bodies run at once, over all runs; None for no limit.
        threads: How many threads plain functions may have; None for four more than there are processors, at most 32.
        resources: What bodies may ask for by name or type; never journaled.
        observers: Called with each event of every run, once it is durable.
        on_cancel: What becomes of a run when the caller of ``run()`` is cancelled: "suspend" or "revert". The default
            loses nothing: suspend where there is a file, revert in memory.
        undo_grace: Seconds that undoing may hold up a cancelled caller; the run is suspended then.
        grace: Seconds that running bodies have when the engine closes.
        cancel_grace: Seconds in which a body must give way to a cancel before it is left behind.
        on_failure: What becomes of running siblings when a task fails for good, in flows that do not say it: "cancel"
            or "finish".
        never_revert: Let a run that fails stand as it is, FAILED and resumable, instead of undoing it; no controller is
            asked. A run may choose for itself.
        lease: Seconds without a sign of life (its process was stopped) after which others may take over its runs.
        keep: How many ended runs a journal in memory keeps.
        debug: Hand on decoded copies of values, so that code which relies on sharing them fails at once and not after a
            resume; and warn of a blocked loop after 0.1 s.
        blocked_after: Log a warning that names task and line when the event loop has not turned for so many seconds;
            ``math.inf`` never.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        durability: str = "full",
        concurrency: int | None = None,
        threads: int | None = None,
        resources: Mapping[str, Any] | None = None,
        observers: Iterable[Observer] = (),
        on_cancel: str | None = None,
        undo_grace: float = 30.0,
        grace: float = 5.0,
        cancel_grace: float = 10.0,
        on_failure: str = "cancel",
        never_revert: bool = False,
        lease: float = 10.0,
        keep: int = 1000,
        debug: bool = False,
        blocked_after: float | None = None,
        store: Store | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._codec = Codec()
        self._durability = one_of("durability", durability, DURABILITY)
        self._lease = seconds("lease", lease)
        if store is None:
            store = MemoryStore(keep=keep) if path is None else SqliteStore(path, codec=self._codec, lease=self._lease)
        self._store = store
        fallback = "suspend" if store.location is not None else "revert"
        self._on_cancel = fallback if on_cancel is None else one_of("on_cancel", on_cancel, ("suspend", "revert"))
        threads = min(32, (os.cpu_count() or 1) + 4) if threads is None else at_least_one("threads", threads)
        pools = {THREADS: Pool(THREADS, threads)}
        if concurrency is not None:
            pools[ENGINE] = Pool(ENGINE, at_least_one("concurrency", concurrency))
        self._resources = dict(resources or {})
        self._announcer = Announcer()
        self._first_observers = [check_observer(observer) for observer in observers]
        self._never_revert = flag("never_revert", never_revert)
        self._clock = SystemClock() if clock is None else clock
        self._grace = grace
        environment = Environment(
            keeps_bytes=store.keeps_bytes,
            clock=self._clock,
            announcer=self._announcer,
            pools=pools,
            resources=self._resources,
            grace=grace,
            cancel_grace=cancel_grace,
            hands_on_copies=debug and store.keeps_bytes,
        )
        self._executors = environment.executors
        self._launcher = Launcher(store, environment, on_failure=one_of("on_failure", on_failure, ("cancel", "finish")))
        self._runs = self._launcher.runs
        self._callers = Callers(keeps_bytes=store.keeps_bytes, undo_grace=undo_grace)
        self._blocked_after = BLOCKED_AFTER if blocked_after is None and debug else blocked_after
        if self._blocked_after is not None and not self._blocked_after > 0:
            raise DeclarationError(f"blocked_after={blocked_after!r} must be more than 0: seconds without a turn")
        self._watchdog: Watchdog | None = None
        self._heart: asyncio.Task[None] | None = None
        self._is_open = self._is_opening = self._is_closing = False

    # --- Opening and closing ------------------------------------------------------------------------------------------

    async def open(self) -> Self:
        """Open the journal and make ready; ``async with`` does it for you."""
        if self._is_open or self._is_opening:
            raise EngineClosed("the engine is open already; one engine is opened once")
        # First, since a loop may be refused: nothing is open then.
        self._executors.update(loop=LoopExecutor(), inline=InlineExecutor(), thread=ThreadExecutor())
        self._is_opening = True
        try:
            _, cancelled = await see_through(asyncio.get_running_loop().create_task(self._store.open()))
        finally:
            self._is_opening = False
        if cancelled is not None:
            await see_through(asyncio.get_running_loop().create_task(self._store.close()))
            raise cancelled
        for observer in self._first_observers:
            self._announcer.subscribe(observer)
        if self._blocked_after is not None and math.isfinite(self._blocked_after):
            self._watchdog = Watchdog(self._blocked_after)
            self._watchdog.start()
        self._is_open = True
        self._is_closing = self._callers.is_closing = False
        if self._store.keeps_bytes:
            self._heart = asyncio.create_task(heed(self._store, self._runs), name="asyncflow heartbeat")
        return self

    async def close(self) -> None:
        """Suspend what still runs, write what is to be written, and let go of threads and files."""
        if not self._is_open:
            return
        try:
            _, cancelled = await see_through(asyncio.get_running_loop().create_task(self._close()))
        finally:
            self._is_open = False
        if cancelled is not None:
            raise cancelled

    async def _close(self) -> None:
        self._is_closing = self._callers.is_closing = True
        if self._callers.launching:
            await asyncio.wait(self._callers.launching)
        for run in list(self._runs.values()):
            run.supervisor.suspend("the engine is closing", grace=self._grace, recover=True)
        endings = [run.ending for run in self._runs.values()]
        if endings:
            await asyncio.wait(endings)
        if self._heart is not None:
            self._heart.cancel()
            await asyncio.wait([self._heart])
        if self._watchdog is not None:
            self._watchdog.stop()
        try:
            await self._announcer.wait_idle(OBSERVERS_MAY_TAKE)
            await self._announcer.close()
            for executor in self._executors.values():
                await executor.close()
        finally:
            await self._store.close()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _check_open(self) -> None:
        if not self._is_open or self._is_closing:
            state = "closing" if self._is_closing and self._is_open else "not open"
            raise EngineClosed(f"the engine is {state}; use it inside 'async with Engine(...)'")

    # --- Running ------------------------------------------------------------------------------------------------------

    async def run(
        self,
        flow: Runnable[T],
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        deadline: float | datetime | None = None,
        durability: str | None = None,
        on_cancel: str | None = None,
        never_revert: bool | None = None,
    ) -> T:
        """
        Run *flow* to its end and return its value. Leaves nothing running, however it ends.

        Args:
            flow: What to run; a single task will do.
            inputs: The flow's inputs, by name.
            run_id: A name for the run, by which it can be resumed; one is made if None.
            deadline: When to give up and undo: POSIX seconds, or a datetime with a time zone.
            durability: The run's own level, instead of the engine's.
            on_cancel: "suspend" or "revert", instead of the engine's.
            never_revert: Whether a failure leaves everything as it is, instead of the engine's choice.

        Raises:
            RunFailed: A task failed for good, or a deadline passed. The members are the original exceptions.
            RunCancelled: Someone cancelled the run.
            RunSuspended: Someone suspended it.
            RunExists: There is a run of this id; resume it.
            StoreError: The journal could not be written; a lazy run says so at its end at the latest.
            InputError: The inputs do not fit the flow.
            FlowError: The flow cannot be compiled.
        """
        policy = self._policy(on_cancel)
        run = await self._callers.hold(self._begin(flow, inputs, run_id, deadline, durability, never_revert), policy)
        return cast("T", await self._callers.attend(run, policy))

    async def start(
        self,
        flow: Runnable[T],
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        deadline: float | datetime | None = None,
        durability: str | None = None,
        never_revert: bool | None = None,
    ) -> Run[T]:
        """
        Start *flow* and return its :class:`Run`, which belongs to the engine: await it, watch it, cancel it, or leave
        it.

        Takes what :meth:`run` takes. When this returns, the run is in the journal.
        """
        launching = self._begin(flow, inputs, run_id, deadline, durability, never_revert)
        return await self._callers.hold(launching, self._on_cancel)

    async def resume(
        self,
        run_id: str,
        flow: Runnable[T] | None = None,
        *,
        deadline: float | datetime | None = None,
        accept_changes: bool = False,
        on_cancel: str | None = None,
        wait: float = 0.0,
    ) -> T:
        """
        Take a run up where it stood and return its value; a run that has ended gives again what it ended with.

        Args:
            run_id: The run.
            flow: Its flow; None imports the ``module:attribute`` that the journal names.
            deadline: A new deadline, instead of the one that the run was given.
            accept_changes: Go on although the flow has changed in what has started already.
            on_cancel: As for :meth:`run`.
            wait: Seconds to wait until the run's owner gives it up, dies, or has shown no life for its lease.

        Raises:
            RunNotFound: The journal has no such run.
            RunBusy: A living engine owns it; if that is this one, a run of :meth:`running` can be awaited instead.
            PlanChanged: The flow has changed in a way that what has been done does not fit.
            CorruptRecord: The journal is damaged.
            RunFailed, RunCancelled, RunSuspended: As :meth:`run` does.
        """
        policy = self._policy(on_cancel)
        run = await self._take_up(run_id, flow, deadline, accept_changes, policy, wait)
        return cast("T", await self._callers.attend(run, policy))

    async def steps(
        self,
        flow: Runnable[Any] | None = None,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        deadline: float | datetime | None = None,
        durability: str | None = None,
        never_revert: bool | None = None,
        resume: bool = False,
    ) -> AsyncGenerator[Step, None]:
        """
        Run *flow* step by step: ``async for step in engine.steps(flow)``.

        Yields after each turn of the machine what has just happened and what is due, and goes on only when the next
        step is asked for. Bodies that are under way go on meanwhile, and time limits that pass take effect with the
        next step. Leaving the loop suspends the run; so does ``step.run.suspend()``. When the run has ended without a
        value, the loop raises what awaiting it does.

        Args:
            flow: What to run; with *resume*, None imports what the journal names.
            inputs: As for :meth:`run`, which has the others too.
            resume: Take up the run that *run_id* names, instead of starting one; it keeps what it was started with.

        Raises:
            InputError: *resume* comes without a *run_id*, or with what only a new run can be given.
            RunFailed, RunCancelled, RunSuspended: As :meth:`run` does, after the last step.
        """
        stepper = Stepper()
        if resume:
            self._check_open()
            if run_id is None:
                raise InputError("engine.steps(resume=True) needs the run_id of the run to be taken up")
            if (inputs, durability, never_revert) != (None, None, None):
                kept = "the inputs, the durability and the never_revert"
                raise InputError(f"run {run_id!r} keeps {kept} that it was started with; leave them out")
            launching = self._launcher.take_up(run_id, flow, deadline=posix(deadline), stepper=stepper)
        elif flow is None:
            raise InputError("engine.steps() needs a flow, unless it resumes a run")
        else:
            launching = self._begin(flow, inputs, run_id, deadline, durability, never_revert, stepper)
        run = await self._callers.hold(launching, "suspend")
        try:
            while (step := await stepper.next(run)) is not None:
                yield step
                stepper.go_on()
            await run
        finally:
            if not run.is_over:
                run.supervisor.suspend("left between two steps", grace=0.0, recover=True)
                await outlast(run.ending, None)

    async def take_up(
        self,
        run_id: str,
        flow: Runnable[T] | None = None,
        *,
        deadline: float | datetime | None = None,
        accept_changes: bool = False,
        wait: float = 0.0,
    ) -> Run[T]:
        """Do what :meth:`resume` does, and return the :class:`Run` instead of waiting for it."""
        return await self._take_up(run_id, flow, deadline, accept_changes, self._on_cancel, wait)

    async def _take_up(
        self,
        run_id: str,
        flow: Runnable[Any] | None,
        deadline: float | datetime | None,
        accept_changes: bool,
        policy: str,
        wait: float,
    ) -> Run[Any]:
        # Each try is held by itself, so that a caller who is cancelled between two has nothing to wait for.
        def attempt() -> Coroutine[Any, Any, Run[Any]]:
            self._check_open()
            taking = self._launcher.take_up(run_id, flow, deadline=posix(deadline), accept_changes=accept_changes)
            return self._callers.hold(taking, policy)

        return await Patience(wait, self._lease).until_free(attempt)

    async def reset(
        self, run_id: str, flow: Runnable[T] | None = None, *, deadline: float | datetime | None = None
    ) -> Run[T]:
        """
        Make a run that has ended start over, with the inputs that it was given, and return it.

        Nothing is undone by this: what a run that succeeded has done stays done, and is done again. Keys of idempotency
        are new. Takes *flow* and *deadline* as :meth:`resume` does.

        Raises:
            RunUnfinished: It has not ended.
            RunNotFound, RunBusy, CorruptRecord: As for :meth:`resume`.
        """
        self._check_open()
        taking = self._launcher.take_up(run_id, flow, deadline=posix(deadline), start_over=True)
        return await self._callers.hold(taking, self._on_cancel)

    async def recover(self, *, wait: float = 0.0) -> list[Run[Any]]:
        """
        Take up every run that a dead or closed engine left unfinished, and return them.

        A run that someone suspended on purpose stays as it is. One that cannot be taken up (its flow cannot be found,
        has changed, or it is damaged) is logged and passed over. Several engines may do this at once, and share the
        runs.

        Args:
            wait: Seconds for which to go on looking, and take up also what others leave that die, close, or show no
                life for their lease; ``math.inf`` until this is cancelled, which leaves the runs taken up to go on.
        """
        self._check_open()
        gleaner = Gleaner(self._store, self._runs, is_left=self._launcher.is_left, take_up=self.take_up)
        patience = Patience(wait, self._lease)
        await gleaner.look()
        while await patience.pause():
            self._check_open()
            await gleaner.look()
        return gleaner.found

    async def cancel(self, run_id: str, flow: Runnable[Any] | None = None, *, reason: str = "cancelled") -> RunState:
        """
        Cancel a run, wherever it is, and return its state then.

        One of this engine's, or one that nobody owns, is undone before this returns. One that another process owns is
        asked for there; its owner looks about once a second. Nothing happens to a run that has ended.
        """
        self._check_open()
        run = self._runs.get(run_id)
        if run is None:
            info = await self._store.info(run_id)
            if info.state.is_ended:
                return info.state
            if info.owner is not None:
                await self._store.request(run_id, "cancel", reason)
                return info.state
            self._check_open()  # it may have begun to close while the store was asked
            run = await self._callers.hold(self._launcher.take_up(run_id, flow, cancel_reason=reason), self._on_cancel)
        else:
            run.cancel(reason)
        await until_done(run.ending)
        if run.state is RunState.SUSPENDED and run.supervisor.machine.cancel_reason is None:
            # It came too late for the run, which was being suspended; nobody has it any more.
            return await self.cancel(run_id, flow, reason=reason)
        return run.state

    def running(self) -> list[Run[Any]]:
        """Return the runs of this engine that have neither ended nor been suspended, in the order they were started."""
        return list(self._runs.values())

    def observe(
        self, observer: Observer, *, kinds: Iterable[str] = (), run_id: str | None = None, path: str | None = None
    ) -> Callable[[], None]:
        """
        Have *observer* called with each event of every run from now on; return what ends that. One that raises is
        logged and dropped.

        Args:
            observer: Any callable of a :class:`~asyncflow.Happening`, ``def`` or ``async def``.
            kinds: Only events of these kinds, such as ``"TaskFailed"`` or ``["Progressed", "Emitted"]``.
            run_id: Only those of this run.
            path: Only those of the task at this path, or of the flow and all that is in it.
        """
        return self._announcer.subscribe(check_observer(observer), interest_in(kinds, run_id, path))

    def __repr__(self) -> str:
        where = self._store.location or "memory"
        state = "closing" if self._is_closing and self._is_open else "open" if self._is_open else "closed"
        return f"<Engine on {where}: {state}, {len(self._runs)} runs>"

    # --- The caller ---------------------------------------------------------------------------------------------------

    def _begin(
        self,
        flow: Runnable[Any],
        inputs: Mapping[str, Any] | None,
        run_id: str | None,
        deadline: float | datetime | None,
        durability: str | None,
        never_revert: bool | None,
        stepper: Stepper | None = None,
    ) -> Coroutine[Any, Any, Run[Any]]:
        self._check_open()
        level = self._durability if durability is None else one_of("durability", durability, DURABILITY)
        if inputs is not None and not isinstance(inputs, Mapping):
            whole = as_flow(flow)
            wanted = ", ".join(f"{name!r}: ..." for name in whole.inputs)
            raise InputError(
                f"the inputs of flow {whole.name!r} are {inputs!r:.80}, which has no names; "
                f"pass {{{wanted}}} to the run"
            )
        return self._launcher.start(
            flow,
            {} if inputs is None else inputs,
            run_id=None if run_id is None else check_run_id(run_id),
            deadline=posix(deadline),
            durability=level,
            never_revert=self._never_revert if never_revert is None else flag("never_revert", never_revert),
            stepper=stepper,
        )

    def _policy(self, on_cancel: str | None) -> str:
        return self._on_cancel if on_cancel is None else one_of("on_cancel", on_cancel, ("suspend", "revert"))
