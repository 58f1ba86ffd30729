"""``ctx.transaction``: what a function writes lasts with its task's ending, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncflow as af
from asyncflow import messages as m
from asyncflow.graph.record import digest_of
from asyncflow.machine.replay import fold
from asyncflow.stores.sqlite import SqliteStore
from asyncflow.stores.writer import Writer
from tests.machine.stage import check_order
from tests.runtime.loops import until


@pytest.fixture(params=["memory", "file"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """Where the engine keeps its journal, if it keeps it anywhere."""
    return tmp_path / "runs.db" if request.param == "file" else None


def add(connection: sqlite3.Connection, amount: int) -> int:
    """Add a line to a ledger and return its sum."""
    connection.execute("CREATE TABLE IF NOT EXISTS ledger(amount)")
    connection.execute("INSERT INTO ledger VALUES (?)", (amount,))
    return total(connection)


def total(connection: sqlite3.Connection) -> int:
    [(found,)] = connection.execute("SELECT sum(amount) FROM ledger")
    return int(found)


def lines(connection: sqlite3.Connection) -> list[int]:
    connection.execute("CREATE TABLE IF NOT EXISTS ledger(amount)")
    return [amount for (amount,) in connection.execute("SELECT amount FROM ledger ORDER BY rowid")]


@af.task
async def read(ctx: af.Context) -> list[int]:
    return ctx.transaction(lines)


ledger = af.flow(name="ledger")(lambda: read())


def written(file: Path) -> list[int]:
    """Return the ledger as another process would find it."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return lines(connection)


@af.task
async def deposit(ctx: af.Context, amount: int) -> int:
    return ctx.transaction(add, amount)


@deposit.revert
async def withdraw(ctx: af.Context, amount: int) -> int:
    return ctx.transaction(add, -amount)


@af.task
def deposit_from_thread(ctx: af.Context, amount: int) -> int:
    return ctx.transaction(add, amount)


@af.task(executor="inline")
def deposit_inline(amount: int) -> int:
    return af.current().transaction(add, amount=amount)


@af.task
async def fail(after: object) -> None:
    raise RuntimeError("later")


async def failure(engine: af.Engine, flow: Any, inputs: dict[str, Any] | None = None) -> Exception:
    """Return what *flow* fails with."""
    with pytest.raises(af.RunFailed) as failed:
        await engine.run(flow, inputs)
    (error,) = failed.value.exceptions
    return error


# --- What it gives ----------------------------------------------------------------------------------------------------


def test_what_the_function_returns_is_the_value(path: Path | None) -> None:
    """The next task depends on the value as on any other, wherever the body ran."""

    @af.flow
    def three(amount: int) -> int:
        return deposit_inline(deposit_from_thread(deposit(amount)))

    async def main() -> None:
        async with af.Engine(path) as engine:
            run = await engine.start(three, {"amount": 1}, run_id="a")
            assert await run == 4
            assert await run.task("deposit") == 1
            assert await engine.run(ledger) == [1, 1, 2]
            assert await engine.resume("a", three) == 4
            assert await engine.run(ledger) == [1, 1, 2]

    asyncio.run(main())


def test_the_function_knows_whose_it_is(path: Path | None) -> None:
    """It logs and names rows as the body would."""

    def whose(connection: sqlite3.Connection) -> str:
        return af.current().idempotency_key

    @af.task
    async def ask(ctx: af.Context) -> str:
        return ctx.transaction(whose)

    async def main() -> None:
        async with af.Engine(path) as engine:
            assert await engine.run(af.flow(name="one")(lambda: ask()), run_id="a") == "a/ask#1"

    asyncio.run(main())


@pytest.mark.parametrize("level", ["full", "process", "lazy"])
def test_the_journal_reads_as_if_nothing_were_special(tmp_path: Path, level: str) -> None:
    """Replay is living: whoever folds the records has the machine that wrote them, transactions or not."""

    @af.flow
    def wide() -> list[int]:
        return [deposit_from_thread(deposit.named(f"d{n}")(n)) for n in range(100)]

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", durability=level) as engine:
            run = await engine.start(wide, run_id="a")
            await run
            records = await engine._store.read("a")
            plan = wide.compile()
            check_order(plan, records)
            folded = fold(records, {digest_of(plan): plan})
            assert folded.states == run.supervisor.machine.states
            assert folded.attempts == run.supervisor.machine.attempts
            assert await engine.resume("a", wide) == await run

    asyncio.run(main())
    assert sorted(written(tmp_path / "runs.db"))[:3] == [0, 0, 1] and len(written(tmp_path / "runs.db")) == 200


