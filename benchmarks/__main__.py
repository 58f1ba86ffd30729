"""Asks the questions, prints one table, and writes the figures where they are wanted."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import pkgutil
import platform
import sqlite3

import attrs

from benchmarks import questions
from benchmarks.bench import Bench, Row, heading

NAMES = sorted(module.name for module in pkgutil.iter_modules(questions.__path__))


def main() -> None:
    """Read the command line, and ask."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="What asyncflow costs.")
    parser.add_argument("questions", nargs="*", metavar="question", help=f"some of: {', '.join(NAMES)}; all, if none")
    parser.add_argument("--list", action="store_true", help="say what each question is, and ask nothing")
    parser.add_argument("--runs", type=int, default=9, help="counted runs of each, after one warm-up (default 9)")
    parser.add_argument("--quick", action="store_true", help="small sizes and few runs: to see that it works")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file")
    options = parser.parse_args()
    if unknown := [name for name in options.questions if name not in NAMES]:
        parser.error(f"there is no question {', '.join(unknown)}; there are {', '.join(NAMES)}")
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    asked = {name: importlib.import_module(f"benchmarks.questions.{name}") for name in options.questions or NAMES}
    if options.list:
        for name, module in asked.items():
            print(f"{name:<14}{(module.__doc__ or '').strip()}")
        return
    bench = Bench(options.runs, is_quick=options.quick)
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.machine()}")
    print(heading())
    for name, module in asked.items():
        bench.question = name
        asyncio.run(module.ask(bench))
        if options.json:
            _write(options.json, bench)  # after each, so that one who grows tired has something
    _conclude(bench.rows)


def _write(file: str, bench: Bench) -> None:
    found = {
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "rows": [attrs.asdict(row) | {"ratio": row.ratio, "verdict": row.verdict} for row in bench.rows],
        "skipped": bench.skipped,
        "is_quick": bench.is_quick,
    }
    with open(file, "w") as out:
        json.dump(found, out, indent=1)


def _conclude(rows: list[Row]) -> None:
    verdicts = [row.verdict for row in rows if row.verdict]
    if verdicts:
        print("yardsticks: " + ", ".join(f"{verdicts.count(one)} {one}" for one in ("reach", "must", "missed")))


if __name__ == "__main__":
    main()
