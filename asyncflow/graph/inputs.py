"""
Where a value comes from: the sources that a compiled task reads its arguments from.

A source is read when its task starts, from the values that the run has by then. Reading raises :class:`NoValue` where a
value is missing because its task was skipped; what catches it takes the next provider or a default.

Sources are msgspec structs, although they are declarations: to make an attrs class takes 0.4 ms, and there are so many
here that it was a twentieth of the time that asyncflow takes to be imported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from asyncflow.errors import ResourceMissing


class NoValue(Exception):
    """A source has no value: the task behind it was skipped, or an input was not given. ``name`` says which."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class Values(Protocol):
    """What sources read from: one run's inputs, the values of its tasks, and the engine's resources."""

    inputs: dict[str, Any]
    """What the run was given, by name, and the flow's own defaults."""
    shadows: bool
    """Whether the run was given a value under a name that a task provides."""

    def value(self, task: int) -> Any:
        """Return what a task returned, or raise NoValue."""
        ...

    def history(self, scope: int) -> Any:
        """Return the attempts of a flow that has a controller, those before the present one."""
        ...

    def resource(self, name: str, wanted: Any) -> Any:
        """Return a resource of the engine by name, else by type, or raise ResourceMissing."""
        ...


class Source(Protocol):
    """Something an argument can be read from."""

    def read(self, values: Values) -> Any:
        """Return the value, or raise NoValue."""
        ...

    def tasks(self) -> Iterator[int]:
        """Yield the index of every task whose value this may read: its data dependencies."""
        ...


class Constant(msgspec.Struct, frozen=True):
    """A value of the plan itself."""

    value: Any

    def read(self, values: Values) -> Any:
        return self.value

    def tasks(self) -> Iterator[int]:
        return iter(())


class RunInput(msgspec.Struct, frozen=True):
    """An input of the run."""

    name: str

    def read(self, values: Values) -> Any:
        try:
            return values.inputs[self.name]
        except KeyError:
            raise NoValue(self.name) from None

    def tasks(self) -> Iterator[int]:
        return iter(())


class Output(msgspec.Struct, frozen=True):
    """What a task returned, whole."""

    task: int

    def read(self, values: Values) -> Any:
        return values.value(self.task)

    def tasks(self) -> Iterator[int]:
        yield self.task


class Element(msgspec.Struct, frozen=True):
    """``value[key]`` of another source."""

    source: Source
    key: Any

    def read(self, values: Values) -> Any:
        return self.source.read(values)[self.key]

    def tasks(self) -> Iterator[int]:
        return self.source.tasks()


class Attribute(msgspec.Struct, frozen=True):
    """``value.name`` of another source."""

    source: Source
    name: str

    def read(self, values: Values) -> Any:
        return getattr(self.source.read(values), self.name)

    def tasks(self) -> Iterator[int]:
        return self.source.tasks()


class Gathered(msgspec.Struct, frozen=True):
    """A container with references in it: ``build`` makes it from the values of ``parts``, in order."""

    build: Callable[[list[Any]], Any]
    parts: tuple[Source, ...]

    def read(self, values: Values) -> Any:
        return self.build([part.read(values) for part in self.parts])

    def tasks(self) -> Iterator[int]:
        for part in self.parts:
            yield from part.tasks()


class Provided(msgspec.Struct, frozen=True):
    """
    A mapping of names to what provides them, as a pattern flow gives it; names without a value are absent.
    """

    items: tuple[tuple[str, Source], ...]

    def read(self, values: Values) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, source in self.items:
            try:
                found[name] = source.read(values)
            except NoValue:
                continue
        return found

    def tasks(self) -> Iterator[int]:
        for _, source in self.items:
            yield from source.tasks()


class Named(msgspec.Struct, frozen=True):
    """
    An input wired by name: a value given to the run under that name, else the nearest provider that has one.

    ``providers`` stand nearest first. Without any, only the run can give it.
    """

    name: str
    providers: tuple[Source, ...] = ()

    def read(self, values: Values) -> Any:
        if self.name in values.inputs:
            return values.inputs[self.name]
        for provider in self.providers:
            try:
                return provider.read(values)
            except NoValue:
                continue
        raise NoValue(self.name)

    def tasks(self) -> Iterator[int]:
        for provider in self.providers:
            yield from provider.tasks()


