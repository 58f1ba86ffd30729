"""Plans as Mermaid flowcharts."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asyncflow.formats import mermaid
from asyncflow.states import TaskState
from tests.formats.plans import SHIP, groups, make_plan

# Every line that a flowchart may have. Labels hold nothing that Mermaid could take for its own.
LABEL = r"(?:\w|[^\x00-\x7f°¶]|[ \-/]|\#\d+;)+(?:<br>[A-Z_]+)?"
GRAMMAR = re.compile(
    rf"""
    ---
    | title:\ "(?:\w|[^\x00-\x7f]|[\ \-/.]|\\u[0-9a-f]{{4}})*"
    | flowchart\ TD
    | \ +subgraph\ s\d+\["{LABEL}"\]
    | \ +end
    | \ +t\d+\["{LABEL}"\](?::::[a-z_]+)?
    | \ +g\d+\(\("\ "\)\)
    | \ +[tg]\d+\ -->\ [tg]\d+
    | \ +classDef\ [a-z_]+\ fill:\#[0-9a-f]{{6}},stroke:\#[0-9a-f]{{6}},color:\#111111
    """,
    re.VERBOSE,
)
SKELETON = re.compile(r'"[^"]*"')


def test_a_flow_is_drawn_with_its_nested_flows_and_edges() -> None:
    """The whole picture of a small flow, so that a change of it is seen and not only felt."""
    assert mermaid.render(SHIP) == (
        "---\n"
        'title: "ship"\n'
        "---\n"
        "flowchart TD\n"
        '    subgraph s1["prepare"]\n'
        '        t0["reserve"]\n'
        '        t1["label"]\n'
        "    end\n"
        '    t2["dispatch"]\n'
        "    t0 --> t2\n"
        "    t1 --> t2\n"
    )


def test_states_are_written_and_coloured() -> None:
    """Whoever cannot tell red from green must still see what failed."""
    drawn = mermaid.render(SHIP, {"prepare/reserve": TaskState.SUCCEEDED, "dispatch": TaskState.FAILED})
    assert '        t0["reserve<br>SUCCEEDED"]:::succeeded\n        t1["label"]\n' in drawn
    assert '    t2["dispatch<br>FAILED"]:::failed\n' in drawn
    assert re.findall(r"classDef (\w+)", drawn) == ["succeeded", "failed"]


@pytest.mark.parametrize("state", TaskState)
def test_every_state_has_a_colour(state: TaskState) -> None:
    """A state added later must not break the picture of a run that is in it."""
    drawn = mermaid.render(SHIP, {"dispatch": state})
    assert f"<br>{state.name}" in drawn and f"classDef {state.name.lower()} " in drawn


def test_a_gate_that_stays_is_a_small_circle() -> None:
    """Groups of 5,000 in sequence meet in one point and not in 25 million edges."""
    drawn = mermaid.render(groups(5_000, 5_000))
    assert '    g10000((" "))\n' in drawn
    assert drawn.count("-->") == 10_000


@pytest.mark.parametrize(
    "name",
    [
        'x"] --> evil["y',
        "x\nend\nclick t0 href javascript:alert(1)",
        '%%{init: {"securityLevel": "loose"}}%%',
        "`**bold**`",
        "- 1. list",
        "<img src=x onerror=alert(1)>",
        "<a =",
        "fa:fa-skull",
        "#quot;",
        "fl°°34¶ß",
        "---",
        "style:#35;",
        "\\u0022",
        "\u2028",
        "",
    ],
)
def test_a_hostile_name_cannot_break_out(name: str) -> None:
    """Names come from files and from users; a picture is pasted into pages that run scripts."""
    plan = make_plan(name, [(name, 1), ("tame", 0)], [(0, 1)], nested=[(name, 0)])
    tame = make_plan("tame", [("tame", 1), ("tame", 0)], [(0, 1)], nested=[("tame", 0)])
    drawn = mermaid.render(plan)
    assert SKELETON.sub('""', drawn) == SKELETON.sub('""', mermaid.render(tame))
    assert all(GRAMMAR.fullmatch(line) for line in drawn.splitlines())


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=12))
@example("\ud800")
def test_no_name_at_all_can_break_out(name: str) -> None:
    """The list above has what was thought of; this has the rest."""
    plan = make_plan(name, [(name, 1)], nested=[(name, 0)])
    drawn = mermaid.render(plan, {plan.path(0): TaskState.RUNNING})
    drawn.encode()
    assert [line for line in drawn.split("\n")[:-1] if not GRAMMAR.fullmatch(line)] == []


@pytest.mark.parametrize(("name", "label"), [("fetch_page", "fetch_page"), ("größe", "größe"), ("inc-2", "inc-2")])
def test_ordinary_names_stay_readable(name: str, label: str) -> None:
    """The text of a picture is read in reviews too, so names are not escaped without need."""
    assert f't0["{label}"]' in mermaid.render(make_plan("flow", [(name, 0)]))


def test_flows_nested_1000_deep_are_drawn() -> None:
    """Nesting is the user's, and must not meet the interpreter's recursion limit."""
    plan = make_plan("deep", [("leaf", 1_000)], nested=[(f"n{depth}", depth) for depth in range(1_000)])
    drawn = mermaid.render(plan)
    assert drawn.count("subgraph") == 1_000
    assert len(drawn) < 300_000, "indentation must not outgrow the flow"
