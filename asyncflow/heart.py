"""An engine's look at what other processes want of its runs, and have done to them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from asyncflow.interfaces import Store
from asyncflow.runtime.handle import Run

log = logging.getLogger("asyncflow")

HEARTBEAT = 1.0
"""Seconds between two looks."""


async def heed(store: Store, runs: Mapping[str, Run[Any]]) -> None:
    """Do what other processes ask of *runs*, and stop those that they have taken over; for ever."""
    while True:
        await asyncio.sleep(HEARTBEAT)
        try:
            requests = await store.beat(runs.keys())
        except Exception:  # also one that the store did not expect: without a heartbeat nothing asked is ever done
            log.exception("the heartbeat could not be written")
            continue
        for request in requests:
            run = runs.get(request.run_id)
            if run is None:
                continue
            if request.kind == "cancel":
                run.cancel(request.reason)
            elif request.kind == "suspend":
                run.suspend(request.reason)
            else:
                # It stops at once, whatever it was waiting for: what this would put on record is refused.
                run.suspend(request.reason, grace=0.0)
