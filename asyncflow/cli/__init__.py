"""The command line, ``asyncflow``. It uses the public names only, and nothing imports it."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; needs the extra ``cli``."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as missing:
        sys.exit(f"asyncflow: the command line needs {missing.name}; pip install 'asyncflow-engine[cli]'")
    from asyncflow.cli.app import run_app

    run_app()
