"""Limits on how much runs at once: of the engine, of a flow, and by name; shared by all runs, journaled by none."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Protocol

import attrs

ENGINE, THREADS = "the engine", "the engine's threads"
"""Names of the two pools that an engine has of its own; no ``af.Limit`` can be called like this."""


class Claimant(Protocol):
    """A run that asks for permits."""

    def granted(self, claim: Claim) -> None:
        """Take note that *claim* has its permits; it holds them until it releases them."""
        ...


@attrs.define(eq=False)
class Claim:
    """
    One body's wish to run: it needs a permit of each of its pools, and holds none until it can have all of them.

    ``place`` orders the claims of one run, lowest first. ``is_lingering`` is set while an abandoned body still holds
    its permits.
    """

    run: Claimant
    task: int
    attempt: int
    place: int
    pools: tuple[Pool, ...]
    is_revert: bool = False
    is_lingering: bool = False


class _Line:
    """Claims that wait, a heap for each run; runs take turns."""

    __slots__ = ("_count", "_runs")

    def __init__(self) -> None:
        # In order of whose turn it is: who has had one goes to the end.
        self._runs: dict[Claimant, list[tuple[int, int, int, Claim]]] = {}
        # Tells claims of one task apart: one may still wait from before its flow was undone to run again.
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._runs)

    def __len__(self) -> int:
        return sum(map(len, self._runs.values()))

    def add(self, claim: Claim) -> None:
        self._count += 1
        heapq.heappush(self._runs.setdefault(claim.run, []), (claim.place, claim.task, self._count, claim))

    def next(self) -> Claim:
        run, claims = next(iter(self._runs.items()))
        del self._runs[run]
        claim = heapq.heappop(claims)[3]
        if claims:
            self._runs[run] = claims
        return claim

    def drop(self, run: Claimant) -> None:
        self._runs.pop(run, None)


class Pool:
    """
    A number of permits, and who waits for one: reverts before starts.

    An abandoned body keeps its permit, but reverts are let past it: a body that hangs must not keep others from being
    undone.
    """

    __slots__ = ("lingering", "_reverts", "_starts", "name", "size", "taken")

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.taken = 0
        self.lingering = 0  # of those taken, by bodies that were left behind
        self._reverts = _Line()
        self._starts = _Line()

    def has_room(self, *, is_revert: bool) -> bool:
        """Whether a start, or a revert, could have a permit now."""
        return self.taken - (self.lingering if is_revert else 0) < self.size

    def wait(self, claim: Claim) -> None:
        """Put *claim* in line."""
        (self._reverts if claim.is_revert else self._starts).add(claim)

    def serve(self) -> None:
        """Grant what can be granted. A claim that another pool holds up moves to the line of that one."""
        for line, is_revert in ((self._reverts, True), (self._starts, False)):
            # Looked at before anyone is called up: whoever is called and gets nothing would have lost a turn.
            while line and self.has_room(is_revert=is_revert):
                claim = line.next()
                full = next((pool for pool in claim.pools if not pool.has_room(is_revert=is_revert)), None)
                if full is None:
                    for pool in claim.pools:
                        pool.taken += 1
                    claim.run.granted(claim)
                else:
                    full.wait(claim)

    def drop(self, run: Claimant) -> None:
        """Forget what *run* waits for here."""
        self._reverts.drop(run)
        self._starts.drop(run)

    def __repr__(self) -> str:
        waiting = len(self._reverts) + len(self._starts)
        return f"<Pool {self.name!r}: {self.taken} of {self.size} taken, {waiting} waiting>"


def ask(claim: Claim) -> None:
    """Put *claim* in line; it is granted by a later :func:`serve`, at once if there is room."""
    claim.pools[0].wait(claim)


def release(claim: Claim) -> None:
    """Give back what *claim* holds."""
    for pool in claim.pools:
        pool.taken -= 1
        if claim.is_lingering:
            pool.lingering -= 1


def linger(claim: Claim) -> None:
    """Mark that the body behind *claim* was abandoned; it keeps its permits until it is gone."""
    claim.is_lingering = True
    for pool in claim.pools:
        pool.lingering += 1


def return_to(claim: Claim) -> None:
    """Mark that the body behind *claim* is none that was abandoned any more."""
    if claim.is_lingering:
        claim.is_lingering = False
        for pool in claim.pools:
            pool.lingering -= 1


def serve(pools: Iterable[Pool]) -> None:
    """Grant what can be granted in each of *pools*."""
    for pool in pools:
        pool.serve()
