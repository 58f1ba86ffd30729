"""What names a run, a task and an execution, so that the names mean the same before and after a crash."""

from __future__ import annotations

import os
import random
import shlex
import time

from asyncflow.errors import DeclarationError, InputError

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_LONGEST_NAME = 200
_LONGEST_RUN_ID = 200


_DIGITS = bytes(ord(_ALPHABET[byte & 31]) for byte in range(256))
"""What each random byte is written as, by ``bytes.translate``."""
# Seeded by the system, again in a process that forks: to ask the system for each id takes 1 to 3 us more. Nobody else
# seeds it, as tests do with the one that all share.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)
_now = 0, ""  # a millisecond, and how it is written


def new_run_id(flow_name: str) -> str:
    """
    Return a fresh run id: the flow's name, the time in milliseconds and 40 random bits.

    Ids of one flow sort by the time they were made. Digits are Crockford's base 32, which has no letter that looks
    like another.
    """
    global _now
    at = time.time_ns() // 1_000_000
    if at != _now[0]:
        # Nine digits are enough until the year 3084. Runs that start in one millisecond share them.
        _now = at, "".join(_ALPHABET[at >> 5 * place & 31] for place in range(8, -1, -1))
    which = _random.getrandbits(64).to_bytes(8, "little").translate(_DIGITS).decode()
    return f"{flow_name}-{_now[1]}{which}"


def check_run_id(run_id: str) -> str:
    """
    Return *run_id* if it can name a run.

    Raises:
        InputError: It is empty, longer than 200 characters, or has characters that a terminal cannot show.
    """
    if not isinstance(run_id, str) or not run_id or len(run_id) > _LONGEST_RUN_ID or not run_id.isprintable():
        raise InputError(f"run id {run_id!r:.80} is unusable; give 1 to {_LONGEST_RUN_ID} printable characters")
    return run_id


def check_name(name: str, kind: str) -> str:
    """
    Return *name* if it can name a task or flow; *kind* ("task", "flow") is for the message.

    Raises:
        DeclarationError: It is empty, too long, unprintable, or has a slash, which separates the parts of a path.
    """
    if not isinstance(name, str) or not name or len(name) > _LONGEST_NAME or "/" in name or not name.isprintable():
        raise DeclarationError(
            f"{kind} name {name!r:.80} is unusable; give 1 to {_LONGEST_NAME} printable characters without '/'"
        )
    return name


def shell_command(verb: str, run_id: str, journal: str | None = None) -> str:
    """
    Return the command line that does *verb* ("resume", "show") to a run, as it is to be typed.

    An id that begins like an option comes last, behind the "--" that ends those.
    """
    where = [] if journal is None else ["--db", journal]
    rest = [*where, "--", run_id] if run_id.startswith("-") else [run_id, *where]
    return shlex.join(["asyncflow", verb, *rest])


def is_below(path: str, flow: str) -> bool:
    """Return whether *path* is one of what lies in the flow at the path *flow*; the whole flow's is empty."""
    return not flow or path.startswith(f"{flow}/")


def idempotency_key(run_id: str, path: str, execution: int, *, reverting: bool = False) -> str:
    """
    Return what the outside world may use to recognise one execution of one task.

    *execution* counts from 1 and rises when the task has been reverted or reset, so the key is the same over the
    attempts, crashes and resumes of one execution and never again after it. A revert has a key of its own.
    """
    key = f"{run_id}/{path}#{execution}"
    return f"{key}/revert" if reverting else key
