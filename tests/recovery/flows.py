"""Random flows of tasks that do as a script says, and what those tasks saw."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from hypothesis import strategies as st

from asyncflow.context import Context
from asyncflow.graph.flow import Flow
from asyncflow.graph.pattern import graph, linear, unordered
from asyncflow.graph.policy import Backoff, Fixed, Retry
from asyncflow.graph.task import Task

Options = tuple[tuple[str, Any], ...]

LONG = 1_000.0
"""Virtual seconds that a body takes which waits for nothing in particular."""
OUTLIVES = 30.0
"""Virtual seconds for which a body goes on that was told to stop: longer than any ``cancel_grace`` here."""


@attrs.frozen
class Answer:
    """
    How one try ends: first *turns* turns of the loop and *seconds* pass.

    ``kind`` is "return", "value" or "key" for the error that is raised, "wait" for a body that only a limit or a cancel
    ends, "returns late" and "raises late" for one that takes a cancel as a hint, and "outlives" for one that goes on.
    """

    kind: str = "return"
    turns: int = 0
    seconds: float = 0.0


@attrs.frozen
class Leaf:
    """A task: the answers of its body and of its revert, one a try; a try beyond the last returns."""

    body: tuple[Answer, ...] = ()
    undo: tuple[Answer, ...] = ()
    has_undo: bool = True
    needs: tuple[int, ...] = ()  # which of the values it sees it takes, by any number
    options: Options = ()


@attrs.frozen
class Branch:
    """A flow of leaves and branches; *links* are pairs of positions, for a graph."""

    kind: str
    items: tuple[Any, ...]
    links: tuple[tuple[int, int], ...] = ()
    options: Options = ()


class World:
    """
    What is outside the engine: the script, and what bodies saw.

    ``problems`` is what no body may ever see; a test asserts that it is empty, since a body that raised would only fail
    its task.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.at_work: Counter[str] = Counter()
        self.durable: set[tuple[str, str, int]] = set()  # starts on record: kind, path, attempt
        self.endings: Counter[tuple[str, str]] = Counter()  # endings on record that use up a try: kind, path
        self.undone: set[str] = set()  # paths whose revert is done on record
        self.reverted: list[str] = []
        self.calls = 0
        self.look: Callable[[], None] = lambda: None  # brings what is on record up to date

    def enter(self, kind: str, ctx: Context) -> None:
        self.calls += 1
        self.look()
        if self.at_work[ctx.path]:
            self.problems.append(f"{kind} of {ctx.path} while another body of it is at work")
        if (kind, ctx.path, ctx.attempt) not in self.durable:
            self.problems.append(f"{kind} of {ctx.path}, attempt {ctx.attempt}, before its start was on record")
        key = f"run/{ctx.path}#1" + ("/revert" if kind == "revert" else "")
        if ctx.idempotency_key != key:
            self.problems.append(f"{kind} of {ctx.path} has the key {ctx.idempotency_key!r}, not {key!r}")
        self.at_work[ctx.path] += 1

    def leave(self, ctx: Context) -> None:
        self.at_work[ctx.path] -= 1


class Scripted(Task):
    """A task that does what its leaf says."""

    auto_extract = False

    def __init__(self, name: str, world: World, leaf: Leaf, number: int, **options: Any) -> None:
        super().__init__(name=name, **options)
        self.world = world
        self.leaf = leaf
        self.number = number

    async def execute(self, ctx: Context, **inputs: int) -> int:
        world = self.world
        answer = _answer(self.leaf.body, world.endings["body", ctx.path])
        world.enter("body", ctx)
        try:
            await _perform(answer)
        finally:
            world.leave(ctx)
        return value_of(self.number, inputs)


class Undoable(Scripted):
    """The same, with a revert."""

    async def revert(self, ctx: Context) -> None:
        world = self.world
        answer = _answer(self.leaf.undo, world.endings["revert", ctx.path])
        world.enter("revert", ctx)
        try:
            await _perform(answer)
        finally:
            world.leave(ctx)
        world.reverted.append(ctx.path)


