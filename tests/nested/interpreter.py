"""
What becomes of a run in which one body runs at a time, worked out from the flow as it was declared.

It does the first task that can be done, asks what is to be asked before, undoes backwards, and looks at everything each
time. Nothing in it is an event, and nothing waits.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from asyncflow.graph.plan import Plan
from tests.nested.rules import NOBODY, SETTLED, Shape
from tests.nested.trees import DEFAULT, Branch, Leaf, Question, Reads, Ruler, World, value_of
from tests.nested.walk import Trouble


class Missing(Exception):
    """Nobody visible gives a value, and there is no default."""


class Interpreter:
    """One run: ``final`` says what became of it, ``trace`` what began, in order."""

    def __init__(
        self, tree: Branch, plan: Plan, world: World, trouble: Trouble = None, *, never_revert: bool = False
    ) -> None:
        self.plan, self.world, self.trouble, self.never_revert = plan, world, trouble, never_revert
        self.shape = Shape(plan, _tolerant(tree, plan))
        self.tasks: list[Leaf | Ruler] = list(tree.tasks())
        self.branches = {branch.path: branch for branch in tree.branches()}
        self.states = ["PENDING"] * plan.size
        self.values: dict[int, Any] = {}
        self.started: list[int] = []
        self.tries: Counter[int] = Counter()
        self.answers: dict[int, bool] = {}
        self.history: dict[int, list[tuple[Any, tuple[str, ...]]]] = {}
        self.flow_failures: set[int] = set()
        self.counts: Counter[Any] = Counter()
        self.goal = ""
        self.state = "RUNNING"
        self.undone: list[str] = []
        self.trace: list[str] = []
        while self.state == "RUNNING":
            self._step()

    def final(self) -> dict[str, Any]:
        paths = [task.path for task in self.tasks]
        return {
            "state": self.state,
            "states": dict(zip(paths, self.states, strict=True)),
            "values": {paths[task]: value for task, value in self.values.items() if self.states[task] == "SUCCEEDED"},
            "undone": self.undone,
        }

    def _step(self) -> None:
        if self.goal:
            self._undo(set(range(len(self.tasks))))
            complete = all(self.states[task] == "REVERTED" for task in self.started)
            self.state = self.goal if complete else "FAILED"
            return
        if self._choose():
            return
        ready = [task for task in range(len(self.tasks)) if self.states[task] == "PENDING" and self._is_next(task)]
        if ready:
            self._perform(ready[0])
        else:
            self.state = "SUCCEEDED"

    # --- Order --------------------------------------------------------------------------------------------------------

    def _is_next(self, node: int) -> bool:
        return all(self._has_settled(one) for one in self.shape.before[node])

    def _has_settled(self, node: int) -> bool:
        if node < len(self.tasks):
            return self.states[node] in SETTLED
        return self._is_next(node) and (self._is_passed_over(node) or not self._open_questions(node))

    def _open_questions(self, node: int) -> list[int]:
        return [
            index
            for index in self.shape.guards.get(node, ())
            if index not in self.answers and not self._abstains(index)
        ]

    def _abstains(self, index: int) -> bool:
        sources = self.plan.guards[index].sources
        return bool(sources) and all(self.states[one] == "SKIPPED" for one in sources)

    def _is_passed_over(self, gate: int) -> bool:
        guards = self.shape.guards.get(gate)
        span = self.shape.span[self.plan.guards[guards[0]].scope] if guards else set()
        return bool(span) and all(self.states[one] == "SKIPPED" or one in self._reached() for one in span)

    def _reached(self) -> set[int]:
        found: set[int] = set()
        for node, guards in self.shape.guards.items():
            noes = [index for index in guards if self.answers.get(index) is False]
            if noes and not self._open_questions(node):
                found |= self.shape.reach(node, noes)
        return found

    # --- Choosing -----------------------------------------------------------------------------------------------------

    def _choose(self) -> bool:
        """Skip what can be skipped, or ask one question; return whether there was anything."""
        reached = self._reached()
        skips = [t for t in sorted(reached) if self.states[t] == "PENDING" and self._is_next(t)]
        for task in skips:
            self.states[task] = "SKIPPED"
        if skips:
            return True
        size = len(self.tasks)
        nodes = sorted(self.shape.guards, key=lambda node: (node < size, node))
        for node in nodes:
            if node < size and (self.states[node] != "PENDING" or node in reached):
                continue
            if node >= size and self._is_passed_over(node):
                continue
            if self._is_next(node) and (questions := self._open_questions(node)):
                self._ask(questions[0])
                return True
        return False

    def _ask(self, index: int) -> None:
        guard = self.plan.guards[index]
        assert guard.condition is not None
        label = guard.condition.fn.__dict__["label"]
        reader, question = self._question(label)
        call = self.counts["guard", index]
        self.counts["guard", index] += 1
        try:
            inputs = self._inputs(question.reads, reader, guard.node)
            self.answers[index] = self.world.condition(label, call, inputs)
            return
        except (Missing, ValueError):
            pass
        if guard.scope >= 0:
            self.flow_failures.add(guard.scope)
        else:
            self.states[guard.node] = "FAILED"
        self._fail(self.shape.scope_of_guard(index))

    def _question(self, label: str) -> tuple[str, Question]:
        """Return who would read what a condition reads, and the condition."""
        kind, _, where = label.partition(" ")
        found: Any
        if kind == "link":
            path, _, ends = where.partition(":")
            one, other = map(int, ends.split("-"))
            found = next(link[2] for link in self.branches[path].links if link[:2] == (one, other))
            return self.branches[path].items[other].path, found
        if kind == "flow":
            found = self.branches[where].when
        else:
            found = next(task.when for task in self.tasks if isinstance(task, Leaf) and task.path == where)
        return where, found

    # --- Values -------------------------------------------------------------------------------------------------------

    def _inputs(self, reads: Reads, reader: str, node: int) -> dict[str, Any]:
        return {name: self._look_up(name, reader, node, has_default) for name, has_default in reads}

    def _look_up(self, name: str, reader: str, node: int, has_default: bool) -> Any:
        for task in reversed(range(len(self.tasks))):
            provider = self.tasks[task]
            if provider.gives == name and task in self.values and self._sees(reader, node, provider, task):
                return self.values[task]
        if not has_default:
            raise Missing(name)
        return DEFAULT

    def _sees(self, reader: str, node: int, provider: Leaf | Ruler, task: int) -> bool:
        return sees(self.branches, reader, provider, task, self.shape.all_after[task], node)

    # --- Doing --------------------------------------------------------------------------------------------------------

    def _perform(self, task: int) -> None:
        declared = self.tasks[task]
        most = declared.retry if isinstance(declared, Leaf) else 1
        for attempt in range(1, most + 1):
            if self._is_time("before"):
                if attempt > 1:
                    self.states[task] = "CANCELLED"
                self.goal = "CANCELLED"
                return
            try:
                inputs = self._inputs(declared.reads, declared.path, task) if isinstance(declared, Leaf) else {}
            except Missing:
                self.states[task] = "FAILED"
                self._fail(self.shape.home(task))
                return
            self.trace.append("+" + declared.path)
            if attempt == 1:
                self.started.append(task)
            is_cut = self._is_time("in")
            call = self.counts["body", task]
            self.counts["body", task] += 1
            self.counts["in"] += 1
            if is_cut:
                self.states[task], self.goal = "CANCELLED", "CANCELLED"
                return
            if isinstance(declared, Leaf):
                how, value = self.world.body(declared.path, call), value_of(declared.path, inputs)
            else:
                how, value = self._execute(declared, task, call)
            if how == "ok":
                self.states[task], self.values[task] = "SUCCEEDED", value
                return
            if how == "fail":
                break
        self.states[task] = "FAILED"
        self._fail(self.shape.home(task))

    def _execute(self, ruler: Ruler, task: int, call: int) -> tuple[str, Any]:
        past = self.history.get(self.plan.scope_of[task], [])
        how = self.world.controller(ruler.path, call)
        if ruler.kind == "times":
            return how, len(past) + 1
        if ruler.kind == "for_each":
            return ("fail", None) if ruler.n == 0 else (how, (7, 8, 7)[len(past)])
        if ruler.kind == "own":
            return how, value_of("ruler", {"past": tuple(value for value, _ in past)})
        return how, None

    def _is_time(self, what: str) -> bool:
        place = self.counts["undo" if what == "undo" else "in"]
        return self.trouble is not None and not self.goal and self.trouble == (what, place)

    # --- Failing ------------------------------------------------------------------------------------------------------

    def _fail(self, home: int) -> None:
        scope = NOBODY if self.never_revert else self.shape.controlled(home)
        if self.never_revert:
            self.state = "FAILED"
        elif scope == NOBODY:
            self.goal = "REVERTED"
        else:
            self._decide(scope)

    def _decide(self, scope: int) -> None:
        declared = self.plan.scopes[scope]
        ruler = self.tasks[declared.controller]
        assert isinstance(ruler, Ruler)
        span = self.shape.span[scope]
        failed = {self.tasks[task].path for task in span if self.states[task] == "FAILED"}
        failed |= {
            self.plan.scopes[one].path for one in self.flow_failures if scope in self._around(one) and one != scope
        }
        past = self.history.setdefault(scope, [])
        past.append((self.values.get(declared.controller), tuple(sorted(failed))))
        decision = self._decision(ruler, scope, past)
        if decision == "retry":
            self._undo(span - {declared.controller})
            if not self.goal:
                self._start_over(scope)
        elif decision == "revert_all":
            self.goal = "REVERTED"
        elif (outer := self.shape.outer(scope)) != NOBODY:
            self._decide(outer)
        elif declared.revert_scope == "flow" and scope:
            self.goal = "FAILED"
            self._undo(span)
            self.state = "FAILED"
        else:
            self.goal = "REVERTED"

    def _decision(self, ruler: Ruler, scope: int, past: list[Any]) -> str:
        call = self.counts["decision", scope]
        self.counts["decision", scope] += 1
        if ruler.kind == "own":
            try:
                return self.world.decision(ruler.path, call, past)
            except ValueError:
                self.flow_failures.add(scope)
                return "revert"
        if ruler.kind == "always_revert_all":
            return "revert_all"
        most = {"always_revert": 0, "times": max(1, ruler.n), "for_each": ruler.n}[ruler.kind]
        if len(past) < most:
            return "retry"
        return "revert_all" if ruler.revert_all and most else "revert"

    def _start_over(self, scope: int) -> None:
        span = self.shape.span[scope]
        for task in span:
            self.states[task] = "PENDING"
            self.values.pop(task, None)
            self.tries.pop(task, None)
        self.started = [task for task in self.started if task not in span]
        for index in range(len(self.plan.guards)):
            if scope in self._around(self.shape.scope_of_guard(index)):
                self.answers.pop(index, None)
        for inner in list(self.history):
            if inner != scope and scope in self._around(inner):
                del self.history[inner]
        self.flow_failures = {one for one in self.flow_failures if scope not in self._around(one)}

    def _around(self, scope: int) -> tuple[int, ...]:
        return self.shape._around(scope)

    def _undo(self, tasks: set[int]) -> None:
        """Undo *tasks*, backwards; a flow's undoing ends early when the run turns round."""
        was_forward = not self.goal
        while not (was_forward and self.goal):
            left = [t for t in self.started if t in tasks and self.states[t] not in ("REVERTED", "REVERT_FAILED")]
            left = [t for t in left if not self._is_blocked(t)]
            if not left:
                return
            self._revert(left[-1])

    def _is_blocked(self, task: int) -> bool:
        return any(self.states[one] != "REVERTED" for one in self.started if one in self.shape.all_after[task])

    def _revert(self, task: int) -> None:
        declared = self.tasks[task]
        if self._is_time("undo"):
            self.goal = "CANCELLED"
        self.trace.append("-" + declared.path)
        how = self.world.revert(declared.path, self.counts["revert", task])
        self.counts["revert", task] += 1
        self.counts["undo"] += 1
        self.tries[task] += 1
        if how == "ok":
            self.states[task] = "REVERTED"
            self.values.pop(task, None)
            self.undone.append(declared.path)
        elif how == "retriable" and isinstance(declared, Leaf) and self.tries[task] < declared.revert_retry:
            self.states[task] = "REVERTING"
        else:
            self.states[task] = "REVERT_FAILED"
            self.goal = self.goal or "REVERTED"


