"""
Survey a folder of Python code and write a report: sizes, docstrings, imports, and circles of imports between packages.

    python examples/library_report.py                 # the standard library of the Python that runs it
    python examples/library_report.py FOLDER --out DIR

Kill it whenever you like and call it again: packages that were done stay done. Each package is a task named after it,
so one that appears in the meantime shifts nothing.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import json
import sys
import sysconfig
import warnings
from pathlib import Path

import attrs

import asyncflow as af
from asyncflow.observers import Console


@attrs.frozen
class Facts:
    """What one package is made of. ``imports`` are the top-level packages that it names, itself left out."""

    package: str
    files: int
    unreadable: int
    lines: int
    functions: int
    classes: int
    documented: int
    imports: list[str]

    @property
    def coverage(self) -> float:
        """Share of modules, classes and functions that have a docstring, in percent."""
        return 100.0 * self.documented / max(1, self.files - self.unreadable + self.functions + self.classes)


def find_packages(folder: Path) -> dict[str, Path]:
    """Return the top-level packages and modules of *folder* by name, sorted."""
    found = {path.parent.name: path.parent for path in folder.glob("*/__init__.py")}
    found |= {path.stem: path for path in folder.glob("*.py")}
    return dict(sorted(found.items()))


@af.task(max_crashes=1000)  # a plain function: runs in a worker thread. Being killed is what this example is for
def analyse(ctx: af.Context, package: str, path: str, effects: str | None) -> Facts:
    """Parse every file of one package and count what is in it."""
    if effects:  # for proofs: a line for each analysis that was really made
        with open(effects, "a") as log:
            log.write(f"{package}\n")
    root = Path(path)
    files = [root] if root.is_file() else sorted(root.rglob("*.py"))
    unreadable = lines = functions = classes = documented = 0
    imports: set[str] = set()
    for number, file in enumerate(files):
        source = file.read_bytes()
        lines += source.count(b"\n")
        try:
            tree = ast.parse(source, filename=str(file))
        except (SyntaxError, ValueError, RecursionError):
            unreadable += 1
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                functions += 1
            elif isinstance(node, ast.ClassDef):
                classes += 1
            elif isinstance(node, ast.Import):
                imports |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imports.add(node.module.partition(".")[0])
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                documented += ast.get_docstring(node, clean=False) is not None
        ctx.progress((number + 1) / len(files), file.name)
    return Facts(package, len(files), unreadable, lines, functions, classes, documented, sorted(imports - {package}))


@af.task(executor="inline")
def import_graph(facts: dict[str, Facts]) -> dict[str, list[str]]:
    """Keep, of what each package imports, the packages that were surveyed."""
    return {package: [name for name in fact.imports if name in facts] for package, fact in facts.items()}


@af.task
def find_circles(graph: dict[str, list[str]]) -> list[list[str]]:
    """
    Return the groups of packages that import each other in a circle, largest first.

    Source: R. Tarjan, Depth-First Search and Linear Graph Algorithms, SIAM Journal on Computing 1(2), 1972; with a
    stack of its own in place of recursion.
    """
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    path: list[str] = []
    on_path: set[str] = set()
    circles: list[list[str]] = []
    for root in graph:
        if root in order:
            continue
        work = [(root, iter(graph[root]))]
        order[root] = low[root] = len(order)
        path.append(root)
        on_path.add(root)
        while work:
            package, following = work[-1]
            for after in following:
                if after not in order:
                    order[after] = low[after] = len(order)
                    path.append(after)
                    on_path.add(after)
                    work.append((after, iter(graph[after])))
                    break
                if after in on_path:
                    low[package] = min(low[package], order[after])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[package])
                if low[package] == order[package]:
                    start = path.index(package)
                    circle = sorted(path[start:])
                    del path[start:]
                    on_path.difference_update(circle)
                    if len(circle) > 1:
                        circles.append(circle)
    return sorted(circles, key=lambda circle: (-len(circle), circle))


@af.task
def write_report(facts: dict[str, Facts], graph: dict[str, list[str]], circles: list[list[str]], out: str) -> str:
    """Write ``report.json`` and the table ``report.txt`` into *out*, and return the table."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    packages = {name: attrs.asdict(fact) for name, fact in facts.items()}
    whole = {"packages": packages, "imports": graph, "circles": circles}
    (folder / "report.json").write_text(json.dumps(whole, indent=1, sort_keys=True) + "\n")
    table = render(facts, circles)
    (folder / "report.txt").write_text(table)
    return table


