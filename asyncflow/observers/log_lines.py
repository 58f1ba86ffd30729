"""A line of standard logging for each event."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from asyncflow import messages as m
from asyncflow.errors import DeclarationError
from asyncflow.graph.wants import nearest
from asyncflow.interfaces import Happening
from asyncflow.messages import EVENT_KINDS
from asyncflow.observers.mask import Mask
from asyncflow.outcomes import Failure
from asyncflow.states import TaskState

LEVELS: Mapping[str, int] = {
    "AttemptFailed": logging.WARNING,
    "AttemptTimedOut": logging.WARNING,
    "AttemptLost": logging.WARNING,
    "DeadlinePassed": logging.WARNING,
    "TaskFailed": logging.ERROR,
    "RevertFailed": logging.WARNING,
    "RevertGivenUp": logging.ERROR,
    "ControllerAnswered": logging.WARNING,
    "FlowStartedOver": logging.INFO,
    "RunStarted": logging.INFO,
    "RunResumed": logging.INFO,
    "RunReset": logging.INFO,
    "RunSuspended": logging.INFO,
    "RunEnded": logging.INFO,
    "CancelRequested": logging.INFO,
}
"""What is louder than DEBUG; a condition or a controller that raised is an ERROR as well."""


class LogLines:
    """
    Writes each event to a standard logger, ``asyncflow.events`` unless told otherwise.

    The run, path and attempt are also fields of the log record (``run``, ``path``, ``attempt``), for structured logs.
    The line of a failure for good says what the task had read and what came right before it; ``inputs`` and
    ``predecessors`` are fields of its record.

    Args:
        logger: Where to write.
        levels: Kind of event to level, beside and before :data:`LEVELS`; None writes no line.
        masks: Names whose values are covered wherever they occur: inputs, keys, fields, at any depth. What an exception
            says is written as it is.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        levels: Mapping[str, int | None] | None = None,
        masks: Iterable[str] = (),
    ) -> None:
        self._logger = logging.getLogger("asyncflow.events") if logger is None else logger
        self._levels: dict[str, int | None] = {**LEVELS, **(levels or {})}
        self._told = frozenset(levels or ())
        self._mask = Mask(masks)
        for kind in self._told:
            if kind not in EVENT_KINDS:
                raise DeclarationError(f"levels= names {kind!r}, which is no event{nearest(str(kind), EVENT_KINDS)}")

    def __call__(self, happening: Happening, /) -> None:
        """Write one line."""
        level = self._level(happening)
        if level is None or not self._logger.isEnabledFor(level):
            return
        what = f"{happening.path or 'run'}: {happening.kind}"
        if happening.attempt > 1:
            what += f" (attempt {happening.attempt})"
        fields: dict[str, Any] = {"run": happening.run_id, "path": happening.path, "attempt": happening.attempt}
        said = describe(happening)
        details = [said] if said else []
        if happening.data:
            details.append(_listed(self._mask.named(happening.data)))
        if happening.circumstances is not None:
            fields["inputs"] = inputs = self._mask.named(happening.circumstances.inputs)
            fields["predecessors"] = {path: state.name for path, state in happening.circumstances.predecessors.items()}
            if inputs:
                details.append(f"inputs {_listed(inputs)}")
            if happening.circumstances.predecessors:
                details.append(f"after {_paths(happening.circumstances.predecessors)}")
        detail = "; ".join(details)
        self._logger.log(level, "%s %s%s", happening.run_id, what, f": {detail}" if detail else "", extra=fields)

    def _level(self, happening: Happening) -> int | None:
        kind, event = happening.kind, happening.event
        if isinstance(event, (m.ConditionAnswered, m.ControllerAnswered)) and event.failure is not None:
            return self._levels[kind] if kind in self._told else logging.ERROR
        return self._levels.get(kind, logging.DEBUG)


MOST_PATHS = 10
"""How many of the tasks before one that failed a line names."""


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={picture}" for name, picture in values.items())


def _paths(states: Mapping[str, TaskState]) -> str:
    named = [f"{path} {state.name}" for path, state in list(states.items())[:MOST_PATHS]]
    more = len(states) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def describe(happening: Happening) -> str:
    """Return what an event says besides its kind, in a few words, without opening any value."""
    event = happening.event
    match event:
        case m.AttemptFailed(failure=failure) | m.RevertFailed(failure=failure):
            return _said(failure)
        case m.TaskFailed() | m.RevertGivenUp():
            if happening.circumstances is None:
                return ""
            outcome = happening.circumstances.outcome
            return _said(outcome) if isinstance(outcome, Failure) else "took longer than its timeout"
        case m.AttemptLost(cause=cause):
            return cause
        case m.CancelRequested(reason=reason) | m.SuspendRequested(reason=reason):
            return reason
        case m.RunEnded(state=state):
            return state
        case m.ConditionAnswered(answer=answer, failure=failure):
            return _said(failure) if failure is not None else "yes" if answer else "no"
        case m.ControllerAnswered(decision=decision, wait=wait, failure=failure):
            if failure is not None:
                return _said(failure)
            return f"{decision} after {wait:.3g} s" if wait else decision
        case m.FlowStartedOver(tasks=tasks):
            return f"{len(tasks)} tasks"
        case m.Progressed(fraction=fraction, message=message):
            return f"{fraction:.0%} {message}".rstrip()
        case m.Emitted(name=name):
            return name
        case _:
            return ""


def _said(failure: Failure) -> str:
    return f"{failure.type_name}: {failure.text}" if failure.text else failure.type_name
