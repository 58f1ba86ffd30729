"""Starts, stops, continues and kills processes that want the same run, and hears what they say."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

from asyncflow.stores.owners import SUFFIX
from tests.stores.journals import ROOT


class Child:
    """A process that says what it does, line by line."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def hears(self, line: str = "") -> str:
        """Wait for the next line, which begins with *line*, and return the rest of it."""
        assert self.process.stdout is not None
        said = self.process.stdout.readline().strip()
        assert said.startswith(line), f"{said!r} instead of {line!r}"
        return said.removeprefix(line).strip()

    def tell(self, line: str) -> None:
        """Have the process read *line*."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        """Stop it, and return once it stands still."""
        self.process.send_signal(signal.SIGSTOP)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self) -> None:
        """Continue it."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without a farewell, stopped or not."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End it, and let go of its pipes."""
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@contextlib.contextmanager
def children(*argument_lists: list[object]) -> Generator[list[Child]]:
    """Start processes, and see to it that none is left."""
    started = [Child(*arguments) for arguments in argument_lists]
    try:
        yield started
    finally:
        for child in started:
            child.close()


def can_be_written(path: Path) -> bool:
    """
    Whether somebody could write to a journal now.

    Not while a process is stopped in the middle of a commit: then SQLite's own lock goes nowhere, and nobody can take
    over anything, before that process goes on or ends.
    """
    descriptor = os.open(f"{path}{SUFFIX}", os.O_RDWR)
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    database = sqlite3.connect(path, timeout=0.0, isolation_level=None)
    try:
        database.execute("BEGIN IMMEDIATE")
        database.execute("ROLLBACK")
    except sqlite3.OperationalError:
        return False
    finally:
        database.close()
    return True


class Times:
    """How long takeovers took, by how their owner went."""

    def __init__(self) -> None:
        self._begun = 0.0
        self.seconds: list[float] = []

    def begin(self) -> None:
        """The owner is gone from here on."""
        self._begun = time.monotonic()

    def end(self) -> None:
        """The other has it."""
        self.seconds.append(time.monotonic() - self._begun)

    def __str__(self) -> str:
        return f"median {statistics.median(self.seconds):.3f} s, worst {max(self.seconds):.3f} s of {len(self.seconds)}"
