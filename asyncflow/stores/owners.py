"""
Who is alive: each owner of runs holds a POSIX record lock on one byte of a file beside the database.

The kernel frees the lock the moment the process is gone, however it went, so a free lock is a dead owner: no clock is
compared and nothing has to time out. The byte's offset is the owner's key. The file stays empty and stays in place.

Two properties of POSIX locks shape this module. A process never conflicts with itself, so who lives *here* is kept in a
set. And closing any descriptor of the file drops all locks the process has on it, so there is one descriptor for each
file in a process, shared by all its stores.
"""

from __future__ import annotations

import errno
import os
import sys
import threading

from asyncflow.errors import StoreError

if sys.platform != "win32":
    import fcntl

IS_SUPPORTED = sys.platform != "win32"
"""Whether this platform has POSIX record locks."""

SUFFIX = "-owners"
"""What the lock file's name adds to the database's."""


class _LockFile:
    """One lock file in this process: its descriptor, how many stores use it, and the keys that they hold."""

    __slots__ = ("descriptor", "held", "users")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.users = 0
        self.held: set[int] = set()


# By real path. Engines may live in several threads, each with a loop of its own.
_files: dict[str, _LockFile] = {}
_guard = threading.Lock()


def _forget() -> None:
    """Begin anew in a forked child: locks are not inherited, and a thread left behind may have held the guard."""
    global _guard
    # The descriptors stay open. Closing them here would do no harm, and neither does keeping them.
    _files.clear()
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


class OwnerLocks:
    """The locks of one store on the owners' file of its database."""

    __slots__ = ("_file", "_path")

    def __init__(self, database: str) -> None:
        """*database* is a real path, so that all spellings of one file meet at one lock file."""
        self._path = database + SUFFIX
        with _guard:
            file = _files.get(self._path)
            if file is None:
                try:
                    file = _LockFile(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
                except OSError as error:
                    raise StoreError(
                        f"{self._path!r}, which tells the living from the dead, cannot be opened: {error.strerror}; "
                        "asyncflow needs to write in the folder of the journal",
                        path=database,
                    ) from error
                _files[self._path] = file
            file.users += 1
        self._file: _LockFile | None = file

    def hold(self, key: int) -> None:
        """
        Live as the owner *key* until :meth:`let_go`, or until this process is gone.

        Raises:
            StoreError: The file system has no locks, or another process has this one.
        """
        file = self._opened()
        with _guard:
            if not _lock(file.descriptor, key, self._path):
                raise StoreError(
                    f"owner {key} of {self._path!r} is another process; was the journal replaced by a copy?"
                )
            file.held.add(key)

    def let_go(self, key: int) -> None:
        """Be the owner *key* no longer."""
        file = self._opened()
        with _guard:
            if key in file.held:
                file.held.discard(key)
                _unlock(file.descriptor, key)

    def is_alive(self, key: int) -> bool:
        """Return whether the owner *key* lives, in this process or in another."""
        file = self._opened()
        with _guard:
            if key in file.held:
                # Asking the kernel would replace our own lock by the one we ask with.
                return True
            # Asking with a shared lock: two that ask at once must not take each other for the owner.
            if not _lock(file.descriptor, key, self._path, is_shared=True):
                return True
            _unlock(file.descriptor, key)
            return False

    def close(self) -> None:
        """Use the file no more; the last user in this process closes it."""
        file, self._file = self._file, None
        if file is None:
            return
        with _guard:
            file.users -= 1
            if not file.users and _files.get(self._path) is file:
                del _files[self._path]
                os.close(file.descriptor)

    def _opened(self) -> _LockFile:
        if self._file is None:
            raise StoreError(f"{self._path!r} is closed; open the store first")
        return self._file


def _lock(descriptor: int, key: int, path: str, *, is_shared: bool = False) -> bool:
    """Lock one byte and return whether that worked; False means that another process has it."""
    if sys.platform == "win32":
        raise StoreError("journals in a file need POSIX record locks, which Windows does not have")
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    try:
        fcntl.lockf(descriptor, kind | fcntl.LOCK_NB, 1, key)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise StoreError(f"{path!r} cannot be locked: {error.strerror}; keep the journal on a local disk") from error
    return True


def _unlock(descriptor: int, key: int) -> None:
    if sys.platform != "win32":
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, key)
