"""
What is worth drawing of a plan: its tree in order, and its edges with most gates taken out.

Gates keep a plan small and mean nothing to a reader. One is taken out, and what stood before it joined to what stood
behind it, unless that would make a thicket of edges; then it stays, to be drawn as a dot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import attrs

from asyncflow.graph.plan import ROOT, Plan

# Three tasks before three: more edges than this are easier to follow through a dot.
_EDGES_PER_GATE = 9


class Step(NamedTuple):
    """
    A step of a walk through the tree of nested flows.

    ``number`` is a scope's where the walk enters or leaves one, else a task's or a gate's. ``depth`` counts the flows
    around it, so what stands directly in the root has 1.
    """

    kind: Literal["enter", "task", "gate", "leave"]
    number: int
    depth: int


@attrs.frozen
class Picture:
    """
    A plan as it is drawn.

    Attributes:
        plan: What is drawn.
        gates: The gates that stay, each with the scope in which it is drawn.
        edges: Pairs of nodes, the first before the second; sorted, each once.
    """

    plan: Plan
    gates: dict[int, int]
    edges: Sequence[tuple[int, int]]

    def walk(self) -> Iterator[Step]:
        """
        Yield every flow below the root, task and remaining gate, in plan order.

        A flow stands where its first task does; one without tasks comes last, and gates come behind what they follow.
        """
        plan = self.plan
        last = len(plan.successors)
        # Each scope comes after the one around it, so a child's first task is known before its parent's is asked for.
        first = [last] * len(plan.scopes)
        for task in range(plan.size - 1, -1, -1):
            first[plan.scope_of[task]] = task
        for scope in range(len(plan.scopes) - 1, ROOT, -1):
            parent = plan.scopes[scope].parent
            first[parent] = min(first[parent], first[scope])
        items: list[list[tuple[int, int, bool]]] = [[] for _ in plan.scopes]
        for scope in range(ROOT + 1, len(plan.scopes)):
            items[plan.scopes[scope].parent].append((first[scope], scope, True))
        for task in range(plan.size):
            items[plan.scope_of[task]].append((task, task, False))
        for gate, scope in self.gates.items():
            items[scope].append((gate, gate, False))
        for members in items:
            members.sort()

        inside = [(ROOT, iter(items[ROOT]))]
        while inside:
            scope, rest = inside[-1]
            member = next(rest, None)
            if member is None:
                inside.pop()
                if scope != ROOT:
                    yield Step("leave", scope, len(inside))
                continue
            _, index, is_scope = member
            if is_scope:
                yield Step("enter", index, len(inside))
                inside.append((index, iter(items[index])))
            else:
                yield Step("gate" if index >= plan.size else "task", index, len(inside))


def picture(plan: Plan) -> Picture:
    """Return *plan* as it is drawn. Linear in its tasks and edges, but for putting the edges in order."""
    gates = _Gates(plan)
    gates.join_chains()
    gates.take_out()
    owners = {gate: index for index, scope in enumerate(plan.scopes) for gate in (scope.begin, scope.end) if gate >= 0}
    edges = set(gates.edges)
    for gate in gates.before:
        edges.update((node, gate) for node in gates.before[gate])
        edges.update((gate, node) for node in gates.after[gate])
    return Picture(plan, {gate: owners.get(gate, ROOT) for gate in gates.before}, sorted(edges))


def readable(name: str) -> str:
    """Return *name* with everything that cannot be seen, or would move the cursor, as a backslash escape."""
    if name.isprintable():
        return name
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in name)


class _Gates:
    """The gates of a plan with their neighbours, while they are being taken out."""

    def __init__(self, plan: Plan) -> None:
        size = plan.size
        # Dictionaries stand in for sets that keep their order.
        self.before: dict[int, dict[int, None]] = {gate: {} for gate in range(size, len(plan.successors))}
        self.after: dict[int, dict[int, None]] = {gate: {} for gate in self.before}
        self.edges: list[tuple[int, int]] = []
        for node, successors in enumerate(plan.successors):
            for successor in successors:
                self._join(node, successor)

    def _join(self, node: int, successor: int) -> None:
        if node in self.after:
            self.after[node][successor] = None
        if successor in self.before:
            self.before[successor][node] = None
        if node not in self.after and successor not in self.before:
            self.edges.append((node, successor))

    def join_chains(self) -> None:
        """
        Make one of two gates where nothing else comes between: nested flows begin and end in chains of them.

        Done at once for a whole chain. Taking its gates out one by one would carry all its edges along each time.
        """
        self._merge({gate: only for gate in self.before if (only := self._only(self.before[gate])) is not None})
        self._merge({gate: only for gate in self.after if (only := self._only(self.after[gate])) is not None})

    def _only(self, neighbours: dict[int, None]) -> int | None:
        if len(neighbours) != 1:
            return None
        (neighbour,) = neighbours
        return neighbour if neighbour in self.before else None

    def _merge(self, into: dict[int, int]) -> None:
        if not into:
            return
        last: dict[int, int] = {}
        for gate in into:
            chain: list[int] = []
            end = gate
            while end in into and end not in last:
                chain.append(end)
                end = into[end]
            last.update(dict.fromkeys(chain, last.get(end, end)))
        before, after = self.before, self.after
        self.before = {gate: {} for gate in before if gate not in last}
        self.after = {gate: {} for gate in self.before}
        pairs = [(node, gate) for gate, nodes in before.items() for node in nodes]
        pairs += [(gate, node) for gate, nodes in after.items() for node in nodes]
        for node, successor in pairs:
            node, successor = last.get(node, node), last.get(successor, successor)
            if node != successor:
                self._join(node, successor)

    def take_out(self) -> None:
        """Join the neighbours of each gate directly, where they are few or where one of them stands alone."""
        # One taken out may leave its neighbours few enough, so those are looked at again.
        waiting = deque(self.before)
        while waiting:
            gate = waiting.popleft()
            if gate not in self.before:
                continue
            before, after = self.before[gate], self.after[gate]
            crossing = len(before) * len(after)
            if crossing > _EDGES_PER_GATE and not self._stands_alone(before) and not self._stands_alone(after):
                continue
            del self.before[gate], self.after[gate]
            for node in before:
                if node in self.after:
                    del self.after[node][gate]
                    waiting.append(node)
            for node in after:
                if node in self.before:
                    del self.before[node][gate]
                    waiting.append(node)
            for node in before:
                for successor in after:
                    self._join(node, successor)

    def _stands_alone(self, neighbours: dict[int, None]) -> bool:
        # Not beside another gate: its edges would be carried on when that one is taken out in turn.
        return len(neighbours) == 1 and self._only(neighbours) is None
