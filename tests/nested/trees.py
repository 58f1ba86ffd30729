"""Random nested flows with controllers and conditions, and a world whose answers a seed decides."""

from __future__ import annotations

import random
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import attrs

from asyncflow.graph.controller import (
    AlwaysRevert,
    AlwaysRevertAll,
    Controller,
    Decision,
    ForEach,
    History,
    Times,
)
from asyncflow.graph.flow import Flow
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.plan import Plan
from asyncflow.graph.policy import DEPTHS, Retry
from asyncflow.graph.task import FunctionTask

Reads = tuple[tuple[str, bool], ...]
"""Names that something reads, each with whether it has a default."""
DEFAULT = -1
ANY = "s"
"""The one name that several tasks may provide; all others are one task's own."""


@attrs.frozen
class Question:
    """A condition: what it reads, and how far its no reaches."""

    reads: Reads
    depth: str | None


@attrs.frozen(eq=False)
class Leaf:
    """A task."""

    path: str
    gives: str
    reads: Reads = ()
    when: Question | None = None
    retry: int = 1
    revert_retry: int = 1


@attrs.frozen(eq=False)
class Ruler:
    """A controller: its kind, its attempts in all, whether it ends with REVERT_ALL."""

    path: str
    gives: str
    kind: str
    n: int = 1
    revert_all: bool = False


@attrs.frozen(eq=False)
class Branch:
    """A flow; *links* are pairs of positions with a condition or None, for a graph."""

    path: str
    kind: str
    items: tuple[Leaf | Branch, ...]
    links: tuple[tuple[int, int, Question | None], ...] = ()
    ruler: Ruler | None = None
    when: Question | None = None
    options: Mapping[str, Any] = attrs.field(factory=dict)

    def tasks(self) -> Iterator[Leaf | Ruler]:
        """Yield all that runs in it, in plan order."""
        if self.ruler is not None:
            yield self.ruler
        for item in self.items:
            if isinstance(item, Leaf):
                yield item
            else:
                yield from item.tasks()

    def branches(self) -> Iterator[Branch]:
        """Yield it and all flows in it."""
        yield self
        for item in self.items:
            if isinstance(item, Branch):
                yield from item.branches()


# --- What a seed says -------------------------------------------------------------------------------------------------


def chance(*what: Any) -> float:
    """Return a number from 0 to 1 that depends on nothing but *what*."""
    return zlib.crc32(repr(what).encode()) / 2**32


def value_of(path: str, inputs: Mapping[str, Any]) -> int:
    """Return what a task gives: a number that tells apart whatever it read."""
    return zlib.crc32(repr((path, sorted(inputs.items()))).encode())


@attrs.frozen
class World:
    """
    Everything outside the engine. Each answer is a function of the seed, of who is asked and of how often it was
    before, so a crash changes nothing.
    """

    seed: int
    bad: float
    "How likely a body fails; other things are less likely to."

    def body(self, path: str, call: int) -> str:
        """Return how a body ends: "ok", "fail" or "retriable"."""
        luck = chance(self.seed, "body", path, call)
        if luck >= self.bad:
            return "ok"
        return "retriable" if luck < self.bad / 2 else "fail"

    def controller(self, path: str, call: int) -> str:
        return "fail" if chance(self.seed, "controller", path, call) < self.bad / 8 else "ok"

    def revert(self, path: str, call: int) -> str:
        luck = chance(self.seed, "revert", path, call)
        if luck >= self.bad / 8:
            return "ok"
        return "retriable" if luck < self.bad / 12 else "fail"

    def condition(self, label: str, call: int, inputs: Mapping[str, Any]) -> bool:
        """Return what a condition says, or raise ValueError."""
        luck = chance(self.seed, "condition", label, call, sorted(inputs.items()))
        if luck < self.bad / 8:
            raise ValueError(label)
        return luck > 0.4

    def decision(self, path: str, call: int, past: list[tuple[Any, tuple[str, ...]]]) -> str:
        """Return what a user's own controller decides, or raise ValueError; *past* is value and failed paths."""
        luck = chance(self.seed, "decision", path, call, past)
        if luck < self.bad / 8:
            raise ValueError(path)
        if luck > 0.95:
            return "revert_all"
        return "retry" if luck > 0.3 and call < 4 else "revert"


# --- Making flows -----------------------------------------------------------------------------------------------------


def random_tree(seed: int, most: int, asks: float | None = None) -> tuple[Branch, Plan]:
    """Return a random flow, and its plan; *asks* is how likely conditions are, drawn if None."""
    rng = random.Random(f"tree {seed}")
    likely = rng.choice((0.0, 0.2, 0.5)) if asks is None else asks
    tree = _branch(rng, "", rng.randint(1, most), (), likely, plain=True)
    return tree, build(tree).compile()


