"""
Who is alive: each owner of runs holds a POSIX record lock on one byte of a file beside the database.

The kernel frees the lock the moment the process is gone, however it went, so a free lock is a dead owner: no clock is
compared and nothing has to time out. The byte's offset is the owner's key. One that lives shows besides that it is
well; :mod:`~asyncflow.stores.pulse` has how, and what the file contains. Byte 0 is nobody's key: by locking it, those
who write take turns where they must. The file stays in place.

Two properties of POSIX locks shape this module. A process never conflicts with itself, so who lives *here* is kept in a
table. And closing any descriptor of the file drops all locks the process has on it, so there is one descriptor for each
file in a process, shared by all its stores.
"""

from __future__ import annotations

import errno
import os
import sys
import threading

from asyncflow.errors import StoreError
from asyncflow.stores.pulse import LEASE, Pulse, Stillness, Watch

if sys.platform != "win32":  # pragma: no branch  # a journal in a file is refused there
    import fcntl

IS_SUPPORTED = sys.platform != "win32"
"""Whether this platform has POSIX record locks."""

SUFFIX = "-owners"
"""What the lock file's name adds to the database's."""

_TURN = 0


class _LockFile:
    """One lock file in this process: its descriptor, how many stores use it, and the keys that they hold."""

    __slots__ = ("descriptor", "held", "mutex", "path", "users")

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self.path = path
        # Of those in this process who want byte 0; whoever has it can tell that it has, see ``WalLock.mend``.
        self.mutex = threading.RLock()
        self.users = 0
        # By whom. A key that was rolled back may be given to another store before the first has let it go.
        self.held: dict[int, OwnerLocks] = {}

    def try_lock(self) -> bool:
        """Lock byte 0, and return whether that worked; False means that another process has it."""
        return _lock(self.descriptor, _TURN, self.path)

    def unlock(self) -> None:
        """Let the other processes have byte 0."""
        _unlock(self.descriptor, _TURN)


# By real path. Engines may live in several threads, each with a loop of its own.
_files: dict[str, _LockFile] = {}
_guard = threading.Lock()


def _forget() -> None:
    """Begin anew in a forked child: locks are not inherited, and a thread left behind may have held the guard."""
    global _guard
    # The descriptors stay open. Closing them here would do no harm, and neither does keeping them.
    _files.clear()
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):  # pragma: no branch  # where there is no fork there is nothing to forget
    os.register_at_fork(after_in_child=_forget)


class OwnerLocks:
    """The locks of one store on the owners' file of its database."""

    __slots__ = ("_file", "_path", "_pulses", "_watch")

    def __init__(self, database: str) -> None:
        """*database* is a real path, so that all spellings of one file meet at one lock file."""
        self._path = database + SUFFIX
        self._pulses: dict[int, Pulse] = {}
        self._watch = Watch()
        with _guard:
            file = _files.get(self._path)
            if file is None:
                try:
                    file = _LockFile(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), self._path)
                except OSError as error:
                    raise StoreError(
                        f"{self._path!r}, which tells the living from the dead, cannot be opened: {error.strerror}; "
                        "asyncflow needs to write in the folder of the journal",
                        path=database,
                    ) from error
                _files[self._path] = file
            file.users += 1
        self._file: _LockFile | None = file

    @property
    def turn(self) -> _LockFile:
        """What those who write lock to take turns."""
        return self._opened()

    def hold(self, key: int, *, lease: float = LEASE) -> None:
        """
        Live as the owner *key* until :meth:`let_go`, or until this process is gone.

        Who shows no life for *lease* seconds, although it lives, may be overtaken.

        Raises:
            StoreError: The file system has no locks, or another process has this one.
        """
        file = self._opened()
        with _guard:
            if not _lock(file.descriptor, key, self._path):
                raise StoreError(
                    f"owner {key} of {self._path!r} is another process; was the journal replaced by a copy?"
                )
            file.held[key] = self
        try:
            self._pulses[key] = Pulse(file.descriptor, key, lease)
        except OSError as error:
            self.let_go(key)
            raise StoreError(f"{self._path!r} cannot be written: {error.strerror}", path=self._path) from error

    def let_go(self, key: int) -> None:
        """Be the owner *key* no longer."""
        file = self._opened()
        pulse = self._pulses.pop(key, None)
        if pulse is not None:
            pulse.stop()
        with _guard:
            if file.held.get(key) is self:
                del file.held[key]
                _unlock(file.descriptor, key)

    def is_alive(self, key: int) -> bool:
        """
        Return whether the owner *key* lives, in this process or in another, and is well as far as was seen from here.

        Every call is a look at the owner's counter, and an owner is watched from the first look at it.
        """
        return self.is_held(key) and not self.stillness(key).is_too_long

    def stillness(self, key: int) -> Stillness:
        """Look at the counter of the owner *key*, and return for how long it has been seen to stand still."""
        return self._watch.look(self._opened().descriptor, key)

    def is_held(self, key: int) -> bool:
        """Return whether the owner *key* exists, well or not."""
        file = self._opened()
        with _guard:
            if key in file.held:
                # Asking the kernel would replace our own lock by the one we ask with.
                return True
            # Asking with a shared lock: two that ask at once must not take each other for the owner.
            if not _lock(file.descriptor, key, self._path, is_shared=True):
                return True
            _unlock(file.descriptor, key)
        self._watch.forget(key)
        return False

    def close(self) -> None:
        """Be no owner any more, and use the file no more; the last user in this process closes it."""
        if self._file is None:
            return
        # Before anything is closed: whoever opens a file next may be given the same descriptor, and must not be written
        # to. An opening that failed half way has not come to let its owner go.
        for key in list(self._pulses):
            self.let_go(key)
        file, self._file = self._file, None
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
    if sys.platform == "win32":  # pragma: no cover  # the suite does not run there
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
    if sys.platform != "win32":  # pragma: no branch  # nothing was locked there
        fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, key)
