"""A plan as an indented tree for terminals."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping

from asyncflow.formats.picture import Picture, picture
from asyncflow.graph.plan import Plan, Scope
from asyncflow.states import TaskState

_INDENT = "  "
# Deeper lines are not moved in any further and tell their depth instead, which a reader could no longer count.
_DEEPEST = 40
# How many tasks a line names as those it comes after.
_NAMED = 4
_PLAIN = re.compile(r"[\w.\-\[\]]+")


def render(plan: Plan, states: Mapping[str, TaskState] | None = None) -> str:
    """
    Return *plan* as a tree, one line for each task and flow, ending in a newline; the same for the same plan.

    A flow's name ends in a slash. A task's line tells its state and what it comes after: siblings by name, others by
    path from the root, which begins with a slash. Names with anything but letters, digits and ``. - _ [ ]`` are quoted.

    ::

        ship/
          prepare/  at most 2 at once
            reserve  SUCCEEDED
            label  RUNNING
          dispatch  PENDING  after /prepare/reserve, /prepare/label

    Args:
        plan: Compiled or read from a journal.
        states: Task path to state. Paths may be missing; unknown ones are ignored.
    """
    states = states or {}
    drawn = picture(plan)
    before: dict[int, list[int]] = {}
    for node, successor in drawn.edges:
        before.setdefault(successor, []).append(node)
    lines = [_flow(plan.scopes[0], plan.flow)]
    for step in drawn.walk():
        if step.kind == "enter":
            scope = plan.scopes[step.number]
            lines.append(_indented(_flow(scope, scope.name), step.depth))
        elif step.kind == "task":
            parts = [_shown(plan.names[step.number])]
            state = states.get(plan.path(step.number)) if states else None
            if state is not None:
                parts.append(state.name)
            if after := _after(drawn, before, step.number):
                parts.append(f"after {after}")
            lines.append(_indented("  ".join(parts), step.depth))
    return "\n".join(lines) + "\n"


def _indented(line: str, depth: int) -> str:
    return _INDENT * depth + line if depth <= _DEEPEST else f"{_INDENT * _DEEPEST}({depth} deep) {line}"


def _flow(scope: Scope, name: str) -> str:
    parts = [f"{_shown(name)}/"]
    if scope.timeout is not None:
        parts.append(f"within {scope.timeout:g} s")
    if scope.concurrency is not None:
        parts.append(f"at most {scope.concurrency} at once")
    return "  ".join(parts)


def _after(drawn: Picture, before: Mapping[int, list[int]], task: int) -> str:
    """Return the first few tasks that *task* waits for, also through gates, as text; empty if it waits for none."""
    plan = drawn.plan
    found: dict[int, None] = {}
    seen: set[int] = set()
    waiting = deque(before.get(task, ()))
    while waiting and len(found) <= _NAMED:
        node = waiting.popleft()
        if node < plan.size:
            found[node] = None
        elif node not in seen:
            seen.add(node)
            waiting.extend(before.get(node, ()))
    names = [_reference(plan, node, plan.scope_of[task]) for node in list(found)[:_NAMED]]
    return ", ".join(names) + (" and more" if len(found) > _NAMED else "")


def _reference(plan: Plan, task: int, scope: int) -> str:
    if plan.scope_of[task] == scope:
        return _shown(plan.names[task])
    around = [_shown(plan.scopes[index].name) for index in reversed(plan.enclosing(plan.scope_of[task])[:-1])]
    return "/" + "/".join([*around, _shown(plan.names[task])])


def _shown(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else repr(name)
