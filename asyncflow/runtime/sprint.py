"""
Plain tasks of a calm run in memory, one after the other, for as long as their bodies end at once.

The ordinary way takes a turn, a command, a record and a message for each task, so that a journal in a file can be
written before a body is called and everything can happen meanwhile. In memory an event is on record once it is on the
page, and nothing happens while a body does not wait: what is left is the loop here, which is a quarter of the work. Its
bodies are the actors' all the same, and whatever is out of the ordinary ends it: a body that fails, a message in the
inbox, an input that cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncflow import messages as m
from asyncflow.context import Context, running
from asyncflow.interfaces import CoroutineExecutor
from asyncflow.machine.calm import NOT_STARTED, UNDER_WAY
from asyncflow.runtime.actor import Actor
from asyncflow.runtime.desk import Desk

_NO_KEYWORDS: Mapping[str, Any] = {}


def sprint(desk: Desk, actors: dict[int, Actor], loop: CoroutineExecutor, page: list[m.Event], until: float) -> None:
    """
    Perform tasks that are ready until *until*, by the loop's clock, and put what happens on *page*.

    *actors* are those whose body has not ended; a body that waits makes its actor one of them. *loop* runs coroutine
    functions.
    """
    machine, begin = desk.machine, loop.begin
    tasks, bindings, values, attempts = machine.plan.tasks, machine.plan.bindings, machine.values, machine.attempts
    executions, shadows = machine.executions, desk.values.shadows
    assert tasks is not None
    answer: list[Any] = [UNDER_WAY]
    for task in machine.stride(page, answer, desk.inbox, loop.now, until):
        binding, kwargs = bindings[task], _NO_KEYWORDS
        before = binding.outputs
        if before is not None and not shadows:
            args = [values[one] for one in before]
        else:
            try:
                args, kwargs = binding.read(desk.values)
            except Exception:  # the ordinary way says what is wrong
                answer[0] = NOT_STARTED
                continue
        declared = tasks[task]
        actor = Actor(desk, task, declared, attempts[task])
        if executions:
            actor.execution = executions.get(task, 0) + 1
        plain = declared.plain
        if not plain or (begin is None and plain == "loop") or (actors and task in actors):
            actor = actors.get(task, actor)  # one whose body was left behind takes this attempt too
            actor.start(attempts[task], args, kwargs, False)
        else:
            if declared.wants_context:
                args.insert(0, Context(actor))
            if plain == "inline":
                answer[0] = _call(actor, declared.body, args, kwargs)
                continue
            assert begin is not None
            work = begin(_run(actor, declared.body, args, kwargs))
            if work.done():
                answer[0] = work.result()
                continue
            actor.work = loop.going_on(work)
            work.set_name(actor.path)
        if actor.work is not None:
            actors[task] = actor
        answer[0] = UNDER_WAY


async def _run(actor: Actor, body: Callable[..., Any], args: list[Any], kwargs: Mapping[str, Any]) -> Any:
    """Run a coroutine function; return its value if it never waited, else have it reported and return UNDER_WAY."""
    running.set(actor)
    try:
        value = await (body(*args, **kwargs) if kwargs else body(*args))
    except BaseException as error:
        actor.attempt_ended(None, error)
        return UNDER_WAY
    if actor.work is None and not actor.is_transacting(value):
        return value
    actor.attempt_ended(value, None)
    return UNDER_WAY


def _call(actor: Actor, body: Callable[..., Any], args: list[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a plain function; return its value, or have its ending reported and return UNDER_WAY."""
    context = actor.contextvars()
    try:
        value = context.run(body, *args, **kwargs) if kwargs else context.run(body, *args)
    except BaseException as error:
        actor.attempt_ended(None, error)
        return UNDER_WAY
    if not actor.is_transacting(value):
        return value
    actor.attempt_ended(value, None)
    return UNDER_WAY