def sees(
    branches: dict[str, Branch], reader: str, provider: Leaf | Ruler, task: int, behind: set[int], node: int
) -> bool:
    """Return whether *reader*, the path of an item, sees what *provider* gives."""
    one, other = provider.path.split("/"), reader.split("/")
    same = 0
    while same < min(len(one), len(other)) - 1 and one[same] == other[same]:
        same += 1
    if isinstance(provider, Ruler):
        return len(one) == same + 1 and one != other
    around = branches["/".join(one[:same])]
    kind = around.kind
    if kind == "linear":
        paths = [item.path for item in around.items]
        return paths.index("/".join(one[: same + 1])) < paths.index("/".join(other[: same + 1]))
    return kind == "graph" and node in behind


def _tolerant(tree: Branch, plan: Plan) -> set[int]:
    """Return the tasks that read others, with a default for each of them."""
    shape = Shape(plan)
    tasks = list(tree.tasks())
    branches = {branch.path: branch for branch in tree.branches()}
    found: set[int] = set()
    for node, leaf in enumerate(tasks):
        if not isinstance(leaf, Leaf):
            continue
        read = [
            has_default
            for name, has_default in leaf.reads
            if any(
                provider.gives == name and sees(branches, leaf.path, provider, task, shape.all_after[task], node)
                for task, provider in enumerate(tasks)
            )
        ]
        if read and all(read):
            found.add(node)
    return found
