"""
Flows wired by name: the patterns ``linear``, ``unordered`` and ``graph``.

Items find what they require among what the others provide; ``lookup.py`` says which wins.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, Self, TypeVar, Unpack, overload

from asyncflow.errors import DeclarationError, DuplicateName
from asyncflow.graph.condition import check_condition
from asyncflow.graph.flow import BuilderFlow, Flow
from asyncflow.graph.flow_options import FlowOptions
from asyncflow.graph.layout import Composite, Kind, Layout
from asyncflow.graph.reference import Origin, Ref, contains_reference, spec_of
from asyncflow.graph.task import FunctionTask, Task
from asyncflow.graph.wants import Call, nearest

P = ParamSpec("P")
T = TypeVar("T")

Item = Task | Composite


class Pattern(Flow[..., dict[str, Any]]):
    """A flow whose items are wired by the names they require and provide; made by linear, unordered and graph."""

    def __init__(
        self,
        kind: Kind,
        name: str,
        items: Sequence[Any],
        *,
        module: str | None,
        **options: Unpack[FlowOptions],
    ) -> None:
        super().__init__(name, module=module, **options)
        self._layout = Layout(kind)
        self.add(*items)

    @property
    def layout(self) -> Layout:
        """What it consists of so far."""
        return self._layout

    def _copy(self) -> Self:
        copied = super()._copy()
        copied._layout = self._layout.copy()
        return copied

    def add(self, *items: Any, **constants: Any) -> Self:
        """
        Add tasks or flows behind those that are there, and return the flow.

        Args:
            items: Tasks and flows, each under a name that is new to this flow.
            constants: Inputs of all these items; they beat whatever is provided under the name.

        Raises:
            DuplicateName: The flow has an item of that name.
            DeclarationError: An item is no task or flow, or takes none of a constant's name.
        """
        layout = self._layout
        for item in items:
            self._check(item)
            if item.name in layout.names:
                raise DuplicateName(
                    f"flow {self.name!r} has two tasks or flows named {item.name!r}; give one another name with "
                    ".named(...)",
                    flow=self.name,
                    task=item.name,
                )
            if constants:
                self._check_constants(item, constants)
                layout.given[len(layout.items)] = constants
            layout.names[item.name] = len(layout.items)
            layout.items.append(item)
        layout.touch()
        return self

    def _check(self, item: Any) -> None:
        if isinstance(item, (Task, Composite)):
            return
        what = f"flow {self.name!r} was given {item!r:.80}"
        if type(item) is Ref:
            raise DeclarationError(
                f"flow {self.name!r} was given a reference; give the task itself, without calling it"
            )
        if isinstance(item, type) and issubclass(item, Task):
            raise DeclarationError(f"{what}, a class; make a task of it: {item.__name__}()")
        if inspect.isroutine(item):
            raise DeclarationError(f"{what}, a bare function; decorate it with @af.task")
        if isinstance(item, (list, tuple, set)):
            raise DeclarationError(
                f"flow {self.name!r} was given a {type(item).__name__}; give its items with a star: *items"
            )
        raise DeclarationError(f"{what}; give tasks and flows")

    def _check_constants(self, item: Item, constants: Mapping[str, Any]) -> None:
        if contains_reference(constants):
            raise DeclarationError(f"flow {self.name!r} was given a reference for {item.name!r}; give a constant")
        if isinstance(item, Task):
            item.ready()
            known = {want.parameter for want in item.wants.by_name}
            takes_names = item.wants.signature.takes_names
        elif isinstance(item, BuilderFlow):
            known, takes_names = set(item.signature.by_name), False
        else:
            return  # What a pattern needs is known when it is compiled.
        for name in constants:
            if name not in known and not takes_names:
                raise DeclarationError(
                    f"flow {self.name!r} gives {name!r} to {item.name!r}, which does not take it{nearest(name, known)}"
                )

    def link(
        self,
        before: Item | str,
        after: Item | str,
        *,
        when: Callable[..., Any] | str | None = None,
        depth: str | None = None,
    ) -> Self:
        """
        Let everything in *before* end before anything in *after* starts, and return the flow. Only in a graph.

        Args:
            before: An item of this flow, or its name.
            after: Another one.
            when: A condition of values that *after* could read. Where it says no, *after* is skipped. It is not asked
                where all of *before* was skipped.
            depth: How far its no reaches; "all" that comes after, if None.

        Raises:
            DeclarationError: The flow is no graph, has no such item, or both are the same.
        """
        if self._layout.kind != "graph":
            raise DeclarationError(f"flow {self.name!r} is {self._layout.kind} and takes no links; make it an af.graph")
        first, second = self._position(before), self._position(after)
        if first == second:
            raise DeclarationError(
                f"flow {self.name!r} links {list(self._layout.names)[first]!r} to itself; leave it out"
            )
        what = f"the link from {list(self._layout.names)[first]!r} in flow {self.name!r}"
        condition = check_condition(when, depth, what, default="all")
        if condition is not None:
            if (first, second) in self._layout.conditions:
                raise DeclarationError(f"{what} has two conditions; join them with 'and' in one")
            self._layout.conditions[first, second] = condition
        self._layout.links.append((first, second))
        self._layout.touch()
        return self

    def _position(self, item: Any) -> int:
        layout = self._layout
        if isinstance(item, str):
            if item not in layout.names:
                raise DeclarationError(
                    f"flow {self.name!r} has no item {item!r} to link{nearest(item, layout.names)}; add it first"
                )
            return layout.names[item]
        position = layout.names.get(item.name) if isinstance(item, (Task, Composite)) else None
        if position is None or layout.items[position] is not item:
            raise DeclarationError(f"flow {self.name!r} does not contain {item!r:.80}; add it before linking")
        return position

    def match(self, args: Sequence[Any], kwargs: Mapping[str, Any], builder: Origin) -> Call:
        """Return a call of this flow in *builder*, every argument by name."""
        if args:
            raise DeclarationError(
                f"flow {self.name!r} is called with positional arguments in flow {builder.name!r}; its inputs are "
                "known by name only, so pass them by keyword"
            )
        return Call((), tuple((name, spec_of(value, builder)) for name, value in kwargs.items()), ())

    @property
    def returns(self) -> Any:
        """A mapping of everything it provides."""
        return dict[str, Any]


def _caller() -> str | None:
    """Return the name of the module that called linear(), unordered() or graph()."""
    frame = inspect.currentframe()
    outside = frame and frame.f_back and frame.f_back.f_back
    return outside.f_globals.get("__name__") if outside else None


def linear(name: str, *items: Any, **options: Unpack[FlowOptions]) -> Pattern:
    """
    Return a flow that runs *items* one after the other; each sees what those before it provide.

    Args:
        name: Its identity within the flow around it.
        items: Tasks and flows.
        options: See :class:`FlowOptions`.
    """
    return Pattern("linear", name, items, module=_caller(), **options)


def unordered(name: str, *items: Any, **options: Unpack[FlowOptions]) -> Pattern:
    """
    Return a flow that runs *items* in any order, at once where it can; none sees what another provides.

    Args:
        name: Its identity within the flow around it.
        items: Tasks and flows.
        options: See :class:`FlowOptions`.
    """
    return Pattern("unordered", name, items, module=_caller(), **options)


def graph(name: str, *items: Any, **options: Unpack[FlowOptions]) -> Pattern:
    """
    Return a flow that runs each of *items* after those that provide what it requires, and as ``link`` says.

    Args:
        name: Its identity within the flow around it.
        items: Tasks and flows.
        options: See :class:`FlowOptions`.
    """
    return Pattern("graph", name, items, module=_caller(), **options)


Runnable = Flow[..., T] | FunctionTask[..., T]
"""What an engine runs: a flow, or a task by itself."""


@overload
def as_flow(item: Flow[P, T]) -> Flow[P, T]: ...
@overload
def as_flow(item: FunctionTask[P, T]) -> Flow[P, T]: ...  # type: ignore[overload-overlap]
@overload
def as_flow(item: Task) -> Flow[..., Any]: ...


def as_flow(item: Any) -> Any:
    """
    Return *item* if it is a flow, else a flow of this one task, which has the task's inputs and its value.

    Raises:
        DeclarationError: It is neither.
    """
    if isinstance(item, Flow):
        return item
    if not isinstance(item, Task):
        hint = "; decorate it with @af.flow or @af.task" if inspect.isroutine(item) else "; give a flow or a task"
        raise DeclarationError(f"{item!r:.80} is neither a flow nor a task{hint}")
    known = vars(item).get("_flow")
    # A copy of a task has the original's fields, and must have a flow of its own.
    if known is None or known.layout.items[0] is not item:
        known = Pattern("linear", item.name, [item], module=None)
        known.layout.is_single = True
        if isinstance(item, FunctionTask):
            item.own_fields()
        object.__setattr__(item, "_flow", known)
    return known
