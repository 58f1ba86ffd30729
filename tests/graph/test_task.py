"""What a declared task is, and every mistake in declaring one."""

# Mistakes are what these tests are about.
# pyright: reportMissingImports=false, reportUnknownParameterType=false

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from asyncflow import context
from asyncflow.context import Context
from asyncflow.errors import DeclarationError
from asyncflow.graph.decorator import task
from asyncflow.graph.pattern import as_flow, linear
from asyncflow.graph.policy import Limit, Retry
from asyncflow.graph.signature import UNKNOWN, Signature, resource
from asyncflow.graph.task import FunctionTask, Task
from tests.graph.perform import PlainValues, perform

if TYPE_CHECKING:
    from nowhere import Mystery


@task
async def fetch(url: str, depth: int = 1) -> str:
    """Fetch a page."""
    return url * depth


@task(provides="size", executor="inline")
def measure(page: str) -> int:
    return len(page)


class Reserve(Task):
    provides = "reservation"

    def execute(self, order: str, count: int = 1) -> str:
        return f"{order} x{count}"


# --- What the runtime reads -------------------------------------------------------------------------------------------


def test_a_function_task_is_ready_to_run() -> None:
    """The hot path reads plain attributes."""
    assert (fetch.name, fetch.executor, fetch.wants_context, fetch.undo, fetch.promises) == (
        "fetch",
        "loop",
        False,
        None,
        False,
    )
    assert fetch.body is fetch.fn and fetch.__doc__ == "Fetch a page."
    assert (fetch.retry, fetch.timeout, fetch.revert_retry, fetch.revert_timeout) == (None, None, None, 300.0)
    assert (fetch.on_crash, fetch.reconciler, fetch.checkpoint, fetch.priority, fetch.limits, fetch.version) == (
        "retry",
        None,
        True,
        0,
        (),
        None,
    )
    assert fetch.returns is str and measure.executor == "inline"


def test_a_def_runs_in_a_thread_unless_it_says_otherwise() -> None:
    """A body that blocks must not block the loop."""
    assert task(lambda: 1, name="x") if False else FunctionTask(len, name="count").executor == "thread"
    assert measure.executor == "inline" and measure.with_options(executor="process").executor == "process"


def test_the_context_is_not_an_input() -> None:
    """Whatever way it is annotated in, and also where only a type checker imports it."""

    @task
    async def named(ctx: Context, url: str) -> None: ...

    @task
    async def dotted(ctx: context.Context, url: str) -> None: ...

    @task
    async def optional(ctx: context.Context | None, url: str) -> None: ...

    for one in (named, dotted, optional):
        assert one.wants_context
        assert [parameter.name for parameter in one.wants.signature.parameters] == ["url"]


def test_hints_that_cannot_be_resolved_are_unknown_one_by_one() -> None:
    """An import for type checkers only must not cost the other parameters their checks."""

    def odd(a: Mystery, b: int, c: "list[Mystery]") -> dict[str, int]: ...  # noqa: UP037

    signature = Signature(odd, what="odd")
    assert [signature.hint(name) for name in ("a", "b", "c", "return")] == [UNKNOWN, int, UNKNOWN, dict[str, int]]
    assert [signature.text(name) for name in ("a", "b")] == ["Mystery", "int"]


def test_a_name_local_to_a_function_resolves_through_its_closure() -> None:
    """Flows made by a function have classes made by it too."""

    class Local: ...

    def odd(a: Local) -> Local:
        return Local()

    assert Signature(odd, what="odd").hint("a") is Local


def test_copies_differ_only_in_what_they_are_told() -> None:
    """A task in two places of one flow needs two names, and shares the rest."""
    first, second = fetch.named("first"), fetch.with_options(name="second", timeout=3)
    assert (fetch.name, first.name, second.name) == ("fetch", "first", "second")
    assert (fetch.timeout, first.timeout, second.timeout) == (None, None, 3.0)
    assert first.body is fetch.body and first.wants is fetch.wants


