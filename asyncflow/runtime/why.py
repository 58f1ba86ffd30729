"""
What a task waits for, in sentences: read off the machine that its run's journal folds into, and off nothing else.

So it can be asked of a run in another process, or of one whose process is gone. What no journal tells, such as who has
the permit that a task waits for, is said to be so.
"""

from __future__ import annotations

from collections.abc import Sequence

from asyncflow.errors import InputError
from asyncflow.graph.record import record_of
from asyncflow.graph.wants import nearest
from asyncflow.ids import shell_command
from asyncflow.interfaces import RunInfo, Store
from asyncflow.machine.ledger import SETTLED
from asyncflow.machine.replay import fold
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Failure, TimedOut
from asyncflow.runtime.report import spans_of
from asyncflow.runtime.transcript import transcript_of
from asyncflow.states import RunState, TaskState

MOST_NAMED = 10
"""How many tasks are named of those that one waits for; the others are counted."""


async def why(store: Store, run_id: str, path: str, now: float) -> list[str]:
    """Return what the task at *path* waits for as *store* has it *now* (POSIX seconds)."""
    transcript = await transcript_of(store, run_id)
    machine = fold(transcript.records, transcript.plans)
    try:
        task = machine.plan.index(path)
    except KeyError:
        known = [machine.plan.path(each) for each in range(machine.plan.size)]
        raise InputError(
            f"run {run_id!r} has no task {path!r}{nearest(path, known)}; 'asyncflow show {run_id} --all' lists them"
        ) from None
    spans, _ = spans_of(transcript.records, machine)
    began = {each: span[0] for each, span in spans.items() if span[0] is not None and span[1] is None}
    return _Inquiry(machine, transcript.info, began, now).reasons(task)


