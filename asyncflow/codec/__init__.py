"""
Values, failures and records to bytes and back.

What a value really is decides how it is kept; annotations and :func:`register` only say which classes may appear.
Nothing is unpickled and nothing is imported to decode.

- ``leaves``: values without others inside (dates, decimals, paths...), each one extension of msgpack
- ``shapes``: how a class of the user's is taken apart and put together again
- ``registry``: which classes may appear: those in an annotation, those that were registered
- ``values``: whole values, nested at will
- ``failures``: exceptions as a journal keeps them
- ``records``: :class:`Codec`, which joins all of these and encodes what a journal appends
"""

from __future__ import annotations

from asyncflow.codec.records import LARGEST_INLINE_BYTES, Codec, checksum
from asyncflow.codec.registry import Registry, default_of, register

__all__ = ["LARGEST_INLINE_BYTES", "Codec", "Registry", "checksum", "default_of", "register"]