def test_what_a_task_gets_later_is_its_own() -> None:
    """A copy under another name shares fields with what it was copied from, until one of them changes."""

    @task
    async def book(order: str) -> str:
        return order

    before = book.named("before")

    @book.revert
    async def unbook() -> None: ...

    @book.reconcile
    async def look() -> None: ...

    after = book.named("after")
    after.timeout = 3.0
    assert (before.undo, before.reconciler) == (None, None)
    assert (after.undo, after.reconciler) == (unbook, look)
    assert (before.timeout, book.timeout, after.timeout) == (None, None, 3.0)
    assert perform(before, {"order": "a"}) == perform(after, {"order": "a"}) == "a"
    assert as_flow(before) is as_flow(before) is not as_flow(after)


def test_the_decorators_return_the_function() -> None:
    """So that a revert can be called in a unit test like any function."""

    @task
    async def book(order: str) -> str:
        return order

    @book.revert
    def unbook(order: str, outcome: Any) -> str:
        return f"undid {order}"

    @book.reconcile
    async def ask(order: str) -> None: ...

    assert unbook("a", None) == "undid a"
    assert (book.undo, book.undo_executor) == (unbook, "thread")
    assert (book.undo_wants.names, book.undo_wants.outcome, book.undo_wants.context) == (("order",), True, False)
    assert (book.reconciler, book.reconciler_executor, book.reconciler_wants.names) == (ask, "loop", ("order",))


def test_a_revert_takes_what_it_names() -> None:
    """Inputs by name, its resources, and everything as **inputs."""

    @task
    def store(row: str, table: str) -> None: ...

    @store.revert
    def remove(ctx: Context, table: str, failures: Any, db: Any = resource("pool")) -> None: ...  # noqa: B008

    wants = store.undo_wants
    values: Any = PlainValues(linear("x", store).compile(), {}, {"pool": "the pool"})
    assert (wants.context, wants.failures, wants.outcome) == (True, True, False)
    assert wants.select({"row": "r", "table": "t"}, values) == {"table": "t", "db": "the pool"}
    other = store.with_options(name="other")
    other.undo = None

    @other.revert
    def remove_all(**inputs: Any) -> None: ...

    assert other.undo_wants.select({"row": "r", "table": "t"}) == {"row": "r", "table": "t"}


# --- Class tasks ------------------------------------------------------------------------------------------------------


def test_a_class_is_known_by_its_name_in_lower_case() -> None:
    """A class needs no second name, and may have one."""

    class ParseHTTPPage(Task):
        def execute(self) -> None: ...

    class Child(ParseHTTPPage):
        name = "own"

    class GrandChild(Child): ...

    assert (ParseHTTPPage().name, Child().name, GrandChild().name) == ("parse_http_page", "own", "own")
    assert Reserve(name="other").name == "other"


def test_a_class_task_needs_no_call_of_our_constructor() -> None:
    """A forgotten super().__init__() is a classic; so are data classes, frozen ones too."""

    class Plain(Task):
        def __init__(self, shop: str) -> None:
            self.shop = shop
            self.provides = "where"

        def execute(self) -> str:
            return self.shop

    @dataclasses.dataclass(frozen=True)
    class Frozen(Task):
        shop: str

        def execute(self) -> str:
            return self.shop

    @attrs.define
    class Defined(Task):
        shop: str

        def execute(self) -> str:
            return self.shop

    assert perform(linear("l", Plain("a"))) == {"where": "a"}
    for cls in (Plain, Frozen, Defined):
        one = cls("b")
        copy = one.named("copy")
        one.ready()
        copy.ready()
        assert perform(copy) == "b" and copy.name == "copy" and one.name != "copy"
        assert copy.body.__self__ is copy  # type: ignore[attr-defined]


def test_what_the_engine_keeps_on_a_task_is_not_overwritten() -> None:
    """An attribute called body would be gone when execute reads it, and match would break the call."""

    class Mail(Task):
        def __init__(self, subject: str, body: str) -> None:
            self.subject = subject
            self.body = body  # type: ignore[assignment,method-assign]

        def execute(self) -> str:
            return self.subject

    with pytest.raises(DeclarationError, match=r"has an attribute 'body' of its own, .*; choose another name"):
        Mail("hello", "text")

    with pytest.raises(DeclarationError, match=r"Search has an attribute 'match' of its own"):

        class Search(Task):
            def match(self, line: str) -> bool:  # type: ignore[override]
                return bool(line)

    with pytest.raises(DeclarationError, match=r"Letter has an attribute 'undo' of its own"):

        @dataclasses.dataclass(frozen=True)
        class Letter(Task):
            undo: str  # type: ignore[assignment]


