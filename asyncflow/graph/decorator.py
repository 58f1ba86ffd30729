"""``@af.task``: a task made of a function, and what type checkers are told about it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, Unpack, overload

from asyncflow.context import Context
from asyncflow.errors import DeclarationError
from asyncflow.graph.options import TaskOptions
from asyncflow.graph.task import FunctionTask, Task

P = ParamSpec("P")
R = TypeVar("R")


class _Probe:
    """
    Nothing has this type, and only a first parameter that takes anything takes it: one that is not the context.

    Of such functions a type checker is told what they return, and not what they take, for it cannot be told to tell the
    context from anything.
    """


class Decorator(Protocol):
    """``af.task(...)`` with options, still to be put on a function."""

    @overload
    def __call__(self, fn: Callable[Concatenate[_Probe, P], Coroutine[Any, Any, R]], /) -> FunctionTask[..., R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> FunctionTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, Coroutine[Any, Any, R]], /) -> FunctionTask[P, R]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, fn: Callable[Concatenate[_Probe, P], R], /) -> FunctionTask[..., R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], R], /) -> FunctionTask[P, R]: ...
    @overload
    def __call__(self, fn: Callable[P, R], /) -> FunctionTask[P, R]: ...


@overload
def task(fn: Callable[Concatenate[_Probe, P], Coroutine[Any, Any, R]], /) -> FunctionTask[..., R]: ...
@overload
def task(fn: Callable[Concatenate[Context, P], Coroutine[Any, Any, R]], /) -> FunctionTask[P, R]: ...
@overload
def task(fn: Callable[P, Coroutine[Any, Any, R]], /) -> FunctionTask[P, R]: ...  # type: ignore[overload-overlap]
@overload
def task(fn: Callable[Concatenate[_Probe, P], R], /) -> FunctionTask[..., R]: ...
@overload
def task(fn: Callable[Concatenate[Context, P], R], /) -> FunctionTask[P, R]: ...
@overload
def task(fn: Callable[P, R], /) -> FunctionTask[P, R]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> Decorator: ...


def task(fn: Any = None, /, **options: Unpack[TaskOptions]) -> Any:
    """
    Make a task of a function: ``@af.task``, or ``@af.task(retry=af.Retry(3), timeout=5.0)``.

    An ``async def`` runs on the loop, a ``def`` in a thread. Called in a builder, the task records an edge and gives a
    reference; added to a pattern, it is wired by the names of its parameters.

    Args:
        fn: The function. Its first parameter may be the context, annotated ``af.Context``.
        options: See :class:`TaskOptions`.

    Raises:
        DeclarationError: It is no function, or an option is not what it may be.
    """
    if fn is None:
        return lambda fn: _make(fn, options)
    return _make(fn, options)


def _make(fn: Any, options: TaskOptions) -> FunctionTask[..., Any]:
    if isinstance(fn, Task):
        raise DeclarationError(f"{fn!r} is a task already; use .with_options(...) for a copy that differs")
    if isinstance(fn, type):
        raise DeclarationError(f"@af.task is on class {fn.__qualname__}; make it a subclass of af.Task with execute()")
    if not callable(fn):
        raise DeclarationError(f"af.task was given {fn!r:.80}, which is no function; options go by keyword")
    return FunctionTask(fn, **options)
