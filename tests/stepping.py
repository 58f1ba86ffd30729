"""Runs that are brought to a certain point and left there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncflow as af


async def up_to(
    engine: af.Engine, flow: Any, *due: str, inputs: Mapping[str, Any] | None = None, resume: bool = False
) -> None:
    """Run *flow* as run ``r`` in steps until one of *due* is due, and leave it there."""
    steps = engine.steps(flow, inputs, run_id="r", resume=resume)
    async for step in steps:
        if any(one in step.due for one in due):
            break
    await steps.aclose()
