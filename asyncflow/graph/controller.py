"""
What decides whether a flow that failed runs again: a controller, which is the first task of its flow.

Its ``execute`` runs before everything in the flow, and what it returns is seen inside the flow under the name that it
``provides``. When something in the flow has failed for good and the flow has fallen still, ``on_failure`` is asked.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Unpack, cast

import attrs

from asyncflow.errors import DeclarationError, NothingToTry
from asyncflow.graph.options import TaskOptions
from asyncflow.graph.policy import Backoff, Retry, check_backoff
from asyncflow.graph.reference import Origin
from asyncflow.graph.signature import Signature
from asyncflow.graph.task import Task
from asyncflow.graph.wants import Call, HookWants
from asyncflow.outcomes import Failure


class Decision(Enum):
    """What becomes of a flow that has failed."""

    RETRY = "retry"
    """Everything that started in the flow is undone, and the flow runs again."""
    REVERT = "revert"
    """The next controller further out is asked; where there is none, the run is undone."""
    REVERT_ALL = "revert_all"
    """The run is undone, whoever is around."""


@attrs.frozen
class PastAttempt:
    """
    One attempt of a flow that has a controller.

    Attributes:
        value: What the controller gave for it.
        failures: Path to failure of what failed for good in it, in order; empty while it goes on.
    """

    value: Any
    failures: Mapping[str, Failure]

    def caused_by(self, *kinds: type[BaseException]) -> bool:
        """Return whether one of its failures is one of *kinds*, by class or, after a crash, by the class's name."""
        return any(_is_one(failure.exception, kinds) for failure in self.failures.values())


