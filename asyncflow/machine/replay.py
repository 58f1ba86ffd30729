"""
A journal folded into a machine: the one way in which anything, be it a resume, a listing or a page, learns what a run
did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from asyncflow import messages as m
from asyncflow.errors import InternalError
from asyncflow.graph.plan import Plan
from asyncflow.machine.ledger import SETTLED, SUCCEEDED
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Sealed
from asyncflow.states import RunState


def fold(records: Iterable[m.Record], plans: Mapping[str, Plan]) -> RunMachine:
    """
    Return the machine that wrote *records*.

    Args:
        records: The journal, or a prefix of it that ends with a whole record.
        plans: Content hash to plan, for every plan that the journal names.

    Raises:
        InternalError: The journal is empty or does not begin with ``RunStarted``.
        IllegalTransition: An event does not fit what came before it.
    """
    machine: RunMachine | None = None
    for record in records:
        if machine is not None and record.events and isinstance(record.events[0], m.RunResumed):
            machine.tally.was_away(record.at)
        for event in record.events:
            if machine is None:
                if not isinstance(event, m.RunStarted):
                    raise InternalError(f"a journal begins with {type(event).__name__}, not with RunStarted")
                machine = RunMachine(plans[event.plan])
            elif isinstance(event, (m.RunResumed, m.RunReset)) and event.plan is not None:
                if plans[event.plan] is not machine.plan:
                    machine.adopt(plans[event.plan])
            machine.apply(event)
        if machine is not None:
            machine.mark(record.at)
    if machine is None:
        raise InternalError("a journal has no records, so there is nothing to fold")
    return machine


def plans_named(records: Iterable[m.Record]) -> list[str]:
    """Return the content hash of every plan that a journal names, in order, the one in force last."""
    naming = (m.RunStarted, m.RunReset, m.RunResumed)
    events = (event for record in records for event in record.events)
    return [event.plan for event in events if isinstance(event, naming) and event.plan is not None]


def was_left(records: Iterable[m.Record]) -> bool:
    """Return whether a suspended run was only left by its engine or caller, and not suspended by someone on purpose."""
    events = (event for record in records for event in record.events)
    requests = [event for event in events if isinstance(event, m.SuspendRequested)]
    return bool(requests) and requests[-1].recover


def recovery(machine: RunMachine, *, plan: str | None = None, deadline: float | None = None) -> list[m.Event]:
    """
    Return the events by which a run is taken up again: that it is, and that whatever had no ending is lost.

    *plan* is given when the flow has changed since; a lost attempt is one that the process died of, since a suspend
    records its own. Values that were never kept are lost where something that is still to run reads them.
    """
    events: list[m.Event] = [m.RunResumed(plan, deadline)]
    events.extend(m.AttemptLost(task, "crash") for task in machine.in_flight())
    if machine.may_go_forward and (needed := _unkept_and_needed(machine)):
        events.append(m.ValuesLost(needed))
    return events


def _unkept_and_needed(machine: RunMachine) -> list[int]:
    """Return whose values are gone and may be read: by a task, a condition, or whoever asks for a result."""
    states, values, plan = machine.states, machine.values, machine.plan
    # What is undone to run again is made again by that.
    unkept = {
        task
        for task, value in enumerate(values)
        if type(value) is Sealed and not value.is_kept and states[task] == SUCCEEDED and not machine.is_halted(task)
    }
    if not unkept:
        return []
    shown = [source for sources in plan.provided.values() for source in sources]
    if plan.returns is not None:
        shown.append(plan.returns)
    wanted = [task for source in shown for task in source.tasks()]
    # In a flow that is not over anything may run again.
    begun = {scope for scope in machine.controls if not machine.is_settled(scope)}
    if machine.phase is RunState.FAILED and machine.undo_scope >= 0:
        begun.add(machine.undo_scope)  # where a changed flow may have no controller any more
    again = {task for scope in begun for task in plan.span(scope)}
    for task in range(plan.size):
        if states[task] not in SETTLED or task in again:
            wanted.extend(plan.bindings[task].reads())
        if machine.started[task]:
            wanted.extend(plan.reads_of_revert(task))  # in a changed flow that may be what nobody read before
    for index, guard in enumerate(plan.guards):
        if index not in machine.answers or again:
            wanted.extend(guard.binding.reads())
    needed: set[int] = set()
    while wanted:
        task = wanted.pop()
        if task in unkept and task not in needed:
            needed.add(task)
            wanted.extend(plan.bindings[task].reads())
    return sorted(needed)
