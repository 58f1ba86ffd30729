"""
Kills processes: ``python -m tests.kills.proof --kills 300``, or ``... --seed 4711`` for one play again.

This process has no threads and opens no engine. For each seed it forks one child after the other, each of which lives
until it dies at the point that the seed says, and looks at what is left after each. The last child is left to itself.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import attrs

from tests.kills.checks import Watcher
from tests.kills.flows import Play, play_of
from tests.kills.life import fork
from tests.kills.points import KINDS, Death

CHAIN = 20
"""How many lives of one play are ended at most."""
REACH = {"statement": 30, "step": 120, "effect": 12}
"""How many points of each kind there may be before a death; a life that ends before has survived."""


@attrs.define
class Tally:
    """What came of it all."""

    plays: int = 0
    kills: int = 0
    longest: int = 0
    kinds: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(KINDS, 0))

    def add(self, deaths: list[Death]) -> None:
        self.plays += 1
        self.kills += len(deaths)
        self.longest = max(self.longest, len(deaths))
        for death in deaths:
            self.kinds[death.kind] += 1

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} at a {kind}" for kind, count in self.kinds.items())
        return f"{self.kills} kills in {self.plays} plays, up to {self.longest} in one ({kinds})"


def death_of(play: Play, rng: random.Random) -> Death:
    """Return where the next process dies; half of all deaths fall into what is done at the start of a life."""
    # What is asked about, and what a flow has lost, is of interest once bodies run.
    kind = rng.choice(("effect", *KINDS, "effect") if play.asks else KINDS)
    return Death(kind, rng.randint(1, REACH[kind] * rng.choice((1, play.reach))))


def perform(play: Play) -> list[Death]:
    """Have one play's processes die one after the other, and check what is left; return the deaths."""
    rng = random.Random(f"deaths {play.seed}")
    most = rng.choice((1, 2, 4, 8, CHAIN))
    # In memory, where there is such a place: these files need not outlive this machine.
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="kills-", dir=place) as name:
        folder = Path(name)
        watcher = Watcher(play, folder)
        deaths: list[Death] = []
        survived = 0
        # A life that survives leaves a run only where it was suspended, which happens in the first few.
        for life in range(most + 8):
            death = death_of(play, rng) if len(deaths) < most else None
            status = fork(play, folder, life, death)
            machines = watcher.look()
            if os.WIFSIGNALED(status):
                assert os.WTERMSIG(status) == signal.SIGKILL, f"life {life} is stuck"
                assert death is not None, f"life {life} died of itself"
                deaths.append(death)
                continue
            assert os.WEXITSTATUS(status) == 0, f"life {life} failed"
            survived += 1
            if len(machines) == play.runs and all(machine.phase.is_ended for machine in machines.values()):
                break
        watcher.look_at_end()
        return deaths


def prove(seeds: range, kills: int) -> Tally:
    """Perform the plays of *seeds*, in order, until there have been so many *kills*."""
    tally = Tally()
    for seed in seeds:
        play = play_of(seed)
        try:
            tally.add(perform(play))
        except BaseException as error:
            error.add_note(f"again: python -m tests.kills.proof --seed {seed}  # {play}")
            raise
        if tally.kills >= kills:
            break
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0, help="the first seed; alone, the only one")
    parser.add_argument("--every", type=int, default=1, help="take each so many-th seed only")
    options = parser.parse_args()
    gc.collect()
    gc.freeze()
    began = time.monotonic()
    is_alone = "--seed" in sys.argv and "--kills" not in sys.argv
    seeds = range(options.seed, options.seed + 1) if is_alone else range(options.seed, 10**9, options.every)
    tally = prove(seeds, options.kills)
    seconds = time.monotonic() - began
    print(f"{tally}; {seconds:.1f} s")


if __name__ == "__main__":
    main()
