"""Runs a plan in the plainest way there is, one task after the other, so that tests of wiring need no engine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from asyncflow.errors import ResourceMissing
from asyncflow.graph.inputs import NoValue
from asyncflow.graph.pattern import as_flow
from asyncflow.graph.plan import Plan


class PlainValues:
    """The values of one such run."""

    def __init__(self, plan: Plan, inputs: Mapping[str, Any], resources: Mapping[str, Any]) -> None:
        self.inputs = {**plan.input_defaults, **inputs}
        self.shadows = not plan.shadowed.isdisjoint(inputs)
        self.values: dict[int, Any] = {}
        self.resources = resources

    def value(self, task: int) -> Any:
        if task not in self.values:
            raise NoValue(str(task))
        return self.values[task]

    def resource(self, name: str, wanted: Any) -> Any:
        if name not in self.resources:
            raise ResourceMissing(name)
        return self.resources[name]


def perform(
    flow: Any,
    inputs: Mapping[str, Any] | None = None,
    *,
    resources: Mapping[str, Any] | None = None,
    backwards: bool = False,
) -> Any:
    """Return what *flow* returns. *backwards* takes the last of what is ready first: another order that is allowed."""
    plan = as_flow(flow).compile()
    given = plan.check_inputs(inputs or {}, resources or {})
    values = PlainValues(plan, given, resources or {})
    assert plan.tasks is not None
    pending, ready = list(plan.pending), list(plan.roots())
    done = 0
    while ready:
        node = ready.pop(-1 if backwards else 0)
        done += 1
        if node < plan.size:
            args, kwargs = plan.bindings[node].read(values)
            result = plan.tasks[node].body(*args, **kwargs)
            values.values[node] = asyncio.run(result) if asyncio.iscoroutine(result) else result
        for behind in plan.successors[node]:
            pending[behind] -= 1
            if not pending[behind]:
                ready.append(behind)
    assert done == len(plan.successors), "a plan must come to its end"
    return None if plan.returns is None else plan.returns.read(values)


def edges(plan: Plan) -> set[tuple[str, str]]:
    """Return the edges of *plan* by path, those through gates as if there were none."""
    return {(plan.path(one), plan.path(other)) for one in range(plan.size) for other in tasks_behind(plan, one)}


def tasks_behind(plan: Plan, node: int) -> set[int]:
    """Return the tasks that wait for *node*, directly or through gates only."""
    found: set[int] = set()
    stack = list(plan.successors[node])
    while stack:
        one = stack.pop()
        if one < plan.size:
            found.add(one)
        else:
            stack.extend(plan.successors[one])
    return found


def ancestors(plan: Plan) -> list[set[int]]:
    """Return, for each task, all tasks that end before it starts."""
    found: list[set[int]] = [set() for _ in plan.successors]
    pending = list(plan.pending)
    ready = [node for node, count in enumerate(pending) if not count]
    for node in ready:
        for behind in plan.successors[node]:
            found[behind] |= found[node] | {node}
            pending[behind] -= 1
            if not pending[behind]:
                ready.append(behind)
    return [{task for task in before if task < plan.size} for before in found[: plan.size]]
