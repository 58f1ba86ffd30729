"""
Says which task blocks the event loop, and at which line.

A thread asks the loop for a sign of life and waits for it in short naps. Only the naps that it asked for count, however
long they took: a process that was stopped, a machine that slept or had no time for us costs one nap and no warning. So
what is reported is a loop that did not turn although this thread could. Code that never lets go of the interpreter's
lock is not seen, since then no thread runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import sysconfig
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from asyncflow.context import Attempt, running
from asyncflow.interfaces import Call
from asyncflow.runtime.actor import Actor

log = logging.getLogger("asyncflow.blocked")

BLOCKED_AFTER = 0.1
"""Seconds without a turn of the loop after which a debugging engine complains."""

_NAPS = 5
_OURS = str(Path(__file__).parent.parent)
_NOT_THE_USERS = (_OURS, *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")))


class Watchdog:
    """
    Watches the running loop until :meth:`stop`.

    Args:
        limit: Seconds without a turn after which it warns; once for each time that the loop is blocked.
        nap: Waits for a number of seconds, or until the watchdog is stopped, and returns whether it was.
    """

    def __init__(self, limit: float, *, nap: Callable[[float], bool] | None = None) -> None:
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._stopped = threading.Event()
        self._nap = self._stopped.wait if nap is None else nap
        self._has_turned = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="asyncflow watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; the thread is gone when this returns."""
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        # A loop that has closed gives no more signs, and nobody is left who could be told.
        with contextlib.suppress(RuntimeError):
            while not self._stopped.is_set():
                self._has_turned.clear()
                self._loop.call_soon_threadsafe(self._has_turned.set)
                naps = 0
                while not self._nap(self._limit / _NAPS) and (naps < _NAPS or not self._has_turned.is_set()):
                    naps += 1
                    # Once: when it is exactly this many, and not for as long as it lasts.
                    if naps == _NAPS and not self._has_turned.is_set():
                        self._warn()

    def _warn(self) -> None:
        innermost = sys._current_frames().get(self._watched)  # pyright: ignore[reportPrivateUsage]
        if innermost is None:
            return
        attempt, line = _attempt_in(innermost) or self._attempt_of_task(), _line_of(innermost)
        who = "no task's body" if attempt is None else f"task {attempt.path!r} of run {attempt.run_id!r}"
        log.warning(
            "the event loop has not turned for %g s: %s is at %s; let it await, or make it a plain def, which runs in "
            "a thread",
            self._limit,
            who,
            line,
            extra={} if attempt is None else {"run": attempt.run_id, "path": attempt.path},
        )

    def _attempt_of_task(self) -> Attempt | None:
        """Return the attempt that the current asyncio task was started by, as some bodies start their own."""
        task = asyncio.current_task(self._loop)
        if task is None or sys.version_info < (3, 12):
            return None
        return task.get_context().get(running)


def _attempt_in(frame: FrameType | None) -> Attempt | None:
    """Return the attempt whose body is called in a stack: an executor of ours holds its Call, a sprint its actor."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_OURS):
            known = frame.f_locals
            if isinstance(call := known.get("call"), Call):
                return call.context.get(running)
            if isinstance(actor := known.get("actor"), Actor):
                return actor
        frame = frame.f_back
    return None


def _line_of(innermost: FrameType) -> str:
    """Return the innermost line of the user's own code, else the innermost of all."""
    frame: FrameType | None = innermost
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame = frame.f_back
    found = frame or innermost
    return f"{found.f_code.co_filename}:{found.f_lineno} in {found.f_code.co_qualname}"
