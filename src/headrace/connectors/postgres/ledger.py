"""The table beside the targets that says what each pipeline has published, written with the rows."""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

import psycopg
from psycopg import sql

from headrace.connector import Token
from headrace.connectors.postgres.session import Session
from headrace.connectors.postgres.table import Place

LEDGER = "_headrace_ledger"

# `json` and not `jsonb`: the position comes back as it was written, numbers and NULs in texts included
_CREATE = """
CREATE TABLE {} (
    pipeline text, stream text, epoch bigint NOT NULL, sequence bigint NOT NULL,
    position json NOT NULL, published_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, stream)
)
"""
_READ = "SELECT epoch, sequence, position::text FROM {} WHERE pipeline = %s AND stream = %s"
_FIRST = """
INSERT INTO {} (pipeline, stream, epoch, sequence, position) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (pipeline, stream) DO NOTHING
"""
_NEXT = """
UPDATE {} SET epoch = %s, sequence = %s, position = %s, published_at = now()
WHERE pipeline = %s AND stream = %s
"""


def _ledger(place: Place) -> sql.SQL:
    """The ledger's name for a statement with parameters, in which a `%` must be doubled."""
    return sql.SQL(place.beside(LEDGER).as_string().replace("%", "%%"))


def stands(session: Session, place: Place, table: str) -> bool:
    """Is there a table of that name in the schema?"""
    found = session.execute(
        "SELECT pg_catalog.to_regclass(pg_catalog.format('%%I.%%I', %s::text, %s::text)) IS NOT NULL",
        (place.schema, table),
    ).fetchone()
    return found is not None and bool(found[0])


def ensure(session: Session, place: Place) -> None:
    if not stands(session, place, LEDGER):
        session.execute(sql.SQL(_CREATE).format(place.beside(LEDGER)))


def forget(session: Session, place: Place) -> None:
    """The table was made anew: what was published into an earlier one of its name is gone."""
    session.execute(sql.SQL("DELETE FROM {} WHERE stream = %s").format(_ledger(place)), (place.table,))


def wait_for_publish(session: Session, place: Place, pipeline: str, patience: timedelta) -> None:
    """Until the end of this transaction, no other session publishes the pipeline into the table.

    Also waits for one whose client is gone while the server is still at it, so that whoever looks
    afterwards sees the truth. Raises psycopg's LockNotAvailable after `patience`.
    """
    bound_locks(session, patience)
    name = "\0".join(("headrace", place.schema, place.table, pipeline))
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    session.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s::bigint)", (number,))


def bound_locks(session: Session, patience: timedelta) -> None:
    """Bound every wait for a lock in this transaction."""
    milliseconds = max(1, int(patience / timedelta(milliseconds=1)))
    session.execute("SELECT pg_catalog.set_config('lock_timeout', %s, true)", (str(milliseconds),))


def read(session: Session, place: Place, pipeline: str) -> Token | None:
    query = sql.SQL(_READ).format(_ledger(place))
    return _token(session.execute(query, (pipeline, place.table)), pipeline)


def advance(session: Session, place: Place, token: Token) -> bool:
    """Lock the row and move it to `token`; False if this very token is there already. Raises Fenced."""
    ledger = _ledger(place)
    position = json.dumps(token.position)
    first = session.execute(
        sql.SQL(_FIRST).format(ledger),
        (token.pipeline, place.table, token.epoch, token.sequence, position),
    )
    if first.rowcount == 1:
        return True
    query = sql.SQL(_READ + " FOR UPDATE").format(ledger)
    last = _token(session.execute(query, (token.pipeline, place.table)), token.pipeline)
    if not token.supersedes(last):
        return False
    session.execute(
        sql.SQL(_NEXT).format(ledger),
        (token.epoch, token.sequence, position, token.pipeline, place.table),
    )
    return True


def _token(found: psycopg.Cursor[tuple[object, ...]], pipeline: str) -> Token | None:
    row = found.fetchone()
    if row is None:
        return None
    epoch, sequence, position = row
    return Token(
        pipeline=pipeline,
        epoch=int(str(epoch)),
        sequence=int(str(sequence)),
        position=json.loads(str(position)),
    )