def test_an_instance_may_differ_from_its_class() -> None:
    """What the class says is the default for all."""

    class Tuned(Task):
        retry = Retry(3)
        limits = Limit("api", 2)

        async def execute(self, a: int) -> int:
            return a

        async def revert(self, ctx: Context, a: int) -> None: ...

    tuned, plain = Tuned(retry=None, inject={"a": 3}), Tuned()
    tuned.ready()
    plain.ready()
    assert tuned.retry is None and plain.retry == Retry(3)
    assert plain.limits == (Limit("api", 2),) and plain.undo_wants.context and plain.undo_executor == "loop"
    assert perform(tuned) == 3 and perform(plain, {"a": 4}) == 4


def test_one_class_and_many_instances_share_what_they_want() -> None:
    """A hundred thousand tasks of one class are cheap."""
    one, other = Reserve(name="a"), Reserve(name="b")
    one.ready()
    other.ready()
    assert one.wants is other.wants


# --- provides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provides", "value", "missing"),
    [
        ("a", None, None),
        (("a", "b"), (1, 2), None),
        (("a", "b"), (1, 2, 3), None),
        (("a", "b"), (1,), "b"),
        (("a", "b"), None, "a"),
        ({"a", "b"}, {"a": 1, "b": 2}, None),
        ({"a", "b"}, {"a": 1}, "b"),
        ({"a": "x", "b": 0}, {"x": 1, 0: 2}, None),
        ({"a": "x"}, {"a": 1}, "a"),
        ({"a": "x"}, "text", "a"),
    ],
)
def test_a_value_without_a_promised_element_is_told(provides: Any, value: Any, missing: str | None) -> None:
    """The producer fails, and not the innocent consumer."""
    one = fetch.with_options(provides=provides)
    one.ready()
    assert one.promises is not isinstance(provides, str)
    assert one.missing_element(value) == missing


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def generator() -> Any:
    yield 1


async def plain(a: int) -> None: ...


@task
def with_pool(a: int, db: Any = resource()) -> None: ...  # noqa: B008


def with_context_last(a: int, ctx: Context) -> None: ...


class NoBody(Task): ...


def make_static() -> type:
    class Static(Task):
        @staticmethod
        def execute(a: int) -> None: ...

    return Static


def make_bad_class() -> type:
    class Bad(Task):
        timeout = -1

        def execute(self) -> None: ...

    return Bad


def make_selfless() -> type:
    class Selfless(Task):
        def execute() -> None: ...  # type: ignore[misc]

    return Selfless


def late_mistake() -> None:
    class Late(Task):
        def __init__(self) -> None:
            self.retry = 3  # type: ignore[assignment]

        def execute(self) -> None: ...

    linear("l", Late()).compile()


MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: task(3), "af.task was given 3, which is no function; options go by keyword"),  # type: ignore[call-overload]
    (lambda: task(Reserve), "@af.task is on class Reserve; make it a subclass of af.Task"),
    (lambda: task(fetch), r"<task 'fetch'> is a task already; use .with_options\(...\)"),
    (lambda: task(lambda: 1), r"<function .*lambda.* has no name to call a task by; say af.task\(name=...\)"),
    (lambda: task(functools.partial(print)), "has no name to call a task by"),
    (lambda: task(generator), "task 'generator' yields, and a task gives one value; return a list"),
    (
        lambda: task(with_context_last),
        "takes the context as 'ctx'; make it the first parameter",
    ),
    (lambda: task(name="a/b")(plain), "task name 'a/b' is unusable; give 1 to 200 printable characters without '/'"),
    (lambda: fetch.named(""), "task name '' is unusable"),
    (lambda: task(executor="thread")(plain), "task 'plain' is async and has executor=\"thread\"; leave executor out"),
    (lambda: measure.with_options(executor="loop"), 'no async def and has executor="loop"; say "inline"'),
    (lambda: fetch.with_options(executor=3), "has executor=3; give the name of an executor"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(retry=3), r"has retry=3; give a policy such as af.Retry\(3\)"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(timeout=0), "the timeout of task 'fetch' is 0; give seconds"),
    (lambda: fetch.with_options(revert_timeout=-1), "the revert_timeout of task 'fetch' is -1"),
    (lambda: fetch.with_options(on_crash="ignore"), "has on_crash='ignore'; give \"retry\""),  # type: ignore[arg-type]
    (lambda: fetch.with_options(checkpoint=1), "has checkpoint=1; give True or False"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(priority=1.5), "has priority=1.5; give a whole number"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(limits="api"), "has limits='api'; give limits such as af.Limit"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(version=1.0), "has version=1.0; give a string or a whole number"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(reconcile=3), "has reconcile=3; give a function"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(requiers=3), r"unknown option 'requiers' \(did you mean 'requires'\?\); options are"),  # type: ignore[call-arg]
    (lambda: fetch.with_options(provides=3), "has provides=3; give a name, a tuple of names"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(provides=("a", "a")), "provides a name twice"),
    (lambda: fetch.with_options(provides=("a", 3)), "provides 3; names are strings"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(requires=3), "has requires=3; give names, as in requires="),  # type: ignore[arg-type]
    (
        lambda: fetch.with_options(requires="page"),
        r"requires='page', which its parameters \(url, depth\) do not",
    ),
    (lambda: fetch.with_options(inject={"ulr": 1}), r"inject='ulr', .* \(did you mean 'url'\?\); name a parameter"),
    (lambda: fetch.with_options(inject=["url"]), "has inject=.*; give a mapping"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(rebind={"u": "x"}), "has rebind='u', which its parameters"),
    (lambda: fetch.with_options(rebind=["a", "b", "c"]), "for 2 parameters; give no more names"),
    (lambda: fetch.with_options(rebind="link"), r"has rebind='link'; give names in order of its .*rebind=\['link'\]"),
    (lambda: fetch.with_options(rebind={"url": "u"}, inject={"url": 1}), "injects 'url' and rebinds it to 'u'; leave"),
    (
        lambda: with_pool.with_options(rebind={"db": "pool"}),
        r"rebinds 'db', which is a resource, to 'pool'; write db=af.resource\(\"pool\"\) in its signature",
    ),
    (lambda: task(name="")(len), "task name '' is unusable"),
    (lambda: fetch.with_options(rebind={"url": 3}), "rebinds 'url' to 3; give the name of an input"),  # type: ignore[dict-item]
    (lambda: fetch.with_options(auto_extract=0), "has auto_extract=0; give True or False"),  # type: ignore[arg-type]
    (lambda: fetch.with_options(auto_extract=False), "has auto_extract=False and does not list parameter 'url'"),
    (lambda: resource(3), "the name of af.resource is 3; give a string"),  # type: ignore[arg-type]
    (lambda: NoBody(), r"NoBody has no execute\(\); subclass it and write one"),
    (lambda: Task(name="x"), r"Task has no execute\(\)"),
    (make_static, "Static.execute is a static or class method; write it as an ordinary method with self"),
    (make_bad_class, "the timeout of task class .*Bad is -1"),
    (make_selfless, "execute takes no self; write it as an ordinary method"),
    (late_mistake, r"task 'late' has retry=3; give a policy such as af.Retry\(3\)"),
]


@pytest.mark.parametrize(("make", "message"), MISTAKES)
def test_a_mistake_in_a_task_is_told_where_it_is_made(make: Callable[[], Any], message: str) -> None:
    """Bad declarations raise when they are made, never while a run is under way."""
    with pytest.raises(DeclarationError, match=message):
        make()


def test_a_revert_that_takes_what_no_input_is_called_is_refused() -> None:
    """Else it would fail when it is needed most."""

    @task
    def book(order: str) -> None: ...

    with pytest.raises(
        DeclarationError, match=r"takes 'ordr', which is no input of its task \(did you mean 'order'\?\)"
    ):

        @book.revert
        def unbook(ordr: str) -> None: ...

    with pytest.raises(DeclarationError, match="takes 'order' by position only"):

        @book.revert
        def unbook_too(order: str, /) -> None: ...

    @book.revert
    def undo(order: str) -> None: ...

    with pytest.raises(DeclarationError, match="task 'book' has two reverts; keep one"):
        book.revert(undo)


def test_a_task_called_outside_a_flow_says_what_to_call() -> None:
    """The first thing that everybody tries in a shell."""
    with pytest.raises(DeclarationError, match=r"task 'fetch' was called outside a flow; .* fetch.fn\(...\)"):
        fetch("x")
    with pytest.raises(DeclarationError, match=r"task 'reserve' was called outside a flow; .* execute\(...\)"):
        Reserve()("x")
