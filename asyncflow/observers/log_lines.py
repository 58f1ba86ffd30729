"""A line of standard logging for each event."""

from __future__ import annotations

import logging

from asyncflow import messages as m
from asyncflow.interfaces import Happening

_LEVELS: dict[type[m.Event], int] = {
    m.AttemptFailed: logging.WARNING,
    m.AttemptTimedOut: logging.WARNING,
    m.AttemptLost: logging.WARNING,
    m.DeadlinePassed: logging.WARNING,
    m.TaskFailed: logging.ERROR,
    m.RevertFailed: logging.WARNING,
    m.RevertGivenUp: logging.ERROR,
    m.RunStarted: logging.INFO,
    m.RunResumed: logging.INFO,
    m.RunSuspended: logging.INFO,
    m.RunEnded: logging.INFO,
    m.CancelRequested: logging.INFO,
}
"""What is louder than DEBUG."""


class LogLines:
    """
    Writes each event to a standard logger, ``asyncflow.events`` unless told otherwise.

    The run, path and attempt are also fields of the log record (``run``, ``path``, ``attempt``), for structured logs.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logging.getLogger("asyncflow.events") if logger is None else logger

    def __call__(self, happening: Happening, /) -> None:
        """Write one line."""
        event = happening.event
        level = _LEVELS.get(type(event), logging.DEBUG)
        if not self._logger.isEnabledFor(level):
            return
        what = f"{happening.path or 'run'}: {happening.kind}"
        if happening.attempt > 1:
            what += f" (attempt {happening.attempt})"
        detail = describe(event)
        self._logger.log(
            level,
            "%s %s%s",
            happening.run_id,
            what,
            f": {detail}" if detail else "",
            extra={"run": happening.run_id, "path": happening.path, "attempt": happening.attempt},
        )


def describe(event: m.Event) -> str:
    """Return what an event says besides its kind, in a few words, without opening any value."""
    match event:
        case m.AttemptFailed(failure=failure) | m.RevertFailed(failure=failure):
            return f"{failure.type_name}: {failure.text}"
        case m.TaskFailed(failure=failure) if failure is not None:
            return f"{failure.type_name}: {failure.text}"
        case m.AttemptLost(cause=cause):
            return cause
        case m.CancelRequested(reason=reason) | m.SuspendRequested(reason=reason):
            return reason
        case m.RunEnded(state=state):
            return state
        case m.Progressed(fraction=fraction, message=message):
            return f"{fraction:.0%} {message}".rstrip()
        case m.Emitted(name=name):
            return name
        case _:
            return ""
