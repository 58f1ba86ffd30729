"""What must be so after each death, and at the end: read from the file and the deeds by a process without an engine."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
from msgspec.structs import replace

from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.graph import record as recorded
from asyncflow.graph.plan import Plan
from asyncflow.ids import idempotency_key
from asyncflow.machine.replay import fold, plans_named
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Sealed
from asyncflow.states import RunState, TaskState
from asyncflow.stores.seal import seal_record
from tests.kills.deeds import BEGUN, DONE, KEPT, UNDOING, Deeds
from tests.kills.flows import Play, Script, extras_of, plain, script_of
from tests.machine.stage import check_order
from tests.nested.test_random import alike


@attrs.define
class Trail:
    """What is known of one run from what was looked at before."""

    bodies: list[bytes] = attrs.field(factory=list)
    kept: int = 0
    "How many records its lives were told are durable."
    completed: set[str] = attrs.field(factory=set)
    "Keys of executions that are never to be repeated."


class Watcher:
    """Looks at what a play leaves behind, each time that a process has died."""

    def __init__(self, play: Play, folder: Path) -> None:
        self._play, self._file = play, folder / "runs.db"
        self._deeds = Deeds(folder)
        self._codec = Codec()
        self._trails = {run_id: Trail() for run_id in play.run_ids}
        self._begun: Counter[tuple[str, str, str]] = Counter()
        self._asked: set[str] = set()
        self._plans: dict[str, Plan] = {}

    def look(self) -> dict[str, RunMachine]:
        """
        Check all that must hold at any time, and return each run that there is.

        Raises:
            AssertionError: Something was lost, repeated or out of order.
        """
        repeated: list[str] = []
        for deed in self._deeds.new():
            trail = self._trails[deed.run]
            if deed.what == KEPT:
                trail.kept = max(trail.kept, deed.attempt + 1)
            elif deed.what == DONE:
                # Whoever can be asked is not told to do it again; a lazy run may have forgotten that it has begun.
                if script_of(self._play, deed.run).trait(deed.path) == "asked" and self._play.durability != "lazy":
                    assert deed.key not in self._asked, f"done twice, although it could be asked: {deed}"
                    self._asked.add(deed.key)
            elif deed.what in (BEGUN, UNDOING):
                self._begun[deed.run, deed.path, deed.what] += 1
                if deed.key in trail.completed:
                    repeated.append(f"{deed.what} {deed.key} in life {deed.life}")
        assert not repeated, f"completed and done again: {repeated}"
        machines: dict[str, RunMachine] = {}
        if not self._file.exists():
            return machines
        with closing(sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True)) as database:
            [(is_made,)] = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'runs'")
            for key, run_id, state in database.execute("SELECT key, id, state FROM runs") if is_made else ():
                machines[run_id] = machine = self._look_at(database, key, run_id)
                assert machine.phase.value == state or machine.is_suspended, f"{run_id} is listed as {state}"
            self._look_at_books(database, machines)
        unmade = {run_id for run_id, trail in self._trails.items() if trail.kept} - set(machines)
        assert not unmade, f"runs that were durable are gone: {unmade}"
        return machines

    def _look_at(self, database: sqlite3.Connection, key: int, run_id: str) -> RunMachine:
        trail = self._trails[run_id]
        rows = database.execute(
            "SELECT number, at, state, body, checksum FROM records WHERE run = ? ORDER BY number", (key,)
        )
        bodies: list[bytes] = []
        for number, at, state, body, seal in rows:
            assert number == len(bodies), f"record {len(bodies)} of {run_id} is missing"
            assert seal_record(key, number, at, state, body) == seal, f"record {number} of {run_id} is damaged"
            bodies.append(body)
        assert bodies[: len(trail.bodies)] == trail.bodies, f"what was in the journal of {run_id} has changed"
        assert len(bodies) >= trail.kept, f"{run_id} has {len(bodies)} records, and {trail.kept} were durable"
        trail.bodies = bodies
        records = [self._codec.decode_record(body) for body in bodies]
        for digest in set(plans_named(records)) - set(self._plans):
            [(body,)] = database.execute("SELECT body FROM plans WHERE digest = ?", (digest,))
            self._plans[digest] = recorded.decode(body)
        machine = fold(records, self._plans)
        check_order(machine.plan, self._as_now(machine.plan, records))
        self._look_at_starts(run_id, records)
        script = script_of(self._play, run_id)
        for task, state in enumerate(machine.states):
            if TaskState(state) is TaskState.SUCCEEDED:
                path, execution = machine.plan.path(task), machine.executions.get(task, 0) + 1
                if script.trait(path) != "unkept":
                    trail.completed.add(idempotency_key(run_id, path, execution))
        return machine

    def _followed(self, records: list[m.Record]) -> Iterator[tuple[Plan, m.Event]]:
        """Yield each event with the plan that was in force."""
        plan = None
        for event in (event for record in records for event in record.events):
            if isinstance(event, (m.RunStarted, m.RunResumed)) and event.plan is not None:
                plan = self._plans[event.plan]
            assert plan is not None
            yield plan, event

    def _as_now(self, now: Plan, records: list[m.Record]) -> Iterator[m.Record]:
        """Yield the events as they would be under the plan of *now*, without those of tasks that it has lost."""
        places = {now.path(task): task for task in range(now.size)}
        for plan, event in self._followed(records):
            if isinstance(event, m.FlowStartedOver):
                paths = [plan.path(task) for task in event.tasks]
                event = replace(event, tasks=[places[path] for path in paths if path in places])
            elif (task := getattr(event, "task", None)) is not None:
                if plan.path(task) not in places:
                    continue
                event = replace(event, task=places[plan.path(task)])
            yield m.Record(0.0, [event])

    def _look_at_starts(self, run_id: str, records: list[m.Record]) -> None:
        """Each body that began was on record before, unless the run may be behind."""
        if self._play.durability == "lazy":
            return
        starts: Counter[tuple[str, str, str]] = Counter()
        for plan, event in self._followed(records):
            if isinstance(event, m.AttemptStarted):
                starts[run_id, plan.path(event.task), BEGUN] += 1
            elif isinstance(event, m.RevertStarted):
                starts[run_id, plan.path(event.task), UNDOING] += 1
        early = {what: count for what, count in self._begun.items() if what[0] == run_id and count > starts[what]}
        assert not early, f"begun more often than the journal says: {early}"

    def _look_at_books(self, database: sqlite3.Connection, machines: dict[str, RunMachine]) -> None:
        """Each transaction has its one line if its task's ending is on record, and else none."""
        [(is_made,)] = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'books'")
        rows = database.execute("SELECT run, path, key, amount FROM books").fetchall() if is_made else []
        keys = Counter(key for _, _, key, _ in rows)
        assert not keys or max(keys.values()) == 1, f"entered twice: {[key for key in keys if keys[key] > 1]}"
        sums: Counter[tuple[str, str]] = Counter()
        for run_id, path, _, amount in rows:
            sums[run_id, path] += amount
        for run_id, machine in machines.items():
            script = script_of(self._play, run_id)
            for task, state in enumerate(machine.states):
                path = machine.plan.path(task)
                if path.endswith("ruler") or script.trait(path) != "transaction":
                    continue
                # A task that is being undone again has what it entered until that is on record.
                name = TaskState(state).name
                if name in ("SUCCEEDED", "REVERTED", "PENDING", "SKIPPED", "RUNNING"):
                    wanted = 1 if name == "SUCCEEDED" else 0
                    assert sums[run_id, path] == wanted, (
                        f"{path} of {run_id} is {name} and {sums[run_id, path]} in the books"
                    )

    # --- At the end ---------------------------------------------------------------------------------------------------

    def look_at_end(self) -> None:
        """Check that each run has ended as the interpreter says."""
        machines = self.look()
        assert set(machines) == set(self._play.run_ids), f"only {set(machines)} were ever there"
        with closing(sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True)) as database:
            assert database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
            for run_id, machine in machines.items():
                script = script_of(self._play, run_id, extras_of(machine.plan))
                self._compare(database, run_id, machine, script)

    def _compare(self, database: sqlite3.Connection, run_id: str, machine: RunMachine, script: Script) -> None:
        assert machine.phase.is_ended, f"{run_id} has not ended: {machine.snapshot()}"
        if machine.phase is RunState.CANCELLED or (machine.late_scopes and self._play.trouble == "deadline"):
            started = [path for path, state in _states(machine).items() if state not in ("PENDING", "REVERTED")]
            started = [path for path in started if _states(machine)[path] not in ("CANCELLED", "SKIPPED")]
            assert not started, f"{run_id} was cancelled and {started} were not undone"
            return
        found = {
            "state": machine.phase.value,
            "states": _states(machine),
            "values": {
                machine.plan.path(task): plain(self._open(database, machine.values[task]))
                for task, state in enumerate(machine.states)
                if TaskState(state) is TaskState.SUCCEEDED and script.trait(machine.plan.path(task)) != "unkept"
            },
        }
        wanted = script.expected()
        del wanted["undone"]
        if wanted["state"] == "REVERTED" and self._forsaken(run_id, machine.plan):
            wanted["state"] = "FAILED"  # what is gone from the flow could not be undone
        wanted["values"] = {path: value for path, value in wanted["values"].items() if script.trait(path) != "unkept"}
        found, wanted = alike(found), alike(wanted)
        differences = {what: (found[what], wanted[what]) for what in wanted if found[what] != wanted[what]}
        assert not differences, f"{run_id} (found, wanted): {differences}"

    def _forsaken(self, run_id: str, now: Plan) -> set[str]:
        """Return the paths of tasks that are gone, and had ended well and not been undone by then."""
        done: set[str] = set()
        for plan, event in self._followed([self._codec.decode_record(body) for body in self._trails[run_id].bodies]):
            match event:
                case m.AttemptSucceeded(task=task):
                    done.add(plan.path(task))
                case m.RevertSucceeded(task=task):
                    done.discard(plan.path(task))
                case _:
                    pass
        return done - {now.path(task) for task in range(now.size)}

    def _open(self, database: sqlite3.Connection, sealed: Any) -> Any:
        if sealed.blob is not None:
            [(body,)] = database.execute("SELECT body FROM blobs WHERE digest = ?", (sealed.blob,))
            sealed = Sealed(body)
        return self._codec.open(sealed)


def _states(machine: RunMachine) -> dict[str, str]:
    return {machine.plan.path(task): TaskState(state).name for task, state in enumerate(machine.states)}
