"""Time from the system and the running loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class SystemClock:
    """
    POSIX time, and timers of the running loop.

    A timer is set by the loop's own clock, which a change of the wall clock does not move; what a journal keeps is
    POSIX seconds, since nothing else means anything to the process that resumes.
    """

    def now(self) -> float:
        """Return POSIX seconds."""
        return time.time()

    def call_at(self, when: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call *callback* at *when*, POSIX seconds; soon, if that has passed."""
        return self.call_later(max(0.0, when - time.time()), callback, *args)

    def call_later(self, delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        """Call *callback* after *delay* seconds."""
        return asyncio.get_running_loop().call_later(delay, callback, *args)
