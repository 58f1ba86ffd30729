"""What a peer offers to be measured, and what is the same for all of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.shapes import Shape, chain, fan, serving

MEMORY, PROCESS, FULL = "memory", "process", "full"
"""Nothing is kept; what is kept survives the process; it survives a power cut, too."""

TASKS, RUNS, RESUMED = (10, 100, 1_000, 10_000), (10, 100, 1_000), (100, 1_000)
"""Sizes of a chain or fan, of runs to be served, and of a run to be resumed. A peer goes as far as it can bear."""

Work = Callable[[], Awaitable[object]]
Prepare = Callable[[int], AbstractAsyncContextManager[Work]]
Shaped = Callable[[Callable[[int], Shape]], Prepare]
"""Says how runs of one shape are made ready, of which the size is still to be given."""


class Workload(NamedTuple):
    """
    Work of a kind: ``prepare(size)`` makes ready and gives what is timed, which can be called several times.

    Where ``is_fresh``, it is made ready for each time.
    """

    name: str
    where: str
    sizes: tuple[int, ...]
    prepare: Prepare
    is_fresh: bool = False


class Fuse:
    """Counts bodies, and kills the process in the one that it was set to."""

    def __init__(self) -> None:
        self._left = 0

    def set(self, bodies: int) -> None:
        """Let so many bodies through, and not the next."""
        self._left = bodies + 1

    def burn(self) -> None:
        """Be called by each body."""
        if self._left:
            self._left -= 1
            if not self._left:
                os._exit(KILLED)


KILLED = 9
"""The exit status of a process that a fuse has ended, as suddenly as a kill does."""
fuse = Fuse()


async def leave_half(peer: str, folder: Path, size: int) -> None:
    """Have another process run a chain of *size* tasks in *folder*, and die in the middle of it."""
    command = [sys.executable, "-m", "benchmarks.peers.measure", peer, "--half", str(folder), str(size)]
    # In no thread: there are peers that shut the loop's own ones down.
    half = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = await half.communicate()
    if half.returncode != KILLED:
        raise RuntimeError(f"{peer} was to die half way, and ended with {half.returncode}:\n{said.decode()[-2000:]}")


def in_turn(one: Work, count: int) -> Work:
    """Return what does *one* so many times, one after the other."""

    async def work() -> None:
        for _ in range(count):
            await one()

    return work


def at_once(one: Work, count: int) -> Work:
    """Return what does *one* so many times at once."""

    async def work() -> None:
        await asyncio.gather(*(one() for _ in range(count)))

    return work


def of_shapes(where: str, shaped: Shaped, *, is_concurrent: bool = True) -> list[Workload]:
    """Return the workloads of a peer that takes shapes; without ``serving at once`` where it is not concurrent."""
    found = [
        Workload("chain", where, TASKS, shaped(chain)),
        Workload("fan", where, TASKS, shaped(fan)),
        Workload("serving in turn", where, RUNS, _served(shaped, in_turn)),
    ]
    if is_concurrent:
        found.append(Workload("serving at once", where, RUNS, _served(shaped, at_once)))
    return found


def _served(shaped: Shaped, how: Callable[[Work, int], Work]) -> Prepare:
    @asynccontextmanager
    async def prepare(count: int) -> AsyncIterator[Work]:
        async with shaped(lambda _: serving())(count) as one:
            yield how(one, count)

    return prepare
