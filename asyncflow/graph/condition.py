"""A condition: a plain function, or a string, of the values that it names, which says whether something runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from asyncflow.errors import DeclarationError
from asyncflow.graph.expression import Expression
from asyncflow.graph.policy import DEPTHS
from asyncflow.graph.signature import Signature


class Condition:
    """
    What decides whether a task, a flow, or what a link leads to runs.

    Attributes:
        fn: Called with the values of its parameters, by keyword. True means run.
        signature: Its parameters.
        depth: How far a no reaches: one of ``DEPTHS``.
    """

    __slots__ = ("depth", "fn", "signature")

    def __init__(self, fn: Callable[..., Any], depth: str, what: str) -> None:
        self.fn = fn
        self.depth = depth
        self.signature = Signature(fn, what=f"the condition of {what}")

    def ask(self, values: dict[str, Any]) -> bool:
        """Return what it says of *values*; whatever it raises is a failure of what it guards."""
        answer = self.fn(**values)
        if inspect.isawaitable(answer):
            if inspect.iscoroutine(answer):
                answer.close()
            raise TypeError(
                "a condition returned something to await, which says neither yes nor no; make it a plain def"
            )
        return bool(answer)


def check_condition(when: Any, depth: Any, what: str, *, default: str = "dominated") -> Condition | None:
    """
    Return the condition that *when* makes, or None if that is None.

    Raises:
        DeclarationError: It is no function and no condition string, is async, takes what it cannot be given, or *depth*
            is unknown.
    """
    if depth is not None and depth not in DEPTHS:
        raise DeclarationError(f"{what} has depth={depth!r:.80}; give one of {', '.join(map(repr, DEPTHS))}")
    if when is None:
        return None
    if isinstance(when, (staticmethod, classmethod)):
        when = when.__func__
    if isinstance(when, str):
        return Condition(Expression(when, what), depth or default, what)
    if not callable(when) or isinstance(when, type) or hasattr(when, "with_options"):
        raise DeclarationError(
            f"{what} has when={when!r:.80}; give a function of the values that it names, or a string such as "
            '"total > 100"'
        )
    if inspect.iscoroutinefunction(when) or inspect.isgeneratorfunction(when) or inspect.isasyncgenfunction(when):
        raise DeclarationError(f"the condition of {what} is async or yields; make it a plain def")
    condition = Condition(when, depth or default, what)
    for parameter in condition.signature.parameters:
        if parameter.kind is parameter.kind.POSITIONAL_ONLY:
            raise DeclarationError(f"the condition of {what} takes {parameter.name!r} by position only; drop the /")
    signature = condition.signature
    if signature.wants_context or signature.takes_names or signature.takes_extra:
        raise DeclarationError(f"the condition of {what} takes the context, *args or **names; name what it reads")
    return condition
