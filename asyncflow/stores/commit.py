"""
One commit of what many runs append, made by a single call: in the connection's thread, or on the loop.

A trip there and back costs as much as a record does once it is there, about 25 us, so everything that a commit needs is
done in one. And whenever SQLite is left, the thread waits until the loop lets go of Python's interpreter lock: so all
records of a batch are one statement, and none of its statements gives back rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from asyncflow.states import RunState
from asyncflow.stores.database import LendableConnection, transaction
from asyncflow.stores.line import Append, Line
from asyncflow.stores.seal import seal_plan, seal_record, seal_run

# One that is there is named by what is in it, so it differs only if it is damaged; this mends it. Its own name is
# looked at too, since an index that is damaged may lead to another.
KEEP_BLOB = (
    "INSERT INTO blobs(digest, body) VALUES (?, ?) ON CONFLICT(digest) "
    "DO UPDATE SET body = excluded.body WHERE digest = excluded.digest AND body IS NOT excluded.body"
)
USE_BLOB = "INSERT INTO uses(run, blob) SELECT ?, key FROM blobs WHERE digest = ? ON CONFLICT DO NOTHING"
KEEP_PLAN = (
    "INSERT INTO plans(digest, body, checksum) VALUES (?, ?, ?) ON CONFLICT(digest) "
    "DO UPDATE SET body = excluded.body, checksum = excluded.checksum WHERE digest = excluded.digest "
    "AND (body IS NOT excluded.body OR checksum IS NOT excluded.checksum)"
)
HAS_PLAN = "SELECT 1 FROM plans WHERE digest = ?"
# Only of runs that are still ours: what was asked of one that was overtaken is for its new owner to hear.
FORGET = """
    DELETE FROM requests WHERE key IN (SELECT value FROM json_each(?))
    AND EXISTS (SELECT 1 FROM runs AS r WHERE r.key = requests.run AND r.owner = ?)
