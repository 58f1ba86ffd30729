"""The reverse order: which task may be undone, given which of its dependents have been."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from asyncflow.graph.plan import Plan


class ReverseOrder:
    """
    Counts, for each node of a plan, the nodes after it that stand in the way of undoing it.

    A node is *clear* once it needs no undoing any more: a task that never started, a gate, or a task whose revert is
    done. It opens, and may itself be undone, when all nodes after it are clear; so nobody's inputs are taken away
    before what was made of them. The cost is linear in nodes and edges, whatever the order of the calls.
    """

    __slots__ = ("_blocked", "_plan")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._blocked = [len(after) for after in plan.successors]

    def is_open(self, node: int) -> bool:
        """Whether everything after *node* is clear."""
        return not self._blocked[node]

    def start(self, started: Sequence[int]) -> list[int]:
        """
        Clear whatever never started, from the plan's ends inwards, and return the tasks that are open by then.

        *started* has a number for each task, 0 where it never started.
        """
        size = self._plan.size
        ends = [node for node, after in enumerate(self._plan.successors) if not after]
        opened = [node for node in ends if node < size and started[node]]
        opened.extend(self.clear((node for node in ends if node >= size or not started[node]), started))
        return opened

    def clear(self, nodes: Iterable[int], started: Sequence[int]) -> Iterator[int]:
        """Mark *nodes* clear and yield the started tasks which that opens; what never started is cleared on the way."""
        before, blocked, size = self._plan.predecessors(), self._blocked, self._plan.size
        stack = list(nodes)
        while stack:
            for node in before[stack.pop()]:
                blocked[node] -= 1
                if blocked[node]:
                    continue
                if node < size and started[node]:
                    yield node
                else:
                    stack.append(node)
