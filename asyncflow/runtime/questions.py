"""Asking the user's code what a machine cannot know: what a condition says, and what a controller decides."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from asyncflow import messages as m
from asyncflow.errors import CodecError, StoreError, StrayCancellation, WrongDecision
from asyncflow.graph.controller import Controller, Decision
from asyncflow.graph.policy import wait_before
from asyncflow.interfaces import Call, Work
from asyncflow.outcomes import Failure
from asyncflow.runtime.desk import Desk


class _Asking:
    """One question on its way."""

    __slots__ = ("is_wanted", "work")

    def __init__(self) -> None:
        self.work: Work | None = None
        self.is_wanted = True

    def drop(self) -> None:
        """Want no answer any more, and stop whoever is thinking about it."""
        if self.is_wanted:
            self.is_wanted = False
            assert self.work is not None  # what drops it comes in a later turn than the one that asked
            self.work.cancel()


def _stray(what: str, error: BaseException) -> StrayCancellation:
    stray = StrayCancellation(f"{what} ended with CancelledError although nobody had told it to stop")
    stray.__cause__ = error
    return stray


class Questions:
    """
    Asks for one run. A condition answers at once; a controller may take its time, and is asked again after a crash.

    Args:
        desk: The run's supervisor.
        unreadable: Makes of what was raised while inputs were put together the exception to be recorded.
        answered: Called after each answer of a controller.
    """

    def __init__(
        self, desk: Desk, unreadable: Callable[[str, Exception], Exception], answered: Callable[[], None]
    ) -> None:
        self._desk = desk
        self._machine = desk.machine
        self._unreadable = unreadable
        self._answered = answered
        # Controllers that are being asked, by scope.
        self._asked: dict[int, _Asking] = {}

    @property
    def is_asking(self) -> bool:
        """Whether a controller is still being asked, though perhaps nobody wants its answer any more."""
        return bool(self._asked)

    def drop_stale(self) -> None:
        """Stop asking controllers whose answer nobody waits for any more: their flow, or the run, is being undone."""
        for scope, asking in self._asked.items():
            if not self._machine.expects_answer(scope):
                asking.drop()

    def close(self) -> None:
        """Want no answer any more."""
        for asking in self._asked.values():
            asking.drop()

    def evaluate(self, index: int) -> None:
        """Ask a condition, if it is still to be asked, and put its answer on record."""
        machine = self._machine
        if not machine.expects_condition(index):
            return
        guard = machine.plan.guards[index]
        assert guard.condition is not None
        answer, failure, kwargs = False, None, None
        try:
            _, kwargs = guard.binding.read(self._desk.values)
            answer = self._desk.context.copy().run(guard.condition.ask, kwargs)
        except (StoreError, CodecError):
            raise  # what cannot be decoded stops the run, which stays resumable
        except (KeyboardInterrupt, SystemExit) as interruption:
            self._desk.interrupted(interruption)
            return
        except (Exception, asyncio.CancelledError) as raised:
            error = raised if isinstance(raised, Exception) else _stray("a condition", raised)
            if guard.scope >= 0:
                what = f"the condition of flow {machine.plan.scopes[guard.scope].path or machine.flow!r}"
            else:
                what = f"the condition of task {machine.plan.path(guard.node)!r}"
            if kwargs is None:
                error = self._unreadable(what, error)
            else:
                error.add_note(f"raised by {what}")
            failure = Failure(error)
        self._desk.take(m.ConditionAnswered(index, answer, failure))

    def decide(self, scope: int) -> None:
        """Ask the controller of *scope*, if it is still to be asked; its answer comes through the inbox."""
        machine, values = self._machine, self._desk.values
        if not machine.expects_answer(scope):
            return
        plan = machine.plan
        task = plan.scopes[scope].controller
        assert plan.tasks is not None
        controller, binding = plan.tasks[task], plan.bindings[task]
        assert isinstance(controller, Controller)

        def answered(value: Any, error: BaseException | None) -> None:
            # A flow around this one may have run again meanwhile, and another question may have taken the place.
            if self._asked.get(scope) is asking:
                del self._asked[scope]
                if asking.is_wanted:
                    self._decided(scope, controller, value, error)
            self._answered()

        if scope in self._asked:
            self._asked.pop(scope).drop()
        asking = _Asking()
        try:
            kwargs = controller.decider_wants.select(binding.by_name(values, controller.decider_wants.of_task), values)
            if controller.decider_wants.history:
                kwargs["history"] = values.history(scope, with_present=True)
        except (StoreError, CodecError):
            raise
        except Exception as error:
            self._asked[scope] = asking
            answered(None, self._unreadable(f"the on_failure of controller {plan.path(task)!r}", error))
            return
        self._asked[scope] = asking
        decide = controller.on_failure
        executor = "loop" if inspect.iscoroutinefunction(decide) else "inline"
        call = Call(decide, (), kwargs, self._desk.context.copy(), f"{plan.path(task)} (on_failure)")
        work = self._desk.executor(executor).submit(call, answered)
        asking.work = work

    def _decided(self, scope: int, controller: Controller, value: Any, error: BaseException | None) -> None:
        what = f"the on_failure of controller {controller.name!r}"
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            self._desk.interrupted(error)
            return
        if isinstance(error, asyncio.CancelledError):
            if self._desk.is_going_down():
                return
            error = _stray(what, error)
        if error is None and not isinstance(value, Decision):
            error = WrongDecision(f"{what} returned {value!r:.80}; return an af.Decision, such as af.Decision.RETRY")
        if error is not None:
            self._desk.report(m.ControllerAnswered(scope, Decision.REVERT.value, failure=Failure(error)))
            return
        wait = 0.0
        if value is Decision.RETRY and controller.backoff is not None:
            try:
                wait = wait_before(len(self._machine.controls[scope].history) + 2, controller.backoff)
            except Exception as raised:
                self._desk.report(m.ControllerAnswered(scope, Decision.REVERT.value, failure=Failure(raised)))
                return
        self._desk.report(m.ControllerAnswered(scope, value.value, wait))
