"""Builders and patterns: what they make, what they refuse, and how they are found again."""

# Mistakes are what these tests are about.
# pyright: reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow.errors import CycleError, DeclarationError, DuplicateName, FlowError, InputError
from asyncflow.graph.decorator import task
from asyncflow.graph.find import find_flow
from asyncflow.graph.flow import Flow, flow
from asyncflow.graph.pattern import as_flow, graph, linear, unordered
from asyncflow.graph.signature import UNKNOWN, resource
from asyncflow.graph.task import Task
from tests.graph.perform import edges, perform


@task
def inc(x: int) -> int:
    return x + 1


@task
def add(a: int, b: int) -> int:
    return a + b


@task(provides="page")
def fetch(url: str) -> str:
    return f"<{url}>"


@task(provides=("head", "body"))
def split(page: str) -> tuple[str, str]:
    return page[0], page[1:]


@flow
def twice(x: int) -> int:
    return inc(inc(x))


crawl = linear("crawl", fetch, split)


# --- Builders ---------------------------------------------------------------------------------------------------------


def test_a_builder_is_called_once_and_only_when_needed() -> None:
    """Declaring at import time must cost nothing, and a builder may be slow."""
    calls = []

    @flow
    def slow(x: int) -> int:
        calls.append(x)
        return inc(x)

    assert not calls
    first, second = slow.compile(), slow.named("other").compile()
    assert len(calls) == 1 and first is slow.compile() and second.flow == "other"


def test_flows_nest_in_builders_without_nesting_calls() -> None:
    """A thousand builders inside each other must not exhaust Python's stack."""
    inner: Any = twice
    for number in range(1000):

        def build(inner: Any, number: int) -> Any:
            @flow(name=f"level{number}")
            def level(x: int) -> Any:
                return inner(x)

            return level

        inner = build(inner, number)
    assert perform(inner, {"x": 1}) == 3
    assert inner.compile().path(0).count("/") == 1000


def test_a_second_unnamed_call_is_numbered() -> None:
    """Names are unique within a flow; a name that is given must be unique by itself."""

    @flow
    def sample(x: int) -> None:
        inc(x)
        inc(x)
        inc.named("inc-3")(x)
        inc(x)
        twice(x)
        twice(x)

    paths = [sample.compile().path(task) for task in range(sample.compile().size)]
    assert paths[:4] == ["inc", "inc-2", "inc-3", "inc-4"]
    assert paths[4:] == ["twice/inc", "twice/inc-2", "twice-2/inc", "twice-2/inc-2"]

    @flow
    def double(x: int) -> None:
        inc.named("one")(x)
        inc.named("one")(x)

    with pytest.raises(DuplicateName, match=r"flow 'double' has two tasks or flows named 'one'; .*\.named\(...\)"):
        double.compile()


def test_a_builder_has_defaults_and_resources() -> None:
    """Parameters with defaults are inputs that a run need not have."""

    @task
    def read(key: str, db: dict[str, int] = resource()) -> int:  # noqa: B008
        return db[key]

    @flow
    def sample(key: str = "a", table: Any = resource("db")) -> Any:  # noqa: B008
        return [read(key), read("b"), read("c", db=table)]

    plan = sample.compile()
    assert dict(sample.inputs) == {"key": str} and plan.required == frozenset() and plan.input_defaults == {"key": "a"}
    data = {"a": 1, "b": 2, "c": 3}
    assert perform(sample, resources={"db": data}) == [1, 2, 3]
    assert perform(sample, {"key": "c"}, resources={"db": data}) == [3, 2, 3]


def test_a_nested_builder_takes_its_own_default() -> None:
    """A default belongs to the flow that has it, at whatever depth."""

    @flow
    def inner(x: int = 5) -> int:
        return inc(x)

    @flow
    def outer() -> Any:
        return [inner(), inner(1)]

    assert perform(outer) == [6, 2]


def test_what_a_builder_returns_is_the_value() -> None:
    """One reference, a container of them, a parameter, or nothing."""

    @flow
    def nothing(x: int) -> None:
        inc(x)

    @flow
    def container(x: int) -> Any:
        return {"a": [inc(x)], "b": (x, 3)}

    assert perform(nothing, {"x": 1}) is None and nothing.compile().returns is None
    assert perform(container, {"x": 1}) == {"a": [2], "b": (1, 3)}
    assert dict(nothing.outputs) == {"return": type(None)}


