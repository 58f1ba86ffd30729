"""
One run: events into the machine, records into the journal, commands to the actors.

A turn drains the inbox, applies what it held, turns what is due into events and applies those too, appends them all as
one record, and performs the commands once that is durable. So a chain costs one commit a task, and whatever happens
while a commit is under way goes into the next.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import Context as ContextVars
from typing import Any, ClassVar

from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.errors import InputUnavailable, StoreError
from asyncflow.graph.inputs import NoValue
from asyncflow.interfaces import Clock, Executor, Happening, Journal, Timer
from asyncflow.machine.ledger import NO_VALUE
from asyncflow.machine.run import RUN_DEADLINE, RunMachine
from asyncflow.outcomes import Cancelled, Failure, Outcome, Success
from asyncflow.runtime import permits
from asyncflow.runtime.actor import Actor
from asyncflow.runtime.inbox import Inbox
from asyncflow.runtime.large import LargeValues
from asyncflow.runtime.observe import Announcer, Narrator
from asyncflow.runtime.permits import Claim, Pool
from asyncflow.runtime.values import RunValues
from asyncflow.states import RunState

log = logging.getLogger("asyncflow.run")

EVENTS_A_TURN = 1_000
SECONDS_A_TURN = 0.004
"""A turn is cut here, so that a wide flow of tiny tasks never starves the application."""
STARTS_BETWEEN_LOOKS = 16
"""How many bodies are started between two looks at the clock."""


_NO_BLOBS: Mapping[str, bytes] = {}


class _Note:
    """Something for the supervisor itself, which is no event: *act* is called in its next turn."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act


