"""What a flow consists of, before it is compiled: its items in order, and what ties them together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Protocol

from asyncflow.graph.condition import Condition
from asyncflow.graph.provides import Given
from asyncflow.graph.reference import Declared, Origin, Ref, Spec
from asyncflow.graph.signature import Signature
from asyncflow.graph.wants import Call

Kind = Literal["linear", "unordered", "graph", "builder"]


class Item(Protocol):
    """What a flow can consist of: a task, or another flow. ``is_named``: somebody chose the name for this very item."""

    name: str
    is_named: bool

    @property
    def returns(self) -> Any:
        """The annotation of its value, or ``UNKNOWN``."""

    def match(self, args: Sequence[Any], kwargs: Mapping[str, Any], builder: Origin) -> Call:
        """Return a call of it in *builder*."""
        ...

    def length(self) -> int | None:
        """Return how many elements its value has, if that is declared."""


class Layout:
    """
    The inside of one flow. A pattern's grows while items are added; a builder's is complete once the builder returned.

    Attributes:
        kind: How items are ordered: each after the one before, not at all, by the names they share, or by reference.
        names: Name to position of each item, in order.
        items: The tasks and flows.
        given: Position to constants that were added along with the item.
        links: Pairs of positions, the first before the second.
        conditions: Pairs of positions that are linked, each with the condition on that link.
        calls: For a builder, how each item is called; else empty.
        after: For a builder, references whose tasks come before the item at a position.
        families: For a builder, position to the name that an item was numbered from; named items are absent.
        signature: For a builder, its parameters.
        returns: For a builder, what it returned.
        gives: For a builder, the names under which a pattern around it sees what it returned.
        is_single: Whether the flow is there for one task, and its value is the task's.
        revision: Rises with each change.
    """

    # Rises with each change of any layout, so that a flow which nobody has touched is known by one comparison.
    edits: ClassVar[int] = 0

    __slots__ = (
        "after",
        "calls",
        "conditions",
        "families",
        "given",
        "gives",
        "is_single",
        "items",
        "kind",
        "links",
        "names",
        "returns",
        "revision",
        "signature",
    )

    def __init__(self, kind: Kind) -> None:
        self.kind: Kind = kind
        self.names: dict[str, int] = {}
        self.items: list[Item] = []
        self.given: dict[int, Mapping[str, Any]] = {}
        self.links: list[tuple[int, int]] = []
        self.conditions: dict[tuple[int, int], Condition] = {}
        self.calls: list[Call] = []
        self.after: list[tuple[Ref, int]] = []
        self.families: dict[int, str] = {}
        self.signature: Signature | None = None
        self.returns: Spec | None = None
        self.gives: Given = ()
        self.is_single = False
        self.revision = 0

    def touch(self) -> None:
        """Take note of a change."""
        self.revision += 1
        Layout.edits += 1

    def copy(self) -> Layout:
        """Return a pattern's layout that changes on its own from here on."""
        copied = Layout(self.kind)
        copied.names, copied.items = dict(self.names), list(self.items)
        copied.given, copied.links = dict(self.given), list(self.links)
        copied.conditions = dict(self.conditions)
        return copied


class Composite(Declared, ABC):
    """What a compiler needs to know of a flow."""

    name: str
    timeout: float | None
    concurrency: int | None
    controller: Any
    """The task that is its controller, or None."""
    condition: Condition | None
    on_failure: str | None
    revert_scope: str
    targets: tuple[str, ...] = ()
    """Names or paths of the only tasks wanted; empty for all."""

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """What it consists of. A builder is called the first time this is asked for."""
