"""What is different in a flow since a run of it was recorded, and whether what the run has done still fits."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import attrs

from asyncflow.graph.constant import digest
from asyncflow.graph.plan import Plan
from asyncflow.graph.record import PlanRecord, record_of
from asyncflow.states import TaskState


@attrs.frozen
class Verdict:
    """
    What has changed about one task, and whether a run that has come so far can go on.

    Attributes:
        path: The task; for a numbered family, its first.
        kind: "new", "gone", "back", "rewired", "changed type", "changed constant", "changed version", "lost revert" or
            "changed family".
        text: What was, and what is.
        is_refused: Whether what the run has done does not fit.
        may_be_accepted: Whether the run can go on all the same, if its owner says so.
    """

    path: str
    kind: str
    text: str
    is_refused: bool
    may_be_accepted: bool = True

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


_ENDED = frozenset(
    {
        TaskState.SUCCEEDED,
        TaskState.FAILED,
        TaskState.TIMED_OUT,
        TaskState.CANCELLED,
        TaskState.SKIPPED,
        TaskState.REVERTED,
        TaskState.REVERT_FAILED,
    }
)


def compare(
    old: Plan,
    new: Plan,
    *,
    started: Collection[str] = (),
    states: Mapping[str, int] | None = None,
    undone: Collection[str] = (),
    retired: Collection[str] = (),
) -> list[Verdict]:
    """
    Return what is different in *new*, in the order of the old plan and then of the new; nothing for what is the same.

    Args:
        old: The plan that the run has followed so far.
        new: The flow as it is now.
        started: Paths of the tasks that have started.
        states: Path to state; a path that is absent is PENDING.
        undone: Paths of those of them that are being undone, or may be.
        retired: Paths of tasks that had started before an earlier change took them out.
    """
    return _Comparison(old, new, frozenset(started), states or {}, frozenset(undone), retired).verdicts()


class _Comparison:
    """One run's old plan beside its new one."""

    def __init__(
        self,
        old: Plan,
        new: Plan,
        started: frozenset[str],
        states: Mapping[str, int],
        undone: frozenset[str],
        retired: Collection[str],
    ) -> None:
        self._old, self._new = old, new
        self._records = record_of(old), record_of(new)
        self._started = started
        self._states = states
        self._undone = undone
        self._retired = retired
        self._before = {old.path(task): task for task in range(old.size)}
        self._after = {new.path(task): task for task in range(new.size)}

    def verdicts(self) -> list[Verdict]:
        """Return every difference."""
        found, unclear = self._families()
        orders = _orders(self._old), _orders(self._new)
        waits = self._unsettled()
        for path, task in self._before.items():
            if path in unclear:
                continue
            if path not in self._after:
                found.append(self._gone(path))
                continue
            twin = self._after[path]
            found.extend(self._changed(path, task, twin))
            if path in self._started and orders[0][task] != orders[1][twin] and twin in waits:
                text = "comes after tasks now that have not ended, and it has started"
                found.append(Verdict(path, "rewired", text, is_refused=path not in self._undone))
        found.extend(self._new_one(path) for path in self._after if path not in self._before and path not in unclear)
        return found

    def _new_one(self, path: str) -> Verdict:
        if path in self._retired:
            text = "is back, and ran before it was taken out; what it gave is not known any more, so it would run again"
            return Verdict(path, "back", text, is_refused=True)
        return Verdict(path, "new", "is new", is_refused=False)

    def _gone(self, path: str) -> Verdict:
        if path not in self._started:
            return Verdict(path, "gone", "is gone, and had not started", is_refused=False)
        state = self._states.get(path, TaskState.PENDING)
        has_revert = self._records[0].kind_of(self._before[path]).has_revert
        if path in self._undone and state != TaskState.REVERTED and has_revert:
            return Verdict(path, "gone", "is gone, and is still to be reverted", is_refused=True)
        if state not in _ENDED:
            return Verdict(path, "gone", "is gone, and had started without an ending", is_refused=True)
        return Verdict(path, "gone", "is gone; its record is kept", is_refused=False)

    def _changed(self, path: str, task: int, twin: int) -> Iterator[Verdict]:
        old, new = self._records[0].tasks[task], self._records[1].tasks[twin]
        old_kind, new_kind = self._records[0].kind_of(task), self._records[1].kind_of(twin)
        refused = path in self._started
        if old.reads != new.reads:
            yield Verdict(path, "rewired", _difference("reads", old.reads, new.reads), refused)
        was = (*old_kind.parameters, ("return", old_kind.returns))
        now = (*new_kind.parameters, ("return", new_kind.returns))
        if was != now:
            yield Verdict(path, "changed type", _difference("has types", was, now), refused)
        if old_kind.provides != new_kind.provides:
            yield Verdict(path, "rewired", _difference("provides", old_kind.provides, new_kind.provides), refused)
        if old.constants != new.constants:
            # By name only: a hash says nothing to a reader, and a constant may be a secret.
            names = sorted({name for name, _ in {*old.constants} ^ {*new.constants}})
            text = f"has another constant for {', '.join(map(repr, names))}"
            yield Verdict(path, "changed constant", text, refused)
        if old_kind.version != new_kind.version:
            text = f"was version {old_kind.version!r} and is {new_kind.version!r}"
            yield Verdict(path, "changed version", text, refused)
        if old_kind.has_revert and not new_kind.has_revert:
            yield Verdict(path, "lost revert", "had a revert and has none", refused)

    # --- Numbered families --------------------------------------------------------------------------------------------

    def _families(self) -> tuple[list[Verdict], set[str]]:
        """Return a verdict for each numbered family that has changed, and the paths whose identity is unclear."""
        old, new = (_members(plan, record) for plan, record in zip((self._old, self._new), self._records, strict=True))
        found: list[Verdict] = []
        unclear: set[str] = set()
        for family in dict.fromkeys((*old, *new)):
            was, now = old.get(family, []), new.get(family, [])
            if len(was) < 2 and len(now) < 2:
                continue
            if [self._wiring(0, self._before[path]) for path in was] == [
                self._wiring(1, self._after[path]) for path in now
            ]:
                continue
            if not was or not now or self._started.isdisjoint(was):
                continue
            unclear.update(was, now)
            count = (
                f"there were {len(was)} and are {len(now)}" if len(was) != len(now) else "what they take has changed"
            )
            found.append(
                Verdict(
                    was[0],
                    "changed family",
                    f"is known by a number only, and {count}, so which is which cannot be told; name them with "
                    ".named(...)",
                    is_refused=True,
                )
            )
        return found, unclear

    def _wiring(self, side: int, task: int) -> tuple[Any, ...]:
        record = self._records[side].tasks[task]
        return record.reads, record.constants

    # --- Order --------------------------------------------------------------------------------------------------------

    def _unsettled(self) -> set[int]:
        """Return the nodes of the new plan that wait for something that has not succeeded."""
        plan = self._new
        found: set[int] = set()
        done = (TaskState.SUCCEEDED, TaskState.SKIPPED)
        settled = [self._states.get(path, TaskState.PENDING) in done for path in self._after]
        for node in _in_order(plan):
            if node < plan.size and settled[node]:
                continue
            if node < plan.size or node in found:
                found.update(plan.successors[node])
        return found


