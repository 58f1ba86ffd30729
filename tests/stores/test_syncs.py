"""What each level of durability has the disk do, as the kernel sees it."""

from __future__ import annotations

import pytest

from benchmarks.synced import reason_not_to, syncs

pytestmark = pytest.mark.skipif(bool(reason_not_to()), reason=reason_not_to())


@pytest.mark.parametrize(("durability", "a_task"), [("full", 1), ("process", 0)])
def test_a_task_of_a_chain_is_synced_as_often_as_its_durability_says(durability: str, a_task: int) -> None:
    """A commit that is not synced is lost in a power cut, which no test in one process can see; and a sync is dear."""
    assert syncs(durability, 30) - syncs(durability, 10) == 20 * a_task
