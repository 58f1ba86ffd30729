"""
A flow made into a plan: laid out, wired, ordered, checked and frozen.

Every step is linear in tasks and edges, and none recurses over the user's nesting or chains.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

import attrs

from asyncflow.errors import CycleError, FlowError
from asyncflow.graph.defaults import maker_for
from asyncflow.graph.inputs import (
    Attribute,
    Binding,
    Element,
    FirstOf,
    Gathered,
    Made,
    Otherwise,
    Output,
    Source,
)
from asyncflow.graph.layout import Composite, Layout
from asyncflow.graph.order import Edges, Sequencer
from asyncflow.graph.outside import Outside
from asyncflow.graph.place import Entry, Places, lay_out
from asyncflow.graph.plan import Guard, Plan, Scope
from asyncflow.graph.reach import may_be_skipped
from asyncflow.graph.reference import Ref
from asyncflow.graph.sources import Sources
from asyncflow.graph.target import aim
from asyncflow.graph.wiring import Pair, Wiring

_AT_ONCE = 4096


@attrs.define
class Compiled:
    """A plan, what the flow gives, and what it was made of, to tell whether the flow has changed since."""

    plan: Plan
    outputs: dict[str, Any]
    _layouts: list[tuple[Layout, int]]
    _edits: int

    def is_current(self) -> bool:
        """Whether no flow that the plan is made of has changed."""
        if self._edits != Layout.edits:
            if any(layout.revision != revision for layout, revision in self._layouts):
                return False
            self._edits = Layout.edits
        return True


def compile_flow(root: Composite) -> Compiled:
    """
    Return the plan of *root*.

    Raises:
        FlowError: The flow can never run as it is.
        DeclarationError: A task in it is declared wrongly.
    """
    edits = Layout.edits
    places = lay_out(root)
    edges = Edges(places)
    wiring = Wiring(root.name, places, edges)
    bindings = wiring.bind_all()
    outside = Outside(root.name, places, wiring)
    outside.bind_controllers(bindings)
    wiring.check_given()
    guards = outside.bind_conditions() if places.has_conditions else []
    sequencer = Sequencer(places, edges)
    _link_after(places, wiring, sequencer)
    sequencer.run()
    after = _successors(places, edges)
    order = _sorted(root.name, places, edges, after)
    if wiring.undecided:
        pairs = {pair for pairs in wiring.undecided.values() for pair in pairs}
        precedes = _ordered(pairs, order, after)
        for task in wiring.undecided:
            bindings[task] = wiring.decide(task, precedes)
    plan = _freeze(root, places, edges, wiring, bindings, after, guards)
    if guards:
        _check_returns(plan)
    outputs = _outputs(root, plan, wiring.sources)
    if root.targets:
        plan = aim(
            plan, root.targets, {place.path: place.index for place in places.all[1:]}, wiring.sources, root.layout
        )
        outputs = {
            name: wiring.sources.annotation(sources[0]) for name, sources in plan.provided.items()
        } or dict.fromkeys(root.targets, dict)
    _check_reverts(plan)
    made_of = {id(place.layout): (place.layout, place.layout.revision) for place in places.all}
    return Compiled(plan, outputs, list(made_of.values()), edits)


def _link_after(places: Places, wiring: Wiring, sequencer: Sequencer) -> None:
    for place in places.all:
        for ref, position in place.layout.after:
            base: Any = ref
            while isinstance(base, Ref):
                base = base.asyncflow_base
            if isinstance(base, int):
                sequencer.link(place.index, place.codes[base], place.codes[position])
                continue
            for node in wiring.nodes(wiring.sources.of(place, ref)):
                sequencer.link(place.index, node, place.codes[position])


# --- Order ------------------------------------------------------------------------------------------------------------


def _successors(places: Places, edges: Edges) -> list[list[int]]:
    """Return the nodes behind each node, every edge once; ``edges.before`` is rid of doubles too."""
    size = len(places.tasks)
    ids = [*places.ids, *range(size, size + len(edges.gates))]
    after: list[list[int]] = [[] for _ in ids]
    before = edges.before
    for node in ids:
        nodes = before[node]
        if len(nodes) > 1:
            nodes = before[node] = list(dict.fromkeys(nodes))
        for one in nodes:
            after[one].append(node)
    return after


def _sorted(flow: str, places: Places, edges: Edges, after: list[list[int]]) -> list[int]:
    """
    Return all nodes, each behind those that it waits for.

    Raises:
        CycleError: There is no such order.
    """
    waiting = [len(nodes) for nodes in edges.before]
    order = [node for node, count in enumerate(waiting) if not count]
    for node in order:  # It grows on the way.
        for behind in after[node]:
            waiting[behind] -= 1
            if not waiting[behind]:
                order.append(behind)
    if len(order) < len(waiting):
        raise _cycle(flow, places, edges, waiting)
    return order


def _cycle(flow: str, places: Places, edges: Edges, waiting: list[int]) -> CycleError:
    """Describe one cycle among the nodes that still wait."""
    node = next(node for node, count in enumerate(waiting) if count)
    seen: dict[int, int] = {}
    walk: list[int] = []
    while node not in seen:
        seen[node] = len(walk)
        walk.append(node)
        node = next(before for before in edges.before[node] if waiting[before])
    nodes = walk[seen[node] :][::-1]
    size = len(places.tasks)
    tasks = [node for node in nodes if node < size]
    if tasks:
        first = tasks.index(min(tasks))
        names = [places.path(task) for task in (*tasks[first:], *tasks[:first])]
    else:
        names = list(dict.fromkeys(places.all[edges.gates[node - size]].path or flow for node in nodes))
    names.append(names[0])
    atomic = {edges.gates[node - size] for node in nodes if node >= size} & edges.end.keys()
    reason = "an input may only come from a task that does not depend on it"
    if atomic:
        path = places.all[min(atomic)].path or flow
        reason = f"flow {path!r} has a controller, so what it gives is there only when all of it has ended"
    return CycleError(f"flow {flow!r} has a cycle: {' -> '.join(names)}; {reason}", flow=flow, cycle=names)


def _ordered(pairs: set[Pair], order: list[int], after: list[list[int]]) -> set[Pair]:
    """Return those of *pairs* whose first node comes before the second on some way."""
    readers: dict[int, list[int]] = {}
    for provider, reader in pairs:
        readers.setdefault(reader, []).append(provider)
    providers = sorted({provider for provider, _ in pairs})
    found: set[Pair] = set()
    for start in range(0, len(providers), _AT_ONCE):
        # One bit for each provider, handed on along the edges: a pass for thousands of them at a time.
        bits = {provider: 1 << at for at, provider in enumerate(providers[start : start + _AT_ONCE])}
        reached: dict[int, int] = {}
        for node in order:
            here = reached.pop(node, 0)
            for provider in readers.get(node, ()):
                if here & bits.get(provider, 0):
                    found.add((provider, node))
            here |= bits.get(node, 0)
            if here:
                for behind in after[node]:
                    reached[behind] = reached.get(behind, 0) | here
    return found


# --- Freezing ---------------------------------------------------------------------------------------------------------


def _freeze(
    root: Composite,
    places: Places,
    edges: Edges,
    wiring: Wiring,
    bindings: Sequence[Binding],
    after: list[list[int]],
    guards: Sequence[Guard],
) -> Plan:
    inputs, sources = wiring.inputs, wiring.sources
    provided = {
        name: tuple([sources.at(entry) for entry in reversed(entries)]) for name, entries in _entries(places).items()
    }
    returns: Source | None = sources.resolve(("return", 0, ""))
    if root.layout.kind == "builder" and root.layout.returns is None:
        returns = None
    elif (
        returns and guards and root.layout.signature is not None and (make := maker_for(root.layout.signature.returns))
    ):
        returns = Made(returns, make)
    return Plan(
        flow=root.name,
        scopes=tuple(_scope(places, edges, index) for index in range(len(places.all))),
        names=places.names,
        scope_of=array("I", places.scope_of),
        successors=[places.single(nodes[0]) if len(nodes) == 1 else tuple(nodes) for nodes in after],
        pending=array("I", map(len, edges.before)),
        ranks=_ranks(places),
        tasks=places.tasks,
        bindings=bindings,
        undo_bindings=wiring.undo_bindings,
        provided=provided,
        returns=returns,
        inputs=inputs.annotations,
        required=frozenset(inputs.required),
        input_defaults=inputs.defaults,
        shadowed=frozenset() if root.layout.kind == "builder" else frozenset(provided),
        lendable=frozenset(inputs.lendable),
        numbered=_numbered(places),
        guards=guards,
        tolerant=_tolerant(bindings) if guards else frozenset(),
    )


def _tolerant(bindings: Sequence[Binding]) -> frozenset[int]:
    """Return the tasks that read others, and have a default for each of those values."""
    found: set[int] = set()
    for task, binding in enumerate(bindings):
        reading = [source for source in binding.sources() if any(True for _ in source.tasks())]
        if reading and all(type(source) in (Otherwise, Made) for source in reading):
            found.add(task)
    return frozenset(found)


def _check_returns(plan: Plan) -> None:
    """Refuse a flow whose value may come from a task that is skipped, and that says nothing for that case."""
    skippable = may_be_skipped(plan)
    stack: list[Any] = [plan.returns]
    while stack:
        source = stack.pop()
        if isinstance(source, Output) and source.task in skippable:
            path = plan.path(source.task)
            raise FlowError(
                f"flow {plan.flow!r} returns the value of {path!r}, which may be skipped; say what it is then: "
                "ref.otherwise(...), or af.default_for(...) for its type",
                flow=plan.flow,
                task=path,
            )
        if isinstance(source, (Element, Attribute)):
            stack.append(source.source)
        elif isinstance(source, Gathered):
            stack.extend(source.parts)
        elif isinstance(source, FirstOf):
            stack.append(source.sources[-1])


def _check_reverts(plan: Plan) -> None:
    """Refuse a revert that reads a value which is not kept: after a crash it would fail, and the effect would stay."""
    assert plan.tasks is not None
    unkept = {task for task, declared in enumerate(plan.tasks) if not declared.checkpoint}
    if not unkept:
        return
    for task in range(plan.size):
        for read in sorted(plan.reads_of_revert(task) & unkept):
            raise FlowError(
                f"the revert of task {plan.path(task)!r} takes the value of {plan.path(read)!r}, which has "
                "checkpoint=False, and after a crash that is gone; keep the value, or let the revert take something "
                "else, such as a resource of the engine",
                flow=plan.flow,
                task=plan.path(task),
            )


def _scope(places: Places, edges: Edges, index: int) -> Scope:
    place = places.all[index]
    flow, family = place.flow, ""
    name = flow.name
    if place.parent >= 0:
        around = places.all[place.parent]
        name = place.path[len(around.path) + 1 :] if around.path else place.path
        family = around.layout.families.get(place.position, "")
    return Scope(
        name,
        place.parent,
        place.path,
        flow.timeout,
        flow.concurrency,
        edges.begin.get(index, edges.guarded.get(index, -1)),
        edges.end.get(index, -1),
        place.controller,
        family,
        _on_failure(places, index),
        flow.revert_scope,
    )


def _on_failure(places: Places, index: int) -> str:
    """Return what the flow at *index*, or the nearest around it that says so, does with siblings of what failed."""
    while index >= 0:
        place = places.all[index]
        if place.flow.on_failure:
            return place.flow.on_failure
        index = place.parent
    return ""


def _numbered(places: Places) -> bytes:
    found = bytearray(len(places.tasks))
    some = False
    for place in places.all:
        for position in place.layout.families:
            if place.codes[position] >= 0:
                found[place.codes[position]] = 1
                some = True
    return bytes(found) if some else b""


def _ranks(places: Places) -> Sequence[int] | None:
    tasks = places.tasks
    if not any(task.priority for task in tasks):
        return None
    ranks = array("I", bytes(4 * len(tasks)))
    for rank, task in enumerate(sorted(range(len(tasks)), key=lambda one: -tasks[one].priority)):
        ranks[task] = rank
    return ranks


def _entries(places: Places) -> dict[str, list[Entry]]:
    """Return what provides each name that the outermost flow shows, in plan order."""
    root = places.all[0]
    if root.layout.kind != "builder":
        return {name: entries for name, (_, entries) in root.domain.providers.items()}
    found: dict[str, list[Entry]] = {}
    for code in root.codes:
        if code >= 0:
            for name, key in places.tasks[code].gives:
                found.setdefault(name, []).append(places.part(code, key))
            continue
        place = places.all[~code]
        if place.layout.kind == "builder":
            for name, key in place.layout.gives:
                found.setdefault(name, []).append(places.part_of_flow(place.index, key))
        else:
            for name, (_, entries) in place.domain.providers.items():
                found.setdefault(name, []).extend(entries)
    for name, key in root.layout.gives:
        found.setdefault(name, []).append(places.part_of_flow(0, key))
    return found


def _outputs(root: Composite, plan: Plan, sources: Sources) -> dict[str, Any]:
    layout = root.layout
    if layout.signature is not None:
        if not layout.gives:
            return {"return": layout.signature.returns}
        names = [name for name, _ in layout.gives]
    else:
        names = list(plan.provided)
    return {name: sources.annotation(plan.provided[name][0]) for name in names}
