"""What an engine does for its journal while runs go on: purge, backup, export, and why a task waits."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import asyncflow as af
from tests.stepping import up_to


class Gate:
    """Bodies that wait until the test lets them go."""

    def __init__(self) -> None:
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def wait(self) -> None:
        self.reached.set()
        await self.opened.wait()


GATE = af.resource()


@af.task
async def price(n: int, gate: Gate = GATE) -> int:
    await gate.wait()
    return n * 2


@af.task
async def charge(total: int) -> str:
    return f"charged {total}"


@charge.revert
async def refund(gate: Gate = GATE) -> None:
    gate.reached.set()
    await gate.opened.wait()


@af.task
async def send(text: str) -> str:
    return text


@af.task
async def fail(text: str) -> str:
    raise ValueError("no stock")


@af.task(retry=af.Retry(3, af.Fixed(60.0)))
async def flaky(n: int) -> int:
    raise ConnectionError("down")


@af.flow
def shop(n: int) -> str:
    return send(charge(price(n)))


@af.flow
def failing(n: int) -> str:
    return fail(charge(n))


@af.flow
def trying(n: int) -> int:
    return flaky(n)


def test_why_names_the_input_its_task_and_where_that_stands(tmp_path: Path) -> None:
    """The question is asked when something hangs; the answer must lead to what hangs."""

    async def main() -> None:
        gate = Gate()
        async with af.Engine(tmp_path / "runs.db", resources={"gate": gate}) as engine:
            run = await engine.start(shop, {"n": 1}, run_id="a")
            await gate.reached.wait()
            [first, owner] = await engine.why("a", "charge")
            assert first.startswith("charge waits for input 'total' from price, which is RUNNING (attempt 1 since ")
            assert owner.startswith("the run is RUNNING, owned by process ")
            direct, root, _ = await engine.why("a", "send")
            assert direct == "send waits for input 'text' from charge, which is PENDING"
            assert root.startswith("that comes down to price, which is RUNNING (attempt 1")
            with pytest.raises(af.InputError, match=r"no task 'chrage'; did you mean 'charge'|no task 'chrage'"):
                await engine.why("a", "chrage")
            gate.opened.set()
            await run
            assert await engine.why("a", "charge") == ["charge waits for nothing: it is SUCCEEDED"]

    asyncio.run(main())


def test_why_tells_of_backoff_suspension_and_reverts(tmp_path: Path) -> None:
    """Each of them looks like a run that hangs."""

    async def main() -> None:
        gate = Gate()
        async with af.Engine(tmp_path / "runs.db", resources={"gate": gate}) as engine:
            run = await engine.start(trying, {"n": 1}, run_id="b")
            async for happening in run.events():
                if happening.kind == "RetryScheduled":
                    break
            [first, _] = await engine.why("b", "flaky")
            assert first.startswith("flaky waits out its backoff: attempt 2 is due in ")
            assert await engine.suspend("b", reason="for lunch") is af.RunState.SUSPENDED
            assert "the run is SUSPENDED (for lunch), so nothing moves" in (await engine.why("b", "flaky"))[-1]
            undone = await engine.start(failing, {"n": 1}, run_id="c")
            await gate.reached.wait()
            assert (await engine.why("c", "charge"))[0].startswith("charge is REVERTING (try 1")
            gate.opened.set()
            with pytest.raises(af.RunFailed):
                await undone

    asyncio.run(main())


def test_a_backup_while_runs_go_on_is_a_journal_from_which_they_resume(tmp_path: Path) -> None:
    """A copy that nobody can go on with is no backup."""

    async def main() -> None:
        gate = Gate()
        copy = tmp_path / "copy.db"
        async with af.Engine(tmp_path / "runs.db", resources={"gate": gate}) as engine:
            run = await engine.start(shop, {"n": 4}, run_id="a")
            await gate.reached.wait()
            await engine.backup(copy)
            with pytest.raises(af.InputError, match="there is something at"):
                await engine.backup(copy)
            async with af.Engine(copy, resources={"gate": gate}) as other:
                [info] = await other.runs()
                assert (info.state, info.owner) == (af.RunState.INTERRUPTED, None)
                gate.opened.set()
                assert await other.resume("a", shop) == "charged 8"
            assert await run == "charged 8"
        assert list(af.verify(copy)) == []

    asyncio.run(main())
    assert [each.name for each in tmp_path.iterdir() if "part" in each.name] == []


def test_an_export_is_plain_json_with_a_format(tmp_path: Path) -> None:
    """Other programs read it, in other languages, years later."""

    async def main() -> None:
        for path in (tmp_path / "runs.db", None):
            async with af.Engine(path) as engine:
                run = await engine.start(af.linear("one", send), {"text": "hello"}, run_id="a")
                await run
                found = json.loads(json.dumps(await engine.export("a"), allow_nan=False))
                assert (found["format"], found["run"], found["state"]) == (1, "a", "SUCCEEDED")
                kinds = [event["kind"] for record in found["records"] for event in record["events"]]
                assert kinds[0] == "RunStarted" and kinds[-1] == "RunEnded"
                assert [plan["tasks"] for plan in found["plans"].values()] == [["send"]]

    asyncio.run(main())


def test_a_purge_spares_what_lives_and_what_is_young(tmp_path: Path) -> None:
    """In a file and in memory, whoever asks."""

    async def main() -> None:
        for path in (tmp_path / "runs.db", None):
            gate = Gate()
            async with af.Engine(path, resources={"gate": gate}) as engine:
                await engine.run(af.linear("one", send), {"text": "x"}, run_id="old")
                run = await engine.start(shop, {"n": 1}, run_id="live")
                await gate.reached.wait()
                assert await engine.purge(older_than=timedelta(hours=1)) == []
                assert await engine.purge(older_than=datetime(2001, 1, 1, tzinfo=UTC)) == []
                seen: list[str] = []
                assert await engine.purge(older_than=0, progress=seen.append) == ["old"] == seen
                gate.opened.set()
                assert await run == "charged 2"
                for wrong in (-1, datetime(2001, 1, 1, tzinfo=UTC).replace(tzinfo=None)):
                    with pytest.raises(af.InputError, match="older_than"):
                        await engine.purge(older_than=wrong)
                with pytest.raises(af.InputError, match="RUNNING goes on"):
                    await engine.purge(older_than=0, states=[af.RunState.RUNNING])

    asyncio.run(main())


@pytest.mark.parametrize("rounds", [40, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_journal_stays_small_under_churn(tmp_path: Path, rounds: int) -> None:
    """A service that runs for a year and keeps a day of runs must not fill the disk."""
    path = tmp_path / "runs.db"

    def size() -> int:
        return path.stat().st_size + Path(f"{path}-wal").stat().st_size

    async def main() -> None:
        sizes: list[int] = []
        async with af.Engine(path, durability="process") as engine:
            for at in range(rounds):
                for each in range(5):
                    text = f"{at}/{each}" * 20_000  # kept apart, and no two alike
                    await engine.run(af.linear("one", send), {"text": text})
                assert len(await engine.purge(older_than=0)) == 5
                sizes.append(size())
        # After the log has begun anew a few times, it is as large as it will ever be.
        assert max(sizes) < 30 << 20
        assert path.stat().st_size < 1 << 20

    asyncio.run(main())


def test_a_diff_tells_before_a_deploy_what_a_resume_would_refuse(tmp_path: Path) -> None:
    """And it changes nothing: the flow of before can still go on."""

    async def main() -> None:
        before = af.linear("f", send, charge.named("then"))
        after = af.linear("f", send.with_options(version=2), charge.named("last"))
        inputs = {"text": "hello", "total": 1}
        async with af.Engine(tmp_path / "runs.db") as engine:
            await up_to(engine, before, "then", inputs=inputs)
            assert await engine.diff("r", before) == []
            found = await engine.diff("r", after)
            assert [(str(verdict), verdict.is_refused) for verdict in found] == [
                ("send: was version None and is 2", True),
                ("then: is gone, and had not started", False),
                ("last: is new", False),
            ]
            with pytest.raises(af.PlanChanged) as refused:
                await engine.resume("r", after)
            assert list(refused.value.diff) == [str(verdict) for verdict in found if verdict.is_refused]
            with pytest.raises(af.DeclarationError, match="does not say where its flow 'f' is"):
                await engine.diff("r")
            with pytest.raises(af.RunNotFound):
                await engine.diff("s", before)

    asyncio.run(main())
