"""Random nested flows in random worlds: what a machine lets happen is what the rules allow."""

from __future__ import annotations

import random

import pytest

from tests.nested.rules import Rules, Shape
from tests.nested.trees import World, random_tree
from tests.nested.walk import Walk, at_random


def wander(seed: int, most: int, asks: float | None = None) -> None:
    """Bring one seed's run to its end in any order, every event of it checked, a replay compared after each."""
    _, plan = random_tree(seed, most, asks)
    rng = random.Random(f"walk {seed}")
    world = World(seed, rng.choice((0.0, 0.1, 0.3, 0.5)))
    rules = Rules(Shape(plan, plan.tolerant), rng.choice(("cancel", "cancel", "finish")), rng.random() < 0.1)
    try:
        walk = Walk(plan, world, rules)
        at_random(walk, rng, rng.choice((0.1, 0.3, 1.0)))
        assert walk.machine.phase.value == rules.state
    except Exception as error:
        error.add_note(f"seed {seed}, {most} tasks")
        raise


def test_what_controllers_let_happen_is_what_the_rules_allow() -> None:
    """Controllers at any depth, in every order of endings, losses, cancels and crashes that a seed thinks of."""
    for seed in range(600):
        wander(seed, 12, asks=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(30))
def test_what_controllers_let_happen_in_many_worlds_is_what_the_rules_allow(thousand: int) -> None:
    """The same with more seeds and more tasks."""
    for seed in range(thousand * 1_000, (thousand + 1) * 1_000):
        wander(seed, 25, asks=0.0)


def test_what_conditions_let_happen_is_what_the_rules_allow() -> None:
    """Conditions of every depth on tasks, flows and links besides, which say yes and no, or raise."""
    for seed in range(700):
        wander(seed, 12)


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(30))
def test_what_conditions_let_happen_in_many_worlds_is_what_the_rules_allow(thousand: int) -> None:
    """The same with more seeds and more tasks."""
    for seed in range(thousand * 1_000, (thousand + 1) * 1_000):
        wander(seed, 25)
