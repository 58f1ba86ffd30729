"""What the caller of a run holds: :class:`Run`, its results, and its tasks as futures."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from typing import Any, Generic, TypeVar

from asyncflow.errors import (
    AsyncflowError,
    PlanChanged,
    RunBroken,
    RunCancelled,
    RunFailed,
    RunSuspended,
)
from asyncflow.graph.inputs import NoValue
from asyncflow.ids import shell_command
from asyncflow.interfaces import Happening
from asyncflow.machine.failures import failure_of, failures_of
from asyncflow.machine.ledger import NO_VALUE, NOTHING, WHOLE_RUN
from asyncflow.outcomes import Failure, Outcome, Success, TimedOut
from asyncflow.runtime.shelter import until_done
from asyncflow.runtime.statistics import Statistics, statistics
from asyncflow.runtime.supervisor import Supervisor
from asyncflow.states import RunState, TaskState

T = TypeVar("T")

_OVER = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.TIMED_OUT, TaskState.CANCELLED, TaskState.SKIPPED})


class Results(Mapping[str, Any]):
    """
    Provided name to value, in plan order: of what has succeeded so far, the last provider of a name winning.

    Names of skipped, failed, reverted and unfinished tasks are absent.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def __getitem__(self, name: str) -> Any:
        for value in self._values(name):
            return value
        raise KeyError(name)

    def all(self, name: str) -> list[Any]:
        """Return the values of all providers of *name* that have one, in plan order."""
        return list(self._values(name))[::-1]

    def _values(self, name: str) -> Iterator[Any]:
        machine = self._supervisor.machine
        for source in machine.plan.provided.get(name, ()):
            if all(machine.is_result(task) for task in source.tasks()):
                try:
                    yield source.read(self._supervisor.values)
                except NoValue:
                    continue

    def __iter__(self) -> Iterator[str]:
        machine = self._supervisor.machine
        for name, sources in machine.plan.provided.items():
            if any(all(machine.is_result(task) for task in source.tasks()) for source in sources):
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<Results: {', '.join(self) or 'none yet'}>"


class TaskView:
    """One task of a run: its state, its outcome, and, when awaited, its value."""

    def __init__(self, supervisor: Supervisor, task: int) -> None:
        self._supervisor = supervisor
        self._task = task

    @property
    def path(self) -> str:
        """The task's path."""
        return self._supervisor.machine.plan.path(self._task)

    @property
    def state(self) -> TaskState:
        """The task's state now."""
        return TaskState(self._supervisor.machine.states[self._task])

    @property
    def attempts(self) -> int:
        """How many attempts its present execution has made."""
        return self._supervisor.machine.attempts[self._task]

    @property
    def outcome(self) -> Outcome[Any] | None:
        """How its last attempt ended; None while none has."""
        machine = self._supervisor.machine
        value = machine.values[self._task]
        if value is not NO_VALUE:
            return Success(self._supervisor.values.value(self._task))
        return machine.outcomes.get(self._task)

    def __await__(self) -> Generator[Any, None, Any]:
        """
        Wait for the task's value.

        Raises:
            Exception: What the task failed with, a TaskTimedOut, or RunCancelled, RunSuspended, RunBroken where the run
                stops before the task has a value.
        """
        return self._wait().__await__()

    async def _wait(self) -> Any:
        supervisor = self._supervisor
        while not self._is_settled():
            recorded = asyncio.get_running_loop().create_future()

            def wake(_: object = None, recorded: asyncio.Future[None] = recorded) -> None:
                if not recorded.done():
                    recorded.set_result(None)

            supervisor.on_record.append(wake)
            supervisor.on_over.append(wake)
            try:
                await recorded
            finally:
                supervisor.on_record.remove(wake)
                supervisor.on_over.remove(wake)
        machine = supervisor.machine
        if machine.values[self._task] is not NO_VALUE:
            await supervisor.load([self._task])
            return supervisor.values.value(self._task)
        state, run_id = self.state, supervisor.run_id
        # One that waits for its next attempt has an outcome, which is not its last.
        outcome = machine.outcomes.get(self._task) if state > TaskState.WAITING else None
        if isinstance(outcome, (Failure, TimedOut)):
            raise failure_of(machine, self._task).exception
        found = f"task {self.path!r} of run {run_id!r} has no value: it is {state.name}"
        if machine.state is RunState.SUSPENDED:
            raise RunSuspended(found, run_id=run_id, reason=state.name)
        if not machine.state.is_ended:
            raise RunBroken(f"{found}, and its run had to stop where it stood; await the run to see why", run_id=run_id)
        raise RunCancelled(found, run_id=run_id, reason=state.name)

    def _is_settled(self) -> bool:
        return self._supervisor.is_over or self.state in _OVER or self.state >= TaskState.REVERTING

    def __repr__(self) -> str:
        return f"<task {self.path!r} of run {self._supervisor.run_id!r}: {self.state.name}, attempt {self.attempts}>"


