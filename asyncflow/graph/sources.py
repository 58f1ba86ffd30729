"""
Sources that hang on other flows: what a flow returns, what a builder's parameter stands for.

They hang on each other in the order of the user's nesting, which may be a thousand deep; :meth:`Sources.resolve` works
them out one at a time with a stack of its own.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec

from asyncflow.errors import CycleError, FlowError, TypeMismatch, UnknownProvider
from asyncflow.graph.inputs import (
    Attribute,
    Constant,
    Element,
    FirstOf,
    Gathered,
    Made,
    Named,
    Otherwise,
    Output,
    Provided,
    Resource,
    RunInput,
    Source,
    first_of,
)
from asyncflow.graph.lookup import Found, Lookup
from asyncflow.graph.place import Domain, Entry, Later, Place, Places
from asyncflow.graph.reference import Attr, Holder, Ref, Select, Shape, Spec
from asyncflow.graph.signature import NO_DEFAULT, UNKNOWN
from asyncflow.graph.types import attribute_of, element_of, fits, type_text
from asyncflow.graph.wants import nearest

Work = Generator[Later, Any, Source]
"""Works out a source: yields others that it needs first, is sent them, and returns it."""


class RunInputs:
    """
    What a flow asks of its runs, found while its tasks are bound.

    Attributes:
        annotations: Each input with its annotation, in the order they were met.
        required: Those that a run must have.
        lendable: Those that a resource of the engine may stand in for.
        defaults: The defaults of a root builder's parameters.
    """

    def __init__(self) -> None:
        self.annotations: dict[str, Any] = {}
        self.required: set[str] = set()
        self.lendable: set[str] = set()
        self.defaults: dict[str, Any] = {}
        self._sources: dict[str, Source] = {}

    def declare(self, name: str, annotation: Any) -> None:
        """Take note of an input of the flow; the first annotation that is known stays."""
        if self.annotations.setdefault(name, annotation) is UNKNOWN:
            self.annotations[name] = annotation

    def by_name(self, name: str, annotation: Any, *, required: bool) -> Source:
        """Return the source of an input that nothing provides: the run, else a resource of the engine."""
        self.declare(name, annotation)
        self.lendable.add(name)
        if required:
            self.required.add(name)
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = Named(name, (Resource(name, None, True),))
        return source


class Sources:
    """Works out where values come from across flows."""

    def __init__(self, flow: str, places: Places, lookup: Lookup, inputs: RunInputs) -> None:
        self._flow = flow
        self._places = places
        self._lookup = lookup
        self._inputs = inputs
        self._known: dict[Later, Source] = {}
        self._mappings: dict[int, dict[str, Source]] = {}
        self.shared: dict[int, tuple[Source, int]] = {}
        """By id: values put together of several that cross into another flow, so any number of tasks may read them;
        each with the flow that they are read in."""

    def at(self, entry: Entry) -> Source:
        """Return the source that *entry* is or stands for."""
        return self.resolve(entry) if type(entry) is tuple else entry  # type: ignore[return-value]

    def resolve(self, wanted: Later) -> Source:
        """
        Return the source that *wanted* stands for, worked out once.

        Raises:
            CycleError: It hangs on itself: flows pass a value to each other in a circle.
            TypeMismatch: A value cannot be what a flow's parameter or return annotation says.
        """
        known = self._known
        if wanted in known:
            return known[wanted]
        stack: list[tuple[Later, Work]] = [(wanted, self._work(wanted))]
        unfinished = {wanted: None}
        answer: Any = None
        while stack:
            key, work = stack[-1]
            try:
                needed = work.send(answer)
            except StopIteration as end:
                answer = known[key] = end.value
                if type(answer) is Gathered or type(answer) is Provided:
                    self.shared.setdefault(id(answer), (answer, max(0, self._places.all[key[1]].parent)))
                stack.pop()
                del unfinished[key]
                continue
            answer = known.get(needed)
            if answer is None:
                if needed in unfinished:
                    raise self._circle(list(unfinished), needed)
                unfinished[needed] = None
                stack.append((needed, self._work(needed)))
        return known[wanted]

    def of(self, place: Place, spec: Spec) -> Source:
        """Return the source of an argument written in the builder at *place*."""
        work = self._spec(place, spec)
        try:
            needed = next(work)
            while True:
                needed = work.send(self.resolve(needed))
        except StopIteration as end:
            source: Source = end.value
            return source

    def named(self, name: str, found: Found, default: Any, annotation: Any) -> Source:
        """Return the source of an input by name, given what looking for it has found."""
        if found.entry is None and found.is_walled:
            return Constant(default)
        if found.entry is None:
            source = self._inputs.by_name(name, annotation, required=default is NO_DEFAULT)
        else:
            source = self.at(found.entry)
            if type(source) is Constant:
                return source
            if not found.is_given and not found.is_walled:
                source = Named(name, (source,))
        return source if default is NO_DEFAULT else Otherwise(source, default)

    def annotation(self, source: Source) -> Any:
        """Return the annotation of what *source* gives, or ``UNKNOWN``."""
        if type(source) is Output:
            return self._places.tasks[source.task].returns
        if type(source) is Element:
            return element_of(self.annotation(source.source), source.key)
        if type(source) is Attribute:
            return attribute_of(self.annotation(source.source), source.name)
        if type(source) is Named and type(source.providers[0]) is not Resource:
            return self.annotation(source.providers[0])
        if type(source) is Made:
            return self.annotation(source.source)
        if type(source) is FirstOf:
            return self.annotation(source.sources[0])
        if type(source) is RunInput:
            return self._inputs.annotations.get(source.name, UNKNOWN)
        if type(source) is Gathered and isinstance(source.build, Shape):
            return source.build.kind
        return dict if type(source) is Provided else UNKNOWN

    # --- Working out --------------------------------------------------------------------------------------------------

    def _work(self, later: Later) -> Work:
        kind, index, name = later
        place = self._places.all[index]
        if kind == "element":
            return self._element(index, name)
        if kind == "parameter":
            return self._parameter(place, name)
        if kind == "argument":
            return self._spec(self._places.all[place.parent], self._lookup.arguments(place)[name])
        return self._returned(place)

    def _element(self, index: int, key: Any) -> Work:
        whole = yield ("return", index, "")
        return self.select(whole, key, self._places.all[index].flow.name)

    def _returned(self, place: Place) -> Work:
        layout = place.layout
        if layout.is_single:
            return self._places.output(place.codes[0])
        if layout.kind != "builder":
            source: Source = yield from self._mapping(place.domain)
        elif layout.returns is None:
            source = Constant(None)
        else:
            source = yield from self._spec(place, layout.returns)
            assert layout.signature is not None
            wanted = layout.signature.returns
            if not fits(found := self.annotation(source), wanted):
                raise TypeMismatch(
                    f"flow {place.flow.name!r} is annotated to return {type_text(wanted)} and returns a value "
                    f"annotated {type_text(found)}; change one of the annotations",
                    flow=place.flow.name,
                )
        return source

    def _mapping(self, domain: Domain) -> Work:
        items: list[tuple[str, Source]] = []
        for name, (_, entries) in domain.providers.items():
            found: list[Source] = []
            # The last one gives the name; those before it, where it may be skipped.
            for entry in reversed(entries) if self._places.has_conditions else entries[-1:]:
                if type(entry) is tuple:
                    found.append((yield entry))
                else:
                    found.append(entry)  # type: ignore[arg-type]
            items.append((name, first_of(found)))
        return Provided(tuple(items))

    def _parameter(self, place: Place, name: str) -> Work:
        signature = place.layout.signature
        assert signature is not None
        parameter, annotation = signature.by_name[name], signature.hint(name)
        if name in place.controls:
            return self._places.part(place.controller, place.controls[name])
        if place.parent < 0:
            if parameter.is_resource:
                return Resource(parameter.default.name or name, annotation)
            return RunInput(name)
        around = self._places.all[place.parent]
        if around.layout.kind == "builder":
            spec = self._lookup.arguments(place).get(name)
            if spec is None:
                # A resource is among the arguments already.
                return Constant(parameter.default)
            source = yield from self._spec(around, spec)
        else:
            given = around.layout.given.get(place.position)
            if given is not None and name in given:
                return Constant(given[name])
            if parameter.is_resource:
                return Resource(parameter.default.name or name, annotation)
            optional = not parameter.is_required
            found = self._lookup.find(around, place.lo, place.hi, name, optional=optional)
            for sibling in found.perhaps:
                # Many tasks may read it, so only what is plain to see counts as preceding them all: a link.
                if sibling.place == around.index and (sibling.item, place.position) in around.layout.links:
                    found = msgspec.structs.replace(found, entry=sibling.entry, is_given=False)
                    break
            if type(found.entry) is tuple:
                yield found.entry
            source = self.named(name, found, parameter.default, annotation)
        if not fits(provided := self.annotation(source), annotation):
            raise TypeMismatch(
                f"flow {place.flow.name!r} takes {name!r} as {type_text(annotation)} and is given "
                f"{type_text(provided)}; change one of the annotations",
                flow=self._flow,
                task=place.path,
            )
        return source

    def _spec(self, place: Place, spec: Spec) -> Work:
        if isinstance(spec, Holder):
            parts: list[Source] = []
            for part in spec.parts:
                source = yield from self._spec(place, part)
                parts.append(source)
            return Gathered(spec.shape, tuple(parts))
        if not isinstance(spec, (int, Ref)):
            return spec
        steps: list[Any] = []
        base: Any = spec
        while isinstance(base, Ref):
            if base.asyncflow_step is not None:
                steps.append(base.asyncflow_step)
            base = base.asyncflow_base
        if isinstance(base, str):
            source = yield ("parameter", place.index, base)
        elif place.codes[base] >= 0:
            source = self._places.output(place.codes[base])
        else:
            source = yield ("return", ~place.codes[base], "")
        for step in reversed(steps):
            if isinstance(step, Select):
                source = self.select(source, step.key, place.flow.name)
            elif isinstance(step, Attr):
                source = Attribute(source, step.name)
            else:
                source = Otherwise(source, step.value)
        return source

    def select(self, source: Source, key: Any, flow: str) -> Source:
        """
        Return ``value[key]`` of *source*: directly from what provides it, where a flow's value is put together.

        Raises:
            UnknownProvider: The value is the mapping of a flow that provides no such name.
            FlowError: It is a list or tuple that is too short, or a dict without that key.
        """
        if type(source) is Provided:
            names = self._mappings.get(id(source))
            if names is None:
                names = self._mappings[id(source)] = dict(source.items)
            if key not in names:
                have = ", ".join(map(repr, names)) or "nothing"
                raise UnknownProvider(
                    f"flow {flow!r} selects {key!r} from a flow that provides {have}{nearest(key, names)}; select "
                    "one of these",
                    flow=self._flow,
                    task=flow,
                    input=str(key),
                )
            return names[key]
        if type(source) is Gathered and isinstance(source.build, Shape):
            position = source.build.position(key)
            if position is not None and -len(source.parts) <= position < len(source.parts):
                return source.parts[position]
            if isinstance(key, slice):
                return Element(source, key)
            raise FlowError(
                f"flow {flow!r} selects {key!r} from a {source.build.kind.__name__} of {len(source.parts)}, which "
                "lacks it; select one that is there",
                flow=flow,
            )
        return Element(source, key)

    def _circle(self, unfinished: list[Later], again: Later) -> CycleError:
        through = unfinished[unfinished.index(again) :]
        paths = list(dict.fromkeys(self._places.all[index].path for _, index, _ in through))
        cycle = [*paths, paths[0]]
        return CycleError(
            f"flow {self._flow!r} has a cycle: {' -> '.join(cycle)}; a flow's input may not come from its own value",
            flow=self._flow,
            cycle=cycle,
        )
