"""
A flow checked, ordered and frozen: what a machine runs by, and what a journal records.

Nodes are numbers. Tasks come first, in plan order, then **gates**: nodes without a body at which groups meet, so that
two groups of n and m tasks in sequence cost n + m edges and not n x m. A gate passes as soon as all before it have
settled. A plan read back from a journal has the same structure and no declarations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from asyncflow.errors import InputError
from asyncflow.graph.inputs import NO_ARGUMENTS, Binding, Named, Resource, Source
from asyncflow.graph.wants import nearest

if TYPE_CHECKING:
    from asyncflow.graph.condition import Condition
    from asyncflow.graph.task import Task

ROOT = 0
"""The index of the scope that is the whole flow."""

_CONTEXT = "; what shall be the task's context is annotated af.Context"


@attrs.frozen
class Scope:
    """
    One flow within the tree of nested flows.

    Attributes:
        name: The flow's name; the root's is not part of any path.
        parent: The index of the flow around it; -1 for the root.
        path: Names from below the root, joined by slashes; empty for the root.
        timeout: Seconds that all its attempts may take together, or None.
        concurrency: How many of its tasks may run at once, or None.
        begin: The node before all of its tasks, or -1 where it needs none: its controller, or a gate.
        end: The gate after all of its tasks, or -1. A flow with a controller has one, from which its edges leave.
        controller: The task that is its retry controller, or -1.
        family: What its name was numbered from, if a builder chose it; else empty.
        on_failure: What becomes of running siblings of a task that failed for good: "cancel" or "finish"; empty where
            the engine says.
        revert_scope: "run", or "flow" where only this flow is undone when its controller gives up and none is around.
    """

    name: str
    parent: int
    path: str
    timeout: float | None = None
    concurrency: int | None = None
    begin: int = -1
    end: int = -1
    controller: int = -1
    family: str = ""
    on_failure: str = ""
    revert_scope: str = "run"


@attrs.frozen
class Guard:
    """
    A condition that has a say in whether a task or a flow is skipped.

    Attributes:
        node: The task, or the node before the flow, that waits for the answer.
        scope: The flow that it guards as a whole, or -1.
        depth: How far a no reaches: see :data:`~asyncflow.graph.policy.DEPTHS`.
        sources: For a condition on a link, the tasks at its start: if all of them are skipped, it is not asked.
        condition: What is asked; None in a plan read from a journal.
        binding: How its call is put together.
    """

    node: int
    scope: int
    depth: str
    sources: tuple[int, ...] = ()
    condition: Condition | None = None
    binding: Binding = NO_ARGUMENTS


def _has_timed_scopes(plan: Plan) -> bool:
    return any(scope.timeout is not None for scope in plan.scopes)


def _has_limits(plan: Plan) -> bool:
    if any(scope.concurrency is not None for scope in plan.scopes):
        return True
    return plan.tasks is not None and any(
        task.limits
        or task.executor == "thread"
        or (task.undo is not None and task.undo_executor == "thread")
        or (task.reconciler is not None and task.reconciler_executor == "thread")
        for task in plan.tasks
    )


def _controlled(plan: Plan) -> tuple[int, ...]:
    return tuple(index for index, scope in enumerate(plan.scopes) if scope.controller >= 0)


@attrs.frozen(eq=False, repr=False)
class Plan:
    """
    A compiled flow. Compile once, run any number of times.

    Attributes:
        flow: The flow's name.
        scopes: Every scope, the root first, each before those within it.
        names: Name of each task.
        scope_of: Scope of each task.
        successors: For each node, tasks and gates, the nodes that wait for it: by value, order or link.
        pending: For each node, how many nodes it waits for.
        ranks: Each task's place in line, priority first and then plan order; None where no task has a priority, and a
            task's place is its index.
        tasks: Declaration of each task; None in a plan read from a journal.
        bindings: How each task's call is put together; empty in a plan read from a journal.
        undo_bindings: The same for the inputs that a revert has of its own, of the few tasks where it has.
        provided: Name to the sources that provide it, last in plan order first: what ``run.results`` shows.
        returns: Where the flow's own value comes from.
        inputs: Name of each input of the flow to its annotation.
        required: Names of the inputs that have no default.
        input_defaults: Input name to its default.
        shadowed: Names that a run may be given although a task provides them; the given value wins.
        lendable: Names of inputs that a resource of the engine may stand in for.
        numbered: For each task 1 if a builder chose its name, which may be numbered; else 0. Empty where none is.
        guards: The conditions on tasks, flows and links.
        tolerant: Tasks that read other tasks, and have a default for every value that may be missing: a no that skips
            what they read does not reach them for that alone. Empty where there are no conditions.
        has_timed_scopes: Whether any flow has a time limit.
        has_limits: Whether any flow or task limits how much runs at once, or needs one of the engine's threads.
        controlled: The scopes that have a controller.
    """

    flow: str
    scopes: tuple[Scope, ...]
    names: Sequence[str]
    scope_of: Sequence[int]
    successors: Sequence[tuple[int, ...]]
    pending: Sequence[int]
    ranks: Sequence[int] | None = None
    tasks: Sequence[Task] | None = None
    bindings: Sequence[Binding] = ()
    undo_bindings: Mapping[int, Binding] = attrs.field(factory=dict[int, Binding])
    provided: Mapping[str, tuple[Source, ...]] = attrs.field(factory=dict[str, tuple[Source, ...]])
    returns: Source | None = None
    inputs: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    required: frozenset[str] = frozenset()
    input_defaults: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    shadowed: frozenset[str] = frozenset()
    lendable: frozenset[str] = frozenset()
    numbered: Sequence[int] = b""
    guards: Sequence[Guard] = ()
    tolerant: frozenset[int] = frozenset()
    # Filled the first time something asks.
    _spans: list[range] = attrs.field(factory=list[range], init=False)
    _insides: dict[int, tuple[int, ...]] = attrs.field(factory=dict[int, tuple[int, ...]], init=False)
    _guarded: dict[int, tuple[int, ...]] = attrs.field(factory=dict[int, tuple[int, ...]], init=False)
    _flow_gates: list[dict[int, int]] = attrs.field(factory=list[dict[int, int]], init=False)
    _index: dict[str, int] = attrs.field(factory=dict[str, int], init=False)
    _predecessors: list[tuple[int, ...]] = attrs.field(factory=list[tuple[int, ...]], init=False)
    _roots: list[int] = attrs.field(factory=list[int], init=False)
    # What a journal keeps of it: the record, its bytes and their digest.
    recorded: dict[str, Any] = attrs.field(factory=dict[str, Any], init=False)
    has_timed_scopes: bool = attrs.field(init=False, default=attrs.Factory(_has_timed_scopes, takes_self=True))
    has_limits: bool = attrs.field(init=False, default=attrs.Factory(_has_limits, takes_self=True))
    controlled: tuple[int, ...] = attrs.field(init=False, default=attrs.Factory(_controlled, takes_self=True))

    @property
    def size(self) -> int:
        """How many tasks there are; nodes from here on are gates."""
        return len(self.names)

    def path(self, task: int) -> str:
        """Return a task's identity: the names of the flows around it below the root, and its own, joined by slashes."""
        around = self.scopes[self.scope_of[task]].path
        return f"{around}/{self.names[task]}" if around else self.names[task]

    def index(self, path: str) -> int:
        """
        Return the index of the task at *path*.

        Raises:
            KeyError: There is none.
        """
        if not self._index:
            self._index.update((self.path(task), task) for task in range(self.size))
        return self._index[path]

    def roots(self) -> Sequence[int]:
        """Return the nodes that wait for nothing, in order."""
        if not self._roots:
            self._roots.extend(node for node, count in enumerate(self.pending) if not count)
        return self._roots

    def predecessors(self) -> Sequence[tuple[int, ...]]:
        """Return, for each node, the nodes that it waits for. Made when a run is first undone, then kept."""
        if not self._predecessors:
            before: list[list[int]] = [[] for _ in self.successors]
            for node, after in enumerate(self.successors):
                for successor in after:
                    before[successor].append(node)
            self._predecessors.extend(tuple(nodes) for nodes in before)
        return self._predecessors

    def span(self, scope: int) -> range:
        """Return the tasks within *scope*, its controller and those of flows in it included; they are in one row."""
        if not self._spans:
            first, behind = [self.size] * len(self.scopes), [0] * len(self.scopes)
            for task, around in enumerate(self.scope_of):
                first[around] = min(first[around], task)
                behind[around] = task + 1
            for inner in range(len(self.scopes) - 1, 0, -1):
                around = self.scopes[inner].parent
                first[around] = min(first[around], first[inner])
                behind[around] = max(behind[around], behind[inner])
            self._spans.extend(range(*pair) for pair in zip(first, behind, strict=True))
        return self._spans[scope]

    def within(self, scope: int) -> range:
        """Return the flows within *scope*; they stand behind it, in one row."""
        behind = scope + 1
        while behind < len(self.scopes) and self.scopes[behind].parent >= scope:
            behind += 1
        return range(scope + 1, behind)

    def inside(self, scope: int) -> tuple[int, ...]:
        """
        Return the nodes within a flow that has a controller: those between the controller and the gate at its end,
        which is among them. Nothing leads in but through the controller, and nothing out but through that gate.
        """
        found = self._insides.get(scope)
        if found is None:
            begin, end = self.scopes[scope].controller, self.scopes[scope].end
            seen = {end: None}
            stack = [begin]
            while stack:
                for after in self.successors[stack.pop()]:
                    if after not in seen:
                        seen[after] = None
                        stack.append(after)
            found = self._insides[scope] = tuple(seen)
        return found

    def reads_of_revert(self, task: int) -> set[int]:
        """Return the tasks whose values the revert of *task* takes, if it has one; of a plan with declarations."""
        assert self.tasks is not None
        declared = self.tasks[task]
        if declared.undo is None:
            return set()
        own = self.undo_bindings.get(task, NO_ARGUMENTS)
        return {*self.bindings[task].named(declared.undo_wants.of_task).reads(), *own.reads()}

    def guards_of(self, node: int) -> tuple[int, ...]:
        """Return the conditions that *node* waits for, by their place in ``guards``."""
        if not self._guarded and self.guards:
            for index, guard in enumerate(self.guards):
                self._guarded[guard.node] = (*self._guarded.get(guard.node, ()), index)
        return self._guarded.get(node, ())

    def flow_gates(self) -> Mapping[int, int]:
        """Return, of each flow that has conditions, the gate before it at which they are asked."""
        if not self._flow_gates:
            guards = [guard for guard in self.guards if guard.scope >= 0 and guard.node >= self.size]
            self._flow_gates.append({guard.scope: guard.node for guard in guards})
        return self._flow_gates[0]

    def guarded_path(self, guard: int) -> str:
        """Return the path of the task or the flow that a condition guards."""
        guarded = self.guards[guard]
        return self.scopes[guarded.scope].path if guarded.scope >= 0 else self.path(guarded.node)

    def guard_names(self) -> list[tuple[str, ...]]:
        """
        Return what each condition is known by, also in a flow that has changed: the path of what it guards, the number
        of those before it that are known by the same, and for one on a link the paths at its start.
        """
        counts: dict[tuple[str, ...], int] = {}
        found: list[tuple[str, ...]] = []
        for index, guard in enumerate(self.guards):
            ends = (self.guarded_path(index), *sorted(map(self.path, guard.sources)))
            count = counts[ends] = counts.get(ends, -1) + 1
            found.append((str(count), *ends))
        return found

    def check_inputs(self, given: Mapping[str, Any], resources: Iterable[str] = ()) -> dict[str, Any]:
        """
        Return the inputs that a run was given, by name, if it can start with them.

        Args:
            given: Name to value.
            resources: The names of the engine's resources, which may stand in for inputs wired by name.

        Raises:
            InputError: One is unknown, or one that the flow requires is missing.
        """
        for name in given:
            if name not in self.inputs and name not in self.shadowed:
                known = ", ".join(map(repr, self.inputs)) or "none"
                raise InputError(
                    f"flow {self.flow!r} neither requires nor provides input {name!r}{nearest(name, self.inputs)}; its "
                    f"inputs are: {known}"
                )
        lent = self.lendable.intersection(resources) if self.lendable else ()
        if lacking := self.required.difference(given, lent):
            missing = [name for name in self.inputs if name in lacking]
            for name in missing:
                self._check_order(name)
            pairs = ", ".join(f"{name!r}: ..." for name in missing)
            raise InputError(
                f"flow {self.flow!r} needs {'input' if len(missing) == 1 else 'inputs'} "
                f"{', '.join(map(self._described, missing))}, which nothing in it provides; pass {{{pairs}}} to the "
                f"run, or give the parameter a default{_CONTEXT if {'ctx', 'context'}.intersection(missing) else ''}"
            )
        return dict(given)

    def _check_order(self, name: str) -> None:
        """Raise InputError if a task provides input *name* and its reader does not come after it."""
        late = [self.path(task) for source in self.provided.get(name, ()) for task in source.tasks()]
        if late:
            raise InputError(
                f"flow {self.flow!r} needs input {self._described(name)}, and {late[0]!r}, which provides it, does not "
                f"come before; put it before in an af.linear, put both in an af.graph, or pass {{{name!r}: ...}} to "
                "the run"
            )

    def _described(self, name: str) -> str:
        """Return an input as a message names it, with the first task that is wired to it by name."""
        for task, binding in enumerate(self.bindings):
            parameters = [*binding.names, *(parameter for parameter, _ in binding.keyword)]
            for parameter, source in zip(parameters, binding.sources(), strict=True):
                # An optional one is not what needs it: its source is an Otherwise.
                if type(source) is Named and source.name == name and type(source.providers[0]) is Resource:
                    taken = "" if parameter == name else f", which takes it as {parameter!r}"
                    return f"{name!r} for task {self.path(task)!r}{taken}"
        return repr(name)

    def annotations(self) -> Iterator[Any]:
        """Yield each annotation that a journaled value may have: of inputs, and of what bodies and reverts return."""
        yield from self.inputs.values()
        seen: set[int] = set()
        for task in self.tasks or ():
            hooks = (task.undo_wants,) if task.undo is not None else ()
            for wants in (task.wants, *hooks):
                if id(wants) not in seen:
                    seen.add(id(wants))
                    yield wants.signature.returns

    def enclosing(self, scope: int) -> list[int]:
        """Return *scope* and the scopes around it, innermost first, the root last."""
        found: list[int] = []
        while scope >= 0:
            found.append(scope)
            scope = self.scopes[scope].parent
        return found

    def __repr__(self) -> str:
        gates = len(self.successors) - self.size
        return f"<Plan {self.flow!r}: {self.size} tasks, {sum(map(len, self.successors))} edges, {gates} gates>"
