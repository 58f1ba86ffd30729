"""
What is in the file, and how an older file becomes today's.

A journal is an SQLite database that bears our application id in its header, so that a file which is not ours is refused
by its first page alone, and is never changed. Its ``user_version`` counts the steps below that it has taken.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from asyncflow.errors import NotAJournal, SchemaTooNew, StoreError
from asyncflow.stores.database import LendableConnection, in_plain_words, not_sqlite, transaction
from asyncflow.stores.owners import SUFFIX

APPLICATION_ID = 0x61666C77
"""The letters ``aflw``, in the place that SQLite keeps for it."""

STEPS: tuple[tuple[str, ...], ...] = (
    (
        # AUTOINCREMENT: a key is never used again, so what belongs to a purged run can never turn up in another.
        """CREATE TABLE runs(
            key INTEGER PRIMARY KEY AUTOINCREMENT,
            id TEXT NOT NULL UNIQUE,
            flow TEXT NOT NULL,
            flow_ref TEXT,
            plan TEXT NOT NULL,
            state TEXT NOT NULL,
            durability TEXT NOT NULL,
            owner INTEGER,
            epoch INTEGER NOT NULL,
            created REAL NOT NULL,
            seal INTEGER NOT NULL,
            records INTEGER NOT NULL,
            last INTEGER NOT NULL
        )""",
        "CREATE INDEX runs_owned ON runs(owner) WHERE owner IS NOT NULL",
        # The state is given where it has changed.
        """CREATE TABLE records(
            run INTEGER NOT NULL,
            number INTEGER NOT NULL,
            at REAL NOT NULL,
            body BLOB NOT NULL,
            checksum INTEGER NOT NULL,
            state TEXT,
            PRIMARY KEY(run, number)
        ) WITHOUT ROWID""",
        # In the statement that appends, so that a run and its records cannot disagree, and one that is lost is missed.
        """CREATE TRIGGER records_tell_run AFTER INSERT ON records BEGIN
            UPDATE runs SET records = new.number + 1, last = new.checksum, state = coalesce(new.state, state)
            WHERE key = new.run;
        END""",
        "CREATE TABLE plans(digest TEXT PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL)",
        "CREATE TABLE blobs(key INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, body BLOB NOT NULL)",
        "CREATE TABLE uses(run INTEGER NOT NULL, blob INTEGER NOT NULL, PRIMARY KEY(run, blob)) WITHOUT ROWID",
        """CREATE TABLE owners(
            key INTEGER PRIMARY KEY AUTOINCREMENT,
            host TEXT NOT NULL,
            pid INTEGER NOT NULL,
            beat INTEGER NOT NULL,
            started REAL NOT NULL
        )""",
        """CREATE TABLE requests(
            key INTEGER PRIMARY KEY AUTOINCREMENT,
            run INTEGER NOT NULL,
            kind TEXT NOT NULL,
            reason TEXT NOT NULL
        )""",
        # Nothing can be asked of a run that is over; what was must not meet it should it be reset.
        """CREATE TRIGGER runs_end_requests AFTER UPDATE OF owner ON runs
            WHEN new.owner IS NULL AND new.state IN ('SUCCEEDED', 'REVERTED', 'CANCELLED', 'FAILED') BEGIN
            DELETE FROM requests WHERE run = new.key;
        END""",
    ),
    (
        # Who else uses a blob or a plan is asked when a run is purged.
        "CREATE INDEX uses_of_blob ON uses(blob)",
        "CREATE INDEX runs_of_plan ON runs(plan)",
        # The plans under which a run was resumed or reset; the first is in its row.
        "CREATE TABLE adoptions(run INTEGER NOT NULL, plan TEXT NOT NULL, PRIMARY KEY(run, plan)) WITHOUT ROWID",
        "CREATE INDEX adoptions_of_plan ON adoptions(plan)",
        # Until now nobody noted who had adopted which: a plan that no run began with may be anyone's.
        """INSERT INTO adoptions(run, plan) SELECT r.key, p.digest FROM plans AS p CROSS JOIN runs AS r
            WHERE NOT EXISTS (SELECT 1 FROM runs WHERE plan = p.digest)""",
        # Runs that are gone, and of which something is still to be removed.
        "CREATE TABLE purged(run INTEGER PRIMARY KEY, plan TEXT NOT NULL)",
        """CREATE TRIGGER runs_leave AFTER DELETE ON runs BEGIN
            INSERT INTO purged(run, plan) VALUES (old.key, old.plan);
            DELETE FROM requests WHERE run = old.key;
        END""",
    ),
)
"""The statements of each step forward. A step that has been released is never changed; a new one is added behind it."""

VERSION = len(STEPS)
"""The schema version that this asyncflow writes."""

_HEADER_BYTES = 100
_STATEMENTS = "SELECT type, name, tbl_name, sql FROM sqlite_master"


def check_header(path: str, shown: str) -> None:
    """
    Let a file that is ours pass, or one that is empty or absent.

    The main file always shows the application id: a journal is made before its write-ahead log is switched on.

    Raises:
        NotAJournal: It is something else, or has become empty. It has only been read.
        StoreError: It cannot be read.
    """
    file, owners = Path(path), Path(path + SUFFIX)
    try:
        size_bytes = file.stat().st_size
    except OSError:
        return  # absent, or SQLite says why it cannot be opened
    is_empty = not size_bytes
    if is_empty and owners.exists() and owners.stat().st_size:
        # An owner counts in it once the journal has been made, so this was one.
        raise NotAJournal(
            f"{shown!r} is empty and was a journal, as {shown + SUFFIX!r} tells; restore it from a backup, or remove "
            "it to begin anew",
            path=shown,
        )
    if is_empty or Path(path + "-journal").exists():
        # A rollback journal beside it: someone died while writing. SQLite must put that right before anyone can look.
        return
    if size_bytes < _HEADER_BYTES:
        raise not_sqlite(shown)  # SQLite would take some of them for empty
    try:
        # By SQLite: whoever else closes a file drops every POSIX lock that this process has on it, also those of the
        # application's own connections. As immutable it takes none, and has a look at nothing but this file.
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True)) as opened:
            # Else it wants the file to be as long as it should be, and someone may have died while making it longer.
            opened.execute("PRAGMA writable_schema = ON")
            [(application_id, changes)] = opened.execute(
                "SELECT application_id, schema_version FROM pragma_application_id, pragma_schema_version"
            )
    except sqlite3.Error as error:
        raise in_plain_words(error, shown) from error
    if application_id != APPLICATION_ID and changes:
        # Without a change of schema there has never been a table in it: someone died while making a journal of it.
        raise _foreign(shown)


def prepare(connection: LendableConnection, shown: str) -> None:
    """
    Make an empty file a journal, and bring an older journal up to date.

    Raises:
        NotAJournal: The file is a database of something else.
        SchemaTooNew: It was written by a newer asyncflow.
        StoreError: It is damaged, or lies where no journal can.
    """
    if _version(connection, shown) < VERSION:
        [(pages,)] = connection.execute("PRAGMA page_count")
        if not pages:
            # Before there is a table, or it is without effect: so a purge gives pages back a few at a time, and lets go
            # of a large value without reading it.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        with transaction(connection):
            # Read again: another process may have been quicker.
            for version in range(_version(connection, shown), VERSION):
                for statement in STEPS[version]:
                    connection.execute(statement)
                # A pragma takes no parameters.
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    _check_statements(connection, shown)
    [(mode,)] = connection.execute("PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise StoreError(
            f"journal {shown!r} lies where SQLite cannot keep a write-ahead log; move it to a local disk", path=shown
        )


def _check_statements(connection: LendableConnection, shown: str) -> None:
    """Raise unless the tables are those that we make: a bit that has turned over in a trigger would be obeyed too."""
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        # Made anew, since steps change what steps before them have made.
        for step in STEPS:
            for statement in step:
                model.execute(statement)
        wanted = set(model.execute(_STATEMENTS))
    if not wanted <= set(connection.execute(_STATEMENTS)):
        raise _damaged(shown, "its tables are not those that asyncflow makes")


def _version(connection: LendableConnection, shown: str) -> int:
    """Return how many steps the file has taken; 0 if it is empty."""
    # One statement sees one state of the file; between two, another process may have made it.
    [(application_id, version, things)] = connection.execute(
        "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_master) "
        "FROM pragma_application_id, pragma_user_version"
    )
    if application_id != APPLICATION_ID and (application_id or version or things):
        raise _foreign(shown)
    if version < 0:
        raise _damaged(shown, f"it says that it has version {version}")
    if version > VERSION:
        raise SchemaTooNew(
            f"{shown!r} has journal version {version} and this asyncflow reads up to {VERSION}; open it "
            "with a newer asyncflow",
            path=shown,
        )
    return int(version)


def _damaged(shown: str, what: str) -> StoreError:
    return StoreError(f"journal {shown!r} is damaged: {what}; restore it from a backup", path=shown)


def _foreign(shown: str) -> NotAJournal:
    return NotAJournal(
        f"{shown!r} is an SQLite database of something else, not a journal of asyncflow; give the path of another file",
        path=shown,
    )
