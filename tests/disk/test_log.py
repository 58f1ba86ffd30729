"""A write-ahead log that was cut anywhere shows what was acknowledged up to some moment, and never a mixture."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest

from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.codec.records import digest_of
from asyncflow.interfaces import NewRun
from asyncflow.states import RunState
from asyncflow.stores.sqlite import SqliteJournal, SqliteStore
from tests.disk.truth import lay_out
from tests.stores.journals import opened

_TAIL_BYTES = 16 << 10


def _record(number: int, words: str = "") -> m.Record:
    return m.Record(float(number), [m.Progressed(number, 0.5, words)])


@attrs.frozen
class History:
    """
    What was acknowledged, in order: after each acknowledgement, how long the log was and how many records each run had.

    ``blobs`` has digest to bytes of what record number 3 of each run came with.
    """

    moments: list[tuple[int, dict[str, int]]]
    blobs: dict[str, bytes]

    def at(self, log_bytes: int) -> dict[str, int]:
        """Return what had been acknowledged when the log was no longer than this."""
        return max((moment for moment in self.moments if moment[0] <= log_bytes), key=lambda moment: moment[0])[1]


def _body(run_id: str) -> bytes:
    return run_id.encode() * 20_000


def _size_of_log(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def write(path: Path, rng: random.Random, *, commits: int) -> History:
    """Leave at *path* a database, its log and its index of the log, as a process that dies leaves them."""
    history = History([], {digest_of(_body(f"run-{number}")): _body(f"run-{number}") for number in range(6)})
    living = path.with_name("living.db")

    async def main() -> None:
        store = SqliteStore(living, codec=Codec())
        await store.open()
        try:
            assert store._writer is not None
            # The log begins here; it is not to be copied while it is filled.
            await store._writer.checkpoint()
            journals: dict[str, SqliteJournal] = {}
            counts: dict[str, int] = {}
            history.moments.append((0, {}))
            for number in range(commits):
                if len(journals) < 6 and (not journals or rng.random() < 0.1):
                    run_id = f"run-{len(journals)}"
                    new = NewRun(run_id=run_id, flow="ship", flow_ref=None, plan="plan", durability="full")
                    journals[run_id] = await store.create(new, lambda: b"the plan", _record(0), {})
                    counts[run_id] = 1
                else:
                    # One or several runs in one commit.
                    together: list[asyncio.Future[None]] = []
                    for run_id in rng.sample(list(journals), rng.randrange(1, len(journals) + 1)):
                        count = counts[run_id]
                        body = _body(run_id)
                        blobs = {digest_of(body): body} if count == 3 else {}
                        state = rng.choice((RunState.RUNNING, RunState.REVERTING))
                        words = f"{run_id} {number} " * rng.choice((1, 1, 1, 200))
                        written = journals[run_id].append(_record(count, words), blobs, state)
                        assert written is not None
                        together.append(written)
                        counts[run_id] = count + 1
                    await asyncio.gather(*together)
                history.moments.append((_size_of_log(living), dict(counts)))
            for suffix in ("", "-wal", "-shm"):
                shutil.copy(f"{living}{suffix}", f"{path}{suffix}")
        finally:
            await store.close()

    asyncio.run(main())
    return history


async def _check(folder: Path, history: History, ends: Iterable[int], rng: random.Random) -> None:
    whole, log, index = ((folder / f"whole.db{suffix}").read_bytes() for suffix in ("", "-wal", "-shm"))
    path = folder / "runs.db"
    async with opened(folder / "whole.db") as store:
        told = {info.run_id: await store.read(info.run_id) for info in await store.runs()}
    for end in ends:
        # What SQLite makes of the log to find things in it is made anew, whatever is found there.
        leftover = rng.choice((None, index, b"", rng.randbytes(32 << 10)))
        lay_out(
            path, {"": whole, "-wal": log[:end], "-shm": leftover, "-owners": rng.choice((b"", rng.randbytes(100)))}
        )
        async with opened(path) as store:
            infos = {info.run_id: info for info in await store.runs()}
            counts = {run_id: info.records for run_id, info in infos.items()}
            acknowledged = history.at(end)
            # As it was at one moment for all runs together, and not before what was acknowledged by then.
            assert counts in [moment for _, moment in history.moments], f"cut at {end}: {counts} was at no time"
            assert all(counts.get(run_id, 0) >= count for run_id, count in acknowledged.items()), f"cut at {end}"
            for run_id, count in counts.items():
                assert infos[run_id].damage is None
                assert await store.read(run_id) == told[run_id][:count], f"cut at {end}: run {run_id!r}"
                if count > 3:
                    body = _body(run_id)
                    assert await store.read_blob(digest_of(body)) == body
            if counts:
                assert await store.plan("plan") == b"the plan"
                journal = await store.claim(next(iter(counts)))
                written = journal.append(_record(999), {}, RunState.RUNNING)
                assert written is not None
                await written
                assert len(await journal.records()) == counts[journal.run_id] + 1


def _cut(folder: Path, seed: int, *, commits: int, ends: int, tail_step: int) -> None:
    rng = random.Random(seed)
    history = write(folder / "whole.db", rng, commits=commits)
    size = _size_of_log(folder / "whole.db")
    tail = range(max(0, size - _TAIL_BYTES), size + 1, tail_step)
    anywhere = [rng.randrange(size) for _ in range(ends)]
    asyncio.run(_check(folder, history, [*anywhere, *tail], rng))


def test_a_log_that_was_cut_shows_what_was_so_at_some_moment(tmp_path: Path) -> None:
    """A power cut ends a log anywhere; what was acknowledged before stays, and nothing is half there."""
    _cut(tmp_path, 1, commits=60, ends=40, tail_step=419)


@pytest.mark.slow
def test_a_log_cut_at_every_byte_of_its_end_shows_what_was_so_at_some_moment(tmp_path: Path) -> None:
    """The same at 4,000 places and at every byte of the last 16 KiB."""
    _cut(tmp_path, 2, commits=150, ends=4_000, tail_step=1)