def test_a_large_value_is_kept_in_the_same_commit(tmp_path: Path) -> None:
    """A record whose blob is missing could never be read again."""

    def long(connection: sqlite3.Connection) -> bytes:
        add(connection, 1)
        return b"x" * 100_000

    @af.task
    async def make(ctx: af.Context) -> bytes:
        return ctx.transaction(long)

    flow = af.flow(name="one")(lambda: make())

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            assert len(await engine.run(flow, run_id="a")) == 100_000
        async with af.Engine(tmp_path / "runs.db") as engine:
            assert await engine.resume("a", flow) == b"x" * 100_000

    asyncio.run(main())
    assert written(tmp_path / "runs.db") == [1]


def test_observers_hear_of_it_once_it_lasts(tmp_path: Path) -> None:
    """Whoever reacts to an ending finds what it wrote."""
    file, seen = tmp_path / "runs.db", list[list[int]]()

    def look(happening: af.Happening) -> None:
        if happening.kind == "AttemptSucceeded":
            seen.append(written(file))

    async def main() -> None:
        async with af.Engine(file, observers=[look]) as engine:
            await engine.run(af.flow(name="one")(lambda: deposit(5)))

    asyncio.run(main())
    assert seen == [[5]]


def test_a_run_that_is_stepped_through_commits_them_too(path: Path | None) -> None:
    """``engine.steps()`` shows the ending in the step after the body."""

    async def main() -> None:
        async with af.Engine(path) as engine:
            seen = [
                h.kind async for step in engine.steps(af.flow(name="one")(lambda: deposit(5))) for h in step.happened
            ]
            assert seen.count("AttemptSucceeded") == 1
            assert await engine.run(ledger) == [5]

    asyncio.run(main())


# --- What undoes it ---------------------------------------------------------------------------------------------------


def test_what_it_raises_takes_it_back_and_fails_the_attempt(path: Path | None) -> None:
    """``on=`` judges the function's exception as it does the body's, and the attempt that succeeds counts alone."""
    calls: list[int] = []

    def shaky(connection: sqlite3.Connection) -> int:
        calls.append(add(connection, 7))
        if len(calls) < 3:
            raise ConnectionError("not yet")
        return calls[-1]

    @af.task(retry=af.Retry(3, on=(ConnectionError,)))
    async def try_it(ctx: af.Context) -> int:
        return ctx.transaction(shaky)

    async def main() -> None:
        async with af.Engine(path) as engine:
            run = await engine.start(af.flow(name="one")(lambda: try_it()))
            assert await run == 7
            assert calls == [7, 7, 7]
            assert await engine.run(ledger) == [7]

    asyncio.run(main())


def test_a_value_that_cannot_be_kept_takes_it_back(tmp_path: Path) -> None:
    """The effect would be there and its record would not, for good: no attempt could ever end."""
    calls: list[int] = []

    def odd(connection: sqlite3.Connection) -> object:
        calls.append(add(connection, 1))
        return object()

    @af.task(retry=af.Retry(3))
    async def make(ctx: af.Context) -> object:
        return ctx.transaction(odd)

    @af.task(provides=("a", "b"), retry=af.Retry(3))
    async def promise(ctx: af.Context) -> Any:
        return ctx.transaction(add, 1)

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            error = await failure(engine, af.flow(name="one")(lambda: make()))
            assert isinstance(error, af.UnkeepableValue) and "task 'make' returned what the journal" in str(error)
            assert isinstance(await failure(engine, af.linear("two", promise)), af.MissingElement)

    asyncio.run(main())
    assert calls == [1]
    assert written(tmp_path / "runs.db") == []


def test_a_revert_may_be_one_too(path: Path | None) -> None:
    """What is undone exactly once can be counted on as what was done exactly once."""

    @af.flow
    def undone(amount: int) -> None:
        return fail(deposit(amount))

    async def main() -> None:
        async with af.Engine(path) as engine:
            run = await engine.start(undone, {"amount": 3}, run_id="a")
            with pytest.raises(af.RunFailed, match="everything it had done is undone"):
                await run
            assert run.state is af.RunState.REVERTED
            assert await engine.run(ledger) == [3, -3]

    asyncio.run(main())


def test_a_revert_that_raises_in_it_is_tried_again(path: Path | None) -> None:
    """``revert_retry`` sees what the function raised."""
    calls: list[int] = []

    def shaky(connection: sqlite3.Connection) -> None:
        calls.append(add(connection, -3))
        if len(calls) < 2:
            raise ConnectionError("not yet")

    @af.task(revert_retry=af.Retry(2, on=(ConnectionError,)))
    async def pay(ctx: af.Context) -> int:
        return ctx.transaction(add, 3)

    @pay.revert
    async def unpay(ctx: af.Context) -> None:
        return ctx.transaction(shaky)

    async def main() -> None:
        async with af.Engine(path) as engine:
            await failure(engine, af.flow(name="undone")(lambda: fail(pay())))
            assert await engine.run(ledger) == [3, -3] and len(calls) == 2

    asyncio.run(main())