def _branch(rng: random.Random, path: str, size: int, visible: tuple[str, ...], asks: float, *, plain: bool) -> Branch:
    kind = rng.choice(("linear", "linear", "unordered", "graph"))
    plain = plain and kind != "graph"
    ruler = None
    around = visible
    if rng.random() < 0.4:
        ruler = random_ruler(rng, path)
        visible = (*visible, ruler.gives)
    items: list[Leaf | Branch] = []
    while size:
        more = rng.randint(1, size)
        size -= more
        inner = f"{path}/{'t' if more == 1 else 'f'}{len(items)}".lstrip("/")
        if more == 1:
            items.append(_leaf(rng, inner, visible, asks, plain=plain and kind == "linear"))
        else:
            items.append(_branch(rng, inner, more, visible, asks, plain=plain))
        if kind != "unordered":
            visible = (*visible, *given(items[-1]))
    links: list[tuple[int, int, Question | None]] = []
    if kind == "graph" and len(items) > 1:
        pairs = {tuple(sorted(rng.sample(range(len(items)), 2))) for _ in range(rng.randint(0, 2 * len(items)))}
        for one, other in sorted(pairs):
            seen = (*around, *given(items[one]))
            links.append((one, other, _question(rng, seen, asks)))
    options: dict[str, Any] = {"on_failure": rng.choice((None, None, "cancel", "finish"))}
    if ruler is not None:
        options["revert_scope"] = rng.choice(("run", "run", "flow"))
    if rng.random() < 0.2:
        options["timeout"] = 1.0
    when = _question(rng, around, asks / 2) if path else None
    return Branch(path, kind, tuple(items), tuple(links), ruler, when, options)


def given(item: Leaf | Branch) -> list[str]:
    """Return the names that later siblings of *item* see."""
    if isinstance(item, Leaf):
        return [item.gives]
    return [task.gives for task in item.tasks() if isinstance(task, Leaf)]


def _leaf(rng: random.Random, path: str, visible: tuple[str, ...], asks: float, *, plain: bool) -> Leaf:
    gives = ANY if plain and rng.random() < 0.3 else "v_" + path.replace("/", "_")
    return Leaf(
        path,
        gives,
        _reads(rng, visible, plain),
        _question(rng, visible, asks / 2),
        rng.choice((1, 1, 2, 3)),
        rng.choice((1, 2)),
    )


def _reads(rng: random.Random, visible: tuple[str, ...], plain: bool = False) -> Reads:
    names = sorted(set(visible) - ({ANY} if not plain else set()))
    chosen = rng.sample(names, min(len(names), rng.choice((0, 0, 1, 2))))
    return tuple((name, rng.random() < 0.6) for name in chosen)


def _question(rng: random.Random, visible: tuple[str, ...], likely: float) -> Question | None:
    if rng.random() >= likely:
        return None
    return Question(_reads(rng, visible), rng.choice((None, *DEPTHS)))


def random_ruler(rng: random.Random, path: str, name: str = "ruler") -> Ruler:
    kind = rng.choice(("times", "times", "for_each", "own", "own", "always_revert", "always_revert_all"))
    inner = f"{path}/{name}".lstrip("/")
    n = rng.randint(0, 3)
    return Ruler(inner, "c_" + inner.replace("/", "_"), kind, n, rng.random() < 0.2)


# --- Building ---------------------------------------------------------------------------------------------------------


def build(tree: Branch) -> Flow[..., Any]:
    """Return the flow that *tree* describes."""
    make: Any = {"linear": linear, "unordered": unordered, "graph": graph}[tree.kind]
    options = dict(tree.options)
    if tree.ruler is not None:
        options["retry"] = _controller(tree.ruler)
    options.update(_when(tree.when, f"flow {tree.path}"))
    flow = make(tree.path.rpartition("/")[2] or "root", **options)
    for item in tree.items:
        flow.add(build(item) if isinstance(item, Branch) else _task(item))
    names = list(flow.layout.names)
    for one, other, question in tree.links:
        flow.link(names[one], names[other], **_when(question, f"link {tree.path}:{one}-{other}"))
    return flow


def _task(leaf: Leaf) -> FunctionTask[..., Any]:
    return FunctionTask(
        _function(leaf.reads),
        name=leaf.path.rpartition("/")[2],
        provides=leaf.gives,
        retry=Retry(leaf.retry),
        revert_retry=Retry(leaf.revert_retry),
        executor="inline",
        max_crashes=1_000,
        **_when(leaf.when, f"task {leaf.path}"),
    )


def _when(question: Question | None, label: str) -> dict[str, Any]:
    if question is None:
        return {}
    fn = _function(question.reads)
    fn.__dict__["label"] = label
    return {"when": fn, "depth": question.depth}


def _function(reads: Reads) -> Callable[..., Any]:
    ordered = sorted(reads, key=lambda read: read[1])
    words = ", ".join(f"{name}={DEFAULT}" if has_default else name for name, has_default in ordered)
    function: Callable[..., Any] = eval(f"lambda {words}: None")
    return function


class Own(Controller):
    """A user's own controller; the world answers for it."""

    executor = "inline"

    def execute(self, history: History) -> int:
        return value_of(self.name, {"past": tuple(history.values)})

    def on_failure(self, history: History) -> Decision:
        raise NotImplementedError


def _controller(ruler: Ruler) -> Controller:
    options: Any = {"name": ruler.path.rpartition("/")[2], "provides": ruler.gives, "max_crashes": 1_000}
    match ruler.kind:
        case "times":
            return Times(ruler.n, revert_all=ruler.revert_all, **options)
        case "for_each":
            return ForEach([7, 8, 7][: ruler.n], revert_all=ruler.revert_all, **options)
        case "always_revert":
            return AlwaysRevert(**options)
        case "always_revert_all":
            return AlwaysRevertAll(**options)
        case _:
            return Own(**options)


Counts = Counter[tuple[str, str]]
"""How often each thing has answered: kind and name to a number."""
