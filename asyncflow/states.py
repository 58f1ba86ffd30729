"""
The states of tasks and runs, every allowed step between them, and the reason beside each.

Any other step is a bug of ours and raises :class:`~asyncflow.errors.IllegalTransition`.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from asyncflow.errors import IllegalTransition


class TaskState(IntEnum):
    """Where a task stands in its run."""

    PENDING = 0
    RUNNING = 1
    WAITING = 2
    SUCCEEDED = 3
    FAILED = 4
    TIMED_OUT = 5
    CANCELLED = 6
    SKIPPED = 7
    REVERTING = 8
    REVERTED = 9
    REVERT_FAILED = 10


class RunState(Enum):
    """
    Where a run stands.

    Two are never stored. A listing says ``INTERRUPTED`` of a run whose owner is dead, and ``DAMAGED`` of one whose line
    in the file is not what was written.
    """

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    REVERTING = "REVERTING"
    SUSPENDED = "SUSPENDED"
    SUCCEEDED = "SUCCEEDED"
    REVERTED = "REVERTED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"
    INTERRUPTED = "INTERRUPTED"
    DAMAGED = "DAMAGED"

    is_ended: bool
    """Whether nothing more happens in a run of this state, unless someone resumes or resets it."""

    def __init__(self, name: str) -> None:
        self.is_ended = name in ("SUCCEEDED", "REVERTED", "CANCELLED", "FAILED")

    # Members are singletons. Enum's own hash is that of the name, by a Python call each time; a run asks 13 times.
    __hash__ = object.__hash__


_P, _R, _W = TaskState.PENDING, TaskState.RUNNING, TaskState.WAITING
_S, _F, _T, _C = TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TIMED_OUT, TaskState.CANCELLED
_K, _U, _D, _X = TaskState.SKIPPED, TaskState.REVERTING, TaskState.REVERTED, TaskState.REVERT_FAILED

TASK_STEPS: dict[tuple[TaskState, TaskState], str] = {
    (_P, _R): "its inputs are there and its permits granted",
    (_P, _K): "a condition said no",
    (_P, _F): "its condition raised, an input has no value, or it was lost and is not to be tried again",
    (_P, _C): "its attempt was lost and its run is being undone, so there is no next one",
    (_R, _S): "its body returned",
    (_R, _F): "its body raised, and no retry is left",
    (_R, _T): "its time limit passed, its body gave way, and no retry is left",
    (_R, _C): "it was told to stop and did",
    (_R, _W): "its attempt failed and another is scheduled",
    (_R, _P): "the attempt was lost with its process, or to a suspend",
    (_W, _R): "the wait before the next attempt is over",
    (_W, _F): "its inputs cannot be put together any more",
    (_W, _C): "its run or flow is being undone, so there is no next attempt",
    (_S, _U): "its run or flow is being undone, and its dependents are",
    (_F, _U): "a failed body may have had half its effect",
    (_T, _U): "a body that was cut off may have had half its effect",
    (_C, _U): "a body that was stopped may have had half its effect",
    (_U, _U): "a revert is tried again, or starts again after it was lost",
    (_U, _D): "its revert returned, or it has none",
    (_U, _X): "its revert raised, and no retry is left",
    (_X, _U): "a resume tries a failed revert again",
    (_D, _P): "a controller runs its flow again",
    (_K, _P): "a controller runs its flow again",
    # A reset, or a resume under never_revert, makes anything that ended start over.
    (_S, _P): "it is the controller of a flow that runs again, the run is reset, or its value was not kept",
    (_F, _P): "the run is reset, what failed is run again, or it never started and a controller runs its flow again",
    (_T, _P): "the run is reset, or what failed is run again",
    (_C, _P): "the run is reset, or what failed is run again",
    (_U, _P): "what failed is run again, and its flow, which was to run again too, had not been undone by then",
    (_X, _P): "the run is reset",
}
"""Every step that a task may take, with its reason."""

RUN_STEPS: dict[tuple[RunState, RunState], str] = {
    (RunState.PENDING, RunState.RUNNING): "the run started",
    (RunState.RUNNING, RunState.SUCCEEDED): "every task succeeded or was skipped",
    (RunState.RUNNING, RunState.REVERTING): "a task failed for good, a deadline passed, or the run was cancelled",
    (RunState.RUNNING, RunState.SUSPENDED): "someone suspended it, or its engine closed",
    (RunState.REVERTING, RunState.SUSPENDED): "someone suspended it, its engine closed, or undoing outlasted its grace",
    (RunState.SUSPENDED, RunState.RUNNING): "it was resumed while going forward",
    (RunState.SUSPENDED, RunState.REVERTING): "it was resumed while undoing",
    (RunState.REVERTING, RunState.REVERTED): "it had failed, and everything that started is undone",
    (RunState.REVERTING, RunState.CANCELLED): "it had been cancelled, and everything that started is undone",
    (RunState.REVERTING, RunState.FAILED): "a revert failed, so not everything is undone",
    (RunState.FAILED, RunState.REVERTING): "a resume tries the failed reverts again",
    (RunState.FAILED, RunState.RUNNING): "a resume runs again what failed, where nothing is left to be undone",
    (RunState.SUCCEEDED, RunState.PENDING): "the run is reset",
    (RunState.REVERTED, RunState.PENDING): "the run is reset",
    (RunState.CANCELLED, RunState.PENDING): "the run is reset",
    (RunState.FAILED, RunState.PENDING): "the run is reset",
}
"""Every step that a run may take, with its reason."""


def _table() -> bytes:
    table = bytearray(16 * 16)
    for old, new in TASK_STEPS:
        table[old << 4 | new] = 1
    return bytes(table)


ALLOWED_TASK_STEPS = _table()
"""The same as one byte for each pair, at ``old << 4 | new``, so that the check on the hot path is one index."""


def check_task_step(old: int, new: int, path: str = "?") -> None:
    """
    Let the step from *old* to *new* pass, or raise.

    Raises:
        IllegalTransition: ``TASK_STEPS`` does not have the pair.
    """
    if not ALLOWED_TASK_STEPS[old << 4 | new]:
        raise IllegalTransition(f"task {path!r} cannot go from {TaskState(old).name} to {TaskState(new).name}")


def check_run_step(old: RunState, new: RunState, run_id: str = "?") -> None:
    """
    Let the step from *old* to *new* pass, or raise.

    Raises:
        IllegalTransition: ``RUN_STEPS`` does not have the pair.
    """
    if (old, new) not in RUN_STEPS:
        raise IllegalTransition(f"run {run_id!r} cannot go from {old.value} to {new.value}")