class Run(Generic[T]):
    """
    A run that belongs to its engine. Await it for the flow's value; cancelling who waits leaves the run alone.

    Awaiting raises RunFailed, RunCancelled or RunSuspended where there is no value, never CancelledError unless the
    waiter itself was cancelled.

    For the engine alone: ``supervisor``, ``ending`` (its future) and ``keeper`` (the asyncio task that brings it
    about).
    """

    def __init__(self, supervisor: Supervisor, ending: asyncio.Future[T]) -> None:
        self.supervisor = supervisor
        self.ending = ending
        # Held here, since a loop only holds its tasks weakly.
        self.keeper: asyncio.Task[None] | None = None

    @property
    def run_id(self) -> str:
        """The run's id: what ``engine.resume`` takes."""
        return self.supervisor.run_id

    @property
    def flow(self) -> str:
        """The flow's name."""
        return self.supervisor.machine.flow

    @property
    def state(self) -> RunState:
        """The run's state now."""
        return self.supervisor.machine.state

    @property
    def is_over(self) -> bool:
        """Whether the run has ended or stands still, so that awaiting it does not wait."""
        return self.ending.done()

    @property
    def results(self) -> Results:
        """Values by provided name, of what has succeeded so far."""
        return Results(self.supervisor)

    @property
    def statistics(self) -> Statistics:
        """The run in numbers, up to now: seconds in each state, how many tasks, attempts and reverts."""
        supervisor = self.supervisor
        return statistics(supervisor.machine, None if supervisor.is_over else supervisor.clock.now())

    def task(self, path: str) -> TaskView:
        """
        Return the task at *path*: its state and outcome; await it for its value.

        Raises:
            KeyError: The flow has no such task.
        """
        plan = self.supervisor.machine.plan
        try:
            return TaskView(self.supervisor, plan.index(path))
        except KeyError:
            raise KeyError(f"flow {plan.flow!r} has no task {path!r}") from None

    def tasks(self) -> list[TaskView]:
        """Return every task, in plan order."""
        return [TaskView(self.supervisor, task) for task in range(self.supervisor.machine.plan.size)]

    def cancel(self, reason: str = "cancelled by the application") -> None:
        """
        Have the run undone: what runs is told to stop, what has completed is reverted, dependents first.

        Returns at once; await the run to see it done. Nothing happens if it is being undone already or has ended. May
        be called from any thread, as :meth:`suspend` may.
        """
        self.supervisor.cancel(reason)

    def suspend(self, reason: str = "suspended by the application", *, grace: float | None = None) -> None:
        """
        Have the run stand still, resumable. What runs gets *grace* seconds (the engine's, if None), and is lost then.

        Returns at once; await the run to see it done.
        """
        self.supervisor.suspend(reason, grace=grace)

    async def events(self) -> AsyncIterator[Happening]:
        """
        Yield what happens from now on, each event once it is durable, until the run ends or stands still.
        """
        async for happening in self.supervisor.follow():
            yield happening

    def __await__(self) -> Generator[Any, None, T]:
        return self._wait().__await__()

    async def _wait(self) -> T:
        # Not the ending itself: who waits may be cancelled, and that must not reach the run.
        await until_done(self.ending)
        return self.ending.result()

    def __repr__(self) -> str:
        machine = self.supervisor.machine
        done = sum(state == TaskState.SUCCEEDED for state in machine.states)
        return (
            f"<Run {self.run_id!r} of flow {self.flow!r}: {self.state.value}, {done} of {machine.plan.size} tasks done>"
        )


