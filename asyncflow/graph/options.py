"""The options of a task: their names, their defaults, and what each may be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Literal, TypedDict

from asyncflow.errors import DeclarationError
from asyncflow.graph.policy import DEPTHS, Limit, Retry, check_count, check_seconds
from asyncflow.graph.provides import Provides
from asyncflow.graph.wants import nearest
from asyncflow.ids import check_name


class TaskOptions(TypedDict, total=False):
    """
    What a task may be told besides its body, as class attributes, keywords or in ``with_options``.

    ``name``: its identity within its flow. ``provides``: the name of its value; a tuple that unpacks it by position, a
    set or mapping that unpacks it by key. ``requires``: inputs besides those of the signature, or all of them with
    ``auto_extract=False``. ``rebind``: parameter to the name it is wired under, or such names in order of the
    parameters. ``inject``: constants by parameter; they beat everything.

    ``revert_requires``: inputs of the revert alone, and ``revert_rebind``: a parameter of the revert to the name that
    it is wired under; both where the task is wired by name.

    ``retry`` and ``timeout`` (seconds an attempt) are for the body, ``revert_retry`` and ``revert_timeout`` for the
    revert. ``on_crash``: "retry" an attempt that was lost with its process (it happens at least once), or "fail" (at
    most once). ``max_crashes``: a task that was running this often in a row when the process died is taken for the
    cause, and fails. ``reconcile``: asks the outside world how a lost attempt ended. ``checkpoint=False``: the value is
    not journaled, and made again on resume; no revert may read it, and ``on_crash="fail"`` does not go with it.

    ``when``: a condition; where it says no, the task is skipped, and with it as much as ``depth`` says ("task",
    "neighbours", "dominated", "flow", "all"; see ``DEPTHS``). In a builder it reads the task's own parameters, in a
    pattern whatever the task could.

    ``executor``: "thread" (the default of ``def``), "inline" for a quick ``def`` on the loop, "loop" (``async def``),
    or one of the engine's. ``priority``: higher goes first. ``limits``: shared ``af.Limit``s. ``version``: change it
    when the task's meaning changes.
    """

    name: str
    provides: Provides
    requires: str | Sequence[str]
    rebind: Mapping[str, str] | Sequence[str] | None
    inject: Mapping[str, Any] | None
    auto_extract: bool
    revert_requires: str | Sequence[str]
    revert_rebind: Mapping[str, str] | None
    retry: Retry | None
    timeout: float | None
    revert_retry: Retry | None
    revert_timeout: float
    on_crash: Literal["retry", "fail"]
    max_crashes: int
    reconcile: Callable[..., Any] | None
    checkpoint: bool
    executor: str
    priority: int
    limits: Limit | Sequence[Limit]
    version: str | int | None
    when: Callable[..., Any] | str | None
    depth: Literal["task", "neighbours", "dominated", "flow", "all"] | None


WIRING = ("requires", "rebind", "inject", "auto_extract")
"""The options that say where inputs come from; ``wants.py`` checks them against the signature."""

_NAMES = tuple(TaskOptions.__annotations__)


def check_option_names(options: Mapping[str, Any], what: str) -> None:
    """Raise DeclarationError if *options* has a name that no task knows."""
    for name in options:
        if name not in _NAMES:
            raise DeclarationError(
                f"{what} has an unknown option {name!r}{nearest(name, _NAMES)}; options are {', '.join(_NAMES)}"
            )


def check_option(name: str, value: Any, what: str) -> Any:
    """
    Return *value* as option *name* is kept; *what* names the task in messages.

    Raises:
        DeclarationError: It is not what the option may be.
    """
    check = _CHECKS.get(name)
    return value if check is None else check(value, f"{what} has {name}={value!r:.80}", what)


def check_free(name: str, cls: type, taken: Container[str]) -> None:
    """Raise DeclarationError if task class *cls*, of a user, sets an attribute that is among those *taken*."""
    if name in taken and not cls.__module__.startswith("asyncflow."):
        raise DeclarationError(
            f"task class {cls.__qualname__} has an attribute {name!r} of its own, and every task has one that the "
            "engine needs; choose another name"
        )


def is_async(fn: Any) -> bool:
    """Return whether calling *fn* gives something to await."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(type(fn), "__call__", None))  # noqa: B004


