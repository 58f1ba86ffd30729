"""What is read for a flow as a whole: by its controller, and by conditions on flows, tasks and links."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from asyncflow.errors import UnknownProvider
from asyncflow.graph.condition import Condition
from asyncflow.graph.inputs import Binding, Constant, Past, Resource, Source
from asyncflow.graph.lookup import NOTHING
from asyncflow.graph.place import Place, Places
from asyncflow.graph.plan import Guard
from asyncflow.graph.signature import NO_DEFAULT
from asyncflow.graph.wants import nearest
from asyncflow.graph.wiring import Wiring


class Outside:
    """Binds controllers, whose inputs come from outside their flow, and conditions."""

    def __init__(self, flow: str, places: Places, wiring: Wiring) -> None:
        self._flow = flow
        self._places = places
        self._wiring = wiring

    def bind_controllers(self, bindings: list[Binding]) -> None:
        """Put the binding of each controller into *bindings*, and add the edges that follow from it."""
        for place in self._places.all:
            if place.controller >= 0:
                bindings[place.controller] = self._bind_controller(place)

    def _bind_controller(self, place: Place) -> Binding:
        task = place.controller
        wants = self._places.tasks[task].wants
        wants.settle()
        positional: list[Source] = []
        keyword: list[tuple[str, Source]] = []
        for want in wants.by_name:
            if want.parameter == "history":
                source: Source = Past(place.index)
            elif want.fixed is not None:
                source = want.fixed
            else:
                annotation = wants.signature.hint(want.parameter)
                source = self._from_outside(place, want.name, want.default, annotation)
                self._wiring.check(self._wiring.sources.annotation(source), annotation, source, task, want.parameter)
                self._wiring.follow(source, task)
            if want.by_position:
                positional.append(source)
            else:
                keyword.append((want.parameter, source))
        return self._wiring.binding(positional, keyword, wants.names)

    def _from_outside(self, place: Place, name: str, default: Any, annotation: Any) -> Source:
        """Return the source of what is read by *name* for the flow at *place* as a whole: from outside it."""
        signature = place.layout.signature
        if signature is not None and name in signature.by_name and name not in place.controls:
            return self._wiring.sources.resolve(("parameter", place.index, name))
        if place.parent < 0 and signature is None:
            return self._wiring.sources.named(name, NOTHING, default, annotation)
        if place.parent >= 0:
            around = self._places.all[place.parent]
            given = around.layout.given.get(place.position, {})
            if name in given:
                place.domain.read.add(name)
                return Constant(given[name])
            if around.layout.kind != "builder":
                return self._wiring.seen(around, place.lo, place.hi, name, default, annotation)
            if signature is None and name in self._wiring.lookup.arguments(place):
                return self._wiring.sources.resolve(("argument", place.index, name))
        if default is not NO_DEFAULT:
            return Constant(default)
        path = place.path or self._flow
        raise UnknownProvider(
            f"flow {self._flow!r}: the controller or condition of flow {path!r} reads {name!r}, which is not among "
            "the inputs of that flow; add it to them, or give the parameter a default",
            flow=self._flow,
            task=path,
            input=name,
        )

    def bind_conditions(self) -> list[Guard]:
        """Return every condition with where its values come from, and the edges that follow from that."""
        guards: list[Guard] = []
        for place in self._places.all:
            if place.flow.condition is not None:
                node = self._wiring.edges.entry(place.index)
                outside = functools.partial(self._from_outside, place)
                guards.append(self._guard(place.flow.condition, node, place.index, (), outside))
            for position, code in enumerate(place.codes):
                condition = self._places.tasks[code].condition if code >= 0 else None
                if condition is not None:
                    guards.append(self._guard(condition, code, -1, (), self._reader(place, position, code)))
            for (first, then), condition in place.layout.conditions.items():
                code = place.codes[then]
                sources = self._tasks_of(place.codes[first])
                read = self._reader(place, then, code)
                if code >= 0:
                    guards.append(self._guard(condition, code, -1, sources, read))
                else:
                    guards.append(self._guard(condition, self._wiring.edges.entry(~code), ~code, sources, read))
        return guards

    def _guard(
        self, condition: Condition, node: int, scope: int, sources: tuple[int, ...], read: Callable[..., Source]
    ) -> Guard:
        keyword: list[tuple[str, Source]] = []
        signature = condition.signature
        for parameter in signature.parameters:
            if parameter.is_resource:
                source: Source = Resource(parameter.default.name or parameter.name, signature.hint(parameter.name))
            else:
                source = read(parameter.name, parameter.default, signature.hint(parameter.name))
            self._wiring.follow(source, node)
            keyword.append((parameter.name, source))
        return Guard(node, scope, condition.depth, sources, condition, Binding((), tuple(keyword), (), None))

    def _reader(self, place: Place, position: int, code: int) -> Callable[..., Source]:
        """Return what finds a value by name as the item at *position* sees it."""
        if code < 0:
            return functools.partial(self._from_outside, self._places.all[~code])
        tick = self._places.ticks[code]
        if place.layout.kind != "builder":
            given = place.layout.given.get(position, {})

            def in_pattern(name: str, default: Any, annotation: Any) -> Source:
                if name in given:
                    return Constant(given[name])
                return self._wiring.seen(place, tick, tick + 1, name, default, annotation)

            return in_pattern
        call = place.layout.calls[position]
        specs = {name: spec for name, spec in zip(call.names, call.positional, strict=True) if name is not None}
        specs.update(call.keyword)
        defaults = {
            parameter.name: parameter.default for parameter in self._places.tasks[code].wants.signature.parameters
        }

        def in_builder(name: str, default: Any, annotation: Any) -> Source:
            if name in specs:
                return self._wiring.sources.of(place, specs[name])
            if name not in defaults and default is NO_DEFAULT:
                path = self._places.path(code)
                raise UnknownProvider(
                    f"flow {self._flow!r}: the condition of task {path!r} reads {name!r}, which is no parameter of the "
                    f"task{nearest(name, defaults)}; in a builder it reads those",
                    flow=self._flow,
                    task=path,
                    input=name,
                )
            return Constant(defaults[name] if default is NO_DEFAULT else default)

        return in_builder

    def _tasks_of(self, code: int) -> tuple[int, ...]:
        """Return the tasks of an item: itself, or all in it."""
        if code >= 0:
            return (code,)
        inside = {~code}
        for place in self._places.all[~code + 1 :]:
            if place.parent in inside:
                inside.add(place.index)
        return tuple(task for task, scope in enumerate(self._places.scope_of) if scope in inside)
