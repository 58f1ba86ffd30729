"""
What a task says about trying again, waiting between tries, and sharing: :class:`Retry`, backoffs and :class:`Limit`.

Policies are plain values. Nothing in a journal refers to them, so a changed policy applies from the next resume on.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from typing import Any, Protocol, TypeGuard

import attrs

from asyncflow.errors import DeclarationError

DEPTHS = ("task", "neighbours", "dominated", "flow", "all")
"""
How far a no reaches, the least first: what is guarded; also the tasks right behind it; also all that can be reached
only through it; also all behind it in its flow; also all behind it.
"""


class Random(Protocol):
    """The one method of ``random.Random`` that a backoff draws from."""

    def uniform(self, a: float, b: float, /) -> float: ...


class Backoff(Protocol):
    """How long to wait between attempts."""

    def delay(self, attempt: int, rng: Random = ...) -> float:
        """Return how long to wait before *attempt* (the first retry is 2), in seconds."""
        ...


def is_finite_number(value: Any) -> TypeGuard[float]:
    """Return whether *value* is a number that a float can hold; no bool, though Python counts those."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def check_seconds(value: Any, what: str, *, zero: bool = False) -> float:
    """
    Return *value* as seconds; *what* names it in the message. ``zero`` lets 0 pass.

    Raises:
        DeclarationError: It is not a number, not finite, or not positive.
    """
    if not is_finite_number(value) or value < 0 or (value == 0 and not zero):
        least = "0 or more" if zero else "more than 0"
        raise DeclarationError(f"{what} is {value!r:.80}; give seconds as a finite number, {least}")
    return float(value)


