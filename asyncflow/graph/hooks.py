"""What a class task does around its ``execute`` and its ``revert``: ``pre_execute``, ``post_execute`` and the like."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, cast

from asyncflow.errors import DeclarationError


def with_hooks(task: Any, body: Callable[..., Any], of: str) -> Callable[..., Any]:
    """
    Return *body* with the hooks ``pre_<of>`` and ``post_<of>`` of *task* around it, or as it is if there are none.

    They take nothing. The one before is called first; the one after in any case, also where *body* raised. What a hook
    raises is a failure of the task.

    Raises:
        DeclarationError: One is no function, takes something, or is async around a body that is not.
    """
    before, after = _hook(task, f"pre_{of}", body), _hook(task, f"post_{of}", body)
    if before is None and after is None:
        return body
    if inspect.iscoroutinefunction(body):

        @functools.wraps(body)
        async def hooked(*args: Any, **kwargs: Any) -> Any:
            try:
                await _done(before)
                return await body(*args, **kwargs)
            finally:
                await _done(after)

        return hooked

    @functools.wraps(body)
    def hooked_in_thread(*args: Any, **kwargs: Any) -> Any:
        try:
            if before is not None:
                before()
            return body(*args, **kwargs)
        finally:
            if after is not None:
                after()

    return hooked_in_thread


def no_hooks(task: Any, of: str) -> None:
    """Raise DeclarationError if *task* has hooks around a method *of* that name, which it lacks."""
    for name in (f"pre_{of}", f"post_{of}"):
        if getattr(task, name, None) is not None:
            raise DeclarationError(f"task {task.name!r} has a {name} and no {of}, so nothing would ever call it")


def _hook(task: Any, name: str, body: Callable[..., Any]) -> Callable[[], Any] | None:
    hook: Any = getattr(task, name, None)
    if hook is None:
        return None
    what = f"the {name} of task {task.name!r}"
    if not callable(hook):
        raise DeclarationError(f"{what} is {hook!r:.80}; make it a method")
    if inspect.signature(hook).parameters:
        raise DeclarationError(f"{what} takes {', '.join(inspect.signature(hook).parameters)}; a hook takes nothing")
    if inspect.iscoroutinefunction(hook) and not inspect.iscoroutinefunction(body):
        raise DeclarationError(f"{what} is async and what it is around is not; make both async, or neither")
    return cast("Callable[[], Any]", hook)


async def _done(hook: Callable[[], Any] | None) -> None:
    if hook is not None:
        answer = hook()
        if inspect.isawaitable(answer):
            await answer
