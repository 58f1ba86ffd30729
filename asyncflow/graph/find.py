"""A flow found again by the name that a journal keeps of it."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from asyncflow.errors import DeclarationError
from asyncflow.graph.factory import Factory
from asyncflow.graph.flow import Flow
from asyncflow.graph.pattern import as_flow
from asyncflow.graph.task import Task
from asyncflow.graph.wants import nearest
from asyncflow.names import module_of_file

_MADE = re.compile(r"(.*?:\w+)\((.*)\)", re.DOTALL)


def find_flow(ref: str) -> Flow[..., Any]:
    """
    Return the flow at *ref*, ``package.module:attribute`` or ``path/to/file.py:attribute``, importing what it names.

    What is there may be a flow, a task, or a factory, whose arguments stand behind as JSON, in parentheses.

    Raises:
        DeclarationError: It is not of that form, the module cannot be imported, or what is there is no flow.
    """
    # What a factory made is followed by its arguments, in parentheses.
    made = _MADE.fullmatch(ref)
    name, arguments = made.groups() if made else (ref, "")
    place, colon, attribute = name.rpartition(":")
    if not colon or not place or not attribute:
        raise DeclarationError(f"{ref!r} does not name a flow; write package.module:flow or path/to/file.py:flow")
    module = _load_file(place) if place.endswith(".py") else _import(place)
    try:
        found = getattr(module, attribute)
    except AttributeError:
        flows = [name for name, value in vars(module).items() if isinstance(value, (Flow, Task))]
        hint = nearest(attribute, flows) or (f"; it has {', '.join(flows)}" if flows else "; it has no flow at all")
        raise DeclarationError(f"{place!r} has no {attribute!r}{hint}") from None
    if isinstance(found, Factory):
        return found.rebuild(arguments)
    if not isinstance(found, (Flow, Task)):
        raise DeclarationError(f"{ref!r} is a {type(found).__name__}, not a flow or task; name one that is")
    return as_flow(found)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise DeclarationError(
            f"module {name!r} cannot be imported: {missing}; is it installed, or below this folder?"
        ) from missing
    except (Exception, SystemExit) as error:
        raise DeclarationError(f"module {name!r} raised {type(error).__name__} on import: {error}") from error


def _load_file(place: str) -> ModuleType:
    path = Path(place).resolve()
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if main is not None and file is not None and Path(file).resolve() == path:
        return main
    # One module a file, however often it is asked for, so that its classes stay the same.
    # The same name in every process: a journal knows classes by it.
    name = module_of_file(path)
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise DeclarationError(f"there is no file {place!r}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # As `python file.py` does, for what lies beside it; it stays, since bodies may import as well.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise DeclarationError(f"file {place!r} raised {type(error).__name__}: {error}") from error
    return module
