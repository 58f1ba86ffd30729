"""
Every exception that a caller of asyncflow may meet, on one page.

All descend from :class:`AsyncflowError`. A message names the thing, the place, what was found and the way out; what it
mentions is also an attribute, so that code need not read prose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from asyncflow.names import name_of


class AsyncflowError(Exception):
    """The root of everything that asyncflow raises on purpose."""


# --- Declaring: raised when a flow is written or compiled, never while it runs ----------------------------------------


class DeclarationError(AsyncflowError):
    """A task or flow is declared in a way that can never work."""


class ReferenceMisuse(DeclarationError, TypeError):
    """A reference was used as if it were the value that it will only have when the flow runs."""


class FlowError(DeclarationError):
    """A flow cannot be compiled into a plan. ``flow`` is its name, ``task`` the path of the task concerned, if any."""

    def __init__(self, message: str, *, flow: str | None = None, task: str | None = None) -> None:
        super().__init__(message)
        self.flow = flow
        self.task = task


class DuplicateName(FlowError):
    """Two tasks or flows in one flow bear the same name."""


class UnknownProvider(FlowError):
    """A task needs an input that nothing provides. ``input`` is its name."""

    def __init__(self, message: str, *, flow: str, task: str, input: str) -> None:
        super().__init__(message, flow=flow, task=task)
        self.input = input


class AmbiguousProvider(FlowError):
    """Two equally near tasks provide the same input."""


class CycleError(FlowError):
    """Tasks wait for each other in a circle. ``cycle`` names them in order, the first again at the end."""

    def __init__(self, message: str, *, flow: str, cycle: Sequence[str]) -> None:
        super().__init__(message, flow=flow, task=cycle[0] if cycle else None)
        self.cycle = tuple(cycle)


class TypeMismatch(FlowError):
    """What one task returns can never be what another asks for."""


class UnknownTarget(FlowError):
    """A flow is aimed at a task that it does not contain."""


# --- Starting: the run is refused before it exists --------------------------------------------------------------------


class InputError(AsyncflowError):
    """The inputs given to a run do not fit its flow: one is missing, unknown, or cannot be kept."""


class ResourceMissing(AsyncflowError):
    """A task asks for a resource that the engine was not given."""


class EngineClosed(AsyncflowError):
    """The engine is not open: use it inside ``async with Engine(...)``, or after ``await engine.open()``."""


class RunError(AsyncflowError):
    """Something about one run. ``run_id`` names it."""

    def __init__(self, message: str, *, run_id: str) -> None:
        super().__init__(message)
        self.run_id = run_id


class RunExists(RunError):
    """The journal already has a run of this id; resume it, or start one under another id."""


class RunNotFound(RunError):
    """The journal has no run of this id."""


class RunUnfinished(RunError):
    """The run has not ended, so it cannot start over."""


class RunBusy(RunError):
    """A living engine owns the run. ``owner`` says which process."""

    def __init__(self, message: str, *, run_id: str, owner: str) -> None:
        super().__init__(message, run_id=run_id)
        self.owner = owner


class PlanChanged(RunError):
    """The flow of today does not fit what the run has already done. ``diff`` has a line for each difference."""

    def __init__(self, message: str, *, run_id: str, diff: Sequence[str]) -> None:
        super().__init__(message, run_id=run_id)
        self.diff = tuple(diff)


class Failed(Protocol):
    """What :class:`RunFailed` needs of a :class:`~asyncflow.Failure`, which is defined in a layer above this one."""

    @property
    def exception(self) -> BaseException: ...

    @property
    def type_name(self) -> str: ...

    @property
    def text(self) -> str: ...


# --- Ending: what awaiting a run raises -------------------------------------------------------------------------------


class RunFailed(AsyncflowError, ExceptionGroup[Exception]):
    """
    A run failed. The members are the original exceptions: final task failures first, then failures of reverts.

    ``except* ValueError`` works, since :meth:`derive` keeps the class. Cancelled siblings are never members.

    Attributes:
        run_id: The run.
        failures: Path of the task (or flow, for a time limit) to its :class:`~asyncflow.Failure`; reverts that failed
            stand under ``path + " (revert)"``.
        reverted: Whether everything that had started was undone.
    """

    run_id: str
    failures: Mapping[str, Failed]
    reverted: bool

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        *,
        run_id: str = "",
        failures: Mapping[str, Failed] | None = None,
        reverted: bool = False,
    ) -> RunFailed:
        self = super().__new__(cls, message, exceptions)
        self.run_id = run_id
        self.failures = dict(failures or {})
        self.reverted = reverted
        return self

    def __init__(  # pyright: ignore[reportInconsistentConstructor]
        self, message: str, exceptions: Sequence[Exception], **_: Any
    ) -> None:
        super().__init__(message, exceptions)

    def derive(self, excs: Sequence[Exception], /) -> RunFailed:  # type: ignore[override]
        """Return a group of *excs* that still says which run failed and why."""
        return RunFailed(self.message, excs, run_id=self.run_id, failures=self.failures, reverted=self.reverted)


class RunCancelled(RunError):
    """The run was cancelled and everything that had started was undone. ``reason`` is what ``cancel`` was told."""

    def __init__(self, message: str, *, run_id: str, reason: str) -> None:
        super().__init__(message, run_id=run_id)
        self.reason = reason


class RunSuspended(RunError):
    """The run stands still and can be resumed. ``reason`` says who stopped it."""

    def __init__(self, message: str, *, run_id: str, reason: str) -> None:
        super().__init__(message, run_id=run_id)
        self.reason = reason


class RunOvertaken(RunError):
    """Another engine took the run over; this one stopped at once and wrote nothing more."""


class RunBroken(RunError):
    """
    The run had to stop where it stood, since its journal could not be written; it is resumable once that is mended.
    """


# --- Failing: what a task's failure may be besides the exceptions of its own body -------------------------------------


class TaskTimedOut(AsyncflowError, TimeoutError):
    """An attempt took longer than its task's timeout."""


