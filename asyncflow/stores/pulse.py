"""
Who is well: each owner of runs has a counter in the owners' file, which a thread of its own bumps.

A free lock tells the dead from the living; a counter that stands still tells who lives and does nothing, such as a
process that was stopped. The thread is not the event loop's, so a body that blocks the loop loses no run. (One that
keeps Python's interpreter lock for a whole lease, deep in foreign code, does.)

The counter is not a row of the journal, as one might expect. Bumping a row is a commit: it needs a second writer beside
the loop's, waits behind every other process, and fails on a full disk. Eight bytes that are there already do none of
that, and nobody needs them to last.

No clock is compared. The one who watches counts, on its own monotonic clock, for how long it has seen the counter stand
still, and an owner says itself how long it may: its lease stands beside its counter.
"""

from __future__ import annotations

import contextlib
import os
import struct
import threading
import time
from collections.abc import Callable

import attrs

LEASE = 10.0
"""Seconds for which an owner may show no life before others may take over, unless its engine says otherwise."""

# A few beats may be late, since the machine is busy, and the lease is not over.
_BEATS_A_LEASE = 10
# Of two looks at a counter, no more than this share of the lease counts: the watcher itself may have been stopped.
_LOOKS_A_LEASE = 5
_SLOT = struct.Struct("<Qd")  # the counter, and the lease in seconds


class Pulse:
    """The counter of one owner, bumped from here on in a thread of its own until :meth:`stop`."""

    __slots__ = ("_beats", "_descriptor", "_key", "_lease", "_over", "_thread")

    def __init__(self, descriptor: int, key: int, lease: float) -> None:
        self._descriptor = descriptor
        self._key = key
        self._lease = lease
        self._beats = 0
        # From here on its bytes have their place on the disk; a disk that is full later does not stop them.
        self._beat()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name=f"asyncflow pulse of owner {key}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Bump no more. The descriptor may be closed then."""
        self._over.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._over.wait(self._lease / _BEATS_A_LEASE):
            # A beat that failed is a beat missed, which others see; the next may succeed.
            with contextlib.suppress(OSError):
                self._beat()

    def _beat(self) -> None:
        self._beats += 1
        os.pwrite(self._descriptor, _SLOT.pack(self._beats, self._lease), self._key * _SLOT.size)


@attrs.define
class Stillness:
    """
    How one owner's counter was last seen, by one who watches.

    Attributes:
        beats: The counter.
        lease: For how many seconds it may stand still; 0 where nobody ever wrote it.
        seen: When that was, on the watcher's clock.
        seconds: For how long it has been seen to stand still.
    """

    beats: int
    lease: float
    seen: float
    seconds: float = 0.0

    @property
    def shows(self) -> bool:
        """Whether it has lasted for longer than a beat that is merely late."""
        return 0.0 < self.lease / 3 <= self.seconds

    @property
    def is_too_long(self) -> bool:
        """Whether the lease is over."""
        return 0.0 < self.lease <= self.seconds


class Watch:
    """
    Counts for how long the counters of others stand still, from the first look at each.

    Only what was looked at counts: of the time between two looks at most a fifth of the lease, so that a watcher that
    was stopped itself, or slept with the whole machine, takes nobody for dead when it wakes.
    """

    __slots__ = ("_clock", "_seen")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, Stillness] = {}

    def look(self, descriptor: int, key: int) -> Stillness:
        """Look at the counter of the owner *key*."""
        slot = os.pread(descriptor, _SLOT.size, key * _SLOT.size)
        beats, lease = _SLOT.unpack(slot) if len(slot) == _SLOT.size else (0, 0.0)
        now = self._clock()
        last = self._seen.get(key)
        if last is None or last.beats != beats:
            self._seen[key] = last = Stillness(beats, lease, now)
        else:
            last.seconds += min(now - last.seen, lease / _LOOKS_A_LEASE)
            last.seen = now
        return last

    def forget(self, key: int) -> None:
        """Watch the owner *key* no more."""
        self._seen.pop(key, None)
