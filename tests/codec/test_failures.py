"""Failures survive their process: as themselves where their class is at hand, else as what tells all about them."""

from __future__ import annotations

import builtins
import pickle
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncflow import errors
from asyncflow.codec import Codec, Registry
from asyncflow.codec.shapes import HookShape
from asyncflow.errors import RecordedError, RunCancelled, RunFailed, TaskTimedOut, UnkeepableValue
from asyncflow.outcomes import FailureRecord


class Declined(Exception):
    """An exception as applications write them: its arguments are not what its ``__init__`` takes."""

    def __init__(self, card: str, *, amount: int) -> None:
        super().__init__(f"card {card} declined")
        self.card = card
        self.amount = amount


class Unhelpful(Exception):
    def __str__(self) -> str:
        raise ZeroDivisionError


class Several(ExceptionGroup[Exception]):
    pass


class Reduced(Exception):
    """One that says itself how it is pickled, which is no business of a journal's."""

    def __reduce__(self) -> Any:
        raise AssertionError


class Guarded(Exception):
    """One that answers for attributes that it does not have, and fails at it."""

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError(name)


class Hollow(ExceptionGroup[Exception]):
    """A group that will not say what is in it."""

    @property
    def exceptions(self) -> Any:
        raise ZeroDivisionError


def through(error: BaseException, *, write: Codec | None = None, read: Codec | None = None) -> Any:
    """Return *error* as another process would see it."""
    record = (write or Codec()).describe(error)
    kept = msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=FailureRecord)
    return (read or write or Codec()).rebuild(kept)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except BaseException as caught:
        return caught


def read_missing() -> BaseException:
    try:
        Path("no such file").read_bytes()
    except OSError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"), ValueError(), ValueError("two", 2), KeyError("k"), KeyError(("a", 1)), IndexError(5),
        OSError(5, "input/output"), read_missing(), ConnectionResetError(104, "reset"), TimeoutError(),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), StopIteration(3), AssertionError("no"),
        SyntaxError("bad", ("f.py", 1, 2, "x =")), ImportError("no", name="mod"), AttributeError("no attribute"),
        ExceptionGroup("two", [ValueError(1), ExceptionGroup("one", [KeyError("x")])]), UserWarning("w"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_builtin_exceptions_come_back_as_themselves(error: Exception) -> None:
    """``except ConnectionError`` around a resumed run catches what it would have caught in the first process."""
    got = through(raised(error))
    assert type(got) is type(error) and str(got) == str(error)
    if not isinstance(error, ExceptionGroup):
        assert got.args == error.args
    for name in ("errno", "filename", "name", "value", "start"):
        assert getattr(got, name, None) == getattr(error, name, None)


def test_every_builtin_exception_survives() -> None:
    """The table is closed, so it can be gone through."""
    for cls in vars(builtins).values():
        if isinstance(cls, type) and issubclass(cls, BaseException):
            arguments = {"UnicodeDecodeError": ("a", b"", 0, 0, "b"), "UnicodeEncodeError": ("a", "", 0, 0, "b")}
            arguments |= {"UnicodeTranslateError": ("", 0, 0, "b")}
            if issubclass(cls, BaseExceptionGroup):
                error: Any = cls("g", [ValueError("v")])
            else:
                error = cls(*arguments.get(cls.__name__, ("text",)))
            got = through(error)
            assert isinstance(got, Exception) and str(got) == str(error)
            if issubclass(cls, Exception):
                assert type(got) is cls


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("b")], ids=repr)
def test_what_would_stop_the_reader_is_only_told(error: BaseException) -> None:
    """Looking at a run that was interrupted must not interrupt the one who looks."""
    got = through(error)
    assert type(got) is RecordedError and got.matches(type(error)) and str(got) == str(error)


def test_arguments_that_cannot_be_kept_leave_the_text() -> None:
    """Losing an argument must not lose the class by which the exception is caught, nor what it said."""
    for error in (ValueError(object()), KeyError(object()), OSError(len, "x"), LookupError([len], 2)):
        got = through(error)
        assert type(got) is type(error) and str(got) == str(error)
    again = through(through(KeyError(object())))
    assert type(again) is KeyError and "<object object" in str(again)


def test_an_unknown_class_becomes_a_recorded_error() -> None:
    """Nothing is imported, so this is the common case in a listing; it still answers what it was."""
    got = through(raised(Declined("1234", amount=5)))
    assert type(got) is RecordedError
    assert got.type_name == f"{__name__}.Declined" and str(got) == "card 1234 declined"
    assert got.matches(Declined) and got.matches(Exception) and not got.matches(ValueError)


