"""
Inside a web application (Starlette): requests wait for a run, start one, or look at one.

- What an earlier process left unfinished is taken up at start-up.
- A client that goes away suspends the run it waited for; the next process, or a later call, goes on with it.
- Shutting down suspends what still runs. Nothing is lost.

    pip install 'asyncflow-engine[examples]' && uvicorn --app-dir examples in_an_app:app
    curl -X POST localhost:8000/orders/7          # waits for the value
    curl -X POST localhost:8000/orders/8/start    # returns at once
    curl localhost:8000/orders/8
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import asyncflow as af


@af.task
async def pack(order: int) -> str:
    await asyncio.sleep(0.1)
    return f"parcel {order}"


@af.task
async def send(parcel: str) -> str:
    await asyncio.sleep(0.1)
    return f"{parcel} is on its way"


@af.flow
def fulfil(order: int) -> str:
    return send(pack(order))


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with af.Engine(os.environ.get("ORDERS_DB", "orders.db")) as engine:
        app.state.engine = engine
        await engine.recover()
        yield
    # Leaving the block suspends what still runs; the next start takes it up again.


async def order_and_wait(request: Request) -> Response:
    order, engine = int(request.path_params["order"]), request.app.state.engine
    answer = asyncio.create_task(run_or_resume(engine, order))
    gone = asyncio.create_task(client_gone(request))
    await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if not answer.done():
        answer.cancel()  # suspends the run, which stays resumable
        await asyncio.wait([answer])
        return Response(status_code=499)
    if error := answer.exception():
        return JSONResponse({"error": str(error)}, status_code=500)
    return JSONResponse({"result": answer.result()})


async def run_or_resume(engine: af.Engine, order: int) -> str:
    run_id = f"order-{order}"  # the order's own number: asking twice does not do it twice
    while True:
        with contextlib.suppress(af.RunExists):
            return await engine.run(fulfil, {"order": order}, run_id=run_id)
        with contextlib.suppress(af.RunBusy):
            return await engine.resume(run_id, fulfil)
        # Another request has it: wait for the same run. It is suspended when that client goes away; then go on with it.
        with contextlib.suppress(af.RunSuspended):
            for run in engine.running():
                if run.run_id == run_id:
                    return await run
        await asyncio.sleep(0.05)  # it is about to begin, or another process has it


async def client_gone(request: Request) -> None:
    while not await request.is_disconnected():
        await asyncio.sleep(0.05)


async def order_and_leave(request: Request) -> Response:
    order = int(request.path_params["order"])
    try:
        run = await request.app.state.engine.start(fulfil, {"order": order}, run_id=f"order-{order}")
    except af.RunExists as exists:
        return JSONResponse({"error": str(exists)}, status_code=409)
    return JSONResponse({"run": run.run_id, "state": run.state.value}, status_code=202)


async def look(request: Request) -> Response:
    wanted = f"order-{request.path_params['order']}"
    try:
        report = await request.app.state.engine.inspect(wanted)
    except af.RunNotFound as missing:
        return JSONResponse({"error": str(missing)}, status_code=404)
    return JSONResponse({"run": wanted, "state": report.state.value})


app = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/orders/{order:int}", order_and_wait, methods=["POST"]),
        Route("/orders/{order:int}/start", order_and_leave, methods=["POST"]),
        Route("/orders/{order:int}", look),
    ],
)