BUILDER_MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: flow(inc), "@af.flow is on <task 'inc'>; put it on a plain function that calls tasks"),
    (lambda: flow(3), "af.flow was given 3, which is no function"),  # type: ignore[call-overload]
    (lambda: flow(_async), "flow '_async' is async or yields; a builder only wires tasks, so make it a plain def"),
    (lambda: flow(lambda *xs: 1), r"takes \*args or \*\*kwargs; its inputs need names"),
    (lambda: flow(name="a/b")(lambda x: x), "flow name 'a/b' is unusable"),
    (lambda: flow(timeout=-1)(lambda x: x), "the timeout of flow '<lambda>' is -1; give seconds"),
    (lambda: flow(concurrency=0)(lambda x: x), "the concurrency of flow '<lambda>' is 0; give a whole number"),
    (lambda: flow(provides=3)(lambda x: x), "flow '<lambda>' has provides=3"),  # type: ignore[call-overload]
    (lambda: flow(lambda x: inc()).compile(), "task 'inc' is called in flow '<lambda>' without 'x'; pass a reference"),
    (lambda: flow(lambda x: inc(x, x)).compile(), "task 'inc' is called with 2 positional arguments and takes 1"),
    (lambda: flow(lambda x: inc(y=x)).compile(), "task 'inc' is called with 'y', which it does not take"),
    (lambda: flow(lambda x: inc(x, x=x)).compile(), "is called with 'x' twice, by position and by keyword"),
    (lambda: flow(lambda x: inc.with_options(inject={"x": 1})(x)).compile(), "injects 'x', and the call gives it too"),
    (lambda: flow(lambda x: crawl(x)).compile(), "flow 'crawl' is called with positional arguments in flow '<lambda>'"),
    (
        lambda: flow(lambda x: crawl(ulr=x)).compile(),
        "flow 'crawl' is called in flow '<lambda>' with 'ulr', and 'crawl/fetch' needs 'url'; pass url=...",
    ),
    (
        lambda: flow(lambda x: crawl(url=x)["pgae"]).compile(),
        r"selects 'pgae' from a flow that provides 'page', 'head'",
    ),
    (lambda: flow(lambda x: _returns_list()[7]).compile(), "selects 7 from a list of 2, which lacks it"),
    (lambda: twice(1), r"flow 'twice' was called outside a flow; .* engine.run\(twice\) runs it"),
    (lambda: as_flow(3), "3 is neither a flow nor a task; give a flow or a task"),
    (lambda: as_flow(_async), "is neither a flow nor a task; decorate it with @af.flow or @af.task"),
    (lambda: crawl.target(), "has targets .*; give names or paths of its tasks"),
    (lambda: crawl.target("ftech").compile(), r"has no task or flow 'ftech' to aim at \(did you mean 'fetch'\?\)"),
    (lambda: linear("l", crawl.target("fetch")).compile(), "flow 'crawl' within flow 'l' has targets; put the whole"),
]


async def _async(x: int) -> None: ...


@flow
def _returns_list() -> Any:
    return [inc(1), inc(2)]


@pytest.mark.parametrize(("make", "message"), BUILDER_MISTAKES)
def test_a_mistake_in_a_builder_is_told_before_anything_runs(make: Callable[[], Any], message: str) -> None:
    """The flow, the thing in it, what was found and what to do."""
    with pytest.raises(DeclarationError, match=message):
        make()


def test_a_flow_that_contains_itself_is_named() -> None:
    """Else compiling would never end."""
    outer = linear("outer")
    outer.add(linear("inner").add(outer))
    with pytest.raises(CycleError, match="flow 'outer' contains itself: outer -> inner -> outer"):
        outer.compile()

    @flow
    def loop(x: int) -> Any:
        return loop.named("again")(x)

    with pytest.raises(CycleError, match="flow 'again' contains itself: loop -> again"):
        loop.compile()


# --- Patterns ---------------------------------------------------------------------------------------------------------


class Label(Task):
    provides = "label"

    def execute(self, page: str) -> str:
        return page.upper()


