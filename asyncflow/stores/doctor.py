"""What around a journal could make trouble: SQLite, Python, the file system, the log, whoever holds a lock."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import attrs

from asyncflow.stores import wal_lock
from asyncflow.stores.owners import SUFFIX, OwnerLocks
from asyncflow.stores.verify import connect
from asyncflow.stores.writer import CHECKPOINT_BYTES

_NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "glusterfs", "ceph", "lustre"})
_ESCAPED = re.compile(r"\\([0-7]{3})")  # how a mount's path has a blank
_MOUNTS = Path("/proc/self/mounts")


@attrs.frozen
class Remark:
    """One thing that was looked at: its name, what was found, and what to do where that ``is_trouble``."""

    about: str
    found: str
    advice: str = ""
    is_trouble: bool = False


def doctor(path: str | os.PathLike[str] | None = None) -> list[Remark]:
    """
    Return what could make trouble for a journal at *path*, or for any where that is None. Changes nothing.

    Raises:
        StoreError: *path* is no journal, or cannot be opened.
    """
    remarks = [_python(), _sqlite()]
    if path is not None:
        real = os.path.realpath(os.fsdecode(path))
        remarks += [_file_system(real), _log(real), *_inside(os.fsdecode(path), real)]
    return remarks


def _python() -> Remark:
    return Remark("python", f"{sys.implementation.name} {sys.version.split()[0]} on {sys.platform}")


def _sqlite() -> Remark:
    advice = "let no other program write a journal" if wal_lock.is_needed() else ""
    return Remark("sqlite", wal_lock.explain(), advice)


def _file_system(real: str) -> Remark:
    kind = _kind_of(Path(real).parent)
    if kind in _NETWORK:
        advice = "locks and shared memory do not work across machines; move the journal to a local disk"
        return Remark("file system", kind, advice, is_trouble=True)
    return Remark("file system", kind or "unknown")


def _kind_of(folder: Path) -> str:
    """Return the type of the file system that *folder* is on, as the kernel calls it; empty where nobody says."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return _kind_among(lines, folder)


def _kind_among(mounts: list[str], folder: Path) -> str:
    best, kind = -1, ""
    for line in mounts:
        _, place, found, *_ = line.split(" ")
        place = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), place)
        if folder.is_relative_to(place) and len(place) >= best:
            best, kind = len(place), found
    return kind


def _log(real: str) -> Remark:
    try:
        size_bytes = Path(f"{real}-wal").stat().st_size
    except FileNotFoundError:
        return Remark("log", "none: nobody has the journal open, and all of it is in the file")
    found = f"{size_bytes:,} bytes"
    if size_bytes > 16 * CHECKPOINT_BYTES:
        advice = "something reads for very long, so it cannot begin anew; end that program, or close every engine once"
        return Remark("log", found, advice, is_trouble=True)
    return Remark("log", found)


def _inside(shown: str, real: str) -> list[Remark]:
    database = connect(shown)
    try:
        [(mode, pages, free, page_bytes)] = database.execute(
            "SELECT auto_vacuum, page_count, freelist_count, page_size "
            "FROM pragma_auto_vacuum, pragma_page_count, pragma_freelist_count, pragma_page_size"
        ).fetchall()
        owners = database.execute(
            "SELECT key, host, pid, (SELECT count(*) FROM runs WHERE owner = o.key) FROM owners AS o ORDER BY key"
        ).fetchall()
    finally:
        database.close()
    found = f"{pages * page_bytes:,} bytes, {free * page_bytes:,} of them free"
    advice = "" if mode == 2 else "what is free is used again but stays in the file, which an older asyncflow made"
    remarks = [Remark("size", found, advice)]
    if not Path(real + SUFFIX).exists():
        # Asking would make the file; and without it nobody lives.
        alive = dict.fromkeys((key for key, *_ in owners), False)
    else:
        locks = OwnerLocks(real)
        try:
            alive = {key: locks.is_alive(key) for key, *_ in owners}
        finally:
            locks.close()
    for key, host, pid, runs in owners:
        who = f"process {pid} on {host}, {runs} runs"
        if alive[key]:
            remarks.append(Remark("owner", f"{who}: alive"))
        else:
            advice = "resume its runs, or call engine.recover()" if runs else "the next engine forgets it"
            remarks.append(Remark("owner", f"{who}: dead", advice, is_trouble=runs > 0))
    return remarks