def executor_for(fn: Any, chosen: str, what: str) -> str:
    """Return where *fn* runs if *chosen* is what its task says (empty: by what it is)."""
    if is_async(fn):
        if chosen in ("thread", "inline"):
            raise DeclarationError(f'{what} is async and has executor="{chosen}"; leave executor out, or make it a def')
        return chosen or "loop"
    if chosen == "loop":
        raise DeclarationError(f'{what} is no async def and has executor="loop"; say "inline", or make it an async def')
    return chosen or "thread"


def _retry(value: Any, found: str, what: str) -> Any:
    if value is not None and not isinstance(value, Retry):
        hint = ", and the controller to a flow" if hasattr(value, "on_failure") else ""
        raise DeclarationError(f"{found}; give a policy such as af.Retry(3){hint}")
    return value


def _timeout(value: Any, found: str, what: str) -> Any:
    return None if value is None else check_seconds(value, f"the timeout of {what}")


def _on_crash(value: Any, found: str, what: str) -> Any:
    if value not in ("retry", "fail"):
        raise DeclarationError(f'{found}; give "retry" (at least once) or "fail" (at most once)')
    return value


def _flag(value: Any, found: str, what: str) -> Any:
    if not isinstance(value, bool):
        raise DeclarationError(f"{found}; give True or False")
    return value


def _executor(value: Any, found: str, what: str) -> Any:
    if not isinstance(value, str):
        raise DeclarationError(f'{found}; give the name of an executor, such as "thread" or "inline"')
    return value


def _priority(value: Any, found: str, what: str) -> Any:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DeclarationError(f"{found}; give a whole number, higher for sooner")
    return value


def _limits(value: Any, found: str, what: str) -> Any:
    limits = (value,) if isinstance(value, Limit) else value
    if not isinstance(limits, (list, tuple)) or not all(isinstance(limit, Limit) for limit in limits):
        raise DeclarationError(f'{found}; give limits such as af.Limit("api", 5)')
    return tuple(dict.fromkeys(limits))


def _hook(value: Any, found: str, what: str) -> Any:
    if value is not None and not callable(value):
        raise DeclarationError(f"{found}; give a function that returns an outcome, or None to try again")
    return value


def _revert_requires(value: Any, found: str, what: str) -> Any:
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple, set)) else None
    if names is None or not all(isinstance(name, str) and name for name in names):
        raise DeclarationError(f"{found}; give names, as in revert_requires=('ticket',)")
    return names


def _revert_rebind(value: Any, found: str, what: str) -> Any:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not all(
        isinstance(one, str) and one for pair in value.items() for one in pair
    ):
        raise DeclarationError(f"{found}; give a mapping of the revert's parameters to names")
    return dict(value)


def _depth(value: Any, found: str, what: str) -> Any:
    if value is not None and value not in DEPTHS:
        raise DeclarationError(f"{found}; give one of {', '.join(map(repr, DEPTHS))}")
    return value


def _version(value: Any, found: str, what: str) -> Any:
    if value is not None and (not isinstance(value, (str, int)) or isinstance(value, bool)):
        raise DeclarationError(f"{found}; give a string or a whole number")
    return value


_CHECKS: dict[str, Callable[[Any, str, str], Any]] = {
    "name": lambda value, found, what: check_name(value, "task"),
    "retry": _retry,
    "timeout": _timeout,
    "revert_retry": _retry,
    "revert_timeout": lambda value, found, what: check_seconds(value, f"the revert_timeout of {what}"),
    "on_crash": _on_crash,
    "max_crashes": lambda value, found, what: check_count(value, f"the max_crashes of {what}"),
    "reconcile": _hook,
    "checkpoint": _flag,
    "executor": _executor,
    "priority": _priority,
    "limits": _limits,
    "version": _version,
    "revert_requires": _revert_requires,
    "revert_rebind": _revert_rebind,
    "depth": _depth,
}
