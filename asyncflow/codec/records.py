"""The codec of a run: values sealed and opened, failures described and rebuilt, records to bytes and back."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any, get_args

import msgspec
from msgspec.structs import replace

from asyncflow.codec.failures import Describer, Rebuilder
from asyncflow.codec.leaves import class_of, is_text
from asyncflow.codec.registry import REGISTRY, Registry
from asyncflow.codec.values import Values, skim
from asyncflow.errors import InternalError, UndecodableValue, UnkeepableValue
from asyncflow.messages import AnyEvent, Event, Record
from asyncflow.outcomes import UNOPENED, Failure, FailureRecord, Sealed

LARGEST_INLINE_BYTES = 64 * 1024
"""A value whose encoding is larger goes to a blob."""


def checksum(body: bytes) -> int:
    """
    Return a number by which damage to *body* is noticed: its CRC-32.

    It guards against disks, not against people: it finds every run of damage up to 32 bits long, and misses one in four
    billion of the others, at a fifth of the time of a cryptographic hash. Blobs are named by such a hash and need none.
    """
    return zlib.crc32(body)


def digest_of(body: bytes) -> str:
    """Return the name of a blob: the BLAKE2b hash of its bytes, 256 bits in hexadecimal digits."""
    return blake2b(body, digest_size=32).hexdigest()


def _fields_of(kind: Any) -> dict[type[Event], str]:
    """Return the field of that type of each event that has one."""
    return {
        event: field.name
        for event in get_args(AnyEvent)
        for field in msgspec.structs.fields(event)
        if field.type == kind
    }


_VALUE_FIELDS = _fields_of(Sealed)
_NAMED_VALUES_FIELDS = _fields_of(dict[str, Sealed])


class Codec(Values):
    """
    Turns what a run does into what its journal keeps, and back.

    One codec serves any number of runs whose values may be of the same classes, from any thread.

    Args:
        classes: Annotations whose classes may appear in values, as if each were given to :meth:`allow`.
        registry: Further classes; those given to :func:`asyncflow.register`, unless told otherwise.
    """

    __slots__ = ("_pack", "_unpack")

    def __init__(self, classes: Iterable[Any] = (), *, registry: Registry = REGISTRY) -> None:
        super().__init__(classes, registry=registry)
        self._pack: Callable[[Record], bytes] = msgspec.msgpack.Encoder(enc_hook=self._to_wire).encode
        self._unpack: Callable[[bytes], Record] = msgspec.msgpack.Decoder(Record, dec_hook=self._from_wire).decode

    # --- Values -------------------------------------------------------------------------------------------------------

    def seal(self, value: Any) -> Sealed:
        """
        Encode *value*, once, and return it together with its bytes.

        Over 64 KiB it gets the name of a blob, and keeps its bytes until someone has stored them under it.

        Raises:
            UnkeepableValue: It cannot be kept.
        """
        payload = self.encode(value)
        size = len(payload)
        blob = digest_of(payload) if size > LARGEST_INLINE_BYTES else None
        return Sealed(payload, blob=blob, size_bytes=size, value=value)

    def open(self, sealed: Any) -> Any:
        """
        Return the value in *sealed*, decoded the first time that someone asks. What is not sealed is itself.

        Raises:
            UndecodableValue: Its bytes are damaged, or need a class that is not known.
            InternalError: Its bytes are not at hand: a blob that was not loaded, or a value that was never kept.
        """
        if type(sealed) is not Sealed:
            return sealed
        value = sealed.value
        if value is UNOPENED:
            if sealed.payload is None:
                which = f"blob {sealed.blob}" if sealed.blob else "a value that was never kept (checkpoint=False)"
                raise InternalError(f"{which} was opened before its bytes were there; load it, or run its task, first")
            value = sealed.value = self.decode(sealed.payload)
        return value

    def summary(self, payload: bytes | Sealed, *, width: int = 200) -> str:
        """
        Return one line that shows a value, for listings. Runs no code of the user's, and never raises.

        Objects look like ``<orders.Receipt {'id': 7}>``, whether or not their class is known here.
        """
        if isinstance(payload, Sealed):
            sealed = payload
            if sealed.payload is not None:
                payload = sealed.payload
            elif sealed.is_open:
                try:
                    payload = self.encode(sealed.value)
                except UnkeepableValue as error:
                    return f"<{error.type_name}>"
            elif sealed.blob is not None:
                return f"<blob {sealed.blob[:12]}, {sealed.size_bytes} bytes>"
            else:
                return "<not kept>"
        return super().summary(payload, width=width)

    # --- Failures -----------------------------------------------------------------------------------------------------

    def describe(self, exc: BaseException) -> FailureRecord:
        """Return what a journal keeps of an exception, bounded in depth and size. Never fails."""
        return Describer(self.encode, self.shape).record(exc)

    def rebuild(self, record: FailureRecord) -> BaseException:
        """
        Return an exception like the one that was described: of its own class where that is built in, asyncflow's or
        registered, else a RecordedError. ``recorded_traceback`` is the traceback of the original, as text.
        """
        return Rebuilder(self.decode, self.named).error(record)

    # --- Records ------------------------------------------------------------------------------------------------------

    def encode_record(self, record: Record) -> bytes:
        """
        Return the bytes of a record. A value in it that nobody has sealed is sealed here, and never becomes a blob.

        Raises:
            UnkeepableValue: A value that nobody has sealed cannot be kept.
        """
        for event in record.events:
            kind = type(event)
            if kind in _VALUE_FIELDS:
                if type(getattr(event, _VALUE_FIELDS[kind])) is not Sealed:
                    record = self._sealed(record)
                    break
            elif kind in _NAMED_VALUES_FIELDS:
                values = getattr(event, _NAMED_VALUES_FIELDS[kind])
                if not all(type(value) is Sealed for value in values.values()):
                    record = self._sealed(record)
                    break
        try:
            return self._pack(record)
        except UnicodeEncodeError:
            # The message of a progress or the reason of a cancel may hold the name of any file.
            return self._pack(replace(record, events=[_clean(event) for event in record.events]))

    def decode_record(self, body: bytes) -> Record:
        """
        Return the record that *body* keeps. Its values stay sealed and its failures records until someone looks.

        Raises:
            UndecodableValue: It keeps none.
        """
        try:
            skim(body)
            return self._unpack(body)
        except RecursionError:
            raise UndecodableValue(f"{len(body)} bytes are not a record: they are nested too deeply") from None
        except Exception as error:
            raise UndecodableValue(f"{len(body)} bytes are not a record: {error!s:.200}") from error

    def _sealed(self, record: Record) -> Record:
        events: list[Any] = []
        for event in record.events:
            kind = type(event)
            if (field := _VALUE_FIELDS.get(kind)) is not None:
                event = replace(event, **{field: self._inline(getattr(event, field))})
            elif (field := _NAMED_VALUES_FIELDS.get(kind)) is not None:
                values: dict[str, Any] = getattr(event, field)
                event = replace(event, **{field: {name: self._inline(value) for name, value in values.items()}})
            events.append(event)
        return replace(record, events=events)

    def _inline(self, value: Any) -> Sealed:
        if type(value) is Sealed:
            return value
        payload = self.encode(value)
        return Sealed(payload, size_bytes=len(payload), value=value)

    def _to_wire(self, item: Any) -> Any:
        if type(item) is Sealed:
            if item.blob is not None:
                return item.blob, item.size_bytes
            if item.payload is not None:
                return item.payload
            if item.is_open and item.size_bytes:
                # Its bytes were dropped as durable, and it is journaled again.
                return self.encode(item.value)
            # Never kept: all that the journal has is that there was a value.
            return None
        if isinstance(item, Failure):
            return item.record(self.describe)
        raise InternalError(f"an event holds a {type(item).__name__}, which a journal has no form for")

    def _from_wire(self, wanted: type[Any], item: Any) -> Any:
        if wanted is Failure:
            return Failure(record=msgspec.convert(item, FailureRecord), rebuild=self.rebuild)
        found = class_of(item)
        if found is bytes:
            return Sealed(item, size_bytes=len(item))
        if item is None:
            return Sealed()
        if found is list:
            blob, size = item
            if type(blob) is str and type(size) is int and size >= 0:
                return Sealed(blob=blob, size_bytes=size)
        raise ValueError(f"a {found.__name__} is no {wanted.__name__}")


def _clean(event: Event) -> Event:
    """Return *event* with the lone surrogates of its texts shown as escapes, since UTF-8 cannot hold them."""
    texts = {
        field: text.encode("utf-8", "backslashreplace").decode()
        for field in event.__struct_fields__
        if type(text := getattr(event, field)) is str and not is_text(text)
    }
    return replace(event, **texts)
