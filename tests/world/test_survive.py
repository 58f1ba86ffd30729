"""What ``survive`` finds in flows of users, and what it says of it."""

from __future__ import annotations

import asyncio

import pytest

import asyncflow as af
from asyncflow.errors import DeclarationError
from asyncflow.testing import Case, DoesNotSurvive, assert_reverts, assert_survives, revert_survey, survive

done: list[str] = []


@pytest.fixture(autouse=True)
def _fresh() -> None:
    done.clear()


@af.task
async def make(n: int) -> int:
    await asyncio.sleep(1)
    return n * 2


@af.task
async def charge(total: int) -> int:
    done.append("charge")
    await asyncio.sleep(1)
    return total


@charge.revert
async def refund(total: int) -> None:
    done[:] = [one for one in done if one != "charge"]


@af.task
def ship(total: int) -> str:
    return f"shipped for {total}"


@af.flow
def shop(n: int) -> str:
    return ship(charge(make(n)))


def charged_once(ending: object) -> None:
    assert done.count("charge") == 1, f"charged {done.count('charge')} times"


def test_a_flow_survives_every_crash_and_every_cancel() -> None:
    """Wherever it dies or is cancelled, it ends as it would have, or is undone."""
    survey = survive(shop, {"n": 2}, crashes="every-await", cancels="every-await", seeds=20, before=done.clear)
    assert survey.undisturbed.value == "shipped for 4"
    assert survey.cases == 1 + 2 * len(survey.undisturbed.records) + 2 * survey.undisturbed.steps + 20


def test_an_effect_without_a_key_is_found_and_the_smallest_case_is_told() -> None:
    """The report has what a reader needs: what, where, how to repeat it, and what happened."""
    with pytest.raises(DoesNotSurvive, match="charged 2 times") as found:
        survive(shop, {"n": 2}, before=done.clear, check=charged_once)
    case = found.value.case
    assert case == Case(0, (("before", 4),))
    assert f"only={case!r}" in str(found.value)
    assert "AttemptLost charge" in found.value.timeline and "crash 1" in found.value.timeline
    with pytest.raises(DoesNotSurvive) as again:
        survive(shop, {"n": 2}, before=done.clear, check=charged_once, only=case)
    assert str(again.value) == str(found.value)


def test_what_several_crashes_are_found_by_is_made_smaller() -> None:
    """Nobody wants to read about three crashes where one does."""
    with pytest.raises(DoesNotSurvive) as found:
        survive(
            shop,
            {"n": 2},
            before=done.clear,
            check=charged_once,
            only=Case(5, (("after", 2), ("before", 5), ("after", 7))),
        )
    assert found.value.case == Case(0, (("before", 4),))


def test_a_value_that_no_file_can_keep_is_found() -> None:
    """Values go through the codec, as they would on the way into a file."""

    @af.task
    async def give() -> object:
        return object()

    with pytest.raises(DoesNotSurvive, match="give"):
        survive(af.linear("odd", give), check=lambda ending: _succeeded(ending.failures))


def _succeeded(failures: tuple[str, ...]) -> None:
    assert not failures, f"failed: {', '.join(failures)}"


def test_a_coroutine_may_ask() -> None:
    """The worlds have their own loops, though the caller has one."""

    async def main() -> int:
        return (await assert_survives(shop, {"n": 2}, seeds=3)).cases

    assert asyncio.run(main()) > 10


def test_what_is_not_undone_is_found() -> None:
    """A revert that forgets something leaves it there, whichever task fails."""

    def nothing_left(ending: object) -> None:
        assert not done

    assert revert_survey(shop, {"n": 2}, fail_at="ship", before=done.clear, check=nothing_left, seeds=5).cases > 5

    @af.task
    async def leave(n: int) -> int:
        done.append("left")
        return n

    @af.flow
    def careless(n: int) -> str:
        return ship(leave(n))

    async def main() -> None:
        await assert_reverts(careless, {"n": 2}, fail_at="ship", before=done.clear, check=nothing_left)

    with pytest.raises(DoesNotSurvive, match="not survive no disturbance"):
        asyncio.run(main())


def test_what_cannot_be_tried_is_refused() -> None:
    """A typing error must not pass for a flow that survives."""
    with pytest.raises(DeclarationError, match="no task 'shipp' to fail at; it has make, charge, ship"):
        revert_survey(shop, {"n": 2}, fail_at="shipp")
    with pytest.raises(DeclarationError, match="must be 'every-record'"):
        survive(shop, {"n": 2}, crashes="every-task")  # type: ignore[arg-type]


@af.task
async def broken(n: int) -> int:
    raise NameError("charg")


def test_a_flow_that_can_only_fail_does_not_survive_without_a_word() -> None:
    """Green for nothing is worse than red; whoever means it says what is right."""
    with pytest.raises(DoesNotSurvive, match=r"undisturbed the run ends REVERTED \(broken failed\); .* by check="):
        survive(af.linear("f", broken), {"n": 1}, seeds=1)
    assert survive(af.linear("f", broken), {"n": 1}, seeds=1, check=lambda ending: None).undisturbed.failures


def test_a_call_that_no_engine_would_take_is_no_case() -> None:
    """What is wrong is the test, and to be told that the flow does not survive would send its author astray."""
    with pytest.raises(af.InputError, match="neither requires nor provides input 'm'"):
        survive(shop, {"m": 2})
    with pytest.raises(af.InputError, match="the inputs of flow 'shop' are 3, which has no names"):
        survive(shop, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="concurency"):
        survive(shop, {"n": 2}, concurency=1)
    with pytest.raises(DeclarationError, match="42"):
        survive(42, {"n": 2})  # type: ignore[arg-type]


def test_a_flow_without_reverts_is_not_undone_by_doing_nothing() -> None:
    """It would always pass, and prove nothing."""
    flow = af.linear("f", make)
    with pytest.raises(DeclarationError, match=r"flow 'f' has no revert, so there is nothing to undo; say by check="):
        revert_survey(flow, {"n": 1}, fail_at="make")
    assert revert_survey(flow, {"n": 1}, fail_at="make", check=lambda ending: None, seeds=1).cases > 1


def test_what_pytest_fails_by_is_reported_with_its_case() -> None:
    """It is no Exception, and without its case nobody could repeat it."""

    def no(ending: object) -> None:
        pytest.fail("not like this")

    with pytest.raises(DoesNotSurvive, match="Failed: not like this") as found:
        survive(shop, {"n": 1}, seeds=1, check=no)
    assert found.value.case == Case()


def test_a_check_that_nobody_would_hear_is_refused() -> None:
    """One that is async is never awaited; one that returns False has said no."""

    async def later(ending: object) -> None:
        raise AssertionError

    for name in ("check", "before"):
        with pytest.raises(DeclarationError, match=f"{name}=.* is async, and nobody would await it"):
            survive(shop, {"n": 1}, **{name: later})  # type: ignore[arg-type]
    with pytest.raises(DoesNotSurvive, match="check returned False"):
        survive(shop, {"n": 1}, seeds=1, check=lambda ending: False)


def test_what_does_not_revert_can_be_looked_at_again() -> None:
    """By the case that the report names."""

    def never(ending: object) -> None:
        raise AssertionError("not so")

    with pytest.raises(DoesNotSurvive) as found:
        revert_survey(shop, {"n": 1}, fail_at="ship", check=never)
    with pytest.raises(DoesNotSurvive, match="not so"):
        revert_survey(shop, {"n": 1}, fail_at="ship", check=never, only=found.value.case)
