"""
Exceptions as a journal keeps them.

A description is bounded in depth and size, since an exception may hold anything and the journal must take it all the
same. Rebuilding imports nothing: built-in exceptions come from a closed table, asyncflow's own from ``errors``, others
from what was registered, and the rest become :class:`~asyncflow.RecordedError`.
"""

from __future__ import annotations

import builtins
import contextlib
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from asyncflow import errors
from asyncflow.codec.leaves import class_of, is_text
from asyncflow.codec.shapes import HookShape, Shape
from asyncflow.errors import AsyncflowError, RecordedError, RunFailed
from asyncflow.names import name_of
from asyncflow.outcomes import FailureRecord

TRACEBACK_ATTRIBUTE = "recorded_traceback"
"""Where a rebuilt exception has the formatted traceback of the original."""

_LONGEST_TRACEBACK_BYTES = 16 * 1024
_LONGEST_TEXT = 16 * 1024
_LONGEST_PART_BYTES = 64 * 1024
_MOST_NOTES = 50
_MOST_FRAMES = 100
_DEEPEST = 16
_MOST_RECORDS = 200

# Frames of ours at the beginning of a traceback say how a body was called, which is no news to its author.
_OURS = str(Path(__file__).parent.parent)

# SystemExit, KeyboardInterrupt and the like are left out, for raising one again would stop the process that only reads.
_BUILTINS: dict[str, type[Exception]] = {
    name_of(cls): cls for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, Exception)
}
_OWN: dict[str, type[Exception]] = {
    name_of(cls): cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, AsyncflowError)
}


class _Verbatim(str):
    """A text that stands for arguments that could not be kept: KeyError shows the repr of its argument."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


class Describer:
    """
    Makes the record of one exception, its causes and members.

    Args:
        encode: Encodes a value, or raises CodecError.
        shape: Returns the shape of a class, if it is known.
    """

    __slots__ = ("_around", "_encode", "_left", "_shape")

    def __init__(self, encode: Callable[[Any], bytes], shape: Callable[[type[Any]], Shape | None]) -> None:
        self._encode = encode
        self._shape = shape
        self._left = _MOST_RECORDS
        # A cause may lead back to what it caused.
        self._around: set[int] = set()

    def record(self, error: BaseException) -> FailureRecord:
        """Return the record of *error*. Whatever its class does meanwhile, there is one."""
        try:
            return self._record(error)
        except Exception as broken:
            type_name = _clean(name_of(type(error)))
            return FailureRecord(
                type_name=type_name, bases=(), text=f"<{type_name}, whose class raised {type(broken).__name__}>"
            )

    def _record(self, error: BaseException) -> FailureRecord:
        self._left -= 1
        self._around.add(id(error))
        if isinstance(error, RecordedError):
            # It stands for another, and must not hide it when it is kept again.
            type_name, bases, args, state = error.type_name, error.bases, None, None
        else:
            type_name = name_of(type(error))
            bases = tuple(name_of(base) for base in type(error).__mro__[1:] if base is not object)
            args, state = self._contents(error)
        cause = error.__cause__
        kept_cause = self.record(cause) if cause is not None and self._has_room(cause) else None
        members = tuple(self.record(member) for member in _members_of(error) if self._has_room(member))
        self._around.discard(id(error))
        return FailureRecord(
            type_name=_clean(type_name),
            bases=tuple(map(_clean, bases)),
            text=_text_of(error),
            args=args,
            notes=_notes_of(error),
            traceback=_traceback_of(error),
            cause=kept_cause,
            members=members,
            state=state,
        )

    def _has_room(self, error: BaseException) -> bool:
        return self._left > 0 and len(self._around) < _DEEPEST and id(error) not in self._around

    def _contents(self, error: BaseException) -> tuple[bytes | None, bytes | None]:
        shape = self._shape(type(error))
        if isinstance(shape, HookShape):
            # Not only CodecError: the hook is the user's.
            with contextlib.suppress(Exception):
                return None, self._keep(tuple(shape.take(error)))
            return None, None
        args, attributes = _parts_of(error)
        kept = {
            name: value
            for name, value in attributes.items()
            if not _is_reserved(name) and self._keep(value) is not None
        }
        return self._keep(args), self._keep(kept) if kept else None

    def _keep(self, value: Any) -> bytes | None:
        try:
            payload = self._encode(value)
        except Exception:
            return None
        return payload if len(payload) <= _LONGEST_PART_BYTES else None


class Rebuilder:
    """
    Makes exceptions of records.

    Args:
        decode: Decodes a value, or raises CodecError.
        named: Returns the shape of a class by its name, if it is known.
    """

    __slots__ = ("_decode", "_named")

    def __init__(self, decode: Callable[[bytes], Any], named: Callable[[str], Shape | None]) -> None:
        self._decode = decode
        self._named = named

    def error(self, record: FailureRecord, depth: int = 0) -> BaseException:
        """Return an exception like the recorded one: same class if at hand, same text, notes, cause and members."""
        members = [self.error(member, depth + 1) for member in record.members] if depth < 2 * _DEEPEST else []
        try:
            error = self._remade(record, [member for member in members if isinstance(member, Exception)])
        except Exception:
            error = None
        if error is None:
            error = RecordedError(record.text, type_name=record.type_name, bases=record.bases)
        with contextlib.suppress(Exception):
            # A class may have slots only, or forbid it.
            setattr(error, TRACEBACK_ATTRIBUTE, record.traceback)
            if record.notes:
                error.__notes__ = list(record.notes)
        if record.cause is not None and depth < 2 * _DEEPEST:
            error.__cause__ = self.error(record.cause, depth + 1)
        return error

    def _remade(self, record: FailureRecord, members: list[Exception]) -> BaseException | None:
        state: Any = self._content(record.state)
        builtin, shape = _BUILTINS.get(record.type_name), self._named(record.type_name)
        if isinstance(shape, HookShape):
            made = shape.make(list(state)) if class_of(state) is tuple else None
            return made if isinstance(made, Exception) else None
        args: Any = self._content(record.args)
        if class_of(args) is not tuple:
            args = (_Verbatim(record.text),)
        attributes: dict[str, Any] = {}
        if class_of(state) is dict:
            attributes = {name: value for name, value in state.items() if not _is_reserved(name)}
        cls = builtin or _OWN.get(record.type_name) or (shape.cls if shape is not None else None)
        if record.members:
            return _group(cls, record, args, attributes, members)
        if cls is None or not issubclass(cls, Exception) or cls is RecordedError:
            return None
        if builtin is not None:
            error = builtin(*args)
            if attributes:
                error.__setstate__(attributes)
        else:
            # Not __init__: it takes what the class likes, and has run already.
            error = cls.__new__(cls, *args)
            error.args = args
            error.__dict__.update(attributes)
        return error

    def _content(self, payload: bytes | None) -> Any:
        if payload is None:
            return None
        try:
            return self._decode(payload)
        except errors.CodecError:
            return None


def _group(
    cls: Any,
    record: FailureRecord,
    args: tuple[Any, ...],
    attributes: dict[str, Any],
    members: list[Exception],
) -> BaseException:
    """Return a group. One of an unknown class becomes an ordinary group, so that ``except*`` finds its members."""
    message = args[0] if args and type(args[0]) is str else record.text
    if cls is RunFailed:
        run_id, reverted = attributes.get("run_id"), attributes.get("reverted")
        return RunFailed(message, members, run_id=run_id if type(run_id) is str else "", reverted=reverted is True)
    if cls is None or cls is ExceptionGroup or ExceptionGroup not in cls.__mro__:
        return ExceptionGroup(message, members)
    error: BaseException = cls.__new__(cls, message, members)
    error.__dict__.update(attributes)
    return error


def _members_of(error: BaseException) -> tuple[BaseException, ...]:
    return cast("Any", error).exceptions if isinstance(error, BaseExceptionGroup) else ()


def _parts_of(error: BaseException) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments and attributes from which *error* can be made again."""
    if isinstance(error, BaseExceptionGroup):
        return (error.message,), vars(error)
    if type(error).__reduce__ in _REDUCERS:
        # A built-in class knows arguments that `args` leaves out: the file of an OSError, for one.
        with contextlib.suppress(Exception):
            reduced: tuple[Any, ...] = error.__reduce__()  # type: ignore[assignment]
            return reduced[1], (reduced[2] if len(reduced) > 2 else None) or {}
    return error.args, vars(error)


