"""Whether a flow as it is now fits what a run of it has done."""

from __future__ import annotations

from asyncflow.graph.changes import Verdict, compare
from asyncflow.graph.plan import ROOT, Plan
from asyncflow.machine.run import RunMachine


def verdicts_on(plan: Plan, machine: RunMachine) -> list[Verdict]:
    """Return what is different in *plan* from the one that *machine* follows; nothing if it would go on as it was."""
    old = machine.plan
    tasks = range(old.size)
    found = compare(
        old,
        plan,
        started={old.path(task) for task in tasks if machine.attempts[task]},
        states={old.path(task): machine.states[task] for task in tasks},
        undone={old.path(task) for task in tasks if machine.may_be_undone(task)},
        retired=machine.retired,
    )
    kept = {plan.scopes[scope].path for scope in plan.controlled}
    stopped = machine.halted()
    if machine.undo_scope > ROOT and not machine.may_go_forward:
        stopped.append(machine.undo_scope)
    for scope in stopped:
        path = old.scopes[scope].path
        if path not in kept:
            text = "has failed and is being undone or asked about, and has no controller of that path any more"
            found.append(Verdict(path or plan.flow, "gone", text, is_refused=True, may_be_accepted=False))
    return found
