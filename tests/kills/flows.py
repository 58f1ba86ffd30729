"""
What is killed: runs of random nested flows in a world that a seed decides, all of it the same in each process.

The flows are those of ``tests.nested``, whose interpreter says how each run must end. Here their tasks have bodies:
coroutines, threads and plain calls, with values of any size, some kept nowhere, some written by a transaction.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import attrs

import asyncflow as af
from asyncflow import messages as m
from asyncflow.graph.controller import Decision, History
from asyncflow.graph.plan import Plan
from asyncflow.graph.record import record_of
from asyncflow.machine.run import RunMachine
from tests.kills.deeds import BEGUN, DONE, FAILED, UNDOING, UNDONE, Deed, Deeds
from tests.kills.points import Points
from tests.nested.interpreter import Interpreter
from tests.nested.trees import (
    DEFAULT,
    Branch,
    Leaf,
    Own,
    Question,
    Reads,
    Ruler,
    World,
    build,
    chance,
    random_tree,
    value_of,
)
from tests.nested.trees import _controller as controller_of

NEVER = 1_000_000
"""How often a task may be lost: here the process is what dies, and no task is to blame."""
LARGE_BYTES = 70_000
"""More than a record holds."""

# Besides, some are "asked": they have a hook that looks what became of an attempt that was lost.
TRAITS = ("coroutine", "thread", "inline", "large", "transaction", "unkept", "patient")
GROWN = "grown-"
"""What the names of tasks begin with that a later version of a flow may have added, or taken out."""
BOOKS = "CREATE TABLE IF NOT EXISTS books(run, path, key, amount)"


class Outside(World):
    """A world in which only tasks fail, since what the library ships as controllers does not."""

    def controller(self, path: str, call: int) -> str:
        return "ok"

    def revert(self, path: str, call: int) -> str:
        return "ok" if path.endswith("ruler") else super().revert(path, call)

    def body(self, path: str, call: int) -> str:
        return "ok" if path.startswith(GROWN) else super().body(path, call)


@attrs.frozen
class Calm(Outside):
    """One in which everything succeeds at the last try, apart from what is *doomed*, so that no order matters."""

    doomed: str
    tries: Mapping[str, int]

    def body(self, path: str, call: int) -> str:
        if path == self.doomed:
            return "fail"
        most = self.tries.get(path, 1)
        return "retriable" if call < int(chance(self.seed, "tries", path) * most) else "ok"


# --- What a seed says -------------------------------------------------------------------------------------------------


@attrs.frozen
class Play:
    """
    What one seed has run, in one file.

    ``sort`` is "ordered" for one run whose bodies run one at a time and fail, "crowd" for several at once in which no
    order matters, "growing" for an ordered one whose flow has another task with each life, and "changing" for one whose
    flow also loses tasks, and has some that read another value than before. ``trouble`` is what is asked of a crowd:
    "cancel", "suspend", "deadline" or nothing.
    """

    seed: int
    sort: str
    durability: str
    runs: int
    recovers: bool
    trouble: str
    reach: int
    "How far into a life a death may be."
    asks: bool
    "Whether some tasks can be asked what became of a lost attempt."
    never_revert: bool

    @property
    def concurrency(self) -> int | None:
        return None if self.sort == "crowd" else 1

    @property
    def run_ids(self) -> list[str]:
        return [f"r{number}" for number in range(self.runs)]


def play_of(seed: int) -> Play:
    """Return what a seed says."""
    rng = random.Random(f"play {seed}")
    sort = rng.choice(("ordered", "ordered", "crowd", "crowd", "growing"))
    durability = rng.choice(("process", "process", "full", "lazy"))
    runs = rng.choice((1, 2, 4)) if sort == "crowd" else 1
    trouble = rng.choice(("", "", "cancel", "suspend", "deadline")) if sort == "crowd" else ""
    recovers, reach = rng.random() < 0.5, rng.choice((1, 1, 2, 4))
    # Of a third of all seeds; what the others have found before is still found by them.
    asks = seed % 3 == 1
    if asks and sort in ("ordered", "growing"):
        sort = rng.choice(("ordered", "changing", "changing"))
        if sort == "changing":
            # Who recovers has the flow with which the run began; and what matters comes late in a life.
            recovers, reach = rng.random() < 0.2, rng.choice((2, 3))
    never_revert = asks and not trouble and rng.random() < 0.3
    return Play(seed, sort, durability, runs, recovers, trouble, reach, asks, never_revert)


@attrs.frozen
class Extra:
    """
    A task that is not in each version of a flow; one that *follows* reads what the extra before it gives.

    Those with an odd number stand at the end. Those with an even one stand before everything else, so that they have
    long ended when somebody takes them out; none is added there later, for what comes behind may have begun.
    """

    number: int
    follows: bool = False

    @property
    def name(self) -> str:
        return f"{GROWN}{self.number}"

    @property
    def gives(self) -> str:
        return f"v_{GROWN[:-1]}_{self.number}"


Extras = tuple[Extra, ...]


def extras_of(plan: Plan) -> Extras:
    """Return those that a plan has."""
    tasks = record_of(plan).tasks
    return tuple(
        Extra(int(task.name.removeprefix(GROWN)), bool(task.reads)) for task in tasks if task.name.startswith(GROWN)
    )


def written(extras: Extras) -> str:
    """Return *extras* in a word each, which :func:`extras_from` reads."""
    return " ".join(f"{extra.number}{'+' * extra.follows}" for extra in extras)


def extras_from(text: str) -> Extras:
    return tuple(Extra(int(word.rstrip("+")), word.endswith("+")) for word in text.split())


def changed(extras: Extras, life: int, rng: random.Random, *, is_new: bool) -> Extras:
    """Return what somebody has made of *extras* between two lives; of a run that *is_new*, all that there may be."""
    found = list(extras)
    if found and rng.random() < 0.5:
        del found[rng.randrange(len(found))]
    if found and rng.random() < 0.6:
        at = min(rng.randrange(len(found)), rng.randrange(len(found)))  # rather one that has started
        found[at] = Extra(found[at].number, not found[at].follows)
    if is_new or rng.random() < 0.4:
        # Never the number of one that was there before: that would be the same task, come back.
        for more in range(rng.randint(1, 4)):
            is_first = is_new and rng.random() < 0.6
            found.append(Extra(2 * (4 * life + more) + (not is_first), rng.random() < 0.5))
    return tuple(found)


@attrs.frozen
class Script:
    """One run: its flow as a tree, its world, and what its tasks are like."""

    tree: Branch
    world: Outside
    is_ordered: bool
    seed: int
    asks: bool
    never_revert: bool

    def trait(self, path: str) -> str:
        trait = TRAITS[int(chance(self.seed, "trait", path) * len(TRAITS))]
        if self.asks and trait in ("coroutine", "patient", "thread", "inline"):
            return "asked"
        # A body that is called again for its value answers once more, which the interpreter knows nothing of.
        return "coroutine" if trait == "unkept" and self.is_ordered else trait

    def expected(self) -> dict[str, Any]:
        """Return how the run must end, by the interpreter."""
        plan = build(self.tree).compile()
        return Interpreter(self.tree, plan, self.world, never_revert=self.never_revert).final()


def script_of(play: Play, run_id: str, extras: Extras = ()) -> Script:
    """Return what runs as *run_id*."""
    seed = play.seed * 10 + int(run_id[1:])
    rng = random.Random(f"script {seed}")
    if play.sort == "crowd":
        tree, _ = random_tree(seed, 10, asks=0.0)
        tree = _timeless(tree, is_sure=True)
        doomed = rng.random() < 0.3
        if doomed:
            inner = _placed(tree, "f0")
            tree = Branch("", "linear", (inner, Leaf("t1", "v_t1")))
        tries = {task.path: task.retry for task in tree.tasks() if isinstance(task, Leaf)}
        calm = Calm(seed, 0.0, "t1" if doomed else "", tries)
        return Script(tree, calm, False, seed, play.asks, play.never_revert)
    tree, _ = random_tree(seed, 10)
    tree = _in_line(_timeless(tree))
    world = Outside(seed, rng.choice((0.1, 0.2, 0.4)))
    if play.sort in ("growing", "changing"):
        first = [extra for extra in extras if play.sort == "changing" and not extra.number % 2]
        extras = (*first, *(extra for extra in extras if extra not in first))
        leaves = [
            Leaf(extra.name, extra.gives, ((one.gives, False),) if extra.follows and one else ())
            for one, extra in zip((None, *extras), extras, strict=False)
        ]
        items = (*leaves[: len(first)], *tree.items, *leaves[len(first) :])
        tree = attrs.evolve(tree, kind="linear", items=items, links=())
    return Script(tree, world, True, seed, play.asks, play.never_revert)


def _timeless(tree: Branch, *, is_sure: bool = False) -> Branch:
    """Return *tree* without time limits, since each resume takes its time; if *is_sure*, with something to try."""
    options = {name: value for name, value in tree.options.items() if name != "timeout"}
    items = tuple(_timeless(item, is_sure=is_sure) if isinstance(item, Branch) else item for item in tree.items)
    ruler = tree.ruler and attrs.evolve(tree.ruler, n=max(tree.ruler.n, int(is_sure)))
    return attrs.evolve(tree, items=items, options=options, ruler=ruler)


def _in_line(tree: Branch) -> Branch:
    """
    Return *tree* with one task after the other.

    While a controller is asked, or a value loaded, the permit goes to whatever else is ready, and what has been started
    by the time of a failure would depend on that.
    """
    items = tuple(_in_line(item) if isinstance(item, Branch) else item for item in tree.items)
    if tree.kind != "graph":
        return attrs.evolve(tree, kind="linear", items=items)
    known = {(one, other) for one, other, _ in tree.links}
    links = [(one, one + 1, None) for one in range(len(items) - 1) if (one, one + 1) not in known]
    return attrs.evolve(tree, items=items, links=(*tree.links, *links))


def _placed(item: Leaf | Branch, place: str) -> Leaf | Branch:
    if isinstance(item, Leaf):
        return attrs.evolve(item, path=f"{place}/{item.path}")
    ruler = item.ruler and attrs.evolve(item.ruler, path=f"{place}/{item.ruler.path}")
    items = tuple(_placed(each, place) for each in item.items)
    return attrs.evolve(item, path=f"{place}/{item.path}".rstrip("/"), items=items, ruler=ruler)


# --- Performing -------------------------------------------------------------------------------------------------------


class Stage:
    """What bodies see in this process: its life, the points at which it dies, and how often each thing has answered."""

    present: ClassVar[Stage]
    "The one of this process, which lives once."

    def __init__(self, folder: Path, life: int, points: Points) -> None:
        self.life, self.point = life, points
        self._folder = folder
        self.deeds = Deeds(folder)
        self.answered: dict[str, Counter[tuple[str, str]]] = {}

    def watch_machines(self) -> None:
        """Count what each run's journal says has answered: as it is read, and then as it goes on."""
        apply = RunMachine.apply

        def watch(machine: RunMachine, event: m.Event) -> None:
            apply(machine, event)
            counts = self.answered.setdefault(machine.run_id, Counter())
            match event:
                case m.RunStarted():
                    counts.clear()
                case m.AttemptSucceeded(task=task) | m.AttemptFailed(task=task) | m.AttemptCancelled(task=task):
                    counts["body", machine.plan.path(task)] += 1
                case m.RevertSucceeded(task=task) | m.RevertFailed(task=task):
                    counts["revert", machine.plan.path(task)] += 1
                case m.ConditionAnswered(guard=guard):
                    counts["guard", str(guard)] += 1
                case m.ControllerAnswered(scope=scope):
                    counts["decision", machine.plan.path(machine.plan.scopes[scope].controller)] += 1
                case _:
                    pass

        setattr(RunMachine, "apply", watch)  # noqa: B010

    def do(self, what: str, ctx: af.Context) -> None:
        """Have an effect, between two points."""
        self.point("effect")
        self.deeds.note(Deed(what, self.life, ctx.run_id, ctx.path, ctx.attempt, ctx.idempotency_key))
        self.point("effect")

    def done(self, ctx: af.Context) -> list[Deed]:
        """Return what was done by the execution of a task that *ctx* belongs to, in this life and those before."""
        self.point("effect")
        deeds = [deed for deed in Deeds(self._folder).new() if deed.key == ctx.idempotency_key]
        self.point("effect")
        return deeds