"""

# CROSS JOIN fixes the order of the loops: for each row given, look its run up. Padding joins nothing.
_INSERT_RECORDS = (
    "INSERT INTO records(run, number, at, body, checksum, state) "
    "SELECT v.column1, v.column2, v.column3, v.column4, v.column5, v.column6 "
    "FROM (VALUES {rows}) AS v CROSS JOIN runs AS r ON r.key = v.column1 AND r.epoch = v.column7"
)
_RECORD_COLUMNS = 7
_CREATE_RUNS = (
    "INSERT INTO runs(key, id, flow, flow_ref, plan, state, durability, owner, epoch, created, seal, records, last) "
    "SELECT *, 0, 0 FROM (VALUES {rows}) AS v WHERE v.column1 IS NOT NULL ON CONFLICT(id) DO NOTHING"
)
_RUN_COLUMNS = 11
# Ours and under our epoch, so a run that was overtaken stays with who has it now.
_RELEASE_RUNS = (
    "UPDATE runs SET owner = NULL FROM (VALUES {rows}) AS v "
    "WHERE runs.key = v.column1 AND runs.epoch = v.column2 AND runs.owner = v.column3"
)
_RELEASE_COLUMNS = 3
# The last key that was ever given to a run, be it there or not.
_LAST_KEY = "SELECT seq FROM sqlite_sequence WHERE name = 'runs'"


def write(
    connection: LendableConnection,
    appends: Sequence[Append],
    releases: Sequence[Line],
    heard: Sequence[int],
    owner: int,
    level: str | None,
    is_again: bool = False,
) -> set[Append]:
    """
    Make the runs exist that are to be created, add all records, and give up runs; all of it or, if it raises, nothing.

    Args:
        connection: Nobody else uses it meanwhile.
        appends: Records, in the order of their runs' journals.
        releases: Runs to be given up.
        heard: Requests to be forgotten, which those runs have heard.
        owner: Ourselves.
        level: What sets the level of syncing, if it is to change.
        is_again: Whether all of this may be there already, since the first try was interrupted.

    Returns:
        The appends that do not fit what is there, and are not: of runs whose id is taken (their key is 0 then), and of
        runs that have another epoch by now.
    """
    if level is not None:
        connection.execute(level)
    if is_again:
        appends = [append for append in appends if not _is_there(connection, append, owner)]
    if len(appends) == 1 and not releases and appends[0].creation is None and not appends[0].blobs:
        # A statement by itself is a transaction, and what it has changed tells whether the only record was taken.
        return set() if _insert(connection, appends) else set(appends)
    with transaction(connection):
        refused = _create(connection, [append for append in appends if append.creation is not None], owner)
        refused |= _keep(connection, [append for append in appends if append not in refused] if refused else appends)
        if heard:
            connection.execute(FORGET, (json.dumps(heard), owner))
        if releases:
            _release(connection, releases, owner)
    return refused


def adopt_plan(
    connection: LendableConnection, digest: str, body: bytes | None, body_again: Callable[[], bytes], run_id: str
) -> None:
    """
    Keep a recorded plan for as long as the run is kept; *body* is None where the file has it, and *body_again* gives it
    should it have been purged meanwhile.
    """
    # Together: a plan that is there may be purged with the last run that is known to use it.
    with transaction(connection):
        _keep_plan(connection, digest, body, body_again)
        connection.execute(
            "INSERT INTO adoptions(run, plan) SELECT key, ? FROM runs WHERE id = ? ON CONFLICT DO NOTHING",
            (digest, run_id),
        )


def _is_there(connection: LendableConnection, append: Append, owner: int) -> bool:
    line = append.line
    # A key that was given out and rolled back may be another's by now.
    sql = (
        "SELECT 1 FROM records AS c JOIN runs AS r ON r.key = c.run "
        "WHERE c.run = ? AND c.number = ? AND r.id = ? AND r.epoch = ? AND r.owner = ?"
    )
    return bool(connection.execute(sql, (line.key, append.number, line.run_id, line.epoch, owner)).fetchall())


def _create(connection: LendableConnection, creations: Sequence[Append], owner: int) -> set[Append]:
    if not creations:
        return set()
    # Keys are given out here: to ask for those that SQLite would give is a row a run.
    [(last,)] = connection.execute(_LAST_KEY).fetchall() or [(0,)]
    rows: list[Any] = []
    for key, append in enumerate(creations, last + 1):
        line, creation = append.line, append.creation
        assert creation is not None
        line.key, new = key, creation.new
        rows += (key, new.run_id, new.flow, new.flow_ref, new.plan, RunState.RUNNING.value, new.durability)
        rows += (owner, line.epoch, append.at)
        rows.append(seal_run(new.run_id, new.flow, new.flow_ref, new.plan, new.durability, float(append.at)))
    refused: set[Append] = set()
    if _execute_multiple(connection, _CREATE_RUNS, _RUN_COLUMNS, rows) < len(creations):
        # Of two that were started under one id at once, the first has it.
        for append in creations:
            if not connection.execute("SELECT 1 FROM runs WHERE key = ?", (append.line.key,)).fetchall():
                append.line.key = 0
                refused.add(append)
    kept = [append.creation for append in creations if append.creation is not None and append not in refused]
    for each in {creation.new.plan: creation for creation in kept}.values():
        _keep_plan(connection, each.new.plan, each.plan, each.plan_again)
    return refused


def _keep_plan(
    connection: LendableConnection, digest: str, body: bytes | None, body_again: Callable[[], bytes]
) -> None:
    if body is None and not connection.execute(HAS_PLAN, (digest,)).fetchall():
        body = body_again()
    if body is not None:
        connection.execute(KEEP_PLAN, (digest, body, seal_plan(digest, body)))


def _keep(connection: LendableConnection, appends: Sequence[Append]) -> set[Append]:
    refused: set[Append] = set()
    if appends and _insert(connection, appends) < len(appends):
        for append in appends:
            here = (append.line.key, append.line.epoch)
            if not connection.execute("SELECT 1 FROM runs WHERE key = ? AND epoch = ?", here).fetchall():
                refused.add(append)
    for append in appends:
        if append.blobs and append not in refused:
            for digest, body in append.blobs.items():
                connection.execute(KEEP_BLOB, (digest, body))
                connection.execute(USE_BLOB, (append.line.key, digest))
    return refused


def _insert(connection: LendableConnection, appends: Sequence[Append]) -> int:
    """Add records to those of their runs that have the epoch under which they were claimed; return how many were."""
    rows: list[Any] = []
    for append in appends:
        line, number, at, body, state = append.line, append.number, append.at, append.body, append.state
        key = line.key
        rows += (key, number, at, body, seal_record(key, number, at, state, body), state, line.epoch)
    return _execute_multiple(connection, _INSERT_RECORDS, _RECORD_COLUMNS, rows)


def _release(connection: LendableConnection, lines: Sequence[Line], owner: int) -> None:
    rows = [part for line in lines for part in (line.key, line.epoch, owner)]
    _execute_multiple(connection, _RELEASE_RUNS, _RELEASE_COLUMNS, rows)


_statements: dict[tuple[str, int], str] = {}


def _execute_multiple(connection: LendableConnection, template: str, columns: int, parameters: list[Any]) -> int:
    """
    Execute the statement for as many rows as there are *parameters* for, and return how many rows it changed.

    Statements come in powers of two only, so that SQLite has each prepared already; the rest is padding.
    """
    count = len(parameters) // columns
    rows = 1 << (count - 1).bit_length()
    sql = _statements.get((template, rows))
    if sql is None:
        row = f"({', '.join('?' * columns)})"
        sql = _statements[template, rows] = template.format(rows=", ".join([row] * rows))
    if rows > count:
        parameters += [None] * ((rows - count) * columns)
    changed: int = connection.execute(sql, parameters).rowcount
    return changed