PATTERN_MISTAKES: list[tuple[Callable[[], Any], str]] = [
    (lambda: linear("l", fetch, fetch), r"flow 'l' has two tasks or flows named 'fetch'; give one another name"),
    (lambda: linear("l", Label), r"flow 'l' was given <class .*, a class; make a task of it: Label\(\)"),
    (lambda: linear("l", fetch.fn), "a bare function; decorate it with @af.task"),
    (lambda: linear("l", [fetch]), r"flow 'l' was given a list; give its items with a star: \*items"),
    (lambda: linear("l", 3), "flow 'l' was given 3; give tasks and flows"),
    (lambda: linear("a/b"), "flow name 'a/b' is unusable"),
    (
        lambda: linear("l", fetch).add(split, pgae="x"),
        r"flow 'l' gives 'pgae' to 'split', .* \(did you mean 'page'\?\)",
    ),
    (lambda: linear("l", fetch).add(twice, y=1), "flow 'l' gives 'y' to 'twice', which does not take it"),
    (lambda: linear("l").add(crawl, ulr=1).compile(), "gives 'ulr' to flow 'crawl', in which nothing reads it"),
    (lambda: linear("l", fetch).link("fetch", "fetch"), "flow 'l' is linear and takes no links; make it an af.graph"),
    (lambda: graph("g", fetch).link(fetch, fetch), "flow 'g' links 'fetch' to itself"),
    (lambda: graph("g", fetch).link(fetch, split), "flow 'g' does not contain <task 'split'>; add it before linking"),
    (lambda: graph("g", fetch).link("ftech", fetch), r"has no item 'ftech' to link \(did you mean 'fetch'\?\)"),
    (lambda: flow(lambda x: linear("l", inc(x))).compile(), "flow 'l' was given a reference; give the task itself"),
    (lambda: flow(lambda x: linear("l").add(inc, x=x)).compile(), "flow 'l' was given a reference for 'inc'"),
]


@pytest.mark.parametrize(("make", "message"), PATTERN_MISTAKES)
def test_a_mistake_in_a_pattern_is_told_at_once_where_it_can_be(make: Callable[[], Any], message: str) -> None:
    """Adding is validated when it is done."""
    with pytest.raises(DeclarationError, match=message):
        make()


def test_a_plan_is_made_anew_only_when_something_in_it_changed() -> None:
    """Engines compile at each run, so it must cost nothing, and a change deep inside must not be missed."""
    inner = unordered("inner", fetch)
    outer = linear("outer", inner)
    first = outer.compile()
    unordered("unrelated", fetch)
    assert outer.compile() is first
    inner.add(inc)
    second = outer.compile()
    assert second is not first and second.size == 2 and outer.compile() is second


def test_a_copy_of_a_pattern_changes_on_its_own() -> None:
    """A library's flow can be extended without changing it for everybody."""
    copied = crawl.named("copy").add(Label())
    assert copied.compile().size == 3 and crawl.compile().size == 2


def test_a_single_task_is_a_flow_with_its_value() -> None:
    """engine.run(task) gives what the task gives."""
    assert perform(inc, {"x": 3}) == 4 and as_flow(inc) is as_flow(inc)
    assert perform(inc.named("other"), {"x": 4}) == 5 and as_flow(inc.named("other")).name == "other"
    assert perform(fetch, {"url": "u"}) == "<u>" and dict(as_flow(fetch).outputs) == {"page": str}


def test_a_flow_tells_what_it_needs_and_gives() -> None:
    """With types, for command lines and pages that fill them in."""
    assert dict(crawl.inputs) == {"url": str}
    assert dict(crawl.outputs) == {"page": str, "head": str, "body": str}
    assert dict(twice.inputs) == {"x": int} and dict(twice.outputs) == {"return": int}
    named = flow(provides=("a", "b"))(lambda x: (inc(x), x))
    assert dict(named.outputs) == {"a": int, "b": UNKNOWN}