def value_of(number: int, inputs: Mapping[str, int]) -> int:
    """Return what task *number* makes of *inputs*: a number that tells them all apart."""
    value = number + 1
    for name in sorted(inputs):
        value = (value * 1_000_003 + inputs[name]) % 2_147_483_647
    return value


def _answer(answers: tuple[Answer, ...], place: int) -> Answer:
    return answers[place] if place < len(answers) else Answer()


async def _perform(answer: Answer) -> None:
    try:
        for _ in range(answer.turns):
            await asyncio.sleep(0)
        if answer.seconds:
            await asyncio.sleep(answer.seconds)
        if answer.kind not in ("return", "value", "key"):
            await asyncio.sleep(LONG)
    except asyncio.CancelledError:
        if answer.kind == "outlives":
            await _outlive(OUTLIVES)
        elif answer.kind in ("returns late", "raises late"):
            await asyncio.sleep(0.5)
        else:
            raise
    if answer.kind == "value":
        raise ValueError("as the script says")
    if answer.kind in ("key", "raises late"):
        raise KeyError("as the script says")


async def _outlive(seconds: float) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while (left := until - loop.time()) > 0:
        try:
            await asyncio.sleep(left)
        except asyncio.CancelledError:
            continue


# --- Building ---------------------------------------------------------------------------------------------------------


class Built:
    """A flow made of a tree, the world its tasks live in, and what the flow returns where nothing goes wrong."""

    def __init__(self, tree: Branch) -> None:
        self.tree = tree
        self.world = World()
        self.expected: dict[str, int] = {}
        self._count = 0
        self.flow: Flow[..., Any] = self._branch(tree, "f", [])

    @property
    def size(self) -> int:
        return self._count

    def _branch(self, tree: Branch, name: str, seen: list[str]) -> Flow[..., Any]:
        make = {"linear": linear, "unordered": unordered, "graph": graph}[tree.kind]
        flow = make(name, **dict(tree.options))
        mine: list[str] = []
        for at, item in enumerate(tree.items):
            # Siblings in an unordered flow do not see each other; in the others, here, each sees those before it.
            visible = [*seen, *(() if tree.kind == "unordered" else mine)]
            if isinstance(item, Branch):
                before = len(self.expected)
                flow.add(self._branch(item, f"{name}{at}", visible))
                mine.extend(list(self.expected)[before:])
            else:
                flow.add(self._leaf(item, f"t{self._count}", visible))
                mine.append(f"v{self._count - 1}")
        if tree.kind == "graph":
            for one, other in sorted({(min(pair), max(pair)) for pair in tree.links}):
                if one != other and other < len(tree.items):
                    flow.link(*(list(flow.layout.names)[place] for place in (one, other)))
        return flow

    def _leaf(self, leaf: Leaf, name: str, visible: list[str]) -> Task:
        number, self._count = self._count, self._count + 1
        needs = sorted({visible[need % len(visible)] for need in leaf.needs}) if visible else []
        self.expected[f"v{number}"] = value_of(number, {need: self.expected[need] for need in needs})
        cls = Undoable if leaf.has_undo else Scripted
        options = dict(leaf.options)
        return cls(name, self.world, leaf, number, provides=f"v{number}", requires=needs, **options)


# --- Growing ----------------------------------------------------------------------------------------------------------

# By a seed and not by many small draws: drawing 60 tasks would take hypothesis longer than running them.


