"""A calm machine, step by step. That it becomes what any other does is held by ``tests/recovery/test_sprints.py``."""

from __future__ import annotations

import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.machine.calm import LATE, NOT_STARTED, UNDER_WAY
from asyncflow.machine.run import RunMachine


@af.task
async def done() -> None: ...


def machine_of(names: str) -> RunMachine:
    """Return a calm machine of a run of tasks that need nothing."""
    machine = RunMachine(af.flow(lambda: [done.named(name)() for name in names], name="f").compile())
    machine.apply(m.RunStarted("r", "f", "p", {}))
    machine.calm_down()
    return machine


def started_again(names: str) -> RunMachine:
    """Return one whose first task has started before: whoever was asked says that nothing came of it."""
    machine = machine_of(names)
    machine.ready.remove(0)
    machine.apply(m.AttemptStarted(0, 1))
    machine.apply(m.AttemptLost(0, "reconciled"))
    machine.calm_down()
    return machine


def test_what_is_in_hand_comes_before_what_is_ready() -> None:
    """What a stride has left is next, in its order, whoever hands it out."""
    machine, page = machine_of("abcd"), list[m.Event]()
    stride = machine.stride(page, [LATE], ())
    assert next(stride) == 0 and list(stride) == []
    assert machine.has_starts() and machine.starts(10) == [1, 2, 3]
    assert page == [m.AttemptStarted(0, 1)] and machine.bodies == 1 and repr(LATE) == "<late>"


def test_what_was_listed_twice_starts_once() -> None:
    """The second time it is running, and a body of it is at work."""
    machine, page = machine_of("ab"), list[m.Event]()
    machine.ready.append(0)
    assert list(machine.stride(page, [UNDER_WAY], ())) == [0, 1]
    assert page == [m.AttemptStarted(0, 1), m.AttemptStarted(1, 1)]


@pytest.mark.parametrize("is_performed", [True, False])
def test_a_task_that_starts_again_keeps_its_place_among_those_that_have(is_performed: bool) -> None:
    """They are undone in reverse order of their first start."""
    machine, page = started_again("ab"), list[m.Event]()
    assert machine.is_calm
    if is_performed:
        assert sorted(machine.stride(page, [None], ())) == [0, 1]
    else:
        for task in sorted(machine.starts(10)):
            machine.apply(m.AttemptStarted(task, machine.attempts[task] + 1))
    assert machine.order == [0, 1] and machine.attempts == [2, 1] and machine.is_calm


@pytest.mark.parametrize("again", [True, False])
def test_a_start_that_was_taken_back_leaves_no_trace(again: bool) -> None:
    """Nobody has seen it; what was told meanwhile stays told."""
    machine, other = (started_again("a"), started_again("a")) if again else (machine_of("a"), machine_of("a"))
    page: list[m.Event] = []
    stride = machine.stride(page, [NOT_STARTED], ())
    assert next(stride) == 0
    page.append(m.Emitted(0, "told", None))
    assert list(stride) == []
    assert page == [m.Emitted(0, "told", None)]
    assert machine.snapshot() == other.snapshot() and not machine.is_calm and machine.ready == [0]


def test_a_message_waits_for_what_is_in_hand_and_for_nothing_else() -> None:
    """What was ready at one moment is started whatever becomes of the others."""
    machine, messages = machine_of("abc"), list[str]()
    stride = machine.stride([], [UNDER_WAY], messages)
    assert next(stride) == 0
    messages.append("cancel")
    machine.ready.append(0)
    assert list(stride) == [1, 2] and machine.ready == [0]
