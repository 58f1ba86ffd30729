"""When what a no reaches is skipped: once all before it has settled, and a flow as a whole."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from tests.nested.rules import Rules, Shape
from tests.nested.trees import Branch, Leaf, Question, Ruler, World, build
from tests.nested.walk import Walk, at_random, one_at_a_time

ASKED = Question((), None)


class Says(World):
    """A world where conditions say y, n or ! as told, and no where not; *fails* are bodies that fail at first."""

    def __init__(self, answers: Mapping[str, str] | None = None, fails: tuple[str, ...] = ()) -> None:
        super().__init__(0, 0.0)
        object.__setattr__(self, "answers", answers or {})
        object.__setattr__(self, "fails", fails)

    def condition(self, label: str, call: int, inputs: Mapping[str, Any]) -> bool:
        answer = self.answers.get(label, "")[call : call + 1]  # type: ignore[attr-defined]
        if answer == "!":
            raise ValueError(label)
        return bool(answer == "y")

    def body(self, path: str, call: int) -> str:
        return "fail" if path in self.fails and call == 0 else "ok"  # type: ignore[attr-defined]


def walked(tree: Branch, world: World, seed: int | None = None) -> dict[str, str]:
    """Return the states at the end of a run, taken in any order that *seed* thinks of."""
    plan = build(tree).compile()
    walk = Walk(plan, world, Rules(Shape(plan, plan.tolerant)))
    if seed is None:
        one_at_a_time(walk)
    else:
        at_random(walk, random.Random(seed), 0.3)
    states: dict[str, str] = walk.final()["states"]
    return states


def leaf(path: str, **options: Any) -> Leaf:
    return Leaf(path, f"v_{path.replace('/', '_')}", **options)


def test_what_is_behind_a_skipped_task_still_waits_for_the_rest() -> None:
    """b is skipped with a; c comes after b, which comes after x: so c comes after x, whatever b does."""
    a = leaf("a", when=Question((), "neighbours"))
    tree = Branch("", "graph", (a, leaf("x"), leaf("b"), leaf("c")), ((0, 2, None), (1, 2, None), (2, 3, None)))
    for seed in range(40):
        states = walked(tree, Says(), seed)
        if states["c"] == "SUCCEEDED":
            assert states == {"a": "SKIPPED", "x": "SUCCEEDED", "b": "SKIPPED", "c": "SUCCEEDED"}


def test_a_no_within_a_flow_that_runs_again_skips_nothing_behind_it() -> None:
    """The condition says no, the flow fails, and the next time it says yes: then what is behind the flow runs."""
    asked = leaf("f/a", when=Question((), "all"))
    flow = Branch("f", "unordered", (asked, leaf("f/b")), ruler=Ruler("f/r", "c", "times", 2))
    tree = Branch("", "linear", (flow, leaf("behind")))
    states = walked(tree, Says({"task f/a": "ny"}, ("f/b",)))
    assert states == {"f/r": "SUCCEEDED", "f/a": "SUCCEEDED", "f/b": "SUCCEEDED", "behind": "SUCCEEDED"}


def test_the_condition_of_a_flow_that_is_skipped_anyhow_is_not_asked() -> None:
    """It reads a value that nobody gave, and would fail the run."""
    inner = Branch("g/f", "linear", (leaf("g/f/a"),), when=Question((("v_g_p", False),), None))
    outer = Branch("g", "linear", (leaf("g/p"), inner), when=ASKED)
    assert set(walked(Branch("", "linear", (outer,)), Says()).values()) == {"SKIPPED"}


def test_a_flow_is_skipped_with_its_controller() -> None:
    """A controller right behind a skipped task: without it there is nobody to say what becomes of its flow."""
    flow = Branch("f", "linear", (leaf("f/a"), leaf("f/b")), ruler=Ruler("f/r", "c", "times", 2))
    tree = Branch("", "linear", (leaf("p", when=Question((), "neighbours")), flow, leaf("q")))
    states = walked(tree, Says())
    assert states == {"p": "SKIPPED", "f/r": "SKIPPED", "f/a": "SKIPPED", "f/b": "SKIPPED", "q": "SUCCEEDED"}


def test_the_widest_of_two_noes_counts() -> None:
    """One link says no to its end alone, the other to all behind it."""
    for depth, behind in (("all", "SKIPPED"), ("task", "SUCCEEDED")):
        links = ((0, 2, Question((), "task")), (1, 2, Question((), depth)), (2, 3, None))
        tree = Branch("", "graph", (leaf("a"), leaf("b"), leaf("c"), leaf("d")), links)
        assert walked(tree, Says())["d"] == behind


def test_a_skip_that_was_due_when_the_run_turned_round_does_not_keep_it_from_its_end() -> None:
    """One condition says no and another raises, in one turn."""
    tree = Branch("", "unordered", (leaf("a", when=ASKED), leaf("b", when=ASKED)))
    assert walked(tree, Says({"task b": "!"})) == {"a": "PENDING", "b": "FAILED"}


def test_what_else_guards_a_flow_whose_condition_raised_is_not_asked() -> None:
    """The flow has failed, and the flow around it falls still."""
    flow = Branch("f", "linear", (leaf("f/a"),), when=ASKED)
    tree = Branch("", "graph", (leaf("p"), flow), ((0, 1, ASKED),), ruler=Ruler("r", "c", "times", 1))
    states = walked(tree, Says({"flow f": "!", "link :0-1": "!"}))
    assert states == {"r": "REVERTED", "p": "REVERTED", "f/a": "PENDING"}
