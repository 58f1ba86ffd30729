"""
What every store must do: a suite of checks, for ours and for yours.

Each check is an async function that takes a factory and raises AssertionError where the store falls short. With
pytest::

    pytest.register_assert_rewrite("asyncflow.testing.stores")
    from asyncflow.testing.stores import LASTING_STORE_CHECKS, STORE_CHECKS

    @pytest.mark.parametrize("check", [*STORE_CHECKS, *LASTING_STORE_CHECKS], ids=lambda check: check.__name__)
    def test_my_store(check, tmp_path):
        asyncio.run(check(lambda: MyStore(tmp_path / "runs")))

The factory returns a new store, not yet open. All its stores look at the same place, where there is one; a place is
empty when a check begins. ``STORE_CHECKS`` are for every store, ``LASTING_STORE_CHECKS`` for those that outlive their
engine.

Over 500 lines because it is one list of promises, and who writes a store reads it from top to bottom.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

from asyncflow import messages as m
from asyncflow.codec.records import digest_of
from asyncflow.errors import (
    AsyncflowError,
    RunBusy,
    RunExists,
    RunNotFound,
    RunOvertaken,
    StoreError,
    TransactionMisuse,
)
from asyncflow.interfaces import Journal, Make, NewRun, Request, Store
from asyncflow.outcomes import Failure
from asyncflow.states import RunState

E = TypeVar("E", bound=AsyncflowError)

StoreFactory = Callable[[], Store]
"""Returns a new store, not yet open, that looks at the same place as all others of this factory."""

StoreCheck = Callable[[StoreFactory], Awaitable[None]]

STORE_CHECKS: list[StoreCheck] = []
"""What every store must do."""

LASTING_STORE_CHECKS: list[StoreCheck] = []
"""What a store must do besides if it outlives its engine and several engines share it."""

LEVELS = ("full", "process", "lazy")
_MANY = 100


def _for_every_store(check: StoreCheck) -> StoreCheck:
    STORE_CHECKS.append(check)
    return check


def _for_lasting_stores(check: StoreCheck) -> StoreCheck:
    LASTING_STORE_CHECKS.append(check)
    return check


# --- Existing -------------------------------------------------------------------------------------------------------


@_for_every_store
async def a_new_run_exists_with_its_first_record(make: StoreFactory) -> None:
    """There is no moment at which a run exists and nobody knows what it is about."""
    async with _opened(make) as store:
        journal = await _create(store, "a", at=5.0)
        assert journal.run_id == "a"
        assert await journal.records() == [_first("a", at=5.0)]
        info = await store.info("a")
        assert (info.run_id, info.flow, info.flow_ref, info.plan) == ("a", "ship", "shop:ship", "plan-1")
        assert (info.state, info.records, info.durability) == (RunState.RUNNING, 1, "full")
        assert (info.created, info.updated) == (5.0, 5.0)
        assert info.owner is not None


@_for_every_store
async def a_run_id_is_used_once(make: StoreFactory) -> None:
    """Two runs under one id would be one journal that nobody can read."""
    async with _opened(make) as store:
        journal = await _create(store, "a")
        error = await _raised(RunExists, lambda: _create(store, "a", flow="another"))
        assert error.run_id == "a" and "'a'" in str(error)
        assert (await store.info("a")).flow == "ship"
        await _append(journal, _note(1))
        assert await journal.records() == [_first("a"), _note(1)]


@_for_every_store
async def of_two_that_start_one_id_at_once_one_has_it(make: StoreFactory) -> None:
    """A client that retries its request must not start an order twice."""
    async with _opened(make) as store:
        outcomes = await asyncio.gather(*[_create(store, "a") for _ in range(5)], return_exceptions=True)
        winners = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(winners) == 1
        assert all(isinstance(outcome, RunExists) for outcome in outcomes if isinstance(outcome, BaseException))
        await _append(winners[0], _note(1))
        assert await store.read("a") == [_first("a"), _note(1)]


@_for_every_store
async def an_unknown_run_is_an_error_that_names_it(make: StoreFactory) -> None:
    """A mistyped id must never look like a run that has done nothing."""
    async with _opened(make) as store:
        await _create(store, "a")
        asked: list[Callable[[], Awaitable[object]]] = [
            lambda: store.claim("b"),
            lambda: store.info("b"),
            lambda: store.read("b"),
            lambda: store.request("b", "cancel", ""),
        ]
        for ask in asked:
            error = await _raised(RunNotFound, ask)
            assert error.run_id == "b" and "'b'" in str(error)


# --- Appending ------------------------------------------------------------------------------------------------------


@_for_every_store
async def records_come_back_as_they_were_appended(make: StoreFactory) -> None:
    """A resumed run is what its records say, in the order in which they say it."""
    wanted = [
        _first("a"),
        m.Record(
            2.5, [m.AttemptStarted(0, 1), m.AttemptStarted(1, 1), m.Progressed(0, 0.5, "half, \u00e9\u4e2d\U0001f600")]
        ),
        m.Record(2.5, [m.AttemptCancelled(0), m.AttemptTimedOut(1, True, True), m.RetryScheduled(1, 1e9 + 0.25)]),
        m.Record(3.0, []),
        m.Record(1.0, [m.CancelRequested("why not"), m.AttemptLost(1, "crash"), m.RunEnded("CANCELLED")]),
    ]
    async with _opened(make) as store:
        for level in LEVELS:
            journal = await _create(store, f"a-{level}", durability=level)
            for record in wanted[1:]:
                await _append(journal, record)
            await journal.release()
            assert await store.read(f"a-{level}") == [_first(f"a-{level}"), *wanted[1:]]


@_for_every_store
async def appends_may_be_on_their_way_at_once(make: StoreFactory) -> None:
    """A supervisor waits for each record, a lazy run for none; both keep their order."""
    async with _opened(make) as store:
        for level in LEVELS:
            journal = await _create(store, level, durability=level)
            pending = [journal.append(_note(number), {}, RunState.RUNNING) for number in range(1, 1001)]
            await asyncio.gather(*[each for each in pending if each is not None])
            await journal.release()
            assert await store.read(level) == [_first(level), *map(_note, range(1, 1001))]


@_for_every_store
async def many_runs_share_a_store(make: StoreFactory) -> None:
    """Runs commit together, and none may find another's records among its own."""
    async with _opened(make) as store:

        async def live(which: int) -> None:
            level = LEVELS[which % 3]
            journal = await _create(store, f"run-{which}", durability=level)
            for number in range(1, 21):
                await _append(journal, _note(1000 * which + number))
                if number % 7 == which % 7:
                    await asyncio.sleep(0)
            await _append(journal, _note(0), RunState.SUCCEEDED)
            await journal.release()

        await asyncio.gather(*map(live, range(_MANY)))
        for which in range(_MANY):
            wanted = [_note(1000 * which + number) for number in range(1, 21)]
            assert await store.read(f"run-{which}") == [_first(f"run-{which}"), *wanted, _note(0)]
        infos = await store.runs()
        assert {info.state for info in infos} == {RunState.SUCCEEDED} and len(infos) == _MANY