def test_one_of_a_body_that_was_left_behind_is_never_committed(tmp_path: Path) -> None:
    """Its attempt has been recorded as cancelled; an effect would be one that nobody undoes."""
    file, released = tmp_path / "runs.db", threading.Event()

    @af.task
    def stubborn(ctx: af.Context) -> int:
        begun.set()
        released.wait()
        return ctx.transaction(add, 1)

    begun = threading.Event()

    async def main() -> None:
        async with af.Engine(file, grace=0.0, cancel_grace=0.0) as engine:
            run = await engine.start(af.flow(name="one")(lambda: stubborn()))
            await asyncio.to_thread(begun.wait)
            run.suspend("enough")
            with pytest.raises(af.RunSuspended):
                await run
            released.set()
            await until(lambda: not run.supervisor.left_behind())

    asyncio.run(main())
    assert written(file) == []


def test_copies_are_handed_on_where_that_is_asked_for(tmp_path: Path) -> None:
    """``debug=True`` shows what a resume would; the value of a transaction is no exception."""
    made = [1]

    def give(connection: sqlite3.Connection) -> list[int]:
        return made

    @af.task
    async def first(ctx: af.Context) -> list[int]:
        return ctx.transaction(give)

    @af.task
    async def second(value: list[int]) -> bool:
        return value == made and value is not made

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db", debug=True) as engine:
            assert await engine.run(af.flow(name="two")(lambda: second(first())))

    asyncio.run(main())


def test_one_that_exits_suspends_the_run(tmp_path: Path) -> None:
    """SystemExit in a function means what it means in a body."""
    calls: list[int] = []

    def leave(connection: sqlite3.Connection) -> int:
        calls.append(add(connection, 1))
        if len(calls) == 1:
            raise SystemExit(3)
        return calls[-1]

    @af.task
    async def leaving(ctx: af.Context) -> int:
        return ctx.transaction(leave)

    flow = af.flow(name="one")(lambda: leaving())

    async def main(engine: af.Engine, act: Any) -> None:
        async with engine:
            assert await act(engine) == 1

    file = tmp_path / "runs.db"
    with pytest.raises(SystemExit):
        asyncio.run(main(af.Engine(file), lambda engine: engine.run(flow, run_id="a")))
    asyncio.run(main(af.Engine(file), lambda engine: engine.resume("a", flow)))
    assert calls == [1, 1] and written(file) == [1]


# --- What arrives meanwhile -------------------------------------------------------------------------------------------


