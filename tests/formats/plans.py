"""Plans made by hand, so that pictures are tested without a compiler."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncflow.graph.plan import Plan, Scope


def make_plan(
    flow: str = "flow",
    tasks: Sequence[tuple[str, int]] = (),
    edges: Iterable[tuple[int, int]] = (),
    *,
    nested: Sequence[tuple[str, int]] = (),
    gates: int = 0,
    root: Scope | None = None,
) -> Plan:
    """Return a plan of *tasks* (name, scope) and *nested* flows (name, parent), which are scope 1 and so on."""
    scopes = [root or Scope(flow, -1, "")]
    for name, parent in nested:
        around = scopes[parent].path
        scopes.append(Scope(name, parent, f"{around}/{name}" if around else name))
    successors: list[list[int]] = [[] for _ in range(len(tasks) + gates)]
    pending = [0] * len(successors)
    for before, after in edges:
        successors[before].append(after)
        pending[after] += 1
    return Plan(
        flow=flow,
        scopes=tuple(scopes),
        names=[name for name, _ in tasks],
        scope_of=[scope for _, scope in tasks],
        successors=[tuple(nodes) for nodes in successors],
        pending=pending,
    )


def groups(*sizes: int) -> Plan:
    """Return a plan of groups in sequence, a gate between each two, as ``linear`` makes of ``unordered`` flows."""
    scopes = [group for group, size in enumerate(sizes, 1) for _ in range(size)]
    tasks = [(f"task-{index}", scope) for index, scope in enumerate(scopes)]
    edges = [(index, len(tasks) + scope - 1) for index, scope in enumerate(scopes) if scope < len(sizes)]
    edges += [(len(tasks) + scope - 2, index) for index, scope in enumerate(scopes) if scope > 1]
    nested = [(f"group-{group}", 0) for group in range(1, len(sizes) + 1)]
    return make_plan("groups", tasks, edges, nested=nested, gates=len(sizes) - 1)


SHIP = make_plan(
    "ship",
    [("reserve", 1), ("label", 1), ("dispatch", 0)],
    [(0, 2), (1, 2)],
    nested=[("prepare", 0)],
    root=Scope("ship", -1, "", timeout=60.0, concurrency=2),
)
"""Two tasks in a nested flow, then one after both."""
