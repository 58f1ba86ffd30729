"""
Which commits are made on the loop, though it turns for nobody meanwhile: those that take about as long as the trip to
the connection's thread and back would.

What need not wait for the disk and is small is committed in 25 us; the trip takes 35 us, and 150 where both sides have
gone to sleep. Where nobody else has something to append it is committed at once, as part of the append: to come back
behind it takes another turn of the loop and a future, 20 us more. Else what comes in within a turn makes one commit,
which is cheaper for all.

What is synced is committed here as well while the disk is quick, in 160 us; the loop turns between two of them. A slow
sync, of which the trip and whatever else keeps the loop busy are part, sends the next ones to the thread until enough
in a row have been quick. Each time that the loop has been held for long, four times as many are wanted.
"""

from __future__ import annotations

import asyncio

from asyncflow.stores.line import Line

_BRIEF_ROWS = 4
_BRIEF_BYTES = 32 << 10
# Where the kernel makes whoever writes wait, as when the disk lags behind, commits go to the thread for a while.
_BRIEF_SECONDS = 0.005
_SLOW_FOR = 0.1
# A sync that takes no longer is quick, and so many in a row say that the disk is, but not for long.
_QUICK_SECONDS = 0.001
_QUICK_SYNCS = 16
_MOST_QUICK_SYNCS = 1 << 20
_QUICK_FOR = 5.0
# Whoever has appended within this time is likely to append again.
_RECENT_SECONDS = 0.001
# For how long a turn of the loop may commit at once; what comes then is gathered, and the loop turns.
_AT_ONCE_SECONDS = 0.004


class OnLoop:
    """What is known of the commits that one writer has made, as far as it tells where to make the next one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        # Until when nothing is committed on the loop.
        self._slow_until = 0.0
        # How many syncs in a row have been quick, how many are wanted, and when the last one was.
        self._quick_syncs = 0
        self._wanted = _QUICK_SYNCS
        self._synced_at = 0.0
        # Who appended last, and when.
        self._last: Line | None = None
        self._last_at = 0.0
        # Until when this turn of the loop commits at once, if it has begun to.
        self._until: float | None = None

    def allows(self, rows: int, size_bytes: int, *, is_synced: bool = False) -> bool:
        """Whether a commit of so much may be made on the loop now."""
        if rows > _BRIEF_ROWS or size_bytes > _BRIEF_BYTES:
            return False
        now = self._loop.time()
        if is_synced:
            return self._quick_syncs >= self._wanted and now - self._synced_at < _QUICK_FOR
        return now >= self._slow_until

    def admit(self, line: Line, *, is_idle: bool) -> bool:
        """
        Take note that *line* appends something, and return whether that is to be committed at once: nobody else has
        appended just now, the writer *is_idle*, and this turn of the loop has not been held for too long.
        """
        now, last, last_at = self._loop.time(), self._last, self._last_at
        # A run that is given up appends no more, and its line would keep its last record in memory.
        self._last, self._last_at = None if line.is_released else line, now
        is_alone = last is None or last is line or now - last_at > _RECENT_SECONDS
        if not (is_alone and is_idle):
            return False
        if self._until is None:
            self._until = now + _AT_ONCE_SECONDS
            self._loop.call_soon(self._turned)
        return now < self._until

    def took(self, seconds: float, *, is_synced: bool, is_made: bool) -> None:
        """Take note of how long a commit on the loop has taken, or has been tried."""
        is_stall = seconds > _BRIEF_SECONDS
        if not is_synced:
            if is_stall:
                self._slow_until = self._loop.time() + _SLOW_FOR
            return
        self.synced(seconds if is_made else _BRIEF_SECONDS)
        if is_stall:
            self._wanted = min(4 * self._wanted, _MOST_QUICK_SYNCS)

    def synced(self, seconds: float) -> None:
        """Take note of how long one that was synced has taken; in the thread, with the trip there and back."""
        self._quick_syncs = self._quick_syncs + 1 if seconds <= _QUICK_SECONDS else 0
        self._synced_at = self._loop.time()

    def _turned(self) -> None:
        self._until = None