class Gate:
    """A function that adds a line and stays inside its transaction until it is let go."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._opened = threading.Event()

    def add(self, connection: sqlite3.Connection, amount: int) -> int:
        found = add(connection, amount)
        self._loop.call_soon_threadsafe(self.entered.set)
        self._opened.wait()
        return found

    def open(self) -> None:
        self._opened.set()


def gated(gate: Gate, **options: Any) -> af.Task:
    """Return a task whose transaction stays in *gate*, and whose revert takes its line back."""

    @af.task(name="gated", **options)
    async def pass_gate(ctx: af.Context, amount: int) -> int:
        return ctx.transaction(gate.add, amount)

    pass_gate.revert(withdraw)
    return pass_gate


def alone(*tasks: af.Task) -> Any:
    """Return a flow of *tasks*, each of which takes what the one before returns, and the first *amount*."""

    @af.flow
    def alone(amount: int) -> Any:
        for task in tasks:
            amount = task(amount)
        return amount

    return alone


def test_the_bodys_ending_wins_over_a_cancel(tmp_path: Path) -> None:
    """The body has returned: it is committed as it would have been, and then undone as whatever has started."""

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            gate = Gate()
            run = await engine.start(alone(gated(gate)), {"amount": 2})
            await gate.entered.wait()
            run.cancel("enough")
            gate.open()
            with pytest.raises(af.RunCancelled):
                await run
            assert await engine.run(ledger) == [2, -2]

    asyncio.run(main())


def test_a_time_limit_ends_with_the_body(tmp_path: Path) -> None:
    """What cannot be stopped any more is not told to."""

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            gate = Gate()
            task = gated(gate, timeout=0.001)
            run = await engine.start(alone(task), {"amount": 2})
            await gate.entered.wait()
            # Long past the limit, however slow this machine is: the timer would have been before this one.
            done = asyncio.Event()
            asyncio.get_running_loop().call_later(0.002, done.set)
            await done.wait()
            gate.open()
            assert await run == 2

    asyncio.run(main())


def test_an_engine_that_closes_waits_for_the_commit(tmp_path: Path) -> None:
    """Suspending leaves nothing in doubt that is on its way to the file."""
    file = tmp_path / "runs.db"

    async def main() -> None:
        gate = Gate()
        flow = alone(gated(gate), deposit)
        async with af.Engine(file, grace=0.0) as engine:
            run = await engine.start(flow, {"amount": 2}, run_id="a")
            await gate.entered.wait()
            asyncio.get_running_loop().call_soon(gate.open)
        assert run.state is af.RunState.SUSPENDED
        async with af.Engine(file) as engine:
            assert await engine.resume("a", flow) == 4

    asyncio.run(main())
    assert written(file) == [2, 2]


def test_a_loop_that_goes_down_waits_for_the_commit(tmp_path: Path) -> None:
    """``asyncio.run`` cancels all there is; the journal keeps the order in which things became known."""
    file = tmp_path / "runs.db"
    flows: list[Any] = []

    async def cut_off() -> None:
        gate = Gate()
        flows.append(alone(gated(gate), deposit))
        engine = await af.Engine(file).open()
        await engine.start(flows[0], {"amount": 2}, run_id="a")
        await gate.entered.wait()
        asyncio.get_running_loop().call_soon(gate.open)

    async def go_on() -> None:
        async with af.Engine(file) as engine:
            report = await engine.inspect("a")
            assert [task.state for task in report.tasks] == [af.TaskState.SUCCEEDED, af.TaskState.PENDING]
            events = [event for record in await engine._store.read("a") for event in record.events]
            kinds = [type(event) for event in events]
            assert kinds.index(m.AttemptSucceeded) < kinds.index(m.SuspendRequested) < kinds.index(m.RunSuspended)
            assert await engine.resume("a", flows[0]) == 4

    asyncio.run(cut_off())
    asyncio.run(go_on())
    assert written(file) == [2, 2]


def test_its_permit_is_kept_until_it_is_committed(tmp_path: Path) -> None:
    """``concurrency=1`` means that nothing begins before the task has ended."""

    async def main() -> None:
        began: list[str] = []

        @af.task
        async def other() -> None:
            began.append("other")

        async with af.Engine(tmp_path / "runs.db", concurrency=1, durability="lazy") as engine:
            gate = Gate()
            first = await engine.start(alone(gated(gate)), {"amount": 2})
            await gate.entered.wait()
            starting = asyncio.ensure_future(engine.start(af.flow(name="two")(lambda: other())))
            for _ in range(100):
                await asyncio.sleep(0)
            assert not began
            gate.open()
            await first
            await (await starting)
            assert began == ["other"]

    asyncio.run(main())


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def mistakes() -> Iterator[tuple[Callable[..., Any], type[Exception], str]]:
    kept: list[Any] = []

    async def in_a_container(ctx: af.Context) -> Any:
        return {"sum": ctx.transaction(add, 1)}

    async def forgotten(ctx: af.Context) -> Any:
        ctx.transaction(add, 1)

    async def twice(ctx: af.Context) -> Any:
        return [ctx.transaction(add, 1), ctx.transaction(add, 2)]

    async def of_another(ctx: af.Context) -> Any:
        kept.append(kept[0] if kept else ctx.transaction(add, 1))
        if ctx.attempt == 1:
            raise ConnectionError
        return kept[0]

    async def is_async(ctx: af.Context) -> Any:
        return ctx.transaction(in_a_container)  # type: ignore[arg-type]

    async def is_none(ctx: af.Context) -> Any:
        return ctx.transaction(None)  # type: ignore[arg-type]

    yield in_a_container, af.TransactionMisuse, r"task 'x' made a transaction and returned \{'sum': Transaction\("
    yield forgotten, af.TransactionMisuse, "task 'x' made a transaction and returned None; return what"
    yield twice, af.TransactionMisuse, "task 'x' makes a second transaction in one attempt"
    yield of_another, af.TransactionMisuse, "task 'x' returned a transaction that another attempt has made"
    yield is_async, TypeError, "the transaction of task 'x' is given <function .*is async"
    yield is_none, TypeError, "the transaction of task 'x' is given None, which cannot be called"


@pytest.mark.parametrize(("body", "kind", "text"), [*mistakes()], ids=lambda value: getattr(value, "__name__", ""))
def test_a_transaction_that_would_be_lost_is_an_error(
    path: Path | None, body: Callable[..., Any], kind: type[Exception], text: str
) -> None:
    """Otherwise a task would succeed whose effect has never been."""
    task = af.task(name="x", retry=af.Retry(2, on=(ConnectionError,)))(body)

    async def main() -> None:
        async with af.Engine(path) as engine:
            error = await failure(engine, af.flow(name="one")(lambda: task()))
            assert isinstance(error, kind)
            with pytest.raises(kind, match=text):
                raise error
            assert await engine.run(ledger) == []

    asyncio.run(main())


def test_a_value_that_is_not_kept_cannot_come_from_one(path: Path | None) -> None:
    """A resume makes such a value again, and would do what is done exactly once a second time."""
    task = af.task(name="x", checkpoint=False)(deposit.fn)

    async def main() -> None:
        async with af.Engine(path) as engine:
            error = await failure(engine, af.flow(name="one")(lambda: task(1)))
            assert isinstance(error, af.TransactionMisuse) and "task 'x' has checkpoint=False" in str(error)
            assert await engine.run(ledger) == []

    asyncio.run(main())


OURS = [
    "DELETE FROM records",
    "UPDATE runs SET epoch = 9",
    "INSERT INTO requests(run, kind, reason) VALUES (1, 'cancel', '')",
    "DROP TABLE blobs",
    "DROP TRIGGER records_tell_run",
    "ALTER TABLE plans ADD COLUMN more",
    "CREATE TABLE IF NOT EXISTS uses(mine)",
    "CREATE INDEX mine ON records(at)",
    "CREATE TRIGGER mine AFTER INSERT ON ledger BEGIN DELETE FROM owners; END",
    "CREATE TEMP TABLE records(run, number, at, body, checksum, state)",
    "CREATE TEMP VIEW mine AS SELECT 1",
    "DELETE FROM sqlite_sequence",
    "RELEASE Asyncflow",
]


@pytest.mark.parametrize("sql", OURS)
def test_the_journal_itself_is_out_of_reach(tmp_path: Path, sql: str) -> None:
    """A table of the user's may well be called ``records``; its rows must not become a journal's."""

    def touch(connection: sqlite3.Connection) -> None:
        add(connection, 1)
        connection.execute(sql)
        if "mine AFTER" in sql:
            add(connection, 1)

    @af.task
    async def meddle(ctx: af.Context) -> None:
        return ctx.transaction(touch)

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            error = await failure(engine, af.flow(name="one")(lambda: meddle()))
            assert isinstance(error, af.TransactionMisuse), error
            assert isinstance(error.__cause__, sqlite3.DatabaseError)
            assert await engine.run(ledger) == []

    asyncio.run(main())


def test_tables_may_be_of_any_kind(path: Path | None) -> None:
    """Full-text search, generated columns and triggers of the user's own write in ways that he does not see."""

    def search(connection: sqlite3.Connection) -> list[str]:
        connection.execute("CREATE TABLE IF NOT EXISTS notes(id INTEGER PRIMARY KEY AUTOINCREMENT, text, made)")
        connection.execute("CREATE VIRTUAL TABLE IF NOT EXISTS found USING fts5(text)")
        connection.execute(
            "CREATE TRIGGER IF NOT EXISTS indexed AFTER INSERT ON notes BEGIN INSERT INTO found VALUES (new.text); END"
        )
        connection.execute("CREATE INDEX IF NOT EXISTS notes_made ON notes(made)")
        connection.execute("INSERT INTO notes(text, made) VALUES ('a word', 1), ('another', 2)")
        connection.execute("ALTER TABLE notes RENAME COLUMN made TO at")
        connection.execute("ALTER TABLE notes RENAME COLUMN at TO made")
        assert [row[1] for row in connection.execute("PRAGMA table_info(notes)")] == ["id", "text", "made"]
        return [text for (text,) in connection.execute("SELECT text FROM found WHERE found MATCH 'word'")]

    @af.task
    async def look(ctx: af.Context) -> list[str]:
        return ctx.transaction(search)

    async def main() -> None:
        async with af.Engine(path) as engine:
            for times in (1, 2):
                assert await engine.run(af.flow(name="one")(lambda: look())) == ["a word"] * times

    asyncio.run(main())


