"""What an engine is given, checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from asyncflow.errors import DeclarationError, InputError
from asyncflow.graph.policy import is_finite_number
from asyncflow.graph.wants import nearest
from asyncflow.interfaces import Observer
from asyncflow.messages import EVENT_KINDS
from asyncflow.runtime.observe import Interest


def posix(deadline: float | datetime | None) -> float | None:
    """
    Return *deadline* as POSIX seconds.

    Raises:
        InputError: It is a datetime without a time zone.
    """
    if deadline is None or isinstance(deadline, (int, float)):
        return deadline
    if deadline.tzinfo is None:
        raise InputError(f"deadline {deadline} has no time zone; pass an aware datetime, or POSIX seconds")
    return deadline.timestamp()


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    """Return *value* if it is one of *allowed*, or raise DeclarationError."""
    if value not in allowed:
        raise DeclarationError(f"{name}={value!r} is not one of {', '.join(map(repr, allowed))}")
    return value


def check_observer(observer: Observer) -> Observer:
    """Return *observer* if it can be called, or raise DeclarationError."""
    if not callable(observer):
        raise DeclarationError(f"an observer is called with each event, and {observer!r:.80} cannot be called")
    return observer


def interest_in(kinds: Iterable[str], run_id: str | None, path: str | None) -> Interest | None:
    """Return what an observer wants to see, None for everything, or raise DeclarationError."""
    wanted = frozenset([kinds] if isinstance(kinds, str) else kinds)
    for kind in wanted:
        if kind not in EVENT_KINDS:
            raise DeclarationError(f"there is no event {kind!r:.80}{nearest(kind, EVENT_KINDS)}")
    if not wanted and run_id is None and path is None:
        return None
    return Interest(kinds=wanted, run_id=run_id, path=path)


def at_least_one(name: str, value: int) -> int:
    """Return *value* if it is a whole number of at least 1, or raise DeclarationError."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DeclarationError(f"{name}={value!r} must be a whole number of at least 1")
    return value


def seconds(name: str, value: float) -> float:
    """Return *value* if it is a number of seconds above 0, or raise DeclarationError."""
    if not is_finite_number(value) or value <= 0:
        raise DeclarationError(f"{name}={value!r:.80} must be a number of seconds above 0")
    return value


def flag(name: str, value: bool) -> bool:
    """Return *value* if it is True or False, or raise DeclarationError."""
    if not isinstance(value, bool):
        raise DeclarationError(f"{name}={value!r:.80} must be True or False")
    return value
