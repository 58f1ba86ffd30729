"""From what a machine wants done to actors that do it: each command answered, each body given arguments and permits."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from asyncflow import messages as m
from asyncflow.errors import CodecError, InputUnavailable, StoreError
from asyncflow.graph.inputs import NoValue
from asyncflow.machine.calm import UNDER_WAY
from asyncflow.machine.ledger import NO_VALUE, PENDING
from asyncflow.outcomes import Cancelled, Failure, Outcome, Success
from asyncflow.runtime import permits
from asyncflow.runtime.actor import Actor
from asyncflow.runtime.desk import Desk
from asyncflow.runtime.permits import ENGINE, THREADS, Claim, Pool
from asyncflow.runtime.questions import Questions
from asyncflow.runtime.sprint import NO_KEYWORDS, call_body
from asyncflow.states import RunState

log = logging.getLogger("asyncflow.run")


class Dispatcher:
    """
    Answers the commands of one run's machine, and knows its living actors.

    ``released`` holds what ended bodies held: it is given back in the next turn, after their endings have been applied,
    so that what becomes ready by an ending competes for the permits that the ending sets free. ``has_limits`` says
    whether anything in this run needs a permit.
    """

    def __init__(self, desk: Desk, pools: Mapping[str, Pool]) -> None:
        self._desk = desk
        self._machine = desk.machine
        self._large = desk.large
        self._pools = pools
        self._scope_pools: dict[int, Pool] = {}
        self.has_limits = bool(desk.machine.plan.has_limits or ENGINE in pools)
        # By task; an actor whose body was left behind stays until that is gone, even after the run's end.
        self.actors: dict[int, Actor] = {}
        self.released: list[Claim] = []
        self._is_closed = False
        self._emptied: asyncio.Future[None] | None = None
        # Granted, and not yet an actor's: waiting for a turn or for values. Whoever ends the run gives them back.
        self._granted: set[Claim] = set()
        self._questions: Questions | None = None  # most runs have none to ask

    @property
    def is_asking(self) -> bool:
        """Whether a controller is still being asked, though perhaps nobody wants its answer any more."""
        return self._questions is not None and self._questions.is_asking

    def answer(self, commands: list[m.Command]) -> None:
        """Answer *commands*, each now or once its time, its permits or its values are there."""
        answers = self._ANSWERS
        for command in commands:
            answers[type(command)](self, command)

    def begin(self, tasks: list[int]) -> None:
        """Answer a Start of each of *tasks*, of which none needs a permit or waits for a time, in half the time."""
        machine, desk, call = self._machine, self._desk, self._call
        bindings, attempts, orders = machine.plan.bindings, machine.attempts, desk.orders
        for task in tasks:
            if machine.states[task] != PENDING:
                continue  # it has started since
            before, attempt = bindings[task].outputs, attempts[task] + 1
            args = None if before is None or task in self.actors else desk.values.whole(before)
            if args is None or not machine.is_calm:  # an input of another could not be read
                self._begin(task, attempt, None)
            else:
                desk.take(m.AttemptStarted(task, attempt))
                orders.append((call, (task, attempt, args)))

    def _call(self, task: int, attempt: int, args: list[Any]) -> None:
        """Call a body. Nobody but an actor whose body goes on has to be known."""
        actor = self._new_actor(task, attempt)
        actor.recovered = bool(self._machine.lost.get(task))
        value = call_body(actor, self.actors, self._desk.loop_executor, args, NO_KEYWORDS)
        if value is not UNDER_WAY:
            self._desk.report(m.AttemptSucceeded(task, value))

    def serve(self) -> None:
        """
        Give back what ended bodies held, then grant, own claims and others', in the lines' order; and ask nobody on
        whose answer is not wanted any more.
        """
        if self._questions is not None and self._questions.is_asking:
            self._desk.order(self._questions.drop_stale)
        if not self.has_limits:
            return
        released = self.released.copy()
        self.released.clear()
        for claim in released:
            self._granted.discard(claim)
            permits.release(claim)
        permits.serve(self._pools.values())
        permits.serve(self._scope_pools.values())

    def stop_bodies(self) -> None:
        """Have every body told to stop, since the run is to stand still."""
        for actor in self.actors.values():
            self._desk.order(actor.cancel, "suspend")

    def left_behind(self) -> list[str]:
        """Return the paths of tasks whose actors are not gone."""
        return [actor.path for actor in self.actors.values()]

    def close(self) -> None:
        """Wait for nothing any more, and give back what is not held by a body."""
        self._is_closed = True
        self._large.close()
        if self._questions is not None:
            self._questions.close()
        if self.has_limits:
            for pool in (*self._pools.values(), *self._scope_pools.values()):
                pool.drop(self)
            for claim in self._granted.union(self.released):
                permits.release(claim)
                permits.serve(claim.pools)
            self._granted.clear()
            self.released.clear()
        if not (self.actors or self._large.loading or self.is_asking):
            # Nobody is left who would report. So what is over is freed at once, and need not wait for the garbage
            # collector, which would take a quarter of a short run's time.
            self._questions = None
            del self._desk

    async def bodies_gone(self, timeout: float) -> None:
        """Tell every body to stop and wait until they are gone, but not longer than *timeout* seconds."""
        for actor in list(self.actors.values()):
            if actor.is_idle:
                self.gone(actor)  # its order was never given
            else:
                actor.cancel("suspend")
        if loading := self._large.loading:
            await asyncio.wait(loading)
        if self.actors or self.is_asking:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=timeout)

    # --- Permits ------------------------------------------------------------------------------------------------------

    def gone(self, actor: Actor) -> None:
        """Forget *actor*; its permits are given back in the next turn, after its ending has been applied."""
        if self.actors.get(actor.task) is actor:
            del self.actors[actor.task]
            self._look_whether_empty()
        if actor.claim is not None:
            self._give_back(actor.claim)
            actor.claim = None

    def _look_whether_empty(self) -> None:
        if self._emptied is not None and not self.actors and not self.is_asking and not self._emptied.done():
            self._emptied.set_result(None)

    def _give_back(self, claim: Claim) -> None:
        if self._is_closed:
            permits.release(claim)
            permits.serve(claim.pools)
        else:
            self.released.append(claim)
            self._desk.wake()

    def lingers(self, actor: Actor) -> None:
        """Keep *actor*, whose body is still there, and let reverts past its permits."""
        if actor.claim is not None:
            permits.linger(actor.claim)

    def returns(self, actor: Actor) -> None:
        """Take note that the body which *actor* had left behind is gone, and another takes its place."""
        if actor.claim is not None:
            permits.return_to(actor.claim)

    def granted(self, claim: Claim) -> None:
        """A claim of this run has its permits; called by whoever gave them back."""
        self._granted.add(claim)
        self._desk.note(lambda: self._use(claim))

    # --- Starting and undoing -----------------------------------------------------------------------------------------

    def _on_start(self, command: m.Start) -> None:
        if command.not_before is not None and command.not_before > self._desk.clock.now():
            self._desk.later(command.task, command.not_before, lambda: self._ask(command.task, command.attempt))
        elif self.has_limits:
            self._ask(command.task, command.attempt)
        else:
            self._begin(command.task, command.attempt, None)

    def _on_revert(self, command: m.Revert) -> None:
        if command.not_before is not None and command.not_before > self._desk.clock.now():
            self._desk.later(
                command.task, command.not_before, lambda: self._ask(command.task, command.attempt, is_revert=True)
            )
        elif self.has_limits:
            self._ask(command.task, command.attempt, is_revert=True)
        else:
            self._begin_revert(command.task, command.attempt, None)

    def _ask(self, task: int, attempt: int, *, is_revert: bool = False) -> None:
        if not self._machine.wants(task, attempt, is_revert=is_revert):
            return
        lingering = self.actors.get(task)
        pools = self._pools_of(task, is_revert)
        if not pools or (is_revert and lingering is not None):
            # A body that was left behind holds the permits that its own revert would need.
            self._proceed(task, attempt, None, is_revert)
            return
        ranks = self._machine.plan.ranks
        if is_revert:
            place = -self._machine.started[task]
        else:
            place = task if ranks is None else ranks[task]
        permits.ask(Claim(self, task, attempt, place, pools, is_revert))

    def _use(self, claim: Claim) -> None:
        if self._machine.wants(claim.task, claim.attempt, is_revert=claim.is_revert):
            self._proceed(claim.task, claim.attempt, claim, claim.is_revert)
        else:
            self.released.append(claim)

    def _proceed(self, task: int, attempt: int, claim: Claim | None, is_revert: bool) -> None:
        if is_revert:
            self._begin_revert(task, attempt, claim)
        elif self._is_to_be_reconciled(task):
            self._begin_reconcile(task, claim)
        else:
            self._begin(task, attempt, claim)

    def _pools_of(self, task: int, is_revert: bool) -> tuple[Pool, ...]:
        plan = self._machine.plan
        assert plan.tasks is not None
        declared = plan.tasks[task]
        executor = declared.executor if not is_revert else declared.undo_executor if declared.undo else ""
        if not is_revert and self._is_to_be_reconciled(task):
            executor = declared.reconciler_executor
        found = [self._pools[ENGINE]] if ENGINE in self._pools else []
        if executor == "thread":
            found.append(self._pools[THREADS])
        for scope in plan.enclosing(plan.scope_of[task]):
            size = plan.scopes[scope].concurrency
            if size is not None:
                if scope not in self._scope_pools:
                    self._scope_pools[scope] = Pool(plan.scopes[scope].path or plan.flow, size)
                found.append(self._scope_pools[scope])
        found.extend(self._pools[limit.name] for limit in declared.limits)
        return tuple(found)

    def _begin(self, task: int, attempt: int, claim: Claim | None) -> None:
        machine = self._machine
        if machine.phase is not RunState.RUNNING or machine.is_halted(task):
            # An earlier answer of this turn has made the flow fail: an input could not be read.
            if claim is not None:
                self.released.append(claim)
            return
        binding = machine.plan.bindings[task]
        # In memory nothing is ever loaded; to find that out here saves a microsecond a task.
        if self._desk.keeps_bytes and self._must_load(
            binding.reads(), lambda: self._loaded(task, attempt, claim, False), self._looks_back(task)
        ):
            return
        try:
            args, kwargs = binding.read(self._desk.values)
        except (StoreError, CodecError):
            raise  # what cannot be decoded stops the run, which stays resumable
        except Exception as error:
            self.give_up_reading(task, error)
            if claim is not None:
                self.released.append(claim)
            return
        recovered = bool(machine.lost) and bool(machine.lost.get(task))
        self._desk.take(m.AttemptStarted(task, attempt))
        self._desk.order(self._actor(task, claim).start, attempt, args, kwargs, recovered)

    def _begin_revert(self, task: int, attempt: int, claim: Claim | None) -> None:
        machine = self._machine
        plan = machine.plan
        assert plan.tasks is not None
        declared, kwargs = plan.tasks[task], dict[str, Any]()
        if declared.undo is not None:
            wants = declared.undo_wants
            own = plan.undo_bindings.get(task)
            binding = plan.bindings[task].named(wants.of_task)
            reads = [*([task] if wants.outcome else ()), *binding.reads(), *(own.reads() if own else ())]
            if self._must_load(reads, lambda: self._loaded(task, attempt, claim, True), self._looks_back(task)):
                return
            try:
                kwargs = wants.select(binding.by_name(self._desk.values), self._desk.values)
                if own is not None:
                    kwargs.update(own.by_name(self._desk.values))
                if wants.outcome:
                    kwargs["outcome"] = self._outcome(task)
                if wants.history:
                    kwargs["history"] = self._desk.values.history(plan.scope_of[task], with_present=True)
            except (StoreError, CodecError):
                raise
            except Exception as error:
                self._desk.take(m.RevertStarted(task, attempt))
                self._desk.take(m.RevertFailed(task, Failure(error), False))
                if claim is not None:
                    self.released.append(claim)
                return
            if wants.failures:
                kwargs["failures"] = {plan.path(failed): machine.outcomes[failed] for failed in machine.failures}
        self._desk.take(m.RevertStarted(task, attempt))
        self._desk.order(self._actor(task, claim).revert, attempt, kwargs)

    def _on_reconcile(self, command: m.Reconcile) -> None:
        # In line as the next attempt, which it may turn out to save.
        self._ask(command.task, self._machine.attempts[command.task] + 1)

    def _is_to_be_reconciled(self, task: int) -> bool:
        """Whether what is to be called for *task* is its hook, which knows how a lost attempt ended."""
        if task not in self._machine.in_doubt:
            return False
        assert self._machine.plan.tasks is not None
        return self._machine.plan.tasks[task].reconciler is not None

    def _begin_reconcile(self, task: int, claim: Claim | None) -> None:
        machine = self._machine
        assert machine.plan.tasks is not None
        wants = machine.plan.tasks[task].reconciler_wants
        binding = machine.plan.bindings[task].named(wants.of_task)
        attempt = machine.attempts[task]
        if self._must_load(binding.reads(), lambda: self._loaded(task, attempt + 1, claim, False)):
            return
        try:
            kwargs = wants.select(binding.by_name(self._desk.values), self._desk.values)
        except (StoreError, CodecError):
            raise
        except Exception as error:
            self.give_up_reading(task, error, "the reconcile hook of ")
            if claim is not None:
                self.released.append(claim)
            return
        self._desk.take(m.ReconcileStarted(task))
        self._desk.order(self._actor(task, claim).reconcile, attempt, kwargs)

    def _outcome(self, task: int) -> Outcome[Any]:
        """Return how the attempt that is undone ended; one that was lost counts as cancelled."""
        value = self._machine.values[task]
        if value is NO_VALUE:
            return self._machine.outcomes.get(task, Cancelled())
        return Success(self._desk.values.value(task))

    def _actor(self, task: int, claim: Claim | None) -> Actor:
        actor = self.actors.get(task)
        if claim is not None:
            self._granted.discard(claim)
        if actor is None:
            actor = self.actors[task] = self._new_actor(task)
            actor.claim = claim
        elif claim is not None:
            # The body left behind holds a claim already; the new one goes free with the next body.
            self.released.append(claim)
        return actor

    def _new_actor(self, task: int, attempt: int = 0) -> Actor:
        machine = self._machine
        assert machine.plan.tasks is not None
        actor = Actor(self._desk, task, machine.plan.tasks[task], attempt)
        if machine.executions:
            actor.execution = machine.executions.get(task, 0) + 1
        return actor

    def give_up_reading(self, task: int, error: Exception, what: str = "") -> None:
        """Have *task* fail, of whose inputs one cannot be read."""
        what = f"{what}task {self._machine.plan.path(task)!r}"
        self._desk.take(m.TaskFailed(task, Failure(self._unreadable(what, error))))

    def _unreadable(self, what: str, error: Exception) -> Exception:
        if isinstance(error, NoValue):
            return InputUnavailable(f"{what} needs {error.name!r}, which has no value; give the input a default")
        error.add_note(f"while the inputs of {what} were put together")
        return error

    # --- Flows --------------------------------------------------------------------------------------------------------

    def _looks_back(self, task: int) -> tuple[int, ...]:
        """Return the flow whose attempts *task* may look back at: its own, if it is the controller."""
        scope = self._machine.plan.scope_of[task]
        return (scope,) if self._machine.plan.scopes[scope].controller == task else ()

    def _on_decide(self, command: m.Decide) -> None:
        # It may call out of the process at once, so first comes the record that led to it.
        self._desk.order(self._decide, command)

    def _decide(self, command: m.Decide) -> None:
        task = self._machine.plan.scopes[command.scope].controller
        reads = [task, *self._machine.plan.bindings[task].reads()]
        if not self._must_load(reads, lambda: self._on_decide(command), (command.scope,)):
            self._ask_about().decide(command.scope)

    def _on_evaluate(self, command: m.Evaluate) -> None:
        reads = self._machine.plan.guards[command.guard].binding.reads()
        if not self._must_load(reads, lambda: self._on_evaluate(command)):
            self._ask_about().evaluate(command.guard)

    def _ask_about(self) -> Questions:
        if self._questions is None:
            self._questions = Questions(self._desk, self._unreadable, self._look_whether_empty)
        return self._questions

    def _on_start_over(self, command: m.StartOver) -> None:
        at = self._desk.clock.now() + command.wait if command.wait > 0 else None
        self._desk.take(m.FlowStartedOver(command.scope, command.tasks, at))

    def _on_skip(self, command: m.Skip) -> None:
        self._desk.take(m.TaskSkipped(command.task))

    # --- Decisions that need a policy or the clock --------------------------------------------------------------------

    def _on_schedule_retry(self, command: m.ScheduleRetry) -> None:
        assert self._machine.plan.tasks is not None
        declared = self._machine.plan.tasks[command.task]
        policy = declared.revert_retry if command.reverting else declared.retry
        assert policy is not None
        try:
            wait = policy.delay(command.attempt)
        except Exception as error:
            # The user's backoff, which is part of the task: it has failed for good then.
            if command.reverting:
                log.warning("the backoff of the revert of task %r cannot be asked: %r", declared.name, error)
                self._desk.take(m.RevertGivenUp(command.task))
            else:
                self._desk.take(m.TaskFailed(command.task, Failure(error)))
            return
        self._desk.take(m.RetryScheduled(command.task, self._desk.clock.now() + wait))

    def _on_give_up(self, command: m.GiveUp) -> None:
        if command.reverting:
            self._desk.take(m.RevertGivenUp(command.task))
        else:
            self._desk.take(m.TaskFailed(command.task, command.failure))

    def _on_cancel(self, command: m.Cancel) -> None:
        self._desk.order(self._cancel, command.task, command.cause)

    def _cancel(self, task: int, cause: str) -> None:
        actor = self.actors.get(task)
        if actor is not None:
            actor.cancel(cause)

    def _on_open_scope(self, command: m.OpenScope) -> None:
        timeout = self._machine.plan.scopes[command.scope].timeout
        assert timeout is not None
        self._desk.take(m.ScopeStarted(command.scope, self._desk.clock.now() + timeout))
        self._desk.watch_deadlines()

    def _on_suspend(self, command: m.Suspend) -> None:
        self._desk.take(m.RunSuspended())

    def _on_end(self, command: m.End) -> None:
        self._desk.take(m.RunEnded(command.state))

    # --- Large values -------------------------------------------------------------------------------------------------

    def _must_load(self, tasks: list[int], again: Callable[[], None], scopes: tuple[int, ...] = ()) -> bool:
        """
        Return whether a value of *tasks*, or one that the controller of one of *scopes* gave, is not in memory; *again*
        is then called in the turn after it is.
        """
        if not self._desk.keeps_bytes or not self._large.missing(tasks, scopes):
            return False
        self._large.load_for(tasks, scopes, self._desk.note, again)
        return True

    def _loaded(self, task: int, attempt: int, claim: Claim | None, is_revert: bool) -> None:
        if self._machine.wants(task, attempt, is_revert=is_revert):
            self._proceed(task, attempt, claim, is_revert)
        elif claim is not None:
            self.released.append(claim)

    _ANSWERS: ClassVar[dict[type[m.Command], Callable[[Dispatcher, Any], None]]] = {
        m.Start: _on_start,
        m.Revert: _on_revert,
        m.Reconcile: _on_reconcile,
        m.ScheduleRetry: _on_schedule_retry,
        m.GiveUp: _on_give_up,
        m.Cancel: _on_cancel,
        m.OpenScope: _on_open_scope,
        m.Decide: _on_decide,
        m.StartOver: _on_start_over,
        m.Evaluate: _on_evaluate,
        m.Skip: _on_skip,
        m.Suspend: _on_suspend,
        m.End: _on_end,
    }