# --- Inputs of a run --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "given", "message"),
    [
        (crawl, {}, "flow 'crawl' needs input 'url' for task 'fetch', which nothing in it provides; pass {'url'"),
        (
            crawl,
            {"ulr": 1},
            r"neither requires nor provides input 'ulr' \(did you mean 'url'\?\); its inputs are: 'url'",
        ),
        (unordered("u", add), {}, "flow 'u' needs inputs 'a' for task 'add', 'b' for task 'add', which nothing"),
        (twice, {"x": 1, "y": 2}, "flow 'twice' neither requires nor provides input 'y'"),
    ],
)
def test_a_run_with_wrong_inputs_is_refused(sample: Flow[..., Any], given: dict[str, Any], message: str) -> None:
    """Before the run exists, so nothing is lost."""
    with pytest.raises(InputError, match=message):
        sample.compile().check_inputs(given)


def test_a_value_given_to_the_run_beats_a_provider() -> None:
    """To run half of a flow on a value from yesterday."""
    assert perform(crawl, {"url": "u", "page": "given"})["head"] == "g"


def test_a_resource_may_stand_in_for_an_input_by_name() -> None:
    """A class task names a pool like any other input."""

    class Save(Task):
        provides = "saved"

        def execute(self, page: str, db: list[str]) -> int:
            db.append(page)
            return len(db)

    save = linear("save", fetch, Save())
    rows: list[str] = []
    assert perform(save, {"url": "u"}, resources={"db": rows})["saved"] == 1 and rows == ["<u>"]
    with pytest.raises(InputError, match="needs input 'db'"):
        save.compile().check_inputs({"url": "u"}, ["pool"])


# --- Finding a flow again ---------------------------------------------------------------------------------------------


def test_a_flow_of_a_module_is_found_again_by_its_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is resumed by a process that knows nothing but the journal."""
    (tmp_path / "shop_flows.py").write_text(
        "from asyncflow.graph.flow import flow\nfrom asyncflow.graph.pattern import linear\n"
        "from asyncflow.graph.decorator import task\n"
        "@task\ndef inc(x): return x + 1\n@flow\ndef run(x): return inc(x)\npattern = linear('p', inc)\n"
        "def make(): return linear('made', inc)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import shop_flows  # type: ignore[import-not-found]

    assert shop_flows.run.ref == "shop_flows:run" and shop_flows.pattern.ref == "shop_flows:pattern"
    assert find_flow("shop_flows:run") is shop_flows.run
    assert shop_flows.make().ref is None and crawl.named("x").ref is None


def test_a_flow_of_a_script_is_recorded_by_its_path(tmp_path: Path) -> None:
    """`python job.py` is how most jobs are run."""
    script = tmp_path / "job.py"
    script.write_text(
        "from asyncflow.graph.flow import flow\nfrom asyncflow.graph.decorator import task\n"
        "@task\ndef inc(x): return x + 1\n@flow\ndef run(x): return inc(x)\n"
        "if __name__ == '__main__': print(run.ref)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)}
    )
    assert done.stdout.strip() == f"{script.resolve()}:run"
    assert perform(find_flow(done.stdout.strip()), {"x": 1}) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems let no file be named so")
def test_a_flow_of_a_script_whose_name_is_no_text_runs_and_has_no_reference(tmp_path: Path) -> None:
    """A journal keeps texts, and must not refuse every run for the name of a file."""
    script = tmp_path / os.fsdecode(b"job-\xff.py")
    script.write_text(
        "import asyncio, sys\nimport asyncflow as af\n"
        "@af.task\ndef inc(x: int) -> int: return x + 1\n@af.flow\ndef run(x: int) -> int: return inc(x)\n"
        "async def main():\n"
        "    async with af.Engine(sys.argv[1]) as engine: print(await engine.run(run, {'x': 1}), run.ref)\n"
        "asyncio.run(main())\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "runs.db")],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root)},
    )
    assert done.stdout.strip() == "2 None"


def test_a_pattern_in_a_builder_gives_its_mapping() -> None:
    """Called by keyword; single names are taken straight from the task that provides them."""

    @flow
    def sample(url: str) -> Any:
        page = crawl(url=url)
        return [page["head"], page]

    plan = sample.compile()
    head, whole = perform(sample, {"url": "u"})
    assert head == "<" and whole == {"page": "<u>", "head": "<", "body": "u>"}
    assert edges(plan) == {("crawl/fetch", "crawl/split")}


def test_errors_carry_what_they_mention() -> None:
    """Code need not read prose."""
    with pytest.raises(FlowError) as caught:
        linear("l", fetch, fetch)
    assert (caught.value.flow, caught.value.task) == ("l", "fetch")
