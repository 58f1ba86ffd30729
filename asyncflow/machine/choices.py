"""What conditions let pass and what they skip, as far as it follows from the answers alone."""

from __future__ import annotations

from asyncflow import messages as m
from asyncflow.graph.policy import DEPTHS
from asyncflow.graph.reach import reach
from asyncflow.machine.calm import Calm
from asyncflow.machine.ledger import PENDING, SKIPPED
from asyncflow.states import RunState


class Choices(Calm):
    """The part of a run's machine that knows which conditions are to be asked, and what their noes reach."""

    __slots__ = ()

    def expects_condition(self, guard: int) -> bool:
        """Whether a condition is still to be answered."""
        node = self.plan.guards[guard].node
        if self.phase is not RunState.RUNNING or guard in self.answers or self._waiting_for[node]:
            return False
        if self.suspend_reason is not None or self.is_suspended or self._verdict(node) is not None:
            return False
        return self._may_start(node) if node < self.plan.size else not self._is_gate_moot(node)

    def _is_gate_moot(self, gate: int) -> bool:
        """Whether the flow behind a gate that has not passed is skipped, or falls still with one around it."""
        guard = self.plan.guards[self.plan.guards_of(gate)[0]]
        parent = self.plan.scopes[guard.scope].parent
        if parent >= 0 and not self._halts.isdisjoint(self.plan.enclosing(parent)):
            return True
        return guard.scope in self.scope_failures

    def _admitted(self, ready: list[int], commands: list[m.Command]) -> list[int]:
        """Return those of *ready* that may start, and ask what is to be asked about the others."""
        admitted: list[int] = []
        for task in ready:
            if task in self._to_skip:
                continue
            verdict = True if self.started[task] else self._verdict(task)
            if verdict:
                admitted.append(task)
            elif verdict is None:
                self._ask(task, commands)
        return admitted

    def _ask(self, node: int, commands: list[m.Command]) -> None:
        commands.extend(m.Evaluate(index) for index in self.plan.guards_of(node) if self._is_open(index))

    def _is_open(self, guard: int) -> bool:
        """Whether a condition has something to say, and has not said it."""
        sources = self.plan.guards[guard].sources
        return guard not in self.answers and not (sources and all(self.states[task] == SKIPPED for task in sources))

    def _list_conditions(self, commands: list[m.Command]) -> None:
        """Say what is skipped; once that is said, ask about the flows whose conditions can be asked."""
        skips, self._skips = self._skips, []
        commands.extend(m.Skip(task) for task in skips if task in self._to_skip)
        if commands:
            return
        gates, self._gates = self._gates, []
        for gate in gates:
            if self._verdict(gate) is None:
                if self._reads_remaking(gate):
                    self._gates.append(gate)
                else:
                    self._ask(gate, commands)

    def _reached(self, node: int) -> list[int]:
        """Return what the noes at *node* reach, the widest of them, and is still to be skipped."""
        plan, states = self.plan, self.states
        noes = [plan.guards[one] for one in plan.guards_of(node) if self.answers.get(one) is False]
        widest = max(noes, key=lambda one: DEPTHS.index(one.depth))
        return [task for task in reach(plan, widest) if states[task] == PENDING and not self._has_begun(task)]

    def _has_begun(self, task: int) -> bool:
        """Whether *task* has started, or is the controller of a flow that was begun when it had none."""
        scope = self.plan.scope_of[task]
        is_controller = self.plan.scopes[scope].controller == task
        return self._has_begun_in(scope) if is_controller else self.started[task] > 0

    def _has_begun_in(self, scope: int) -> bool:
        """Whether anything in the flow at *scope* has started."""
        return any(self.started[task] for task in self.plan.span(scope))

    def _marked(self) -> dict[int, None]:
        """Return what noes reach, where all conditions of a place have been answered, and is still to be skipped."""
        nodes = dict.fromkeys(self.plan.guards[index].node for index, answer in self.answers.items() if not answer)
        said = [node for node in nodes if not any(map(self._is_open, self.plan.guards_of(node)))]
        return {task: None for node in said for task in self._reached(node)}
