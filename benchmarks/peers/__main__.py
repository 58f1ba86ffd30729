"""Measures peers, asyncflow beside each, prints who is ahead by how much, and fails where asyncflow is not."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REQUIREMENTS: dict[str, list[str]] = {
    "by_hand": [],
    "by_hand_aiosqlite": [],
    "langgraph": ["langgraph>=1.0", "langgraph-checkpoint-sqlite>=3.0"],
    "dask": ["distributed>=2025.1"],
    "taskflow": ["taskflow>=6.0", "sqlalchemy", "sqlalchemy-utils", "alembic"],
    # The second brings an SQLite that is new enough for it, where Python's is not.
    "dbos": ["dbos>=2.0", "pysqlite3-binary"],
    # Later versions of FastAPI refuse an argument with which Prefect's server calls it.
    "prefect": ["prefect>=3.4", "fastapi<0.140"],
}
"""What an environment of each peer has; one without requirements uses ours."""

SILENCE = {
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "DBOS__CLOUD": "",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
}
"""Has peers report nothing to anyone, and write no logs while they are measured."""

MINUTES = 3.0
"""How long a peer is measured at most; what it has shown by then counts."""


def environment_of(peer: str, folder: Path) -> str:
    """
    Return the Python of the environment of a peer, made if it is not there.

    Raises:
        CalledProcessError: It cannot be made.
    """
    if not REQUIREMENTS[peer]:
        return sys.executable
    python = folder / peer / "bin" / "python"
    listed = folder / peer / "requirements.txt"
    wanted = "\n".join(REQUIREMENTS[peer])
    if not listed.exists() or listed.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder / peer], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS[peer]], check=True)
        listed.write_text(wanted)
    return str(python)


def measured(python: str, peer: str, folder: Path, *options: str) -> dict[str, Any]:
    """Return what a process found that measured *peer*; what it said goes into a log beside it."""
    out, log = folder / f"{peer}.json", folder / f"{peer}.log"
    settings = os.environ | SILENCE | {"PREFECT_HOME": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [python, "-m", "benchmarks.peers.measure", peer, str(out), *options]
    with log.open("w") as said:
        # A session of its own, so that it ends with whatever it has started.
        process = subprocess.Popen(command, env=settings, stdout=said, stderr=said, start_new_session=True)
        try:
            status = process.wait(MINUTES * 60)
        except subprocess.TimeoutExpired:
            status = 0
        finally:
            with contextlib.suppress(ProcessLookupError):  # gone, with all it had started
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if status or not out.exists():
        raise RuntimeError(f"its process ended with status {status}: {log.read_text()[-600:].strip()}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def compare(peer: str, environments: Path, *, is_quick: bool) -> dict[str, Any]:
    """Measure a peer, and asyncflow on what it could bear."""
    try:
        python = environment_of(peer, environments)
    except (OSError, subprocess.CalledProcessError) as error:
        return {"skipped": f"its environment cannot be made: {error}", "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        try:
            theirs = measured(python, peer, Path(folder), *(["--quick"] if is_quick else []))
        except RuntimeError as error:
            return {"skipped": str(error), "rows": []}
        ours = measured(sys.executable, "asyncflow", Path(folder), "--like", str(Path(folder) / f"{peer}.json"))
    # Each was measured in minutes of its own, of which some may have been slow: what each can do is its best.
    taken = {(row["name"], row["where"], row["size"]): min(row["seconds"]) for row in ours["rows"]}
    rows: list[dict[str, Any]] = []
    for row in theirs["rows"]:
        name, where, size = row["name"], row["where"], row["size"]
        if mine := taken.get((name, where, size)):
            rows.append({"name": name, "where": where, "size": size, "theirs": min(row["seconds"]), "ours": mine})
    return {"about": theirs["about"], "version": theirs["version"], "errors": theirs["errors"], "rows": rows}


def show(peer: str, found: dict[str, Any]) -> None:
    """Print what came of a peer."""
    print(f"\n{peer} {found.get('version', '')}".rstrip())
    if "skipped" in found:
        print(f"  skipped: {found['skipped']}")
        return
    print(f"  {found['about']}")
    print(f"  {'':<28}{'kept':>9}{'us of its':>14}{'of ours':>12}{'ahead':>15}")
    for row in found["rows"]:
        what = f"{row['name']} of {row['size']:,}"
        theirs, ours = (row[whose] / row["size"] * 1e6 for whose in ("theirs", "ours"))
        ahead = f"{theirs / ours:.1f}x" if theirs >= ours else f"BEHIND {ours / theirs:.2f}x"
        print(f"  {what:<28}{row['where']:>9}{theirs:>14,.1f}{ours:>12,.1f}{ahead:>15}")
    for error in found["errors"]:
        print(f"  could not do: {error}")


def main() -> None:
    """Read the command line, and compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="What others cost.")
    parser.add_argument("peers", nargs="*", metavar="peer", help=f"some of: {', '.join(REQUIREMENTS)}; all, if none")
    parser.add_argument(
        "--environments", metavar="FOLDER", type=Path, default=Path(".nox/peers"), help="where they are"
    )
    parser.add_argument("--quick", action="store_true", help="the smallest sizes: to see that it works")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file")
    options = parser.parse_args()
    if unknown := [peer for peer in options.peers if peer not in REQUIREMENTS]:
        parser.error(f"there is no peer {', '.join(unknown)}; there are {', '.join(REQUIREMENTS)}")
    found: dict[str, Any] = {}
    print(f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}; a task of a chain or fan, or a run")
    for peer in options.peers or REQUIREMENTS:
        found[peer] = compare(peer, options.environments.absolute(), is_quick=options.quick)
        show(peer, found[peer])
    if options.json:
        about = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version, "peers": found}
        Path(options.json).write_text(json.dumps(about, indent=1))
    behind = [
        f"{row['name']} of {row['size']:,} ({row['where']}) behind {peer}"
        for peer, one in found.items()
        for row in one["rows"]
        if row["ours"] > row["theirs"]
    ]
    if behind:
        sys.exit("\nasyncflow is NOT ahead everywhere:\n  " + "\n  ".join(behind))
    print("\nasyncflow is ahead of every peer that was measured, in everything that it can do")


if __name__ == "__main__":
    main()
