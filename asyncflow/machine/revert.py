"""Undoing in reverse: which task may be undone, given which of its dependents have been."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from asyncflow.graph.plan import Plan


class ReverseOrder:
    """
    Counts, for each node of a plan or of one flow in it, the nodes after it that stand in the way of undoing it.

    A node is *clear* once it needs no undoing any more: a task that never started, a gate, or a task whose revert is
    done. It opens, and may itself be undone, when all of *nodes* after it are clear; so nobody's inputs are taken away
    before what was made of them. The cost is linear in nodes and edges, whatever the order of the calls.

    Args:
        plan: The plan.
        nodes: The nodes that are undone: all of the plan's, or those within a flow that has a controller.
        must: Whether a task is to be undone: it has started and no revert of it is done.
    """

    __slots__ = ("_blocked", "_must", "_nodes", "_plan", "left")

    def __init__(self, plan: Plan, nodes: Collection[int], must: Callable[[int], bool]) -> None:
        self._plan = plan
        self._nodes = nodes
        self._must = must
        successors = plan.successors
        self._blocked: list[int] | dict[int, int]
        if len(nodes) == len(successors):
            self._blocked = [len(after) for after in successors]
        else:
            self._blocked = {node: sum(after in nodes for after in successors[node]) for node in nodes}
        self.left = 0
        """Tasks that are open and have not been undone: their revert is due, running or waiting."""

    def __contains__(self, node: int) -> bool:
        """Whether *node* is among those that are undone."""
        return node in self._nodes

    def is_open(self, node: int) -> bool:
        """Whether *node* is among those that are undone, and everything after it is clear."""
        return node in self._nodes and not self._blocked[node]

    def start(self) -> list[int]:
        """Clear whatever needs no undoing, from the ends inwards, and return the tasks that are open by then."""
        size, must = self._plan.size, self._must
        ends = [node for node in self._nodes if not self._blocked[node]]
        opened = [node for node in ends if node < size and must(node)]
        opened.extend(self.clear(node for node in ends if node >= size or not must(node)))
        return opened

    def clear(self, nodes: Iterable[int]) -> Iterator[int]:
        """Mark *nodes* clear and yield the tasks that this opens; what needs no undoing is cleared on the way."""
        before, blocked, inside = self._plan.predecessors(), self._blocked, self._nodes
        size, must = self._plan.size, self._must
        stack = list(nodes)
        while stack:
            for node in before[stack.pop()]:
                if node not in inside:
                    continue
                blocked[node] -= 1
                if blocked[node]:
                    continue
                if node < size and must(node):
                    yield node
                else:
                    stack.append(node)
