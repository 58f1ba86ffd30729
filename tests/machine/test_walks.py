"""Random flows in random worlds: each event that a machine lets happen is one that the model allows."""

from __future__ import annotations

import pytest

from asyncflow.machine.replay import fold
from asyncflow.messages import Record
from asyncflow.states import TaskState
from tests.machine.flows import PLAN
from tests.machine.walk import Walk, random_plan
from tests.model import check_journal


def walk(seed: int, most: int) -> None:
    """Walk one seed's run to its end, and compare what the machine and the model hold by then."""
    found = Walk(random_plan(seed, most), seed)
    try:
        found.to_the_end()
        check_journal([Record(1.0, found.events)], found.plan)
        states = {found.plan.path(task): TaskState(state).name for task, state in enumerate(found.machine.states)}
        assert states == found.model.states()
        assert found.machine.phase.value == found.model.state
        assert [found.plan.path(task) for task in found.machine.failures] == found.model.failures
        assert len(set(found.machine.order)) == len(found.machine.order), "each starts once in an execution"
        again = fold([Record(1.0, found.events)], {PLAN: found.plan})
        assert again.snapshot() == found.machine.snapshot()
    except Exception as error:
        error.add_note(f"seed {seed}, {most} tasks")
        raise


def test_what_a_machine_lets_happen_is_what_the_model_allows() -> None:
    """Every order of endings, losses, cancels and crashes that a seed thinks of, checked step by step."""
    for seed in range(1_500):
        walk(seed, 25)


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(60))
def test_what_a_machine_lets_happen_in_many_worlds_is_what_the_model_allows(thousand: int) -> None:
    """The same with more seeds and more tasks."""
    for seed in range(thousand * 1_000, (thousand + 1) * 1_000):
        walk(seed, 60)