# --- The file ---------------------------------------------------------------------------------------------------------


def writer_of(engine: af.Engine) -> Writer:
    store = engine._store
    assert isinstance(store, SqliteStore) and store._writer is not None
    return store._writer


def test_a_full_disk_stops_the_run_and_keeps_nothing(tmp_path: Path) -> None:
    """The function is not to blame: with room again, the run goes on, and the line is there once."""
    file = tmp_path / "runs.db"

    def fill(connection: sqlite3.Connection) -> int:
        found = add(connection, 1)
        connection.execute("CREATE TABLE bulk AS SELECT zeroblob(4000000) AS body")
        connection.execute("DROP TABLE bulk")
        return found

    @af.task
    async def grow(ctx: af.Context) -> int:
        return ctx.transaction(fill)

    flow = af.flow(name="one")(lambda: grow())

    async def main() -> None:
        async with af.Engine(file) as engine:
            database = writer_of(engine)._database
            [(most,)] = await database.fetch("PRAGMA max_page_count")
            await database.fetch("PRAGMA max_page_count = 200")
            beside = await engine.start(af.flow(name="two")(lambda: [deposit.named(f"d{n}")(10) for n in range(20)]))
            with pytest.raises(af.StoreError, match="the disk is full"):
                await engine.run(flow, run_id="a")
            assert len(await beside) == 20
            await database.fetch(f"PRAGMA max_page_count = {most}")
            assert await engine.resume("a", flow) == 201

    asyncio.run(main())
    assert written(file) == [10] * 20 + [1]


