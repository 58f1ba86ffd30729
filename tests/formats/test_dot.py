"""Plans in the language of Graphviz."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncflow.formats import dot
from asyncflow.states import TaskState
from tests.formats.plans import SHIP, groups, make_plan

# A quoted string as Graphviz reads it: a backslash takes the character after it along.
QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def test_a_flow_is_drawn_with_its_nested_flows_and_edges() -> None:
    """The whole picture of a small flow, so that a change of it is seen and not only felt."""
    assert dot.render(SHIP) == (
        "digraph {\n"
        '    label="ship"\n'
        "    labelloc=t\n"
        '    node [shape=box, style="rounded,filled", fillcolor="#ffffff"]\n'
        "    subgraph cluster_1 {\n"
        '        label="prepare"\n'
        '        t0 [label="reserve"]\n'
        '        t1 [label="label"]\n'
        "    }\n"
        '    t2 [label="dispatch"]\n'
        "    t0 -> t2\n"
        "    t1 -> t2\n"
        "}\n"
    )


@pytest.mark.parametrize("state", TaskState)
def test_every_state_is_written_and_coloured(state: TaskState) -> None:
    """Whoever cannot tell red from green must still see what failed."""
    drawn = dot.render(SHIP, {"prepare/label": state})
    assert re.search(rf't1 \[label="label\\n{state.name}", fillcolor="#[0-9a-f]{{6}}"\]', drawn)
    assert '        t0 [label="reserve"]\n' in drawn


def test_a_gate_that_stays_is_a_point() -> None:
    """Groups of 5,000 in sequence meet in one point and not in 25 million edges."""
    drawn = dot.render(groups(5_000, 5_000))
    assert '    g10000 [shape=point, label=""]\n' in drawn
    assert drawn.count("->") == 10_000


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ('say "hi"', r'"say \"hi\""'),
        ("back\\", r'"back\\"'),
        ("\\N", r'"\\N"'),
        ("a\nb", r'"a\\nb"'),
        ("&lt;", '"&amp;lt;"'),
        ("<b>", '"<b>"'),
        ("größe", '"größe"'),
    ],
)
def test_a_name_is_shown_as_it_is(name: str, label: str) -> None:
    """Graphviz replaces some of what stands between quotes, and a reader should see the task's own name."""
    assert f"    t0 [label={label}]\n" in dot.render(make_plan("flow", [(name, 0)]))


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=12))
@example('"]; evil [label="')
@example('\\"')
@example("\\")
@example("\x00")
@example("\ud800")
def test_no_name_can_break_out(name: str) -> None:
    """Names come from files and from users, and a picture must show them, never obey them."""
    plan = make_plan(name, [(name, 1)], nested=[(name, 0)])
    drawn = dot.render(plan, {plan.path(0): TaskState.RUNNING})
    tame = dot.render(make_plan("tame", [("tame", 1)], nested=[("tame", 0)]), {"tame/tame": TaskState.RUNNING})
    drawn.encode()
    assert drawn.replace("\n", "").isprintable()
    assert QUOTED.sub('""', drawn) == QUOTED.sub('""', tame)


def test_flows_nested_1000_deep_are_drawn() -> None:
    """Nesting is the user's, and must not meet the interpreter's recursion limit."""
    plan = make_plan("deep", [("leaf", 1_000)], nested=[(f"n{depth}", depth) for depth in range(1_000)])
    drawn = dot.render(plan)
    assert drawn.count("subgraph") == drawn.count("}") - 1 == 1_000
    assert len(drawn) < 400_000, "indentation must not outgrow the flow"
