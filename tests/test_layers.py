"""The structure of the package: who may import whom, how large a module may be, and what has to be explained."""

from __future__ import annotations

import ast
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "asyncflow"
LARGEST = 500
REASON = "Over 500 lines because"
FORBIDDEN = {"utils", "helpers", "base", "common"}

# Lowest first. Within the first layer the order counts too.
WORDS = ("names", "errors", "ids", "states", "outcomes", "messages", "codec")
LAYERS: tuple[tuple[str, ...], ...] = (
    *((word,) for word in WORDS),
    ("interfaces", "context", "graph"),
    ("machine", "formats"),
    ("runtime", "stores", "executors", "observers", "artifacts"),
    ("checks", "callers", "launch", "patience", "heart", "upkeep", "engine"),
    ("", "testing"),
    ("cli", "web", "__main__"),
)
"""The first name below ``asyncflow`` of each layer's members; the package itself is the empty name."""


class Import(NamedTuple):
    """One import, by full module names. ``names`` are those taken from a module, empty for ``import x``."""

    importer: str
    imported: str
    line: int
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.importer}, line {self.line}, imports {self.imported}"


class Module(NamedTuple):
    """A module of the package, parsed."""

    name: str
    path: Path
    tree: ast.Module


def parse(root: Path) -> dict[str, Module]:
    """Return every module below *root*, by its full name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


def names_in(modules: dict[str, Module], package: str) -> set[str]:
    """Return what a module's own code binds by importing, which hides submodules of the same name from importers."""
    statements = modules[package].tree.body
    return {
        alias.asname or alias.name
        for statement in statements
        if isinstance(statement, ast.ImportFrom)
        for alias in statement.names
    }


def imports(modules: dict[str, Module]) -> Iterator[Import]:
    """Yield every import of one module of the package by another, wherever it stands."""
    root = next(iter(modules)).partition(".")[0]
    for module in modules.values():
        package = module.name if module.path.name == "__init__.py" else module.name.rpartition(".")[0]
        for node in ast.walk(module.tree):
            for imported, names in targets(node, package, modules):
                if imported.partition(".")[0] == root:
                    yield Import(module.name, imported, getattr(node, "lineno", 0), names)


def targets(node: ast.AST, package: str, modules: dict[str, Module]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the modules that *node* imports, if it does, with the names that it takes from each."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name, ()
    elif isinstance(node, ast.ImportFrom):
        source = node.module or ""
        if node.level:
            around = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*around, source] if source else around)
        hidden = names_in(modules, source) if source in modules else set()
        taken = []
        for alias in node.names:
            submodule = f"{source}.{alias.name}"
            if submodule in modules and alias.name not in hidden:
                yield submodule, ()
            else:
                taken.append(alias.name)
        if taken:
            yield source, tuple(taken)
    elif isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value), ()


def part(module: str) -> str:
    """Return the first name below the package; empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def layer(module: str) -> int:
    """Return the number of a module's layer."""
    for number, members in enumerate(LAYERS):
        if part(module) in members:
            return number
    raise AssertionError(f"{module} has no layer; give {part(module)!r} its place in LAYERS")


def breaches(modules: dict[str, Module]) -> list[str]:
    """Return every import that goes up, or from one folder to another of the same layer."""
    found = []
    for each in imports(modules):
        mine, theirs = part(each.importer), part(each.imported)
        if layer(each.imported) > layer(each.importer):
            found.append(f"{each}, which is of a higher layer")
        elif layer(each.imported) == layer(each.importer) and mine != theirs:
            # A single module beside a folder belongs to nobody; a folder beside a folder is another answer.
            folders = [name for name in (mine, theirs) if name and modules[f"asyncflow.{name}"].path.stem == "__init__"]
            if len(folders) == 2:
                found.append(f"{each}, a folder of the same layer")
    return found