class Grower:
    """Grows flows of one sort from a seed; a subclass says what a task may do."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def tree(self, size: int) -> Branch:
        """Return a flow of *size* tasks, nested at will."""
        rng = self.rng
        parts = rng.randint(1, min(size, 9))
        cuts = [0, *sorted(rng.sample(range(1, size), parts - 1)), size]
        items = tuple(
            self.leaf() if more == 1 and rng.random() < 0.9 else self.tree(more)
            for more in (end - start for start, end in itertools.pairwise(cuts))
        )
        links = tuple((rng.randrange(parts), rng.randrange(parts)) for _ in range(rng.randint(0, 2 * parts)))
        return Branch(rng.choice(("linear", "unordered", "graph", "graph")), items, links, self.limits())

    def leaf(self) -> Leaf:
        """Return a task."""
        raise NotImplementedError

    def limits(self) -> Options:
        """Return the options of a flow."""
        return ()

    def needs(self) -> tuple[int, ...]:
        return tuple(self.rng.randrange(60) for _ in range(self.rng.randint(0, 3)))

    def answer(self, *kinds: str) -> Answer:
        rng = self.rng
        return Answer(rng.choice(kinds), rng.randint(0, 3), rng.choice((0.0, 0.0, 0.0, 1.0, 1.0, 2.0, 3.0)))

    def answers(self, most: int, *kinds: str) -> tuple[Answer, ...]:
        return tuple(self.answer(*kinds) for _ in range(self.rng.randint(0, most)))

    def retry(self, most: int, *backoffs: Backoff | None) -> Retry | None:
        rng = self.rng
        on = rng.choice(((Exception,), (Exception,), (ValueError,), (TimeoutError, KeyError)))
        return rng.choice((None, Retry(rng.randint(1, most), rng.choice(backoffs), on=on)))


class Easy(Grower):
    """Tasks that succeed."""

    def leaf(self) -> Leaf:
        rng = self.rng
        options = {"priority": rng.choice((0, 0, 0, 1, -1))}
        return Leaf((self.answer("return"),), (), rng.random() < 0.5, self.needs(), tuple(options.items()))


class Certain(Grower):
    """Tasks whose endings depend on nothing but how often they were tried."""

    def leaf(self) -> Leaf:
        rng = self.rng
        options = {
            "priority": rng.choice((0, 0, 0, 1, -1)),
            "retry": self.retry(4, None),
            "revert_retry": self.retry(3, None),
        }
        kinds = rng.choice((("return",), ("return",), ("return", "value", "key")))
        body, undo = self.answers(3, *kinds), self.answers(2, "return", "value", "key")
        return Leaf(body, undo, rng.random() < 0.8, self.needs(), tuple(options.items()))


class Wild(Grower):
    """Tasks of which some do what they like, under limits of all sorts."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        # With too much mischief nothing gets far enough to be worth undoing.
        self.mischief = self.rng.choice((0.0, 0.03, 0.1, 0.3))
        self.haste = self.rng.choice((0.0, 0.0, 0.05, 0.3))

    def leaf(self) -> Leaf:
        rng = self.rng
        backoffs = (None, Fixed(0.0), Fixed(1.0), Fixed(2.5))
        is_wild, is_wild_undone = rng.random() < self.mischief, rng.random() < self.mischief
        options: dict[str, Any] = {
            "priority": rng.choice((0, 0, 0, 1, -1)),
            "retry": self.retry(4, *backoffs),
            "revert_retry": self.retry(3, *backoffs),
            "timeout": rng.choice((0.5, 2.0, 5.0)) if rng.random() < self.haste else None,
            "revert_timeout": rng.choice((4.0, 20.0, 300.0)),
            "on_crash": rng.choice(("retry", "retry", "fail")),
            "max_crashes": rng.choice((1, 2, 5, 5)),
        }
        kinds = (
            ("return", "value", "key", "wait", "returns late", "raises late", "outlives") if is_wild else ("return",)
        )
        undo = ("return", "value", "wait", "outlives") if is_wild_undone else ("return",)
        if "wait" in kinds and options["timeout"] is None:
            options["timeout"] = rng.choice((None, 5.0))
        return Leaf(
            self.answers(3, *kinds), self.answers(2, *undo), rng.random() < 0.8, self.needs(), tuple(options.items())
        )

    def limits(self) -> Options:
        rng = self.rng
        hurried = rng.random() < self.haste / 2
        options = {
            "concurrency": rng.choice((None, None, 1, 2)),
            "timeout": rng.choice((3.0, 6.0)) if hurried else None,
        }
        return tuple(options.items())


def flows(sort: type[Grower], most: int) -> st.SearchStrategy[Branch]:
    """Return flows of up to *most* tasks of one sort."""
    return st.builds(lambda size, seed: sort(seed).tree(size), st.integers(1, most), st.integers(0, 2**32 - 1))
