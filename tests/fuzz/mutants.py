"""Bytes that are nearly right: what was once valid, with what disks, programs and people do to it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

# Headers of msgpack that announce more than there is, types that there are not, and nesting.
MSGPACK = (
    *(
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff",
        b"\xc6\xff\xff\xff\xf0",
        b"\xdb\xff\xff\xff\xff",
        b"\xdc\xff\xff",
    ),
    *(b"\xc1", b"\xc9\x00\x00\x00\x01\x10", b"\xd4\x05\x00", b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"),
    *(b"\x91" * 600, b"\x81\xa1a" * 5_000),
)
TEXT = (
    *(b"[" * 100_000, b"-" * 3_000, b"(" * 250, b"not " * 1_000, b"9" * 6_000, b'{"a":' * 3_000),
    *(
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"=",
        b"'",
        b"\\N{",
        b"1e999",
        b" * 9999999999",
        b"'%99999999999d' % 1",
        b"--",
    ),
)


def mutants(seeds: Sequence[bytes], words: Sequence[bytes], rng: random.Random) -> Iterator[bytes]:
    """Yield without end: each is one of *seeds* after one to four changes, some of which bring one of *words* in."""
    seeds = list(seeds)
    while True:
        body = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            at = rng.randrange(len(body) + 1)
            match rng.randrange(8):
                case 0 | 1 if at < len(body):
                    body[at] ^= 1 << rng.randrange(8)
                case 2 if at < len(body):
                    body[at] = rng.randrange(256)
                case 3:
                    del body[at:]
                case 4:
                    del body[at : at + rng.randrange(1, 9)]
                case 5:
                    other = rng.choice(seeds)
                    begin = rng.randrange(len(other) + 1)
                    body[at : at + rng.randrange(9)] = other[begin : begin + rng.randrange(1, 40)]
                case 6:
                    word = rng.choice(words)
                    body[at : at + len(word)] = word
                case _:
                    body[at:at] = rng.choice(words)
        yield bytes(body)
