"""When a commit that is synced is made on the loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import closing

import pytest

from asyncflow.stores import on_loop as on_loop_module
from asyncflow.stores.on_loop import OnLoop

QUICK, SLOW, STALLED = 0.0002, 0.002, 0.1


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time is told."""

    now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Iterator[Clock]:
    with closing(Clock()) as loop:
        yield loop


def syncs_until_allowed(on_loop: OnLoop) -> int:
    """Return how many quick ones in the thread it takes until the next is made on the loop."""
    count = 0
    while not on_loop.allows(1, 100, is_synced=True):
        on_loop.synced(QUICK)
        count += 1
    return count


def test_a_disk_must_have_been_quick_several_times_in_a_row(clock: Clock) -> None:
    """One slow sync, wherever it was made, sends the next ones to the thread; size does as well."""
    on_loop = OnLoop(clock)
    first = syncs_until_allowed(on_loop)
    assert first == on_loop_module._QUICK_SYNCS
    assert not on_loop.allows(100, 100, is_synced=True)
    assert not on_loop.allows(1, 1 << 20, is_synced=True)
    on_loop.synced(SLOW)
    assert syncs_until_allowed(on_loop) == first
    on_loop.took(SLOW, is_synced=True, is_made=True)
    assert syncs_until_allowed(on_loop) == first
    on_loop.took(QUICK, is_synced=True, is_made=False)
    assert syncs_until_allowed(on_loop) == first, "another is writing, or something failed"


def test_a_disk_that_stalls_now_and_then_holds_the_loop_a_few_times_only(clock: Clock) -> None:
    """Such as one in a cloud whose credit is used up: it is quick, and then it is not for a second."""
    on_loop = OnLoop(clock)
    wanted = []
    for _ in range(4):
        wanted.append(syncs_until_allowed(on_loop))
        on_loop.took(STALLED, is_synced=True, is_made=True)
    assert [after / before for before, after in itertools.pairwise(wanted)] == [4, 4, 4]
    on_loop.synced(STALLED)
    assert syncs_until_allowed(on_loop) == 4 * wanted[-1], "the thread may be held for as long as it takes"


def test_a_disk_that_nobody_has_used_for_a_while_is_tried_in_the_thread(clock: Clock) -> None:
    """It may sleep, or be another by now as far as its speed goes."""
    on_loop = OnLoop(clock)
    syncs_until_allowed(on_loop)
    clock.now += 3600
    assert not on_loop.allows(1, 100, is_synced=True)
    on_loop.synced(QUICK)
    assert on_loop.allows(1, 100, is_synced=True)
