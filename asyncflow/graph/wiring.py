"""Where each argument of each task comes from, and the edge that follows from it."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from asyncflow.errors import DeclarationError, FlowError, TypeMismatch
from asyncflow.graph.defaults import maker_for
from asyncflow.graph.inputs import (
    NO_ARGUMENTS,
    Attribute,
    Binding,
    Constant,
    Element,
    FirstOf,
    Gathered,
    Made,
    Named,
    Otherwise,
    Output,
    Provided,
    Source,
)
from asyncflow.graph.lookup import Found, Lookup
from asyncflow.graph.order import Edges
from asyncflow.graph.place import Place, Places
from asyncflow.graph.reference import Ref, Spec
from asyncflow.graph.signature import NO_DEFAULT, UNKNOWN
from asyncflow.graph.sources import RunInputs, Sources
from asyncflow.graph.types import fits, type_text
from asyncflow.graph.wants import Call, Want, nearest

Pair = tuple[int, int]
"""A provider and a reader that does without it unless other edges put it before."""


class Wiring:
    """
    Binds every task of a flow.

    Attributes:
        inputs: What the flow asks of its runs.
        sources: What works sources out.
        undo_bindings: Of each task whose revert has inputs of its own, how those are put together.
        undecided: Each task with optional inputs that a sibling in a graph may provide, with the providers' pairs.
    """

    def __init__(self, flow: str, places: Places, edges: Edges) -> None:
        self._flow = flow
        self._places = places
        self.edges = edges
        self.lookup = Lookup(flow, places)
        self.inputs = RunInputs()
        self.sources = Sources(flow, places, self.lookup, self.inputs)
        self.undo_bindings: dict[int, Binding] = {}
        self.undecided: dict[int, list[Pair]] = {}
        # The nodes behind values that cross into another flow, by the source's id: a gate where there are several.
        self._behind: dict[int, list[int]] = {}
        # By ids of what they consist of, which they keep alive.
        self._bindings: dict[tuple[int, ...], Binding] = {}
        # Those that read whole values only, by the id of their parameters' names and the tasks.
        self._same: dict[tuple[int, tuple[int, ...]], Binding] = {}
        self._checked: dict[Pair, tuple[Any, Any]] = {}

    def bind_all(self) -> list[Binding]:
        """
        Return the binding of every task. What is ``undecided`` is bound by :meth:`decide`, once the order is known.

        Raises:
            FlowError: A provider is ambiguous, types cannot fit, or flows pass a value in a circle.
        """
        bindings: list[Binding] = [NO_ARGUMENTS] * len(self._places.tasks)
        tasks = self._places.tasks
        for place in self._places.all:
            is_builder = place.layout.kind == "builder"
            if is_builder:
                self._bind_parameters(place)
            for position, code in enumerate(place.codes):
                if code < 0:
                    continue
                if is_builder:
                    bindings[code] = self._bind_call(place, position, code)
                    continue
                if tasks[code].wants.by_name or position in place.layout.given:
                    bindings[code] = self._bind_names(place, position, code, None)
                if tasks[code].revert_requires or tasks[code].revert_rebind:
                    self.undo_bindings[code] = self._bind_undo(place, code)
        return bindings

    def check_given(self) -> None:
        """Raise FlowError where a flow is given something by name that nothing in it reads."""
        for place in self._places.all[1:]:
            self._check_given(place)

    def decide(self, task: int, precedes: set[Pair]) -> Binding:
        """Return the binding of an undecided task; *precedes* are the pairs that turned out to be ordered."""
        place = self._places.all[self._places.scope_of[task]]
        return self._bind_names(place, place.layout.names[self._places.names[task]], task, precedes)

    def _bind_parameters(self, place: Place) -> None:
        signature = place.layout.signature
        assert signature is not None
        for parameter in signature.parameters:
            name = parameter.name
            if place.parent < 0 and not parameter.is_resource and name not in place.controls:
                self.inputs.declare(name, signature.hint(name))
                if parameter.is_required:
                    self.inputs.required.add(name)
                else:
                    self.inputs.defaults[name] = parameter.default
            # Asked for even if nothing reads it: a flow requires its parameters.
            self.sources.resolve(("parameter", place.index, name))

    # --- By reference -------------------------------------------------------------------------------------------------

    def _bind_call(self, place: Place, position: int, task: int) -> Binding:
        call = place.layout.calls[position]
        if not call.positional and not call.keyword:
            return NO_ARGUMENTS
        if not call.keyword and not self._places.has_conditions and (wholes := self._wholes(place, call)) is not None:
            return self._bind_wholes(task, wholes, call.names)
        positional = [
            self._argument(place, spec, task, parameter)
            for parameter, spec in zip(call.names, call.positional, strict=True)
        ]
        keyword = [(name, self._argument(place, spec, task, name)) for name, spec in call.keyword]
        return self.binding(positional, keyword, call.names)

    def _wholes(self, place: Place, call: Call) -> tuple[int, ...] | None:
        """Return the tasks whose values a call is given, where each argument is the whole value of one."""
        codes, written = place.codes, call.positional
        found: list[int] = []
        for spec in written:
            if type(spec) is not int or codes[spec] < 0:
                return None
            found.append(codes[spec])
        tasks = tuple(found)
        # Where tasks are numbered as they were called, one tuple serves for both.
        return cast("tuple[int, ...]", written) if tasks == written else tasks

    def _bind_wholes(self, task: int, tasks: tuple[int, ...], names: tuple[str | None, ...]) -> Binding:
        """Return the binding of a task whose arguments are whole values of *tasks*, checked, with its edges."""
        declared, places = self._places.tasks, self._places
        hint = declared[task].wants.signature.hint
        for one, parameter in zip(tasks, names, strict=True):
            if parameter is not None and (wanted := hint(parameter)) is not UNKNOWN:
                self.check(declared[one].returns, wanted, places.output(one), task, parameter)
        self.edges.by_values(tasks, task)
        if len(tasks) == 1:
            tasks = places.single(tasks[0], tasks)
        key = (id(names), tasks)
        found = self._same.get(key)
        if found is None:
            found = self._same[key] = Binding((), (), names, tasks)
        return found

    def _argument(self, place: Place, spec: Spec, task: int, parameter: str | None) -> Source:
        """Return the source of one argument, checked, with the edge that it makes."""
        wanted = UNKNOWN if parameter is None else self._places.tasks[task].wants.signature.hint(parameter)
        if type(spec) is int and (code := place.codes[spec]) >= 0:
            source: Source = self._places.output(code)
            self.check(self._places.tasks[code].returns, wanted, source, task, parameter)
            self.edges.by_value(code, place.index, task, place.index)
            return self._or_made(source, wanted)
        source = self.sources.of(place, spec)
        if type(source) is Constant:
            return source
        if type(spec) is int:
            self.check(place.layout.items[spec].returns, wanted, source, task, parameter)
        elif isinstance(spec, Ref):
            self.check(spec.asyncflow_builder.annotation(spec), wanted, source, task, parameter)
        self.check(self.sources.annotation(source), wanted, source, task, parameter)
        self.follow(source, task)
        return self._or_made(source, wanted)

    # --- By name ------------------------------------------------------------------------------------------------------

    def _bind_names(self, place: Place, position: int, task: int, precedes: set[Pair] | None) -> Binding:
        """Return a task's binding; *precedes* is None until the order is known."""
        wants = self._places.tasks[task].wants
        wants.settle()
        given = place.layout.given.get(position)
        positional: list[Source] = []
        keyword: list[tuple[str, Source]] = []
        for want in wants.by_name:
            if given is not None and want.parameter in given:
                source: Source = Constant(given[want.parameter])
            elif want.fixed is not None:
                source = want.fixed
            else:
                source = self._by_name(want, place, task, precedes)
            if want.by_position:
                positional.append(source)
            else:
                keyword.append((want.parameter, source))
        if given is not None:
            taken = {want.parameter for want in wants.by_name}
            keyword.extend((name, Constant(value)) for name, value in given.items() if name not in taken)
        return self.binding(positional, keyword, wants.names)

    def _bind_undo(self, place: Place, task: int) -> Binding:
        """Return the binding of what a task's revert takes for itself; the task waits for it, so that it is there."""
        declared, tick = self._places.tasks[task], self._places.ticks[task]
        if declared.undo is None:
            raise DeclarationError(
                f"task {declared.name!r} has revert_requires or revert_rebind and no revert; give it one"
            )
        wants = declared.undo_wants
        keyword: list[tuple[str, Source]] = []
        for want in wants.own:
            annotation = wants.signature.hint(want.parameter)
            source = self.seen(place, tick, tick + 1, want.name, want.default, annotation)
            self.check(self.sources.annotation(source), annotation, source, task, want.parameter)
            self.follow(source, task)
            keyword.append((want.parameter, source))
        return self.binding([], keyword, ())

    def _by_name(self, want: Want, place: Place, task: int, precedes: set[Pair] | None) -> Source:
        tick = self._places.ticks[task]
        is_optional = want.default is not NO_DEFAULT
        found = self.lookup.find(place, tick, tick + 1, want.name, optional=is_optional)
        annotation = self._places.tasks[task].wants.signature.hint(want.parameter)
        for sibling in found.perhaps:
            nodes = self.nodes(self.sources.at(sibling.entry))
            if precedes is None:
                self.undecided.setdefault(task, []).extend((node, task) for node in nodes)
            elif all((node, task) in precedes for node in nodes):
                found = msgspec.structs.replace(found, entry=sibling.entry, is_given=False)
                break
        source = self._named(want.name, found, want.default, annotation, place, tick, tick + 1)
        if type(source) is Constant or found.entry is None:
            return source
        provided = source.source if type(source) is Otherwise or type(source) is Made else source
        self.check(self.sources.annotation(provided), annotation, provided, task, want.parameter)
        # An optional input makes no edge: what gives it comes before by other edges.
        if precedes is None and (not is_optional or found.is_given):
            self.follow(source, task)
        return source

    def seen(self, place: Place, lo: int, hi: int, name: str, default: Any, annotation: Any) -> Source:
        """Return the source of what stands at ticks *lo* up to *hi* in the pattern at *place* sees as *name*."""
        found = self.lookup.find(place, lo, hi, name, optional=False)
        return self._named(name, found, default, annotation, place, lo, hi)

    def _named(self, name: str, found: Found, default: Any, annotation: Any, place: Place, lo: int, hi: int) -> Source:
        """Return the source of an input by name; where providers may be skipped, with those further out behind it."""
        source = self._named_at(name, found, default, annotation, place, lo, hi)
        return source if default is not NO_DEFAULT else self._or_made(source, annotation)

    def _or_made(self, source: Source, annotation: Any) -> Source:
        """Return *source*, with the default of its type behind it where what gives it may be skipped."""
        make = maker_for(annotation) if self._places.has_conditions else None
        return source if make is None or not any(True for _ in source.tasks()) else Made(source, make)

    def _named_at(
        self, name: str, found: Found, default: Any, annotation: Any, place: Place, lo: int, hi: int
    ) -> Source:
        if not self._places.has_conditions or found.entry is None or found.is_given:
            return self.sources.named(name, found, default, annotation)
        entries = self.lookup.all_visible(place, lo, hi, name)
        if len(entries) < 2:
            return self.sources.named(name, found, default, annotation)
        source: Source = FirstOf(tuple(self.sources.at(entry) for entry in entries))
        if not found.is_walled:
            source = Named(name, (source,))
        return source if default is NO_DEFAULT else Otherwise(source, default)

    # --- Edges --------------------------------------------------------------------------------------------------------

    def follow(self, source: Source, reader: int) -> None:
        """Add an edge from whatever gives *source* to node *reader*."""
        home = self._home(reader)
        for node in self.nodes(source):
            if node != reader:
                self.edges.by_value(node, self._home(node), reader, home)

    def nodes(self, source: Source) -> list[int]:
        """Return the nodes that must have ended for *source* to have its value."""
        whole = source.providers[0] if type(source) is Named and source.providers else source
        if type(whole) is Output:
            return [whole.task]
        tasks, shared = self._shallow(source)
        for one in shared:
            tasks.update(dict.fromkeys(self._nodes_behind(one)))
        return list(tasks)

    def _nodes_behind(self, source: Source) -> list[int]:
        """
        Return the node behind a value that any number of tasks may read, so that n parts and m readers are n + m edges.
        """
        # Those that it is made of come first, by a stack of our own: flows may hand each other's values on and on.
        stack = [source]
        while stack:
            one = stack[-1]
            if id(one) in self._behind:
                stack.pop()
                continue
            tasks, shared = self._shallow(*_parts(one))
            missing = [inner for inner in shared if id(inner) not in self._behind]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            for inner in shared:
                tasks.update(dict.fromkeys(self._behind[id(inner)]))
            nodes = list(tasks)
            if len(nodes) > 1:
                home = self.sources.shared[id(one)][1]
                gate = self.edges.gate(home)
                for node in nodes:
                    self.edges.by_value(node, self._home(node), gate, home)
                nodes = [gate]
            self._behind[id(one)] = nodes
        return self._behind[id(source)]

    def _shallow(self, *sources: Source) -> tuple[dict[int, None], list[Source]]:
        """Return the tasks that *sources* read, up to values that cross into another flow, and those values."""
        tasks: dict[int, None] = {}
        shared: list[Source] = []
        stack = list(reversed(sources))
        while stack:
            one = stack.pop()
            if type(one) is Output:
                tasks[one.task] = None
            elif id(one) in self.sources.shared:
                shared.append(one)
            else:
                stack.extend(reversed(_parts(one)))
        return tasks, shared

    def _home(self, node: int) -> int:
        size = self.edges.size
        return self._places.scope_of[node] if node < size else self.edges.gates[node - size]

    def binding(
        self, positional: list[Source], keyword: list[tuple[str, Source]], names: tuple[str | None, ...]
    ) -> Binding:
        """Return the binding of these sources, the same one for all that read the same."""
        if not positional and not keyword:
            return NO_ARGUMENTS
        outputs: list[int] = []
        for source in positional:
            whole = source.providers[0] if type(source) is Named else source
            if type(whole) is not Output:
                break
            outputs.append(whole.task)
        if len(outputs) == len(positional) and not keyword:
            tasks = self._places.single(outputs[0]) if len(outputs) == 1 else tuple(outputs)
            return Binding(tuple(positional), (), names, tasks)
        # Tasks that read the same share one binding.
        key = (id(names), *map(id, positional), 0, *(id(source) for _, source in keyword))
        found = self._bindings.get(key)
        if found is None:
            found = self._bindings[key] = Binding(tuple(positional), tuple(keyword), names, None)
        return found

    # --- Checks -------------------------------------------------------------------------------------------------------

    def check(self, provided: Any, wanted: Any, source: Source, task: int, parameter: str | None) -> None:
        """Raise TypeMismatch where what *source* gives can never be what *task* takes as *parameter*."""
        if provided is UNKNOWN or wanted is UNKNOWN or provided is wanted:
            return
        pair = (id(provided), id(wanted))
        if pair in self._checked:
            return
        if not fits(provided, wanted):
            path = self._places.path(task)
            givers = ", ".join(repr(self._places.path(one)) for one in source.tasks()) or "the run"
            raise TypeMismatch(
                f"flow {self._flow!r}: task {path!r} takes {parameter!r} as {type_text(wanted)}, and {givers} gives "
                f"{type_text(provided)}; change one of the annotations, or wire another value",
                flow=self._flow,
                task=path,
            )
        # Kept alive, so that no other annotation gets its id.
        self._checked[pair] = (provided, wanted)

    def _check_given(self, place: Place) -> None:
        """Check that what a pattern was given by name is read by something in it."""
        around = self._places.all[place.parent].layout
        if place.layout.kind == "builder":
            return
        given = self.lookup.arguments(place) if around.kind == "builder" else around.given.get(place.position, {})
        for name in given:
            if name not in place.domain.read:
                raise FlowError(
                    f"flow {self._flow!r} gives {name!r} to flow {place.path!r}, in which nothing reads it"
                    f"{nearest(name, place.domain.read)}; leave it out",
                    flow=self._flow,
                    task=place.path,
                )


def _parts(source: Any) -> list[Any]:
    """Return the sources that *source* is made of."""
    if type(source) is Gathered:
        return list(source.parts)
    if type(source) is Provided:
        return [part for _, part in source.items]
    if type(source) is Named:
        return list(source.providers)
    if type(source) is FirstOf:
        return list(source.sources)
    if type(source) in (Element, Attribute, Otherwise, Made):
        return [source.source]
    return []