def test_another_database_that_is_damaged_fails_the_task_alone(tmp_path: Path) -> None:
    """A function that imports from one would stop its run each time that it is resumed, and blame the journal."""
    damaged = tmp_path / "other.db"
    damaged.write_bytes(b"not a database" * 100)

    def take_over(connection: sqlite3.Connection) -> list[Any]:
        with contextlib.closing(sqlite3.connect(damaged)) as other:
            return other.execute("SELECT * FROM sqlite_schema").fetchall()

    @af.task
    async def look(ctx: af.Context) -> Any:
        return ctx.transaction(take_over)

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            error = await failure(engine, af.flow(name="one")(lambda: look()))
            assert isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error)

    asyncio.run(main())


def test_who_was_overtaken_writes_nothing(tmp_path: Path) -> None:
    """Its new owner runs the task again, so here the function is not even called."""
    file, calls = tmp_path / "runs.db", list[int]()

    def count(connection: sqlite3.Connection) -> None:
        calls.append(add(connection, 1))

    @af.task
    async def late(ctx: af.Context) -> None:
        with contextlib.closing(sqlite3.connect(file)) as other, other:
            other.execute("UPDATE runs SET epoch = epoch + 1")
        return ctx.transaction(count)

    async def main() -> None:
        async with af.Engine(file) as engine:
            with pytest.raises(af.RunOvertaken):
                await engine.run(af.flow(name="one")(lambda: late()))

    asyncio.run(main())
    assert calls == [] and written(file) == []


def test_a_file_that_is_locked_is_waited_for(tmp_path: Path) -> None:
    """The function is called once the lock is there, not while somebody else may still change what it reads."""
    file, calls = tmp_path / "runs.db", list[int]()

    def count(connection: sqlite3.Connection) -> int:
        calls.append(add(connection, 1))
        return calls[-1]

    @af.task
    async def wait(ctx: af.Context) -> int:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        other.execute("CREATE TABLE ledger(amount)")
        other.execute("INSERT INTO ledger VALUES (40)")
        loop = asyncio.get_running_loop()

        def let_go() -> None:
            other.execute("COMMIT")
            other.close()

        # Some turns after the journal has asked for the lock.
        loop.call_later(0.05, let_go)
        return ctx.transaction(count)

    async def main() -> None:
        async with af.Engine(file) as engine:
            assert await engine.run(af.flow(name="one")(lambda: wait())) == 41

    asyncio.run(main())
    assert calls == [41]


def test_a_cursor_that_is_left_open_is_closed(tmp_path: Path) -> None:
    """It would keep the journal from being written as soon as another process has written."""
    file, kept = tmp_path / "runs.db", list[sqlite3.Cursor]()

    def leave(connection: sqlite3.Connection) -> sqlite3.Cursor:
        connection.executemany("INSERT INTO ledger VALUES (?)", [(n,) for n in range(1000)])
        kept.extend((connection.execute("SELECT * FROM ledger"), connection.cursor().execute("SELECT * FROM ledger")))
        for cursor in kept:
            cursor.fetchone()
        return kept[0]

    @af.task
    async def look(ctx: af.Context) -> Any:
        return ctx.transaction(leave)

    async def main() -> None:
        async with af.Engine(file) as engine:
            await engine.run(alone(deposit), {"amount": 1})
            assert isinstance(await failure(engine, af.flow(name="one")(lambda: look())), af.UnkeepableValue)
            with contextlib.closing(sqlite3.connect(file)) as other, other:
                other.execute("INSERT INTO ledger VALUES (2)")
            assert await engine.run(alone(deposit), {"amount": 3}) == 6
        for cursor in kept:
            with pytest.raises(sqlite3.ProgrammingError, match="closed"):
                cursor.fetchone()

    asyncio.run(main())


