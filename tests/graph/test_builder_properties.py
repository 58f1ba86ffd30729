"""Random builders: a flow gives what its functions give when they are simply called."""

from __future__ import annotations

from typing import Any

import attrs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncflow.graph import record as recorded
from asyncflow.graph.flow import Flow, flow
from asyncflow.graph.pattern import linear
from asyncflow.graph.task import FunctionTask
from tests.graph.perform import perform

# A step makes one value of earlier ones; an index may point behind the end, and is then taken from the start.
Index = st.integers(0, 30)
Argument = st.recursive(
    st.one_of(Index.map(lambda at: ("ref", at)), st.integers(0, 9).map(lambda value: ("constant", value))),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: ("list", parts)),
        st.lists(inner, max_size=3).map(lambda parts: ("tuple", parts)),
        st.dictionaries(st.sampled_from("pqr"), inner, max_size=2).map(lambda parts: ("dict", parts)),
    ),
    max_leaves=4,
)


@attrs.define
class Step:
    """A call of a task, of a nested builder, or of a pattern; or a selection."""

    kind: str
    arguments: list[Any]
    keyword: Any
    inner: Program | None


@attrs.define
class Program:
    """The body of a builder with two parameters."""

    steps: list[Step]
    result: Any


def programs(depth: int) -> st.SearchStrategy[Program]:
    kinds = ["task", "task", "select", "pattern"] + (["flow"] if depth else [])
    inner = programs(depth - 1) if depth else st.none()
    step = st.builds(
        Step, st.sampled_from(kinds), st.lists(Argument, min_size=1, max_size=3), st.none() | Argument, inner
    )
    return st.builds(Program, st.lists(step, max_size=6), Argument)


def combine(*args: Any, extra: Any = None) -> Any:
    return ["combined", list(args), extra]


def wrap(value: Any) -> dict[str, Any]:
    return {"value": value, "fixed": 1}


class Calls:
    """How a program's calls are made: recorded in a builder, or at once."""

    def __init__(self, *, at_once: bool) -> None:
        self._at_once = at_once
        self._task = FunctionTask(combine, name="combine", executor="inline")
        box = FunctionTask(wrap, name="box", provides={"boxed": "value", "one": "fixed"}, executor="inline")
        copy = FunctionTask(lambda boxed: boxed, name="copy", provides="copied", executor="inline")
        self._pattern = linear("boxes", box, copy)

    def combine(self, args: list[Any], extra: Any) -> Any:
        if self._at_once:
            return combine(*args, extra=extra)
        return self._task(*args) if extra is None else self._task(*args, extra=extra)

    def boxes(self, value: Any) -> Any:
        return {"boxed": value, "one": 1, "copied": value} if self._at_once else self._pattern(value=value)

    def inner(self, program: Program, first: Any, second: Any) -> Any:
        return self.run(program, first, second) if self._at_once else self.flow(program)(first, second)

    def flow(self, program: Program) -> Flow[..., Any]:
        @flow(name="inner")
        def build(first: Any, second: Any = "default") -> Any:
            return self.run(program, first, second)

        return build

    def run(self, program: Program, first: Any, second: Any) -> Any:
        values: list[Any] = [first, second]

        def argument(spec: Any) -> Any:
            kind, content = spec
            if kind == "ref":
                return values[content % len(values)]
            if kind == "constant":
                return content
            if kind == "dict":
                return {key: argument(part) for key, part in content.items()}
            parts = [argument(part) for part in content]
            return parts if kind == "list" else tuple(parts)

        for step in program.steps:
            args = [argument(spec) for spec in step.arguments]
            if step.kind == "task":
                values.append(self.combine(args, None if step.keyword is None else argument(step.keyword)))
            elif step.kind == "pattern":
                whole = self.boxes(args[0])
                values.extend([whole, whole["copied"]])
            elif step.kind == "select":
                values.append(self.combine(args, None)[1])
            else:
                assert step.inner is not None
                values.append(self.inner(step.inner, args[0], args[-1]))
        return argument(program.result)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(2))
def test_a_flow_gives_what_its_functions_give(program: Program) -> None:
    """References, containers, selections, nested builders and patterns: wiring must not change a value."""
    expected = Calls(at_once=True).run(program, "one", "two")
    sample = Calls(at_once=False).flow(program)
    inputs = {"first": "one", "second": "two"}
    assert perform(sample, inputs) == expected
    assert perform(sample, inputs, backwards=True) == expected
    again = Calls(at_once=False).flow(program)
    assert recorded.digest_of(again.compile()) == recorded.digest_of(sample.compile())
    back = recorded.decode(recorded.body_of(sample.compile()))
    assert back.size == sample.compile().size
