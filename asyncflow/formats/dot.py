"""A plan in the language of Graphviz: ``asyncflow graph app:checkout --format dot | dot -Tsvg > checkout.svg``."""

from __future__ import annotations

from collections.abc import Mapping

from asyncflow.formats.picture import picture, readable
from asyncflow.graph.plan import Plan
from asyncflow.states import TaskState

_INDENT = "    "
# Deeper lines are not moved in any further: the indentation is for readers only, and would outgrow the flow.
_DEEPEST = 20

# The state's name stands in the box too, so nobody has to tell colours apart.
_COLOURS = {
    TaskState.PENDING: "#f4f4f4",
    TaskState.RUNNING: "#dbeafe",
    TaskState.WAITING: "#fef9c3",
    TaskState.SUCCEEDED: "#dcfce7",
    TaskState.FAILED: "#fee2e2",
    TaskState.TIMED_OUT: "#fee2e2",
    TaskState.CANCELLED: "#ffedd5",
    TaskState.SKIPPED: "#ffffff",
    TaskState.REVERTING: "#ede9fe",
    TaskState.REVERTED: "#ddd6fe",
    TaskState.REVERT_FAILED: "#fecaca",
}


def render(plan: Plan, states: Mapping[str, TaskState] | None = None) -> str:
    """
    Return *plan* as the text of a Graphviz digraph, ending in a newline; the same for the same plan.

    Nested flows are clusters. Where one group follows another as a whole, a point stands between them.

    Args:
        plan: Compiled or read from a journal.
        states: Task path to state, for colours and a second line in each box. Paths may be missing; unknown ones are
            ignored.
    """
    states = states or {}
    drawn = picture(plan)
    lines = [
        "digraph {",
        f"{_INDENT}label={_quoted(plan.flow)}",
        f"{_INDENT}labelloc=t",
        f'{_INDENT}node [shape=box, style="rounded,filled", fillcolor="#ffffff"]',
    ]
    for step in drawn.walk():
        indent = _INDENT * min(step.depth, _DEEPEST)
        if step.kind == "enter":
            inner = _INDENT * min(step.depth + 1, _DEEPEST)
            lines.append(f"{indent}subgraph cluster_{step.number} {{")
            lines.append(f"{inner}label={_quoted(plan.scopes[step.number].name)}")
        elif step.kind == "leave":
            lines.append(f"{indent}}}")
        elif step.kind == "gate":
            lines.append(f'{indent}g{step.number} [shape=point, label=""]')
        else:
            name = plan.names[step.number]
            state = states.get(plan.path(step.number)) if states else None
            if state is None:
                lines.append(f"{indent}t{step.number} [label={_quoted(name)}]")
            else:
                label = _quoted(name, below=state.name)
                lines.append(f'{indent}t{step.number} [label={label}, fillcolor="{_COLOURS[state]}"]')
    for before, after in drawn.edges:
        lines.append(f"{_INDENT}{_node(plan, before)} -> {_node(plan, after)}")
    lines.append("}")
    return "\n".join(lines) + "\n"


def _node(plan: Plan, node: int) -> str:
    return f"t{node}" if node < plan.size else f"g{node}"


def _quoted(name: str, *, below: str = "") -> str:
    """Return *name* as a quoted label, which Graphviz shows as it stands; *below* is a second line."""
    # Graphviz reads \N and the like as substitutions, and &...; as characters.
    shown = readable(name).replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;")
    return f'"{shown}\\n{below}"' if below else f'"{shown}"'