def test_a_recorded_error_that_is_kept_again_hides_nothing() -> None:
    """A run within a run fails with what it read from its own journal."""
    got = through(ExceptionGroup("g", [through(Declined("1234", amount=5))]))
    (inner,) = got.exceptions
    assert inner.type_name == f"{__name__}.Declined" and inner.matches(Declined) and str(inner) == "card 1234 declined"
    assert type(through(inner, read=knowing(Declined))) is Declined


def knowing(*classes: type[Any], **hooks: Any) -> Codec:
    registry = Registry()
    for cls in classes:
        registry.register(cls, **hooks)
    return Codec(registry=registry)


def test_a_registered_class_comes_back_with_its_attributes() -> None:
    """Its ``__init__`` takes what it likes, so it is not called again."""
    got = through(Declined("1234", amount=5), write=knowing(Declined))
    assert type(got) is Declined and (got.card, got.amount) == ("1234", 5) and str(got) == "card 1234 declined"


def test_a_registered_class_comes_back_by_its_hooks() -> None:
    """Some exceptions hold what only their author can keep."""
    codec = knowing(
        Declined, encode=lambda e: (e.card, e.amount), decode=lambda kept: Declined(kept[0], amount=kept[1] + 1)
    )
    got = through(Declined("1234", amount=5), write=codec)
    assert type(got) is Declined and got.amount == 6
    broken = knowing(Declined, encode=lambda e: 1 / 0, decode=lambda kept: None)
    assert through(Declined("1234", amount=5), write=broken).matches(Declined)


def test_attributes_that_cannot_be_kept_are_left_out() -> None:
    """A failure that holds a connection is still a failure to be kept."""
    error = Declined("1234", amount=5)
    error.connection = object()  # type: ignore[attr-defined]
    got = through(error, write=knowing(Declined))
    assert got.amount == 5 and not hasattr(got, "connection")


