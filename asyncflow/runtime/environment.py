"""What all runs of one engine share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from asyncflow.interfaces import Clock, Executor
from asyncflow.runtime.observe import Announcer
from asyncflow.runtime.permits import Pool


@attrs.frozen(kw_only=True, eq=False)
class Environment:
    """
    What a run finds around it.

    Attributes:
        keeps_bytes: Whether the journal keeps values as bytes, and not as the objects that they are.
        clock: The time.
        announcer: Those who watch.
        executors: What bodies may ask for by name; the engine fills it when it opens.
        pools: Permits that runs share, by name.
        resources: What bodies may ask for, by name.
        grace: Seconds that running bodies have when their run is suspended.
        cancel_grace: Seconds in which a body must give way to a cancel before it is left behind.
        hands_on_copies: Whether whoever reads a value gets one of their own.
    """

    keeps_bytes: bool
    clock: Clock
    announcer: Announcer
    executors: dict[str, Executor] = attrs.field(factory=dict, init=False)
    pools: dict[str, Pool]
    resources: Mapping[str, Any]
    grace: float
    cancel_grace: float
    hands_on_copies: bool
