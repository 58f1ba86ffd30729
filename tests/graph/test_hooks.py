"""What a class task does around its execute and revert, inputs of a revert, and defaults by type."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

import asyncflow as af
from asyncflow import DeclarationError, FlowError, linear
from asyncflow.graph import defaults

log: list[str] = []


@pytest.fixture(autouse=True)
def _clear() -> Iterator[None]:
    log.clear()
    made = dict(defaults._makers)
    yield
    defaults._makers.clear()
    defaults._makers.update(made)


def ran(flow: Any, **inputs: Any) -> Any:
    async def main() -> Any:
        async with af.Engine() as engine:
            return await engine.run(flow, inputs)

    return asyncio.run(main())


class Hooked(af.Task):
    provides = "x"

    def __init__(self, fails: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.fails = fails

    def say(self, what: str) -> None:
        log.append(what)
        if what == self.fails:
            raise ValueError(what)

    def pre_execute(self) -> None:
        self.say("pre_execute")

    async def post_execute(self) -> None:
        self.say("post_execute")

    async def execute(self) -> int:
        self.say("execute")
        return 1

    def pre_revert(self) -> None:
        self.say("pre_revert")

    def post_revert(self) -> None:
        self.say("post_revert")

    async def revert(self) -> None:
        self.say("revert")


class InThread(Hooked):
    def post_execute(self) -> None:  # type: ignore[override]
        self.say("post_execute")

    def execute(self) -> int:  # type: ignore[override]
        self.say("execute")
        return 1

    def revert(self) -> None:  # type: ignore[override]
        self.say("revert")


REVERT = ["pre_revert", "revert", "post_revert"]


@pytest.mark.parametrize("cls", [Hooked, InThread])
def test_hooks_are_called_around_their_function(cls: Any) -> None:
    """Before, and after."""
    assert ran(linear("f", cls())) == {"x": 1}
    assert log == ["pre_execute", "execute", "post_execute"]


@pytest.mark.parametrize("cls", [Hooked, InThread])
@pytest.mark.parametrize(
    ("fails", "said"),
    [
        ("pre_execute", ["pre_execute", "post_execute", *REVERT]),
        ("execute", ["pre_execute", "execute", "post_execute", *REVERT]),
        ("post_execute", ["pre_execute", "execute", "post_execute", *REVERT]),
    ],
)
def test_a_failing_hook_is_a_failure_of_its_task(cls: Any, fails: str, said: list[str]) -> None:
    """The one after is called in any case, and the task, which may have had half its effect, is undone."""
    with pytest.raises(af.RunFailed) as failed:
        ran(linear("f", cls(fails)))
    assert failed.group_contains(ValueError, match=fails) and failed.value.reverted
    assert log == said


@pytest.mark.parametrize("fails", ["pre_revert", "post_revert"])
def test_a_failing_hook_of_a_revert_is_a_failed_revert(fails: str) -> None:
    """Whether the work is undone cannot be told, so nobody is told that it was."""

    @af.task
    async def broken(x: int) -> None:
        raise KeyError(x)

    with pytest.raises(af.RunFailed) as failed:
        ran(linear("f", Hooked(fails), broken))
    assert not failed.value.reverted and list(failed.value.failures) == ["broken", "hooked (revert)"]


def test_wrong_hooks_are_refused() -> None:
    """Before anything runs."""

    class Takes(af.Task):
        def execute(self) -> None: ...
        def pre_execute(self, x: int) -> None: ...

    class Mixed(af.Task):
        def execute(self) -> None: ...
        async def post_execute(self) -> None: ...

    class NoHook(af.Task):
        pre_execute = 5

        def execute(self) -> None: ...

    class NoRevert(af.Task):
        def execute(self) -> None: ...
        def post_revert(self) -> None: ...

    with pytest.raises(DeclarationError, match="task 'no_revert' has a post_revert and no revert, so nothing"):
        linear("f", NoRevert()).compile()
    with pytest.raises(DeclarationError, match="pre_execute of task 'takes' takes x; a hook takes nothing"):
        linear("f", Takes()).compile()
    with pytest.raises(DeclarationError, match="post_execute of task 'mixed' is async and what it is around is not"):
        linear("f", Mixed()).compile()
    with pytest.raises(DeclarationError, match="pre_execute of task 'no_hook' is 5; make it a method"):
        linear("f", NoHook()).compile()


# --- Inputs of a revert -----------------------------------------------------------------------------------------------


@af.task(provides="ticket")
async def buy() -> str:
    return "T1"


@af.task(provides="seat")
async def sit() -> str:
    return "S1"


class Travel(af.Task):
    revert_requires = "ticket"
    revert_rebind = {"chair": "seat"}

    async def execute(self, day: int) -> None:
        raise ValueError(day)

    async def revert(self, day: int, ticket: str, chair: str, note: str = "none") -> None:
        log.append(f"{day} {ticket} {chair} {note}")


def test_a_revert_has_inputs_of_its_own() -> None:
    """They come from what precedes the task, which therefore is undone after it."""
    with pytest.raises(af.RunFailed):
        ran(linear("f", buy, sit, Travel()), day=3)
    assert log == ["3 T1 S1 none"]
    plan = af.graph("g", Travel(), buy, sit).compile()
    assert {plan.path(task) for task in plan.predecessors()[plan.index("travel")]} == {"buy", "sit"}


def test_an_input_of_a_revert_that_nobody_gives_is_asked_of_the_run() -> None:
    """Found when the flow is compiled, and refused before the run exists."""
    with pytest.raises(af.InputError, match="'ticket'"):
        ran(linear("f", sit, Travel()), day=3)


def test_wrong_inputs_of_a_revert_are_refused() -> None:
    """A revert that does not take them, no revert at all, and a call in a builder."""

    class Other(Travel):
        revert_requires = ("tikcet",)

    with pytest.raises(DeclarationError, match=r"is wired to 'tikcet'.*did you mean 'ticket'"):
        linear("f", Other()).compile()
    with pytest.raises(DeclarationError, match="has revert_requires or revert_rebind and no revert"):
        linear("f", buy.with_options(name="b", revert_requires=["x"])).compile()

    @af.flow
    def built(day: int) -> Any:
        return Travel()(day)

    with pytest.raises(DeclarationError, match=r"its revert has inputs of its own, which\s+are wired by name"):
        built.compile()


# --- Defaults by type -------------------------------------------------------------------------------------------------


@attrs.frozen
class Basket:
    items: tuple[str, ...] = ()


@af.task(provides="basket", when=lambda wanted: wanted)
async def fill(wanted: bool) -> Basket:
    return Basket(("apple",))


@af.task(provides="count")
async def count(basket: Basket) -> int:
    return len(basket.items)


@af.task(provides="count")
async def count_some(basket: Basket | None) -> int:
    return 0 if basket is None else len(basket.items)


def test_a_skipped_value_falls_back_to_the_default_of_its_type() -> None:
    """As a parameter's own default would; by name and by reference."""
    af.default_for(Basket, Basket)

    @af.flow
    def built(wanted: bool) -> int:
        return count(fill(wanted))

    @af.flow
    def returned(wanted: bool) -> Basket:
        return fill(wanted)

    for wanted, found in ((True, 1), (False, 0)):
        assert ran(linear("f", fill, count), wanted=wanted)["count"] == found
        assert ran(linear("f", fill, count_some), wanted=wanted)["count"] == found
        assert ran(built, wanted=wanted) == found
        assert len(ran(returned, wanted=wanted).items) == found


def test_without_any_default_the_skip_goes_on() -> None:
    """And a builder that returns such a value must say what it is then."""
    assert ran(linear("f", fill, count), wanted=False) == {}

    @af.flow
    def built(wanted: bool) -> int:
        return count(fill(wanted))

    with pytest.raises(FlowError, match="returns the value of 'count', which may be skipped"):
        built.compile()


def test_a_wrong_default_is_refused() -> None:
    """A class, and something to call."""
    with pytest.raises(DeclarationError, match="give a class and"):
        af.default_for("Basket", Basket)  # type: ignore[arg-type]