@_for_every_store
async def cancelling_who_waits_for_an_append_loses_nothing(make: StoreFactory) -> None:
    """A caller's timeout must not tear a hole into a journal, least of all someone else's."""
    async with _opened(make) as store:
        journal, other = await _create(store, "a"), await _create(store, "b")
        waiting = asyncio.ensure_future(_append(journal, _note(1)))
        beside = asyncio.ensure_future(_append(other, _note(1)))
        # Both are handed in and neither is written: a single turn of the loop is too short for any disk.
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting, beside])
        assert beside.exception() is None
        await _append(journal, _note(2))
        assert await journal.records() == [_first("a"), _note(1), _note(2)]
        assert await other.records() == [_first("b"), _note(1)]


@_for_every_store
async def large_values_are_kept_beside_the_records(make: StoreFactory) -> None:
    """
    A value of many megabytes must come back whole, and two runs that have the same one share it. Once its append is
    done it may leave memory, so a lazy run does not go ahead of it.
    """
    bodies = [bytes([which]) * 100_000 for which in range(3)]
    blobs = {digest_of(body): body for body in bodies}
    async with _opened(make) as store:
        for level in LEVELS:
            journal = await _create(store, level, durability=level)
            last = bytes(level, "ascii") * 20_000
            await _append(journal, _note(1), blobs={digest_of(last): last})
            assert await journal.blob(digest_of(last)) == last
        journal = await _create(store, "a", blobs={digest_of(bodies[0]): bodies[0]})
        other = await _create(store, "b", blobs={digest_of(bodies[0]): bodies[0]})
        await _append(journal, _note(1), blobs=blobs)
        await _append(other, _note(1))
        for digest, body in blobs.items():
            assert await journal.blob(digest) == body
            assert await store.read_blob(digest) == body
        await _raised(StoreError, lambda: journal.blob("00" * 16))
        await _raised(StoreError, lambda: store.read_blob("00" * 16))
        assert await journal.records() == [_first("a"), _note(1)]
        assert await other.records() == [_first("b"), _note(1)]


