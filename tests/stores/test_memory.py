"""What is particular to journals in memory."""

from __future__ import annotations

import asyncio

import pytest

from asyncflow import messages as m
from asyncflow.errors import RunNotFound, StoreError
from asyncflow.interfaces import NewRun, Request
from asyncflow.states import RunState
from asyncflow.stores.memory import MemoryJournal, MemoryStore


async def create(store: MemoryStore, run_id: str) -> MemoryJournal:
    new = NewRun(run_id=run_id, flow="ship", flow_ref=None, plan=f"plan-of-{run_id}", durability="full")
    return await store.create(new, lambda: f"body of {run_id}".encode(), m.Record(0.0, []), {})


async def end(journal: MemoryJournal, state: RunState = RunState.SUCCEEDED) -> None:
    journal.append(m.Record(1.0, []), {}, state)
    await journal.release()


def test_an_append_is_durable_at_once() -> None:
    """A chain of trivial tasks in memory must not pay a turn of the loop for each record."""

    async def main() -> None:
        journal = await create(MemoryStore(), "a")
        record = m.Record(1.0, [m.AttemptStarted(0, 1)])
        assert journal.append(record, {}, RunState.RUNNING) is None
        assert (await journal.records())[-1] is record, "nothing is encoded or copied"

    asyncio.run(main())


def test_only_the_last_ended_runs_are_kept() -> None:
    """A service that runs for months in memory must not keep all that it ever did."""

    async def main() -> None:
        store = MemoryStore(keep=2)
        going, standing = await create(store, "going"), await create(store, "standing")
        await end(standing, RunState.SUSPENDED)
        for run_id in "abcd":
            await end(await create(store, run_id))
        assert [info.run_id for info in await store.runs()] == ["d", "c", "standing", "going"]
        with pytest.raises(RunNotFound, match=r"there is no run 'a' in memory; .* keeps the last 2 that ended"):
            await store.claim("a")
        # Looked at again, it is the last to have ended.
        await (await store.claim("c")).release()
        await end(going)
        assert [info.run_id for info in await store.runs(state=RunState.SUCCEEDED)] == ["c", "going"]
        with pytest.raises(StoreError, match="has a plan 'plan-of-a'"):
            await store.plan("plan-of-a")

    asyncio.run(main())


def test_no_ended_run_need_be_kept() -> None:
    """Who only wants the value pays for nothing else."""

    async def main() -> None:
        store = MemoryStore(keep=0)
        await end(await create(store, "a"))
        assert await store.runs() == []
        await create(store, "a")

    asyncio.run(main())
    with pytest.raises(ValueError, match="keep=-1"):
        MemoryStore(keep=-1)


def test_a_request_for_a_run_that_is_gone_is_gone_with_it() -> None:
    """A heartbeat must not stumble over what was asked of a run that has long ended."""

    async def main() -> None:
        store = MemoryStore(keep=1)
        await end(await create(store, "a"))
        await store.request("a", "cancel", "too late")
        await end(await create(store, "b"))
        assert await store.beat() == []
        store._requests.append(Request("gone", "cancel", "whatever way it came to be there"))
        assert await store.beat() == []

    asyncio.run(main())


def test_a_plan_is_only_made_for_who_asks() -> None:
    """Nothing is encoded in memory, and a plan of 100,000 tasks least of all."""

    async def main() -> None:
        store = MemoryStore()
        made: list[int] = []
        new = NewRun(run_id="a", flow="ship", flow_ref=None, plan="p", durability="full")
        await store.create(new, lambda: made.append(1) or b"body", m.Record(0.0, []), {})
        assert not made
        assert await store.plan("p") == b"body"

    asyncio.run(main())


def test_a_store_and_its_journals_say_how_they_are() -> None:
    """What stands in a debugger should answer the first question."""

    async def main() -> None:
        store = MemoryStore()
        journal = await create(store, "a")
        assert repr(journal) == "<MemoryJournal of run 'a': owned, 1 records>"
        await end(journal)
        assert repr(journal) == "<MemoryJournal of run 'a': given up, 2 records>"
        assert repr(store) == "<MemoryStore: 1 runs, 1 of them ended>"

    asyncio.run(main())
