"""How far a condition's no reaches: which tasks are skipped when what it guards is."""

from __future__ import annotations

from asyncflow.graph.plan import Guard, Plan


def reach(plan: Plan, guard: Guard, depth: str | None = None) -> list[int]:
    """
    Return the tasks that a no of *guard* skips, in plan order; *depth* takes the place of the guard's own.

    "dominated" looks at this no alone: what can also be reached past what is guarded stays, whatever else is skipped,
    and so does what has a default for everything that it reads. A flow goes with its controller.
    """
    depth = depth or guard.depth
    found = {guard.node} if guard.scope < 0 else {guard.node, *plan.span(guard.scope)}
    _add_flows(plan, list(found), found)
    if depth == "neighbours":
        near = _next_tasks(plan, found)
        found.update(near)
        _add_flows(plan, list(near), found)
    elif depth == "dominated":
        _add_dominated(plan, found)
    elif depth in ("all", "flow"):
        _add_successors(plan, found)
        if depth == "flow":
            around = plan.scopes[guard.scope].parent if guard.scope >= 0 else plan.scope_of[guard.node]
            found.intersection_update(plan.span(max(around, 0)))
    return sorted(node for node in found if node < plan.size)


def _add_flows(plan: Plan, nodes: list[int], found: set[int]) -> list[int]:
    """Add to *found* the flows of those of *nodes* that are controllers, their ends included; return what is new."""
    more: list[int] = []
    for node in nodes:
        scope = plan.scopes[plan.scope_of[node]] if node < plan.size else None
        if scope is not None and scope.controller == node:
            inside = (*plan.span(plan.scope_of[node]), *plan.inside(plan.scope_of[node]))
            more.extend(one for one in inside if one not in found)
            found.update(more)
    return more


def _next_tasks(plan: Plan, nodes: set[int]) -> set[int]:
    """Return the tasks right behind *nodes*, past gates."""
    found: set[int] = set()
    stack = list(nodes)
    while stack:
        for after in plan.successors[stack.pop()]:
            if after not in found:
                found.add(after)
                if after >= plan.size:
                    stack.append(after)
    return found


def _add_successors(plan: Plan, found: set[int]) -> None:
    stack = list(found)
    while stack:
        for after in plan.successors[stack.pop()]:
            if after not in found:
                found.add(after)
                stack.append(after)


def _add_dominated(plan: Plan, found: set[int]) -> None:
    ways: dict[int, int] = {}
    stack = list(found)
    while stack:
        for after in plan.successors[stack.pop()]:
            if after not in found and after not in plan.tolerant:
                ways[after] = ways.get(after, 0) + 1
                if ways[after] == plan.pending[after]:
                    found.add(after)
                    stack.append(after)
                    stack.extend(_add_flows(plan, [after], found))


def may_be_skipped(plan: Plan) -> set[int]:
    """Return every task that some condition of *plan* may skip."""
    return {task for guard in plan.guards for task in reach(plan, guard)}