# --- Records that are made in their own commit ----------------------------------------------------------------------


@_for_every_store
async def a_record_lasts_with_what_is_written_beside_it(make: StoreFactory) -> None:
    """This is what exactly once is made of: an effect and the record of it, both or neither."""
    body = b"\x01" * 100_000
    blobs = {digest_of(body): body}
    async with _opened(make) as store:
        for level in LEVELS:
            journal = await _create(store, level, durability=level)
            early = journal.append(_note(1), {}, RunState.RUNNING)
            made = await journal.append_with(_writing(level, _note(2), blobs))
            assert made == _note(2)
            if early is not None:
                await early
            await _append(journal, _note(3))
            await journal.release()
            assert await store.read(level) == [_first(level), _note(1), _note(2), _note(3)]
            assert await store.read_blob(digest_of(body)) == body
            assert await _written(store) == [level]


@_for_every_store
async def what_raises_takes_back_its_own_writes_alone(make: StoreFactory) -> None:
    """A failing function is one task's failure; other tasks and other runs must not hear of it."""
    broken = ZeroDivisionError("broken")

    def breaking(connection: sqlite3.Connection) -> NoReturn:
        _write(connection, "broken")
        raise broken

    async with _opened(make) as store:
        journals = [await _create(store, f"run-{which}", durability=LEVELS[which % 3]) for which in range(6)]
        pending = []
        for number in (1, 2, 3):
            for journal in journals:
                pending.append(journal.append_with(_writing(f"{journal.run_id} {number}", _note(number))))
                pending.append(journal.append_with(breaking))
        answers = await asyncio.gather(*pending)
        for made, failed in zip(answers[::2], answers[1::2], strict=True):
            assert isinstance(made, m.Record) and isinstance(failed, Failure) and failed.exception is broken
        for journal in journals:
            await _append(journal, _note(4))
            await journal.release()
            assert await store.read(journal.run_id) == [_first(journal.run_id), *map(_note, range(1, 5))]
        assert await _written(store) == sorted(
            f"{journal.run_id} {number}" for journal in journals for number in (1, 2, 3)
        )


