"""
The two vocabularies of a run: **events**, the facts that a journal keeps, and **commands**, what a machine wants done.

An event is past tense and complete: whatever a decision took from outside the run's state (a clock, a policy, a
condition's answer) stands in it, so folding a journal asks nobody. Tasks and scopes are numbers, their index in the
plan that the run's journal names. Tags are part of the journal format: never renumber one, never reuse one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow.outcomes import Failure, Sealed

# In memory a value is the user's object; in a journal it is sealed, and msgspec must know what to decode it to.
if TYPE_CHECKING:
    Value = Any
else:
    Value = Sealed


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A fact about a run."""


# --- The run ----------------------------------------------------------------------------------------------------------


class RunStarted(Event, frozen=True, tag=1):
    """
    The run exists.

    ``inputs`` are by name; ``deadline`` is POSIX seconds; ``plan`` is the plan's content hash. ``on_failure`` is what
    flows that do not say it do with running siblings, "cancel" or "finish"; ``never_revert`` lets a run that fails
    stand as it is.
    """

    run_id: str
    flow: str
    plan: str
    inputs: dict[str, Value]
    deadline: float | None = None
    on_failure: str = "cancel"
    never_revert: bool = False


class RunResumed(Event, frozen=True, tag=2):
    """
    An engine took the run up again. ``plan`` is given when the flow has changed since; ``deadline`` when it is renewed.
    """

    plan: str | None = None
    deadline: float | None = None


class CancelRequested(Event, frozen=True, tag=3):
    """Someone wants the run undone."""

    reason: str


class SuspendRequested(Event, frozen=True, tag=4):
    """
    Someone wants the run to stand still, resumable; ``recover`` says whether ``engine.recover()`` takes it up again.
    """

    reason: str
    recover: bool = False


class RunSuspended(Event, frozen=True, tag=5):
    """Nothing runs any more; the run waits for a resume."""


class DeadlinePassed(Event, frozen=True, tag=6):
    """The time limit of a scope has passed; scope 0 is the run itself."""

    scope: int


class RunReset(Event, frozen=True, tag=9):
    """A run that had ended starts over, with the inputs that it was given and under ``plan``."""

    plan: str
    deadline: float | None = None


class RunEnded(Event, frozen=True, tag=7):
    """The run has ended; ``state`` is the name of its :class:`~asyncflow.states.RunState`."""

    state: str


class ScopeStarted(Event, frozen=True, tag=8):
    """The first task of a flow with a time limit starts; ``deadline`` is POSIX seconds."""

    scope: int
    deadline: float | None


# --- A task going forward ---------------------------------------------------------------------------------------------


class AttemptStarted(Event, frozen=True, tag=10):
    """A body is about to be called; ``attempt`` counts from 1 within one execution."""

    task: int
    attempt: int


class AttemptSucceeded(Event, frozen=True, tag=11):
    """The body returned."""

    task: int
    value: Value


class AttemptFailed(Event, frozen=True, tag=12):
    """The body raised. ``retriable`` is what the task's ``Retry(on=...)`` said where the exception was caught."""

    task: int
    failure: Failure
    retriable: bool


class AttemptTimedOut(Event, frozen=True, tag=13):
    """The body gave way to its time limit, or was abandoned after it."""

    task: int
    retriable: bool
    abandoned: bool = False


class AttemptCancelled(Event, frozen=True, tag=14):
    """The body gave way to a cancel, or was abandoned after it."""

    task: int
    abandoned: bool = False


class AttemptLost(Event, frozen=True, tag=15):
    """An attempt, or a revert, has no ending: ``cause`` is "crash" or "suspend"."""

    task: int
    cause: str


class TimeLimitPassed(Event, frozen=True, tag=16):
    """An attempt has run as long as its task's timeout."""

    task: int


class RetryScheduled(Event, frozen=True, tag=17):
    """Another attempt, or another try at a revert, is due at ``at``, POSIX seconds."""

    task: int
    at: float


class TaskFailed(Event, frozen=True, tag=18):
    """
    No attempt is left. ``failure`` is None when the last attempt's own ending says why; otherwise it is the reason why
    there is no other attempt, or why there was none (an input without a value).
    """

    task: int
    failure: Failure | None = None


class ReconcileStarted(Event, frozen=True, tag=19):
    """A lost attempt's ``reconcile`` hook is about to be asked how it ended."""

    task: int


class ValuesLost(Event, frozen=True, tag=24):
    """The values of these tasks were never kept (``checkpoint=False``), and what is still to run needs them again."""

    tasks: list[int]


# --- A task being undone ----------------------------------------------------------------------------------------------


class RevertStarted(Event, frozen=True, tag=20):
    """A revert is about to be called; ``attempt`` counts from 1."""

    task: int
    attempt: int


class RevertSucceeded(Event, frozen=True, tag=21):
    """The revert returned, or the task has none."""

    task: int
    value: Value


class RevertFailed(Event, frozen=True, tag=22):
    """The revert raised or was given up on. ``retriable`` is what ``revert_retry`` said of the exception."""

    task: int
    failure: Failure
    retriable: bool


class RevertGivenUp(Event, frozen=True, tag=23):
    """No try at this revert is left."""

    task: int