def _members(plan: Plan, record: PlanRecord) -> dict[str, list[str]]:
    """Return the paths of each numbered family, by a path that has the family's name for the number's."""
    scopes: list[tuple[str, bool]] = []
    for scope in plan.scopes:
        around, weak = scopes[scope.parent] if scope.parent >= 0 else ("", False)
        name = f"{scope.family}#" if scope.family else scope.name
        scopes.append(("" if scope.parent < 0 else f"{around}/{name}", weak or bool(scope.family)))
    found: dict[str, list[str]] = {}
    for at, task in enumerate(record.tasks):
        around, weak = scopes[task.scope]
        if weak or task.is_numbered:
            name = f"{record.kind_of(at).family}#" if task.is_numbered else task.name
            found.setdefault(f"{around}/{name}", []).append(plan.path(at))
    return found


def _difference(verb: str, old: tuple[tuple[str, str], ...], new: tuple[tuple[str, str], ...]) -> str:
    was, now = dict(old), dict(new)
    lines = [
        f"{name!r} as {was.get(name) or 'nothing'}, now {now.get(name) or 'nothing'}"
        for name in dict.fromkeys((*was, *now))
        if was.get(name) != now.get(name)
    ]
    return f"{verb} {'; '.join(lines) or 'the same in another order'}"


def _in_order(plan: Plan) -> list[int]:
    waiting = list(plan.pending)
    order = [node for node, count in enumerate(waiting) if not count]
    for node in order:  # It grows on the way.
        for behind in plan.successors[node]:
            waiting[behind] -= 1
            if not waiting[behind]:
                order.append(behind)
    return order


def _orders(plan: Plan) -> list[str]:
    """Return, for each node, a hash of what it waits for: the same in two plans if that is the same by path."""
    size = plan.size
    found = [""] * len(plan.successors)
    before: list[list[str]] = [[] for _ in plan.successors]
    for node in _in_order(plan):
        found[node] = digest("\0".join(sorted(before[node])))
        name = plan.path(node) if node < size else f"gate {found[node]}"
        for behind in plan.successors[node]:
            before[behind].append(name)
    return found
