"""
What a task is: a callable and its policies.

``@af.task`` makes a :class:`FunctionTask` of a function; a class task is a subclass of :class:`Task` with ``execute``.
Calling either in a builder records an edge. The runtime reads the attributes listed at :class:`Task`.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, ParamSpec, TypeVar, Unpack, cast

from asyncflow.errors import DeclarationError
from asyncflow.graph.builder import call_in_builder
from asyncflow.graph.condition import Condition, check_condition
from asyncflow.graph.hooks import no_hooks, with_hooks
from asyncflow.graph.options import (
    WIRING,
    TaskOptions,
    check_free,
    check_option,
    check_option_names,
    executor_for,
    is_async,
)
from asyncflow.graph.policy import Retry
from asyncflow.graph.provides import WHOLE, Given, Provides, given_by, missing_from
from asyncflow.graph.reference import Declared, Origin
from asyncflow.graph.signature import Signature
from asyncflow.graph.types import length_of
from asyncflow.graph.wants import Call, HookWants, Wants, own_inputs

P = ParamSpec("P")
P2 = ParamSpec("P2")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T", bound="Task")


def _check_body(fn: Any, what: str) -> None:
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise DeclarationError(f"{what} yields, and a task gives one value; return a list")


class Task(Declared):
    """
    A declared unit of work. Subclass it and write ``execute``, and ``revert`` if it can be undone.

    ``execute`` and ``revert`` may be ``def`` (in a thread) or ``async def``; ``pre_execute``, ``post_execute``,
    ``pre_revert`` and ``post_revert``, which take nothing, are called around them. The options of ``TaskOptions`` are
    class attributes, and keywords for one instance. A class without a ``name`` is known by its own in lower case,
    ``ParseFile`` as ``parse_file``. A subclass may have any ``__init__`` of its own, and attributes of any
    name but those that are here already.

    Attributes:
        body: What does the work, bound to the task.
        undo: What undoes it, or None.
        undo_executor: Where ``undo`` runs.
        undo_wants: What ``undo`` takes of the task's inputs.
        reconciler: What asks the outside world how a lost attempt ended, or None.
        reconciler_executor: Where it runs.
        reconciler_wants: What it takes of the task's inputs.
        wants_context: Whether the context is the body's first positional argument.
        wants: All that the body asks for.
        gives: The names under which its value is known.
        promises: Whether ``missing_element`` has anything to check.
        plain: Its executor, "loop" or "inline", where to call it is all there is to do, without a time limit or a look
            at what it returned; "context" where it is to be called with that; else "".
        condition: What decides whether it runs, made of ``when`` and ``depth``; or None.
        is_named: Whether somebody chose the name for this very task, so that a second call is a duplicate.
    """

    name: str = ""
    provides: Provides = None
    requires: str | Sequence[str] = ()
    rebind: Mapping[str, str] | Sequence[str] | None = None
    inject: Mapping[str, Any] | None = None
    auto_extract: bool = True
    revert_requires: str | Sequence[str] = ()
    revert_rebind: Mapping[str, str] | None = None
    retry: Retry | None = None
    timeout: float | None = None
    revert_retry: Retry | None = None
    revert_timeout: float = 300.0
    on_crash: Literal["retry", "fail"] = "retry"
    max_crashes: int = 5
    checkpoint: bool = True
    executor: str = ""
    priority: int = 0
    limits: Any = ()
    version: str | int | None = None
    when: Any = None
    depth: str | None = None

    body: Callable[..., Any]
    undo: Callable[..., Any] | None
    undo_executor: str = "loop"
    undo_wants: HookWants
    reconciler: Callable[..., Any] | None
    reconciler_executor: str = "loop"
    reconciler_wants: HookWants
    wants_context: bool
    wants: Wants
    gives: Given
    promises: bool
    plain: str
    condition: Condition | None
    is_named: bool = False

    _class_signature: ClassVar[Signature | None] = None
    _class_wants: ClassVar[Wants | None] = None
    _has_own_name: ClassVar[bool] = False
    _needs_execute: ClassVar[bool] = True
    # Whether its functions take the attempts of a flow: a controller's.
    _has_history: ClassVar[bool] = False
    # Set once the attributes above are; what changes an option after that clears it.
    _is_ready: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        for name in (*own, *own.get("__annotations__", {})):
            check_free(name, cls, _TAKEN)
        if own.get("name"):
            cls._has_own_name = True
        elif not cls._has_own_name and "name" not in own.get("__annotations__", {}):
            cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()
        execute = cls.execute
        if execute is Task.execute:
            return
        what = f"{cls.__qualname__}.execute"
        if isinstance(inspect.getattr_static(cls, "execute"), (staticmethod, classmethod)):
            raise DeclarationError(f"{what} is a static or class method; write it as an ordinary method with self")
        _check_body(execute, what)
        cls._class_signature = Signature(execute, method=True, what=what)
        given_by(cls.provides, f"task class {cls.__qualname__}")
        cls._class_wants = None
        for option in TaskOptions.__annotations__:
            if option in own and option not in ("reconcile", "when") and option not in WIRING:
                check_option(option, own[option], f"task class {cls.__qualname__}")
        # With auto_extract=False an instance may be what lists the inputs.
        if cls.auto_extract:
            cls._class_wants = cls._wants_of(cls, f"task class {cls.__qualname__}")

    def __init__(self, **options: Unpack[TaskOptions]) -> None:
        name = type(self).__name__
        if type(self)._needs_execute and type(self).execute is Task.execute:
            raise DeclarationError(
                f"{name} has no execute(); subclass it and write one, or decorate a function with @af.task"
            )
        self._set(cast("dict[str, Any]", options))

    if not TYPE_CHECKING:  # A type checker would take it for leave to set anything.

        def __setattr__(self, name: str, value: Any) -> None:
            check_free(name, type(self), _TAKEN)
            object.__setattr__(self, name, value)

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Do the work. Every subclass has its own, ``def`` or ``async def``, with its inputs as parameters."""
        raise DeclarationError(f"{type(self).__name__} has no execute(); write one")

    # --- Options ------------------------------------------------------------------------------------------------------

    def _set(self, options: Mapping[str, Any]) -> None:
        """Check *options* and keep them; what depends on them is made anew when somebody asks."""
        what = f"task {options.get('name') or self.name or type(self).__name__!r}"
        check_option_names(options, what)
        for option, value in options.items():
            checked = check_option(option, value, what)
            # A hook is kept under another name, since the decorator and the method are called "reconcile".
            # object's own: a subclass may be frozen.
            object.__setattr__(self, "_reconcile" if option == "reconcile" else option, checked)
        if "name" in options:
            object.__setattr__(self, "is_named", True)
        given_by(self.provides, what)
        if not options.keys().isdisjoint(WIRING):
            object.__setattr__(self, "wants", self._wants_of(self, what))
        object.__setattr__(self, "_is_ready", False)

    @classmethod
    def _wants_of(cls, options: Any, what: str) -> Wants:
        """Return what the body asks for, given the options of the class or of an instance."""
        assert cls._class_signature is not None
        return Wants(cls._class_signature, what, **{option: getattr(options, option) for option in WIRING})

    def ready(self) -> None:
        """
        Make and check what the runtime reads. A compiler calls this; it is cheap the second time.

        Raises:
            DeclarationError: An option that a subclass set by itself is not what it may be.
        """
        if self._is_ready:
            return
        cls, what = type(self), f"task {self.name!r}"
        if cls.execute is Task.execute:
            raise DeclarationError(f"{cls.__name__} has no execute(); subclass it and write one")
        assert cls._class_signature is not None
        put = functools.partial(object.__setattr__, self)
        for option in TaskOptions.__annotations__:
            if option not in ("reconcile", "when") and option not in WIRING:
                put(option, check_option(option, getattr(self, option), what))
        if any(getattr(self, option) is not getattr(cls, option) for option in WIRING):
            put("wants", self._wants_of(self, what))
        else:
            if cls._class_wants is None:
                cls._class_wants = self._wants_of(cls, f"task class {cls.__qualname__}")
            put("wants", cls._class_wants)
        undo = getattr(self, "revert", None)
        if undo is None:
            no_hooks(self, "revert")
        self._fill(
            with_hooks(self, self.execute, "execute"),
            undo if undo is None else with_hooks(self, undo, "revert"),
            vars(self).get("_reconcile") or self._own_hook(),
            method=True,
        )

    def _own_hook(self) -> Any:
        return getattr(self, "reconcile", None)

    def _fill(self, body: Any, undo: Any, hook: Any, *, method: bool) -> None:
        put = functools.partial(object.__setattr__, self)
        what, signature = f"task {self.name!r}", self.wants.signature
        if self.on_crash == "fail" and not self.checkpoint:
            raise DeclarationError(
                f'{what} has on_crash="fail" and checkpoint=False, and a resume makes a value that was not kept by '
                "running the task again; keep the value, or allow another attempt"
            )
        executor = executor_for(body, self.executor, what)
        put("executor", executor)
        put("body", body)
        put("wants_context", signature.wants_context)
        put("gives", given_by(self.provides, what))
        put("promises", any(key is not WHOLE for _, key in self.gives))
        is_plain = executor in ("loop", "inline") and self.timeout is None and not self.promises
        put("plain", "" if not is_plain else "context" if signature.wants_context else executor)
        # A function that is a class attribute would come out of getattr as a method.
        put("condition", check_condition(inspect.getattr_static(self, "when"), self.depth, what))
        self._fill_undo(undo)
        self._fill_hook(hook)
        put("_is_ready", True)

    def _fill_undo(self, undo: Any) -> None:
        put = functools.partial(object.__setattr__, self)
        what = f"the revert of task {self.name!r}"
        if undo is not None:
            _check_body(undo, what)
            inline = self.executor == "inline" and not is_async(undo)
            put("undo_executor", "inline" if inline else executor_for(undo, "", what))
            signature, body = Signature(undo, what=what), self.wants.signature
            own = own_inputs(self.revert_requires, self.revert_rebind, signature, what)
            put("undo_wants", HookWants(signature, what, body, is_revert=True, has_history=self._has_history, own=own))
            if self.undo_wants.outcome and not self.checkpoint:
                raise DeclarationError(
                    f"{what} takes outcome, and with checkpoint=False a value is gone after a crash; let it take the "
                    "task's inputs instead, or keep the value"
                )
        # Last, so that a revert which is refused leaves nothing behind.
        put("undo", undo)

    def _fill_hook(self, hook: Any) -> None:
        put = functools.partial(object.__setattr__, self)
        what = f"the reconcile hook of task {self.name!r}"
        if hook is not None:
            _check_body(hook, what)
            put("reconciler_executor", executor_for(hook, "", what))
            put("reconciler_wants", HookWants(Signature(hook, what=what), what, self.wants.signature, is_revert=False))
        put("reconciler", hook)

    def with_options(self: T, **options: Unpack[TaskOptions]) -> T:
        """
        Return a copy that differs in *options*; the task itself stays as it is.

        Raises:
            DeclarationError: An option is unknown, or not what it may be.
        """
        copied = copy.copy(self)
        copied._set(cast("dict[str, Any]", options))
        return copied

    def named(self: T, name: str) -> T:
        """Return a copy under another name: its identity within its flow."""
        return self.with_options(name=name)

    # --- In a builder -------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Record a call in the builder that is running, and return a reference to its value."""
        return call_in_builder(self, args, kwargs, (), self._bare())

    def after(self, *refs: object) -> Callable[..., Any]:
        """Return what calls this task after the tasks behind *refs* without taking their values."""
        return lambda *args, **kwargs: call_in_builder(self, args, kwargs, refs, self._bare())

    def _bare(self) -> str:
        return "and the work itself is execute(...)"

    def match(self, args: Sequence[Any], kwargs: Mapping[str, Any], builder: Origin) -> Call:
        """Return a call of this task in *builder*."""
        self.ready()
        if self.undo is not None and self.undo_wants.own:
            raise DeclarationError(
                f"task {self.name!r} is called in flow {builder.name!r} and its revert has inputs of its own, which "
                "are wired by name; put it into a pattern, or let the task take them too"
            )
        return self.wants.call(args, kwargs, builder)

    @property
    def returns(self) -> Any:
        """What the body is annotated to return, or ``UNKNOWN``."""
        signature = type(self)._class_signature
        assert signature is not None
        return signature.returns

    def length(self) -> int | None:
        """Return how many elements its value has, if that is declared."""
        self.ready()
        found = length_of(self.returns)
        if found is None and isinstance(self.provides, (list, tuple)):
            return len(self.provides)
        return found

    def missing_element(self, value: Any) -> str | None:
        """Return the first name that this task provides and *value* has no element for, or None."""
        return missing_from(value, self.gives)

    def __repr__(self) -> str:
        return f"<task {self.name!r}>"


