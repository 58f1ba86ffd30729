"""All that a store has of one run, read once: its line of the listing, its records, and the plans that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from asyncflow import messages as m
from asyncflow.graph import record as recorded
from asyncflow.graph.plan import Plan
from asyncflow.interfaces import RunInfo, Store
from asyncflow.machine.replay import plans_named


@attrs.frozen
class Transcript:
    """One run as it was when it was read; ``plans`` is by content hash, in the order in which they came in force."""

    info: RunInfo
    records: Sequence[m.Record]
    plans: Mapping[str, Plan]


async def transcript_of(store: Store, run_id: str) -> Transcript:
    """
    Return what *store* has of a run.

    Raises:
        RunNotFound: It has no such run.
        CorruptRecord: What it has is damaged.
    """
    info = await store.info(run_id)
    records = await store.read(run_id)
    plans = {name: recorded.decode(await store.plan(name)) for name in dict.fromkeys(plans_named(records))}
    return Transcript(info, records, plans)