class FirstOf(msgspec.Struct, frozen=True):
    """The first of several sources, nearest first, that has a value: what gives the others was skipped."""

    sources: tuple[Source, ...]

    def read(self, values: Values) -> Any:
        for source in self.sources[:-1]:
            try:
                return source.read(values)
            except NoValue:
                continue
        return self.sources[-1].read(values)

    def tasks(self) -> Iterator[int]:
        for source in self.sources:
            yield from source.tasks()


def first_of(sources: Sequence[Source]) -> Source:
    """Return the first of *sources* that has a value; itself where there is only one."""
    return sources[0] if len(sources) == 1 else FirstOf(tuple(sources))


class Past(msgspec.Struct, frozen=True):
    """The attempts of a flow so far, as its controller gets them."""

    scope: int

    def read(self, values: Values) -> Any:
        return values.history(self.scope)

    def tasks(self) -> Iterator[int]:
        return iter(())


class Made(msgspec.Struct, frozen=True):
    """Another source, or what ``make`` returns where that has no value: the default registered for a type."""

    source: Source
    make: Callable[[], Any]

    def read(self, values: Values) -> Any:
        try:
            return self.source.read(values)
        except NoValue:
            return self.make()

    def tasks(self) -> Iterator[int]:
        return self.source.tasks()


class Otherwise(msgspec.Struct, frozen=True):
    """Another source, or ``default`` where that has no value."""

    source: Source
    default: Any

    def read(self, values: Values) -> Any:
        try:
            return self.source.read(values)
        except NoValue:
            return self.default

    def tasks(self) -> Iterator[int]:
        return self.source.tasks()


class Resource(msgspec.Struct, frozen=True):
    """
    Something of the engine's, never journaled: a pool, a client. ``wanted`` is the parameter's annotation.

    ``is_optional``: where the engine has none, this has no value, instead of raising ResourceMissing.
    """

    name: str
    wanted: Any = None
    is_optional: bool = False

    def read(self, values: Values) -> Any:
        if not self.is_optional:
            return values.resource(self.name, self.wanted)
        try:
            return values.resource(self.name, None)
        except ResourceMissing:
            raise NoValue(self.name) from None

    def tasks(self) -> Iterator[int]:
        return iter(())


class Binding(msgspec.Struct, frozen=True):
    """
    How one task's call is put together.

    Attributes:
        keyword: Parameter name to source, for what is not given by position.
        names: Parameter name of each positional argument (None for one that goes to ``*args``), so that a revert can
            have its inputs by name.
        outputs: The tasks whose values are the positional arguments, where every argument is the whole value of one
            task and there is no keyword: the common case, read without a call for each argument. Else None.
    """

    # Empty where ``outputs`` says it all, which spares the binding of a chain's task 88 bytes.
    _positional: tuple[Source, ...] = ()
    keyword: tuple[tuple[str, Source], ...] = ()
    names: tuple[str | None, ...] = ()
    outputs: tuple[int, ...] | None = ()

    @property
    def positional(self) -> tuple[Source, ...]:
        """Sources of the positional arguments, in order."""
        return self._positional or tuple(map(Output, self.outputs or ()))

    def sources(self) -> Iterator[Source]:
        """Yield every source, positional first."""
        yield from self.positional
        for _, source in self.keyword:
            yield source

    def reads(self) -> list[int]:
        """Return the index of every task whose value this may read."""
        if self.outputs is not None:
            return list(self.outputs)
        return [task for source in self.sources() for task in source.tasks()]

    def named(self, only: Collection[str] | None = None) -> Binding:
        """Return the same by parameter name, as a hook takes it; of *only* these parameters, if that is given."""
        pairs = [(name, source) for name, source in zip(self.names, self.positional, strict=True) if name is not None]
        pairs += self.keyword
        kept = tuple((name, source) for name, source in pairs if only is None or name in only)
        return Binding(keyword=kept, outputs=None)

    def read(self, values: Values) -> tuple[list[Any], dict[str, Any]]:
        """Return the positional and the keyword arguments, or raise NoValue."""
        if self.outputs is not None and not values.shadows:
            value = values.value
            return [value(task) for task in self.outputs], {}
        return (
            [source.read(values) for source in self._positional or self.positional],
            {name: source.read(values) for name, source in self.keyword},
        )

    def by_name(self, values: Values, only: Collection[str] | None = None) -> dict[str, Any]:
        """Return what can be read of the arguments by parameter name; of *only* these, if that is given."""
        return Provided(self.named(only).keyword).read(values)


NO_ARGUMENTS = Binding()
"""The binding of every task that takes nothing."""
