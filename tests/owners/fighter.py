"""
One of several processes that want the same run: ``python -m tests.owners.fighter FILE NAME LEASE DAYS``.

It waits until it can have the run, says ``owns EPOCH``, and writes into it what it can, each record with its epoch.
Once it finds itself overtaken it says ``overtaken`` and waits for its next turn. Its wall clock is DAYS off.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time

from asyncflow.codec import Codec
from asyncflow.errors import RunOvertaken
from asyncflow.patience import Patience
from asyncflow.stores.sqlite import SqliteStore
from tests.stores.journals import append


async def fight(path: str, name: str, lease: float) -> None:
    """Take the run and lose it, for ever."""
    store = SqliteStore(path, codec=Codec(), lease=lease)
    await store.open()
    print("ready", flush=True)
    while True:
        journal = await Patience(math.inf, lease).until_free(lambda: store.claim("r"))
        epoch = journal._line.epoch
        print(f"owns {epoch}", flush=True)
        try:
            while True:
                await append(journal, epoch, name)
                # Gives the others of this machine a turn; the loop would do nothing else.
                await asyncio.sleep(0.001)
        except RunOvertaken:
            print("overtaken", flush=True)
        await journal.release()


if __name__ == "__main__":
    wall_clock, days_off = time.time, float(sys.argv[4])
    time.time = lambda: wall_clock() + days_off * 86400.0
    asyncio.run(fight(sys.argv[1], sys.argv[2], float(sys.argv[3])))