@write_report.revert
def remove_report(out: str) -> None:
    """Leave nothing behind when a later step fails."""
    for name in ("report.json", "report.txt"):
        (Path(out) / name).unlink(missing_ok=True)


def render(facts: dict[str, Facts], circles: list[list[str]]) -> str:
    """Return the report as text: the twenty largest packages, the sums, and the circles."""
    largest = sorted(facts.values(), key=lambda fact: (-fact.lines, fact.package))
    rows = [f"{'package':<20}{'files':>7}{'lines':>9}{'functions':>11}{'classes':>9}{'docs':>7}{'imports':>9}"]
    rows += [
        f"{f.package:<20}{f.files:>7}{f.lines:>9}{f.functions:>11}{f.classes:>9}{f.coverage:>6.0f}%{len(f.imports):>9}"
        for f in largest[:20]
    ]
    files, lines = sum(f.files for f in largest), sum(f.lines for f in largest)
    unreadable = sum(f.unreadable for f in largest)
    rows.append(f"{len(facts)} packages, {files} files, {lines} lines; {unreadable} files are not valid Python")
    rows.append(
        f"circles of imports: {len(circles)}" + (f", the largest of {len(circles[0])} packages" if circles else "")
    )
    rows += ["  " + ", ".join(circle[:10]) + (", ..." if len(circle) > 10 else "") for circle in circles[:5]]
    return "\n".join(rows) + "\n"


@af.factory  # so that `asyncflow resume survey-...` can make the flow again, from these arguments
def survey(folder: str, out: str, effects: str | None = None) -> af.Flow[[], str]:
    """Return the flow that surveys *folder* and writes into *out*: its shape depends on what is in the folder."""

    packages_of = find_packages(Path(folder))

    @af.flow
    def packages() -> dict[str, Facts]:
        return {name: analyse.named(name)(name, str(path), effects) for name, path in packages_of.items()}

    @af.flow(name="library-report")
    def report() -> str:
        facts = packages()
        graph = import_graph(facts)
        return write_report(facts, graph, find_circles(graph), out)

    return report


async def main(folder: Path, out: Path, effects: str | None = None, quiet: bool = False) -> str:
    """Run the survey, or go on with it where an earlier process was stopped, and return the table."""
    out.mkdir(parents=True, exist_ok=True)
    flow, run_id = survey(str(folder), str(out.resolve()), effects), f"survey-{folder.name}"
    observers = [] if quiet else [Console()]
    async with af.Engine(out / "runs.db", durability="process", observers=observers) as engine:
        try:
            return await engine.run(flow, run_id=run_id)
        except af.RunExists:
            print(f"going on with run {run_id!r}; delete {str(out)!r} to begin anew", file=sys.stderr)
            return await engine.resume(run_id, flow)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=Path(sysconfig.get_paths()["stdlib"]))
    parser.add_argument("--out", type=Path, default=Path("library-report"), help="where the report and the journal go")
    parser.add_argument("--effects", help="append the name of each package to this file when it is analysed")
    parser.add_argument("--quiet", action="store_true", help="no live progress")
    options = parser.parse_args()
    warnings.simplefilter("ignore", SyntaxWarning)  # old code in the surveyed folder is not our business
    print(asyncio.run(main(options.folder.resolve(), options.out, options.effects, options.quiet)), end="")
