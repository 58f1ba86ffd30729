"""One task's life: commands in, one body at a time, each ending told to the supervisor."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from contextvars import Context as ContextVars
from typing import Any, Protocol

from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.context import Context, Transaction, running
from asyncflow.errors import (
    AttemptAbandoned,
    MissingElement,
    StrayCancellation,
    TaskTimedOut,
    TransactionMisuse,
    UnkeepableValue,
)
from asyncflow.graph.task import Task
from asyncflow.ids import idempotency_key
from asyncflow.interfaces import Call, Clock, Executor, Timer, Work
from asyncflow.machine.calm import UNDER_WAY
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Cancelled, Failure, Sealed, Success, TimedOut
from asyncflow.runtime.permits import Claim
from asyncflow.runtime.transactions import look_for_misuse

log = logging.getLogger("asyncflow.run")

_NEVER_RETRIED = (MissingElement, UnkeepableValue, TransactionMisuse)
"""What another attempt would end in as well."""


class Home(Protocol):
    """What an actor needs of the supervisor that it belongs to."""

    run_id: str
    machine: RunMachine
    context: ContextVars
    clock: Clock
    codec: Codec
    keeps_bytes: bool
    cancel_grace: float

    def report(self, event: m.Event, /) -> None:
        """Take an event; from the loop only."""
        ...

    def tell(self, event: m.Event) -> None:
        """Take an event that rides on the next record and never causes one; from any thread."""
        ...

    def commit(
        self, make: Callable[[sqlite3.Connection], m.Event], settle: Callable[[BaseException | None], None]
    ) -> None:
        """Have *make* called in the commit that records the event which it returns; *settle* is told what undid it."""
        ...

    def gone(self, actor: Actor) -> None:
        """Take note that *actor* has nothing more to do and its permits are free."""
        ...

    def lingers(self, actor: Actor) -> None:
        """Take note that *actor* left its body behind, still running."""
        ...

    def returns(self, actor: Actor) -> None:
        """Take note that the body which *actor* left behind is gone, and another takes its place."""
        ...

    def executor(self, name: str, /) -> Executor:
        """Return the executor of that name."""
        ...

    def deadline_of(self, task: int) -> float | None:
        """Return the nearest deadline around *task*."""
        ...

    def is_going_down(self) -> bool:
        """Tell whether the loop is ending, which cancels every asyncio task, a body's as well."""
        ...

    def interrupted(self, error: BaseException) -> None:
        """A body raised KeyboardInterrupt or SystemExit: suspend the run, then let *error* go on."""
        ...


