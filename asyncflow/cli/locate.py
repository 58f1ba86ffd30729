"""From what a user types to a flow and its inputs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import asyncflow as af
from asyncflow.graph.find import find_flow


def locate(target: str) -> af.Flow[..., Any]:
    """
    Return the flow that *target* names: ``package.module:flow`` or ``path/to/file.py:flow``.

    Raises:
        af.DeclarationError: It is not of that form, or there is no such module, file or flow.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    return find_flow(target)


def parse_inputs(flow: af.Flow[..., Any], given: Iterable[str]) -> dict[str, Any]:
    """
    Return the inputs that *given*, each ``name=value``, stands for.

    A value is JSON where it can be read as JSON and text otherwise; an input annotated ``str`` is always text.

    Raises:
        af.InputError: One is not of that form, is given twice, or is text where the flow takes a number.
    """
    inputs: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals or not name:
            raise af.InputError(f"-i {item!r} is not of the form name=value")
        if name in inputs:
            raise af.InputError(f"input {name!r} is given twice")
        annotation = flow.inputs.get(name)
        inputs[name] = text if annotation is str else _value(text)
        if annotation in (int, float, bool) and isinstance(inputs[name], str):
            raise af.InputError(
                f"-i {item!r} is text, and input {name!r} of flow {flow.name!r} is annotated {annotation.__name__}; "
                f"write {'true or false' if annotation is bool else 'a number'}"
            )
    return inputs


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
