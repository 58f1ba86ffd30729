"""
A plan as a journal keeps it.

The record holds all that a machine needs to fold a journal without the user's code, and what is compared when a run
is resumed. Policies (retries, time limits of tasks, priorities) are not in it: a change applies from the resume on.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from asyncflow.errors import UndecodableValue
from asyncflow.graph.constant import constant_hash, digest
from asyncflow.graph.inputs import (
    Attribute,
    Constant,
    Element,
    FirstOf,
    Gathered,
    Made,
    Named,
    Otherwise,
    Output,
    Past,
    Provided,
    Resource,
    RunInput,
    Source,
)
from asyncflow.graph.plan import Guard, Plan, Scope
from asyncflow.graph.policy import DEPTHS
from asyncflow.graph.reference import Shape
from asyncflow.graph.signature import UNKNOWN
from asyncflow.graph.types import type_text

_FORMAT = 1
_LONGEST_TEXT = 160


class ScopeRecord(msgspec.Struct, frozen=True, array_like=True):
    """A flow within the plan; fields as in :class:`~asyncflow.graph.plan.Scope`."""

    name: str
    parent: int
    timeout: float | None
    concurrency: int | None
    begin: int
    end: int
    controller: int
    family: str
    on_failure: str
    revert_scope: str


class GuardRecord(msgspec.Struct, frozen=True, array_like=True):
    """A condition; fields as in :class:`~asyncflow.graph.plan.Guard`. What is asked is not kept."""

    node: int
    scope: int
    depth: str
    sources: tuple[int, ...]


class KindRecord(msgspec.Struct, frozen=True, array_like=True):
    """
    What tasks made of one declaration have in common.

    ``parameters`` are names with their annotations as text, ``returns`` likewise, ``family`` is the declaration's name,
    ``is_async`` tells an ``async def`` from a ``def``.
    """

    family: str
    parameters: tuple[tuple[str, str], ...]
    returns: str
    provides: tuple[tuple[str, str], ...]
    version: str | int | None
    has_revert: bool
    is_async: bool


class TaskRecord(msgspec.Struct, frozen=True, array_like=True):
    """
    One task.

    ``reads`` has each parameter with where its value comes from, by path; ``constants`` the parameters that have
    constants in them, with a hash; ``is_numbered`` whether a builder chose the name.
    """

    name: str
    scope: int
    kind: int
    reads: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, str], ...]
    is_numbered: bool


class PlanRecord(msgspec.Struct, frozen=True, array_like=True):
    """A plan in a journal. ``inputs`` are names with their annotations as text."""

    format: int
    flow: str
    scopes: tuple[ScopeRecord, ...]
    kinds: tuple[KindRecord, ...]
    tasks: tuple[TaskRecord, ...]
    successors: tuple[tuple[int, ...], ...]
    inputs: tuple[tuple[str, str], ...]
    guards: tuple[GuardRecord, ...] = ()
    tolerant: tuple[int, ...] = ()

    def kind_of(self, task: int) -> KindRecord:
        """Return what *task* has in common with others of its declaration."""
        return self.kinds[self.tasks[task].kind]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PlanRecord)


def body_of(plan: Plan) -> bytes:
    """Return the bytes by which a journal keeps *plan*: the same in every process that declares the same flow."""
    body: bytes | None = plan.recorded.get("body")
    if body is None:
        body = plan.recorded["body"] = _encoder.encode(record_of(plan))
    return body


def digest_of(plan: Plan) -> str:
    """Return the content hash of :func:`body_of`, the name of a plan in a journal."""
    found: str | None = plan.recorded.get("digest")
    if found is None:
        found = plan.recorded["digest"] = hashlib.blake2b(body_of(plan), digest_size=20).hexdigest()
    return found


def decode(body: bytes) -> Plan:
    """
    Return a recorded plan: the structure without declarations.

    Raises:
        UndecodableValue: *body* is no plan, or one of a newer asyncflow.
    """
    try:
        record = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UndecodableValue(f"a recorded plan of {len(body)} bytes cannot be read: {error}") from error
    if record.format > _FORMAT:
        raise UndecodableValue(
            f"the recorded plan of flow {record.flow!r} has format {record.format} and this asyncflow reads up to "
            f"{_FORMAT}; use a newer asyncflow"
        )
    nodes = len(record.successors)
    pending = [0] * nodes
    whole = nodes >= len(record.tasks) and all(task.scope in range(len(record.scopes)) for task in record.tasks)
    whole = whole and all(scope.parent in range(-1, at) for at, scope in enumerate(record.scopes))
    whole = whole and all(task.kind in range(len(record.kinds)) for task in record.tasks)
    whole = whole and all(_is_sound(scope, nodes, len(record.tasks)) for scope in record.scopes)
    whole = whole and all(
        guard.node in range(nodes) and guard.scope in range(-1, len(record.scopes)) and guard.depth in DEPTHS
        for guard in record.guards
    )
    for after in record.successors if whole else ():
        for node in after:
            if node not in range(nodes):
                whole = False
                break
            pending[node] += 1
    if not whole or not record.scopes:
        raise UndecodableValue(
            f"the recorded plan of flow {record.flow!r} does not hold together; its bytes are damaged"
        )
    plan = Plan(
        flow=record.flow,
        scopes=_scopes(record),
        names=[task.name for task in record.tasks],
        scope_of=[task.scope for task in record.tasks],
        successors=record.successors,
        pending=pending,
        inputs=dict.fromkeys((name for name, _ in record.inputs), UNKNOWN),
        numbered=bytes(task.is_numbered for task in record.tasks),
        guards=[Guard(one.node, one.scope, one.depth, one.sources) for one in record.guards],
        tolerant=frozenset(record.tolerant),
    )
    plan.recorded.update(record=record, body=body)
    return plan


def _is_sound(scope: ScopeRecord, nodes: int, size: int) -> bool:
    return scope.controller in range(-1, size) and (scope.controller < 0 or scope.end in range(size, nodes))


def _scopes(record: PlanRecord) -> tuple[Scope, ...]:
    scopes: list[Scope] = []
    for at, one in enumerate(record.scopes):
        around = scopes[one.parent].path if one.parent >= 0 else ""
        path = "" if at == 0 else f"{around}/{one.name}" if around else one.name
        scopes.append(
            Scope(
                one.name,
                one.parent,
                path,
                one.timeout,
                one.concurrency,
                one.begin,
                one.end,
                one.controller,
                one.family,
                one.on_failure,
                one.revert_scope,
            )
        )
    return tuple(scopes)


def record_of(plan: Plan) -> PlanRecord:
    """Return what a journal keeps of *plan*."""
    record: PlanRecord | None = plan.recorded.get("record")
    if record is None:
        record = plan.recorded["record"] = _record(plan)
    return record


def _record(plan: Plan) -> PlanRecord:
    assert plan.tasks is not None
    kinds: dict[tuple[Any, ...], int] = {}
    found: list[KindRecord] = []
    texts = _Texts(plan)
    tasks: list[TaskRecord] = []
    for at, task in enumerate(plan.tasks):
        is_numbered = bool(plan.numbered) and bool(plan.numbered[at])
        family = task.name if is_numbered else ""
        key = (
            id(task.wants),
            id(task.gives) if task.gives else 0,
            family,
            task.version,
            task.undo is None,
            task.executor,
        )
        kind = kinds.get(key)
        if kind is None:
            kind = kinds[key] = len(found)
            signature = task.wants.signature
            found.append(
                KindRecord(
                    family,
                    tuple((p.name, signature.text(p.name)) for p in signature.parameters),
                    signature.text("return"),
                    tuple((name, repr(key)) for name, key in task.gives),
                    task.version,
                    task.undo is not None,
                    task.executor == "loop",
                )
            )
        binding = plan.bindings[at]
        reads: list[tuple[str, str]] = []
        constants: list[tuple[str, str]] = []
        for number, (name, source) in enumerate(zip(binding.names, binding.positional, strict=True)):
            texts.describe(name or f"*{number}", source, reads, constants)
        for name, source in binding.keyword:
            texts.describe(name, source, reads, constants)
        if at in plan.undo_bindings:
            for name, source in plan.undo_bindings[at].keyword:
                texts.describe(f"{name} of its revert", source, reads, constants)
        tasks.append(TaskRecord(plan.names[at], plan.scope_of[at], kind, tuple(reads), tuple(constants), is_numbered))
    return PlanRecord(
        _FORMAT,
        plan.flow,
        tuple(
            ScopeRecord(
                s.name,
                s.parent,
                s.timeout,
                s.concurrency,
                s.begin,
                s.end,
                s.controller,
                s.family,
                s.on_failure,
                s.revert_scope,
            )
            for s in plan.scopes
        ),
        tuple(found),
        tuple(tasks),
        tuple(plan.successors),
        tuple((name, "" if hint is UNKNOWN else type_text(hint)) for name, hint in plan.inputs.items()),
        tuple(GuardRecord(guard.node, guard.scope, guard.depth, guard.sources) for guard in plan.guards),
        tuple(sorted(plan.tolerant)),
    )


class _Texts:
    """Says of sources where they come from, and hashes the constants in them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # By id: long texts are read by many tasks, and stand in each by a hash.
        self._known: dict[int, tuple[Source, str, tuple[str, ...]]] = {}

    def describe(
        self, name: str, source: Source, reads: list[tuple[str, str]], constants: list[tuple[str, str]]
    ) -> None:
        """Add what parameter *name* reads, and a hash of the constants in it."""
        if type(source) is Output:
            reads.append((name, self._plan.path(source.task)))
            return
        text, hashes = self._text(source)
        if type(source) is not Constant:
            reads.append((name, text))
        if hashes:
            constants.append((name, hashes[0] if len(hashes) == 1 else digest("\0".join(hashes))))

    def _text(self, source: Source) -> tuple[str, tuple[str, ...]]:
        known = self._known.get(id(source))
        if known is None:
            text, hashes = self._made(source)
            if len(text) > _LONGEST_TEXT:
                text = f"{text[:40]}... {digest(text)}"
            if len(hashes) > 1:
                hashes = (digest("\0".join(hashes)),)
            known = self._known[id(source)] = (source, text, hashes)
        return known[1], known[2]

    def _made(self, source: Source) -> tuple[str, tuple[str, ...]]:
        if isinstance(source, Output):
            return self._plan.path(source.task), ()
        if isinstance(source, Constant):
            return "a constant", (constant_hash(source.value),)
        if isinstance(source, RunInput):
            return f"input {source.name!r}", ()
        if isinstance(source, Past):
            return "its history", ()
        if isinstance(source, FirstOf):
            parts = [self._text(part) for part in source.sources]
            return " or ".join(text for text, _ in parts), tuple(one for _, hashes in parts for one in hashes)
        if isinstance(source, Resource):
            return f"resource {source.name!r}", ()
        if isinstance(source, Named):
            provider = source.providers[0]
            return (f"input {source.name!r}", ()) if isinstance(provider, Resource) else self._text(provider)
        if isinstance(source, Element):
            text, hashes = self._text(source.source)
            return f"{text}[{source.key!r}]", hashes
        if isinstance(source, Attribute):
            text, hashes = self._text(source.source)
            return f"{text}.{source.name}", hashes
        if isinstance(source, Made):
            text, hashes = self._text(source.source)
            return f"{text} or its type's default", hashes
        if isinstance(source, Otherwise):
            text, hashes = self._text(source.source)
            return f"{text} or a default", (*hashes, constant_hash(source.default))
        if isinstance(source, Provided):
            items = [(name, *self._text(part)) for name, part in source.items]
            text = "{" + ", ".join(f"{name}: {text}" for name, text, _ in items) + "}"
            return text, tuple(one for _, _, hashes in items for one in hashes)
        assert isinstance(source, Gathered)
        parts = [self._text(part) for part in source.parts]
        kind = source.build.kind.__name__ if isinstance(source.build, Shape) else "container"
        keys = f" by {source.build.keys!r}" if isinstance(source.build, Shape) and source.build.keys else ""
        return f"{kind} of ({', '.join(text for text, _ in parts)}){keys}", tuple(h for _, hs in parts for h in hs)
