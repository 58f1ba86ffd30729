"""
One run: events into the machine, records into the journal, commands to the actors.

A turn drains the inbox, applies what it held, turns what is due into events and applies those too, appends them all as
one record, and performs the commands once that is durable. So a chain costs one commit a task, and whatever happens
while a commit is under way goes into the next. A calm run that may go ahead of its records calls plain bodies within
the turn, by ``sprint``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextvars import Context as ContextVars
from typing import Any, cast

from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.interfaces import CoroutineExecutor, Executor, Happening, Journal
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Failure
from asyncflow.runtime.alarms import Alarms
from asyncflow.runtime.dispatch import Dispatcher
from asyncflow.runtime.environment import Environment
from asyncflow.runtime.inbox import Inbox
from asyncflow.runtime.large import LargeValues
from asyncflow.runtime.observe import Narrator, follow
from asyncflow.runtime.riders import Riders
from asyncflow.runtime.sprint import MOST_SECONDS, sprint
from asyncflow.runtime.stepper import Stepper
from asyncflow.runtime.transactions import MakeEvent, Settle, Transactions
from asyncflow.runtime.values import RunValues
from asyncflow.states import RunState

log = logging.getLogger("asyncflow.run")

EVENTS_A_TURN = 500
STARTS_BETWEEN_LOOKS = 16
"""How many bodies are started between two looks at the clock."""
SECONDS_A_TURN = 0.002
"""A turn is cut here, so that a wide flow of tiny tasks never starves the application."""


class _Note:
    """Something for the supervisor itself, which is no event: *act* is called in its next turn."""

    __slots__ = ("act",)

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act


class Supervisor:
    """
    Looks after one run from its first record, or from its resume, until it ends or stands still.

    What others may read: ``machine`` (the state), ``values``, ``is_over``.
    """

    # More names than instances can share the keys of: with a dictionary each takes 1.6 KB and 4 us more.
    __slots__ = (
        "__weakref__", "_alarms", "_dispatcher", "_environment", "_events", "_events_at", "_grace_until",
        "_interruption", "_journal", "_keeper", "_loop", "_narrator", "_number", "_page", "_rest_at", "_riders",
        "_thread", "_transactions", "cancel_grace", "clock", "codec", "context", "gone", "grace", "inbox", "is_over",
        "keeps_bytes", "large", "lingers", "loop_executor", "machine", "on_over", "on_record", "orders", "report",
        "returns", "run_id", "stepper", "values", "watching",
    )  # fmt: skip

    def __init__(
        self,
        machine: RunMachine,
        journal: Journal,
        environment: Environment,
        codec: Codec,
        context: ContextVars,
        *,
        first_number: int = 0,
    ) -> None:
        """*machine* has its first record; *first_number* is that of the next event; bodies see the *context*."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._environment = environment
        self._journal = journal
        self.machine = machine
        self.run_id = machine.run_id
        self.codec = codec
        self.context = context
        self.keeps_bytes = environment.keeps_bytes
        self.clock = environment.clock
        self.cancel_grace = environment.cancel_grace
        self.grace = environment.grace
        self.watching = environment.announcer.subscriptions
        self.values = RunValues(machine, codec, environment.resources, hands_on_copies=environment.hands_on_copies)
        self.inbox: Inbox[m.Event | _Note] = Inbox(self._loop)
        # An actor's event always goes through the inbox, also from inside an eager start.
        self.report: Callable[[m.Event], None] = self.inbox.send_nowait
        # This turn's events, and what to do once they are durable.
        self._events: list[m.Event] = []
        self.orders: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._page: list[m.Event] | None = None  # during a sprint, what it puts on record
        self._events_at: float | None = None  # when they happened, if that is not now
        self._number = first_number  # of the next event
        self._riders = Riders(machine, self._loop)
        self.large = LargeValues(machine, self.values, journal)
        self._transactions = Transactions(journal, self.clock, self.large)
        # Pyright takes functions in slots for methods; mypy holds this class against the protocol.
        self._dispatcher = Dispatcher(self, environment.pools)  # pyright: ignore[reportArgumentType]
        # None where somebody has put something between a body and its asyncio task.
        on_loop = environment.executors["loop"]
        self.loop_executor = cast("CoroutineExecutor", on_loop) if hasattr(on_loop, "options") else None
        # What actors call when their body is gone, or left behind.
        self.gone, self.lingers = self._dispatcher.gone, self._dispatcher.lingers
        self.returns = self._dispatcher.returns
        self._alarms = Alarms(self)  # pyright: ignore[reportArgumentType]
        self._narrator: Narrator | None = None  # made when there is somebody to be told
        self.is_over = False
        """Whether nothing more happens here: the run has ended, stands still, or had to stop where it was."""
        self._rest_at = 0.0  # when the loop is to have its turn, by its own clock
        self.stepper: Stepper | None = None
        """What holds this run up before each turn, if somebody takes it step by step."""
        self._grace_until: float | None = None  # when what runs is stopped, once a suspend was asked for
        self._keeper: asyncio.Task[Any] | None = None  # the asyncio task in which this run lives
        self._interruption: BaseException | None = None
        # Tasks whose future someone holds, woken at the run's every record.
        self.on_record: list[Callable[[Sequence[m.Event]], None]] = []
        self.on_over: list[Callable[[], None]] = []

    # --- What others call ---------------------------------------------------------------------------------------------

    def left_behind(self) -> list[str]:
        """Return the paths of tasks whose bodies are still there although nothing more happens here."""
        return self._dispatcher.left_behind() if self.is_over else []

    def cancel(self, reason: str) -> None:
        """Have the run undone. Ignored once it is being undone or has ended. From any thread."""
        if not self._is_handed_over(lambda: self.cancel(reason)):
            self.inbox.send_nowait(m.CancelRequested(str(reason)))

    def suspend(self, reason: str, *, grace: float | None = None, recover: bool = False) -> None:
        """
        Have the run stand still: what runs gets *grace* seconds to end by itself, is stopped then, and is lost.

        From any thread.
        """
        if self._is_handed_over(lambda: self.suspend(reason, grace=grace, recover=recover)):
            return
        if grace is not None:
            self.grace = grace
            if self.machine.suspend_reason is not None:
                self.note(self._set_grace)
        self.inbox.send_nowait(m.SuspendRequested(str(reason), recover))
        if self.stepper is not None:
            self.stepper.set_free()  # nobody may ask any more, and the bodies have a grace only

    async def load(self, tasks: list[int]) -> None:
        """Bring the values of *tasks* into memory; most are there."""
        await self.large.load(tasks)

    def follow(self) -> AsyncIterator[Happening]:
        """Yield what happens in this run from now on, each event once it is durable, until it is over."""
        return follow(self._environment.announcer, self.run_id, lambda: self.is_over, self.on_over)

    def _is_handed_over(self, act: Callable[[], None]) -> bool:
        """Have *act* called on the loop if this is another thread, and return whether it is."""
        if threading.get_ident() == self._thread:
            return False
        # A loop that has closed is told nothing: this is a body that was left behind.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(act)
        return True

    # --- What actors call (their Home) --------------------------------------------------------------------------------

    def tell(self, event: m.Event) -> None:
        """Take what a body tells: observers hear it at once, the journal with its next record. From any thread."""
        if self._is_handed_over(lambda: self.tell(event)):
            return
        if self.is_over:
            return  # by a body that was left behind
        if self._riders.add(event, self._page) and self.watching:
            self._environment.announcer.publish(self._narrate().aside(self.clock.now(), event))

    def commit(self, make: MakeEvent, settle: Settle) -> None:
        """Have *make* called in the commit that records the event which it returns; *settle* is told what undid it."""
        self._transactions.add(make, settle)
        self.inbox.wake()

    def executor(self, name: str) -> Executor:
        """Return the executor of that name."""
        return self._environment.executors[name]

    def deadline_of(self, task: int) -> float | None:
        """Return the nearest deadline around *task*."""
        return self.machine.deadline_of(task)

    def is_going_down(self) -> bool:
        """Tell whether the loop is ending: nobody else cancels a supervisor, and a loop cancels all at once."""
        return self._keeper is not None and self._keeper.cancelling() > 0

    def interrupted(self, error: BaseException) -> None:
        """Suspend the run; *error* goes on from here once that is recorded."""
        self._interruption = error
        self.suspend(f"{type(error).__name__} in a task", recover=True)

    # --- The life of a run --------------------------------------------------------------------------------------------

    def began(self, record: m.Record) -> None:
        """Take note of the record by which the run came to be, which is durable already."""
        self._appended(record.at, record.events, 0)

    def rest(self) -> None:
        """Take the run as it is, to be read: it has ended, and nothing more happens in it."""
        try:
            self.values.load_inputs()
        finally:
            self._finish()

    async def live(self, first: list[m.Event]) -> None:
        """
        Take the *first* events, then bring the run to its end, or until it stands still.

        Raises:
            RunOvertaken: Another engine took it over. Nothing more was written.
            StoreError: The journal could not be written. The run is resumable once that is mended.
            KeyboardInterrupt, SystemExit: A body raised it; the run is suspended.
        """
        self._keeper = asyncio.current_task()
        if first:
            self.machine.tally.was_away(self.clock.now())
        try:
            for event in first:
                self.take(event)
            self.values.load_inputs()
            if self.machine.deadline is not None or self.machine.scope_deadlines:
                self.watch_deadlines()
            await self._turns()
        except asyncio.CancelledError:
            await self._go_down()
            raise
        finally:
            self._finish()
            if not self.machine.state.is_ended or self._dispatcher.is_asking:
                # Whatever is still running is running for nothing: the run was overtaken, or its journal broke.
                await self._dispatcher.bodies_gone(self.cancel_grace)
        if self._interruption is not None:
            raise self._interruption

    async def _turns(self) -> None:
        loop, inbox, orders = self._loop, self.inbox, self.orders
        in_line, released = self._transactions.waiting, self._dispatcher.released
        self._rest_at = loop.time() + SECONDS_A_TURN
        while True:
            if self.stepper is not None:
                await self._step(self.stepper)
            has_more = self._turn()
            if self._events and (durable := self._append()) is not None:
                await durable
            count = 0
            while count < len(orders):
                order, args = orders[count]
                order(*args)
                count += 1
                if not count % STARTS_BETWEEN_LOOKS and loop.time() > self._rest_at:
                    del orders[:count]
                    count = 0
                    await asyncio.sleep(0)
                    self._rest_at = loop.time() + SECONDS_A_TURN
            orders.clear()
            if self.is_over:
                return
            if in_line:
                await self._commit()
            elif not has_more and not inbox and not released:
                await inbox.wait()
                self._rest_at = loop.time() + SECONDS_A_TURN
            elif loop.time() > self._rest_at:
                await asyncio.sleep(0)
                self._rest_at = loop.time() + SECONDS_A_TURN

    async def _step(self, stepper: Stepper) -> None:
        """Put what has happened so far on record, and wait until somebody asks for what is due."""
        is_new = True
        while is_new and not self.is_over:
            self._drain()
            if self._events and (durable := self._append()) is not None:
                await durable
            # What came in while nobody asked, such as a cancel, may have changed what is due.
            is_new = await stepper.pause(self.machine.outlook()) and bool(self.inbox)

    async def _go_down(self) -> None:
        """
        Stop the bodies and record that; further cancels are the same news again, and this gives way to the second.
        """
        self.grace = 0.0
        if self.stepper is not None:
            self.stepper.set_free()
        try:
            if self._transactions:
                await self._commit()  # what is on its way comes before all else that is recorded
            if self.machine.suspend_reason is None:
                # Before all that is in the inbox: bodies that the loop itself has cancelled are not to be started
                # again.
                self._take_in(m.SuspendRequested("the event loop is closing", recover=True))
            else:
                self._dispatcher.stop_bodies()
            await self._turns()
        except asyncio.CancelledError:
            log.warning("run %r was torn down before its suspension was recorded; it is resumable", self.run_id)

    def _turn(self) -> bool:
        """Take what the inbox holds and what is due. Return whether more is due than fits into one turn."""
        machine, dispatcher = self.machine, self._dispatcher
        if not (machine.line and machine.is_calm):  # what is in hand comes before what has come in
            self._drain()
        if machine.is_calm and self.stepper is None and not dispatcher.has_limits and machine.is_busy():
            if self.loop_executor is not None and self._may_go_ahead():
                self._sprint(self.loop_executor)
            else:
                dispatcher.begin(machine.starts(EVENTS_A_TURN))
            if machine.is_calm and machine.is_busy():  # else it has come to its end, or an input could not be read
                return machine.has_starts()
        while commands := machine.due(EVENTS_A_TURN):
            dispatcher.answer(commands)
            if machine.phase.is_ended:
                return False
            if len(self._events) >= EVENTS_A_TURN:
                break
            if self.stepper is not None and machine.is_asking:
                break  # a step of its own, so that whoever steps may leave before
        dispatcher.serve()
        return bool(commands)

    def _may_go_ahead(self) -> bool:
        """Whether bodies may be called before their turn is over, where nobody would hear them before their start."""
        return not self.watching and (self._journal.grows or self._journal.lags)

    def _sprint(self, loop: CoroutineExecutor) -> None:
        """
        Perform some of what is ready in one go. What happens is one record: in memory it grows while it happens, where
        the journal lags it follows.
        """
        if not self.machine.has_starts():
            return
        page, at = self._events, self.clock.now()
        until = min(self._rest_at, loop.now() + MOST_SECONDS)
        if self._journal.grows:
            page.extend(self._riders.take())
            self._journal.append(m.Record(at, page), {}, self.machine.state)
        else:
            self._events_at = at
        self._page = page
        actors = self._dispatcher.actors
        unread = sprint(self, actors, loop, page, until)  # pyright: ignore[reportArgumentType]
        self._page = None
        if self._journal.grows:
            self._events = []
            self._number += len(page)
            for callback in self.on_record:
                callback(page)
            self.machine.mark(at)
        if unread is not None:
            self._dispatcher.give_up_reading(*unread)

    def _drain(self) -> None:
        machine = self.machine
        for message in self.inbox.take(EVENTS_A_TURN):
            if type(message) is m.AttemptSucceeded:
                machine.apply(message)
                self._events.append(message)
            elif isinstance(message, _Note):
                message.act()
            else:
                self._take_in(message)

    def _take_in(self, event: m.Event) -> None:
        if self._is_timely(event):
            self.take(event)
            if type(event) is m.SuspendRequested:
                self._set_grace()

    def _set_grace(self) -> None:
        """Have bodies stopped when the grace is over, unless an earlier suspend stops them before that."""
        until = self.clock.now() + self.grace
        self._grace_until = until if self._grace_until is None else min(self._grace_until, until)
        self.later("grace", self._grace_until, self._dispatcher.stop_bodies)

    # --- What the dispatcher calls (its Desk) -------------------------------------------------------------------------

    def take(self, event: m.Event) -> None:
        """Apply *event* and put it on this turn's record."""
        self.machine.apply(event)
        self._events.append(event)

    def order(self, act: Callable[..., None], *args: Any) -> None:
        """Call *act* once this turn's events are durable."""
        self.orders.append((act, args))

    def note(self, act: Callable[[], None]) -> None:
        """Call *act* in the next turn."""
        self.inbox.send_nowait(_Note(act))

    def wake(self) -> None:
        """Have another turn soon, whatever the inbox holds."""
        self.inbox.wake()

    def later(self, key: object, when: float, act: Callable[[], None]) -> None:
        """Call *act* in a turn at *when*, POSIX seconds. One timer a key: a later one takes its place."""
        self._alarms.later(key, when, act)

    def watch_deadlines(self) -> None:
        """Set timers for deadlines that have none."""
        self._alarms.watch_deadlines()

    async def _commit(self) -> None:
        """Take what the journal recorded of transactions, each with what its function wrote."""
        for written, settle in await self._transactions.commit():
            if isinstance(written, Failure):
                settle(written.exception)
                continue
            for event in written.events:
                self.machine.apply(event)
            self._appended(written.at, written.events, 0)
            settle(None)

    def _is_timely(self, event: m.Event) -> bool:
        # Requests come from outside and may be late; what an actor reports never is.
        phase = self.machine.phase
        if type(event) is m.CancelRequested:
            return self.machine.heeds_cancel
        if type(event) is m.SuspendRequested:
            return not phase.is_ended and self.machine.suspend_reason is None
        if type(event) is m.ControllerAnswered:
            return self.machine.expects_answer(event.scope)
        return True

    def _append(self) -> Coroutine[Any, Any, None] | None:
        """Put this turn's events on record; return what waits until that is durable, or None where it is already."""
        events, self._events = self._events, []
        riders = self._riders.take() if self._riders.waiting else ()
        whole = [*events, *riders] if riders else events
        blobs = self.large.blobs_of(whole) if self.keeps_bytes else {}
        at, self._events_at = self._events_at or self.clock.now(), None
        # Append first: a crash may lose a command, never the event behind it.
        written = self._journal.append(m.Record(at, whole), blobs, self.machine.state)
        if written is not None:
            return self._durable(written, at, events, len(riders))
        self._appended(at, events, len(riders), is_durable=bool(blobs) or not self._journal.lags)
        return None

    async def _durable(self, written: Awaitable[None], at: float, events: list[m.Event], riders: int) -> None:
        gives_way = isinstance(written, asyncio.Future) and not written.done()
        try:
            await written
        except asyncio.CancelledError:
            # The loop is going down; the record is on its way all the same, and every later one is behind it.
            self._appended(at, events, riders, is_durable=False)
            raise
        if gives_way:
            self._rest_at = self._loop.time() + SECONDS_A_TURN
        self._appended(at, events, riders)

    def _appended(self, at: float, events: Sequence[m.Event], riders: int, *, is_durable: bool = True) -> None:
        self._tell(at, events)
        self._number += riders  # observers have heard of those
        if self.keeps_bytes:
            # After those who watch have seen what a failing task had read.
            self.large.let_go(events, is_durable=is_durable)
        state = self.machine.mark(at)
        self.is_over = state.is_ended or state is RunState.SUSPENDED

    def _tell(self, at: float, events: Sequence[m.Event]) -> None:
        """Tell those who watch, and those who wait for one task, of *events*, which are on record."""
        if self.watching or self.stepper is not None:
            happened = self._narrate().tell(at, events, self._number)
            if self.stepper is not None:
                self.stepper.take([happening for happening in happened if happening.number >= 0])
            self._environment.announcer.publish(happened)
        self._number += len(events)
        for callback in self.on_record:
            callback(events)

    def _narrate(self) -> Narrator:
        if self._narrator is None:
            self._narrator = Narrator(self.run_id, self.machine, self.values)
        return self._narrator

    def _finish(self) -> None:
        self.is_over = True
        self._alarms.close()
        self._dispatcher.close()
        self.inbox.close()
        for callback in self.on_over:
            callback()

    def __repr__(self) -> str:
        state, actors, messages = self.machine.state.value, len(self._dispatcher.actors), len(self.inbox)
        return f"<Supervisor of run {self.run_id!r}: {state}, {actors} actors, {messages} messages>"
