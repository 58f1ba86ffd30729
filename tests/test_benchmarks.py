"""The benchmarks themselves: a guard that never fails, or a table with a wrong verdict, is worse than none."""

from __future__ import annotations

import asyncio
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import counted, guard, page, plot
from benchmarks.bench import Row, Yardstick
from benchmarks.peers import asyncflow as ours
from benchmarks.peers import by_hand, measure
from benchmarks.peers.__main__ import compare
from benchmarks.peers.workload import MEMORY


@pytest.mark.parametrize("case", counted.CASES)
def test_every_counted_case_can_be_done_several_times(case: str) -> None:
    """Each is done to warm up and again to be counted; one that only works once would count a failure."""

    async def twice() -> None:
        async with counted.CASES[case].prepare(3) as work:
            await work()
            await work()

    asyncio.run(twice())


def test_the_guard_fails_above_what_is_allowed_and_not_below() -> None:
    """Five percent are news where Python is the recorded one."""
    recorded = {"build": "this", "instructions": {"floor": 100, "chain": 1_000}}
    verdicts = guard.judge({"chain": 1_049.0}, recorded, "this")
    assert [one.is_kept for one in verdicts] == [True]
    verdicts = guard.judge({"chain": 1_051.0}, recorded, "this")
    assert [one.is_kept for one in verdicts] == [False]
    assert "TOO MUCH" in guard.table(verdicts, "instructions")


def test_the_guard_measures_another_build_by_the_floor() -> None:
    """A Python that was built without optimisation takes more for everything, which is not asyncflow's doing."""
    recorded = {"build": "this", "instructions": {"floor": 100, "chain": 1_000}}
    floor, chain = guard.judge({"floor": 200.0, "chain": 2_200.0}, recorded, "another")
    assert floor.is_kept and chain.is_kept
    _, chain = guard.judge({"floor": 100.0, "chain": 2_200.0}, recorded, "another")
    assert not chain.is_kept


def test_what_nobody_has_recorded_is_kept() -> None:
    """A new case must be counted once before anything can be expected of it."""
    (verdict,) = guard.judge({"chain": 5.0}, {}, "this")
    assert verdict.is_kept and "none" in guard.table([verdict], "instructions")


def test_every_counted_case_is_recorded_for_every_python() -> None:
    """A case without a figure is guarded by nobody."""
    for version, recorded in json.loads(guard.RECORDED.read_text()).items():
        assert set(recorded["instructions"]) == set(recorded["times"]) == set(counted.CASES), version


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.5, "missed"), (1.0, "reach"), (1.2, "reach"), (1.4, "must"), (1.6, "missed")]
)
def test_a_yardstick_has_two_ends(value: float, verdict: str) -> None:
    """Too few syncs are as wrong as too slow a task."""
    yardstick = Yardstick(1.5, 1.2, least=1.0)
    assert Row("q", "what", "us", value, value, yardstick=yardstick).verdict == verdict


def test_asyncflow_can_do_all_that_the_hand_written_runner_can() -> None:
    """It is measured on what a peer was measured on; what it lacks would be left out unseen."""
    offered = {(one.name, one.where, one.sizes) for one in ours.workloads()}
    assert {(one.name, one.where, one.sizes) for one in by_hand.workloads()} <= offered


@pytest.mark.parametrize("peer", [ours, by_hand])
def test_work_in_memory_can_be_measured(peer: object) -> None:
    """The same code measures peers that are not installed here."""
    for workload in peer.workloads():  # type: ignore[attr-defined]
        if workload.where == MEMORY:
            assert all(seconds > 0 for seconds in asyncio.run(measure.measure(workload, 2)))


def test_a_peer_that_cannot_be_installed_is_skipped_with_the_reason(tmp_path: Path) -> None:
    """One that is gone from the registry must not keep the others from being measured."""
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    found = compare("dask", nowhere, is_quick=True)
    assert found["rows"] == [] and "its environment cannot be made" in found["skipped"]


def test_plots_are_well_formed_and_name_what_they_show() -> None:
    """A page shows nothing at all for an SVG with a mistake in it."""
    bars = plot.log_bars("A & B", "us", {"one <1>": 3.0, "two": 20_000.0}, ours="two")
    lines = plot.log_lines("Sizes", "tasks", "us", {"a": [(10, 1.0), (1_000, 2.5)]})
    for drawn in (bars, lines):
        ET.fromstring(drawn)
    assert "one &lt;1&gt;" in bars and "20 ms" in bars


def test_every_marker_of_the_page_has_figures() -> None:
    """A question that is renamed would leave an old table on the page."""
    names = [name for found in page.MARKED.finditer(page.PAGE.read_text()) for name in found[2].split()]
    known = {"about", "peers", "profile", "instructions", "python3.11"}
    questions = {path.stem for path in (Path(page.__file__).parent / "questions").glob("*.py")} - {"__init__"}
    assert set(names) - known <= questions
    assert questions - set(names) == {"profile"} - set(names)
