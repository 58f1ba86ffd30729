"""
Values that have no others inside: msgpack's own scalars, and one extension code for each type that it would lose.

The codes are part of the journal format: never renumber one, never reuse one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any, cast
from uuid import UUID, SafeUUID
from zoneinfo import ZoneInfo

import msgspec
from msgspec.msgpack import Ext

PLAIN: frozenset[type[Any]] = frozenset({type(None), bool, int, float, str, bytes})
"""Types that msgpack keeps as they are, except for huge ints and lone surrogates."""

_INT, _TEXT, _BYTEARRAY, _COMPLEX, _RANGE, _DECIMAL, _UUID = 1, 2, 3, 4, 5, 6, 7
_DATE, _TIME, _DATETIME, _TIMEDELTA, _TIMEZONE, _ZONE, _PATH = 8, 9, 10, 11, 12, 13, 14
_UNSET, _ABSENT = 15, 16
# Codes from here on mark what a list stands for; see `values`.
FIRST_MARK = 32

_SMALLEST, _LARGEST = -(2**63), 2**64 - 1


class Stuck(Exception):
    """
    A value cannot be kept. Never leaves this package: the codec says it to the user, with the place.

    Attributes:
        type: The type that is in the way.
        reason: What is wrong with it, continuing "a value of type X"; empty if it is just unknown.
        place: The steps from that value outwards.
    """

    def __init__(self, type_: type[Any], reason: str = "", *place: str) -> None:
        super().__init__(reason)
        self.type = type_
        self.reason = reason
        self.place = list(place)


class Absent:
    """An attribute that an object could have and did not."""


ABSENT = Absent()

# Checkers in strict mode do not know what class an Any has, and this says so in one place.
class_of: Callable[[Any], type[Any]] = type

pack: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode


def is_text(text: str) -> bool:
    """Return whether *text* can be UTF-8, which lone surrogates cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def careful(value: Any) -> Any:
    """Return a plain *value* in the form that keeps it even where msgpack would refuse it."""
    if type(value) is int and not _SMALLEST <= value <= _LARGEST:
        return Ext(_INT, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))
    if type(value) is str and not is_text(value):
        return Ext(_TEXT, _text_bytes(value))
    return value


def _text_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _write_range(value: range) -> Ext:
    return Ext(_RANGE, pack([careful(value.start), careful(value.stop), careful(value.step)]))


def _write_uuid(value: UUID) -> Ext:
    # is_safe counts neither for equality nor often, so it costs nothing where it says nothing.
    if value.is_safe is SafeUUID.unknown:
        return Ext(_UUID, value.bytes)
    return Ext(_UUID, value.bytes + value.is_safe.value.to_bytes(1, "big", signed=True))


def _read_uuid(data: bytes) -> UUID:
    if len(data) == 16:
        return UUID(bytes=data)
    return UUID(bytes=data[:-1], is_safe=SafeUUID(int.from_bytes(data[-1:], "big", signed=True)))


def _write_zone(zone: tzinfo | None) -> Any:
    if zone is None:
        return None
    writer = WRITERS.get(type(zone))
    if writer is None or not isinstance(zone, timezone | ZoneInfo):
        raise Stuck(type(zone), "", ".tzinfo")
    return writer(zone)


def _write_timezone(zone: timezone) -> Ext:
    # (offset,), or (offset, name); the public interface cannot tell a given name from a derived one.
    arguments: tuple[Any, ...] = cast("Any", zone).__getinitargs__()
    offset, *name = arguments
    return Ext(_TIMEZONE, pack([offset.days, offset.seconds, offset.microseconds, *map(careful, name)]))


def _read_timezone(data: bytes) -> timezone:
    days, seconds, microseconds, *name = unpack(data)
    return timezone(timedelta(days, seconds, microseconds), *name)


def _write_zone_info(zone: ZoneInfo) -> Ext:
    key: str | None = zone.key
    if not key:
        raise Stuck(ZoneInfo, "was read from a file and has no key, so it")
    return Ext(_ZONE, key.encode())


def _write_time(value: time) -> Ext:
    parts = [value.hour, value.minute, value.second, value.microsecond, value.fold, _write_zone(value.tzinfo)]
    return Ext(_TIME, pack(parts))


def _read_time(data: bytes) -> time:
    hour, minute, second, microsecond, fold, zone = unpack(data)
    return time(hour, minute, second, microsecond, zone, fold=fold)


def _write_datetime(value: datetime) -> Ext:
    day = (value.year, value.month, value.day)
    moment = (value.hour, value.minute, value.second, value.microsecond, value.fold)
    return Ext(_DATETIME, pack([*day, *moment, _write_zone(value.tzinfo)]))


def _read_datetime(data: bytes) -> datetime:
    year, month, day, hour, minute, second, microsecond, fold, zone = unpack(data)
    return datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


_PATHS: tuple[type[PurePath], ...] = (PurePosixPath, PureWindowsPath, PosixPath, WindowsPath)


def _write_path(value: PurePath) -> Ext:
    # A file's name may be bytes that are not UTF-8, which Python shows as lone surrogates.
    return Ext(_PATH, bytes([_PATHS.index(type(value))]) + _text_bytes(str(value)))


WRITERS: dict[type[Any], Callable[[Any], Ext]] = {
    bytearray: lambda value: Ext(_BYTEARRAY, bytes(value)),
    complex: lambda value: Ext(_COMPLEX, struct.pack(">dd", value.real, value.imag)),
    range: _write_range,
    Decimal: lambda value: Ext(_DECIMAL, str(value).encode()),
    UUID: _write_uuid,
    date: lambda value: Ext(_DATE, pack([value.year, value.month, value.day])),
    time: _write_time,
    datetime: _write_datetime,
    timedelta: lambda value: Ext(_TIMEDELTA, pack([value.days, value.seconds, value.microseconds])),
    timezone: _write_timezone,
    ZoneInfo: _write_zone_info,
    **dict.fromkeys(_PATHS, _write_path),
    msgspec.UnsetType: lambda _: Ext(_UNSET, b""),
    Absent: lambda _: Ext(_ABSENT, b""),
}
"""Each type that is a leaf, to what makes an extension of its values. Exact types only."""

_READERS: dict[int, Callable[[bytes], Any]] = {
    _INT: lambda data: int.from_bytes(data, "big", signed=True),
    _TEXT: _text,
    _BYTEARRAY: bytearray,
    _COMPLEX: lambda data: complex(*struct.unpack(">dd", data)),
    _RANGE: lambda data: range(*unpack(data)),
    _DECIMAL: lambda data: Decimal(data.decode()),
    _UUID: _read_uuid,
    _DATE: lambda data: date(*unpack(data)),
    _TIME: _read_time,
    _DATETIME: _read_datetime,
    _TIMEDELTA: lambda data: timedelta(*unpack(data)),
    _TIMEZONE: _read_timezone,
    _ZONE: lambda data: ZoneInfo(data.decode()),
    _PATH: lambda data: _PATHS[data[0]](_text(data[1:])),
    _UNSET: lambda _: msgspec.UNSET,
    _ABSENT: lambda _: ABSENT,
}


def read_leaf(code: int, data: memoryview) -> Any:
    """
    Return the value behind an extension.

    Raises:
        ValueError: No leaf has this code. Damaged data raises whatever the type in question raises.
    """
    reader = _READERS.get(code)
    if reader is None:
        raise ValueError(f"extension {code} is unknown")
    return reader(bytes(data))


unpack: Callable[[Any], Any] = msgspec.msgpack.Decoder(ext_hook=read_leaf).decode
"""Decode a tree of plain values and leaves."""
