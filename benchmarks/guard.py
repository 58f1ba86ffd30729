"""
Holds what the hot paths cost against what they cost when somebody last looked.

    python -m benchmarks.guard              # count instructions under valgrind; fail where 5 % more than recorded
    python -m benchmarks.guard chain fan    # some cases only
    python -m benchmarks.guard --record     # what is counted now is what will be expected

Instructions hardly depend on the machine's moods, so a few percent are news. They do depend on how Python was built:
where that differs from the recorded build, what is expected is scaled by the floor, and more of it is allowed. Without
valgrind there is only time, and what is held is its ratio to the floor of the same run, with much allowed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs

from benchmarks.counted import CASES, FLOOR

RECORDED = Path(__file__).with_name("instructions.json")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
BUILD = ", ".join(
    [platform.python_version(), platform.python_compiler(), platform.machine(), f"SQLite {sqlite3.sqlite_version}"]
)

ALLOWED = 1.05
"""How many times the recorded instructions a case may take."""
ALLOWED_ELSEWHERE = 1.15
"""The same where Python was built in another way."""
ALLOWED_BY_TIME = 2.0
"""How many times the recorded ratio to the floor, where there is only time."""


@attrs.frozen
class Verdict:
    """What a case costs now, what it may cost at most, and what was recorded (None: nothing was), in one unit."""

    case: str
    now: float
    recorded: float | None
    most: float

    @property
    def is_kept(self) -> bool:
        """Whether it costs no more than it may."""
        return self.now <= self.most


def instructions(cases: list[str]) -> dict[str, float]:
    """Return how many instructions a task (or a run) takes in each case, counted by callgrind."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind"
        counting = ["--tool=callgrind", "--dump-before=getsid*", f"--callgrind-out-file={out}"]
        # The order of sets is the same in each process, and nobody writes beside what is counted.
        environment = os.environ | {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            ["valgrind", *counting, sys.executable, "-m", "benchmarks.counted", *cases],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"counting failed with status {done.returncode}; valgrind and Python say:\n{done.stderr[-4000:]}")
        totals = [_total(out.with_name(f"callgrind.{number}")) for number in range(1, 4 * len(cases) + 1)]
    # Each mark closes one account: all before the small size, the small size, all up to the large size, the large size.
    return _a_unit(cases, [(totals[at + 1], totals[at + 3]) for at in range(0, len(totals), 4)])


def times(cases: list[str]) -> dict[str, float]:
    """Return how many times the floor a task (or a run) takes in each case, by the best of several runs."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.counted", "--repeats", "15", *dict.fromkeys([FLOOR, *cases])],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds = json.loads(done.stdout)
    units = _a_unit(list(seconds), list(seconds.values()))
    return {case: units[case] / units[FLOOR] for case in cases}


def _a_unit(cases: list[str], pairs: list[Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for case, (small, large) in zip(cases, pairs, strict=True):
        found[case] = (large - small) / (CASES[case].large - CASES[case].small)
    return found


def _total(file: Path) -> int:
    found = re.search(r"^totals: (\d+)$", file.read_text(errors="replace"), re.MULTILINE)
    if found is None:
        sys.exit(f"{file.name} of callgrind has no line 'totals: N'; is this a valgrind that we know?")
    return int(found[1])


def judge(counted: dict[str, float], recorded: dict[str, Any], build: str) -> list[Verdict]:
    """Hold instructions against the *recorded* ones of this version of Python."""
    before: dict[str, float] = recorded.get("instructions", {})
    scale, allowed = 1.0, ALLOWED
    if recorded.get("build") != build and FLOOR in before and FLOOR in counted:
        scale, allowed = counted[FLOOR] / before[FLOOR], ALLOWED_ELSEWHERE
    return _held(counted, {case: one * scale for case, one in before.items()}, allowed)


def judge_times(ratios: dict[str, float], recorded: dict[str, Any]) -> list[Verdict]:
    """Hold ratios to the floor against the *recorded* ones of this version of Python."""
    return _held(ratios, recorded.get("times", {}), ALLOWED_BY_TIME)


def _held(found: dict[str, float], expected: dict[str, float], allowed: float) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for case, now in found.items():
        before = expected.get(case)
        verdicts.append(Verdict(case, now, before, float("inf") if before is None else before * allowed))
    return verdicts


def table(verdicts: list[Verdict], unit: str) -> str:
    """Return the verdicts as text."""
    lines = [f"{unit:<32}{'now':>12}{'recorded':>12}{'change':>9}"]
    for one in verdicts:
        what = f"{one.case}, a {CASES[one.case].unit}"
        digits = 0 if one.now >= 1_000 else 2
        if one.recorded is None:
            lines.append(f"{what:<32}{one.now:>12,.{digits}f}{'none':>12}")
            continue
        change = one.now / one.recorded - 1
        too_much = "" if one.is_kept else f"  TOO MUCH: at most {one.most:,.{digits}f}"
        lines.append(f"{what:<32}{one.now:>12,.{digits}f}{one.recorded:>12,.{digits}f}{change:>+9.1%}{too_much}")
    return "\n".join(lines)


def main() -> None:
    """Count, print a table, and fail where something costs more than it may."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guard", description="Do the hot paths cost more?")
    parser.add_argument("cases", nargs="*", metavar="case", help=f"some of: {', '.join(CASES)}; all, if none")
    parser.add_argument("--record", action="store_true", help="expect from now on what is counted now")
    options = parser.parse_args()
    cases: list[str] = options.cases or list(CASES)
    if unknown := [case for case in cases if case not in CASES]:
        parser.error(f"there is no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    has_valgrind = shutil.which("valgrind") is not None
    if options.record and not has_valgrind:
        parser.error("there is no valgrind here, so there is nothing to record; install it")
    book: dict[str, Any] = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    recorded: dict[str, Any] = book.get(VERSION, {})
    print(f"Python {BUILD}")
    if has_valgrind:
        if recorded and recorded["build"] != BUILD:
            print(f"recorded with another: {recorded['build']}; expectations are scaled by the floor")
            cases = list(dict.fromkeys([FLOOR, *cases]))
        counted = instructions(cases)
        verdicts = judge(counted, recorded, BUILD)
        print(table(verdicts, "instructions"))
        if options.record:
            recorded = {
                "build": BUILD,
                "instructions": recorded.get("instructions", {}) | {case: round(one) for case, one in counted.items()},
                "times": recorded.get("times", {}) | {case: round(one, 2) for case, one in times(cases).items()},
            }
            RECORDED.write_text(json.dumps(dict(sorted((book | {VERSION: recorded}).items())), indent=1) + "\n")
            print(f"recorded for Python {VERSION}")
            return
    else:
        print("there is no valgrind here, so time is measured beside the floor, which shows only what is much slower")
        verdicts = judge_times(times(cases), recorded)
        print(table(verdicts, "times the floor"))
    if dear := [one.case for one in verdicts if not one.is_kept]:
        sys.exit(f"{', '.join(dear)}: dearer than recorded; mend it, or --record it and say in the commit what it buys")


if __name__ == "__main__":
    main()
