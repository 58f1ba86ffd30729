"""A plan restricted to some of its tasks and what they need."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from asyncflow.errors import UnknownTarget
from asyncflow.graph.inputs import (
    NO_ARGUMENTS,
    Attribute,
    Binding,
    Element,
    FirstOf,
    Gathered,
    Made,
    Named,
    Otherwise,
    Output,
    Provided,
    RunInput,
    Source,
    first_of,
)
from asyncflow.graph.layout import Layout
from asyncflow.graph.plan import Guard, Plan
from asyncflow.graph.sources import Sources
from asyncflow.graph.wants import nearest


def aim(plan: Plan, targets: Sequence[str], flows: Mapping[str, int], sources: Sources, root: Layout) -> Plan:
    """
    Return *plan* with only the tasks that *targets* name and those that they wait for, by value, order or link.

    Args:
        plan: The whole plan.
        targets: Paths of tasks and flows.
        flows: Path to number of each flow.
        sources: What a flow within it returns, for a builder.
        root: The outermost flow: a builder gives a mapping of its targets, a pattern what remains of its names.

    Raises:
        UnknownTarget: A target is no path of the flow.
    """
    wanted = {target: _nodes(plan, target, flows) for target in targets}
    kept = _closure(plan, [node for nodes in wanted.values() for node in nodes])
    moved = {old: new for new, old in enumerate(kept)}
    size = sum(old < plan.size for old in kept)
    mover = _Mover(moved)
    assert plan.tasks is not None
    bindings = [mover.binding(plan.bindings[old]) for old in kept[:size]]
    successors = [tuple(moved[one] for one in plan.successors[old] if one in moved) for old in kept]
    provided = {name: tuple(filter(None, map(mover.source, found))) for name, found in plan.provided.items()}
    provided = {name: found for name, found in provided.items() if found}
    if root.kind == "builder":
        values = [
            (target, sources.resolve(("return", flows[target], "")) if target in flows else Output(plan.index(target)))
            for target in targets
        ]
        moved_values = [(target, mover.source(value)) for target, value in values]
        returns: Source = Provided(tuple((target, value) for target, value in moved_values if value is not None))
    else:
        returns = Provided(tuple((name, first_of(found)) for name, found in provided.items()))
    needed = _inputs(bindings)
    needed.update((name, False) for name, required in _inputs_of([returns]).items() if name not in needed or required)
    pending = array("I", bytes(4 * len(kept)))
    for behind in successors:
        for one in behind:
            pending[one] += 1
    ranks = None if plan.ranks is None else [plan.ranks[old] for old in kept[:size]]
    return attrs.evolve(
        plan,
        scopes=tuple(
            attrs.evolve(
                scope,
                begin=moved.get(scope.begin, -1),
                end=moved.get(scope.end, -1),
                controller=moved.get(scope.controller, -1),
            )
            for scope in plan.scopes
        ),
        names=[plan.names[old] for old in kept[:size]],
        scope_of=array("I", [plan.scope_of[old] for old in kept[:size]]),
        successors=successors,
        pending=pending,
        ranks=None if ranks is None else _dense(ranks),
        tasks=[plan.tasks[old] for old in kept[:size]],
        bindings=bindings,
        undo_bindings={moved[old]: mover.binding(one) for old, one in plan.undo_bindings.items() if old in moved},
        provided=provided,
        returns=returns,
        inputs={name: annotation for name, annotation in plan.inputs.items() if name in needed},
        required=frozenset(name for name, required in needed.items() if required and name in plan.required),
        input_defaults={name: value for name, value in plan.input_defaults.items() if name in needed},
        shadowed=plan.shadowed & provided.keys(),
        lendable=plan.lendable & needed.keys(),
        numbered=bytes(plan.numbered[old] for old in kept[:size]) if plan.numbered else b"",
        tolerant=frozenset(moved[task] for task in plan.tolerant if task in moved),
        guards=[mover.guard(guard) for guard in plan.guards if guard.node in moved],
    )


def _nodes(plan: Plan, target: str, flows: Mapping[str, int]) -> list[int]:
    if target in flows:
        scope = flows[target]
        inside = [scope == flow or scope in plan.enclosing(flow) for flow in range(len(plan.scopes))]
        found = [task for task in range(plan.size) if inside[plan.scope_of[task]]]
        return found + [gate for gate in (plan.scopes[scope].begin, plan.scopes[scope].end) if gate >= 0]
    try:
        return [plan.index(target)]
    except KeyError:
        known = [*flows, *(plan.path(task) for task in range(plan.size))]
        raise UnknownTarget(
            f"flow {plan.flow!r} has no task or flow {target!r} to aim at{nearest(target, known)}; give a path "
            "below the flow",
            flow=plan.flow,
            task=target,
        ) from None


def _closure(plan: Plan, nodes: list[int]) -> list[int]:
    """Return *nodes* and all that they wait for, in order."""
    before = plan.predecessors()
    found = set(nodes)
    stack = list(found)
    while stack:
        for one in before[stack.pop()]:
            if one not in found:
                found.add(one)
                stack.append(one)
    return sorted(found)


def _dense(ranks: list[int]) -> list[int]:
    """Return the same order, counted from 0."""
    place = {rank: at for at, rank in enumerate(sorted(ranks))}
    return [place[rank] for rank in ranks]


class _Mover:
    """Rewrites sources under new task numbers."""

    def __init__(self, moved: dict[int, int]) -> None:
        self._moved = moved
        self._known: dict[int, tuple[Any, Source | None]] = {}

    def source(self, source: Source) -> Source | None:
        """Return *source* as it reads now, or None where a task behind it is gone."""
        known = self._known.get(id(source))
        if known is None:
            known = self._known[id(source)] = (source, self._moved_source(source))
        return known[1]

    def _moved_source(self, source: Source) -> Source | None:
        if isinstance(source, Output):
            return Output(self._moved[source.task]) if source.task in self._moved else None
        if isinstance(source, (Element, Attribute, Otherwise, Made)):
            inner = self.source(source.source)
            return None if inner is None else msgspec.structs.replace(source, source=inner)
        if isinstance(source, Named):
            providers = [self.source(provider) for provider in source.providers]
            return Named(source.name, tuple(filter(None, providers))) if None not in providers else None
        if isinstance(source, FirstOf):
            return FirstOf(tuple(filter(None, map(self.source, source.sources))))
        if isinstance(source, Gathered):
            parts = [self.source(part) for part in source.parts]
            return Gathered(source.build, tuple(filter(None, parts))) if None not in parts else None
        if isinstance(source, Provided):
            items = [(name, self.source(part)) for name, part in source.items]
            return Provided(tuple((name, part) for name, part in items if part is not None))
        return source

    def guard(self, guard: Guard) -> Guard:
        """Return a condition on what is kept."""
        sources = tuple(self._moved[task] for task in guard.sources if task in self._moved)
        return attrs.evolve(guard, node=self._moved[guard.node], sources=sources, binding=self.binding(guard.binding))

    def binding(self, binding: Binding) -> Binding:
        """Return the binding of a task that is kept, and so is all that it reads."""
        if binding is NO_ARGUMENTS:
            return binding
        positional = tuple(filter(None, map(self.source, binding.positional)))
        keyword = tuple((name, moved) for name, one in binding.keyword if (moved := self.source(one)) is not None)
        outputs = None if binding.outputs is None else tuple(self._moved[task] for task in binding.outputs)
        return Binding(positional, keyword, binding.names, outputs)


def _inputs(bindings: Sequence[Binding]) -> dict[str, bool]:
    return _inputs_of([source for binding in bindings for source in binding.sources()])


def _inputs_of(sources: Sequence[Source]) -> dict[str, bool]:
    """Return the names that *sources* may read from the run, each with whether one of them has nothing else."""
    found: dict[str, bool] = {}
    stack: list[tuple[Any, bool]] = [(source, True) for source in sources]
    while stack:
        source, required = stack.pop()
        if isinstance(source, RunInput):
            found[source.name] = found.get(source.name, False) or required
        elif isinstance(source, Named):
            real = any(True for _ in source.tasks())
            found[source.name] = found.get(source.name, False) or (required and not real)
            stack.extend((provider, required) for provider in source.providers)
        elif isinstance(source, (Otherwise, Made)):
            stack.append((source.source, False))
        elif isinstance(source, (Element, Attribute)):
            stack.append((source.source, required))
        elif isinstance(source, FirstOf):
            stack.extend((part, required) for part in source.sources)
        elif isinstance(source, Gathered):
            stack.extend((part, required) for part in source.parts)
        elif isinstance(source, Provided):
            stack.extend((part, False) for _, part in source.items)
    return found