async def conclude(supervisor: Supervisor, store: str | None) -> Any:
    """
    Return the value of a run that is over, or raise what it ended with.

    *store* is the journal's file, for the command that a message ends with.
    """
    machine, run_id = supervisor.machine, supervisor.run_id
    state = machine.state
    if state is RunState.SUCCEEDED:
        plan = machine.plan
        if supervisor.keeps_bytes:  # in memory nothing was ever let go of
            wanted = [task for sources in plan.provided.values() for source in sources for task in source.tasks()]
            if plan.returns is not None:
                wanted.extend(plan.returns.tasks())
            await supervisor.load(wanted)
        try:
            return None if plan.returns is None else plan.returns.read(supervisor.values)
        except NoValue as missing:
            raise PlanChanged(
                f"run {run_id!r} has ended, and flow {plan.flow!r} has changed since: it returns what {missing.name!r} "
                "gives, which was never run; start a new run",
                run_id=run_id,
                diff=[f"{missing.name}: new"],
            ) from None
    if state is RunState.SUSPENDED:
        reason = machine.suspend_reason or "suspended"
        how = f": {shell_command('resume', run_id, store)}" if store else " engine.resume(...)"
        raise RunSuspended(f"run {run_id!r} is suspended ({reason}); resume it with{how}", run_id=run_id, reason=reason)
    if state is RunState.CANCELLED:
        reason = machine.cancel_reason or "cancelled"
        raise RunCancelled(
            f"run {run_id!r} was cancelled ({reason}) and everything it had done is undone",
            run_id=run_id,
            reason=reason,
        )
    if not state.is_ended:
        raise RunBroken(
            f"run {run_id!r} had to stop where it stood; go on with engine.resume({run_id!r})", run_id=run_id
        )
    raise _failed(supervisor, store)


def _failed(supervisor: Supervisor, store: str | None) -> RunFailed:
    machine, run_id = supervisor.machine, supervisor.run_id
    plan = machine.plan
    failures = failures_of(machine)
    flows = {plan.scopes[max(scope, 0)].path or plan.flow for scope in (*machine.late_scopes, *machine.scope_failures)}
    members: list[Exception] = []
    for path, failure in failures.items():
        error = failure.exception
        if not isinstance(error, Exception):
            wrapped = AsyncflowError(f"task {path!r} raised {type(error).__name__}: {error}")
            wrapped.__cause__ = error
            error = wrapped
        note = f"in {'flow' if path in flows else 'task'} {path!r} of run {run_id!r}"
        # An exception's class may be sloppy enough to raise something else when it is asked for its notes.
        with contextlib.suppress(Exception):
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
        members.append(error)
    reverted = machine.state is RunState.REVERTED
    first = next(iter(failures), plan.flow)
    more = f" and {len(failures) - 1} more" if len(failures) > 1 else ""
    if reverted:
        undone = "everything it had done is undone"
    elif machine.undo_scope != WHOLE_RUN and not machine.revert_failures:
        kept = "all" if machine.undo_scope == NOTHING else f"all but flow {plan.scopes[machine.undo_scope].path!r}"
        undone = f"{kept} that it had done is kept; go on with engine.resume({run_id!r})"
    else:
        undone = "NOT everything it had done could be undone"
    look = f"; look at it with: {shell_command('show', run_id, store)}" if store else ""
    message = f"run {run_id!r} failed in {first!r}{more}; {undone}{look}"
    return RunFailed(message, members, run_id=run_id, failures=failures, reverted=reverted)
