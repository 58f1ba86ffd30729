"""Records are what a journal appends: every event comes back equal, values stay sealed until someone looks."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncflow import messages as m
from asyncflow.codec import LARGEST_INLINE_BYTES, Codec, checksum
from asyncflow.errors import InternalError, RecordedError, UndecodableValue, UnkeepableValue
from asyncflow.outcomes import Failure, Sealed


class Point(NamedTuple):
    x: int
    y: int


EVENTS: list[Any] = [
    m.RunStarted("r", "f", "p", {"a": 1, "b": (2,)}, 5.5), m.RunStarted("r", "f", "p", {}),
    m.RunResumed(), m.RunResumed("p", 1.0),
    m.CancelRequested("why"), m.SuspendRequested("why"), m.RunSuspended(), m.DeadlinePassed(0), m.RunEnded("FAILED"),
    m.ScopeStarted(1, None), m.AttemptStarted(3, 1), m.AttemptSucceeded(3, None), m.AttemptSucceeded(3, {}),
    m.AttemptSucceeded(3, {"a": (1,)}), m.AttemptSucceeded(3, b"x"), m.AttemptSucceeded(3, ["0" * 64, 5]),
    m.AttemptFailed(3, Failure(ValueError("x")), True), m.AttemptTimedOut(3, False, True), m.AttemptCancelled(3),
    m.AttemptLost(3, "crash"), m.TimeLimitPassed(3), m.RetryScheduled(3, 7.25), m.TaskFailed(3),
    m.TaskFailed(3, Failure(KeyError("k"))), m.ReconcileStarted(3), m.ValuesLost([3]),
    m.RevertStarted(3, 1), m.RevertSucceeded(3, "undone"),
    m.RevertFailed(3, Failure(OSError(1, "x")), False), m.RevertGivenUp(3), m.ConditionAnswered(1, True),
    m.ConditionAnswered(1, False, Failure(ValueError())), m.ControllerAnswered(2, "retry", 2.5),
    m.RunReset("b4c1", 3.0),
    m.ControllerAnswered(2, "revert", 0.0, Failure(ValueError())), m.FlowStartedOver(2, [3, 4], 5.5),
    m.TaskSkipped(3), m.Progressed(3, 0.5, "half"),
    m.Emitted(3, "row", {"a": {1}}),
]  # fmt: skip


def opened(codec: Codec, item: Any) -> Any:
    """Return an event with its values opened and its failures told, for comparing."""
    if isinstance(item, Sealed):
        return codec.open(item)
    if isinstance(item, Failure):
        return (item.type_name, item.text)
    if isinstance(item, msgspec.Struct):
        return (type(item), *(opened(codec, getattr(item, name)) for name in item.__struct_fields__))
    return {name: opened(codec, each) for name, each in item.items()} if type(item) is dict else item


def through(codec: Codec, *events: Any) -> Any:
    return list(codec.decode_record(codec.encode_record(m.Record(1.5, list(events)))).events)


def test_the_table_below_has_every_event() -> None:
    """An event that is added must be kept, too."""
    assert {type(event) for event in EVENTS} == set(get_args(m.AnyEvent))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_comes_back_equal(event: Any) -> None:
    """Folding the journal must give the machine that wrote it."""
    codec = Codec()
    (got,) = through(codec, event)
    assert opened(codec, got) == opened(codec, event)


def test_values_that_nobody_sealed_are_sealed() -> None:
    """A value with the shape of something else on the wire must not be taken for it."""
    codec = Codec()
    with pytest.raises(UnkeepableValue, match=r"type builtins.type at \['x'\]"):
        through(codec, m.AttemptSucceeded(1, {"x": Sealed}))
    for value in (None, 7, b"\x07", {}, ["0" * 64, 9], "x" * (LARGEST_INLINE_BYTES * 2)):
        (got,) = through(codec, m.AttemptSucceeded(1, value))
        assert type(got.value) is Sealed and not got.value.is_open and codec.open(got.value) == value
    (started,) = through(codec, m.RunStarted("r", "f", "p", {"a": codec.seal(1), "b": 2}))
    assert {name: codec.open(value) for name, value in started.inputs.items()} == {"a": 1, "b": 2}


def test_a_sealed_value_is_encoded_once_and_hands_on_the_object() -> None:
    """Readers in the same process get what the producer made, not a copy."""
    codec = Codec([Point])
    point = Point(1, 2)
    sealed = codec.seal([point])
    assert codec.open(sealed)[0] is point
    (got,) = through(codec, m.AttemptSucceeded(1, sealed))
    assert got.value.payload == sealed.payload and got.value.size_bytes == sealed.size_bytes


def test_a_value_is_decoded_when_someone_looks_and_once() -> None:
    """A resume with a thousand values that nobody reads any more decodes none, nor needs their classes."""
    (got,) = through(Codec([Point]), m.AttemptSucceeded(1, Codec([Point]).seal(Point(1, 2))))
    assert not got.value.is_open
    with pytest.raises(UndecodableValue, match="Point', which is not known here"):
        Codec().open(got.value)
    codec = Codec([Point])
    assert codec.open(got.value) == Point(1, 2)
    assert codec.open(got.value) is codec.open(got.value) and got.value.is_open


def test_a_large_value_becomes_a_blob() -> None:
    """Records are read whole on each resume, so they stay small; equal blobs are kept once."""
    codec = Codec()
    assert codec.seal(b"x" * (LARGEST_INLINE_BYTES - 3)).blob is None
    value = ["x"] * LARGEST_INLINE_BYTES
    sealed = codec.seal(value)
    assert sealed.blob == codec.seal(list(value)).blob and len(sealed.blob or "") == 64 and sealed.payload
    record = codec.encode_record(m.Record(1.0, [m.AttemptSucceeded(1, sealed)]))
    assert len(record) < 200
    got: Any = codec.decode_record(record).events[0]
    assert (got.value.blob, got.value.size_bytes, got.value.payload) == (sealed.blob, sealed.size_bytes, None)
    with pytest.raises(InternalError, match=f"blob {sealed.blob} was opened before its bytes were there"):
        codec.open(got.value)
    got.value.payload = sealed.payload
    assert codec.open(got.value) == value


def test_a_value_whose_bytes_were_dropped_can_be_journaled_again() -> None:
    """Bytes are let go when they are durable; the object is still there."""
    codec = Codec()
    sealed = codec.seal((1,))
    sealed.payload = None
    (got,) = through(codec, m.RevertSucceeded(1, sealed))
    assert codec.open(got.value) == (1,)


def test_a_value_that_is_not_to_be_kept_leaves_only_a_trace() -> None:
    """``checkpoint=False``: this process has the value, the journal says that there was one."""
    codec = Codec()
    sealed = Sealed(value=(value := object()))
    assert codec.open(sealed) is value and sealed.is_kept
    (got,) = through(codec, m.AttemptSucceeded(1, sealed))
    assert type(got.value) is Sealed and not got.value.is_kept
    with pytest.raises(InternalError, match="never kept"):
        codec.open(got.value)


def test_what_is_not_sealed_is_open() -> None:
    """A run in memory encodes nothing, and is read by the same code."""
    assert Codec().open(None) is None and Codec().open(value := object()) is value


def test_a_failure_is_rebuilt_when_someone_looks() -> None:
    """Listing a thousand failed runs makes no exceptions, and asking twice gives one."""
    codec = Codec()
    (got,) = through(codec, m.AttemptFailed(1, Failure(ZeroDivisionError("x")), True))
    assert got.failure.type_name == "builtins.ZeroDivisionError" and got.failure._exception is None
    assert type(got.failure.exception) is ZeroDivisionError and got.failure.exception is got.failure.exception


def test_a_failure_that_was_read_is_written_as_it_was() -> None:
    """A failure that goes from journal to journal must not lose its class on the way."""

    class Own(Exception):
        pass

    codec = Codec()
    once = through(codec, m.AttemptFailed(1, Failure(Own("x")), True))
    (twice,) = through(codec, *once)
    assert twice.failure.record(codec.describe) == once[0].failure.record(codec.describe)
    assert type(twice.failure.exception) is RecordedError and twice.failure.exception.matches(Own)


def test_texts_that_utf_8_cannot_hold_are_shown() -> None:
    """A progress names a file, a file is named anything, and a run must not break over it."""
    progress, cancel, success = through(
        Codec(), m.Progressed(1, 0.5, "parsing \udcff"), m.CancelRequested("\ud800"), m.AttemptSucceeded(1, "\ud800")
    )
    assert (progress.message, cancel.reason, Codec().open(success.value)) == ("parsing \\udcff", "\\ud800", "\ud800")


@pytest.mark.parametrize(
    "body",
    [b"", b"\xc1", b"\x92\x01\x90\x00", b"\xdd\xff\xff\xff\xff", b"\x92\x01\x91\x92\x63\x01", b"\x91" * 50_000, b"\x80",
     b"\x92\x01\xdd\x10\x00\x00\x00", b"\x92\x01\x91\x93\x0b\x01\x05", b"\x92\x01\x91\x93\x0b\x01\x92\xa1x\xff",
     b"\x92\x01\x91\x94\x0c\x01\x05\xc3", b"\x92\x01\x91\x93\x0b\x01\x92\x05\x05"],
    ids=range(12),
)  # fmt: skip
def test_bytes_that_are_no_record_are_refused(body: bytes) -> None:
    """What cannot be decoded stops the run with a named error, never with a None."""
    with pytest.raises(UndecodableValue, match="are not a record: "):
        Codec().decode_record(body)


def test_an_event_that_holds_what_no_journal_has_a_form_for_is_a_bug_of_ours() -> None:
    """It must be found before it is appended, while the run can still be stopped in order."""
    with pytest.raises(InternalError, match="an event holds a object, which a journal has no form for"):
        Codec().encode_record(m.Record(1.5, [m.AttemptFailed(3, object(), True)]))  # type: ignore[arg-type]


@settings(max_examples=300, deadline=None)
@given(st.data(), st.binary(max_size=8))
def test_a_damaged_record_is_read_or_refused(data: st.DataObject, noise: bytes) -> None:
    """Bit flips and cuts that a checksum would have caught must not do worse than be noticed."""
    codec = Codec()
    whole = codec.encode_record(m.Record(1.5, data.draw(st.lists(st.sampled_from(EVENTS), min_size=1, max_size=3))))
    at = data.draw(st.integers(0, len(whole)))
    for body in (noise, whole[:at], whole[:at] + noise + whole[at:], whole[:at] + noise + whole[at + len(noise) :]):
        try:
            record = codec.decode_record(body)
        except UndecodableValue:
            continue
        assert isinstance(record.at, float) or math.isfinite(record.at)
        for event in record.events:
            told(codec, event)


def told(codec: Codec, event: Any) -> None:
    """Look at everything in an event, which may be damaged but must not surprise."""
    for name in event.__struct_fields__:
        field = getattr(event, name)
        if isinstance(field, Sealed):
            assert codec.summary(field).isprintable()
            if field.payload:
                with contextlib.suppress(UndecodableValue):
                    codec.open(field)
        elif isinstance(field, Failure):
            assert isinstance(field.exception, Exception)


def test_a_checksum_notices_damage() -> None:
    """Every single flipped bit, and every burst that a bad sector makes."""
    body = Codec().encode_record(m.Record(1.5, [m.AttemptStarted(1, 1), m.AttemptSucceeded(1, Codec().seal("value"))]))
    sums = {checksum(body)}
    for bit in range(8 * len(body)):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        sums.add(checksum(bytes(damaged)))
    assert len(sums) == 8 * len(body) + 1 and all(0 <= each < 2**32 for each in sums)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda codec: codec.seal((1,)), "(1,)"),
        (lambda codec: Sealed(value={"a": 1}), "{'a': 1}"),
        (lambda codec: Sealed(value=len), "<builtins.builtin_function_or_method>"),
        (lambda codec: Sealed(blob="ab" * 32, size_bytes=70_000), "<blob abababababab, 70000 bytes>"),
        (lambda codec: Sealed(), "<not kept>"),
        (lambda codec: b"\xff\xff", "<2 bytes that cannot be read>"),
    ],
)
def test_a_summary_shows_what_is_at_hand(make: Callable[[Codec], Any], line: str) -> None:
    """A listing loads no blobs and stops at nothing."""
    codec = Codec()
    assert codec.summary(make(codec)) == line


def test_a_record_means_the_same_in_another_process() -> None:
    """Hashes and identities differ there, and a journal outlives its process by definition."""
    codec = Codec([Point])
    body = codec.encode_record(
        m.Record(1.5, [m.AttemptSucceeded(1, codec.seal({"p": {Point(1, 2)}, "s": {"x", "y"}}))])
    )
    program = (
        "import sys; from asyncflow.codec import Codec; from collections import namedtuple\n"
        f"Point = namedtuple('Point', 'x y', module={__name__!r})\n"
        "codec = Codec([Point]); (event,) = codec.decode_record(bytes.fromhex(sys.argv[1])).events\n"
        "assert codec.open(event.value) == {'p': {Point(1, 2)}, 's': {'x', 'y'}}"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-W", "error", "-c", program, body.hex()], cwd=root, check=True, timeout=60)
