"""
Random nested flows that are changed between two lives of a run: what a deploy may do to a run that has begun.

The rules of ``rules.py`` know one plan. Here what holds under any is checked: whatever starts finds what comes before
it done and what it reads there; in a run that is undone nothing is started, asked or skipped; a replay is the same; and
every run comes to an end that fits what was done.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any
from unittest.mock import ANY

import attrs
import pytest

from asyncflow import messages as m
from asyncflow.errors import FlowError
from asyncflow.machine.fit import verdicts_on
from asyncflow.machine.ledger import REVERTED, SETTLED
from asyncflow.outcomes import Sealed
from asyncflow.states import RunState, TaskState
from tests.nested.trees import Branch, Leaf, Question, World, build, random_ruler, random_tree
from tests.nested.walk import Walk, as_recorded, at_random

FORWARD = (m.AttemptStarted, m.ConditionAnswered, m.TaskSkipped, m.ControllerAnswered, m.FlowStartedOver)


def changed(tree: Branch, rng: random.Random) -> Branch:
    """Return *tree* with some tasks less and some more, in another order, with other retries, conditions and rulers."""
    items: list[Leaf | Branch] = []
    for item in tree.items:
        if isinstance(item, Branch):
            items.append(changed(item, rng))
        elif rng.random() > 0.12:
            items.append(_changed_leaf(item, rng))
    if rng.random() < 0.25:
        path = f"{tree.path}/n{rng.randrange(1000)}".lstrip("/")
        items.insert(rng.randint(0, len(items)), Leaf(path, "v_" + path.replace("/", "_"), retry=rng.choice((1, 2))))
    if tree.kind == "unordered" or rng.random() < 0.05:
        rng.shuffle(items)
    place = {item.path: position for position, item in enumerate(items)}
    links = [(tree.items[one].path, tree.items[other].path, question) for one, other, question in tree.links]
    ruler, when, options = tree.ruler, tree.when, dict(tree.options)
    if rng.random() < 0.06:
        ruler = random_ruler(rng, tree.path) if ruler is None else None
        options.pop("revert_scope", None)
    elif ruler is not None and rng.random() < 0.1:
        ruler = random_ruler(rng, tree.path, rng.choice(("ruler", "regent")))
    if tree.path and rng.random() < 0.06:
        when = Question((), rng.choice((None, "task", "flow"))) if when is None else None
    if rng.random() < 0.05:
        options["timeout"] = None if options.get("timeout") else 1.0
    return attrs.evolve(
        tree,
        items=tuple(items),
        links=tuple((place[one], place[other], asks) for one, other, asks in links if one in place and other in place),
        ruler=ruler,
        when=when,
        options=options,
    )


def _changed_leaf(leaf: Leaf, rng: random.Random) -> Leaf:
    if rng.random() < 0.1:
        return attrs.evolve(leaf, retry=rng.choice((1, 2, 3)))
    if rng.random() < 0.05:
        return attrs.evolve(leaf, when=Question((), rng.choice((None, "task", "flow"))) if leaf.when is None else None)
    return leaf


class AnyRules:
    """Rules that allow everything, where the flow is not what it was."""

    lives = ()

    def __init__(self, on_failure: str, *, never_revert: bool) -> None:
        self.on_failure = on_failure
        self.never_revert = never_revert

    def take(self, event: m.Event) -> None: ...

    def may_cancel(self, task: int) -> bool:
        return True

    def must_cancel(self) -> tuple[int, ...]:
        return ()

    def failures_in(self, scope: int) -> Any:
        return ANY


class Changing(Walk):
    """A walk whose flow is another after some crashes, where that fits what was done."""

    def __init__(self, tree: Branch, plan: Any, world: World, rules: Any, **options: Any) -> None:
        self.tree = tree
        self.rng = random.Random(f"changes {world.seed}")
        self.happened: Counter[str] = Counter()
        super().__init__(plan, world, rules, **options)

    def change(self) -> str | None:
        if self.rng.random() < 0.3:
            return None
        tree = changed(self.tree, self.rng)
        try:
            plan = build(tree).compile()
        except FlowError:
            return None
        if not all(verdict.may_be_accepted for verdict in verdicts_on(plan, self.machine) if verdict.is_refused):
            self.happened["refused"] += 1
            return None
        self.happened["adopted"] += 1
        self.machine.adopt(plan)
        self.twin.adopt(as_recorded(plan))
        name = f"plan {len(self.plans)}"
        self.tree, self.plan, self.plans[name] = tree, plan, plan
        return name

    def tell(self, *events: m.Event) -> None:
        for event in events:
            if isinstance(event, FORWARD):
                assert self.machine.phase is RunState.RUNNING, f"{event} in a run that is {self.machine.phase}"
            if isinstance(event, m.AttemptStarted):
                self._check_start(event.task)
            elif isinstance(event, m.RevertStarted):
                self._check_revert(event.task)
            self.happened[type(event).__name__] += 1
            super().tell(event)

    def _check_start(self, task: int) -> None:
        """Check that what *task* comes after has settled, gates passed through, and that what it reads is there."""
        machine, plan = self.machine, self.plan
        before = plan.predecessors()
        seen, stack = {task}, [task]
        while stack:
            for node in before[stack.pop()]:
                if node >= plan.size and node not in seen:
                    seen.add(node)
                    stack.append(node)
                elif node < plan.size:
                    assert machine.states[node] in SETTLED, f"{plan.path(task)} starts before {plan.path(node)}"
        for read in plan.bindings[task].reads():
            value = machine.values[read]
            assert not (type(value) is Sealed and not value.is_kept), f"{plan.path(read)} is not there"

    def _check_revert(self, task: int) -> None:
        """Check that what comes after *task*, and is undone with it, has been; gates passed through."""
        machine, plan = self.machine, self.plan
        order = machine._undoing_of(task)
        assert order is not None
        seen, stack = {task}, [task]
        while stack:
            for node in plan.successors[stack.pop()]:
                if node in seen or node not in order:
                    continue
                seen.add(node)
                stack.append(node)
                is_undone = node >= plan.size or not machine.started[node] or machine.states[node] == REVERTED
                assert is_undone, f"{plan.path(task)} is undone before {plan.path(node)}"

    def check_end(self) -> None:
        """Check that the end fits what was done."""
        machine = self.machine
        for task, state in enumerate(map(TaskState, machine.states)):
            if machine.phase is RunState.SUCCEEDED:
                assert state in (TaskState.SUCCEEDED, TaskState.SKIPPED), f"{self.plan.path(task)} is {state}"
            elif machine.phase in (RunState.REVERTED, RunState.CANCELLED):
                assert not machine.started[task] or state is TaskState.REVERTED, f"{self.plan.path(task)} is {state}"


def wander(seed: int, most: int, happened: Counter[str]) -> None:
    """Bring one seed's run to its end in any order, with a changed flow behind some of its crashes."""
    tree, plan = random_tree(seed, most)
    rng = random.Random(f"walk {seed}")
    world = World(seed, rng.choice((0.0, 0.1, 0.3, 0.5)))
    rules = AnyRules(rng.choice(("cancel", "cancel", "finish")), never_revert=rng.random() < 0.1)
    loser = random.Random(f"loser {seed}") if rng.random() < 0.7 else None
    walk = Changing(tree, plan, world, rules, loser=loser)
    try:
        at_random(walk, rng, rng.choice((0.3, 1.0)))
        walk.check_end()
    except Exception as error:
        error.add_note(f"seed {seed}, {most} tasks")
        raise
    happened.update(walk.happened)


def test_a_run_whose_flow_has_changed_starts_nothing_too_early_and_comes_to_its_end() -> None:
    """Tasks, conditions, controllers and time limits come and go, and some values were not kept."""
    happened: Counter[str] = Counter()
    for seed in range(600):
        wander(seed, 14, happened)
    assert min(happened[kind] for kind in ("adopted", "refused", "ValuesLost", "FlowStartedOver", "TaskSkipped")) > 0


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(20))
def test_many_runs_whose_flow_has_changed_come_to_their_end(thousand: int) -> None:
    """The same with more seeds and more tasks."""
    happened: Counter[str] = Counter()
    for seed in range(thousand * 1_000, (thousand + 1) * 1_000):
        wander(seed, 20, happened)
    assert happened["adopted"] > 0
