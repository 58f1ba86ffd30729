"""
Whose a run is, in the file: owners come and go, runs change hands, and what was asked of them is forgotten once it was
heard.

Each is one call in the connection's thread, so that nobody waits for a busy loop before he can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence

from asyncflow.stores.commit import FORGET
from asyncflow.stores.database import LendableConnection, transaction
from asyncflow.stores.line import Line
from asyncflow.stores.owners import OwnerLocks


def become_owner(connection: LendableConnection, locks: OwnerLocks, lease: float) -> int:
    """Make a new owner, which lives as long as *locks* hold it, and return its key."""
    with contextlib.ExitStack() as otherwise:
        with transaction(connection):
            [(key,)] = connection.execute(
                "INSERT INTO owners(host, pid, beat, started) VALUES (?, ?, 0, ?) RETURNING key",
                (socket.gethostname(), os.getpid(), time.time()),
            ).fetchall()
            # The next to be given this key may be another process.
            otherwise.callback(locks.let_go, key)
            # Locked before anyone can see the row: nobody may find it, see a free lock, and take us for dead.
            locks.hold(key, lease=lease)
            # The row of a dead owner is kept only to name it in listings of what it left.
            idle = connection.execute(
                "SELECT key FROM owners AS o WHERE key <> ? AND NOT EXISTS (SELECT 1 FROM runs WHERE owner = o.key)",
                (key,),
            ).fetchall()
            for (other,) in idle:
                if not locks.is_held(other):
                    connection.execute("DELETE FROM owners WHERE key = ?", (other,))
        otherwise.pop_all()  # it is ours
    return int(key)


def leave(connection: LendableConnection, owner: int) -> None:
    """Give up all runs of *owner*, which is none from here on."""
    with transaction(connection):
        connection.execute("UPDATE runs SET owner = NULL WHERE owner = ?", (owner,))
        connection.execute("DELETE FROM owners WHERE key = ?", (owner,))


def claim(connection: LendableConnection, line: Line, owner: int | None, new_owner: int) -> bool:
    """Make a run *new_owner*'s under the epoch of *line*, if it still is *owner*'s; return whether it was."""
    if line.state.is_ended:
        # What was asked of a run that was over by then, or whose owner died before it had heard, must not meet a run
        # that is reset. Before the claim, since it would do no harm if that failed.
        connection.execute(
            "DELETE FROM requests WHERE run = ? AND EXISTS (SELECT 1 FROM runs WHERE key = ? AND epoch = ?)",
            (line.key, line.key, line.epoch - 1),
        )
    # Only from the owner that was looked at, under the epoch that was looked at: a quicker one has raised it.
    rows = connection.execute(
        "UPDATE runs SET owner = ?, epoch = ? WHERE key = ? AND owner IS ? AND epoch = ? RETURNING records",
        (new_owner, line.epoch, line.key, owner, line.epoch - 1),
    ).fetchall()
    if not rows:
        return False
    line.next = rows[0][0]
    return True


def ask(connection: LendableConnection, key: int, kind: str, reason: str) -> None:
    """Leave word for the owner of a run."""
    connection.execute("INSERT INTO requests(run, kind, reason) VALUES (?, ?, ?)", (key, kind, reason))


def forget(connection: LendableConnection, heard: Sequence[int], owner: int) -> None:
    """Forget requests that runs of *owner* have heard."""
    connection.execute(FORGET, (json.dumps(heard), owner))