def circles(modules: dict[str, Module]) -> list[str]:
    """Return the modules of one circle of imports, if there is any."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for each in imports(modules):
        if each.imported in graph and each.imported != each.importer:
            graph[each.importer].add(each.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@cache
def package() -> dict[str, Module]:
    return parse(PACKAGE)


def test_imports_go_down() -> None:
    """An import that goes up makes two layers one, and the cut between deciding and performing is lost first."""
    assert breaches(package()) == []


def test_imports_make_no_circle() -> None:
    """Modules in a circle can only be understood, tested and changed together."""
    assert circles(package()) == []


def test_the_command_line_uses_public_names_only() -> None:
    """What the command line can do, every application can do; a private door would hide a hole in the interface."""
    private = [
        str(each)
        for each in imports(package())
        if part(each.importer) in ("cli", "web") and part(each.imported) != part(each.importer)
        for name in (*each.imported.split("."), *each.names)
        if name.startswith("_") and not name.startswith("__")
    ]
    assert private == []


@pytest.mark.parametrize(
    ("importer", "source"),
    [
        ("machine/run.py", "from asyncflow.runtime.actor import Actor"),
        ("machine/run.py", "from ..runtime import actor"),
        ("machine/run.py", "import asyncflow.runtime.actor"),
        ("machine/run.py", "import asyncflow"),
        ("machine/run.py", "from asyncflow import Engine"),
        ("machine/run.py", "def late():\n    from asyncflow.runtime.actor import Actor"),
        ("machine/run.py", "if TYPE_CHECKING:\n    from asyncflow.runtime import actor"),
        ("machine/run.py", "import importlib\nimportlib.import_module('asyncflow.runtime.actor')"),
        ("machine/run.py", "from asyncflow.formats import text"),
        ("errors.py", "from asyncflow.ids import RunId"),
    ],
)
def test_an_import_that_goes_up_is_seen(tmp_path: Path, importer: str, source: str) -> None:
    """The test above is worth what it sees, so it has to see imports in every disguise."""
    files = {f"{folder}/__init__.py": "" for folder in (".", "machine", "runtime", "formats")}
    files |= {"machine/run.py": "", "runtime/actor.py": "", "formats/text.py": "", "errors.py": "", "ids.py": ""}
    for name, content in (files | {importer: source}).items():
        path = tmp_path / "asyncflow" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert len(breaches(parse(tmp_path / "asyncflow"))) == 1


def test_a_circle_is_seen(tmp_path: Path) -> None:
    """A circle within one folder breaks no layer, so it is looked for by itself."""
    (tmp_path / "asyncflow").mkdir()
    (tmp_path / "asyncflow" / "__init__.py").touch()
    (tmp_path / "asyncflow" / "a.py").write_text("from asyncflow import b")
    (tmp_path / "asyncflow" / "b.py").write_text("def late():\n    from asyncflow.a import x")
    assert set(circles(parse(tmp_path / "asyncflow"))) == {"asyncflow.a", "asyncflow.b"}


def test_modules_are_small_or_say_why() -> None:
    """At 500 lines there is usually a second noun in the module that nobody has looked for."""
    large = []
    for module in package().values():
        lines = len(module.path.read_text(encoding="utf-8").splitlines())
        docstring = ast.get_docstring(module.tree) or ""
        if lines > LARGEST and not any(line.startswith(REASON) for line in docstring.splitlines()):
            large.append(f"{module.name} has {lines} lines; find its second noun, or say why in its docstring")
    assert large == []


def test_modules_are_named_for_what_they_hold() -> None:
    """A module called for its use by others takes in everything that nobody has found a place for."""
    assert [name for name in package() if FORBIDDEN & {word.strip("_") for word in name.split(".")}] == []


def test_public_names_are_documented() -> None:
    """The public names are what people meet first, in an editor and without this repository beside them."""
    import asyncflow

    explained = {name for module in package().values() for name in documented(module.tree)}
    assert [name for name in asyncflow.__all__ if not name.startswith("__") and name not in explained] == []


def test_public_names_are_there() -> None:
    """A name that is promised and missing breaks ``from asyncflow import *``, and is found by a user."""
    import asyncflow

    assert [name for name in asyncflow.__all__ if not hasattr(asyncflow, name)] == []
    assert len(set(asyncflow.__all__)) == len(asyncflow.__all__)


def documented(tree: ast.Module) -> Iterator[str]:
    """Yield what a module defines with a docstring: in a definition, or below an assignment."""
    for statement, following in itertools.zip_longest(tree.body, tree.body[1:]):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if ast.get_docstring(statement):
                yield statement.name
        elif (
            isinstance(statement, ast.Assign | ast.AnnAssign)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                if isinstance(target, ast.Name):
                    yield target.id


def test_importing_asyncflow_imports_nothing_that_it_may_not_need() -> None:
    """Applications pay for an import at each start, also those that never draw a tree or open a file."""
    unwanted = ["asyncflow.cli", "asyncflow.testing", "asyncflow.formats"]
    unwanted += ["typer", "click", "rich", "uvloop"]
    unwanted += ["starlette", "httpx", "uvicorn", "pytest", "hypothesis", "opentelemetry", "trio"]
    program = f"import asyncflow, json, sys; print(json.dumps([name for name in {unwanted} if name in sys.modules]))"
    # Isolated from the environment's start-up files, but not from where this asyncflow is.
    paths = f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); "
    done = subprocess.run([sys.executable, "-I", "-c", paths + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
