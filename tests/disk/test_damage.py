"""A database file that was cut or has turned bytes tells the truth or names what is wrong, and never anything else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncflow.errors import AsyncflowError
from tests.disk.truth import Answers, ask, lay_out, lies, make

_SHARE = 150
_WHOLE = 20_000


def _cuts(rng: random.Random, whole: bytes) -> Iterator[tuple[str, bytes]]:
    while True:
        end = rng.choice((rng.randrange(len(whole)), rng.randrange(0, len(whole), 4096), rng.randrange(200)))
        yield f"cut at {end}", whole[:end]


def _turned(rng: random.Random, whole: bytes) -> Iterator[tuple[str, bytes]]:
    while True:
        # A page's header and the list of its rows decide over all that is on it, and are few of its bytes.
        page = rng.randrange(0, len(whole), 4096)
        place = rng.choice((rng.randrange(len(whole)), page + rng.randrange(40), rng.randrange(100)))
        mask = rng.choice((1 << rng.randrange(8), rng.randrange(1, 256)))
        yield f"{mask:#04x} at {place}", whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :]


async def _found_lies(folder: Path, count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    path = folder / "runs.db"
    whole = (folder / "whole.db").read_bytes()
    lay_out(path, {"": whole})
    found = await ask(path, [])
    assert isinstance(found, Answers) and isinstance(found.runs, list) and len(found.runs) == 20
    run_ids = [info.run_id for info in found.runs]
    lay_out(path, {"": whole})
    truth = await ask(path, run_ids)
    assert isinstance(truth, Answers)
    assert not any(isinstance(answer, AsyncflowError) for answer in truth.others.values())
    wrong: list[str] = []
    cuts, turned = _cuts(rng, whole), _turned(rng, whole)
    for number in range(count):
        what, damaged = next(turned if number % 10 else cuts)
        lay_out(path, {"": damaged, "-wal": None, "-shm": None, "-owners": b"" if number % 2 else None})
        if not damaged and not number % 2:
            continue  # an empty file with nothing beside it was never a journal
        async with asyncio.timeout(60):
            wrong += [f"{what}: {lie}" for lie in lies(await ask(path, run_ids), truth)]
    return wrong


def _check(folder: Path, count: int, seed: int) -> None:
    make(folder / "whole.db", random.Random(seed))
    wrong = asyncio.run(_found_lies(folder, count, seed))
    assert not wrong, f"{len(wrong)} lies, such as\n" + "\n".join(wrong[:10])


def test_a_damaged_file_never_lies(tmp_path: Path) -> None:
    """Who goes on from a journal that is silently wrong does wrong things in the name of durability."""
    _check(tmp_path, _SHARE, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_damaged_file_never_lies_wherever_it_is_damaged(tmp_path: Path, seed: int) -> None:
    """The same at 20,000 places in ten files."""
    _check(tmp_path, _WHOLE // 10, 100 + seed)
