"""A journal with all that a journal may hold, and what can be asked of it, to be compared with what was true."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

import asyncflow as af
from asyncflow import messages as m
from asyncflow.codec import Codec
from asyncflow.codec.records import digest_of
from asyncflow.errors import AsyncflowError, RunNotFound
from asyncflow.interfaces import NewRun, RunInfo
from asyncflow.states import RunState
from asyncflow.stores.sqlite import SqliteJournal, SqliteStore

BLOBS = {digest_of(body): body for body in (b"x" * 70_000, bytes(range(256)) * 30)}
PLANS = {f"plan-{number}": f"the plan {number}, ".encode() * 20 for number in range(3)}
_ENDS = (RunState.SUCCEEDED, RunState.REVERTED, RunState.SUSPENDED, RunState.RUNNING, RunState.REVERTING)


is_open = True
"""Whether bodies of :data:`waiting` end."""


@af.task
async def patient() -> int:
    if not is_open:
        await asyncio.get_running_loop().create_future()
    return 1


@af.flow
def waiting() -> int:
    """A flow that a resume finds by its name, in a module that can be imported."""
    return patient()


def _record(rng: random.Random, number: int) -> m.Record:
    return m.Record(float(number), [m.Progressed(number, 0.5, "x" * rng.choice((0, 5, 30, 300)))])


async def write(store: SqliteStore, rng: random.Random, *, longest: int) -> None:
    """
    Fill a store with runs of every state, level and length; one has *longest* records, many others a few.

    They take turns, so that their records lie on pages that change again and again.
    """
    journals: list[tuple[SqliteJournal, int]] = []
    for number in range(20):
        run_id = f"run-{number}" if number % 3 else f"the order of customer {number} and what came of it"
        ref = f"shop.flows:flow{number}" if number % 2 else None
        level = ("full", "process", "lazy")[number % 3]
        plan = f"plan-{number % 3}"
        new = NewRun(run_id=run_id, flow=f"flow{number}", flow_ref=ref, plan=plan, durability=level)
        journal = await store.create(new, PLANS[plan].__bytes__, _record(rng, 0), {})
        journals.append((journal, longest if number == 3 else rng.randrange(1, 20)))
    for number in range(1, longest + 1):
        for place, (journal, count) in enumerate(journals):
            if number <= count:
                state = _ENDS[place % len(_ENDS)] if number == count else RunState.RUNNING
                blobs = BLOBS if place % 7 == 1 and number == 1 else {}
                journal.append(_record(rng, number), blobs, state)
        assert store._writer is not None
        await store._writer.drain()  # also the lazy ones, so that the file is the same each time
    for place, (journal, _) in enumerate(journals):
        if place % 4:
            await journal.release()


def make(path: Path, rng: random.Random, *, longest: int = 40) -> None:
    """Leave at *path* the database file of a process that died right after its log had been copied."""

    async def main() -> None:
        store = SqliteStore(path.with_name("living.db"), codec=Codec())
        await store.open()
        try:
            await write(store, rng, longest=longest)
            assert store._database is not None
            await store._database.fetch("PRAGMA wal_checkpoint(TRUNCATE)")
            shutil.copy(path.with_name("living.db"), path)
        finally:
            await store.close()

    asyncio.run(main())


def lay_out(path: Path, files: Mapping[str, bytes | None]) -> None:
    """Write a journal's files: suffix to bytes, or None for one that is not to be there."""
    for suffix, body in files.items():
        file = Path(f"{path}{suffix}")
        if body is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(body)


@attrs.frozen
class Answers:
    """What a journal answers: the runs, newest first, and question to answer; an error of ours is an answer too."""

    runs: list[RunInfo] | AsyncflowError
    others: Mapping[tuple[str, str], Any]


def _unowned(info: RunInfo) -> RunInfo:
    # Who owns a run is for the moment, and not what is kept.
    return attrs.evolve(info, owner=None)


async def _asked(question: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await question()
    except AsyncflowError as error:
        return error


async def ask(path: Path, run_ids: list[str]) -> Answers | AsyncflowError:
    """Open the journal at *path* and ask it everything; or return why it cannot be opened."""
    store = SqliteStore(path, codec=Codec())
    try:
        await store.open()
    except AsyncflowError as error:
        return error
    try:
        runs = await _asked(store.runs)
        if isinstance(runs, list):
            runs = [_unowned(info) for info in runs]
        others: dict[tuple[str, str], Any] = {}
        for run_id in run_ids:
            info = await _asked(lambda run_id=run_id: store.info(run_id))  # type: ignore[misc]
            others["info", run_id] = _unowned(info) if isinstance(info, RunInfo) else info
            others["records", run_id] = await _asked(lambda run_id=run_id: store.read(run_id))  # type: ignore[misc]
        for state in (RunState.SUCCEEDED, RunState.INTERRUPTED):
            found = await _asked(lambda state=state: store.runs(state=state))  # type: ignore[misc]
            others["runs", state.value] = [_unowned(info) for info in found] if isinstance(found, list) else found
        for digest in BLOBS:
            others["blob", digest] = await _asked(lambda digest=digest: store.read_blob(digest))  # type: ignore[misc]
        for name in PLANS:
            others["plan", name] = await _asked(lambda name=name: store.plan(name))  # type: ignore[misc]
        return Answers(runs, others)
    finally:
        with contextlib.suppress(AsyncflowError):
            await store.close()


def lies(found: Answers | AsyncflowError, truth: Answers) -> Iterator[str]:
    """Yield each answer that is neither the truth nor an error that says that something is wrong."""
    if isinstance(found, AsyncflowError):
        return
    assert isinstance(truth.runs, list)
    if isinstance(found.runs, list):
        true = {info.run_id: info for info in truth.runs}
        whole = [info for info in found.runs if info.damage is None]
        if len(found.runs) != len(truth.runs):
            yield f"{len(truth.runs)} runs have become {len(found.runs)}"
        yield from (f"{info} was {true.get(info.run_id)}" for info in whole if true.get(info.run_id) != info)
        places = [list(true).index(info.run_id) for info in whole if info.run_id in true]
        if places != sorted(places):
            yield f"the order of the runs has become {places}"
    for question, answer in found.others.items():
        expected = truth.others[question]
        if isinstance(answer, AsyncflowError):
            if isinstance(answer, RunNotFound):
                yield f"{question}: {answer}"
        elif question[0] == "runs":
            # Runs that are damaged are told apart; each of the others is in the list.
            extra = [info for info in answer if info.damage is None and info not in expected]
            listed = {info.run_id for info in answer}
            missing = [info.run_id for info in expected if info.run_id not in listed]
            hidden = [run_id for run_id in missing if found.others["info", run_id] == truth.others["info", run_id]]
            # One whose id is damaged is there under another.
            if extra or len(hidden) > sum(info.damage is not None for info in answer):
                yield f"{question}: {extra} are too many, {hidden} are hidden"
        elif answer != expected:
            yield f"{question}: {str(answer)[:300]} was {str(expected)[:300]}"
