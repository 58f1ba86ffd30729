"""Where each task and flow stands: a flow with all flows in it laid out as one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncflow.errors import CycleError, DeclarationError, DuplicateName
from asyncflow.graph.controller import Controller
from asyncflow.graph.inputs import Element, Output, Source
from asyncflow.graph.layout import Composite, Layout
from asyncflow.graph.provides import WHOLE
from asyncflow.graph.task import Task

Later = tuple[str, int, Any]
"""
A source that is worked out when somebody needs it, as what, which place and which name: ("return", place, ""),
("element", place, its key), ("parameter", place, name) of a builder, or ("argument", place, name) of a pattern called
in one.
"""

Entry = Source | Later
"""What provides a name."""


class Domain:
    """
    The names that one set of nested patterns shares. A builder walls off what is in it, so its items start new ones.

    ``providers`` has, for each name, the ticks at which it is provided, rising, and by what. ``read`` are the names
    that something in it has looked for.
    """

    __slots__ = ("providers", "read")

    def __init__(self) -> None:
        self.providers: dict[str, tuple[list[int], list[Entry]]] = {}
        self.read: set[str] = set()

    def add(self, name: str, tick: int, entry: Entry) -> None:
        """Take note that *entry* provides *name*; ticks come in order."""
        ticks, entries = self.providers.setdefault(name, ([], []))
        ticks.append(tick)
        entries.append(entry)


class Place:
    """
    One flow at one place in the tree.

    Attributes:
        flow: The flow.
        layout: What it consists of.
        index: Its own number: the scope's in the plan.
        parent: The number of the flow around it; -1 for the root.
        position: Which item of that flow it is.
        path: Names from below the root, joined by slashes.
        codes: For each item the task's number, or ``~number`` of a flow.
        lo, hi: The ticks of what is in it, from and up to.
        domain: The names that its items see.
        is_top: Whether nothing around it shares its domain.
        controller: The number of the task that is its controller, or -1.
        controls: The names that its controller provides within it, each with the key of the element.
    """

    __slots__ = (
        "codes",
        "controller",
        "controls",
        "domain",
        "flow",
        "hi",
        "index",
        "is_top",
        "layout",
        "lo",
        "parent",
        "path",
        "position",
    )

    def __init__(
        self, flow: Composite, layout: Layout, index: int, parent: Place | None, position: int, name: str, lo: int
    ) -> None:
        self.flow = flow
        self.layout = layout
        self.index = index
        self.parent = -1 if parent is None else parent.index
        self.position = position
        self.path: str = name if parent is None or not parent.path else f"{parent.path}/{name}"
        self.codes: list[int] = []
        self.lo = self.hi = lo
        self.is_top = parent is None or parent.layout.kind == "builder"
        self.domain: Domain = Domain() if parent is None or self.is_top else parent.domain
        self.controller = -1
        self.controls: dict[str, Any] = {}


class Places:
    """
    Every place of a flow, and every task in plan order: as declared, depth first.

    A tick is a moment in that order. Each task has one, and so has the end of a builder, which is when its value is
    there; a task with a lower tick in the same linear flow has ended before.
    """

    __slots__ = ("_outputs", "_singles", "all", "has_conditions", "ids", "names", "scope_of", "tasks", "ticks")

    def __init__(self) -> None:
        self.all: list[Place] = []
        self.tasks: list[Task] = []
        self.names: list[str] = []
        self.scope_of: list[int] = []
        # Each task's number, the same object wherever it is kept: a hundred thousand of them add up.
        self.ids: list[int] = []
        self.ticks: list[int] = []
        # Whether anything may be skipped, so that a reader may have to look further than the nearest provider.
        self.has_conditions = False
        self._outputs: dict[int, Output] = {}
        self._singles: dict[int, tuple[int, ...]] = {}

    def add(self, place: Place) -> None:
        """Add the flow at *place*, and its controller as the first task in it."""
        self.all.append(place)
        flow, layout = place.flow, place.layout
        if flow.condition is not None or layout.conditions:
            self.has_conditions = True
        controller = flow.controller
        if controller is None:
            return
        controller.ready()
        if controller.name in layout.names:
            raise DuplicateName(
                f"flow {flow.name!r} has an item named {controller.name!r}, like its controller; give the controller "
                "another name with name=...",
                flow=flow.name,
                task=controller.name,
            )
        place.controller = len(self.tasks)
        place.controls = dict(controller.gives)
        self.ids.append(place.controller)
        self.tasks.append(controller)
        self.names.append(controller.name)
        self.scope_of.append(place.index)
        self.ticks.append(place.lo)

    def output(self, task: int) -> Output:
        """Return the source that is a task's whole value, the same each time."""
        found = self._outputs.get(task)
        if found is None:
            found = self._outputs[task] = Output(task)
        return found

    def single(self, node: int, made: tuple[int, ...] = ()) -> tuple[int, ...]:
        """
        Return ``(node,)``, the same each time: in a chain it is what one task reads and what another leads to. *made*
        is one that somebody has already.
        """
        found = self._singles.get(node)
        if found is None:
            found = self._singles[node] = made or (node,)
        return found

    def part(self, task: int, key: Any) -> Source:
        """Return the source that is one element of a task's value, or all of it."""
        whole = self.output(task)
        return whole if key is WHOLE else Element(whole, key)

    def part_of_flow(self, place: int, key: Any) -> Later:
        """Return what stands for one element of a flow's value, or all of it."""
        return ("return", place, "") if key is WHOLE else ("element", place, key)

    def path(self, task: int) -> str:
        """Return a task's path."""
        around = self.all[self.scope_of[task]].path
        return f"{around}/{self.names[task]}" if around else self.names[task]

    def item_path(self, place: Place, position: int) -> str:
        """Return the path of one item."""
        name = list(place.layout.names)[position]
        return f"{place.path}/{name}" if place.path else name