class _Inquiry:
    """One look at one run; ``began`` has when what is running now did."""

    def __init__(self, machine: RunMachine, info: RunInfo, began: dict[int, float], now: float) -> None:
        self._machine = machine
        self._plan = machine.plan
        self._info = info
        self._began = began
        self._now = now

    def reasons(self, task: int) -> list[str]:
        """Return why *task* stands as it does, nearest reason first."""
        machine, path = self._machine, self._plan.path(task)
        state = TaskState(machine.states[task])
        if state is TaskState.PENDING and not machine.phase.is_ended and machine.phase is not RunState.REVERTING:
            found = self._before_start(task)
        elif state is TaskState.SKIPPED:
            found = [self._skipped(task)]
        elif self._is_to_be_undone(task) and state is not TaskState.REVERTING:
            found = self._before_revert(task)
        elif state in (TaskState.RUNNING, TaskState.WAITING, TaskState.REVERTING):
            found = [f"{path} {self._standing(task)}"]
        elif state is TaskState.PENDING:
            found = [f"{path} never started, and will not: the run is {machine.phase.value}"]
        else:
            found = [f"{path} waits for nothing: it {self._standing(task)}"]
        return found + self._around()

    # --- Going forward ------------------------------------------------------------------------------------------------

    def _before_start(self, task: int) -> list[str]:
        machine, plan, path = self._machine, self._plan, self._plan.path(task)
        missing, conditions = self._missing(task)
        if missing:
            inputs = self._inputs(task)
            found = [
                f"{path} waits for {self._what(inputs, plan.path(each))}, which {self._standing(each)}"
                for each in missing[:MOST_NAMED]
            ]
            if len(missing) > MOST_NAMED:
                found.append(f"{path} waits for {len(missing) - MOST_NAMED} more tasks")
            return found + self._roots(missing)
        if machine.is_halted(task):
            return [f"{path} does not start: a flow around it has failed, and is being undone or asked about"]
        if conditions:
            return [f"{path} waits for the condition of {each}, which is asked next" for each in conditions]
        if task in machine.in_doubt:
            return [f"{path} is to be started again: its attempt {machine.attempts[task]} was lost"]
        return [
            f"{path} waits for no task: it starts with the next turn of its run, or as soon as there is a permit for "
            "it (concurrency, a limit by name, a thread), which only the engine that runs it knows"
        ]

    def _missing(self, task: int) -> tuple[list[int], list[str]]:
        """Return the tasks right before *task* that have not settled, and whose condition is due."""
        machine, plan, before = self._machine, self._plan, self._plan.predecessors()
        missing: dict[int, None] = {}
        conditions: dict[str, None] = {}
        seen, stack = {task}, [task]
        while stack:
            node = stack.pop()
            open_before = False
            for each in before[node]:
                if each < plan.size:
                    if machine.states[each] not in SETTLED:
                        missing[each] = None
                        open_before = True
                elif each not in seen:
                    seen.add(each)
                    stack.append(each)
            for index in plan.guards_of(node):
                if index not in machine.answers and not open_before:
                    conditions[plan.guarded_path(index)] = None
        return sorted(missing), list(conditions)

    def _roots(self, missing: Sequence[int]) -> list[str]:
        """Return what it comes down to, where what is missing has not started either."""
        idle = [each for each in missing if self._machine.states[each] == TaskState.PENDING]
        seen, stack, roots = set(idle), list(idle), dict[int, None]()
        while stack:
            node = stack.pop()
            before, _ = self._missing(node)
            if not before and node not in missing:
                roots[node] = None
            for each in before:
                if each in seen:
                    continue
                seen.add(each)
                if self._machine.states[each] == TaskState.PENDING:
                    stack.append(each)
                else:
                    roots[each] = None
        named = sorted(roots)[:MOST_NAMED]
        return [f"that comes down to {self._plan.path(each)}, which {self._standing(each)}" for each in named]

    def _inputs(self, task: int) -> dict[str, list[str]]:
        """Return, by the path of what it comes from, the parameters of *task*."""
        found: dict[str, list[str]] = {}
        for parameter, source in record_of(self._plan).tasks[task].reads:
            found.setdefault(source, []).append(parameter)
        return found

    @staticmethod
    def _what(inputs: dict[str, list[str]], path: str) -> str:
        names = inputs.get(path)
        if not names:
            return path
        return f"{'input' if len(names) == 1 else 'inputs'} {', '.join(map(repr, names))} from {path}"

    def _skipped(self, task: int) -> str:
        machine, plan, path = self._machine, self._plan, self._plan.path(task)
        if any(machine.answers.get(index) is False for index in plan.guards_of(task)):
            return f"{path} is SKIPPED: its condition said no"
        noes = [plan.guarded_path(index) for index, answer in sorted(machine.answers.items()) if not answer]
        cause = f"; the conditions that said no are those of {', '.join(noes[:MOST_NAMED])}" if noes else ""
        return f"{path} is SKIPPED for a condition before it or of a flow around it{cause}"

    # --- Undoing ------------------------------------------------------------------------------------------------------

    def _is_to_be_undone(self, task: int) -> bool:
        machine = self._machine
        return (
            not machine.phase.is_ended
            and machine.started[task] > 0
            and machine.states[task] != TaskState.REVERTED
            and machine.may_be_undone(task)
        )

    def _before_revert(self, task: int) -> list[str]:
        machine, plan, path = self._machine, self._plan, self._plan.path(task)
        if machine.states[task] == TaskState.REVERT_FAILED:
            return [f"{path} {self._standing(task)}; a resume tries it again once the run has ended"]
        if machine.states[task] == TaskState.RUNNING:
            return [f"{path} {self._standing(task)}; its run is being undone, so it is told to stop, then reverted"]
        found: dict[int, None] = {}
        seen, stack = {task}, [task]
        while stack:
            for after in plan.successors[stack.pop()]:
                if after in seen:
                    continue
                seen.add(after)
                if after < plan.size and self._is_to_be_undone(after):
                    found[after] = None
                else:
                    stack.append(after)  # a gate, or what needs no undoing: what is behind it counts
        if not found:
            return [f"{path} {self._standing(task)}; its revert waits for no task, and is due with the next turn"]
        named = [
            f"the revert of {path} waits for that of {plan.path(each)}, which {self._standing(each)}"
            for each in sorted(found)[:MOST_NAMED]
        ]
        if len(found) > MOST_NAMED:
            named.append(f"the revert of {path} waits for those of {len(found) - MOST_NAMED} more tasks")
        return named

    # --- Words --------------------------------------------------------------------------------------------------------

    def _standing(self, task: int) -> str:
        """Return how *task* stands, to go behind its name."""
        machine, state = self._machine, TaskState(self._machine.states[task])
        outcome = machine.outcomes.get(task)
        if state is TaskState.RUNNING:
            return f"is RUNNING (attempt {machine.attempts[task]}{self._since(task)})"
        if state is TaskState.WAITING:
            return f"waits out its backoff: attempt {machine.attempts[task] + 1} is due {self._until(task)}"
        if state is TaskState.REVERTING:
            tried = machine.revert_attempts.get(task, 0)
            if task in machine.waits and task not in machine.reverting:
                return f"is REVERTING: try {tried + 1} at its revert is due {self._until(task)}"
            return f"is REVERTING (try {max(1, tried)}{self._since(task)})"
        if state is TaskState.REVERT_FAILED and task in machine.revert_failures:
            return f"is REVERT_FAILED: {_told(machine.revert_failures[task])}"
        if isinstance(outcome, Failure) and state is not TaskState.REVERTED:
            return f"is {state.name}: {_told(outcome)}"
        if isinstance(outcome, TimedOut):
            return f"is {state.name}: it passed its time limit"
        return f"is {state.name}"

    def _since(self, task: int) -> str:
        began = self._began.get(task)
        return "" if began is None else f" since {max(0.0, self._now - began):.0f} s"

    def _until(self, task: int) -> str:
        left = self._machine.waits[task] - self._now
        return f"in {left:.1f} s" if left > 0 else "now"

    def _around(self) -> list[str]:
        """Return what holds up the whole run, if anything does."""
        machine, info = self._machine, self._info
        resume = f"go on with: {shell_command('resume', info.run_id)}"
        if info.state is RunState.INTERRUPTED:
            return [f"the run is INTERRUPTED: the process that owned it is gone, so nothing moves; {resume}"]
        if info.state is RunState.SUSPENDED:
            return [f"the run is SUSPENDED ({machine.suspend_reason}), so nothing moves; {resume}"]
        if machine.suspend_reason is not None and not machine.phase.is_ended:
            return [f"the run is being suspended ({machine.suspend_reason}), so nothing new starts"]
        if info.owner is not None and not info.state.is_ended:
            return [f"the run is {info.state.value}, owned by {info.owner}"]
        return []


def _told(failure: Failure) -> str:
    return f"{failure.type_name}: {failure.text}" if failure.text else failure.type_name
