"""What has failed for good in a run, or in one flow of it, by path."""

from __future__ import annotations

from typing import Any

from asyncflow.errors import AsyncflowError, DeadlineExceeded, FlowTimedOut, TaskTimedOut
from asyncflow.graph.plan import Plan
from asyncflow.ids import is_below
from asyncflow.machine.ledger import NO_VALUE, RUN_DEADLINE, Ledger
from asyncflow.outcomes import Failure


def failures_of(ledger: Ledger) -> dict[str, Failure]:
    """
    Return path to failure of the whole run: tasks in the order in which they failed, then flows that were late, then
    those whose condition or controller raised, then reverts, whose paths have "(revert)" behind them.
    """
    plan = ledger.plan
    found = dict(ledger.gone_failures)
    found |= {plan.path(task): failure_of(ledger, task) for task in ledger.failures}
    for scope in ledger.late_scopes:
        path = plan.flow if scope == RUN_DEADLINE else plan.scopes[scope].path or plan.flow
        found[path] = _lateness_of_run(ledger) if scope == RUN_DEADLINE else lateness_of(plan, scope)
    found |= {plan.scopes[scope].path or plan.flow: failure for scope, failure in ledger.scope_failures.items()}
    found |= {f"{plan.path(task)} (revert)": failure for task, failure in ledger.revert_failures.items()}
    gone = "is gone from the flow, so it could not be reverted"
    return found | {f"{path} (revert)": Failure(AsyncflowError(f"task {path!r} {gone}")) for path in ledger.forsaken}


def present_attempt(ledger: Ledger, scope: int) -> tuple[Any, dict[str, Failure]]:
    """Return what the controller of *scope* gave for this attempt, and path to failure of what failed in its flow."""
    plan, span, inner = ledger.plan, ledger.plan.span(scope), ledger.plan.within(scope)
    found = {path: failure for path, failure in ledger.gone_failures.items() if is_below(path, plan.scopes[scope].path)}
    # Not by a look at all that failed in the run: a thousand flows may fail at one moment.
    failed = sorted(ledger.failures.keys() & span, key=ledger.failures.__getitem__)
    found |= {plan.path(task): failure_of(ledger, task) for task in failed}
    found |= {plan.scopes[one].path: failure for one, failure in ledger.scope_failures.items() if one in inner}
    found |= {plan.scopes[one].path: lateness_of(plan, one) for one in ledger.late_scopes if one in inner}
    value = ledger.values[plan.scopes[scope].controller]
    return None if value is NO_VALUE else value, found  # none where a changed flow has put it in another's place


def failure_of(ledger: Ledger, task: int) -> Failure:
    """Return how *task* failed, where it did; one that was cut off failed by TaskTimedOut."""
    outcome = ledger.outcomes[task]
    if isinstance(outcome, Failure):
        return outcome
    plan = ledger.plan
    limit = "" if plan.tasks is None else f" of {plan.tasks[task].timeout} s"
    return Failure(TaskTimedOut(f"task {plan.path(task)!r} took longer than its timeout{limit}"))


def lateness_of(plan: Plan, scope: int) -> Failure:
    """Return the failure of a flow whose time was up."""
    flow = plan.scopes[scope]
    return Failure(FlowTimedOut(f"flow {flow.path or flow.name!r} took longer than its timeout of {flow.timeout} s"))


def _lateness_of_run(ledger: Ledger) -> Failure:
    return Failure(DeadlineExceeded(f"run {ledger.run_id!r} passed its deadline"))
