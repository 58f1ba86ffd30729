"""What a body may know of the run around it, and tell it: :class:`Context`, and :func:`current` to find it."""

from __future__ import annotations

import inspect
import logging
import sqlite3
from collections.abc import Callable, Mapping
from contextvars import Context as ContextVars
from contextvars import ContextVar, copy_context
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

import attrs

from asyncflow.errors import AsyncflowError

log = logging.getLogger("asyncflow.task")

P = ParamSpec("P")
T = TypeVar("T")


@attrs.frozen(eq=False)
class Transaction:
    """What ``ctx.transaction()`` made: a call that the journal makes once the body has returned this."""

    fn: Callable[..., Any]
    args: tuple[Any, ...] = attrs.field(repr=False)
    kwargs: Mapping[str, Any] = attrs.field(repr=False)
    context: ContextVars = attrs.field(repr=False)

    def __call__(self, connection: sqlite3.Connection) -> Any:
        """Make the call, with the contextvars of the body that asked for it."""
        return self.context.run(self.fn, connection, *self.args, **self.kwargs)


class Attempt(Protocol):
    """What stands behind a context: the actor whose body is running."""

    attempt: int
    recovered: bool

    @property
    def run_id(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def idempotency_key(self) -> str: ...

    @property
    def deadline(self) -> float | None: ...

    @property
    def is_cancelling(self) -> bool: ...

    def progress(self, fraction: float, message: str) -> None: ...

    def emit(self, name: str, data: dict[str, Any]) -> None: ...

    def transact(self, transaction: Transaction) -> None: ...


class Context:
    """
    The attempt that is running, as its body sees it.

    A body gets it as its first parameter, annotated ``af.Context``, or from ``af.current()``; it is the same in threads
    and in the asyncio tasks that a body starts.
    """

    __slots__ = ("_attempt",)

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._attempt.run_id

    @property
    def path(self) -> str:
        """The task's path in its flow."""
        return self._attempt.path

    @property
    def attempt(self) -> int:
        """Which try this is, counted from 1."""
        return self._attempt.attempt

    @property
    def recovered(self) -> bool:
        """Whether an earlier attempt at this execution was lost, so that it may have had its effect."""
        return self._attempt.recovered

    @property
    def idempotency_key(self) -> str:
        """The same over all attempts, crashes and resumes of this execution; a revert has one of its own."""
        return self._attempt.idempotency_key

    @property
    def deadline(self) -> float | None:
        """When the time for this attempt is over, POSIX seconds: the nearest of all limits around it, or None."""
        return self._attempt.deadline

    @property
    def is_cancelling(self) -> bool:
        """Whether the attempt has been told to stop. A body in a thread looks here, since nothing can interrupt it."""
        return self._attempt.is_cancelling

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A standard logger that adds ``run`` and ``path`` to each line's fields."""
        return logging.LoggerAdapter(log, {"run": self.run_id, "path": self.path})

    def progress(self, fraction: float, message: str = "") -> None:
        """
        Tell how far this attempt is, from 0.0 to 1.0. Observers hear of it at most once a second a task.

        Raises:
            ValueError: *fraction* is not between 0 and 1.
        """
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"progress of task {self.path!r} must be from 0.0 to 1.0, not {fraction!r}")
        self._attempt.progress(float(fraction), str(message))

    def emit(self, name: str, /, **data: Any) -> None:
        """
        Tell observers something. It is journaled with the next record and never causes one.

        Raises:
            TypeError: *name* is no string.
        """
        if type(name) is not str:
            raise TypeError(f"what task {self.path!r} emits is named {name!r:.80}; give a string")
        self._attempt.emit(name, data)

    def transaction(
        self, fn: Callable[Concatenate[sqlite3.Connection, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """
        Have *fn* write to the journal's own database file exactly once: ``return ctx.transaction(fn, 7)``.

        Once the body has returned what this returns, ``fn(connection, *args, **kwargs)`` is called in the very commit
        that records the task's ending, and what it returns is the task's value. Both last, or neither does: after a
        crash the task has ended and *fn* has had its effect, or the task runs again and *fn* has had none. The same
        holds for a revert, which may return a transaction too.

        *fn* is a plain function, called in the writer's thread, which writes for nobody else meanwhile: let it be
        quick, and wait for nothing but its *connection* (a :class:`sqlite3.Connection`). It may be called again after
        what it wrote was taken back, so all that it does must be on that connection, which it may use for tables of its
        own (make them there, or beforehand with any connection to the file), but not to commit, roll back or attach,
        nor to set on it what would outlast the transaction, such as functions, collations, limits and handlers. A
        savepoint inside is fine; foreign keys are not enforced. What it raises undoes what it wrote, and fails the
        attempt like an exception of the body; a cancel or a time limit does not reach it.

        An engine without a file has a database in memory for this, which ends with it; *fn* is called on the loop then.

        Raises:
            TransactionMisuse: The attempt has made one already.
            TypeError: *fn* cannot be called, or is async.
        """
        if not callable(fn) or inspect.iscoroutinefunction(fn):
            what = "is async" if callable(fn) else "cannot be called"
            raise TypeError(f"the transaction of task {self.path!r} is given {fn!r:.80}, which {what}; give a function")
        transaction = Transaction(fn, args, kwargs, copy_context())
        self._attempt.transact(transaction)
        return cast("T", transaction)

    def __repr__(self) -> str:
        return f"<Context {self.path!r} of run {self.run_id!r}, attempt {self.attempt}>"


# Set in each attempt's own copy of the context, so a body, its threads and its asyncio tasks all see it.
running: ContextVar[Attempt] = ContextVar("asyncflow.running")


def current() -> Context:
    """
    Return the context of the task whose body is running here.

    Raises:
        AsyncflowError: None is: this is called outside any task.
    """
    attempt = running.get(None)
    if attempt is None:
        raise AsyncflowError("no task is running here; call af.current() from the body of a task")
    return Context(attempt)
