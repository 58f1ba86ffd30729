"""
Fuzz one reader with atheris, which sees what is reached.

    python -m tests.fuzz.guided records [options of libFuzzer]

Ends with the first bug, and leaves the bytes that showed it in the current folder.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]

# Also what takes a command line apart, of which asyncflow only says what there is: without it, a fuzzer would see
# nothing of what arguments reach.
with atheris.instrument_imports(include=["asyncflow", "typer", "click"]):
    from tests.fuzz.readers import READERS


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], READERS[name].take)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