_REDUCERS = frozenset(cls.__reduce__ for cls in _BUILTINS.values())


def _is_reserved(name: object) -> bool:
    return type(name) is not str or name == TRACEBACK_ATTRIBUTE or (name.startswith("__") and name.endswith("__"))


def _text_of(error: BaseException) -> str:
    try:
        text = "".join((str(error),))  # exactly a str, whatever the class made
    except Exception as broken:
        return f"<str() of {_clean(name_of(type(error)))} raised {type(broken).__name__}>"
    return _clean(text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}...")


def _attribute(error: BaseException, name: str) -> Any:
    """Return an attribute, or None: to ask may call code of the user's, which may raise anything."""
    try:
        return getattr(error, name, None)
    except Exception:
        return None


def _notes_of(error: BaseException) -> tuple[str, ...]:
    notes = _attribute(error, "__notes__")
    if not isinstance(notes, list | tuple):
        return ()
    texts = [note for note in cast("list[Any]", notes) if type(note) is str]
    return tuple(_clean(note[:_LONGEST_TEXT]) for note in texts[:_MOST_NOTES])


def _traceback_of(error: BaseException) -> str:
    recorded = _attribute(error, TRACEBACK_ATTRIBUTE)
    if type(recorded) is str:
        return _ending(recorded)
    try:
        # The cause has a record of its own; what else was being handled has none, so it is shown here.
        told = traceback.TracebackException(
            type(error), error, _of_users(error.__traceback__), limit=-_MOST_FRAMES, compact=True
        )
        return _ending("".join(told.format(chain=error.__cause__ is None)))
    except Exception:
        return ""


def _of_users(trace: TracebackType | None) -> TracebackType | None:
    """Return *trace* from the first frame that is not ours, or all of it if all are."""
    frame = trace
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith(_OURS):
        frame = frame.tb_next
    return frame or trace


def _ending(text: str) -> str:
    """Return as much of a traceback's end as is kept, from the beginning of a line."""
    body = _clean(text).encode()
    if len(body) <= _LONGEST_TRACEBACK_BYTES:
        return body.decode()
    ending = body[-_LONGEST_TRACEBACK_BYTES + 4 :].decode("utf-8", "ignore")
    _, newline, rest = ending.partition("\n")
    return f"...\n{rest if newline and rest else ending}"


def _clean(text: str) -> str:
    """Return *text* as UTF-8 can hold it, with lone surrogates shown as escapes."""
    return text if is_text(text) else text.encode("utf-8", "backslashreplace").decode()
