"""The web application of the examples: runs that are waited for, left, abandoned, shut down and recovered."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import asyncflow as af

pytest.importorskip("starlette")

EXAMPLE = Path(__file__).parent.parent / "examples" / "in_an_app.py"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example as a module, with its journal in a fresh folder and tasks that wait for a word."""
    monkeypatch.setenv("ORDERS_DB", str(tmp_path / "orders.db"))
    monkeypatch.setattr(af, "Engine", functools.partial(af.Engine, grace=0.0))  # nothing here ends by itself
    spec = importlib.util.spec_from_file_location("in_an_app_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where a journal's note of the flow leads
    spec.loader.exec_module(module)
    return module


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[None]:
    """Run the application's start-up and shutdown around a block."""
    async with app.router.lifespan_context(app):
        yield


async def call(app: Any, method: str, path: str, leaves: asyncio.Event | None = None) -> tuple[int, Any]:
    """Send one request and return its status and JSON; the client goes away when *leaves* is set."""
    sent: list[dict[str, Any]] = []
    has_body = False

    async def receive() -> dict[str, Any]:
        nonlocal has_body
        if not has_body:
            has_body = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if leaves is None:
            await asyncio.Event().wait()
        else:
            await leaves.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": [], "query_string": b"", "http_version": "1.1"}
    await app(scope, receive, send)
    body = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], json.loads(body) if body else None


def test_a_request_waits_for_its_run(example: ModuleType) -> None:
    """The plain case; asking twice gives the same answer without doing the work twice."""

    async def main() -> None:
        async with serving(example.app):
            first = await call(example.app, "POST", "/orders/7")
            again = await call(example.app, "POST", "/orders/7")
            assert first == again == (200, {"result": "parcel 7 is on its way"})
            assert await call(example.app, "GET", "/orders/7") == (200, {"run": "order-7", "state": "SUCCEEDED"})
            assert (await call(example.app, "GET", "/orders/8"))[0] == 404

    asyncio.run(main())


def test_a_client_that_goes_away_loses_nothing(example: ModuleType) -> None:
    """The request's task is cancelled; the run must be suspended, and go on when someone asks again."""

    async def main() -> None:
        packing, leaves = asyncio.Event(), asyncio.Event()

        async def pack(order: int) -> str:
            packing.set()
            await asyncio.Event().wait()
            return "never"

        patient = example.pack.fn
        async with serving(example.app):
            example.pack.body = pack
            request = asyncio.create_task(call(example.app, "POST", "/orders/7", leaves))
            await packing.wait()
            leaves.set()
            assert (await request)[0] == 499
            assert await call(example.app, "GET", "/orders/7") == (200, {"run": "order-7", "state": "SUSPENDED"})
            example.pack.body = patient
            assert await call(example.app, "POST", "/orders/7") == (200, {"result": "parcel 7 is on its way"})

    asyncio.run(main())


def test_requests_for_one_order_share_its_run(example: ModuleType) -> None:
    """An impatient customer clicks twice; the second request must neither fail nor send a second parcel."""

    async def main() -> None:
        answered = (200, {"result": "parcel 7 is on its way"})
        async with serving(example.app):
            twice = (call(example.app, "POST", "/orders/7") for _ in range(3))
            assert await asyncio.gather(*twice) == [answered] * 3
            assert (await call(example.app, "POST", "/orders/8/start"))[0] == 202
            assert await call(example.app, "POST", "/orders/8") == (200, {"result": "parcel 8 is on its way"})

    asyncio.run(main())


def test_a_request_goes_on_when_the_one_it_joined_goes_away(example: ModuleType) -> None:
    """The run is suspended with the client that it was begun for, while another still waits for it."""

    async def main() -> None:
        packing, joining, leaves = asyncio.Event(), asyncio.Event(), asyncio.Event()
        patient = example.pack.fn

        async def pack(order: int) -> str:
            example.pack.body = patient
            packing.set()
            await asyncio.Event().wait()
            return "never"

        async with serving(example.app):
            example.pack.body = pack
            first = asyncio.create_task(call(example.app, "POST", "/orders/7", leaves))
            await packing.wait()
            engine = example.app.state.engine
            running = engine.running
            engine.running = lambda: joining.set() or running()
            second = asyncio.create_task(call(example.app, "POST", "/orders/7"))
            await joining.wait()
            leaves.set()
            assert (await first)[0] == 499
            assert await second == (200, {"result": "parcel 7 is on its way"})

    asyncio.run(main())


def test_a_failed_run_is_answered(example: ModuleType) -> None:
    """The client is told which order failed and where, not that the server broke."""

    async def main() -> None:
        async def pack(order: int) -> str:
            raise ValueError("no box")

        example.pack.body = pack
        async with serving(example.app):
            status, said = await call(example.app, "POST", "/orders/7")
            assert status == 500 and "run 'order-7' failed in 'pack'" in said["error"]

    asyncio.run(main())


def test_a_shutdown_suspends_and_the_next_start_recovers(example: ModuleType) -> None:
    """A deployment in the middle of a run must cost nothing but time."""

    async def main() -> None:
        packing = asyncio.Event()

        async def pack(order: int) -> str:
            packing.set()
            await asyncio.Event().wait()
            return "never"

        patient = example.pack.fn
        example.pack.body = pack
        async with serving(example.app):
            assert (await call(example.app, "POST", "/orders/9/start"))[0] == 202
            assert (await call(example.app, "POST", "/orders/9/start"))[0] == 409
            await packing.wait()
        example.pack.body = patient
        async with serving(example.app):
            for run in example.app.state.engine.running():
                assert await run == "parcel 9 is on its way"
            assert await call(example.app, "GET", "/orders/9") == (200, {"run": "order-9", "state": "SUCCEEDED"})

    asyncio.run(main())
