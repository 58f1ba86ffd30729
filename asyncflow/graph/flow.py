"""
What users compose: a :class:`Flow`, and builders made by ``@af.flow``, which wire tasks by calling them.

Builders and the patterns of ``pattern.py`` can be nested in each other, and compile into one plan.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, Unpack, cast, overload

from asyncflow.codec.leaves import is_text
from asyncflow.errors import AsyncflowError, DeclarationError
from asyncflow.graph.builder import Builder, building, call_in_builder
from asyncflow.graph.compile import Compiled, compile_flow
from asyncflow.graph.condition import Condition, check_condition
from asyncflow.graph.controller import Controller, check_controller
from asyncflow.graph.flow_options import FLOW_DEFAULTS, FlowOptions, check_flow_options
from asyncflow.graph.layout import Composite, Layout
from asyncflow.graph.plan import Plan
from asyncflow.graph.provides import Given, Provides, given_by
from asyncflow.graph.reference import Origin
from asyncflow.graph.signature import Signature
from asyncflow.graph.task import Task
from asyncflow.graph.types import length_of
from asyncflow.graph.wants import Call, Wants
from asyncflow.ids import check_name
from asyncflow.names import FILE_MODULE

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Flow(Composite, Generic[P, T_co]):
    """
    A composition of tasks and other flows. ``P`` are its inputs and ``T_co`` is what it returns.

    Attributes:
        name: Its identity within the flow around it.
        controller: What decides whether it runs again when something in it has failed for good, or None.
        condition: What decides whether it runs at all, or None.

    The options of :class:`FlowOptions` are attributes too.
    """

    is_named: bool = False
    made_by: Any = None
    """The factory that made it and its arguments as text, if one did."""
    controller: Controller | None
    condition: Condition | None
    retry: Any
    when: Any
    depth: Any

    def __init__(self, name: str, *, module: str | None, **options: Unpack[FlowOptions]) -> None:
        self.name = check_name(name, "flow")
        self._module = module
        self._compiled: Compiled | None = None
        for option, default in FLOW_DEFAULTS.items():
            setattr(self, option, default)
        self._set(options)

    def _set(self, options: FlowOptions) -> None:
        """Check *options* and keep them."""
        for option, value in check_flow_options(options, f"flow {self.name!r}").items():
            setattr(self, option, value)
        self.condition = check_condition(self.when, self.depth, f"flow {self.name!r}")
        self.controller = check_controller(self.retry, self.name)
        if self.revert_scope == "flow" and self.controller is None:
            raise DeclarationError(
                f'flow {self.name!r} has revert_scope="flow" and no controller; add one, such as '
                "retry=af.AlwaysRevert()"
            )

    # --- Compiling ----------------------------------------------------------------------------------------------------

    def compile(self) -> Plan:
        """
        Return the flow checked, ordered and frozen. The same plan each time, until the flow changes.

        Raises:
            FlowError: The flow can never run as it is: a cycle, an ambiguous provider, types that cannot fit, ...
        """
        if self._compiled is None or not self._compiled.is_current():
            self._compiled = compile_flow(self)
        return self._compiled.plan

    @property
    def inputs(self) -> Mapping[str, Any]:
        """What a run must or may be given: name to annotation, ``UNKNOWN`` where there is none."""
        return self.compile().inputs

    @property
    def outputs(self) -> Mapping[str, Any]:
        """What the flow gives: name to annotation; the value of a builder without ``provides=`` is called "return"."""
        return self._compiled_now().outputs

    def _compiled_now(self) -> Compiled:
        self.compile()
        assert self._compiled is not None
        return self._compiled

    # --- Copies -------------------------------------------------------------------------------------------------------

    def with_options(self, *, name: str | None = None, **options: Unpack[FlowOptions]) -> Self:
        """Return a copy under another name, or with other options; the flow itself stays as it is."""
        copied = self._copy()
        if name is not None:
            copied.name = check_name(name, "flow")
            copied.is_named = True
        copied._set(options)
        return copied

    def named(self, name: str) -> Self:
        """Return a copy under another name: its identity within the flow around it."""
        return self.with_options(name=name)

    def target(self, *names: str) -> Flow[P, dict[str, Any]]:
        """
        Return a copy that runs only what *names* name and what that needs, by value, order or link.

        Its value is a mapping: for a pattern of all that the remaining tasks provide, for a builder of each name to the
        value of the task. An unknown name is an error when the copy is compiled.

        Args:
            names: Names of tasks or flows in this flow, or paths such as ``"prepare/reserve"``.
        """
        given: Sequence[Any] = names
        if not given or not all(isinstance(name, str) and name for name in given):
            raise DeclarationError(f"flow {self.name!r} has targets {names!r:.80}; give names or paths of its tasks")
        copied = self._copy()
        copied.targets = tuple(dict.fromkeys(names))
        return cast("Flow[P, dict[str, Any]]", copied)

    def _copy(self) -> Self:
        copied = copy.copy(self)
        copied._compiled = None
        copied.made_by = None
        return copied

    # --- Finding it again ---------------------------------------------------------------------------------------------

    @property
    def ref(self) -> str | None:
        """
        Where another process finds this flow: ``module:attribute``, or ``path.py:attribute`` for a script.

        What a factory made is found by the factory and its arguments, which stand behind in parentheses. None where it
        is no attribute of its module, as when another function made it.
        """
        if self.made_by is not None:
            maker, arguments = self.made_by
            return None if maker.ref is None else f"{maker.ref}({arguments})"
        return reference_to(self, self._module)

    # --- In a builder -------------------------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T_co:
        """Record a call in the builder that is running, and return a reference to its value."""
        return cast("T_co", call_in_builder(self, args, kwargs, (), f"and engine.run({self.name}) runs it"))

    def after(self, *refs: object) -> Callable[P, T_co]:
        """Return what calls this flow after the tasks behind *refs* without taking their values."""

        def call(*args: P.args, **kwargs: P.kwargs) -> T_co:
            return cast("T_co", call_in_builder(self, args, kwargs, refs, f"and engine.run({self.name}) runs it"))

        return call

    @abstractmethod
    def match(self, args: Sequence[Any], kwargs: Mapping[str, Any], builder: Origin) -> Call:
        """Return a call of this flow in *builder*."""

    @property
    @abstractmethod
    def returns(self) -> Any:
        """The annotation of its value, or ``UNKNOWN``."""

    def length(self) -> int | None:
        """Return how many elements its value has, if that is declared."""
        return length_of(self.returns)

    def __repr__(self) -> str:
        return f"<flow {self.name!r}>"


def reference_to(found: Any, place: str | None) -> str | None:
    """Return ``module:attribute`` or ``path.py:attribute`` of *found*, which module *place* has; or None."""
    module = sys.modules.get(place or "")
    if module is None:
        return None
    attribute = next((name for name, value in list(vars(module).items()) if value is found), None)
    if attribute is None:
        return None
    if place == "__main__" or (place or "").startswith(FILE_MODULE):
        spec, file = getattr(module, "__spec__", None), getattr(module, "__file__", None)
        if place == "__main__" and spec is not None:
            place = spec.name
        elif file is not None:
            place = str(Path(file).resolve())
        else:
            return None
    found_by = f"{place}:{attribute}"
    # The name of a script's file may be bytes that no journal can keep as a text.
    return found_by if is_text(found_by) else None


# --- Builders ---------------------------------------------------------------------------------------------------------


class BuilderFlow(Flow[P, T_co]):
    """
    A flow made by ``@af.flow`` of a function that wires tasks by calling them.

    ``fn`` is the function, ``signature`` what it takes: the flow's inputs.
    """

    def __init__(
        self,
        fn: Any,
        *,
        name: str | None,
        provides: Provides,
        **options: Unpack[FlowOptions],
    ) -> None:
        if isinstance(fn, (Task, Composite)):
            raise DeclarationError(f"@af.flow is on {fn!r}; put it on a plain function that calls tasks")
        if not callable(fn) or isinstance(fn, type):
            raise DeclarationError(f"af.flow was given {fn!r:.80}, which is no function; options go by keyword")
        name = name or str(getattr(fn, "__name__", "flow"))
        super().__init__(name, module=getattr(fn, "__module__", None), **options)
        if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise DeclarationError(
                f"flow {name!r} is async or yields; a builder only wires tasks, so make it a plain def"
            )
        signature = Signature(fn, what=f"flow {name!r}")
        if signature.wants_context:
            raise DeclarationError(
                f"flow {name!r} takes a context, and a builder runs outside any run; give it to a task"
            )
        if signature.takes_extra or signature.takes_names:
            raise DeclarationError(
                f"flow {name!r} takes *args or **kwargs; its inputs need names, so take a list or a dict"
            )
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.signature = signature
        self._gives = given_by(provides, f"flow {name!r}")
        # Shared with copies under other names: the function is called once for all of them.
        self._recorded: list[Layout] = []

    @property
    def layout(self) -> Layout:
        """What the function wired. It is called the first time this is asked for."""
        if not self._recorded:
            builder = Builder(self.name, self.signature)
            args, kwargs = builder.parameters()
            token = building.set(builder)
            try:
                layout = builder.finish(self.fn(*args, **kwargs))
            except AsyncflowError as error:
                error.add_note(f"while flow {self.name!r} was being declared")
                raise
            except Exception as error:
                raise DeclarationError(
                    f"flow {self.name!r} raised {type(error).__name__} while it was being declared: {error}"
                ) from error
            finally:
                building.reset(token)
            layout.gives = self._gives
            self._recorded.append(layout)
        return self._recorded[0]

    def match(self, args: Sequence[Any], kwargs: Mapping[str, Any], builder: Origin) -> Call:
        """Return a call of this flow in *builder*, every argument by name."""
        # What its controller provides is no input, although the function takes it.
        own = {name: None for name, _ in self._controls() if name in self.signature.by_name}
        call = Wants(self.signature, f"flow {self.name!r}", inject=own).call(args, kwargs, builder)
        named = zip(cast("tuple[str, ...]", call.names), call.positional, strict=True)
        return Call((), (*named, *call.keyword), ())

    def _controls(self) -> Given:
        if self.controller is None:
            return ()
        self.controller.ready()
        return self.controller.gives

    @property
    def returns(self) -> Any:
        """What the function is annotated to return, or ``UNKNOWN``."""
        return self.signature.returns


class FlowDecorator(Protocol):
    """``af.flow(...)`` with options, still to be put on a function."""

    def __call__(self, fn: Callable[P, T], /) -> Flow[P, T]: ...


@overload
def flow(fn: Callable[P, T], /) -> Flow[P, T]: ...
@overload
def flow(*, name: str | None = None, provides: Provides = None, **options: Unpack[FlowOptions]) -> FlowDecorator: ...


def flow(
    fn: Any = None, /, *, name: str | None = None, provides: Provides = None, **options: Unpack[FlowOptions]
) -> Any:
    """
    Make a flow of a function that wires tasks by calling them: ``@af.flow``, or ``@af.flow(timeout=60.0)``.

    The function is called once, when the flow is compiled, with references for its parameters, which are the flow's
    inputs. It returns one reference, a list, tuple or dict of them, or nothing.

    Args:
        fn: The function.
        name: What it is known by; the function's name otherwise.
        provides: The names of its value in a pattern around it, in the forms that a task's ``provides`` has.
        options: See :class:`FlowOptions`. A parameter that is named like what the controller provides is given that.

    Raises:
        DeclarationError: The function is async, or takes ``*args`` or ``**kwargs``.
    """

    def make(fn: Callable[..., Any]) -> BuilderFlow[..., Any]:
        return BuilderFlow(fn, name=name, provides=provides, **options)

    return make if fn is None else make(fn)
