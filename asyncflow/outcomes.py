"""
How an attempt ended: :class:`Success`, :class:`Failure`, :class:`Cancelled` or :class:`TimedOut`.

A :class:`Failure` lives twice. In the process that saw the exception it holds the original object; in a journal it is a
:class:`FailureRecord`, and what is read back raises a rebuilt exception. Either side is made only when it is asked for,
so that a failure which is retried costs no traceback formatting in a run that is not journaled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import attrs
import msgspec

from asyncflow.names import name_of

T = TypeVar("T")


class FailureRecord(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """
    A failure as the journal keeps it. Made and rebuilt by ``codec``.

    Attributes:
        type_name: The exception's class, ``module.qualname``.
        bases: The same for each of its bases, nearest first, without ``object``.
        text: ``str(exception)``.
        args: Its arguments as one encoded tuple, or None where one of them cannot be kept.
        notes: What ``add_note`` attached.
        traceback: The formatted traceback, its last 16 KiB.
        cause: What it was raised from, if anything.
        members: The exceptions of a group, else nothing.
        state: Its attributes as one encoded dict, without those that cannot be kept; for a class that was registered
            with hooks, what its hook made of it, as an encoded tuple of one. None where there is nothing.
    """

    type_name: str
    bases: tuple[str, ...]
    text: str
    args: bytes | None = None
    notes: tuple[str, ...] = ()
    traceback: str = ""
    cause: FailureRecord | None = None
    members: tuple[FailureRecord, ...] = ()
    state: bytes | None = None


@attrs.frozen
class Success(Generic[T]):
    """The body returned ``value``."""

    value: T


class Failure:
    """
    The body raised. ``exception`` is what it raised: the object itself where it happened, rebuilt from the record
    later.
    """

    __slots__ = ("_exception", "_rebuild", "_record")

    def __init__(
        self,
        exception: BaseException | None = None,
        *,
        record: FailureRecord | None = None,
        rebuild: Callable[[FailureRecord], BaseException] | None = None,
    ) -> None:
        self._exception = exception
        self._record = record
        self._rebuild = rebuild

    @property
    def exception(self) -> BaseException:
        """The exception; the same object each time it is asked for."""
        if self._exception is None:
            assert self._record is not None and self._rebuild is not None
            self._exception = self._rebuild(self._record)
        return self._exception

    def record(self, describe: Callable[[BaseException], FailureRecord]) -> FailureRecord:
        """Return the form that a journal keeps, made by *describe* the first time."""
        if self._record is None:
            assert self._exception is not None
            self._record = describe(self._exception)
        return self._record

    @property
    def type_name(self) -> str:
        """The exception's class as ``module.qualname``, without rebuilding anything."""
        if self._exception is not None:
            return name_of(type(self._exception))
        assert self._record is not None
        return self._record.type_name

    @property
    def text(self) -> str:
        """``str(exception)``, without rebuilding anything."""
        if self._exception is not None:
            return str(self._exception)
        assert self._record is not None
        return self._record.text

    def __repr__(self) -> str:
        return f"Failure({self.type_name}: {self.text})" if self.text else f"Failure({self.type_name})"


@attrs.frozen
class Cancelled:
    """The body was told to stop and did. ``abandoned``: it went on for so long that it was left behind."""

    abandoned: bool = False


@attrs.frozen
class TimedOut:
    """The body passed its time limit and stopped. ``abandoned``: it went on for so long that it was left behind."""

    abandoned: bool = False


Outcome = Success[T] | Failure | Cancelled | TimedOut
"""How one attempt ended; what ``revert`` gets when it asks for ``outcome``."""


class _Unopened:
    """Stands where a value has not been decoded yet."""

    def __repr__(self) -> str:
        return "<not decoded>"


UNOPENED: Any = _Unopened()


class Sealed:
    """
    A value as a journal holds it, and the value itself once someone has looked.

    Either ``payload`` has the encoded bytes, or ``blob`` names them by content: large values are kept once, outside the
    records. Neither means that the value was never kept (``checkpoint=False``). The payload is dropped when it is
    durable and the value is at hand, the value when it is a blob and nobody still needs it.
    """

    # A plain class: msgspec would encode an attrs one by itself instead of asking the codec.
    __slots__ = ("blob", "payload", "size_bytes", "value")

    def __init__(
        self, payload: bytes | None = None, *, blob: str | None = None, size_bytes: int = 0, value: Any = UNOPENED
    ) -> None:
        self.payload = payload
        self.blob = blob
        self.size_bytes = size_bytes
        self.value = value

    @property
    def is_kept(self) -> bool:
        """Whether the value can still be had: it is at hand, or its bytes are somewhere."""
        return self.value is not UNOPENED or self.payload is not None or self.blob is not None

    @property
    def is_open(self) -> bool:
        """Whether ``value`` can be read without decoding."""
        return self.value is not UNOPENED

    def __repr__(self) -> str:
        where = f"blob {self.blob[:12]}" if self.blob else "payload"
        return f"<Sealed {where}, {self.size_bytes} bytes{', open' if self.is_open else ''}>"
