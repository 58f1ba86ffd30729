"""What a run has done, in numbers: counted by its events, timed by its records."""

from __future__ import annotations

from asyncflow.states import RunState

_TIMED = frozenset({RunState.RUNNING, RunState.REVERTING, RunState.SUSPENDED})


class Tally:
    """
    Counts and times one run since it was started or reset. Nothing is decided by it.

    Times are as fine as the records: what happened within one turn happened at once. Between a record of a process that
    died and the resume, the run was INTERRUPTED.

    Attributes:
        attempts: Bodies that were started.
        reverts: Reverts that were started.
        losses: Attempts and reverts without an ending.
        start_overs: How often a controller ran its flow again.
        seconds: State of the run to seconds in it, without the present one.
        running: Seconds of all bodies together; ``reverting`` of reverts, ``waiting`` of waits between two attempts.
    """

    __slots__ = (
        "_at",
        "_now_reverting",
        "_now_running",
        "_now_waiting",
        "_since",
        "_state",
        "attempts",
        "losses",
        "reverting",
        "reverts",
        "running",
        "seconds",
        "start_overs",
        "waiting",
    )

    def __init__(self) -> None:
        self.attempts = self.reverts = self.losses = self.start_overs = 0
        self.seconds: dict[RunState, float] = {}
        self.running = self.reverting = self.waiting = 0.0
        # How the last record left the run, and when; since when it is in the state that it is in.
        self._state = RunState.PENDING
        self._at = self._since = 0.0
        self._now_running = self._now_reverting = self._now_waiting = 0

    def take(self, at: float, state: RunState, running: int, reverting: int, waiting: int) -> None:
        """From *at* (POSIX seconds) on, the run is in *state*, and so many of its tasks run, are reverted and wait."""
        self._pass(at)
        self._now_running, self._now_reverting, self._now_waiting = running, reverting, waiting
        if state is not self._state:
            self._leave(at)
            self._state = state

    def was_away(self, until: float) -> None:
        """Since the last record nobody looked after the run; it was suspended or ended, or its process died."""
        if self._state is not RunState.SUSPENDED:
            is_open = self._state in _TIMED
            died = self._at
            self._leave(died)
            if is_open:
                lost = self.seconds.get(RunState.INTERRUPTED, 0.0)
                self.seconds[RunState.INTERRUPTED] = lost + max(0.0, until - died)
            self._since = until
        self._at = until
        self._now_running = self._now_reverting = self._now_waiting = 0
        if self._state is not RunState.SUSPENDED:
            self._state = RunState.PENDING

    def until(self, now: float | None) -> Tally:
        """Return the same with the time up to *now*; with None, up to the last record."""
        found = Tally()
        for name in self.__slots__:
            setattr(found, name, getattr(self, name))
        found.seconds = dict(self.seconds)
        at = self._at if now is None else max(now, self._at)
        found._pass(at)
        found._leave(at)
        return found

    def _pass(self, at: float) -> None:
        passed = at - self._at
        self._at = at
        if passed > 0.0:
            if self._now_running:
                self.running += passed * self._now_running
            if self._now_reverting:
                self.reverting += passed * self._now_reverting
            if self._now_waiting:
                self.waiting += passed * self._now_waiting

    def _leave(self, at: float) -> None:
        if self._state in _TIMED:
            self.seconds[self._state] = self.seconds.get(self._state, 0.0) + max(0.0, at - self._since)
        self._since = at
