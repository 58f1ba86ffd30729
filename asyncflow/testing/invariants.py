"""What must be true of every journal, whatever the flow and whatever happened to it."""

from __future__ import annotations

from collections.abc import Iterator

from asyncflow import messages as m
from asyncflow.graph.plan import Plan
from asyncflow.machine.replay import fold
from asyncflow.states import TaskState
from asyncflow.testing.world import Ending


def check_invariants(plan: Plan, ending: Ending) -> None:
    """
    Check a run's journal against what is promised of all.

    Raises:
        AssertionError: An attempt has two endings, or one that never began; a task succeeded twice; something was
            reverted before what depends on it; something happened after the end; or the journal, replayed, says
            something else than the run did.
    """
    under_way: set[int] = set()
    standing: set[int] = set()  # tasks that have started and are not undone
    succeeded: set[int] = set()
    is_over = False
    for event in (event for record in ending.records for event in record.events):
        hold(not is_over or isinstance(event, (m.RunResumed, m.RunReset)), f"{event} came after the end of the run")
        is_over = False
        match event:
            case m.AttemptStarted(task=task):
                path = plan.path(task)
                hold(task not in under_way, f"task {path!r} was started while it was under way")
                hold(task not in succeeded, f"task {path!r} was started again although it had succeeded")
                under_way.add(task)
                standing.add(task)
            case m.AttemptLost(task=task):
                under_way.discard(task)  # a revert may be lost as well
            case m.AttemptSucceeded(task=task) | m.AttemptFailed(task=task) | m.AttemptTimedOut(task=task):
                _end(plan, under_way, task)
                if isinstance(event, m.AttemptSucceeded):
                    succeeded.add(task)
            case m.AttemptCancelled(task=task):
                _end(plan, under_way, task)
            case m.RevertStarted(task=task):
                late = [plan.path(after) for after in _dependents(plan, task) if after in standing]
                hold(not late, f"task {plan.path(task)!r} was reverted before {', '.join(late)}, which depends on it")
            case m.RevertSucceeded(task=task):
                standing.discard(task)
                succeeded.discard(task)
            case m.FlowStartedOver(tasks=tasks):
                standing.difference_update(tasks)
                succeeded.difference_update(tasks)
            case m.ValuesLost(tasks=tasks):
                succeeded.difference_update(tasks)
            case m.RunReset():
                standing.clear()
                succeeded.clear()
            case m.RunEnded():
                is_over = True
                open_tasks = ", ".join(plan.path(task) for task in under_way)
                hold(not under_way, f"the run ended although there was no end of {open_tasks}")
            case _:
                pass  # what else happens breaks none of these
    first = ending.records[0].events[0]
    assert isinstance(first, m.RunStarted)
    machine = fold(ending.records, {first.plan: plan})
    replayed = {plan.path(task): TaskState(machine.states[task]).name for task in range(plan.size)}
    hold(replayed == dict(ending.states), "the journal, replayed, gives other states than the run had")


def hold(is_so: bool, text: str) -> None:
    """Raise AssertionError unless it *is_so*; also where Python is told to leave out ``assert``."""
    if not is_so:
        raise AssertionError(text)


def _end(plan: Plan, under_way: set[int], task: int) -> None:
    hold(task in under_way, f"an attempt at task {plan.path(task)!r} ended twice, or had never begun")
    under_way.discard(task)


def _dependents(plan: Plan, task: int) -> Iterator[int]:
    """Yield the tasks that wait for *task*, also those that do so at a gate."""
    seen: set[int] = set()
    stack = list(plan.successors[task])
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node < plan.size:
            yield node
        else:
            stack.extend(plan.successors[node])
