"""A run as plain data, for other programs: its plan, its events and its values, as far as JSON can show them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from asyncflow.codec import Codec
from asyncflow.graph.plan import Plan
from asyncflow.interfaces import Store
from asyncflow.outcomes import Failure, Sealed
from asyncflow.runtime.transcript import transcript_of

FORMAT = 1
"""Raised when a program that read an export could take the new one for something else."""


async def export(store: Store, codec: Codec, run_id: str) -> dict[str, Any]:
    """Return all that *store* has of a run; *codec* pictures values that JSON has no form for."""
    transcript = await transcript_of(store, run_id)
    info = transcript.info
    return {
        "format": FORMAT,
        "run": info.run_id,
        "flow": info.flow,
        "flow_ref": info.flow_ref,
        "state": info.state.value,
        "durability": info.durability,
        "created": info.created,
        "updated": info.updated,
        "plans": {name: _plan(plan) for name, plan in transcript.plans.items()},
        "records": [
            {"number": number, "at": record.at, "events": [_event(event, codec) for event in record.events]}
            for number, record in enumerate(transcript.records)
        ],
    }


def _plan(plan: Plan) -> dict[str, Any]:
    size = plan.size
    return {
        "flow": plan.flow,
        "tasks": [plan.path(task) for task in range(size)],
        # Nodes from the number of tasks on are gates: nodes without a body, at which groups meet.
        "successors": [list(after) for after in plan.successors],
        "flows": [
            {"path": scope.path, "parent": scope.parent, "controller": scope.controller, "timeout": scope.timeout}
            for scope in plan.scopes
        ],
        "inputs": list(plan.inputs),
    }


def _event(event: msgspec.Struct, codec: Codec) -> dict[str, Any]:
    fields = {name: _plain(getattr(event, name), codec) for name in event.__struct_fields__}
    return {"kind": type(event).__name__, **fields}


def _plain(value: Any, codec: Codec) -> Any:
    """Return *value* as JSON has it, else a picture of it in one line."""
    if isinstance(value, Sealed):
        return _value(value, codec)
    if isinstance(value, Failure):
        return {"type": value.type_name, "text": value.text}
    if isinstance(value, Mapping):
        return {str(name): _plain(each, codec) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each, codec) for each in value]
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):  # JSON has no infinities, and nothing that is not a number
        return value
    return {"picture": repr(value)}


def _value(value: Sealed, codec: Codec) -> dict[str, Any]:
    found: dict[str, Any] = {"size_bytes": value.size_bytes}
    if value.blob is not None:
        found["blob"] = value.blob
    elif value.payload is not None:
        found["picture"] = codec.summary(value.payload)
    else:
        found["kept"] = False
    return found
