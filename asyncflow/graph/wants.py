"""What a task asks for: each input by the name it is wired under, and how a call of it in a builder is put together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import attrs
import msgspec

from asyncflow.errors import DeclarationError
from asyncflow.graph.inputs import Constant, Resource, Values
from asyncflow.graph.reference import Origin, Spec, check_constant, contains_reference, spec_of
from asyncflow.graph.signature import NO_DEFAULT, Signature


def nearest(name: Any, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` if one of *known* resembles *name*, else nothing."""
    close = get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@attrs.frozen(eq=False)
class Want:
    """
    One input of a task.

    Attributes:
        parameter: The parameter that takes it.
        name: The name under which it is looked for.
        by_position: Whether it can be given by position.
        default: What it is without a provider; ``NO_DEFAULT`` makes it required.
        fixed: Where it comes from whatever is provided: an injected constant, a resource. Else None.
    """

    parameter: str
    name: str
    by_position: bool
    default: Any = NO_DEFAULT
    fixed: Constant | Resource | None = None


class Call(msgspec.Struct, frozen=True):
    """A call as it was written in a builder, each argument with the parameter that takes it."""

    positional: tuple[Spec, ...]
    keyword: tuple[tuple[str, Spec], ...]
    names: tuple[str | None, ...]


class Wants:
    """
    All that one task asks for; shared by the copies of a task that differ in other things.

    Attributes:
        signature: Of its body.
        by_name: Its inputs when it is wired by name, in the order of its parameters.
        names: Their parameters that are given by position, for bindings to share.
    """

    __slots__ = ("_fixed", "_is_plain", "_is_settled", "_names", "by_name", "names", "signature", "what")

    def __init__(
        self,
        signature: Signature,
        what: str,
        *,
        requires: Any = (),
        rebind: Any = None,
        inject: Any = None,
        auto_extract: Any = True,
    ) -> None:
        self.signature = signature
        self.what = what
        required = _names(requires, what, "requires")
        injected = _mapping(inject, what, "inject")
        if contains_reference(injected):
            raise DeclarationError(f"{what} injects a reference; inject constants, and pass references in the call")
        check_constant(injected)
        renamed = self._renamed(rebind)
        if not isinstance(auto_extract, bool):
            raise DeclarationError(f"{what} has auto_extract={auto_extract!r:.80}; give True or False")
        known = signature.by_name
        for option, given in (("requires", required), ("rebind", renamed), ("inject", injected)):
            for name in given:
                if name not in known and not signature.takes_names and name not in renamed.values():
                    raise DeclarationError(
                        f"{what} has {option}={name!r}, which its parameters ({', '.join(known) or 'none'}) do not take"
                        f"{nearest(name, known)}; name a parameter, or take **inputs"
                    )
        wants: list[Want] = []
        contiguous = True
        for parameter in signature.parameters:
            name = renamed.get(parameter.name, parameter.name)
            listed = parameter.name in required or name in required
            if name != parameter.name and parameter.name in injected:
                raise DeclarationError(f"{what} injects {parameter.name!r} and rebinds it to {name!r}; leave one out")
            if name != parameter.name and parameter.is_resource:
                raise DeclarationError(
                    f"{what} rebinds {parameter.name!r}, which is a resource, to {name!r}; write "
                    f'{parameter.name}=af.resource("{name}") in its signature'
                )
            if parameter.name in injected:
                fixed: Constant | Resource | None = Constant(injected[parameter.name])
            elif parameter.is_resource:
                fixed = Resource(parameter.default.name or parameter.name)
            else:
                fixed = None
                if not auto_extract and not listed and parameter.name not in renamed:
                    if parameter.is_required:
                        raise DeclarationError(
                            f"{what} has auto_extract=False and does not list parameter {parameter.name!r}; add it to "
                            "requires, or give it a default"
                        )
                    contiguous = False
                    continue
            by_position = contiguous and parameter.kind is not parameter.kind.KEYWORD_ONLY
            if not by_position and parameter.kind is parameter.kind.POSITIONAL_ONLY:
                raise DeclarationError(f"{what} takes {parameter.name!r} by position only; list the one before it too")
            default = NO_DEFAULT if listed else parameter.default
            wants.append(Want(parameter.name, name, by_position, default, fixed))
        taken = {want.parameter for want in wants} | {want.name for want in wants}
        extra = [name for name in (*required, *renamed) if name not in taken]
        extra = [name for name in dict.fromkeys(extra) if name not in injected]
        wants.extend(Want(name, renamed.get(name, name), False) for name in extra)
        free = {name: value for name, value in injected.items() if name not in known}
        wants.extend(Want(name, name, False, fixed=Constant(value)) for name, value in free.items())
        self.by_name = tuple(wants)
        self.names: tuple[str | None, ...] = tuple(want.parameter for want in wants if want.by_position)
        self._fixed = {want.parameter: want.fixed for want in wants if want.fixed is not None}
        # Whether its parameters are all that it asks for, and none of them is given in advance.
        self._is_plain = not self._fixed and all(want.parameter in signature.by_name for want in wants)
        self._names: dict[int, tuple[str | None, ...]] = {}
        self._is_settled = not any(type(fixed) is Resource for fixed in self._fixed.values())

    def settle(self) -> None:
        """Find out what type each resource must have. Not before a compile: until then a hint may be undefined."""
        if self._is_settled:
            return
        self._is_settled = True
        for name, fixed in self._fixed.items():
            if type(fixed) is Resource:
                self._fixed[name] = Resource(fixed.name, self.signature.hint(name))
        self.by_name = tuple(
            attrs.evolve(want, fixed=self._fixed[want.parameter]) if want.fixed is not None else want
            for want in self.by_name
        )

    def _renamed(self, rebind: Any) -> dict[str, str]:
        if isinstance(rebind, (list, tuple)):
            parameters = [p.name for p in self.signature.parameters]
            if len(rebind) > len(parameters):
                raise DeclarationError(
                    f"{self.what} has rebind={rebind!r:.80} for {len(parameters)} parameters; give no more names"
                )
            rebind = dict(zip(parameters, rebind, strict=False))
        if isinstance(rebind, str):
            raise DeclarationError(
                f"{self.what} has rebind={rebind!r:.80}; give names in order of its parameters, as in "
                f"rebind=[{rebind!r:.80}], or a mapping of parameter names"
            )
        renamed = _mapping(rebind, self.what, "rebind")
        for parameter, name in renamed.items():
            if not isinstance(name, str) or not name:
                raise DeclarationError(f"{self.what} rebinds {parameter!r} to {name!r:.80}; give the name of an input")
        return renamed

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any], builder: Origin) -> Call:
        """
        Return a call in *builder*, its arguments matched to parameters.

        Raises:
            DeclarationError: It does not fit the signature, or gives what the task injects.
            ReferenceMisuse: An argument holds a reference where it cannot be used.
        """
        signature = self.signature
        count = signature.positional
        is_usual = self._is_plain and not kwargs and count == len(signature.parameters)
        if is_usual and (len(args) == count or (signature.takes_extra and len(args) > count)):
            return Call(tuple([spec_of(value, builder) for value in args]), (), self._first_names(len(args)))
        self.settle()
        given = self.matched(args, kwargs)
        for want in self.by_name:
            listed = want.parameter not in signature.by_name and want.fixed is None
            if listed and want.parameter not in given:
                raise DeclarationError(
                    f"{self.what} is called in flow {builder.name!r} without {want.parameter!r}; pass a reference or a "
                    "constant"
                )
        for name in self._fixed.keys() & given.keys():
            if type(self._fixed[name]) is Constant:
                raise DeclarationError(f"{self.what} injects {name!r}, and the call gives it too; leave one out")
        positional: list[Spec] = []
        keyword: list[tuple[str, Spec]] = []
        contiguous = True
        for parameter in signature.parameters:
            name = parameter.name
            if name in given:
                spec = spec_of(given.pop(name), builder)
            elif name in self._fixed:
                spec = self._fixed[name]
            elif parameter.is_required:
                raise DeclarationError(
                    f"{self.what} is called in flow {builder.name!r} without {name!r}; pass a reference or a constant"
                )
            else:
                contiguous = False
                continue
            if contiguous and parameter.kind is not parameter.kind.KEYWORD_ONLY:
                positional.append(spec)
            else:
                keyword.append((name, spec))
        names = self._first_names(len(positional))
        if len(args) > count:
            more = args[count:]
            positional.extend(spec_of(value, builder) for value in more)
            names += (None,) * len(more)
        keyword.extend((name, spec_of(value, builder)) for name, value in given.items())
        keyword.extend((n, s) for n, s in self._fixed.items() if n not in signature.by_name)
        return Call(tuple(positional), tuple(keyword), names)

    def matched(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by parameter; those that go to ``*args`` are left out."""
        signature = self.signature
        if len(args) > signature.positional and not signature.takes_extra:
            raise DeclarationError(
                f"{self.what} is called with {len(args)} positional arguments and takes {signature.positional}"
            )
        given = dict(zip((p.name for p in signature.parameters[: signature.positional]), args, strict=False))
        for name, value in kwargs.items():
            parameter = signature.by_name.get(name)
            if parameter is None and not signature.takes_names:
                raise DeclarationError(
                    f"{self.what} is called with {name!r}, which it does not take{nearest(name, signature.by_name)}"
                )
            if name in given:
                raise DeclarationError(f"{self.what} is called with {name!r} twice, by position and by keyword")
            given[name] = value
        return given

    def _first_names(self, count: int) -> tuple[str | None, ...]:
        found = self._names.get(count)
        if found is None:
            named = [parameter.name for parameter in self.signature.parameters[:count]]
            found = self._names[count] = (*named, *[None] * (count - len(named)))
        return found


class HookWants:
    """
    What a revert or a reconcile hook takes of its task: any of the task's inputs, by name.

    Attributes:
        context: Whether its first parameter is the context.
        outcome: Whether it takes ``outcome``, how the attempt ended.
        failures: Whether it takes ``failures``, path to failure of what failed for good.
        history: Whether it takes ``history``, as a controller's may.
        names: The inputs that it takes.
        required: Those of them that it has no default for.
        everything: Whether it takes every input, as ``**inputs``.
        resources: Its parameters that are resources of the engine, each with the name of the resource.
        own: Inputs that it has besides the task's, or in place of them.
        signature: All of it.
    """

    __slots__ = (
        "context",
        "everything",
        "failures",
        "history",
        "names",
        "outcome",
        "own",
        "required",
        "resources",
        "signature",
    )

    def __init__(
        self,
        signature: Signature,
        what: str,
        body: Signature,
        *,
        is_revert: bool,
        has_history: bool = False,
        own: tuple[Want, ...] = (),
    ) -> None:
        self.own = own
        own_names = {want.parameter for want in own}
        self.history = has_history and "history" in signature.by_name
        self.context = signature.wants_context
        self.everything = signature.takes_names
        self.outcome = is_revert and "outcome" in signature.by_name and "outcome" not in body.by_name
        self.failures = is_revert and "failures" in signature.by_name and "failures" not in body.by_name
        names: list[str] = []
        required: list[str] = []
        resources: list[tuple[str, str]] = []
        for parameter in signature.parameters:
            name = parameter.name
            if parameter.kind is parameter.kind.POSITIONAL_ONLY:
                raise DeclarationError(
                    f"{what} takes {name!r} by position only; it is called by keyword, so drop the /"
                )
            if (name == "outcome" and self.outcome) or (name == "failures" and self.failures):
                continue
            if (name == "history" and self.history) or name in own_names:
                continue
            if parameter.is_resource:
                resources.append((name, parameter.default.name or name))
                continue
            if name not in body.by_name and parameter.is_required and not body.takes_names:
                extra = ", 'outcome' and 'failures'" if is_revert else " and 'history'" if has_history else ""
                raise DeclarationError(
                    f"{what} takes {name!r}, which is no input of its task{nearest(name, body.by_name)}; it may take "
                    f"the task's inputs ({', '.join(body.by_name) or 'none'}){extra}"
                )
            names.append(name)
            if parameter.is_required:
                required.append(name)
        self.names = tuple(names)
        self.required = tuple(required)
        self.resources = tuple(resources)
        self.signature = signature

    @property
    def of_task(self) -> Collection[str] | None:
        """The inputs of the task that it takes, by name; None for all of them. No other need be there."""
        return None if self.everything else self.names

    def select(self, inputs: Mapping[str, Any], values: Values | None = None) -> dict[str, Any]:
        """Return what the hook takes of *inputs*, the task's inputs by name, and its resources from *values*."""
        if self.everything:
            taken = dict(inputs)
        else:
            taken = {name: inputs[name] for name in self.names if name in inputs}
        if values is not None:
            for parameter, name in self.resources:
                taken[parameter] = values.resource(name, self.signature.hint(parameter))
        return taken


def own_inputs(
    requires: Iterable[str], rebind: Mapping[str, str] | None, signature: Signature, what: str
) -> tuple[Want, ...]:
    """
    Return what a revert is wired to by itself.

    Raises:
        DeclarationError: It has no such parameter.
    """
    renamed = dict(rebind or {})
    names = dict.fromkeys((*((requires,) if isinstance(requires, str) else requires), *renamed))
    for name in names:
        if name not in signature.by_name and not signature.takes_names:
            raise DeclarationError(
                f"{what} is wired to {name!r}, which its parameters ({', '.join(signature.by_name) or 'none'}) do not "
                f"take{nearest(name, signature.by_name)}"
            )
    defaults = {name: signature.by_name[name].default for name in names if name in signature.by_name}
    return tuple(Want(name, renamed.get(name, name), False, defaults.get(name, NO_DEFAULT)) for name in names)


def _names(value: Any, what: str, option: str) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else value
    if names is None:
        return ()
    if isinstance(names, (set, frozenset)):
        names = sorted(names, key=str)
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise DeclarationError(f"{what} has {option}={value!r:.80}; give names, as in {option}=('page', 'depth')")
    return tuple(names)


def _mapping(value: Any, what: str, option: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(name, str) and name for name in value):
        raise DeclarationError(f"{what} has {option}={value!r:.80}; give a mapping of parameter names")
    return dict(value)
