"""
What a callable asks for: its visible parameters, and whether it wants the context or resources.

Hints are resolved the first time a compiler looks, one by one, so that one name which only a type checker can see costs
no more than its own check.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from asyncflow.context import Context
from asyncflow.errors import DeclarationError
from asyncflow.names import lasting


class _Unknown:
    """Stands for a type that cannot be told."""

    def __repr__(self) -> str:
        return "?"


UNKNOWN: Any = _Unknown()
"""The annotation of what has none, or one that cannot be resolved. It fits everything."""

NO_DEFAULT: Any = inspect.Parameter.empty
"""The default of a parameter that has none."""


_CONTEXTS = ("Context", "af.Context", "asyncflow.Context")


class ResourceDefault(msgspec.Struct, frozen=True):
    """The default of a parameter that wants a resource of the engine; made by :func:`resource`."""

    name: str | None = None


def resource(name: str | None = None) -> Any:
    """
    Mark a parameter as a resource of the engine: ``async def save(row: Row, db: Pool = af.resource())``.

    A resource comes from ``Engine(resources={"db": pool})`` and is never journaled. It is found by *name*, else by the
    parameter's own name, else by its annotation.
    """
    given: Any = name
    if given is not None and (not isinstance(given, str) or not given):
        raise DeclarationError(f'the name of af.resource is {name!r:.80}; give a string, as in af.resource("db")')
    return ResourceDefault(name)


class Parameter(msgspec.Struct, frozen=True):
    """One visible parameter. ``kind`` is one of ``inspect.Parameter``'s; ``default`` may be ``NO_DEFAULT``."""

    name: str
    kind: Any
    default: Any

    @property
    def is_required(self) -> bool:
        """Whether a call must give it."""
        return self.default is NO_DEFAULT

    @property
    def is_resource(self) -> bool:
        """Whether the engine gives it."""
        return type(self.default) is ResourceDefault


class Signature:
    """
    What a callable asks for. Reading one costs some ten microseconds, so whoever declares a callable keeps it.

    Args:
        fn: The callable; for a method the plain function of its class.
        method: Leave out the first parameter.
        what: How a message names it.

    Attributes:
        parameters: Visible parameters in order: without ``self``, the context, ``*args`` and ``**kwargs``.
        positional: How many of them can be given by position; these come first.
        by_name: The visible parameters by name.
        wants_context: Whether the first parameter is the context.
        takes_extra: Whether there is ``*args``.
        takes_names: Whether there is ``**kwargs``.

    Raises:
        DeclarationError: The signature cannot be read, or the context is not the first parameter.
    """

    __slots__ = (
        "_fn",
        "_hints",
        "_raw",
        "by_name",
        "parameters",
        "positional",
        "takes_extra",
        "takes_names",
        "wants_context",
    )

    def __init__(self, fn: Callable[..., Any], *, method: bool = False, what: str) -> None:
        try:
            found = inspect.signature(fn)
        except (TypeError, ValueError):
            raise DeclarationError(f"{what} has no signature that can be read; wrap it in a def of your own") from None
        self._fn = fn
        self._hints: dict[str, Any] = {}
        given = list(found.parameters.values())
        if method:
            if not given or given[0].kind not in (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            ):
                raise DeclarationError(f"{what} takes no self; write it as an ordinary method")
            given = given[1:]
        self._raw: dict[str, Any] = {p.name: p.annotation for p in given}
        self._raw["return"] = found.return_annotation
        self.wants_context = bool(given) and self._is_context(given[0])
        if self.wants_context:
            given = given[1:]
        kinds = {p.kind for p in given}
        self.takes_extra = inspect.Parameter.VAR_POSITIONAL in kinds
        self.takes_names = inspect.Parameter.VAR_KEYWORD in kinds
        self.parameters = tuple(
            Parameter(p.name, p.kind, p.default)
            for p in given
            if p.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        )
        self.positional = sum(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in self.parameters)
        self.by_name = {p.name: p for p in self.parameters}
        for p in given:
            if self._is_context(p):
                raise DeclarationError(f"{what} takes the context as {p.name!r}; make it the first parameter")

    def _is_context(self, parameter: inspect.Parameter) -> bool:
        raw = parameter.annotation
        if isinstance(raw, str) and "Context" not in raw:
            return False
        # Not kept: other names of the module may not be there yet.
        hint = resolve(raw, self._fn) if isinstance(raw, str) else raw
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            return Context in typing.get_args(hint)
        # A name that only a type checker imports cannot be resolved; by these spellings it can only be ours.
        return hint is Context or (hint is UNKNOWN and raw.removesuffix(" | None") in _CONTEXTS)

    def hint(self, name: str) -> Any:
        """Return the resolved annotation of a parameter, or of ``"return"``; ``UNKNOWN`` where there is none."""
        try:
            return self._hints[name]
        except KeyError:
            hint = self._hints[name] = resolve(self._raw.get(name, inspect.Parameter.empty), self._fn)
            return hint

    @property
    def returns(self) -> Any:
        """The resolved return annotation, or ``UNKNOWN``."""
        return self.hint("return")

    def text(self, name: str) -> str:
        """Return an annotation as text that is the same in every process; empty where there is none."""
        raw = self._raw.get(name, inspect.Parameter.empty)
        if raw is inspect.Parameter.empty:
            return ""
        # Resolved where that can be done, so that adding "from __future__ import annotations" is no change of type.
        hint = self.hint(name)
        return raw if hint is UNKNOWN and isinstance(raw, str) else lasting(inspect.formatannotation(hint))


def resolve(raw: Any, fn: Callable[..., Any]) -> Any:
    """Return what annotation *raw* of *fn* means, or ``UNKNOWN``."""
    if raw is inspect.Parameter.empty:
        return UNKNOWN
    if isinstance(raw, type) and not isinstance(raw, types.GenericAlias):
        return raw
    bare = inspect.unwrap(fn)
    bare = getattr(bare, "__func__", bare)
    known = dict(getattr(bare, "__globals__", {}))
    code, cells = getattr(bare, "__code__", None), getattr(bare, "__closure__", None)
    if code is not None and cells:
        for free, cell in zip(code.co_freevars, cells, strict=False):
            try:
                known[free] = cell.cell_contents
            except ValueError:  # Not bound yet.
                continue
    try:
        # Anything with annotations will do; type parameters of PEP 695 functions are looked up as locals.
        holder: Any = types.SimpleNamespace(__annotations__={"it": raw})
        local = {p.__name__: p for p in getattr(bare, "__type_params__", ())}
        return typing.get_type_hints(holder, known, local, include_extras=True)["it"]
    except Exception:
        # Whatever an annotation does when it is evaluated, a flow compiles without it.
        return UNKNOWN
