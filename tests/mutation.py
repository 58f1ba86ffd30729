"""
Mutation testing of the machine: ``python -m tests.mutation [COUNT SEED | MODULE ...]``, of a sample if *COUNT* is
given, or of all mutants of some modules.

mutmut makes the mutants, forks a process for each and runs the tests that reach it; this picks the sample and counts.
A mutant that lives is either a claim that no test makes, or one of those explained in ``mutants.md``.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

WORK = Path("mutants")
LEAST = 90
"""Of a hundred mutants, how many the tests must notice."""

DIED = frozenset({1, 3, 24, -24, 36, 37, 152, 255})
"""How mutmut's children end where a test failed, or the mutant ran forever."""


def verdicts() -> dict[str, int | None]:
    """Return mutant to how the tests ended with it, None where they have not run."""
    found: dict[str, int | None] = {}
    for page in sorted(WORK.glob("asyncflow/**/*.meta")):
        found |= json.loads(page.read_text(encoding="utf-8"))["exit_code_by_key"]
    return found


def sample(count: int, seed: int) -> list[str]:
    """Return the first *count* mutants in an order that *seed* alone decides; a larger sample holds the smaller."""
    names = sorted(verdicts())
    random.Random(seed).shuffle(names)
    return names[:count]


def mutmut(*arguments: str) -> None:
    # One at a time: a test that is starved of time is no verdict on a mutant.
    subprocess.run(["mutmut", "run", "--max-children", "1", *arguments], check=True)


def main() -> int:
    chosen: list[str] = []
    if len(sys.argv) > 1:
        if not verdicts():
            mutmut("asyncflow.machine.control.*")  # makes all of them on the way
        if sys.argv[1].isdigit():
            count, seed = map(int, sys.argv[1:])
            chosen = sample(count, seed)
        else:
            modules = tuple(f"asyncflow.machine.{module}." for module in sys.argv[1:])
            chosen = [name for name in verdicts() if name.startswith(modules)]
    mutmut(*chosen)
    told = {name: code for name, code in verdicts().items() if code is not None and (not chosen or name in chosen)}
    living = sorted(name for name, code in told.items() if code not in DIED)
    for name in living:
        subprocess.run(["mutmut", "show", name], check=True)
    share = 100 * (len(told) - len(living)) / len(told)
    print(f"{len(told) - len(living)} of {len(told)} mutants were noticed, {share:.1f} %; at least {LEAST} % must be")
    return 0 if share >= LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
