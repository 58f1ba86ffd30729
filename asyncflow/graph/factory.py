"""
Functions that make flows and are remembered: a run keeps ``module:function`` and the arguments that rebuild its flow.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

import msgspec

from asyncflow.errors import DeclarationError
from asyncflow.graph.flow import Flow, reference_to
from asyncflow.graph.pattern import as_flow
from asyncflow.graph.task import Task

P = ParamSpec("P")
T = TypeVar("T")

_DEEPEST = 50


class Factory(Generic[P, T]):
    """A function that makes a flow, and lets the flow know how. Made by :func:`factory`."""

    def __init__(self, fn: Callable[P, T]) -> None:
        if inspect.iscoroutinefunction(fn) or not callable(fn) or isinstance(fn, (type, Flow, Task)):
            raise DeclarationError(f"@af.factory is on {fn!r:.80}; put it on a plain function that returns a flow")
        functools.update_wrapper(self, fn)
        self.fn = fn
        self._name = getattr(fn, "__qualname__", "factory")

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Return the flow that the function makes of these arguments.

        Raises:
            DeclarationError: An argument is not plain data that can be written down, or the function returned no flow.
        """
        for name, value in (*enumerate(args, 1), *kwargs.items()):
            _check_plain(value, f"argument {name!r} of factory {self._name!r}")
        made: Any = self.fn(*args, **kwargs)
        try:
            flow = as_flow(made)
        except DeclarationError as error:
            raise DeclarationError(f"factory {self._name!r} returned no flow: {error}") from None
        copied = flow.with_options()
        copied.made_by = (self, msgspec.json.encode([args, kwargs]).decode())
        return cast("T", copied)

    @property
    def ref(self) -> str | None:
        """Where another process finds the function; None where it is no attribute of its module."""
        return reference_to(self, getattr(self.fn, "__module__", None))

    def rebuild(self, arguments: str) -> Flow[..., Any]:
        """
        Return the flow that was made with *arguments*, as a journal has them; none at all if empty.

        Raises:
            DeclarationError: The function does not take them any more, or raises.
        """
        try:
            args, kwargs = msgspec.json.decode(arguments or "[[],{}]", type=tuple[list[Any], dict[str, Any]])
            call = cast("Callable[..., Flow[..., Any]]", self)
            return call(*args, **kwargs)
        except DeclarationError:
            raise
        except Exception as error:
            raise DeclarationError(
                f"factory {self._name!r} cannot make its flow of {arguments or 'no arguments'}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def __repr__(self) -> str:
        return f"<factory {self._name!r}>"


def factory(fn: Callable[P, T]) -> Factory[P, T]:
    """
    Make a function that returns a flow one that runs remember: ``@af.factory``.

    A run of a flow that it made is resumed by ``module:function`` and the arguments, so these must be plain data: None,
    bool, int, float, str, and lists and dicts of such. The function must return the same flow each time.

    Raises:
        DeclarationError: *fn* is no plain function.
    """
    return Factory(fn)


def _check_plain(value: Any, what: str, depth: int = 0) -> None:
    kind = type(value)
    if depth < _DEEPEST:
        if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
            return
        if kind is list:
            for one in value:
                _check_plain(one, what, depth + 1)
            return
        if kind is dict and all(type(key) is str for key in value):
            for one in value.values():
                _check_plain(one, what, depth + 1)
            return
    raise DeclarationError(
        f"{what} has {value!r:.60} in it, a {kind.__name__}; a run has to write it down, so give None, bool, int, "
        "float, str, or lists and dicts of such"
    )