def check_count(value: Any, what: str) -> int:
    """
    Return *value* as a count of at least 1; *what* names it in the message.

    Raises:
        DeclarationError: It is not a whole number, or less than 1.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DeclarationError(f"{what} is {value!r:.80}; give a whole number, 1 or more")
    return value


def _check_retry(attempt: int) -> None:
    if attempt < 2:
        raise ValueError(f"attempt {attempt} does not wait; the first retry is attempt 2")


def _fixed_seconds(value: Any) -> float:
    return check_seconds(value, "the delay of af.Fixed", zero=True)


def _base(value: Any) -> float:
    return check_seconds(value, "the base of af.Exponential")


def _cap(value: Any) -> float:
    return check_seconds(value, "the cap of af.Exponential")


def _factor(value: Any) -> float:
    return check_seconds(value, "the factor of af.Exponential")


def _attempts(value: Any) -> int:
    return check_count(value, "the number of attempts of af.Retry")


def _permits(value: Any) -> int:
    return check_count(value, "the permits of af.Limit")


@attrs.frozen
class Fixed:
    """Always wait the same ``seconds``."""

    seconds: float = attrs.field(converter=_fixed_seconds)

    def delay(self, attempt: int, rng: Random = random) -> float:
        """
        Return ``seconds``, whatever the *attempt*.

        Raises:
            ValueError: *attempt* is less than 2. A first attempt does not wait.
        """
        _check_retry(attempt)
        return self.seconds


@attrs.frozen
class Exponential:
    """
    Wait longer each time, up to ``cap`` seconds, and a random part of that.

    Attributes:
        base: The longest first wait, in seconds.
        cap: The longest wait of all, in seconds.
        factor: How much longer each wait may be than the one before.
    """

    base: float = attrs.field(converter=_base)
    cap: float = attrs.field(default=60.0, kw_only=True, converter=_cap)
    factor: float = attrs.field(default=2.0, kw_only=True, converter=_factor)

    def __attrs_post_init__(self) -> None:
        if self.cap < self.base:
            raise DeclarationError(f"the cap of af.Exponential is {self.cap:g} and its base {self.base:g}; swap them")
        if self.factor < 1:
            raise DeclarationError(f"the factor of af.Exponential is {self.factor:g}; give 1 or more")

    def delay(self, attempt: int, rng: Random = random) -> float:
        """
        Return how long to wait before *attempt*, in seconds.

        Drawn evenly from 0 to ``min(cap, base * factor ** (attempt - 2))``, so tasks that failed together come back
        apart.

        Args:
            attempt: The attempt about to be made, counted from 1; the first retry is 2.
            rng: Where the draw comes from; tests give one with a seed.

        Raises:
            ValueError: *attempt* is less than 2. A first attempt does not wait.

        Source:
            "Full jitter" in M. Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015.
        """
        _check_retry(attempt)
        try:
            longest = min(self.cap, self.base * self.factor ** (attempt - 2))
        except OverflowError:
            longest = self.cap
        return rng.uniform(0.0, longest)


def _exceptions(on: Any) -> tuple[type[BaseException], ...]:
    classes = (on,) if isinstance(on, type) else tuple(on) if isinstance(on, Iterable) else (on,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise DeclarationError(f"af.Retry(on=...) has {cls!r:.80}; give exception classes, such as ConnectionError")
    if not classes:
        raise DeclarationError("af.Retry(on=()) would retry nothing; name exception classes, or leave retry out")
    return classes


def check_backoff(value: Any, what: str = "af.Retry") -> Backoff | None:
    """
    Return *value* if it can say how long to wait; *what* names whose it is in the message.

    Raises:
        DeclarationError: It has no ``delay``.
    """
    if value is not None and not callable(getattr(value, "delay", None)):
        raise DeclarationError(
            f"the backoff of {what} is {value!r:.80}; give af.Fixed(seconds), af.Exponential(base) or an object with "
            "delay(attempt, rng)"
        )
    return value  # type: ignore[no-any-return]


@attrs.frozen
class Retry:
    """
    Try up to ``n`` times in all.

    Attributes:
        n: Attempts in all, the first included.
        backoff: How long to wait between them; None does not wait.
        on: The exceptions worth another attempt. A time limit that passed counts as ``TimeoutError``.
    """

    n: int = attrs.field(converter=_attempts)
    backoff: Backoff | None = attrs.field(default=None, converter=check_backoff)
    on: tuple[type[BaseException], ...] = attrs.field(default=(Exception,), kw_only=True, converter=_exceptions)

    def matches(self, exc: BaseException) -> bool:
        """Return whether *exc* is worth another attempt. A group is when it is named itself, or all its leaves are."""
        if not isinstance(exc, BaseExceptionGroup):
            return isinstance(exc, self.on)
        if isinstance(exc, tuple(cls for cls in self.on if issubclass(cls, BaseExceptionGroup))):
            return True
        waiting: list[BaseException] = [exc]
        while waiting:
            one = waiting.pop()
            if isinstance(one, BaseExceptionGroup):
                waiting.extend(one.exceptions)
            elif not isinstance(one, self.on):
                return False
        return True

    def delay(self, attempt: int, rng: Random = random) -> float:
        """Return how long to wait before *attempt* (the first retry is 2), in seconds."""
        return wait_before(attempt, self.backoff, rng)


def wait_before(attempt: int, backoff: Backoff | None, rng: Random = random) -> float:
    """
    Return how long *backoff* waits before *attempt*, in seconds.

    Raises:
        ValueError: What it says is no number of seconds. Whatever its ``delay`` raises goes on too.
    """
    seconds: Any = 0.0 if backoff is None else backoff.delay(attempt, rng)
    if not is_finite_number(seconds) or seconds < 0:
        raise ValueError(f"the backoff {backoff!r:.80} says to wait {seconds!r:.80}; return seconds, 0 or more")
    return float(seconds)


def _limit_name(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise DeclarationError(f'the name of af.Limit is {value!r:.80}; give a string, as in af.Limit("api", 5)')
    return value


@attrs.frozen
class Limit:
    """
    At most ``permits`` attempts at once among all tasks of an engine that name this limit.

    Two limits of one name are the same limit, so they must agree on ``permits``.
    """

    name: str = attrs.field(converter=_limit_name)
    permits: int = attrs.field(converter=_permits)
