"""
Writes the figures of ``benchmarks/figures/`` into ``docs/performance.md``: tables between markers, and two plots.

    python -m benchmarks --json benchmarks/figures/own.json
    python -m benchmarks.peers --json benchmarks/figures/peers.json
    python -m benchmarks.page

What stands between ``<!-- figures: NAME ... -->`` and ``<!-- end -->`` is written anew; a NAME is a question, or one of
``about``, ``peers``, ``profile``, ``instructions`` and ``python3.11``. The rest is anybody's.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from benchmarks.counted import CASES
from benchmarks.guard import RECORDED
from benchmarks.plot import log_bars, log_lines

ROOT = Path(__file__).parents[1]
FIGURES = Path(__file__).parent / "figures"
PAGE = ROOT / "docs" / "performance.md"
MARKED = re.compile(r"(<!-- figures: ([\w. ]+) -->\n).*?(<!-- end -->)", re.DOTALL)

OURS = "asyncflow"
NAMES = {
    "by_hand": "TaskGroup by hand",
    "by_hand_aiosqlite": "TaskGroup by hand, aiosqlite",
    "langgraph": "LangGraph",
    "dask": "Dask",
    "taskflow": "TaskFlow",
    "dbos": "DBOS",
    "prefect": "Prefect",
}
KEPT = {"memory": "no", "process": "process", "full": "full"}


def table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown: the first column to the left, all others to the right."""
    ruler = "|---" + "|--:" * (len(heads) - 1) + "|"
    return "\n".join([_line(heads), ruler, *map(_line, rows)]) + "\n"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def of_question(question: str, own: dict[str, Any]) -> str:
    """Return what a question asks, and the answers."""
    asks = (importlib.import_module(f"benchmarks.questions.{question}").__doc__ or "").strip()
    rows: list[list[str]] = []
    for row in own["rows"]:
        if row["question"] != question:
            continue
        of = "" if row["ratio"] is None else f"{row['ratio']:.2f} x {row['compared']}"
        stick = ""
        if row["yardstick"]:
            sign = " x" if row["yardstick"]["is_ratio"] else ""
            verdict = "**missed**" if row["verdict"] == "missed" else row["verdict"]
            stick = f"{verdict} ({row['yardstick']['must']:g} / {row['yardstick']['reach']:g}{sign})"
        rows.append([row["what"], f"{_number(row['median'])} {row['unit']}", _number(row["best"]), of, stick])
    said = table(["", "median", "best", "ratio", "yardstick: must / reach"], rows) if rows else ""
    missing = [f"\nNot measured: {one}.\n" for one in own.get("skipped", ()) if question == "syncing"]
    return f"*{asks}*\n\n{said}{''.join(missing)}\n"


def of_profile(own: dict[str, Any]) -> str:
    """Return a column for each workload, a row for each part of asyncflow."""
    shares: dict[str, dict[str, float]] = {}
    for row in own["rows"]:
        if row["question"] == "profile":
            workload, _, part = row["what"].partition(": ")
            shares.setdefault(part, {})[workload] = row["median"]
    workloads = list(dict.fromkeys(one for found in shares.values() for one in found))
    parts = sorted(shares, key=lambda part: (part == "all other parts", -sum(shares[part].values())))
    rows = [[part, *(_percent(shares[part].get(one)) for one in workloads)] for part in parts]
    return table(["part", *workloads], rows) + "\n"


def of_peers(peers: dict[str, Any]) -> str:
    """Return what each peer took on the largest of each of its workloads, and asyncflow on the same."""
    rows: list[list[str]] = []
    notes: list[str] = []
    for peer, found in peers["peers"].items():
        name = NAMES.get(peer, peer)
        if "skipped" in found:
            notes.append(f"- {name}: not measured; {found['skipped']}")
            continue
        full_name = f"{name} {found['version']}".rstrip()
        notes.append(f"- {full_name}: {found['about']}.")
        largest = {(row["name"], row["where"]): row for row in found["rows"]}  # sizes rise
        for row in largest.values():
            theirs, ours = row["theirs"] / row["size"] * 1e6, row["ours"] / row["size"] * 1e6
            ahead = f"{theirs / ours:,.1f} x" if theirs >= ours else f"**behind**, {ours / theirs:.2f} x"
            what = f"{row['name']} of {row['size']:,}"
            rows.append([name, what, KEPT[row["where"]], f"{_number(theirs)} us", f"{_number(ours)} us", ahead])
    heads = ["peer", "work", "kept", "its, a task or run", "ours", "asyncflow is ahead"]
    return table(heads, rows) + "\n" + "\n".join(notes) + "\n\n"


