"""A run's values as its tasks read them: what the journal sealed is opened when someone looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from asyncflow.codec import Codec
from asyncflow.errors import ResourceMissing, ValueNotAtHand
from asyncflow.graph.controller import History, PastAttempt
from asyncflow.graph.inputs import NoValue
from asyncflow.interfaces import MOST_PREDECESSORS, Circumstances
from asyncflow.machine.failures import present_attempt
from asyncflow.machine.ledger import NO_VALUE
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import UNOPENED, Failure, Sealed, TimedOut
from asyncflow.states import TaskState


class RunValues:
    """
    Reads the inputs of one run, the values of its tasks, and the engine's resources.

    In memory a value is the user's object. In a journaled run it is sealed and knows its object; after a resume it is
    decoded the first time that someone reads it.
    """

    __slots__ = ("_codec", "_machine", "_resources", "hands_on_copies", "inputs", "shadows")

    def __init__(
        self,
        machine: RunMachine,
        codec: Codec,
        resources: Mapping[str, Any],
        *,
        hands_on_copies: bool,
    ) -> None:
        self._machine = machine
        self._codec = codec
        self._resources = resources
        self.hands_on_copies = hands_on_copies
        self.inputs: dict[str, Any] = {}
        self.shadows = False

    def load_inputs(self) -> None:
        """
        Open the run's inputs, and fall back to the flow's defaults for the others. Called once the run has started.
        """
        plan, given = self._machine.plan, self._machine.inputs
        self.inputs = {name: self.open(value) for name, value in given.items()}
        if plan.input_defaults:
            self.inputs = {**plan.input_defaults, **self.inputs}
        for name in plan.lendable:
            if name not in self.inputs and name in self._resources:
                self.inputs[name] = self._resources[name]
        self.shadows = bool(plan.shadowed) and not plan.shadowed.isdisjoint(given)

    def value(self, task: int) -> Any:
        """Return what *task* returned, or raise NoValue."""
        value = self._machine.values[task]
        if value is NO_VALUE:
            raise NoValue(self._machine.plan.path(task))
        if type(value) is not Sealed:
            return value
        if not value.is_open and value.payload is None:
            path = self._machine.plan.path(task)
            if not value.is_kept:
                raise ValueNotAtHand(
                    f"the value of task {path!r} was not kept (checkpoint=False), and the process that had it is gone; "
                    "start a new run, or keep the value"
                )
            raise ValueNotAtHand(
                f"the value of task {path!r} is large ({value.size_bytes} bytes) and not in memory while nobody in its "
                f"run needs it; await run.task({path!r}) to have it"
            )
        return self.open(value)

    def at_hand(self) -> list[Any] | None:
        """Return task to value of a run in memory, where each is the object itself; None where an input shadows one."""
        return None if self.shadows else self._machine.values

    def whole(self, tasks: Iterable[int]) -> list[Any] | None:
        """Return what *tasks* returned, or None where something of that must be fetched, decoded or copied first."""
        if self.shadows or self.hands_on_copies:
            return None
        values, found = self._machine.values, list[Any]()
        for task in tasks:
            value = values[task]
            if type(value) is Sealed:
                value = value.value
                if value is UNOPENED:
                    return None
            found.append(value)
        return found

    def history(self, scope: int, *, with_present: bool = False) -> History:
        """Return the attempts of a flow so far; *with_present* the one that goes on, or has just failed, as well."""
        control = self._machine.controls[scope]
        attempts = list(control.history)
        if with_present and not control.has_answered:
            attempts.append(present_attempt(self._machine, scope))
        return History(PastAttempt(self.open(value), dict(failures)) for value, failures in attempts)

    def open(self, value: Any) -> Any:
        """Return the object behind *value*, sealed or not."""
        if type(value) is not Sealed:
            return value
        if self.hands_on_copies and value.payload is not None:
            return self._codec.decode(value.payload)
        return self._codec.open(value)

    def resource(self, name: str, wanted: Any) -> Any:
        """Return a resource by name, else the only one of the wanted type."""
        resources = self._resources
        if name in resources:
            return resources[name]
        if isinstance(wanted, type):
            fitting = [resource for resource in resources.values() if isinstance(resource, wanted)]
            if len(fitting) == 1:
                return fitting[0]
        have = ", ".join(sorted(resources)) or "none"
        raise ResourceMissing(
            f"the engine has no resource {name!r} (it has: {have}); pass it as Engine(resources={{{name!r}: ...}})"
        )


def circumstances(machine: RunMachine, values: RunValues, task: int, *, is_revert: bool) -> Circumstances:
    """Return what a task that has failed for good, or whose revert has, is seen with; what cannot be read is absent."""
    outcome = machine.revert_failures[task] if is_revert else machine.outcomes[task]
    assert isinstance(outcome, (Failure, TimedOut))
    binding = machine.plan.bindings[task]
    inputs: dict[str, Any] = {}
    names = [name or f"*{place}" for place, name in enumerate(binding.names)]
    for name, source in zip([*names, *(name for name, _ in binding.keyword)], binding.sources(), strict=True):
        try:
            inputs[name] = source.read(values)
        except Exception:  # skipped, large and not in memory, or itself what the task failed of
            continue
    return Circumstances(outcome, inputs, _right_before(machine, task))


def _right_before(machine: RunMachine, task: int) -> dict[str, TaskState]:
    """Return path to state of the tasks that *task* waited for, gates passed through."""
    plan, before = machine.plan, machine.plan.predecessors()
    found: dict[int, None] = {}
    seen, stack = {task}, [task]
    while stack and len(found) < MOST_PREDECESSORS:
        for node in before[stack.pop()]:
            if node < plan.size:
                found[node] = None
            elif node not in seen:
                seen.add(node)
                stack.append(node)
    nearest = sorted(found)[:MOST_PREDECESSORS]
    return {plan.path(node): TaskState(machine.states[node]) for node in nearest}