# What may be written in a subclass, or is written there by this class: attrs copies that when it makes a class anew.
_FREE = {"execute", *TaskOptions.__annotations__, "_class_signature", "_class_wants", "_has_own_name"}
_TAKEN = {name for name in (*vars(Task), *Task.__annotations__, "_flow", "_reconcile") if name[:2] != "__"} - _FREE


class FunctionTask(Task, Generic[P, R]):
    """
    A task made of a function by ``@af.task``. ``fn`` is the function itself, for calling it in a unit test.

    Type checkers see the function's own parameters (without the context) and return type.
    """

    fn: Callable[..., Any]

    # What copies under other names differ in; all else they share with the task that they are copies of, as one
    # dictionary, which takes 330 bytes of each copy to 64.
    __slots__ = ("is_named", "name")

    _needs_execute: ClassVar[bool] = False

    def __init__(self, fn: Callable[..., Any], **options: Unpack[TaskOptions]) -> None:
        given = cast("dict[str, Any]", options)
        name = given.get("name", getattr(fn, "__name__", ""))
        if "name" not in given and (not name or name == "<lambda>"):
            raise DeclarationError(f"the function {fn!r:.80} has no name to call a task by; say af.task(name=...)")
        _check_body(fn, f"task {name!r}")
        functools.update_wrapper(self, fn)
        self.fn = fn
        self._signature = Signature(fn, what=f"task {name!r}")
        self.undo = None
        self._reconcile: Any = None
        self.name = name
        self._set({**given, "name": name})
        # The name is the task's, not one call's: a second call is numbered.
        self.is_named = False
        if "wants" not in vars(self):
            self.wants = Wants(self._signature, f"task {name!r}")
        self.ready()

    def _wants_of(self, options: Any, what: str) -> Wants:  # type: ignore[override]
        return Wants(self._signature, what, **{option: getattr(options, option) for option in WIRING})

    def ready(self) -> None:
        """Make what the runtime reads, after an option has changed."""
        if not self._is_ready:
            self._fill(self.fn, self.undo, self._reconcile, method=False)

    def named(self, name: str) -> FunctionTask[P, R]:
        """Return a copy under another name: its identity within its flow."""
        # Plans of 100,000 tasks are made of such copies, and nothing but the name differs.
        copied: FunctionTask[P, R] = object.__new__(type(self))
        put = object.__setattr__
        put(copied, "name", check_option("name", name, "task"))
        put(copied, "is_named", True)
        put(copied, "__dict__", vars(self))
        return copied

    def own_fields(self) -> None:
        """Stop sharing with copies under other names what is about to change."""
        object.__setattr__(self, "__dict__", dict(vars(self)))

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name not in FunctionTask.__slots__:
                self.own_fields()
            super().__setattr__(name, value)

    def with_options(self, **options: Unpack[TaskOptions]) -> FunctionTask[P, R]:
        """
        Return a copy that differs in *options*; the task itself stays as it is.

        Raises:
            DeclarationError: An option is unknown, or not what it may be.
        """
        copied = super().with_options(**options)
        copied.ready()
        return copied

    def revert(self, fn: F) -> F:
        """
        Make *fn* what undoes this task, and return *fn* as it is.

        It takes any of the task's inputs by name, and on request the context first, ``outcome`` and ``failures``.

        Raises:
            DeclarationError: The task has a revert, or *fn* takes what is no input of the task.
        """
        if self.undo is not None:
            raise DeclarationError(f"task {self.name!r} has two reverts; keep one")
        self.own_fields()
        self._fill_undo(fn)
        return fn

    def reconcile(self, fn: F) -> F:
        """
        Make *fn* what tells how a lost attempt ended, and return *fn* as it is.

        It takes any of the task's inputs by name and the context first on request, and returns an outcome, or None if
        the attempt is to be made again.

        Raises:
            DeclarationError: The task has such a hook, or *fn* takes what is no input of the task.
        """
        if self._reconcile is not None:
            raise DeclarationError(f"task {self.name!r} has two reconcile hooks; keep one")
        self.own_fields()
        self._fill_hook(fn)
        self._reconcile = fn
        return fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Record a call in the builder that is running, and return a reference to its value."""
        return cast("R", call_in_builder(self, args, kwargs, (), self._bare()))

    def after(self, *refs: object) -> Callable[P, R]:
        """Return what calls this task after the tasks behind *refs* without taking their values."""

        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return cast("R", call_in_builder(self, args, kwargs, refs, self._bare()))

        return call

    def _bare(self) -> str:
        return f"and the function itself is {self.name}.fn(...)"

    @property
    def returns(self) -> Any:
        """What the function is annotated to return, or ``UNKNOWN``."""
        return self._signature.returns