def of_instructions() -> str:
    """Return what the guard expects, for each Python."""
    book = json.loads(RECORDED.read_text())
    rows = [
        [f"{case}, a {CASES[case].unit}", *(_number(one["instructions"].get(case, 0)) for one in book.values())]
        for case in CASES
    ]
    return table(["instructions", *book], rows) + "\n"


def about(own: dict[str, Any]) -> str:
    """Return on what the figures were made, and how the yardsticks were met."""
    verdicts = [row["verdict"] for row in own["rows"] if row["verdict"]]
    met = ", ".join(f"{verdicts.count(one)} {said}" for one, said in MET.items())
    machine = f"{own['machine']} with {own['processors']} processors"
    software = f"CPython {own['python']}, SQLite {own['sqlite']}"
    quick = " In haste, with small sizes: these figures are provisional." if own["is_quick"] else ""
    return f"Made with {software}, {machine}.{quick} Of {len(verdicts)} yardsticks: {met}.\n"


MET = {"reach": "reached", "must": "met", "missed": "missed"}


def plots(own: dict[str, Any], peers: dict[str, Any]) -> dict[str, str]:
    """Return each plot by its file's name."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in own["rows"]:
        found = re.fullmatch(r"(chain|fan) of ([\d,]+)(, against by hand)?", row["what"])
        if row["question"] != "in_memory" or not found:
            continue
        size = int(found[2].replace(",", ""))
        if found[3]:
            lines.setdefault(f"{found[1]}, by hand", []).append((size, row["floor"]))
        else:
            lines.setdefault(f"{found[1]}, asyncflow", []).append((size, row["median"]))
            if found[1] == "chain":
                lines.setdefault("chain, bare mechanism", []).append((size, row["floor"]))
    drawn = {"sizes.svg": log_lines("A task in memory", "tasks in the flow", "us a task", dict(sorted(lines.items())))}
    for where, kept in (("memory", "in memory"), ("full", "synced")):
        if values := _chains(peers, where):
            title = f"A task of a chain of up to 1,000, {kept}"
            drawn[f"peers-{where}.svg"] = log_bars(title, "us a task", values, ours=OURS)
    return drawn


def _chains(peers: dict[str, Any], where: str) -> dict[str, float]:
    """Return what a task of the largest chain up to 1,000 that each could bear took, in microseconds."""
    values: dict[str, float] = {}
    ours: dict[int, float] = {}
    for peer, found in peers["peers"].items():
        for row in found["rows"]:  # sizes rise, so that the largest is the one that stays
            if (row["name"], row["where"]) == ("chain", where) and row["size"] <= 1_000:
                values[NAMES.get(peer, peer)] = row["theirs"] / row["size"] * 1e6
                ours[row["size"]] = row["ours"] / row["size"] * 1e6
    return values | ({OURS: ours[max(ours)]} if ours else {})


def main() -> None:
    """Write the page's tables and plots; say which figures there are none of."""
    own, peers = (_figures(name) for name in ("own", "peers"))

    def fill(found: re.Match[str]) -> str:
        filled = "".join(_part(name, own, peers) for name in found[2].split())
        return f"{found[1]}{filled}{found[3]}"

    PAGE.write_text(MARKED.sub(fill, PAGE.read_text()))
    for file, drawn in plots(own, peers).items():
        (PAGE.parent / file).write_text(drawn)


def _part(name: str, own: dict[str, Any], peers: dict[str, Any]) -> str:
    if name.startswith("python"):
        elsewhere = _figures(f"own-{name.removeprefix('python')}")
        return about(elsewhere) + "\n" + "".join(of_question(one, elsewhere) for one in ("in_memory", "uvloop"))
    parts = {"about": lambda: about(own), "peers": lambda: of_peers(peers), "profile": lambda: of_profile(own)}
    parts["instructions"] = of_instructions
    return parts[name]() if name in parts else of_question(name, own)


def _figures(name: str) -> dict[str, Any]:
    file = FIGURES / f"{name}.json"
    if not file.exists():
        sys.exit(f"there is no {file.relative_to(ROOT)}; make it with --json, or all of them with 'nox -s performance'")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


if __name__ == "__main__":
    main()
