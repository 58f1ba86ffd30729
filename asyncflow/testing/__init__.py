"""
For tests: of asyncflow, of stores of your own, and of your flows.

- ``survive``: :func:`assert_survives` and :func:`assert_reverts` (and :func:`survive` and :func:`revert_survey` for
  plain tests): your flow under every crash, every cancel and many orders
- ``world``: :class:`World`, in which a flow runs as one :class:`Case` says, and how it ended: :class:`Ending`
- ``loop``: :class:`SeededLoop`, whose time is virtual and whose order a seed decides
- ``disk``: :class:`Disk`, which is not there, outlives simulated processes and fails where it is told to
- ``invariants``: what must be true of every journal
- ``stores``: what every store must do, as a suite of checks

The pytest plugin is the module ``pytest_asyncflow``, beside this package.
"""

from __future__ import annotations

from asyncflow.testing.disk import Disk, SimulatedStore
from asyncflow.testing.invariants import check_invariants
from asyncflow.testing.loop import Deadlock, LoopClock, SeededLoop, run_virtual
from asyncflow.testing.survive import (
    DoesNotSurvive,
    FailedOnPurpose,
    Survey,
    assert_reverts,
    assert_survives,
    revert_survey,
    survive,
)
from asyncflow.testing.world import Case, Ending, World, WorldEngine

__all__ = [
    "assert_survives",
    "assert_reverts",
    "survive",
    "revert_survey",
    "DoesNotSurvive",
    "FailedOnPurpose",
    "Survey",
    "World",
    "Case",
    "Ending",
    "WorldEngine",
    "SeededLoop",
    "LoopClock",
    "run_virtual",
    "Deadlock",
    "Disk",
    "SimulatedStore",
    "check_invariants",
]
