"""A plan as a Mermaid flowchart, which GitHub, GitLab and most Markdown pages draw."""

from __future__ import annotations

from collections.abc import Mapping

from asyncflow.formats.picture import picture, readable
from asyncflow.graph.plan import Plan
from asyncflow.states import TaskState

_INDENT = "    "
# Deeper lines are not moved in any further: the indentation is for readers only, and would outgrow the flow.
_DEEPEST = 20

# Fill and border. The state's name stands in the box too, so nobody has to tell colours apart.
_COLOURS = {
    TaskState.PENDING: ("#f4f4f4", "#999999"),
    TaskState.RUNNING: ("#dbeafe", "#2563eb"),
    TaskState.WAITING: ("#fef9c3", "#ca8a04"),
    TaskState.SUCCEEDED: ("#dcfce7", "#16a34a"),
    TaskState.FAILED: ("#fee2e2", "#dc2626"),
    TaskState.TIMED_OUT: ("#fee2e2", "#dc2626"),
    TaskState.CANCELLED: ("#ffedd5", "#ea580c"),
    TaskState.SKIPPED: ("#ffffff", "#bbbbbb"),
    TaskState.REVERTING: ("#ede9fe", "#7c3aed"),
    TaskState.REVERTED: ("#ddd6fe", "#7c3aed"),
    TaskState.REVERT_FAILED: ("#fecaca", "#7f1d1d"),
}


def render(plan: Plan, states: Mapping[str, TaskState] | None = None) -> str:
    """
    Return *plan* as the text of a Mermaid flowchart, ending in a newline; the same for the same plan.

    Nested flows are subgraphs. Where one group follows another as a whole, a small circle stands between them. Viewers
    limit what they draw (500 edges, unless they are told otherwise); for larger plans ``dot`` is the better choice.

    Args:
        plan: Compiled or read from a journal.
        states: Task path to state, for colours and a second line in each box. Paths may be missing; unknown ones are
            ignored.
    """
    states = states or {}
    drawn = picture(plan)
    lines = ["---", f'title: "{_title(plan.flow)}"', "---", "flowchart TD"]
    used: set[TaskState] = set()
    for step in drawn.walk():
        indent = _INDENT * min(step.depth, _DEEPEST)
        if step.kind == "enter":
            lines.append(f'{indent}subgraph s{step.number}["{_label(plan.scopes[step.number].name)}"]')
        elif step.kind == "leave":
            lines.append(f"{indent}end")
        elif step.kind == "gate":
            lines.append(f'{indent}g{step.number}((" "))')
        else:
            name = _label(plan.names[step.number])
            state = states.get(plan.path(step.number)) if states else None
            if state is None:
                lines.append(f'{indent}t{step.number}["{name}"]')
            else:
                used.add(state)
                lines.append(f'{indent}t{step.number}["{name}<br>{state.name}"]:::{state.name.lower()}')
    for before, after in drawn.edges:
        lines.append(f"{_INDENT}{_node(plan, before)} --> {_node(plan, after)}")
    for state in sorted(used):
        fill, stroke = _COLOURS[state]
        lines.append(f"{_INDENT}classDef {state.name.lower()} fill:{fill},stroke:{stroke},color:#111111")
    return "\n".join(lines) + "\n"


def _node(plan: Plan, node: int) -> str:
    return f"t{node}" if node < plan.size else f"g{node}"


def _title(name: str) -> str:
    """Return *name* for use between double quotes in the YAML at the top, where Mermaid knows no entities."""
    return "".join(
        char if char.isalnum() or char in " -_/." or ord(char) > 127 else f"\\u{ord(char):04x}"
        for char in readable(name)
    )


def _label(name: str) -> str:
    """
    Return *name* for use between double quotes, with everything that Mermaid might read as its own as an entity.

    Mermaid looks for directives (``%%{...}%%``), Markdown, icons and its own placeholders inside quotes too, so only
    what is harmless is let through: letters, digits, and a few joints between two of them.
    """
    # A label without any text is a syntax error.
    name = readable(name) or " "
    if name.isalnum():
        return name
    found: list[str] = []
    for place, char in enumerate(name):
        is_joint = char in " -_/" and name[place - 1 : place].isalnum() and name[place + 1 : place + 2].isalnum()
        # Degree and pilcrow signs are what Mermaid marks entities with.
        is_letter = char.isalnum() or (ord(char) > 127 and char not in "°¶")
        found.append(char if is_joint or is_letter else f"#{ord(char)};")
    return "".join(found)
