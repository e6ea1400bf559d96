"""Runs a COPY over libpq: its messages as they come, and a sign of life while none do."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import pq
from psycopg.errors import error_from_result

from headrace.connectors.postgres.session import Session

QUIET = 5.0  # seconds without a message after which `None` is given


def copy_out(session: Session, command: bytes) -> Iterator[Any]:
    """The messages of `COPY … TO STDOUT`, and None whenever none came for a while.

    Half the cost of psycopg's own iteration a row, and the only way to say "still waiting" while the
    server looks for the first row. A copy that is left early leaves the session unusable.
    """
    connection = session.pgconn
    with cancelled_if_left(session):
        yield from begin(connection, command)
        while True:
            size, message = connection.get_copy_data(1)
            if size > 0:
                yield message
            elif size < 0:
                break
            elif _ready(connection, select.POLLIN):
                connection.consume_input()
            else:
                yield None
        yield from finish(connection)


@contextlib.contextmanager
def cancelled_if_left(session: Session) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(psycopg.Error):
            session.cancel_safe(timeout=1)
        raise


def begin(connection: pq.abc.PGconn, command: bytes) -> Iterator[None]:
    """Send the command, and wait until its rows can be received."""
    connection.send_query(command)
    while connection.flush():
        _ready(connection, select.POLLIN | select.POLLOUT)
        connection.consume_input()
    yield from _until_idle(connection)
    _check(connection.get_result(), pq.ExecStatus.COPY_OUT)


def finish(connection: pq.abc.PGconn) -> Iterator[None]:
    """Take the server's last word after the last message: here it says what went wrong on the way."""
    yield from _until_idle(connection)
    _check(connection.get_result(), pq.ExecStatus.COMMAND_OK)
    while connection.get_result() is not None:
        pass


def _ready(connection: pq.abc.PGconn, events: int) -> bool:
    poll = select.poll()
    poll.register(connection.socket, events)
    return bool(poll.poll(QUIET * 1000))


def _until_idle(connection: pq.abc.PGconn) -> Iterator[None]:
    """Until the next result is there."""
    while connection.is_busy():
        if _ready(connection, select.POLLIN):
            connection.consume_input()
        else:
            yield None


def _check(result: pq.abc.PGresult | None, wanted: pq.ExecStatus) -> None:
    if result is None:
        raise psycopg.OperationalError("the server sent no result")
    if result.status != wanted:
        raise error_from_result(result)