@_for_every_store
async def nobody_ends_the_transaction_but_the_store(make: StoreFactory) -> None:
    """What was committed in the middle would stay although the attempt failed, and happen again with the next."""

    def rolls_back(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE once(x UNIQUE)")
        connection.execute("INSERT INTO once VALUES (1)")
        with contextlib.suppress(sqlite3.IntegrityError):
            connection.execute("INSERT OR ROLLBACK INTO once VALUES (1)")

    def goes_on(connection: sqlite3.Connection) -> None:
        rolls_back(connection)
        _write(connection, "outside of any transaction")

    acts: list[Callable[[sqlite3.Connection], object]] = [
        *(functools.partial(_execute, sql) for sql in ("COMMIT", "END", "ROLLBACK", "BEGIN", "ATTACH '' AS other")),
        *(functools.partial(_execute, f"PRAGMA {name}") for name in ("synchronous = OFF", "journal_mode = DELETE")),
        lambda connection: connection.commit(),
        lambda connection: connection.rollback(),
        lambda connection: connection.executescript("SELECT 1"),
        lambda connection: connection.__exit__(None, None, None),
        lambda connection: connection.close(),
        lambda connection: setattr(connection, "isolation_level", None),
        rolls_back,
        goes_on,
    ]
    async with _opened(make) as store:
        journal, beside = await _create(store, "a"), await _create(store, "b")
        for number, act in enumerate(acts, start=1):
            answers = await asyncio.gather(
                beside.append_with(_writing(f"b {2 * number}", _note(2 * number))),
                journal.append_with(_writing("never", _note(number), first=act)),
                beside.append_with(_writing(f"b {2 * number + 1}", _note(2 * number + 1))),
            )
            assert isinstance(answers[1], Failure), number
            assert type(answers[1].exception) is TransactionMisuse, (number, answers[1])
        assert await journal.records() == [_first("a")]
        assert await beside.records() == [_first("b"), *map(_note, range(2, 2 * len(acts) + 2))]
        assert "never" not in await _written(store)


@_for_every_store
async def a_function_leaves_the_connection_as_it_was(make: StoreFactory) -> None:
    """The next function, and the store itself, must not read rows in a form that someone else has chosen."""

    def chooses(connection: sqlite3.Connection) -> None:
        connection.row_factory, connection.text_factory = sqlite3.Row, bytes
        connection.execute("SAVEPOINT mine")
        _write(connection, "taken back")
        connection.execute("ROLLBACK TO mine")

    async with _opened(make) as store:
        journal = await _create(store, "a")
        assert await journal.append_with(_writing("a", _note(1), first=chooses)) == _note(1)
        assert await journal.append_with(_writing("b", _note(2))) == _note(2)
        assert await _written(store) == ["a", "b"]


@_for_every_store
async def who_was_given_up_writes_nothing_beside(make: StoreFactory) -> None:
    """An engine that was overtaken would otherwise have its effect a second time."""

    def refuse(connection: sqlite3.Connection) -> NoReturn:
        raise AssertionError("a function is not called for a run that is another's")

    async with _opened(make) as store:
        old = await _create(store, "a")
        await old.release()
        await _raised(RunOvertaken, lambda: old.append_with(refuse))
        new = await store.claim("a")
        await _raised(RunOvertaken, lambda: old.append_with(refuse))
        assert await new.append_with(_writing("new", _note(1))) == _note(1)
        assert await new.records() == [_first("a"), _note(1)]


@_for_every_store
async def cancelling_who_waits_for_a_transaction_loses_nothing(make: StoreFactory) -> None:
    """It is on its way: whoever asked is gone, and what it wrote lasts with its record all the same."""
    async with _opened(make) as store:
        journal = await _create(store, "a")
        waiting = journal.append_with(_writing("a", _note(1)))
        waiting.cancel()
        await journal.append_with(_writing("b", _note(2)))
        assert await journal.records() == [_first("a"), _note(1), _note(2)]
        assert await _written(store) == ["a", "b"]


# --- Owning ---------------------------------------------------------------------------------------------------------


@_for_every_store
async def a_run_has_one_owner(make: StoreFactory) -> None:
    """Two engines that both believed to own a run would do everything twice."""
    async with _opened(make) as store:
        journal = await _create(store, "a")
        error = await _raised(RunBusy, lambda: store.claim("a"))
        assert error.run_id == "a" and error.owner and "'a'" in str(error)
        await journal.release()
        claimed = await store.claim("a")
        await _raised(RunBusy, lambda: store.claim("a"))
        await _append(claimed, _note(1))
        await claimed.release()
        assert await store.read("a") == [_first("a"), _note(1)]


@_for_every_store
async def of_many_that_claim_a_run_at_once_one_has_it(make: StoreFactory) -> None:
    """Recovery that is started twice must not resume anything twice."""
    async with _opened(make) as store:
        await (await _create(store, "a")).release()
        outcomes = await asyncio.gather(*[store.claim("a") for _ in range(10)], return_exceptions=True)
        winners = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert len(winners) == 1
        assert all(isinstance(outcome, RunBusy) for outcome in outcomes if isinstance(outcome, BaseException))
        await _append(winners[0], _note(1))
        assert await store.read("a") == [_first("a"), _note(1)]


@_for_every_store
async def a_journal_that_was_given_up_takes_nothing_more(make: StoreFactory) -> None:
    """An engine that was overtaken must not write between the records of the one that overtook it."""
    async with _opened(make) as store:
        old = await _create(store, "a")
        await old.release()
        await _raised(RunOvertaken, lambda: _append(old, _note(1)))
        new = await store.claim("a")
        await _append(new, _note(2))
        error = await _raised(RunOvertaken, lambda: _append(old, _note(3), RunState.FAILED))
        assert error.run_id == "a"
        # A second farewell must not take the run from its new owner.
        await old.release()
        await _raised(RunBusy, lambda: store.claim("a"))
        await _append(new, _note(4))
        assert await new.records() == [_first("a"), _note(2), _note(4)]
        assert (await store.info("a")).state is RunState.RUNNING


@_for_every_store
async def releasing_waits_for_what_was_appended(make: StoreFactory) -> None:
    """The next owner must find everything that the last one did, also what it did lazily."""
    async with _opened(make) as store:
        for level in LEVELS:
            journal = await _create(store, level, durability=level)
            pending = [journal.append(_note(number), {}, RunState.RUNNING) for number in range(1, 51)]
            await journal.release()
            claimed = await store.claim(level)
            assert await claimed.records() == [_first(level), *map(_note, range(1, 51))]
            await asyncio.gather(*[each for each in pending if each is not None])


@_for_every_store
async def settling_waits_for_what_was_appended(make: StoreFactory) -> None:
    """A run that goes ahead of its records has come to something only once all of them last."""
    async with _opened(make) as store:
        for level in LEVELS:
            journal = await _create(store, level, durability=level)
            await journal.settle()
            for number in range(1, 51):
                journal.append(_note(number), {}, RunState.RUNNING)
            await journal.settle()
            assert await store.read(level) == [_first(level), *map(_note, range(1, 51))]
            await _append(journal, _note(51))


# --- Listing --------------------------------------------------------------------------------------------------------


@_for_every_store
async def a_listing_shows_each_run_as_it_stands(make: StoreFactory) -> None:
    """Whoever looks must see which runs go on, which wait, and which lost their engine."""
    async with _opened(make) as store:
        assert await store.runs() == []
        shown: dict[str, RunState] = {}
        for state in (RunState.SUSPENDED, RunState.SUCCEEDED, RunState.REVERTED, RunState.CANCELLED, RunState.FAILED):
            journal = await _create(store, state.value)
            await _append(journal, _note(1), state)
            await journal.release()
            shown[state.value] = state
        for state in (RunState.RUNNING, RunState.REVERTING):
            journal = await _create(store, state.value)
            await _append(journal, _note(1), state)
            shown[state.value] = state
            journal = await _create(store, f"left {state.value}")
            await _append(journal, _note(1), state)
            await journal.release()
            shown[f"left {state.value}"] = RunState.INTERRUPTED
        infos = await store.runs()
        assert [info.run_id for info in infos] == list(shown)[::-1], "the newest comes first"
        assert {info.run_id: info.state for info in infos} == shown
        for info in infos:
            assert info == await store.info(info.run_id)
            assert (info.owner is not None) == (info.state in (RunState.RUNNING, RunState.REVERTING))
        for state in RunState:
            wanted = [run_id for run_id in shown if shown[run_id] is state][::-1]
            assert [info.run_id for info in await store.runs(state=state)] == wanted
            assert [info.run_id for info in await store.runs(state=state, limit=1)] == wanted[:1]
        assert [info.run_id for info in await store.runs(limit=3)] == list(shown)[:-4:-1]


@_for_every_store
async def a_line_counts_the_records_and_dates_the_last(make: StoreFactory) -> None:
    """A listing is where a stuck run is noticed: by when it last did anything."""
    async with _opened(make) as store:
        journal = await _create(store, "a", at=1.0)
        for number in range(1, 8):
            await _append(journal, m.Record(1.0 + number, []))
        info = await store.info("a")
        assert (info.created, info.updated, info.records) == (1.0, 8.0, 8)


# --- Plans and requests ---------------------------------------------------------------------------------------------


@_for_every_store
async def plans_are_kept_by_theirdigest_of(make: StoreFactory) -> None:
    """A run must find the plan that it began with, however often the flow has changed since."""
    async with _opened(make) as store:
        await _create(store, "a", plan="plan-1")
        await store.save_plan("plan-2", lambda: b"the second plan", run_id="a")
        await store.save_plan("plan-2", lambda: b"never looked at", run_id="a")
        assert await store.plan("plan-1") == b"body of plan-1"
        assert await store.plan("plan-2") == b"the second plan"
        await _raised(StoreError, lambda: store.plan("plan-3"))


@_for_every_store
async def a_request_reaches_the_owner_once(make: StoreFactory) -> None:
    """A cancel from elsewhere is done once, and not again at every heartbeat."""
    async with _opened(make) as store:
        await _create(store, "a")
        await _create(store, "b")
        assert await store.beat() == []
        await store.request("a", "cancel", "changed my mind")
        await store.request("b", "suspend", "going home")
        await store.request("a", "suspend", "or rather")
        assert await store.beat() == [
            Request("a", "cancel", "changed my mind"),
            Request("b", "suspend", "going home"),
            Request("a", "suspend", "or rather"),
        ]
        assert await store.beat() == []
        await store.request("a", "cancel", "at last")
        assert await store.beat(["b"]) == []  # nobody attends to it yet: it is being taken up
        assert await store.beat(["a", "b"]) == [Request("a", "cancel", "at last")]
        assert await store.beat() == []


@_for_every_store
async def a_request_waits_for_the_next_owner(make: StoreFactory) -> None:
    """Whoever cancels a run that nobody owns just now must not have to try again."""
    async with _opened(make) as store:
        journal = await _create(store, "a")
        await journal.release()
        await store.request("a", "cancel", "no longer needed")
        other = await _create(store, "b")
        await store.request("b", "suspend", "later")
        assert await store.beat() == [Request("b", "suspend", "later")]
        assert await store.beat() == []
        await other.release()
        journal = await store.claim("a")
        assert await store.beat() == [Request("a", "cancel", "no longer needed")]
        # What was heard is not heard again after a release, or a run suspended by request could never be resumed.
        await journal.release()
        await store.claim("a")
        assert await store.beat() == []


@_for_every_store
async def requests_end_with_their_run(make: StoreFactory) -> None:
    """A run that is started over must not be cancelled by what was asked of its first life."""
    async with _opened(make) as store:
        journal = await _create(store, "a")
        await store.request("a", "cancel", "too late")
        await _append(journal, _note(1), RunState.SUCCEEDED)
        await journal.release()
        # From elsewhere, by who saw it going on a moment ago.
        await store.request("a", "cancel", "too late by far")
        await store.claim("a")
        assert await store.beat() == []


# --- Outliving the engine ---------------------------------------------------------------------------------------------


@_for_lasting_stores
async def everything_is_there_after_reopening(make: StoreFactory) -> None:
    """That is what a journal is for."""
    body = b"x" * 70_000
    for level in LEVELS:
        async with _opened(make) as store:
            journal = await _create(store, level, durability=level, blobs={digest_of(body): body})
            for number in range(1, 11):
                await _append(journal, _note(number), RunState.REVERTING)
        # Closing has written and released it.
        async with _opened(make) as store:
            info = await store.info(level)
            assert (info.state, info.records, info.owner) == (RunState.INTERRUPTED, 11, None)
            journal = await store.claim(level)
            assert await journal.records() == [_first(level), *map(_note, range(1, 11))]
            assert await journal.blob(digest_of(body)) == body
            assert await store.plan("plan-1") == b"body of plan-1"
            await _append(journal, _note(11), RunState.REVERTED)
        async with _opened(make) as store:
            assert await store.read(level) == [_first(level), *map(_note, range(1, 12))]
            assert (await store.info(level)).state is RunState.REVERTED


@_for_lasting_stores
async def engines_see_each_other_as_alive(make: StoreFactory) -> None:
    """Two engines on one file, in one process or in two, must not take each other for dead."""
    async with _opened(make) as one, _opened(make) as two:
        journal = await _create(one, "a")
        assert (await two.info("a")).state is RunState.RUNNING
        assert (await two.info("a")).owner is not None
        await _raised(RunBusy, lambda: two.claim("a"))
        await _raised(RunExists, lambda: _create(two, "a"))
        await two.request("a", "suspend", "from two")
        assert await two.beat() == []
        assert await one.beat() == [Request("a", "suspend", "from two")]
        await _append(journal, _note(1), RunState.SUSPENDED)
        await journal.release()
        taken = await two.claim("a")
        await _append(taken, _note(2))
        await _raised(RunOvertaken, lambda: _append(journal, _note(3)))
        assert await one.read("a") == await two.read("a") == [_first("a"), _note(1), _note(2)]


@_for_lasting_stores
async def an_engine_that_closes_leaves_its_runs_to_others(make: StoreFactory) -> None:
    """A closed engine is not a living owner, though its process goes on."""
    async with _opened(make) as one:
        other = make()
        await other.open()
        await _create(other, "a")
        await _raised(RunBusy, lambda: one.claim("a"))
        await other.close()
        assert (await one.info("a")).state is RunState.INTERRUPTED
        journal = await one.claim("a")
        assert await journal.records() == [_first("a")]


@_for_lasting_stores
async def a_known_plan_is_not_made_again(make: StoreFactory) -> None:
    """Recording a plan of 100,000 tasks costs more than starting a run of it should."""

    def refuse() -> bytes:
        raise AssertionError("the plan is there already")

    async with _opened(make) as one, _opened(make) as two:
        await _create(one, "a")
        for which, store in enumerate((one, two, one)):
            await store.create(_new(f"b-{which}"), refuse, _first(f"b-{which}"), {})
            await store.save_plan("plan-1", refuse, run_id="a")


@_for_lasting_stores
async def two_engines_write_at_once(make: StoreFactory) -> None:
    """Processes that share a file wait for each other; none of them hears of it."""
    async with _opened(make) as one, _opened(make) as two:

        async def live(store: Store, which: int) -> None:
            journal = await _create(store, f"run-{which}", durability=LEVELS[which % 3])
            for number in range(1, 31):
                await _append(journal, _note(number), blobs={digest_of(b"%d" % number): b"%d" % number})
            await journal.release()

        await asyncio.gather(*[live((one, two)[which % 2], which) for which in range(10)])
        for which in range(10):
            assert await one.read(f"run-{which}") == [_first(f"run-{which}"), *map(_note, range(1, 31))]


# --- What the checks are made of ------------------------------------------------------------------------------------


@asynccontextmanager
async def _opened(make: StoreFactory) -> AsyncGenerator[Store, None]:
    store = make()
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _create(store: Store, run_id: str, *, at: float = 0.0, **given: Any) -> Journal:
    blobs: Mapping[str, bytes] = given.pop("blobs", {})
    new = _new(run_id, **given)
    return await store.create(new, lambda: b"body of " + new.plan.encode(), _first(run_id, at=at), blobs)


def _new(run_id: str, *, flow: str = "ship", plan: str = "plan-1", durability: str = "full") -> NewRun:
    return NewRun(run_id=run_id, flow=flow, flow_ref="shop:ship", plan=plan, durability=durability)


def _first(run_id: str, *, at: float = 0.0) -> m.Record:
    return m.Record(at, [m.RunStarted(run_id, "ship", "plan-1", {}, None)])


def _note(number: int) -> m.Record:
    return m.Record(float(number), [m.AttemptStarted(number, 1)])


async def _append(
    journal: Journal,
    record: m.Record,
    state: RunState = RunState.RUNNING,
    *,
    blobs: Mapping[str, bytes] | None = None,
) -> None:
    pending = journal.append(record, blobs or {}, state)
    if pending is not None:
        await pending


def _write(connection: sqlite3.Connection, text: str) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS written(text)")
    connection.execute("INSERT INTO written VALUES (?)", (text,))


def _execute(sql: str, connection: sqlite3.Connection) -> object:
    return connection.execute(sql)


def _writing(
    text: str,
    record: m.Record,
    blobs: Mapping[str, bytes] | None = None,
    *,
    first: Callable[[sqlite3.Connection], object] | None = None,
) -> Make:
    """Return what does *first*, writes *text* and makes *record*."""

    def make(connection: sqlite3.Connection) -> tuple[m.Record, Mapping[str, bytes]]:
        if first is not None:
            first(connection)
        _write(connection, text)
        return record, blobs or {}

    return make


async def _written(store: Store) -> list[str]:
    """Return all that was written in transactions that were kept, in order, and forget it."""
    found: list[str] = []

    def look(connection: sqlite3.Connection) -> tuple[m.Record, Mapping[str, bytes]]:
        found.extend(text for (text,) in connection.execute("DELETE FROM written RETURNING text"))
        return m.Record(0.0, []), {}

    journal = await _create(store, f"look-{len(await store.runs())}")
    await journal.append_with(look)
    await journal.release()
    return sorted(found)


async def _raised(kind: type[E], act: Callable[[], Awaitable[object]]) -> E:
    """Return the exception of this *kind* that *act* raises."""
    try:
        await act()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was not raised")