@pytest.mark.parametrize(
    "error",
    [
        RunCancelled("stopped", run_id="r-1", reason="why"), TaskTimedOut("took 3 s"),
        UnkeepableValue("no", type_name="x.Y", place=".a"), errors.CycleError("c", flow="f", cycle=["a", "b", "a"]),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_our_own_errors_come_back_as_themselves(error: Exception) -> None:
    """They carry what they mention, also after a crash."""
    got = through(error)
    assert type(got) is type(error) and str(got) == str(error) and vars(got).items() >= vars(error).items()


def test_a_failed_run_within_a_run_comes_back_with_its_members() -> None:
    """``except*`` sees through both, as it would have before the crash."""
    got = through(RunFailed("run failed", [ValueError("a"), Declined("1", amount=2)], run_id="inner", reverted=True))
    assert type(got) is RunFailed and got.run_id == "inner" and got.reverted is True
    assert [type(member) for member in got.exceptions] == [ValueError, RecordedError]


def test_a_group_of_an_unknown_class_keeps_its_members() -> None:
    """The members are what ``except*`` looks for."""
    for error in (Several("s", [ValueError("a")]), BaseExceptionGroup("s", [KeyboardInterrupt(), ValueError("a")])):
        got = through(error)
        assert type(got) is ExceptionGroup and got.message == "s" and got.subgroup(ValueError) is not None
    assert type(through(Several("s", [ValueError("a")]), write=knowing(Several))) is Several


def test_notes_cause_and_traceback_come_back() -> None:
    """They are what a person needs who finds the failure in the morning."""
    error = raised(ValueError("outer"), raised(KeyError("inner"), raised(OSError("root"))))
    error.add_note("while loading")
    got = through(error)
    assert got.__notes__ == ["while loading"]
    assert type(got.__cause__) is KeyError and type(got.__cause__.__cause__) is OSError
    assert "raise error from cause" in got.recorded_traceback and got.recorded_traceback.endswith("while loading\n")
    inner: Any = got.__cause__
    assert "KeyError" not in got.recorded_traceback and "KeyError: 'inner'" in inner.recorded_traceback
    assert through(got).recorded_traceback == got.recorded_traceback


def test_what_was_being_handled_is_in_the_traceback() -> None:
    """Without ``from`` there is no cause, and the reason is often there all the same."""
    with pytest.raises(ValueError) as caught:
        try:
            raise KeyError("first")
        except KeyError:
            raise ValueError("second")  # noqa: B904
    assert "KeyError: 'first'" in through(caught.value).recorded_traceback


def test_frames_of_ours_are_left_out() -> None:
    """How a body was called is no news to its author; but a failure of ours alone is shown whole."""

    def fail(kept: Any) -> Declined:
        raise ValueError(kept)

    shape = HookShape(Declined, repr, fail)
    with pytest.raises(ValueError) as caught:
        shape.make([1])
    error = caught.value
    # As an actor sees it, whose own frames are the first.
    error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None
    kept = Codec().describe(error).traceback
    assert "in fail" in kept and "shapes.py" not in kept
    with pytest.raises(errors.UndecodableValue) as ours:
        Codec().decode(b"")
    error = ours.value
    error.__traceback__ = error.__traceback__.tb_next if error.__traceback__ else None
    assert "values.py" in Codec().describe(error).traceback


def test_a_traceback_keeps_its_end() -> None:
    """The last frames say where it happened."""
    calls: list[Any] = [lambda: 1 / 0]
    for number in range(150):
        space: dict[str, Any] = {"inner": calls[-1]}
        exec(compile("def outer():\n    inner()", f"{'long' * 50}/{number}.py", "exec"), space)
        calls.append(space["outer"])
    with pytest.raises(ZeroDivisionError) as caught:
        calls[-1]()
    kept = Codec().describe(caught.value).traceback
    assert kept.startswith("...\n") and kept.endswith("ZeroDivisionError: division by zero\n")
    assert 15 * 1024 < len(kept.encode()) <= 16 * 1024 and "/0.py" in kept and "/149.py" not in kept


def test_a_description_is_bounded() -> None:
    """A failure may hold anything, and the journal takes it whatever it holds."""
    error: BaseException = ValueError("x" * 10**6)
    error.__notes__ = ["n" * 10**5] * 1000
    for number in range(2000):
        error = raised(ValueError(number), error)
    members = ExceptionGroup("wide", [ValueError(number) for number in range(10_000)])
    for one in (error, members, BaseExceptionGroup("both", [raised(ValueError("x" * 10**6)), members])):
        record = Codec().describe(one)
        assert len(msgspec.msgpack.encode(record)) < 2**20
        assert Codec().rebuild(record) is not None


def test_a_cause_that_leads_back_ends() -> None:
    """Python allows such a circle, and only prints it carefully."""
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    got = through(one)
    assert type(got.__cause__) is KeyError and got.__cause__.__cause__ is None


def test_an_exception_that_cannot_be_told_is_told_anyway() -> None:
    """A broken ``__str__`` must not turn one failure into another."""
    got = through(raised(Unhelpful("x")))
    assert str(got) == f"<str() of {__name__}.Unhelpful raised ZeroDivisionError>"
    error = ValueError("x")
    error.__notes__ = 5  # type: ignore[assignment]
    assert not hasattr(through(error), "__notes__")
    got = through(raised(Hollow("x", [ValueError()])))
    assert str(got) == f"<{__name__}.Hollow, whose class raised ZeroDivisionError>"
    twisted = SyntaxError("x", ("f.py", 1, 1, 5))  # its line is no text, which the traceback module counts on
    assert type(through(raised(twisted))) is SyntaxError
    assert str(through(raised(Guarded("still told")))) == "still told"
    assert through(raised(Reduced(7))).type_name == f"{__name__}.Reduced"


def test_lone_surrogates_are_shown() -> None:
    """A message often names a file, and a file may be named anything."""
    error = raised(Declined("\udcff", amount=1))
    error.add_note("\udcfe")
    got = through(error)
    assert str(got) == "card \\udcff declined" and got.__notes__ == ["\\udcfe"]


def test_a_record_that_nobody_wrote_becomes_a_recorded_error() -> None:
    """A class may refuse the arguments that another version of it took, and damaged arguments are no arguments."""
    codec = Codec()
    for args, state in (
        (b"\x01", None),
        (codec.encode((1,)), None),
        (b"", b"\xff"),
        (codec.encode(()), codec.encode(3)),
    ):
        record = FailureRecord(
            type_name="builtins.UnicodeDecodeError", bases=("builtins.ValueError",), text="t", args=args, state=state
        )
        got = codec.rebuild(record)
        assert type(got) is RecordedError and got.matches(ValueError) and str(got) == "t"
    record = FailureRecord(type_name="asyncflow.errors.RunFailed", bases=(), text="t")
    assert type(codec.rebuild(record)) is RecordedError


def test_rebuilding_imports_nothing() -> None:
    """A journal that could name a module to import could run any code."""
    before = set(sys.modules)
    record = FailureRecord(type_name="this.NotThere", bases=("antigravity.Up",), text="t", args=pickle.dumps(1))
    assert type(Codec().rebuild(record)) is RecordedError
    assert set(sys.modules) == before