def _is_one(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    if isinstance(error, kinds):
        return True
    if isinstance(error, BaseExceptionGroup):
        return any(_is_one(member, kinds) for member in error.exceptions)
    matches = getattr(error, "matches", None)  # of a RecordedError
    return matches is not None and any(matches(kind) for kind in kinds)


class History(Sequence[PastAttempt]):
    """The attempts of a flow, oldest first. It survives crashes, and starts anew when a flow around it runs again."""

    __slots__ = ("_attempts",)

    def __init__(self, attempts: Iterable[PastAttempt] = ()) -> None:
        self._attempts = tuple(attempts)

    def __getitem__(self, index: Any) -> Any:
        return self._attempts[index]

    def __len__(self) -> int:
        return len(self._attempts)

    def __iter__(self) -> Iterator[PastAttempt]:
        return iter(self._attempts)

    @property
    def values(self) -> list[Any]:
        """What the controller gave for each attempt."""
        return [attempt.value for attempt in self._attempts]

    def caused_by(self, *kinds: type[BaseException]) -> bool:
        """Return whether a failure of any attempt is one of *kinds*."""
        return any(attempt.caused_by(*kinds) for attempt in self._attempts)

    def __repr__(self) -> str:
        return f"<History of {len(self)} attempts>"


class Controller(Task):
    """
    Decides for a flow. Subclass it, write ``execute`` and ``on_failure``, and ``revert`` if needed.

    All three take ``history``, a :class:`History`: of the attempts before this one in ``execute``, the present one
    included in ``on_failure`` and ``revert``. They may take inputs by name, which come from outside the flow;
    ``on_failure`` those that ``execute`` takes as well. What ``execute`` gives shadows whatever has the same name
    outside, a value given to the run included. ``on_failure`` may be ``def`` (called on the loop, so it must be quick)
    or ``async def``; an exception in it counts as a failure of the flow. The options are those of a task; with its
    ``retry=`` the controller's own ``execute`` is tried again, and a flow's ``on_failure=`` is about siblings.

    Attributes:
        backoff: How long to wait before the next attempt, once the last one is undone; None does not wait.
        decider_wants: What ``on_failure`` takes of the inputs.
    """

    backoff: Backoff | None = None
    decider_wants: HookWants
    _has_history: ClassVar[bool] = True

    def __init__(self, *, backoff: Backoff | None = None, **options: Unpack[TaskOptions]) -> None:
        super().__init__(**options)
        if backoff is not None:
            object.__setattr__(self, "backoff", check_backoff(backoff, f"controller {self.name!r}"))

    def on_failure(self, *args: Any, **kwargs: Any) -> Any:
        """
        Return what becomes of the flow, whose last attempt in ``history`` has failed: a :class:`Decision`.

        Every subclass has its own, ``on_failure(self, history, ...)``, ``def`` or ``async def``.
        """
        raise DeclarationError(f"{type(self).__name__} has no on_failure(); write one that returns an af.Decision")

    def match(self, args: Sequence[Any], kwargs: Mapping[str, Any], builder: Origin) -> Call:
        """Refuse to be called in *builder*: a controller is an option of a flow."""
        raise DeclarationError(
            f"controller {self.name!r} is called in flow {builder.name!r}; put it on the flow: @af.flow(retry=...)"
        )

    def ready(self) -> None:
        """
        Make and check what the runtime reads.

        Raises:
            DeclarationError: There is no ``on_failure``, or it takes what is no input.
        """
        if self._is_ready:
            return
        super().ready()
        if not self.checkpoint:
            raise DeclarationError(
                f"controller {self.name!r} has checkpoint=False, and its history needs what it gave; leave it out"
            )
        what = f"the on_failure of controller {self.name!r}"
        if type(self).on_failure is Controller.on_failure:
            raise DeclarationError(f"{type(self).__name__} has no on_failure(); write one that returns an af.Decision")
        body = self.wants.signature
        wants = HookWants(Signature(self.on_failure, what=what), what, body, is_revert=False, has_history=True)
        object.__setattr__(self, "decider_wants", wants)
        object.__setattr__(self, "backoff", check_backoff(self.backoff, f"controller {self.name!r}"))


class AlwaysRevert(Controller):
    """Never tries again: the next controller further out is asked."""

    name = "always_revert"
    executor = "inline"

    def execute(self) -> None:
        """Nothing is to be given."""

    def on_failure(self, history: History) -> Decision:
        """Return REVERT."""
        return Decision.REVERT


class AlwaysRevertAll(Controller):
    """Never tries again, and lets nobody else: the run is undone."""

    name = "always_revert_all"
    executor = "inline"

    def execute(self) -> None:
        """Nothing is to be given."""

    def on_failure(self, history: History) -> Decision:
        """Return REVERT_ALL."""
        return Decision.REVERT_ALL


class Times(Controller):
    """
    Tries up to ``n`` times in all (0 means 1), and gives the number of the attempt, counted from 1.

    Args:
        n: Attempts in all, the first included.
        revert_all: Undo the run when none is left, instead of asking the next controller further out.
        backoff: How long to wait between attempts.
        options: Those of a task; ``provides`` names the attempt's number within the flow.
    """

    name = "times"
    executor = "inline"

    def __init__(
        self, n: int, *, revert_all: bool = False, backoff: Backoff | None = None, **options: Unpack[TaskOptions]
    ) -> None:
        super().__init__(backoff=backoff, **options)
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise DeclarationError(f"af.Times({n!r:.80}) is no number of attempts; give a whole number, 0 or more")
        self.n = max(1, n)
        self.revert_all = _check_flag(revert_all, type(self).__name__)

    def execute(self, history: History) -> int:
        """Return the number of the attempt."""
        return len(history) + 1

    def on_failure(self, history: History) -> Decision:
        """Return RETRY while attempts are left."""
        if len(history) < self.n:
            return Decision.RETRY
        return Decision.REVERT_ALL if self.revert_all else Decision.REVERT


class ForEach(Controller):
    """
    Tries with each of ``values`` in turn, repeats included, and gives it.

    Args:
        values: What to try. An empty one fails the flow when it is reached, and says so.
        revert_all: Undo the run when none is left, instead of asking the next controller further out.
        backoff: How long to wait between attempts.
        options: Those of a task; ``provides`` names the value within the flow.
    """

    name = "for_each"
    executor = "inline"

    def __init__(
        self,
        values: Iterable[Any],
        *,
        revert_all: bool = False,
        backoff: Backoff | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        super().__init__(backoff=backoff, **options)
        if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
            raise DeclarationError(f"af.ForEach was given {values!r:.80}; give a list of what to try")
        self.values = list(values)
        self.revert_all = _check_flag(revert_all, type(self).__name__)

    def execute(self, history: History) -> Any:
        """Return the value to try next."""
        return _next(self.values, history, self.name)

    def on_failure(self, history: History) -> Decision:
        """Return RETRY while values are left."""
        return _while_left(self.values, history, revert_all=self.revert_all)


class ForEachInput(Controller):
    """
    Tries with each element of an input in turn, repeats included, and gives it.

    Args:
        input: The name of an input from outside the flow, whose value is a list, or another collection.
        revert_all: Undo the run when none is left, instead of asking the next controller further out.
        backoff: How long to wait between attempts.
        options: Those of a task; ``provides`` names the element within the flow.
    """

    name = "for_each_input"
    executor = "inline"

    def __init__(
        self,
        input: str,
        *,
        revert_all: bool = False,
        backoff: Backoff | None = None,
        **options: Unpack[TaskOptions],
    ) -> None:
        given: Any = input
        if not isinstance(given, str) or not given:
            raise DeclarationError(f'af.ForEachInput was given {input!r:.80}; give the name of an input, as in "hosts"')
        rebind = cast("TaskOptions", {"rebind": {"values": given}, **options})
        super().__init__(backoff=backoff, **rebind)
        self.revert_all = _check_flag(revert_all, type(self).__name__)

    def execute(self, history: History, values: Any) -> Any:
        """Return the element to try next."""
        return _next(_listed(values, self.name), history, self.name)

    def on_failure(self, history: History, values: Any) -> Decision:
        """Return RETRY while elements are left."""
        return _while_left(_listed(values, self.name), history, revert_all=self.revert_all)


def _check_flag(revert_all: Any, of: str) -> bool:
    if not isinstance(revert_all, bool):
        raise DeclarationError(f"af.{of} has revert_all={revert_all!r:.80}; give True or False")
    return revert_all


def _listed(values: Any, name: str) -> list[Any]:
    # Asked for once an attempt, so an iterator would be used up after the first.
    if isinstance(values, (str, bytes, Iterator)) or not isinstance(values, Iterable):
        raise NothingToTry(f"controller {name!r} was given {values!r:.80} to try its flow with; give it a list")
    return list(values)


def _next(values: list[Any], history: History, name: str) -> Any:
    if not values:
        raise NothingToTry(f"controller {name!r} has no values to try its flow with; give it at least one")
    return values[min(len(history), len(values) - 1)]


def _while_left(values: list[Any], history: History, *, revert_all: bool) -> Decision:
    if len(history) < len(values):
        return Decision.RETRY
    return Decision.REVERT_ALL if revert_all else Decision.REVERT


def check_controller(value: Any, flow: str) -> Controller | None:
    """
    Return *value* if it can be the controller of *flow*.

    Raises:
        DeclarationError: It cannot.
    """
    if value is None or isinstance(value, Controller):
        return value
    if isinstance(value, Retry):
        raise DeclarationError(
            f"flow {flow!r} has retry={value!r:.80}, which is for tasks; a flow takes a controller, such as "
            f"af.Times({value.n})"
        )
    if inspect.isclass(value) and issubclass(value, Controller):
        raise DeclarationError(f"flow {flow!r} has retry={value.__name__}, a class; make one: {value.__name__}(...)")
    raise DeclarationError(f"flow {flow!r} has retry={value!r:.80}; give a controller, such as af.Times(3)")
