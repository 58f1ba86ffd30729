"""Tasks made of a function of one or two values: ``map_task`` and ``reduce_task``."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, Unpack

from asyncflow.errors import DeclarationError
from asyncflow.graph.options import TaskOptions, is_async
from asyncflow.graph.task import FunctionTask, Task


def map_task(fn: Callable[[Any], Any], **options: Unpack[TaskOptions]) -> FunctionTask[..., list[Any]]:
    """
    Return a task that applies *fn* to each of its inputs and gives the results as a list, in the order of *requires*.

    Args:
        fn: A function of one value. An ``async def`` is called for all of them at once, a ``def`` for one after the
            other, in one thread.
        options: See :class:`TaskOptions`; ``requires`` has the names of the inputs.

    Raises:
        DeclarationError: *requires* is no list of names, or *fn* is no function.
    """
    _check(fn, "af.map_task")
    if is_async(fn):

        async def apply(*values: Any) -> list[Any]:
            try:
                async with asyncio.TaskGroup() as group:
                    doing = [group.create_task(fn(value)) for value in values]
            except BaseExceptionGroup as failed:
                first, *more = failed.exceptions
                if more:
                    raise
                raise first from None
            return [one.result() for one in doing]

        return _family(apply, fn, "af.map_task", options)

    def apply_in_turn(*values: Any) -> list[Any]:
        return [_plain(fn(value), fn) for value in values]

    return _family(apply_in_turn, fn, "af.map_task", options)


def reduce_task(fn: Callable[[Any, Any], Any], **options: Unpack[TaskOptions]) -> FunctionTask[..., Any]:
    """
    Return a task that combines its inputs by *fn*, two at a time, in the order of *requires*: ``fn(fn(a, b), c)``.

    Args:
        fn: A function, ``def`` or ``async def``, of what has been combined so far and the next value.
        options: See :class:`TaskOptions`; ``requires`` has the names of the inputs, at least one.

    Raises:
        DeclarationError: *requires* is no list of names, or *fn* is no function.
    """
    _check(fn, "af.reduce_task")
    if is_async(fn):

        async def combine(first: Any, *more: Any) -> Any:
            found = first
            for value in more:
                found = await fn(found, value)
            return found

        return _family(combine, fn, "af.reduce_task", options)

    def combine_in_turn(*values: Any) -> Any:
        return _plain(functools.reduce(fn, values), fn)

    return _family(combine_in_turn, fn, "af.reduce_task", options)


def _check(fn: Any, what: str) -> None:
    if not callable(fn) or isinstance(fn, Task) or (isinstance(fn, type) and issubclass(fn, Task)):
        raise DeclarationError(f"{what} was given {fn!r:.80}; give a plain function")


def _plain(value: Any, fn: Any) -> Any:
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise TypeError(f"{fn!r:.80} returned something to await; make it an async def")
    return value


def _family(
    body: Callable[..., Any], fn: Callable[..., Any], what: str, options: TaskOptions
) -> FunctionTask[..., Any]:
    requires: Any = options.pop("requires", ())
    names = (requires,) if isinstance(requires, str) else requires
    if (
        not isinstance(names, (list, tuple))
        or not names
        or not all(isinstance(name, str) and name.isidentifier() for name in names)
        or len(set(names)) < len(names)
    ):
        raise DeclarationError(f"{what} has requires={requires!r:.80}; give the names of its inputs, each once")
    functools.update_wrapper(body, fn)
    del body.__wrapped__  # type: ignore[attr-defined]
    body.__annotations__ = {}
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    body.__signature__ = signature  # type: ignore[attr-defined]
    return FunctionTask(body, **options)