def plain(value: Any) -> Any:
    """Return what a value tells, without what only makes it large."""
    return value[0] if type(value) is tuple else value


def enter(connection: sqlite3.Connection, ctx: af.Context, key: str, value: Any) -> Any:
    """Enter a one into the books: a transaction."""
    connection.execute(BOOKS)
    connection.execute("INSERT INTO books VALUES (?, ?, ?, 1)", (ctx.run_id, ctx.path, key))
    return value


def take_out(connection: sqlite3.Connection, ctx: af.Context, key: str) -> None:
    """Enter what makes up for all that the task has entered, which may be nothing."""
    connection.execute(BOOKS)
    left = "SELECT ?1, ?2, ?3, -coalesce(sum(amount), 0) FROM books WHERE run = ?1 AND path = ?2"
    connection.execute(f"INSERT INTO books {left}", (ctx.run_id, ctx.path, key))


class Actor:
    """The bodies of one run."""

    def __init__(self, run_id: str, script: Script) -> None:
        self._run_id, self._script = run_id, script

    def _calls(self, kind: str, name: str) -> int:
        return Stage.present.answered[self._run_id][kind, name]

    def task(self, leaf: Leaf) -> af.Task:
        trait = self._script.trait(leaf.path)
        is_async = trait not in ("thread", "inline")
        options: dict[str, Any] = {"executor": "inline"} if trait == "inline" else {}
        pause = af.Fixed(0.001) if trait == "patient" else None
        task = af.task(
            name=leaf.path.rpartition("/")[2],
            provides=leaf.gives,
            retry=af.Retry(leaf.retry, pause, on=(ConnectionError,)),
            revert_retry=af.Retry(leaf.revert_retry, on=(ConnectionError,)),
            checkpoint=trait != "unkept",
            max_crashes=NEVER,
            **options,
            **self._when(leaf.when, f"task {leaf.path}"),
        )(_function(leaf.reads, lambda inputs: self._perform(trait, inputs), is_async=is_async))
        task.revert(self._undoing(trait))
        if trait == "asked":
            task.reconcile(_function(leaf.reads, self._ask, is_async=True))
        made: af.Task = task
        return made

    def _perform(self, trait: str, inputs: Mapping[str, Any]) -> Any:
        ctx = af.current()
        call = self._calls("body", ctx.path)
        Stage.present.do(BEGUN, ctx)
        how = self._script.world.body(ctx.path, call)
        value: Any = _value(ctx, inputs)
        if trait == "large":
            value = (value, value.to_bytes(4, "big") * (LARGE_BYTES // 4))
        if trait in ("thread", "inline"):
            return _answer(ctx, how, value, DONE)
        return self._go_on(ctx, trait, how, value)

    async def _go_on(self, ctx: af.Context, trait: str, how: str, value: Any) -> Any:
        await asyncio.sleep(0.001 if trait == "patient" else 0)
        if how == "ok" and trait == "transaction":
            return ctx.transaction(enter, ctx, ctx.idempotency_key, value)
        return _answer(ctx, how, value, DONE)

    async def _ask(self, inputs: Mapping[str, Any]) -> af.Outcome[Any] | None:
        """Answer for an attempt that was lost, as its body would have, if it got so far."""
        ctx = af.current()
        how = self._script.world.body(ctx.path, self._calls("body", ctx.path))
        deeds = Stage.present.done(ctx)
        if any(deed.what == DONE for deed in deeds):
            return af.Success(_value(ctx, inputs))
        if any(deed.what == FAILED and deed.attempt == ctx.attempt for deed in deeds):
            return af.Failure(_error(how, ctx))
        return None

    def _undoing(self, trait: str) -> Callable[[af.Context], Any]:
        async def undo(ctx: af.Context) -> Any:
            call = self._calls("revert", ctx.path)
            Stage.present.do(UNDOING, ctx)
            await asyncio.sleep(0)
            how = self._script.world.revert(ctx.path, call)
            if how == "ok" and trait == "transaction":
                return ctx.transaction(take_out, ctx, ctx.idempotency_key)
            return _answer(ctx, how, None, UNDONE)

        return undo

    def flow(self, tree: Branch) -> af.Flow[..., Any]:
        """Return the flow that *tree* describes."""
        make: Any = {"linear": af.linear, "unordered": af.unordered, "graph": af.graph}[tree.kind]
        options = {**tree.options, **self._when(tree.when, f"flow {tree.path}")}
        if tree.ruler is not None:
            options["retry"] = self._controller(tree.ruler)
        flow = make(tree.path.rpartition("/")[2] or "root", **options)
        for item in tree.items:
            flow.add(self.flow(item) if isinstance(item, Branch) else self.task(item))
        names = list(flow.layout.names)
        for one, other, question in tree.links:
            flow.link(names[one], names[other], **self._when(question, f"link {tree.path}:{one}-{other}"))
        made: af.Flow[..., Any] = flow
        return made

    def _when(self, question: Question | None, label: str) -> dict[str, Any]:
        if question is None:
            return {}

        def answer(inputs: Mapping[str, Any]) -> bool:
            call = self._calls("guard", str(self._guards[label]))
            return self._script.world.condition(label, call, {name: plain(value) for name, value in inputs.items()})

        return {"when": _function(question.reads, answer, is_async=False), "depth": question.depth}

    @cached_property
    def _guards(self) -> dict[str, int]:
        """Label to number of each condition."""
        guards = build(self._script.tree).compile().guards
        return {guard.condition.fn.__dict__["label"]: index for index, guard in enumerate(guards) if guard.condition}

    def _controller(self, ruler: Ruler) -> af.Controller:
        controller = controller_of(ruler)
        if not isinstance(controller, Own):
            return controller
        options: Any = {"name": controller.name, "provides": ruler.gives, "max_crashes": NEVER}
        return Asking(self._script.world, ruler.path, lambda scope: self._calls("decision", scope), **options)


class Asking(Own):
    """A user's own controller, which asks the world."""

    def __init__(self, world: World, path: str, calls: Callable[[str], int], **options: Any) -> None:
        super().__init__(**options)
        self._world, self._path, self._decisions = world, path, calls

    def on_failure(self, history: History) -> Decision:
        past = [(attempt.value, tuple(sorted(attempt.failures))) for attempt in history]
        return Decision(self._world.decision(self._path, self._decisions(self._path), past))


def _value(ctx: af.Context, inputs: Mapping[str, Any]) -> int:
    return value_of(ctx.path, {name: plain(value) for name, value in inputs.items()})


def _error(how: str, ctx: af.Context) -> Exception:
    return (ConnectionError if how == "retriable" else ValueError)(ctx.path)


def _answer(ctx: af.Context, how: str, value: Any, done: str) -> Any:
    if how != "ok":
        if done == DONE:
            Stage.present.do(FAILED, ctx)
        raise _error(how, ctx)
    Stage.present.do(done, ctx)
    return value


def _function(reads: Reads, act: Callable[[Mapping[str, Any]], Any], *, is_async: bool) -> Callable[..., Any]:
    """Return a function with a parameter for each name in *reads*, which calls *act* with all of them by name."""
    ordered = sorted(reads, key=lambda read: read[1])
    words = ", ".join(f"{name}={DEFAULT}" if has_default else name for name, has_default in ordered)
    inputs = ", ".join(f"{name!r}: {name}" for name, _ in ordered)
    header, call = ("async def", "await act") if is_async else ("def", "act")
    made: dict[str, Any] = {"act": act}
    exec(f"{header} body({words}):\n    return {call}({{{inputs}}})", made)
    function: Callable[..., Any] = made["body"]
    return function


@af.factory
def flow_of(seed: int, run_id: str, extras: str = "") -> af.Flow[..., Any]:
    """Return the flow of one run of a seed's, as it is in this life; of one that changes, with *extras*."""
    play = play_of(seed)
    more = tuple(map(Extra, range(Stage.present.life))) if play.sort == "growing" else extras_from(extras)
    script = script_of(play, run_id, more)
    return Actor(run_id, script).flow(script.tree)
