"""What listens while a builder runs: each call of a task or flow in it becomes an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from asyncflow.errors import DeclarationError, DuplicateName
from asyncflow.graph.layout import Composite, Item, Layout
from asyncflow.graph.reference import Attr, Ref, Select, contains_reference, spec_of
from asyncflow.graph.signature import UNKNOWN, Signature
from asyncflow.graph.types import attribute_of, element_of, length_of


class Builder:
    """Records the calls of one builder function into a layout."""

    __slots__ = ("_counts", "layout", "name", "signature")

    def __init__(self, name: str, signature: Signature) -> None:
        self.name = name
        self.signature = signature
        self.layout = Layout("builder")
        self.layout.signature = signature
        self._counts: dict[str, int] = {}

    def parameters(self) -> tuple[list[Ref], dict[str, Ref]]:
        """Return references for the function's parameters, positional and by keyword."""
        refs = [Ref(self, parameter.name) for parameter in self.signature.parameters]
        count = self.signature.positional
        names = [parameter.name for parameter in self.signature.parameters]
        return refs[:count], dict(zip(names[count:], refs[count:], strict=True))

    def call(self, called: Item, args: Sequence[Any], kwargs: Mapping[str, Any], after: Sequence[Any] = ()) -> Ref:
        """Record one call and return a reference to its value."""
        layout = self.layout
        call = called.match(args, kwargs, self)
        position = len(layout.items)
        for ref in after:
            if type(ref) is not Ref:
                raise DeclarationError(
                    f"{called.name!r} in flow {self.name!r} is to come after {ref!r:.80}; give what a call in this "
                    "flow returned"
                )
            spec_of(ref, self)
        name = self._free_name(called, position)
        layout.after.extend((ref, position) for ref in after)
        layout.names[name] = position
        layout.items.append(called)
        layout.calls.append(call)
        return Ref(self, position)

    def _free_name(self, called: Item, position: int) -> str:
        name, taken = called.name, self.layout.names
        if called.is_named:
            if name in taken:
                raise DuplicateName(
                    f"flow {self.name!r} has two tasks or flows named {name!r}; give one another name with .named(...)",
                    flow=self.name,
                    task=name,
                )
            return name
        self.layout.families[position] = name
        if name not in taken:
            self._counts[name] = 1
            return name
        number = self._counts.get(name, 1) + 1
        while f"{name}-{number}" in taken:
            number += 1
        self._counts[name] = number
        return f"{name}-{number}"

    def finish(self, returned: Any) -> Layout:
        """Return the layout of a builder that returned *returned*."""
        if returned is not None:
            self.layout.returns = spec_of(returned, self)
        return self.layout

    # --- What references ask ------------------------------------------------------------------------------------------

    def label(self, base: int | str) -> str:
        """Return what a reference's base is, for messages."""
        if isinstance(base, str):
            return f"input {base!r}"
        return f"the value of {list(self.layout.names)[base]!r}"

    def annotation(self, ref: Ref) -> Any:
        """Return the annotation of the value to come, or ``UNKNOWN``."""
        steps: list[Any] = []
        base: Any = ref
        while isinstance(base, Ref):
            if base.asyncflow_step is not None:
                steps.append(base.asyncflow_step)
            base = base.asyncflow_base
        found = self.signature.hint(base) if isinstance(base, str) else self._item(base).returns
        for step in reversed(steps):
            if isinstance(step, Select):
                found = element_of(found, step.key)
            elif isinstance(step, Attr):
                found = attribute_of(found, step.name)
            else:
                found = UNKNOWN
        return found

    def length(self, ref: Ref) -> int | None:
        """Return how many elements the value to come has, if that is declared."""
        if ref.asyncflow_step is None and isinstance(ref.asyncflow_base, int):
            return self._item(ref.asyncflow_base).length()
        return length_of(self.annotation(ref))

    def _item(self, position: int) -> Item:
        return self.layout.items[position]


building: ContextVar[Builder | None] = ContextVar("asyncflow.building", default=None)
"""The builder that is running here."""


def call_in_builder(
    called: Item, args: Sequence[Any], kwargs: Mapping[str, Any], after: Sequence[Any], bare: str
) -> Any:
    """
    Record a call in the builder that is running; *bare* says what to call outside one.

    Raises:
        DeclarationError: None is running.
    """
    builder = building.get()
    if builder is None:
        misplaced = contains_reference((list(args), dict(kwargs)))
        where = "after its flow was declared" if misplaced else "outside a flow"
        kind = "flow" if isinstance(called, Composite) else "task"
        raise DeclarationError(
            f"{kind} {called.name!r} was called {where}; a call belongs in a function decorated with @af.flow, {bare}"
        )
    return builder.call(called, args, kwargs, after)