class FlowTimedOut(AsyncflowError, TimeoutError):
    """A flow took longer than its timeout."""


class DeadlineExceeded(AsyncflowError, TimeoutError):
    """The run passed its deadline."""


class AttemptInDoubt(AsyncflowError):
    """
    The process died during an attempt, and the task says ``on_crash="fail"``: it may or may not have had its effect.
    """


class LostTooOften(AsyncflowError):
    """A task was running each time the process died; it is not tried again, since it may be what kills the process."""


class AttemptAbandoned(AsyncflowError):
    """A body went on after it had been told to stop, for so long that it was left behind."""


class StrayCancellation(AsyncflowError):
    """A body ended with CancelledError although its run had not told it to stop. The original is the cause."""


class MissingElement(AsyncflowError):
    """A task returned a value without an element that its ``provides`` promises."""


class TransactionMisuse(AsyncflowError):
    """
    A task did not return the transaction that it had made, or the function in it did what would undo or outlive it:
    end it, write to the journal's own tables, or change the connection.
    """


class InputUnavailable(AsyncflowError):
    """A task's input comes from a task that was skipped, and there is no default."""


class NothingToTry(AsyncflowError):
    """A controller that tries its flow with each of some values was given none."""


class WrongDecision(AsyncflowError):
    """A controller's ``on_failure`` returned something that is no Decision."""


class RecordedError(AsyncflowError):
    """
    A failure read back from a journal whose class is not at hand.

    Nothing is imported to rebuild an exception. ``type_name`` is the class as it was (``module.qualname``), and
    :meth:`matches` tells whether it was a *cls*, by the names of all its bases.
    """

    def __init__(self, message: str, *, type_name: str, bases: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.bases = tuple(bases)

    def matches(self, cls: type[BaseException]) -> bool:
        """Return whether the recorded exception was an instance of *cls* when it was raised."""
        return name_of(cls) in (self.type_name, *self.bases)


# --- Remembering: journals and values ---------------------------------------------------------------------------------


class CodecError(AsyncflowError):
    """A value or message cannot be turned into bytes, or back."""


class UnkeepableValue(CodecError, TypeError):
    """
    A value that the journal cannot keep. The message names the type and the three ways out.

    ``type_name`` is the type that is in the way, ``place`` where it stands in the value, such as ``.lines[3].price``.
    """

    def __init__(self, message: str, *, type_name: str = "", place: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.place = place


class UndecodableValue(CodecError, ValueError):
    """Bytes in the journal that are not a value, or need a class that is not registered."""


class StoreError(AsyncflowError):
    """The store cannot do what was asked. ``path`` is its file, if it has one."""

    def __init__(self, message: str, *, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class NotAJournal(StoreError):
    """The file is not a journal of asyncflow."""


class SchemaTooNew(StoreError):
    """The journal was written by a newer asyncflow."""


class ValueNotAtHand(AsyncflowError):
    """A large value is in the journal and not in memory, and whoever asked for it cannot wait; await its task."""


class CorruptRecord(StoreError):
    """A record is missing, damaged or out of order. ``run_id`` and ``number`` say which."""

    def __init__(self, message: str, *, path: str | None, run_id: str, number: int | None) -> None:
        super().__init__(message, path=path)
        self.run_id = run_id
        self.number = number


class InternalError(AsyncflowError):
    """A bug in asyncflow, not in your code. Please report it with the message."""


class IllegalTransition(InternalError):
    """A task or run was asked to go from one state to another in a way that ``states.py`` does not allow."""