def _blob(connection: sqlite3.Connection, *, readonly: bool) -> sqlite3.Blob:
    connection.execute("INSERT INTO ledger VALUES (zeroblob(9))")
    [(row,)] = connection.execute("SELECT max(rowid) FROM ledger").fetchall()
    return connection.blobopen("ledger", "amount", row, readonly=readonly)


def _cursor(connection: sqlite3.Connection, sql: str) -> sqlite3.Cursor:
    cursor = sqlite3.Cursor(connection).execute(sql)
    cursor.fetchone()
    return cursor


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda connection: _blob(connection, readonly=False), id="blob"),
        pytest.param(lambda connection: _blob(connection, readonly=True), id="blob-read"),
        pytest.param(
            lambda connection: _cursor(connection, "INSERT INTO ledger VALUES (1), (2) RETURNING 1"), id="write"
        ),
        pytest.param(lambda connection: _cursor(connection, "SELECT * FROM ledger UNION ALL SELECT 1"), id="read"),
    ],
)
def test_what_a_function_leaves_open_keeps_nobody_waiting(
    tmp_path: Path, leave: Callable[[sqlite3.Connection], object], raises: bool
) -> None:
    """Nothing can be committed beside it, and a traceback keeps it as well; that is no other process's fault."""
    file, kept, calls = tmp_path / "runs.db", list[object](), list[int]()

    def left(connection: sqlite3.Connection) -> int:
        calls.append(1)
        kept.append(leave(connection))
        if raises:
            raise ValueError("left")
        return 1

    @af.task
    async def look(ctx: af.Context) -> int:
        return ctx.transaction(left)

    flow = af.flow(name="one")(lambda: look())

    async def main() -> None:
        async with af.Engine(file) as engine:
            await engine.run(alone(deposit), {"amount": 1})
            if raises:
                assert isinstance(await failure(engine, flow), ValueError)
            else:
                assert await engine.run(flow) == 1
            with contextlib.closing(sqlite3.connect(file)) as other, other:
                other.execute("DELETE FROM ledger")
            assert await engine.run(alone(deposit), {"amount": 3}) == 3
        assert calls == [1]

    asyncio.run(main())


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda connection: connection.set_authorizer(None), id="authorizer"),
        pytest.param(lambda connection: connection.set_progress_handler(lambda: 1, 1), id="progress"),
        pytest.param(lambda connection: connection.set_trace_callback(print), id="trace"),
        pytest.param(lambda connection: connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 30), id="limit"),
        pytest.param(lambda connection: connection.create_function("json_each", 1, lambda _: 1), id="function"),
        pytest.param(lambda connection: connection.create_collation("BINARY", lambda _, __: 0), id="collation"),
    ],
)
def test_what_would_outlive_a_transaction_is_refused(
    path: Path | None, act: Callable[[sqlite3.Connection], object]
) -> None:
    """All other runs, and the journal itself, are written through the same connection."""

    @af.task
    async def change(ctx: af.Context) -> object:
        return ctx.transaction(act)

    async def main() -> None:
        async with af.Engine(path) as engine:
            error = await failure(engine, af.flow(name="one")(lambda: change()))
            assert isinstance(error, af.TransactionMisuse) and "which would outlive it" in str(error)
            assert await engine.run(alone(deposit), {"amount": 3}) == 3

    asyncio.run(main())


def test_a_blob_of_the_journal_can_be_read_and_not_written(tmp_path: Path) -> None:
    """SQLite asks nobody when a value is opened by itself, and a record that is overwritten is lost."""

    def body(connection: sqlite3.Connection, readonly: bool) -> int:
        [(row,)] = connection.execute("SELECT max(rowid) FROM plans").fetchall()
        with connection.blobopen("plans", "body", row, readonly=readonly) as blob:
            return len(blob)

    @af.task
    async def look(ctx: af.Context, readonly: int) -> int:
        return ctx.transaction(body, bool(readonly))

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            assert await engine.run(alone(look), {"amount": 1}) > 0
            error = await failure(engine, alone(look), {"amount": 0})
            assert isinstance(error, af.TransactionMisuse) and "'plans' is the journal's own" in str(error)

    asyncio.run(main())