class Supervisor:
    """
    Looks after one run from its first record, or from its resume, until it ends or stands still.

    What others may read: ``machine`` (the state), ``values``. What they may call: :meth:`post`, from the loop.
    """

    def __init__(
        self,
        machine: RunMachine,
        journal: Journal,
        *,
        run_id: str,
        codec: Codec,
        keeps_bytes: bool,
        clock: Clock,
        executor: Callable[[str], Executor],
        announcer: Announcer,
        pools: Mapping[str, Pool],
        resources: Mapping[str, Any],
        context: ContextVars,
        first_number: int = 0,
        grace: float = 5.0,
        cancel_grace: float = 10.0,
        hands_on_copies: bool = False,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.machine = machine
        self.run_id = run_id
        self.codec = codec
        self.keeps_bytes = keeps_bytes
        self.clock = clock
        self.context = context
        self.cancel_grace = cancel_grace
        self.grace = grace
        self.executor = executor
        self.values = RunValues(machine, codec, resources, hands_on_copies=hands_on_copies)
        self._journal = journal
        self._announcer = announcer
        self._narrator = Narrator(run_id, machine.flow, machine.plan, first_number)
        self._pools = pools
        self._scope_pools: dict[int, Pool] = {}
        self._has_limits = bool(machine.plan.has_limits or "" in pools)
        self.inbox: Inbox[m.Event | _Note] = Inbox(self._loop)
        # Living actors by task; those whose body was left behind stay until it is gone, even after the run's end.
        self._actors: dict[int, Actor] = {}
        # This turn's events, and what to do once they are durable.
        self._events: list[m.Event] = []
        self._orders: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._released: list[Claim] = []
        self._riders: list[m.Event] = []  # progress and the like: they go with the next record
        self._last_progress: dict[int, float] = {}
        self._large = LargeValues(machine, self.values, journal)
        self._loading: set[asyncio.Task[None]] = set()
        self._broken: StoreError | None = None
        self._timers: dict[object, Timer] = {}
        self._is_over = False
        self._emptied: asyncio.Future[None] | None = None
        self._interruption: BaseException | None = None
        # Tasks whose future someone holds, woken at the run's every record.
        self.on_record: list[Callable[[list[m.Event]], None]] = []
        self.on_over: list[Callable[[], None]] = []

    # --- What others call ---------------------------------------------------------------------------------------------

    def cancel(self, reason: str) -> None:
        """Have the run undone. Ignored once it is being undone or has ended."""
        self.inbox.send_nowait(m.CancelRequested(reason))

    def suspend(self, reason: str, *, grace: float | None = None, recover: bool = False) -> None:
        """Have the run stand still: what runs gets *grace* seconds to end by itself, is stopped then, and is lost."""
        if grace is not None:
            self.grace = grace
            if self.machine.suspend_reason is not None:
                self.inbox.send_nowait(_Note(self._stop_bodies))
        self.inbox.send_nowait(m.SuspendRequested(reason, recover))

    async def load(self, tasks: list[int]) -> None:
        """Bring the values of *tasks* into memory; most are there."""
        await self._large.load(tasks)

    async def follow(self) -> AsyncIterator[Happening]:
        """Yield what happens in this run from now on, each event once it is durable, until it is over."""
        line: Inbox[Happening] = Inbox(self._loop)
        unsubscribe = self._announcer.subscribe(
            lambda seen: line.send_nowait(seen) if seen.run_id == self.run_id else None
        )
        self.on_over.append(line.wake)
        try:
            while line or not self._is_over:
                await line.wait()
                for happening in line.take(EVENTS_A_TURN):
                    yield happening
                if self._is_over:
                    await self._announcer.wait_idle(1.0)
        finally:
            unsubscribe()

    # --- What actors call (their Home) --------------------------------------------------------------------------------

    def report(self, event: m.Event) -> None:
        """Take an actor's event. It always goes through the inbox, also from inside an eager start."""
        self.inbox.send_nowait(event)

    def tell(self, event: m.Event) -> None:
        """Take what a body tells: observers hear it at once, the journal with its next record. From any thread."""
        if threading.get_ident() != self._thread:
            self._loop.call_soon_threadsafe(self.tell, event)
            return
        if isinstance(event, m.Progressed):
            now = self._loop.time()
            if now - self._last_progress.get(event.task, -1.0) < 1.0 and event.fraction < 1.0:
                return
            self._last_progress[event.task] = now
        self._riders.append(event)
        if self._announcer:
            self._announcer.publish([self._narrator.aside(self.clock.now(), event)])

    def gone(self, actor: Actor) -> None:
        """Forget *actor*; its permits are given back in the next turn, after its ending has been applied."""
        if self._actors.get(actor.task) is actor:
            del self._actors[actor.task]
            if self._emptied is not None and not self._actors and not self._emptied.done():
                self._emptied.set_result(None)
        if actor.claim is not None:
            self._give_back(actor.claim)
            actor.claim = None

    def _give_back(self, claim: Claim) -> None:
        if self._is_over:
            permits.release(claim)
            permits.serve(claim.pools)
        else:
            self._released.append(claim)
            self.inbox.wake()

    def lingers(self, actor: Actor) -> None:
        """Keep *actor*, whose body is still there, and let reverts past its permits."""
        if actor.claim is not None:
            permits.linger(actor.claim)

    def deadline_of(self, task: int) -> float | None:
        """Return the nearest deadline around *task*."""
        return self.machine.deadline_of(task)

    def interrupted(self, error: BaseException) -> None:
        """Suspend the run; *error* goes on from here once that is recorded."""
        self._interruption = error
        self.suspend(f"{type(error).__name__} in a task", recover=True)

    def granted(self, claim: Claim) -> None:
        """A claim of this run has its permits; called by whoever gave them back."""
        self.inbox.send_nowait(_Note(lambda: self._use(claim)))

    # --- The life of a run --------------------------------------------------------------------------------------------

    def began(self, record: m.Record) -> None:
        """Take the record by which the run came to be, which is durable already."""
        for event in record.events:
            self.machine.apply(event)
        self._appended(record.at, list(record.events))

    async def live(self, first: list[m.Event]) -> None:
        """
        Take the *first* events, then bring the run to its end, or until it stands still.

        Raises:
            RunOvertaken: Another engine took it over. Nothing more was written.
            StoreError: The journal could not be written. The run is resumable once that is mended.
            KeyboardInterrupt, SystemExit: A body raised it; the run is suspended.
        """
        for event in first:
            self._take(event)
        self.values.load_inputs()
        self._watch_deadlines()
        try:
            await self._turns()
        except asyncio.CancelledError:
            # Nobody cancels a supervisor but a loop that is going down.
            await self._go_down()
            raise
        finally:
            self._finish()
            # Whatever is still running is running for nothing: the run was overtaken, or its journal broke.
            if self._actors and not self.machine.state.is_ended:
                await self._bodies_gone()
        if self._interruption is not None:
            raise self._interruption

    async def _turns(self) -> None:
        loop, inbox, orders = self._loop, self.inbox, self._orders
        rest_at = loop.time() + SECONDS_A_TURN
        while True:
            has_more = self._turn()
            if self._events:
                await self._append()
            count = 0
            while orders:
                order, args = orders.popleft()
                order(*args)
                count += 1
                if not count % STARTS_BETWEEN_LOOKS and loop.time() > rest_at:
                    await asyncio.sleep(0)
                    rest_at = loop.time() + SECONDS_A_TURN
            if self._is_over:
                return
            if not has_more and not inbox and not self._released:
                await inbox.wait()
                rest_at = loop.time() + SECONDS_A_TURN
            elif loop.time() > rest_at:
                await asyncio.sleep(0)
                rest_at = loop.time() + SECONDS_A_TURN

    async def _go_down(self) -> None:
        """
        Stop the bodies and record that; further cancels are the same news again, and this gives way to the second.
        """
        self.suspend("the event loop is closing", grace=0.0, recover=True)
        try:
            await self._turns()
        except asyncio.CancelledError:
            log.warning(
                "run %r was torn down before its suspension was recorded; it is resumable all the same", self.run_id
            )

    async def _bodies_gone(self) -> None:
        self._emptied = self._loop.create_future()
        await asyncio.wait([self._emptied], timeout=self.cancel_grace)

    def _turn(self) -> bool:
        """Take what the inbox holds and what is due. Return whether more is due than fits into one turn."""
        for message in self.inbox.take(EVENTS_A_TURN):
            if type(message) is _Note:
                message.act()
            elif self._is_timely(message):
                self._take(message)
                if type(message) is m.SuspendRequested:
                    self._later("grace", self.clock.now() + self.grace, self._stop_bodies)
        machine, answer = self.machine, self._ANSWERS
        while commands := machine.due(EVENTS_A_TURN):
            for command in commands:
                answer[type(command)](self, command)
            if len(self._events) >= EVENTS_A_TURN:
                break
        if self._has_limits:
            self._serve()
        return bool(commands)

    def _take(self, event: m.Event) -> None:
        self.machine.apply(event)
        self._events.append(event)

    def _is_timely(self, event: m.Event) -> bool:
        # Requests come from outside and may be late; what an actor reports never is.
        phase = self.machine.phase
        if type(event) is m.CancelRequested:
            return phase is RunState.RUNNING
        if type(event) is m.SuspendRequested:
            return not phase.is_ended and self.machine.suspend_reason is None
        return True

    async def _append(self) -> None:
        events, self._events = self._events, []
        if self._riders:
            events.extend(self._riders)
        blobs = self._large.blobs_of(events) if self.keeps_bytes else _NO_BLOBS
        at = self.clock.now()
        # Append first: a crash may lose a command, never the event behind it.
        written = self._journal.append(m.Record(at, events), blobs, self.machine.state)
        if written is None:
            self._appended(at, events)
            return
        try:
            await written
        except asyncio.CancelledError:
            # The loop is going down; the record is on its way all the same, and every later one is behind it.
            self._appended(at, events)
            raise
        self._appended(at, events)

    def _appended(self, at: float, events: list[m.Event]) -> None:
        if self.keeps_bytes:
            self._large.let_go(events)
        if self._announcer:
            riders = len(self._riders)
            self._announcer.publish(self._narrator.tell(at, events[: len(events) - riders]))
            self._narrator.number += riders
        else:
            self._narrator.number += len(events)
        if self._riders:
            self._riders.clear()
        for callback in self.on_record:
            callback(events)
        # Either is the last of its turn, with only riders behind it.
        state = self.machine.state
        self._is_over = state.is_ended or state is RunState.SUSPENDED

    def _finish(self) -> None:
        self._is_over = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._has_limits:
            for pool in (*self._pools.values(), *self._scope_pools.values()):
                pool.drop(self)
            for claim in self._released:
                permits.release(claim)
                permits.serve(claim.pools)
            self._released.clear()
        if self._actors and not self.machine.state.is_ended:
            for actor in list(self._actors.values()):
                actor.cancel("suspend")
        self.inbox.close()
        for callback in self.on_over:
            callback()

    # --- Answers to the machine's commands ----------------------------------------------------------------------------

    def _on_start(self, command: m.Start) -> None:
        if command.not_before is not None and command.not_before > self.clock.now():
            self._later(command.task, command.not_before, lambda: self._ask(command.task, command.attempt))
        elif self._has_limits:
            self._ask(command.task, command.attempt)
        else:
            self._begin(command.task, command.attempt, None)

    def _on_revert(self, command: m.Revert) -> None:
        if command.not_before is not None and command.not_before > self.clock.now():
            self._later(
                command.task, command.not_before, lambda: self._ask(command.task, command.attempt, is_revert=True)
            )
        elif self._has_limits:
            self._ask(command.task, command.attempt, is_revert=True)
        else:
            self._begin_revert(command.task, command.attempt, None)

    def _ask(self, task: int, attempt: int, *, is_revert: bool = False) -> None:
        if not self.machine.wants(task):
            return
        lingering = self._actors.get(task)
        pools = self._pools_of(task)
        if not pools or (is_revert and lingering is not None):
            # A body that was left behind holds the permits that its own revert would need.
            self._proceed(task, attempt, None, is_revert)
            return
        ranks = self.machine.plan.ranks
        if is_revert:
            place = -self.machine.places[task]
        else:
            place = task if ranks is None else ranks[task]
        permits.ask(Claim(self, task, attempt, place, pools, is_revert))

    def _use(self, claim: Claim) -> None:
        if self.machine.wants(claim.task):
            self._proceed(claim.task, claim.attempt, claim, claim.is_revert)
        else:
            self._released.append(claim)

    def _proceed(self, task: int, attempt: int, claim: Claim | None, is_revert: bool) -> None:
        if is_revert:
            self._begin_revert(task, attempt, claim)
        else:
            self._begin(task, attempt, claim)

    def _pools_of(self, task: int) -> tuple[Pool, ...]:
        plan = self.machine.plan
        assert plan.tasks is not None
        found = [self._pools[""]] if "" in self._pools else []
        for scope in plan.enclosing(plan.scope_of[task]):
            size = plan.scopes[scope].concurrency
            if size is not None:
                if scope not in self._scope_pools:
                    self._scope_pools[scope] = Pool(plan.scopes[scope].path or plan.flow, size)
                found.append(self._scope_pools[scope])
        found.extend(self._pools[limit.name] for limit in plan.tasks[task].limits)
        return tuple(found)

    def _serve(self) -> None:
        """Give back what ended bodies held, then grant, own claims and others', in the lines' order."""
        released, self._released = self._released, []
        for claim in released:
            permits.release(claim)
        permits.serve(self._pools.values())
        permits.serve(self._scope_pools.values())

    def _begin(self, task: int, attempt: int, claim: Claim | None) -> None:
        machine = self.machine
        binding = machine.plan.bindings[task]
        if self.keeps_bytes and self._must_load(binding.reads(), lambda: self._loaded(task, attempt, claim, False)):
            return
        try:
            args, kwargs = binding.read(self.values)
        except Exception as error:
            self._take(m.TaskFailed(task, Failure(self._unreadable(task, error))))
            if claim is not None:
                self._released.append(claim)
            return
        recovered = bool(machine.lost) and bool(machine.lost.get(task))
        self._take(m.AttemptStarted(task, attempt))
        self._orders.append((self._actor(task, claim).start, (attempt, args, kwargs, recovered)))

    def _begin_revert(self, task: int, attempt: int, claim: Claim | None) -> None:
        machine = self.machine
        plan = machine.plan
        assert plan.tasks is not None
        declared, kwargs = plan.tasks[task], dict[str, Any]()
        if declared.undo is not None:
            binding, wants = plan.bindings[task], declared.undo_wants
            if self.keeps_bytes and self._must_load(
                [task, *binding.reads()], lambda: self._loaded(task, attempt, claim, True)
            ):
                return
            kwargs = wants.select(binding.by_name(self.values), self.values)
            if wants.outcome:
                kwargs["outcome"] = self._outcome(task)
            if wants.failures:
                kwargs["failures"] = {plan.path(failed): machine.outcomes[failed] for failed in machine.failures}
        self._take(m.RevertStarted(task, attempt))
        self._orders.append((self._actor(task, claim).revert, (attempt, kwargs)))

    def _on_reconcile(self, command: m.Reconcile) -> None:
        task = command.task
        binding = self.machine.plan.bindings[task]
        if not self.machine.wants(task) or (
            self.keeps_bytes and self._must_load(binding.reads(), lambda: self._on_reconcile(command))
        ):
            return
        assert self.machine.plan.tasks is not None
        wants = self.machine.plan.tasks[task].reconciler_wants
        kwargs = wants.select(binding.by_name(self.values), self.values)
        attempt = self.machine.attempts[task]
        self._take(m.ReconcileStarted(task))
        self._orders.append((self._actor(task, None).reconcile, (attempt, kwargs)))

    def _outcome(self, task: int) -> Outcome[Any]:
        """Return how the attempt that is undone ended; one that was lost counts as cancelled."""
        value = self.machine.values[task]
        if value is NO_VALUE:
            return self.machine.outcomes.get(task, Cancelled())
        return Success(self.values.open(value))

    def _actor(self, task: int, claim: Claim | None) -> Actor:
        actor = self._actors.get(task)
        if actor is None:
            machine = self.machine
            plan = machine.plan
            assert plan.tasks is not None
            execution = machine.executions.get(task, 0) + 1 if machine.executions else 1
            actor = Actor(self, task, plan.tasks[task], plan.path(task), execution, claim)
            self._actors[task] = actor
        elif claim is not None:
            # The body left behind holds a claim already; the new one goes free with the next body.
            self._released.append(claim)
        return actor

    def _unreadable(self, task: int, error: Exception) -> Exception:
        path = self.machine.plan.path(task)
        if isinstance(error, NoValue):
            return InputUnavailable(f"task {path!r} needs {error.name!r}, which has no value; give the input a default")
        error.add_note(f"while the inputs of task {path!r} were put together")
        return error

    # --- Large values -------------------------------------------------------------------------------------------------

    def _must_load(self, tasks: list[int], again: Callable[[], None]) -> bool:
        """Return whether a value of *tasks* is not in memory; *again* is then called in the turn after it is."""
        if not self._large.missing(tasks):
            return False
        loading = self._loop.create_task(self._load(tasks, again))
        self._loading.add(loading)
        loading.add_done_callback(self._loading.discard)
        return True

    async def _load(self, tasks: list[int], again: Callable[[], None]) -> None:
        try:
            await self._large.load(tasks)
        except StoreError as error:
            self._broken = error
        self.inbox.send_nowait(_Note(again))

    def _loaded(self, task: int, attempt: int, claim: Claim | None, is_revert: bool) -> None:
        if self._broken is not None:
            raise self._broken
        if self.machine.wants(task):
            self._proceed(task, attempt, claim, is_revert)
        elif claim is not None:
            self._released.append(claim)

    # --- Time ---------------------------------------------------------------------------------------------------------

    def _later(self, key: object, when: float, act: Callable[[], None]) -> None:
        """Call *act* in a turn at *when*, POSIX seconds. One timer a key: a later one takes its place."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        self._timers[key] = self.clock.call_at(when, self._ring, key, act)

    def _ring(self, key: object, act: Callable[[], None]) -> None:
        self._timers.pop(key, None)
        self.inbox.send_nowait(_Note(act))

    def _watch_deadlines(self) -> None:
        machine = self.machine
        if machine.deadline is not None:
            self._watch(RUN_DEADLINE, machine.deadline)
        for scope, deadline in machine.scope_deadlines.items():
            self._watch(scope, deadline)

    def _watch(self, scope: int, deadline: float) -> None:
        def passed() -> None:
            if self.machine.is_late(scope):
                self._take(m.DeadlinePassed(scope))

        if ("scope", scope) not in self._timers and self.machine.phase is RunState.RUNNING:
            self._later(("scope", scope), deadline, passed)

    def _stop_bodies(self) -> None:
        for actor in self._actors.values():
            self._orders.append((actor.cancel, ("suspend",)))

    def _on_schedule_retry(self, command: m.ScheduleRetry) -> None:
        assert self.machine.plan.tasks is not None
        declared = self.machine.plan.tasks[command.task]
        policy = declared.revert_retry if command.reverting else declared.retry
        assert policy is not None
        self._take(m.RetryScheduled(command.task, self.clock.now() + policy.delay(command.attempt)))

    def _on_give_up(self, command: m.GiveUp) -> None:
        if command.reverting:
            self._take(m.RevertGivenUp(command.task))
        else:
            self._take(m.TaskFailed(command.task, command.failure))

    def _on_cancel(self, command: m.Cancel) -> None:
        actor = self._actors.get(command.task)
        if actor is not None:
            self._orders.append((actor.cancel, (command.cause,)))

    def _on_open_scope(self, command: m.OpenScope) -> None:
        timeout = self.machine.plan.scopes[command.scope].timeout
        assert timeout is not None
        self._take(m.ScopeStarted(command.scope, self.clock.now() + timeout))
        self._watch_deadlines()

    def _on_suspend(self, command: m.Suspend) -> None:
        self._take(m.RunSuspended())

    def _on_end(self, command: m.End) -> None:
        self._take(m.RunEnded(command.state))

    _ANSWERS: ClassVar[dict[type[m.Command], Callable[[Supervisor, Any], None]]] = {
        m.Start: _on_start,
        m.Revert: _on_revert,
        m.Reconcile: _on_reconcile,
        m.ScheduleRetry: _on_schedule_retry,
        m.GiveUp: _on_give_up,
        m.Cancel: _on_cancel,
        m.OpenScope: _on_open_scope,
        m.Suspend: _on_suspend,
        m.End: _on_end,
    }
