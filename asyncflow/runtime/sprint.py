"""
Plain tasks of a calm run, one after the other, for as long as their bodies end at once.

The ordinary way takes a turn, a command, a record and a message for each task, so that a journal can be written before
a body is called and everything can happen meanwhile. In memory an event is on record once it is on the page, a lazy
run is let go ahead of its records, and nothing happens while a body does not wait: what is left is the loop here, which
is a quarter of the work. Its bodies are the actors' all the same, and whatever is out of the ordinary ends it: a
message in the inbox, such as that a body failed, or an input that cannot be read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from asyncflow import messages as m
from asyncflow.context import Context, Transaction, running
from asyncflow.errors import CodecError, StoreError, UnkeepableValue
from asyncflow.interfaces import CoroutineExecutor
from asyncflow.machine.calm import LATE, NOT_STARTED, UNDER_WAY
from asyncflow.runtime.actor import Actor
from asyncflow.runtime.desk import Desk

MOST_SECONDS = 0.001
"""For how long plain tasks are performed in one go, and what happens counts as having happened at once."""

NO_KEYWORDS: Mapping[str, Any] = {}


def sprint(
    desk: Desk, actors: dict[int, Actor], loop: CoroutineExecutor, page: list[m.Event], until: float
) -> tuple[int, Exception] | None:
    """
    Perform tasks that are ready, and put what happens on *page*. Whoever waits is let in again after the first body
    that ends later than *until*, by the loop's clock: that ending is reported, and has a record of its own.

    *actors* are those whose body has not ended; a body that waits makes its actor one of them. *loop* runs coroutine
    functions. Return the task whose inputs could not be read, and why, if there is one.
    """
    machine, run_values, now = desk.machine, desk.values, loop.now
    at_hand = None if desk.keeps_bytes else run_values.at_hand()
    tasks, bindings, attempts = machine.plan.tasks, machine.plan.bindings, machine.attempts
    executions, lost, options = machine.executions, machine.lost, dict(loop.options)
    has_a_past, start = bool(executions or lost), loop.start
    names, is_flat, contextvars = machine.plan.names, len(machine.plan.scopes) == 1, desk.context
    watching = desk.watching
    assert tasks is not None
    answer: list[Any] = [UNDER_WAY]
    stride = machine.stride(page, answer, desk.inbox)
    try:
        for task in stride:
            binding, kwargs = bindings[task], NO_KEYWORDS
            before = binding.outputs
            if before is not None and at_hand is not None:
                args = [at_hand[one] for one in before]
            else:
                whole = None if before is None else run_values.whole(before)
                if whole is None and desk.keeps_bytes and desk.large.missing(binding.reads()):
                    answer[0] = NOT_STARTED  # the ordinary way fetches it
                    continue
                try:
                    args, kwargs = binding.read(run_values) if whole is None else (whole, NO_KEYWORDS)
                except (StoreError, CodecError):
                    answer[0] = NOT_STARTED  # the ordinary way finds that too, and stops the run
                    continue
                except Exception as error:
                    answer[0] = NOT_STARTED
                    unread = task, error
                    break
            declared = tasks[task]
            actor = Actor(desk, task, declared, attempts[task])
            if has_a_past:
                actor.execution, actor.recovered = executions.get(task, 0) + 1, bool(lost.get(task))
            plain = "" if task in actors else declared.plain
            if plain == "loop":
                # What call_body does with most bodies, without the call: 0.15 us of 2.
                options["name"] = names[task] if is_flat else actor.path
                options["context"] = contextvars.copy()
                work = start(_run(actor, declared.body, args, kwargs), **options)
                value = actor.answer if work.done() else _goes_on(actor, actors, work)
            elif plain == "inline":
                value = _call(actor, declared.body, args, kwargs)
            else:
                value = call_body(actor, actors, loop, args, kwargs)
            if now() > until or watching:
                if value is not UNDER_WAY:
                    desk.report(m.AttemptSucceeded(task, value))
                value = LATE
            answer[0] = value
        else:
            return None
        next(stride, None)  # for the start to be taken back
    finally:
        stride.close()
    return unread


def call_body(
    actor: Actor, actors: dict[int, Actor], loop: CoroutineExecutor | None, args: list[Any], kwargs: Mapping[str, Any]
) -> Any:
    """
    Call the body of *actor*, which is new; return its value as the journal keeps it, or UNDER_WAY where its ending will
    be reported. Without a *loop* nothing is plain: somebody has put something between bodies and their asyncio tasks.
    """
    task, declared = actor.task, actor.declared
    plain = declared.plain
    if plain == "context":
        plain = declared.executor
    if plain and loop is not None and task not in actors:
        if declared.wants_context:
            args.insert(0, Context(actor))
        if plain == "inline":
            return _call(actor, declared.body, args, kwargs)
        context = actor.home.context.copy()
        work = loop.start(_run(actor, declared.body, args, kwargs), name=actor.path, context=context, **loop.options)
        return actor.answer if work.done() else _goes_on(actor, actors, work)
    attempt, recovered = actor.attempt, actor.recovered
    actor = actors.get(task, actor)  # one whose body was left behind takes this attempt too
    actor.start(attempt, args, kwargs, recovered)
    if actor.work is not None:
        actors[task] = actor
    return UNDER_WAY


def _goes_on(actor: Actor, actors: dict[int, Actor], work: asyncio.Task[Any]) -> Any:
    """Make *actor* known, whose body waits for something."""
    actor.work = work  # held here, since a loop only holds its tasks weakly
    actors[actor.task] = actor
    return UNDER_WAY


async def _run(actor: Actor, body: Callable[..., Any], args: list[Any], kwargs: Mapping[str, Any]) -> None:
    """
    Run a coroutine function; leave its value with *actor* if it never waited, else have its ending reported. Not as
    the asyncio task's own result: a body may have cancelled that before it returned.
    """
    running.set(actor)
    try:
        called = body(*args, **kwargs) if kwargs else body(*args)
        del args, kwargs  # a list less for as long as the body waits
        value = await called
    except BaseException as error:
        actor.attempt_ended(None, error)
        return
    # What most bodies come to, without asking actor and journal: 0.1 us of 2.
    if actor.work is None and actor.transaction is None and type(value) is not Transaction:
        actor.answer = _kept(actor, value) if actor.home.keeps_bytes else value
    else:
        actor.attempt_ended(value, None)


def _call(actor: Actor, body: Callable[..., Any], args: list[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a plain function; return its value, or have its ending reported and return UNDER_WAY."""
    context = actor.home.context.copy()
    context.run(running.set, actor)
    try:
        value = context.run(body, *args, **kwargs) if kwargs else context.run(body, *args)
    except BaseException as error:
        actor.attempt_ended(None, error)
        return UNDER_WAY
    if actor.transaction is None and type(value) is not Transaction:
        return _kept(actor, value) if actor.home.keeps_bytes else value
    actor.attempt_ended(value, None)
    return UNDER_WAY


def _kept(actor: Actor, value: Any) -> Any:
    """Return *value* as a journal of bytes keeps it, or UNDER_WAY where it cannot, which is reported."""
    try:
        return actor.success(value).value
    except UnkeepableValue as error:
        actor.attempt_ended(None, error)
        return UNDER_WAY
