"""The options of a flow: their names, their defaults, and what each may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from asyncflow.errors import DeclarationError
from asyncflow.graph.policy import DEPTHS, check_count, check_seconds
from asyncflow.graph.wants import nearest

if TYPE_CHECKING:
    from asyncflow.graph.controller import Controller


class FlowOptions(TypedDict, total=False):
    """
    What a flow may be told besides what is in it.

    ``timeout``: seconds that a run may spend in it, over all attempts. ``concurrency``: how many of its tasks may run
    at once. ``retry``: a controller, such as ``af.Times(3)``, which decides whether the flow runs again. ``when``: a
    condition on all that is in it, and ``depth`` how far its no reaches (see ``DEPTHS``). ``on_failure``: what becomes
    of running siblings when a task fails for good: "cancel" them or let them "finish"; the engine's, if it is not
    given. ``revert_scope="flow"``: when its controller gives up and no other is around, undo this flow alone and leave
    the run FAILED, to be resumed, instead of undoing the "run".
    """

    timeout: float | None
    concurrency: int | None
    retry: Controller | None
    when: Callable[..., Any] | str | None
    depth: Literal["task", "neighbours", "dominated", "flow", "all"] | None
    on_failure: Literal["cancel", "finish"] | None
    revert_scope: Literal["run", "flow"]


FLOW_DEFAULTS: Mapping[str, Any] = {
    "timeout": None,
    "concurrency": None,
    "retry": None,
    "when": None,
    "depth": None,
    "on_failure": None,
    "revert_scope": "run",
}

_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "depth": (None, *DEPTHS),
    "on_failure": (None, "cancel", "finish"),
    "revert_scope": ("run", "flow"),
}


def check_flow_options(options: Mapping[str, Any], what: str) -> dict[str, Any]:
    """
    Return *options* as a flow keeps them; *what* names the flow in messages.

    Raises:
        DeclarationError: One is unknown, or not what it may be.
    """
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name not in FLOW_DEFAULTS:
            raise DeclarationError(
                f"{what} has an unknown option {name!r}{nearest(name, FLOW_DEFAULTS)}; options are "
                f"{', '.join(FLOW_DEFAULTS)}"
            )
        choices = _CHOICES.get(name)
        if choices is not None and value not in choices:
            known = ", ".join(repr(choice) for choice in choices if choice is not None)
            raise DeclarationError(f"{what} has {name}={value!r:.80}; give one of {known}")
        if name == "timeout" and value is not None:
            value = check_seconds(value, f"the timeout of {what}")
        elif name == "concurrency" and value is not None:
            value = check_count(value, f"the concurrency of {what}")
        found[name] = value
    return found