class Unclosable(sqlite3.Cursor):
    """A cursor whose author has forgotten that it is to be closed."""

    def close(self) -> None:
        raise RuntimeError("closed")


class Unready(sqlite3.Cursor):
    """A cursor whose author has forgotten to set it up."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        pass


@pytest.mark.parametrize("kind", [Unclosable, Unready])
def test_a_cursor_that_cannot_be_closed_keeps_nobody_from_going_on(
    path: Path | None, kind: type[sqlite3.Cursor]
) -> None:
    """It is one function's mistake, and all other runs, and other processes, would stand still by it."""
    kept = list[sqlite3.Cursor]()

    def leave(connection: sqlite3.Connection) -> int:
        kept.append(connection.cursor(kind))
        return 1

    @af.task
    async def look(ctx: af.Context) -> int:
        return ctx.transaction(leave)

    async def main() -> None:
        async with af.Engine(path) as engine:
            assert await engine.run(af.flow(name="one")(lambda: look())) == 1
            assert await engine.run(alone(deposit), {"amount": 3}) == 3

    asyncio.run(main())


def test_transactions_of_many_runs_share_commits(tmp_path: Path) -> None:
    """A hundred of them must not wait for a hundred disks; one that fails in between costs the others nothing."""
    statements: list[str] = []

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:

            def watch(connection: sqlite3.Connection) -> None:
                sqlite3.Connection.set_trace_callback(connection, statements.append)

            def add_odd(connection: sqlite3.Connection, amount: int) -> int:
                found = add(connection, amount)
                if amount % 2:
                    raise ValueError(amount)
                return found

            @af.task
            async def look(ctx: af.Context) -> None:
                return ctx.transaction(watch)

            @af.task
            async def put(ctx: af.Context, amount: int) -> int:
                await gate.entered.wait()
                return ctx.transaction(add_odd, amount)

            gate = Gate()
            await engine.run(af.flow(name="look")(lambda: look()))
            flow = af.flow(name="put")(lambda amount: put(amount))
            runs = [await engine.start(flow, {"amount": amount}) for amount in range(50)]
            first = await engine.start(alone(gated(gate)), {"amount": 100})
            await gate.entered.wait()
            for _ in range(10):
                await asyncio.sleep(0)  # every other body has returned its transaction by now
            statements.clear()
            gate.open()
            ended = await asyncio.gather(first, *runs, return_exceptions=True)
            assert sum(isinstance(each, af.RunFailed) for each in ended) == 25
            puts = [each for each in statements if each.startswith(("INSERT INTO ledger", "COMMIT"))]
            assert puts[0] == "COMMIT" and "COMMIT" not in puts[1:51] and len(puts) >= 52

    asyncio.run(main())
    assert written(tmp_path / "runs.db") == [100, *range(0, 50, 2)]


def test_a_reconcile_hook_may_make_up_for_it_in_one(tmp_path: Path) -> None:
    """What the outside world tells of a lost attempt is put down with the ending that it gives."""
    file = tmp_path / "runs.db"
    asked: list[str] = []
    begun = asyncio.Event()

    @af.task
    async def buy(ctx: af.Context) -> int:
        begun.set()
        await asyncio.Event().wait()  # the engine closes while the shop is being asked
        return 0

    @buy.reconcile
    async def look_up(ctx: af.Context) -> Any:
        asked.append(ctx.idempotency_key)
        return af.Success(ctx.transaction(add, 5))

    flow = af.flow(name="one")(lambda: buy())

    async def main() -> None:
        async with af.Engine(file, grace=0.0) as engine:
            await engine.start(flow, run_id="a")
            await begun.wait()
        async with af.Engine(file) as engine:
            assert await engine.resume("a", flow) == 5

    asyncio.run(main())
    assert asked == ["a/buy#1"] and written(file) == [5]


@pytest.mark.parametrize("attribute", ["isolation_level", "autocommit"])
def test_how_the_connection_commits_is_not_for_a_transaction_to_say(tmp_path: Path, attribute: str) -> None:
    """It would end the transaction, or go on for whoever comes next."""

    def change(connection: sqlite3.Connection) -> None:
        add(connection, 1)
        setattr(connection, attribute, None if attribute == "isolation_level" else False)

    @af.task
    async def meddle(ctx: af.Context) -> None:
        return ctx.transaction(change)

    async def main() -> None:
        async with af.Engine(tmp_path / "runs.db") as engine:
            for _ in range(2):
                error = await failure(engine, af.flow(name="one")(lambda: meddle()))
                assert isinstance(error, af.TransactionMisuse) and f"cannot set {attribute}" in str(error)
            assert await engine.run(ledger) == []

    asyncio.run(main())