class Actor:
    """
    Performs one task: its attempts, its reconcile hook, its revert.

    A command that arrives while an earlier body is still there (one that was abandoned) waits in the inbox until that
    is gone. An actor exists from the first command until its last body has ended; a task that has not started, or has
    ended, has none.
    """

    # What most actors never have is the class's.
    recovered = False
    is_undoing = False
    execution = 1
    claim: Claim | None = None
    work: Work | None = None  # the body on its way
    answer: Any = UNDER_WAY  # the value of a body that never waited
    _order: str | None = None  # the first order to stop: "cancel", "timeout" or "suspend"
    _handle: Callable[[Any, BaseException | None], None] | None = None  # what an ending means
    _is_lingering = False
    transaction: Transaction | None = None  # the one that the body made, to be returned by it
    # While the journal commits that: what an ending means if it is taken back.
    _settling: Callable[[Any, BaseException | None], None] | None = None
    # Few: a Start or a Revert, behind a body that was abandoned.
    _inbox: deque[Callable[[], None]] | None = None
    _own_deadline: float | None = None
    _limit: Timer | None = None
    _grace: Timer | None = None

    def __init__(self, home: Home, task: int, declared: Task, attempt: int = 0) -> None:
        self.home = home
        self.task = task
        self.declared = declared
        self.attempt = attempt

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.home.run_id

    @property
    def path(self) -> str:
        """The task's path."""
        return self.home.machine.plan.path(self.task)

    @property
    def idempotency_key(self) -> str:
        """The key of this execution, or of its revert."""
        return idempotency_key(self.run_id, self.path, self.execution, reverting=self.is_undoing)

    @property
    def deadline(self) -> float | None:
        """The nearest of the attempt's own limit and all around it; a revert has its own alone."""
        around, own = None if self.is_undoing else self.home.deadline_of(self.task), self._own_deadline
        if around is None or own is None:
            return own if around is None else around
        return min(around, own)

    @property
    def is_cancelling(self) -> bool:
        """Whether an order to stop has been given."""
        return self._order is not None

    @property
    def is_idle(self) -> bool:
        """Whether no body of it is on its way, and none was left behind."""
        return self.work is None and not self._is_lingering

    def progress(self, fraction: float, message: str) -> None:
        """Pass progress on to observers."""
        self.home.tell(m.Progressed(self.task, fraction, message))

    def emit(self, name: str, data: dict[str, Any]) -> None:
        """Pass something on to observers."""
        self.home.tell(m.Emitted(self.task, name, self.home.codec.seal(data) if self.home.keeps_bytes else data))

    def transact(self, transaction: Transaction) -> None:
        """Keep *transaction*, which the body is to return; from any thread."""
        if self.transaction is not None:
            raise TransactionMisuse(
                f"task {self.path!r} makes a second transaction in one attempt, and only what it returns is committed; "
                "do both in one function"
            )
        self.transaction = transaction

    # --- Commands -----------------------------------------------------------------------------------------------------

    def start(self, attempt: int, args: list[Any], kwargs: Mapping[str, Any], recovered: bool) -> None:
        """Call the body."""
        if self._is_lingering:
            self._hold(lambda: self.start(attempt, args, kwargs, recovered))
            return
        declared = self.declared
        self.attempt, self.recovered, self._order = attempt, recovered, None
        if declared.timeout is not None:
            self._limit_to(declared.timeout)
        self._call(declared.body, declared.executor, args, kwargs, declared.wants_context, self._attempt_ended)

    def reconcile(self, attempt: int, kwargs: Mapping[str, Any]) -> None:
        """Ask the hook how a lost attempt ended: its Outcome, or None if the attempt is to be made again."""
        declared = self.declared
        assert declared.reconciler is not None
        self.attempt, self.recovered, self._order = attempt, True, None
        wants_context = declared.reconciler_wants.context
        self._call(declared.reconciler, declared.reconciler_executor, [], kwargs, wants_context, self._reconciled)

    def revert(self, attempt: int, kwargs: Mapping[str, Any]) -> None:
        """Undo the task. No cancel reaches a revert, only its own timeout."""
        declared, home = self.declared, self.home
        if self._is_lingering:
            # Left alone for as long as a revert may take; a body that is still there then is never undone.
            self._limit = home.clock.call_later(declared.revert_timeout, self._never_gone)
            self._hold(lambda: self.revert(attempt, kwargs))
            return
        self._cancel_timers()
        self.attempt, self.is_undoing, self._order = attempt, True, None
        if declared.undo is None:
            home.report(m.RevertSucceeded(self.task, home.codec.seal(None) if home.keeps_bytes else None))
            home.gone(self)
            return
        self._limit_to(declared.revert_timeout)
        self._call(declared.undo, declared.undo_executor, [], kwargs, declared.undo_wants.context, self._revert_ended)

    def cancel(self, cause: str) -> None:
        """Tell the body to stop. The first cause stands; a body that is gone, or a revert, takes no notice."""
        if self._inbox:
            # What is next has not begun: it waits for a body that was left behind, and is stopped before it does.
            self._inbox = None
            self._cancel_timers()
            self._order = cause
            self._gave_way(abandoned=False)
            return
        work = self.work
        if work is None or self._order is not None or (self.is_undoing and cause != "suspend"):
            return
        self._order = cause
        self._stop(work, is_patient=cause == "cancel")

    # --- The body -----------------------------------------------------------------------------------------------------

    def _call(
        self,
        fn: Callable[..., Any],
        executor: str,
        args: list[Any],
        kwargs: Mapping[str, Any],
        wants_context: bool,
        handle: Callable[[Any, BaseException | None], None],
    ) -> None:
        home = self.home
        context = home.context.copy()
        context.run(running.set, self)
        if wants_context:
            args.insert(0, Context(self))
        self._handle, self.transaction = handle, None
        try:
            work = home.executor(executor).submit(Call(fn, args, kwargs, context, self.path), self._ended)
        except Exception as error:
            self._ended(None, error)
            return
        # An eager body may have ended by now.
        if self._handle is not None:
            self.work = work

    def is_transacting(self, value: Any) -> bool:
        """Whether a body that returned *value* has made a transaction, or returned one."""
        return self.transaction is not None or type(value) is Transaction

    def attempt_ended(self, value: Any, error: BaseException | None) -> None:
        """Report how a body has ended that somebody else has called, see ``sprint``."""
        self._handle = self._attempt_ended
        self._ended(value, error)

    def _ended(self, value: Any, error: BaseException | None) -> None:
        """A body has ended, perhaps one that was given up on long ago."""
        self.work = None
        if self._limit is not None or self._grace is not None:
            self._cancel_timers()
        handle, self._handle = self._handle, None
        if self._is_lingering:
            self._is_lingering = False
            log.warning("task %r of run %r is gone at last; what it gave is discarded", self.path, self.run_id)
        elif handle is not None:
            handle(value, error)
        if self._inbox:
            self.home.returns(self)
            self._inbox.popleft()()
        elif self.work is None and not self._is_lingering and self._settling is None:
            self.home.gone(self)

    def _attempt_ended(self, value: Any, error: BaseException | None) -> None:
        if error is None:
            if (
                self.home.keeps_bytes
                or self.declared.promises
                or self.transaction is not None
                or (type(value) is Transaction)
            ):
                self._succeed(value, self._attempt_ended)
            else:
                self.home.report(m.AttemptSucceeded(self.task, value))
        elif isinstance(error, asyncio.CancelledError) and (self._order is not None or self.home.is_going_down()):
            self._gave_way(abandoned=False)
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            self.home.report(m.AttemptLost(self.task, "suspend"))
            self.home.interrupted(error)
        else:
            self._fail(error)

    def _succeed(self, value: Any, handle: Callable[[Any, BaseException | None], None]) -> None:
        if self.is_transacting(value):
            self._commit(value, self.success, handle)
            return
        try:
            success = self.success(value)
        except (MissingElement, UnkeepableValue) as error:
            self._fail(error)
        else:
            self.home.report(success)

    def success(self, value: Any) -> m.AttemptSucceeded:
        """Return the event that keeps *value*, or raise MissingElement or UnkeepableValue; from any thread."""
        declared, home = self.declared, self.home
        if declared.promises and (missing := declared.missing_element(value)) is not None:
            found = f"{type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else type(value).__name__
            raise MissingElement(
                f"task {self.path!r} promised to provide {missing!r} and returned a {found} without it"
            )
        if home.keeps_bytes:
            try:
                value = home.codec.seal(value) if declared.checkpoint else Sealed(value=value)
            except UnkeepableValue as error:
                text = f"task {self.path!r} returned what the journal cannot keep: {error}"
                raise UnkeepableValue(text, type_name=error.type_name, place=error.place) from error
        return m.AttemptSucceeded(self.task, value)

    def _fail(self, error: BaseException, *, retriable: bool | None = None) -> None:
        if isinstance(error, asyncio.CancelledError):
            stray = StrayCancellation(f"the body of task {self.path!r} was cancelled, but not by its run")
            stray.__cause__ = error
            error = stray
        if retriable is None:
            retry = self.declared.retry
            retriable = retry is not None and not isinstance(error, _NEVER_RETRIED) and retry.matches(error)
        self.home.report(m.AttemptFailed(self.task, Failure(error), retriable))

    def _gave_way(self, *, abandoned: bool) -> None:
        if self._order == "timeout":
            retry = self.declared.retry
            retriable = retry is not None and retry.matches(TaskTimedOut("timed out"))
            self.home.report(m.AttemptTimedOut(self.task, retriable, abandoned))
        elif self._order == "cancel":
            self.home.report(m.AttemptCancelled(self.task, abandoned))
        else:
            self.home.report(m.AttemptLost(self.task, "suspend"))

    def _reconciled(self, value: Any, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            # Whether the lost attempt had its effect is still not known, so there must not be another.
            self._fail(error, retriable=False)
        elif error is not None:
            self._attempt_ended(None, error)
        elif value is None:
            self.home.report(m.AttemptLost(self.task, "reconciled"))
        elif isinstance(value, Failure):
            self._fail(value.exception)
        elif isinstance(value, (Cancelled, TimedOut)):
            self.home.report(m.AttemptTimedOut(self.task, False))
        elif isinstance(value, Success):
            self._succeed(value.value, self._reconciled)
        else:
            text = (
                f"the reconcile hook of task {self.path!r} returned a {type(value).__name__}, which is no outcome; "
                "return Success(value) or Failure(error), or None to have the attempt made again"
            )
            self._fail(TypeError(text), retriable=False)

    def _revert_ended(self, value: Any, error: BaseException | None) -> None:
        home, declared = self.home, self.declared
        if error is None:
            if self.is_transacting(value):
                self._commit(value, self._undone, self._revert_ended)
            else:
                home.report(self._undone(value))
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            home.report(m.AttemptLost(self.task, "suspend"))
            home.interrupted(error)
        elif isinstance(error, asyncio.CancelledError) and (self._order == "suspend" or home.is_going_down()):
            home.report(m.AttemptLost(self.task, "suspend"))
        else:
            if isinstance(error, asyncio.CancelledError):
                if self._order == "timeout":
                    error = TaskTimedOut(
                        f"the revert of task {self.path!r} took longer than {declared.revert_timeout} s"
                    )
                else:
                    stray = StrayCancellation(f"the revert of task {self.path!r} was cancelled, but not by its run")
                    stray.__cause__ = error
                    error = stray
            retry = declared.revert_retry
            retriable = retry is not None and not isinstance(error, _NEVER_RETRIED) and retry.matches(error)
            home.report(m.RevertFailed(self.task, Failure(error), retriable))

    def _undone(self, value: Any) -> m.RevertSucceeded:
        """Return the event that keeps what a revert returned, as far as it can be kept; from any thread."""
        home = self.home
        if home.keeps_bytes:
            try:
                value = home.codec.seal(value)
            except UnkeepableValue as unkeepable:
                log.warning("what the revert of task %r returned is not kept: %s", self.path, unkeepable)
                value = home.codec.seal(None)
        return m.RevertSucceeded(self.task, value)

    # --- Transactions -------------------------------------------------------------------------------------------------

    def _commit(
        self, value: Any, event_of: Callable[[Any], m.Event], handle: Callable[[Any, BaseException | None], None]
    ) -> None:
        """Have the transaction that the body returned committed with its ending; the permits are kept until it is."""
        transaction = self.transaction
        misuse = look_for_misuse(self.path, self.declared, value, transaction, is_undoing=self.is_undoing)
        if misuse is not None:
            handle(None, misuse)
            return
        assert transaction is not None
        self._settling = handle
        self.home.commit(lambda connection: event_of(transaction(connection)), self._settle)

    def _settle(self, error: BaseException | None) -> None:
        """Take note that the transaction has been committed, or that *error* has undone it."""
        handle, self._settling = self._settling, None
        if error is not None:
            assert handle is not None
            handle(None, error)
        self.home.gone(self)

    # --- Time ---------------------------------------------------------------------------------------------------------

    def _limit_to(self, seconds: float) -> None:
        clock = self.home.clock
        self._own_deadline = clock.now() + seconds
        self._limit = clock.call_later(seconds, self._limit_passed)

    def _limit_passed(self) -> None:
        self._limit = None
        if self._order is not None:
            return  # the first order stands
        if self.is_undoing:
            self._stop_revert()
        else:
            # The machine answers with a Cancel: the order is journaled before it reaches the body.
            self.home.report(m.TimeLimitPassed(self.task))

    def _stop_revert(self) -> None:
        assert self.work is not None
        self._order = "timeout"
        self._stop(self.work)

    def _stop(self, work: Work, *, is_patient: bool = False) -> None:
        """
        Tell a body to give way, and leave it behind when its grace is over; at once if nothing reaches it, as in a
        thread, which has had its time. One who *is_patient* gives it its grace all the same.
        """
        is_told = work.cancel()
        if self.work is not work:
            return  # that was its end already
        if is_told or is_patient:
            self._grace = self.home.clock.call_later(self.home.cancel_grace, self._abandon)
        else:
            self._abandon()

    def _abandon(self) -> None:
        """Record the ending and go on without the body, which is still there and keeps its permits."""
        # Also what is left of its time limit: from here on, that timer is another's.
        self._cancel_timers()
        self._is_lingering = True
        log.warning("task %r of run %r goes on after it was told to stop; it is left behind", self.path, self.run_id)
        if not self.is_undoing:
            self._gave_way(abandoned=True)
        elif self._order == "suspend":
            self.home.report(m.AttemptLost(self.task, "suspend"))
        else:
            text = f"the revert of task {self.path!r} went on after its {self.declared.revert_timeout} s were over"
            self.home.report(m.RevertFailed(self.task, Failure(AttemptAbandoned(text)), False))
        self.home.lingers(self)

    def _never_gone(self) -> None:
        text = f"task {self.path!r} was told to stop and is still running, so it cannot be undone"
        self._inbox = None
        self.home.report(m.RevertFailed(self.task, Failure(AttemptAbandoned(text)), False))

    def _hold(self, command: Callable[[], None]) -> None:
        if self._inbox is None:
            self._inbox = deque()
        self._inbox.append(command)

    def _cancel_timers(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def __repr__(self) -> str:
        doing = "lingering" if self._is_lingering else "reverting" if self.is_undoing else "running"
        return f"<Actor {self.path!r} of run {self.run_id!r}: {doing}, attempt {self.attempt}>"
