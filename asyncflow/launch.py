"""Makes runs: of a flow that starts, and of a journal that is taken up again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextvars import copy_context
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.errors import (
    AsyncflowError,
    DeclarationError,
    EngineClosed,
    InputError,
    PlanChanged,
    RunBusy,
    RunUnfinished,
    StoreError,
)
from asyncflow.executors.loop import begin
from asyncflow.graph import record as recorded
from asyncflow.graph.find import find_flow
from asyncflow.graph.flow import Flow
from asyncflow.graph.pattern import Runnable, as_flow
from asyncflow.graph.plan import Plan
from asyncflow.ids import new_run_id
from asyncflow.interfaces import Journal, NewRun, RunInfo, Store
from asyncflow.machine.fit import verdicts_on
from asyncflow.machine.replay import fold, plans_named, recovery, was_left
from asyncflow.machine.run import RunMachine
from asyncflow.outcomes import Sealed
from asyncflow.runtime.environment import Environment
from asyncflow.runtime.handle import Run, conclude
from asyncflow.runtime.permits import Pool
from asyncflow.runtime.shelter import see_through
from asyncflow.runtime.stepper import Stepper
from asyncflow.runtime.supervisor import Supervisor
from asyncflow.states import RunState
from asyncflow.stores.errand import raise_from_loop

log = logging.getLogger("asyncflow")

OBSERVERS_MAY_TAKE = 1.0
"""Seconds that the end of a run waits for observers to have seen it."""


class Launcher:
    """
    Puts a run together from what its engine has chosen, and looks after it until it is over.

    ``runs`` has the living ones by id, ``environment`` what they share.
    """

    def __init__(
        self,
        store: Store,
        environment: Environment,
        *,
        on_failure: str,
    ) -> None:
        self.runs: dict[str, Run[Any]] = {}
        self.environment = environment
        # Of runs that stood still, whose bodies may not all be gone.
        self._left: WeakValueDictionary[str, Supervisor] = WeakValueDictionary()
        self._store = store
        self._on_failure = on_failure
        # Of each plan that was found to fit this engine, what knows the classes that may appear in its runs, and the
        # name that it has in the store.
        self._known: WeakKeyDictionary[Plan, tuple[Codec, str]] = WeakKeyDictionary()

    async def start(
        self,
        flow: Runnable[Any],
        inputs: Mapping[str, Any],
        *,
        run_id: str | None,
        deadline: float | None,
        durability: str,
        never_revert: bool,
        stepper: Stepper | None = None,
    ) -> Run[Any]:
        """Begin a run of *flow*. It is in the journal when this returns, or was refused before it existed."""
        flow = as_flow(flow)
        plan = flow.compile()
        given = plan.check_inputs(inputs, self.environment.resources)
        codec, plan_id = self._know(plan)
        store, blobs = self._store, dict[str, bytes]()
        run_id = new_run_id(flow.name) if run_id is None else run_id
        if store.keeps_bytes:
            given = {name: _seal_input(flow.name, name, value, codec, blobs) for name, value in given.items()}
        started = m.RunStarted(run_id, flow.name, plan_id, given, deadline, self._on_failure, never_revert)
        first = m.Record(self.environment.clock.now(), [started])
        new = NewRun(
            run_id=run_id,
            flow=flow.name,
            flow_ref=flow.ref if store.keeps_bytes else None,
            plan=plan_id,
            durability=durability,
            declared=None if store.keeps_bytes else flow,
        )
        journal = await store.create(new, lambda: recorded.body_of(plan), first, blobs)
        machine = RunMachine(plan)
        machine.apply(started)
        machine.calm_down()
        supervisor = Supervisor(machine, journal, self.environment, codec, copy_context())
        supervisor.stepper = stepper
        supervisor.began(first)
        return self._spawn(supervisor, journal, [])

    async def take_up(
        self,
        run_id: str,
        flow: Runnable[Any] | None,
        *,
        deadline: float | None = None,
        accept_changes: bool = False,
        cancel_reason: str | None = None,
        start_over: bool = False,
        stepper: Stepper | None = None,
    ) -> Run[Any]:
        """
        Go on with a run from its journal; without a *flow*, with the one that the journal names. *start_over* is for
        one that has ended.
        """
        store = self._store
        journal = await store.claim(run_id)
        try:
            self._check_gone(run_id)
            records = await journal.records()
            if flow is None:
                declared: Flow[..., Any] | None = journal.declared
                flow = recorded_flow(await store.info(run_id)) if declared is None else declared
            plan = as_flow(flow).compile()
            codec, plan_id = self._know(plan)
            named = plans_named(records)
            plans = {name: plan if name == plan_id else recorded.decode(await store.plan(name)) for name in set(named)}
            machine = fold(records, plans)
            if start_over and not machine.phase.is_ended:
                raise RunUnfinished(
                    f"run {run_id!r} is {machine.state.value}, and only one that has ended can start over; cancel it "
                    "first, or resume it",
                    run_id=run_id,
                )
            goes_on = start_over or not machine.phase.is_ended or machine.phase is RunState.FAILED
            has_changed = named[-1] != plan_id
            if has_changed:
                if goes_on:
                    if not start_over:
                        _accept(machine, plan, accept_changes)
                    await store.save_plan(plan_id, lambda: recorded.body_of(plan), run_id=run_id)
                machine.adopt(plan)
            number = sum(len(record.events) for record in records)
            supervisor = Supervisor(machine, journal, self.environment, codec, copy_context(), first_number=number)
            supervisor.stepper = stepper
            first: list[m.Event] = []
            if start_over:
                first = [m.RunReset(plan_id, deadline)]
            elif goes_on:
                first = recovery(machine, plan=plan_id if has_changed else None, deadline=deadline)
                if cancel_reason is not None:
                    first.append(m.CancelRequested(str(cancel_reason)))
        except BaseException:
            await see_through(asyncio.get_running_loop().create_task(journal.release()))
            raise
        return self._spawn(supervisor, journal, first)

    async def is_left(self, info: RunInfo) -> bool:
        """Whether a run was left unfinished by an engine that died or closed, and not suspended on purpose."""
        if info.state is not RunState.SUSPENDED:
            return info.state in (RunState.INTERRUPTED, RunState.DAMAGED)  # to take it up says what is damaged
        return info.owner is None and was_left(await self._store.read(info.run_id))

    def _check_gone(self, run_id: str) -> None:
        """Refuse a run of which a body is still there that was left behind when the run stood still."""
        supervisor = self._left.get(run_id)
        if supervisor is None:
            return
        if paths := supervisor.left_behind():
            raise RunBusy(
                f"run {run_id!r} was suspended, and {', '.join(map(repr, paths))} in it goes on although it was told "
                "to stop; resume the run when that has ended",
                run_id=run_id,
                owner="this engine",
            )
        del self._left[run_id]

    def _spawn(self, supervisor: Supervisor, journal: Journal, first: list[m.Event]) -> Run[Any]:
        loop = asyncio.get_running_loop()
        run: Run[Any] = Run(supervisor, loop.create_future())
        run_id = supervisor.run_id
        self.runs[run_id] = run
        run.keeper = begin(self._look_after(run, supervisor, journal, first), loop, f"run {run_id}")
        return run

    async def _look_after(self, run: Run[Any], supervisor: Supervisor, journal: Journal, first: list[m.Event]) -> None:
        value: Any = None
        error: BaseException | None = None
        going_on: BaseException | None = None
        try:
            if first or not supervisor.machine.phase.is_ended:
                await supervisor.live(first)
            else:
                supervisor.rest()
            if journal.lags:
                await journal.settle()  # what is not on record, a resume comes to again
            value = await conclude(supervisor, self._store.location)
        except BaseException as raised:
            error = raised
        run_id = supervisor.run_id
        if supervisor.left_behind():
            self._left[run_id] = supervisor  # before anybody can take it up
        try:
            try:
                await journal.release()
            finally:
                if self.environment.announcer.subscriptions:
                    await self.environment.announcer.wait_idle(OBSERVERS_MAY_TAKE)
        except Exception as unreleased:
            if error is None and supervisor.machine.phase.is_ended and isinstance(unreleased, StoreError):
                # Its end is on record; that the run cannot be given up is the next one's trouble, not its caller's.
                log.warning("run %r has ended and could not be given up: %s", supervisor.run_id, unreleased)
            else:
                error = error or unreleased
        except BaseException as interruption:
            going_on = interruption  # but not before those who wait have been told
        if self.runs.get(run_id) is run:  # else it has been taken up again already, by someone who was quick
            del self.runs[run_id]
        if error is None:
            run.ending.set_result(value)
        else:
            if not isinstance(error, Exception):
                # The loop is going down, or a body raised KeyboardInterrupt: who waits hears that the run stands still.
                going_on, error = error, await _standing_still(supervisor, self._store.location)
            run.ending.set_exception(error)
            # Who starts a run need not await it; then it is not the loop's to complain.
            run.ending.exception()
        if isinstance(going_on, (KeyboardInterrupt, SystemExit)):
            # From the loop, whoever started this: raised here it could come out of an eager start in the middle of
            # engine.start, and would be complained about a second time when this asyncio task is forgotten.
            raise_from_loop(going_on)
        elif going_on is not None:
            raise going_on

    def _know(self, plan: Plan) -> tuple[Codec, str]:
        """Return the codec and the id of *plan*, after checking that it fits this engine."""
        known = self._known.get(plan)
        if known is None:
            self._check(plan)
            codec = Codec()
            # In memory nobody needs a hash: the journal keeps the plan itself alive, so its address is a name.
            plan_id = f"memory-{id(plan)}"
            if self._store.keeps_bytes:
                returned = {id(task.returns): task.returns for task in plan.tasks or ()}
                for annotation in (*plan.inputs.values(), *returned.values()):
                    codec.allow(annotation)
                plan_id = recorded.digest_of(plan)
            known = self._known[plan] = codec, plan_id
        return known

    def _check(self, plan: Plan) -> None:
        for task in plan.tasks or ():
            for name in (task.executor, task.undo_executor):
                if name not in self.environment.executors:
                    have = ", ".join(sorted(self.environment.executors))
                    raise DeclarationError(f"task {task.name!r} asks for executor {name!r}; this engine has: {have}")
            for limit in task.limits:
                pool = self.environment.pools.setdefault(limit.name, Pool(limit.name, limit.permits))
                if pool.size != limit.permits:
                    raise DeclarationError(
                        f"task {task.name!r} gives limit {limit.name!r} {limit.permits} permits, and another task gave "
                        f"it {pool.size}; declare the limit once and share it"
                    )


def recorded_flow(info: RunInfo) -> Flow[..., Any]:
    """Return the flow that a journal names, imported; raise DeclarationError if it names none, or it is not there."""
    if info.flow_ref is None:
        raise DeclarationError(
            f"run {info.run_id!r} does not say where its flow {info.flow!r} is, since it was no attribute of a module; "
            "pass the flow: engine.resume(run_id, flow)"
        )
    return find_flow(info.flow_ref)


def _accept(machine: RunMachine, plan: Plan, accept_changes: bool) -> None:
    """Let a changed *plan* pass, or say what has changed."""
    refused = [verdict for verdict in verdicts_on(plan, machine) if verdict.is_refused]
    if refused and not (accept_changes and all(verdict.may_be_accepted for verdict in refused)):
        lines = [str(verdict) for verdict in refused]
        raise PlanChanged(
            f"flow {plan.flow!r} no longer fits what run {machine.run_id!r} has done:\n  "
            + "\n  ".join(lines)
            + "\nput it back, or pass accept_changes=True to go on with the flow as it is now",
            run_id=machine.run_id,
            diff=lines,
        )


def _seal_input(flow: str, name: str, value: Any, codec: Codec, blobs: dict[str, bytes]) -> Sealed:
    try:
        sealed = codec.seal(value)
    except AsyncflowError as error:
        raise InputError(f"input {name!r} of flow {flow!r} cannot be kept in the journal: {error}") from error
    if sealed.blob is not None and sealed.payload is not None:
        blobs[sealed.blob] = sealed.payload
    return sealed


async def _standing_still(supervisor: Supervisor, store: str | None) -> BaseException:
    try:
        await conclude(supervisor, store)
    except Exception as error:
        return error
    return EngineClosed(f"run {supervisor.run_id!r} ended while the event loop was closing")
