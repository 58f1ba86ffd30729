"""
Whether a task is tried again: read from its declaration at the moment of deciding, never while a journal is folded.
"""

from __future__ import annotations

from asyncflow.errors import AttemptInDoubt, LostTooOften
from asyncflow.graph.task import Task
from asyncflow.messages import Command, GiveUp, Reconcile, ScheduleRetry, Start
from asyncflow.outcomes import Failure


def after_failure(task: int, declared: Task, attempt: int, lost: int, *, retriable: bool) -> Command:
    """
    Return what follows a failed *attempt*: another one, or giving up.

    *lost* attempts do not use up the policy's; *retriable* is what its ``on=`` said of the exception.
    """
    policy = declared.retry
    if retriable and policy is not None and attempt - lost < policy.n:
        return ScheduleRetry(task, attempt + 1)
    return GiveUp(task)


def after_failed_revert(task: int, declared: Task, attempt: int, lost: int, *, retriable: bool) -> Command:
    """Return what follows a failed try at a revert: another one, or giving up. The *lost* do not count here either."""
    policy = declared.revert_retry
    if retriable and policy is not None and attempt - lost < policy.n:
        return ScheduleRetry(task, attempt + 1, reverting=True)
    return GiveUp(task, reverting=True)


def after_loss(task: int, declared: Task, path: str, attempt: int, crashes: int) -> Command:
    """
    Return what follows a lost attempt, which is in doubt: it may or may not have had its effect.

    *crashes* counts the losses in a row that the process itself died of.
    """
    if crashes >= declared.max_crashes:
        return GiveUp(
            task,
            failure=Failure(
                LostTooOften(
                    f"task {path!r} was running each of the last {crashes} times that the process died; "
                    "see whether it kills the process; max_crashes=... allows more"
                )
            ),
        )
    if declared.reconciler is not None:
        return Reconcile(task)
    if declared.on_crash == "fail":
        return GiveUp(
            task,
            failure=Failure(
                AttemptInDoubt(
                    f"attempt {attempt} of task {path!r} was interrupted and may have had its effect; "
                    'on_crash="fail" forbids another: give the task a reconcile hook that can tell'
                )
            ),
        )
    return Start(task, attempt + 1)
