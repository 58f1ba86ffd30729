"""Random nested flows: what the compiler makes of them against a plain statement of the rules."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncflow.errors import AmbiguousProvider, CycleError
from asyncflow.graph import record as recorded
from asyncflow.graph.flow import Flow
from asyncflow.graph.inputs import Named, Otherwise, Output
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.task import FunctionTask, Task
from tests.graph.perform import ancestors, perform

NAMES = ("a", "b", "c")


@attrs.define
class Leaf:
    """A task: what it provides, requires and can do without."""

    provides: str | None
    requires: tuple[str, ...]
    optional: tuple[str, ...]


@attrs.define
class Branch:
    """A flow."""

    kind: str
    items: list[Any]
    links: list[tuple[int, int]]


leaves = st.builds(
    Leaf,
    st.sampled_from((None, *NAMES)),
    st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple),
    st.lists(st.sampled_from(NAMES), max_size=1).map(tuple),
).filter(lambda leaf: not set(leaf.requires) & set(leaf.optional))


def branches(items: st.SearchStrategy[Any]) -> st.SearchStrategy[Branch]:
    pairs = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=3)
    return st.builds(Branch, st.sampled_from(("linear", "unordered", "graph")), st.lists(items, max_size=5), pairs)


trees = branches(st.recursive(leaves, branches, max_leaves=14))


def build(tree: Any, name: str) -> Any:
    """Return the flow that *tree* stands for."""
    if isinstance(tree, Leaf):
        parameters = ", ".join([*tree.requires, *(f"{one}=None" for one in tree.optional)])
        scope: dict[str, Any] = {}
        taken = ", ".join(f"{one!r}: {one}" for one in (*tree.requires, *tree.optional))
        exec(f"def fn({parameters}): return ({name!r}, {{{taken}}})", scope)
        return FunctionTask(scope["fn"], name=name, provides=tree.provides, executor="inline")
    make = {"linear": linear, "unordered": unordered, "graph": graph}[tree.kind]
    flow = make(name, *(build(item, f"{name}{at}") for at, item in enumerate(tree.items)))
    if tree.kind == "graph":
        for first, then in links_of(tree):
            flow.link(f"{name}{first}", f"{name}{then}")
    return flow


def links_of(tree: Branch) -> list[tuple[int, int]]:
    return [(one, other) for one, other in tree.links if one != other and max(one, other) < len(tree.items)]


class Rules:
    """The rules of wiring, stated without care for time: every pair of tasks, every level."""

    def __init__(self, root: Branch) -> None:
        self.tasks: list[tuple[tuple[int, ...], Leaf]] = []
        self.branches: dict[tuple[int, ...], Branch] = {}
        self.empty_cycle = False
        self._walk(root, ())
        self.reads: dict[tuple[int, str], int] = {}
        self.order = self._ordered()
        self.ambiguous = False
        self._required()
        self.before = self._closed()
        self.is_cyclic = any(task in before for task, before in enumerate(self.before))

    def _walk(self, tree: Any, path: tuple[int, ...]) -> None:
        if isinstance(tree, Leaf):
            self.tasks.append((path, tree))
            return
        self.branches[path] = tree
        for at, item in enumerate(tree.items):
            self._walk(item, (*path, at))

    def inside(self, path: tuple[int, ...]) -> list[int]:
        return [at for at, (other, _) in enumerate(self.tasks) if other[: len(path)] == path]

    def _ordered(self) -> set[tuple[int, int]]:
        """Pairs in order because their flows say so; an empty flow in a sequence hands the order on."""
        found: set[tuple[int, int]] = set()
        for path, branch in self.branches.items():
            count = len(branch.items)
            direct = {(i, j) for i in range(count) for j in range(i + 1, count)} if branch.kind == "linear" else set()
            if branch.kind == "graph":
                direct = set(links_of(branch))
                # Through items without a task in them.
                for middle in range(count):
                    if not self.inside((*path, middle)):
                        direct |= {(i, j) for i, m in direct if m == middle for k, j in direct if k == middle}
                self_links = {(i, j) for i, j in direct if i == j and not self.inside((*path, i))}
                self.empty_cycle = self.empty_cycle or bool(self_links)
            for i, j in direct:
                found |= {(one, other) for one in self.inside((*path, i)) for other in self.inside((*path, j))}
        return found

    def visible(self, task: int, name: str, *, nearest: bool = False) -> list[tuple[int, str]]:
        """Return the providers of *name*, nearest first, each with how its flow orders them; or the *nearest* alone."""
        path, _ = self.tasks[task]
        found: list[tuple[int, str]] = []
        for depth in range(len(path) - 1, -1, -1):
            if found and nearest:
                break
            around, mine = path[:depth], path[depth]
            kind = self.branches[around].kind
            if kind == "unordered":
                continue
            siblings: dict[int, list[int]] = {}
            for at, (other, leaf) in enumerate(self.tasks):
                if other[:depth] == around and other[depth] != mine and leaf.provides == name:
                    siblings.setdefault(other[depth], []).append(at)
            if kind == "linear":
                siblings = {item: tasks for item, tasks in siblings.items() if item < mine}
                if siblings:
                    found.append((siblings[max(siblings)][-1], kind))
            elif len(siblings) > 1:
                self.ambiguous = True
                return found
            elif siblings:
                found.append((next(iter(siblings.values()))[-1], kind))
        return found

    def _required(self) -> None:
        for task, (_, leaf) in enumerate(self.tasks):
            for name in leaf.requires:
                visible = self.visible(task, name, nearest=True)
                if visible:
                    self.reads[task, name] = visible[0][0]

    def _closed(self) -> list[set[int]]:
        direct: list[set[int]] = [set() for _ in self.tasks]
        for one, other in self.order | {(provider, task) for (task, _), provider in self.reads.items()}:
            direct[other].add(one)
        closed = [set(before) for before in direct]
        changed = True
        while changed:
            changed = False
            for before in closed:
                more = set().union(*(closed[one] for one in before)) if before else set()
                if not more <= before:
                    before |= more
                    changed = True
        return closed

    def optional(self, task: int, name: str) -> int | None:
        for provider, kind in self.visible(task, name):
            if kind == "linear" or provider in self.before[task]:
                return provider
        return None

    def any_optional_is_ambiguous(self) -> bool:
        """A look for an optional name stops at the first provider that is certain."""
        self.ambiguous = False
        for path, leaf in self.tasks:
            for name in leaf.optional:
                certain = False
                for depth in range(len(path) - 1, -1, -1):
                    if certain:
                        break
                    kind = self.branches[path[:depth]].kind
                    items = {
                        other[depth]
                        for other, one in self.tasks
                        if other[:depth] == path[:depth] and other[depth] != path[depth] and one.provides == name
                    }
                    if kind == "graph" and len(items) > 1:
                        return True
                    certain = kind == "linear" and any(item < path[depth] for item in items)
        return False


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_a_nested_flow_compiles_into_what_the_rules_say(tree: Branch) -> None:
    """Order, data dependencies and provider of every input, for flows that nobody would write by hand."""
    rules = Rules(tree)
    flow: Flow[..., Any] = build(tree, "t")
    if rules.ambiguous or rules.any_optional_is_ambiguous():
        with pytest.raises((AmbiguousProvider, CycleError)):
            flow.compile()
        return
    if rules.is_cyclic or rules.empty_cycle:
        with pytest.raises(CycleError):
            flow.compile()
        return
    plan = flow.compile()
    assert plan.size == len(rules.tasks)
    assert ancestors(plan) == rules.before
    assert plan.tasks is not None
    for task, (_, leaf) in enumerate(rules.tasks):
        binding = plan.bindings[task]
        sources = dict(zip(binding.names, binding.positional, strict=True))
        for name in leaf.requires:
            assert whole(sources[name]) == rules.reads.get((task, name))
        for name in leaf.optional:
            assert whole(sources[name]) == rules.optional(task, name)
    for behind in plan.successors:
        assert len(set(behind)) == len(behind), "an edge counts once"
    inputs = dict.fromkeys(plan.required, "given")
    assert perform(flow, inputs) == perform(flow, inputs, backwards=True), "any order that is allowed gives the same"
    assert recorded.digest_of(build(tree, "t").compile()) == recorded.digest_of(plan), (
        "the same flow is the same record"
    )
    read_back = recorded.decode(recorded.body_of(plan))
    assert [tuple(one) for one in read_back.successors] == [tuple(one) for one in plan.successors]
    assert [read_back.path(task) for task in range(plan.size)] == [plan.path(task) for task in range(plan.size)]


def whole(source: Any) -> int | None:
    """Return the task behind a source by name, or None for the run."""
    if isinstance(source, Otherwise):
        source = source.source
    assert isinstance(source, Named)
    provider = source.providers[0]
    return provider.task if isinstance(provider, Output) else None


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees, st.data())
def test_a_target_keeps_what_it_needs_and_nothing_else(tree: Branch, data: st.DataObject) -> None:
    """Aiming at a task is for running less: not less than it needs, and not more."""
    rules = Rules(tree)
    flow: Flow[..., Any] = build(tree, "t")
    try:
        plan = flow.compile()
    except (AmbiguousProvider, CycleError):
        return
    if not plan.size:
        return
    target = data.draw(st.integers(0, plan.size - 1))
    aimed = flow.target(plan.path(target))
    kept = {target, *rules.before[target]}
    assert [aimed.compile().path(task) for task in range(aimed.compile().size)] == [plan.path(t) for t in sorted(kept)]
    assert aimed.compile().required <= plan.required
    part_plan = aimed.compile()
    part = perform(aimed, {name: "given" for name in plan.required if name in {*part_plan.inputs, *part_plan.provided}})
    everything = perform(flow, dict.fromkeys(plan.required, "given"))
    assert isinstance(plan.tasks, list) and all(isinstance(task, Task) for task in plan.tasks)
    name = plan.tasks[target].provides
    if name and plan.provided[name][0].task == target:  # type: ignore[union-attr, index, attr-defined]
        assert part[name] == everything[name]
