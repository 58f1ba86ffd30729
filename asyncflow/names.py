"""What a class or a function is called in every process, whichever way its module was loaded there."""

from __future__ import annotations

import re
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any

FILE_MODULE = "asyncflow_file_"
"""How the name begins that ``find_flow`` gives to the module of a script; no other process can import it by that."""

_MAIN = re.compile(r"\b__main__\.")


def module_of_file(path: Path) -> str:
    """Return the name of the module that the script at *path* is, the same in every process."""
    place = str(path.resolve())
    return f"{FILE_MODULE}{path.stem}_{blake2b(place.encode(), digest_size=6).hexdigest()}"


def main_module() -> str:
    """
    Return what other processes call the module that this one was started with: its own name where it was started by
    ``python -m``, that of its file otherwise, and ``__main__`` where it has neither.
    """
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return "__main__" if file is None else module_of_file(Path(file))


def name_of(thing: Any) -> str:
    """Return ``module.qualname`` of a class or function, as every process knows it."""
    module = thing.__module__
    return f"{main_module() if module == '__main__' else module}.{thing.__qualname__}"


def lasting(text: str) -> str:
    """Return *text*, in which classes are called by module and name, as every process would write it."""
    return _MAIN.sub(f"{main_module()}.", text) if "__main__." in text else text
