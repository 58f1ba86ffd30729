"""A copy of a journal, as it was at one moment, that nobody owns."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from asyncflow.errors import InputError, StoreError
from asyncflow.stores.database import Database, LendableConnection, transaction


async def backup(source: str, shown: str, target: str) -> None:
    """
    Write the journal at the real path *source* to *target*, which does not exist. It is there whole or not at all.

    It is read through a connection of its own, in one transaction: commits go on behind it, and the log grows by them
    until it is done.
    """
    try:
        part, whole = _places(target)
    except OSError as error:
        raise StoreError(f"backup {target!r} cannot be made there: {error.strerror}", path=target) from error
    try:
        reading = await Database.connect(source, shown=shown, mode="ro")
        try:
            await reading.fetch("VACUUM INTO ?", (str(part),))
        finally:
            await reading.close()
        copy = await Database.connect(str(part), shown=target, mode="rw")
        try:
            await copy.call(_disown)
        finally:
            await copy.close()
        _put(part, whole, target)
    finally:
        with contextlib.suppress(OSError):  # as a rule since it never came to be
            part.unlink()  # one entry of a folder; the copy itself was made in a thread


def _disown(connection: LendableConnection) -> None:
    # Keys of owners are never used again in one file, and would be by somebody else in the copy.
    with transaction(connection):
        connection.execute("UPDATE runs SET owner = NULL WHERE owner IS NOT NULL")
        connection.execute("DELETE FROM owners")
        connection.execute("DELETE FROM requests")


def _places(target: str) -> tuple[Path, Path]:
    """Return where the copy is made, and where it goes once it is whole."""
    if "\0" in target:
        raise InputError(f"{target!r} cannot be the name of a file; give a backup another")
    whole = Path(os.path.realpath(target))
    if whole.exists():
        raise InputError(f"there is something at {target!r} already; give a backup a name of its own")
    if not whole.parent.is_dir():
        raise InputError(f"backup {target!r} cannot be made: there is no folder {str(whole.parent)!r}; create it first")
    # Of several to one name, each makes its own, and one of them is put in place.
    return Path(f"{whole}-{secrets.token_hex(4)}-part"), whole


def _put(part: Path, whole: Path, target: str) -> None:
    try:
        _sync(part)
        # Unlike a rename, a link never replaces what somebody has put there meanwhile.
        os.link(part, whole)
        _sync(whole.parent)
    except FileExistsError:
        raise InputError(f"something has come to be at {target!r} meanwhile; it was left as it is") from None
    except OSError as error:
        raise StoreError(f"backup {target!r} cannot be written: {error.strerror}", path=target) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
