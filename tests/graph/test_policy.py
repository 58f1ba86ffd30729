"""Retries, backoffs and limits, and what they say of a value that cannot be right."""

# Mistakes are what these tests are about.
# pyright: reportArgumentType=false

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.errors import DeclarationError, TaskTimedOut
from asyncflow.graph.policy import Exponential, Fixed, Limit, Retry


@given(st.floats(0.001, 10), st.floats(10, 1000), st.floats(1, 10), st.integers(2, 5000), st.integers(0, 2**32))
def test_an_exponential_delay_stays_within_its_bounds(
    base: float, cap: float, factor: float, attempt: int, seed: int
) -> None:
    """No attempt number, however large, waits longer than the cap or overflows."""
    delay = Exponential(base, cap=cap, factor=factor).delay(attempt, random.Random(seed))
    growth = factor ** (attempt - 2) if (attempt - 2) * math.log(factor) < 600 else math.inf
    assert 0 <= delay <= min(cap, base * growth)


def test_delays_are_spread_so_that_tasks_come_back_apart() -> None:
    """A thousand tasks that failed together must not return together."""
    rng = random.Random(7)
    backoff = Exponential(1.0, cap=1.0)
    delays = sorted(backoff.delay(2, rng) for _ in range(1000))
    assert delays[0] < 0.05 and delays[-1] > 0.95 and 0.4 < delays[500] < 0.6


def test_a_first_attempt_does_not_wait() -> None:
    """Asking for its delay is a bug in the caller, so it is told."""
    for backoff in (Fixed(1.0), Exponential(1.0)):
        with pytest.raises(ValueError, match="the first retry is attempt 2"):
            backoff.delay(1)


def test_a_retry_without_backoff_does_not_wait() -> None:
    """Retry(3) alone is the common case and means at once."""
    assert Retry(3).delay(2) == 0.0
    assert Retry(3, Fixed(2.5)).delay(3) == 2.5


@pytest.mark.parametrize(
    ("on", "error", "expected"),
    [
        ((Exception,), ValueError(), True),
        ((ConnectionError,), ValueError(), False),
        (ConnectionError, ConnectionResetError(), True),
        ((TimeoutError,), TaskTimedOut("late"), True),
        ((Exception,), KeyboardInterrupt(), False),
        ((ValueError, KeyError), ExceptionGroup("", [ValueError(), KeyError()]), True),
        ((ValueError,), ExceptionGroup("", [ValueError(), KeyError()]), False),
        ((ValueError,), ExceptionGroup("", [ExceptionGroup("", [ValueError()])]), True),
        ((Exception,), BaseExceptionGroup("", [ValueError(), SystemExit()]), False),
        ((ExceptionGroup,), ExceptionGroup("", [KeyError()]), True),
    ],
)
def test_a_retry_matches_an_exception_or_all_leaves_of_a_group(on: Any, error: BaseException, expected: bool) -> None:
    """A group with one hopeless member is hopeless."""
    assert Retry(2, on=on).matches(error) is expected


def test_a_group_nested_deeper_than_the_stack_can_be_judged() -> None:
    """Judging a failure must not fail."""
    error: Exception = ValueError()
    for _ in range(5000):
        error = ExceptionGroup("", [error])
    assert Retry(2, on=ValueError).matches(error)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(0), "number of attempts of af.Retry is 0; give a whole number, 1 or more"),
        (lambda: Retry(2.5), "number of attempts of af.Retry is 2.5"),  # type: ignore[arg-type]
        (lambda: Retry(True), "number of attempts of af.Retry is True"),
        (lambda: Retry(2, 3.0), r"the backoff of af.Retry is 3.0; give af.Fixed\(seconds\)"),  # type: ignore[arg-type]
        (lambda: Retry(2, on=()), r"af.Retry\(on=\(\)\) would retry nothing"),
        (lambda: Retry(2, on=("ValueError",)), "has 'ValueError'; give exception classes"),
        (lambda: Retry(2, on=3), "has 3; give exception classes"),
        (lambda: Fixed(-1), "the delay of af.Fixed is -1; give seconds as a finite number, 0 or more"),
        (lambda: Fixed("1"), "the delay of af.Fixed is '1'"),  # type: ignore[arg-type]
        (lambda: Exponential(0), "the base of af.Exponential is 0; give seconds as a finite number, more than 0"),
        (lambda: Exponential(1, cap=math.inf), "the cap of af.Exponential is inf"),
        (lambda: Fixed(10**400), "the delay of af.Fixed is 1000.*give seconds as a finite number"),
        (lambda: Exponential(2, cap=1), "the cap of af.Exponential is 1 and its base 2; swap them"),
        (lambda: Exponential(1, factor=0.5), "the factor of af.Exponential is 0.5; give 1 or more"),
        (lambda: Limit("", 5), r'the name of af.Limit is \'\'; give a string, as in af.Limit\("api", 5\)'),
        (lambda: Limit("api", 0), "the permits of af.Limit is 0; give a whole number"),
    ],
)
def test_a_policy_that_cannot_be_right_is_refused_where_it_is_written(make: Callable[[], Any], message: str) -> None:
    """The line to mend is the line that raises."""
    with pytest.raises(DeclarationError, match=message):
        make()


def test_equal_limits_are_one_limit() -> None:
    """Two modules may write the same limit down."""
    assert Limit("api", 5) == Limit("api", 5) and len({Limit("api", 5), Limit("api", 5)}) == 1