# --- Choosing: asked for by Evaluate and Decide -----------------------------------------------------------------------


class ConditionAnswered(Event, frozen=True, tag=30):
    """A condition was asked; ``failure`` is what it raised instead of answering."""

    guard: int
    answer: bool
    failure: Failure | None = None


class ControllerAnswered(Event, frozen=True, tag=31):
    """
    A flow that failed has fallen still, and its controller was asked what becomes of it.

    ``decision`` is "retry", "revert" or "revert_all"; ``wait`` is how many seconds to wait before it runs again;
    ``failure`` is what the controller raised instead of answering, which counts as "revert".
    """

    scope: int
    decision: str
    wait: float = 0.0
    failure: Failure | None = None


class FlowStartedOver(Event, frozen=True, tag=33):
    """
    What had started in a flow is undone, and the flow runs again: its controller first, not before ``at`` (POSIX
    seconds), if given. ``tasks`` are those whose state becomes PENDING by this.
    """

    scope: int
    tasks: list[int]
    at: float | None = None


class TaskSkipped(Event, frozen=True, tag=32):
    """A condition said no to this task, or to what it hangs on."""

    task: int


# --- Told by tasks: journaled with the next commit, ignored by the machine --------------------------------------------


class Progressed(Event, frozen=True, tag=40):
    """A task told how far it is, from 0.0 to 1.0."""

    task: int
    fraction: float
    message: str = ""


class Emitted(Event, frozen=True, tag=41):
    """A task told its observers something."""

    task: int
    name: str
    data: Value


# For msgspec, which must know every kind to decode a journal; type checkers may say Event.
if TYPE_CHECKING:
    AnyEvent = Event
else:
    AnyEvent = (
        RunStarted
        | RunResumed
        | CancelRequested
        | SuspendRequested
        | RunSuspended
        | DeadlinePassed
        | RunEnded
        | RunReset
        | ScopeStarted
        | AttemptStarted
        | AttemptSucceeded
        | AttemptFailed
        | AttemptTimedOut
        | AttemptCancelled
        | AttemptLost
        | TimeLimitPassed
        | RetryScheduled
        | TaskFailed
        | ReconcileStarted
        | ValuesLost
        | RevertStarted
        | RevertSucceeded
        | RevertFailed
        | RevertGivenUp
        | ConditionAnswered
        | ControllerAnswered
        | FlowStartedOver
        | TaskSkipped
        | Progressed
        | Emitted
    )


EVENT_KINDS: tuple[str, ...] = tuple(kind.__name__ for kind in Event.__subclasses__())
"""The name of every kind of event, in the order of this page."""

STARTS = (AttemptStarted, RevertStarted, ReconcileStarted)
"""By which a body, a revert or a hook of a task's is about to be called."""

ENDINGS = (
    AttemptSucceeded,
    AttemptFailed,
    AttemptTimedOut,
    AttemptCancelled,
    AttemptLost,
    RevertSucceeded,
    RevertFailed,
)
"""By which what was called is over, however that came."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one turn of a supervisor appends: the events of the turn, and when it was, POSIX seconds."""

    at: float
    events: list[AnyEvent]


# --- Commands ---------------------------------------------------------------------------------------------------------


class Command(msgspec.Struct, frozen=True, gc=False):
    """Something that a machine wants done. It leaves for the world only when the events behind it are durable."""


class Start(Command, frozen=True):
    """
    Call a task's body. Not before ``not_before`` (POSIX seconds), if given; answered by ``AttemptStarted`` once
    granted.
    """

    task: int
    attempt: int
    not_before: float | None = None


class Reconcile(Command, frozen=True):
    """Ask a task's ``reconcile`` hook how its lost attempt ended."""

    task: int


class ScheduleRetry(Command, frozen=True):
    """Say when ``attempt``, which is about to be made, is due: of the body, or of the revert."""

    task: int
    attempt: int
    reverting: bool = False


class GiveUp(Command, frozen=True):
    """Record that no attempt is left, and why, where the last ending does not say it."""

    task: int
    reverting: bool = False
    failure: Failure | None = None


class Cancel(Command, frozen=True):
    """Tell a running body to stop. ``cause`` is "cancel", "timeout" or "suspend"."""

    task: int
    cause: str


class Revert(Command, frozen=True):
    """Undo a task. Not before ``not_before``, if given."""

    task: int
    attempt: int
    not_before: float | None = None


class OpenScope(Command, frozen=True):
    """A flow with a time limit begins: record its deadline and watch it."""

    scope: int


class Evaluate(Command, frozen=True):
    """Ask a condition; answered by ``ConditionAnswered``."""

    guard: int


class Decide(Command, frozen=True):
    """Ask a flow's controller; answered by ``ControllerAnswered``."""

    scope: int


class StartOver(Command, frozen=True):
    """Let a flow that is undone run again after ``wait`` seconds; ``tasks`` are those that become PENDING."""

    scope: int
    tasks: list[int]
    wait: float


class Skip(Command, frozen=True):
    """Record that a task is skipped."""

    task: int


class Suspend(Command, frozen=True):
    """Nothing runs any more and a suspend was asked for; answered by ``RunSuspended``."""


class End(Command, frozen=True):
    """The run is over; answered by ``RunEnded``. ``state`` is the name of a run state."""

    state: str
