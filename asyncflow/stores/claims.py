"""
Whose a run is, in the file: owners come, runs change hands, and what was asked of them is forgotten once it was heard.

Each function but the first returns what the writer runs between two commits.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence

from asyncflow.stores.commit import FORGET
from asyncflow.stores.database import Database
from asyncflow.stores.line import Line
from asyncflow.stores.owners import OwnerLocks


async def become_owner(database: Database, locks: OwnerLocks, lease: float) -> int:
    """Make a new owner, which lives as long as *locks* hold it, and return its key."""
    # Locked before anyone can see the row: nobody may find it, see a free lock, and take us for dead.
    async with database.transaction():
        [(key,)] = await database.fetch(
            "INSERT INTO owners(host, pid, beat, started) VALUES (?, ?, 0, ?) RETURNING key",
            (socket.gethostname(), os.getpid(), time.time()),
        )
        locks.hold(key, lease=lease)
        # The row of a dead owner is kept only to name it in listings of what it left.
        idle = await database.fetch(
            "SELECT key FROM owners AS o WHERE key <> ? AND NOT EXISTS (SELECT 1 FROM runs WHERE owner = o.key)", (key,)
        )
        for (other,) in idle:
            if not locks.is_held(other):
                await database.fetch("DELETE FROM owners WHERE key = ?", (other,))
    return int(key)


def claiming(line: Line, owner: int | None, new_owner: int) -> Callable[[Database], Awaitable[bool]]:
    """Make a run *new_owner*'s under the epoch of *line*, if it still is *owner*'s; give whether it was."""

    async def claim(database: Database) -> bool:
        if line.state.is_ended:
            # What was asked of a run that was over by then, or whose owner died before it had heard, must not meet a
            # run that is reset. Before the claim, since it would do no harm if that failed.
            await database.fetch(
                "DELETE FROM requests WHERE run = ? AND EXISTS (SELECT 1 FROM runs WHERE key = ? AND epoch = ?)",
                (line.key, line.key, line.epoch - 1),
            )
        # Only from the owner that was looked at, under the epoch that was looked at: a quicker one has raised it.
        rows = await database.fetch(
            "UPDATE runs SET owner = ?, epoch = ? WHERE key = ? AND owner IS ? AND epoch = ? RETURNING records",
            (new_owner, line.epoch, line.key, owner, line.epoch - 1),
        )
        if not rows:
            return False
        line.next = rows[0][0]
        return True

    return claim


def forgetting(heard: Sequence[int], owner: int) -> Callable[[Database], Awaitable[None]]:
    """Forget requests that runs of *owner* have heard."""

    async def forget(database: Database) -> None:
        await database.fetch(FORGET, (json.dumps(heard), owner))

    return forget
