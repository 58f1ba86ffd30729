"""
Seals: what tells that a row is as it was written, in the place where it was written.

SQLite reads what its pages say. A bit that has turned over in a row, in a page's list of rows or in an index is read as
truth, unless what is read says itself what it should be. So each record is sealed with its place, each run with its id,
and a run remembers how many records it has and the seal of the last, so that one missing at the end shows too.
"""

from __future__ import annotations

import struct
from typing import Any

from asyncflow.codec import checksum

_HEAD = struct.Struct("<qqdI")
_HALF = 32
# SQLite's integers are signed.
_LEAST = -(1 << 63)
_SUM = (1 << _HALF) - 1


def seal_record(key: int, number: int, at: float, state: str | None, body: bytes) -> int:
    """
    Return the seal of a record: what it says, where it stands, when it was written, and the state that it tells.

    The upper half is the body's checksum, the lower half that of all else and of the upper half. So a listing, which
    shows when a run's last record was, need not read what is in it: see :func:`is_head_whole`.
    """
    return _seal(key, number, at, state, checksum(body))


def is_head_whole(seal: Any, key: int, number: int, at: Any, state: Any) -> bool:
    """Return whether all but the body of a record is as *seal* says."""
    if type(seal) is not int or type(at) is not float or not (state is None or type(state) is str):
        return False
    return seal == _seal(key, number, at, state, seal - _LEAST >> _HALF & _SUM)


def seal_run(*fixed: Any) -> int:
    """
    Return the seal of what never changes in a run's row.

    The number of its records and the last one's seal bear each other out. Its state needs no seal: no two names of
    states differ in less than three letters.
    """
    words = "\0".join(f"{type(each).__name__} {each}" for each in fixed)
    return checksum(words.encode("utf-8", "surrogatepass"))


def seal_plan(digest: str, body: bytes) -> int:
    """Return the seal of a recorded plan; it covers the name by which it is asked for."""
    return checksum(digest.encode() + b"\0" + body)


def _seal(key: int, number: int, at: float, state: str | None, body_sum: int) -> int:
    head = _HEAD.pack(key, number, at, body_sum)
    if state is not None:
        head += state.encode()
    return (body_sum << _HALF | checksum(head)) + _LEAST
