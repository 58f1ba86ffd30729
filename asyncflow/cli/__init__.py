"""The command line, ``asyncflow``. It uses the public names, and what finds and draws a flow; nothing imports it."""

from __future__ import annotations

import importlib
import importlib.util
import sys


def main() -> None:
    """Run the command line; needs the extra ``cli``."""
    for needed in ("rich", "typer"):
        if importlib.util.find_spec(needed) is None:
            sys.exit(f"asyncflow: the command line needs {needed}; pip install 'asyncflow-engine[cli]'")
    # Its commands are known once it is imported.
    importlib.import_module("asyncflow.cli.upkeep")
    from asyncflow.cli.app import run_app

    run_app()