def lay_out(root: Composite) -> Places:
    """
    Return the places of *root* and of all flows in it. Builders are called here, one after the other.

    Raises:
        CycleError: A flow contains itself.
        DeclarationError: A task is declared wrongly, or a flow within *root* has targets.
    """
    places = Places()
    tasks, scope_of, ticks, all_names = places.tasks, places.scope_of, places.ticks, places.names
    layout = root.layout
    first = Place(root, layout, 0, None, -1, "", 0)
    places.add(first)
    # A stack of our own: flows are nested deeper than Python's.
    stack = [(first, list(layout.names.items()))]
    around = {id(layout)}
    tick = 0
    while stack:
        place, names = stack[-1]
        layout, codes, index = place.layout, place.codes, place.index
        items, domain = layout.items, None if layout.kind == "builder" else place.domain
        inner: Composite | None = None
        for position in range(len(codes), len(items)):
            item: Any = items[position]
            if isinstance(item, Composite):
                inner = item
                break
            if isinstance(item, Controller):
                raise DeclarationError(
                    f"flow {place.flow.name!r} has controller {item.name!r} among its items; give it to the flow that "
                    "it is to decide for, as retry="
                )
            item.ready()
            name, task = names[position]
            if task != len(tasks):  # else one number serves for both, the same object wherever it is kept
                task = len(tasks)
            codes.append(task)
            places.has_conditions = places.has_conditions or item.condition is not None
            places.ids.append(task)
            tasks.append(item)
            all_names.append(name)
            scope_of.append(index)
            ticks.append(tick)
            if domain is not None:
                for given, key in item.gives:
                    domain.add(given, tick, places.part(task, key))
            tick += 1
        if inner is not None:
            inside = inner.layout
            _check_inner(inner, inside, around, stack)
            below = Place(inner, inside, len(places.all), place, len(codes), names[len(codes)][0], tick)
            codes.append(~below.index)
            places.add(below)
            around.add(id(inside))
            stack.append((below, list(inside.names.items())))
            continue
        stack.pop()
        around.discard(id(layout))
        place.hi = tick
        if layout.gives and stack and stack[-1][0].layout.kind != "builder":
            for name, key in layout.gives:
                stack[-1][0].domain.add(name, tick, places.part_of_flow(index, key))
            tick += 1
            place.hi = tick
    return places


def _check_inner(flow: Composite, layout: Layout, around: set[int], stack: Sequence[tuple[Place, object]]) -> None:
    if id(layout) in around:
        names = [place.flow.name for place, _ in stack]
        start = next(at for at, (place, _) in enumerate(stack) if place.layout is layout)
        cycle = [*names[start:], flow.name]
        raise CycleError(
            f"flow {flow.name!r} contains itself: {' -> '.join(cycle)}; a flow within a flow needs an end",
            flow=stack[0][0].flow.name,
            cycle=cycle,
        )
    if flow.targets:
        raise DeclarationError(
            f"flow {flow.name!r} within flow {stack[-1][0].flow.name!r} has targets; put the whole flow there, and aim "
            "the outermost one with .target('inner/task')"
        )
