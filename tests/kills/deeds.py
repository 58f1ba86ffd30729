"""
What processes that die leave behind besides the journal: a file with a line for each thing that they did.

Each line is one write at the end of the file, so a kill leaves all of it or nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import attrs

BEGUN, DONE, FAILED, UNDOING, UNDONE, KEPT = "begun", "done", "failed", "undoing", "undone", "kept"
"""A body or a revert has begun, or is about to end, or a body to fail; a record is durable."""


@attrs.frozen
class Deed:
    """
    One line: what was done, in which run and which of its lives, by the task at *path* under *key*; of a record that
    was kept, *attempt* is its number.
    """

    what: str
    life: int
    run: str
    path: str
    attempt: int
    key: str


class Deeds:
    """The file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "deeds"
        self._seen = 0

    def note(self, deed: Deed) -> None:
        """Add a line."""
        handle = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            fields = (deed.what, deed.life, deed.run, deed.path, deed.attempt, deed.key)
            os.write(handle, ("\t".join(map(str, fields)) + "\n").encode())
        finally:
            os.close(handle)

    def new(self) -> list[Deed]:
        """Return what has been added since this was asked last."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._seen)
            lines = file.read()
        self._seen += len(lines)
        rows = (line.split("\t") for line in lines.decode().splitlines())
        return [Deed(what, int(life), run, path, int(attempt), key) for what, life, run, path, attempt, key in rows]
