"""`headrace serve` and `worker`: Headrace as a service."""

from __future__ import annotations

import os
from typing import Annotated

from typer import Option

from headrace.cli.screen import Screen

Database = Annotated[
    str | None,
    Option(
        "--database",
        help="PostgreSQL for the store, in place of a file in the data folder.",
        envvar="HEADRACE_STORE",
    ),
]
Workers = Annotated[
    int | None,
    Option("--workers", min=1, max=256, help="How many runs at a time.", envvar="HEADRACE_WORKER_RUNS"),
]


def serve(
    screen: Screen,
    host: Annotated[str, Option("--host", help="The address to listen on.", envvar="HEADRACE_HOST")] = (
        "127.0.0.1"
    ),
    port: Annotated[
        int, Option("--port", min=0, max=65535, help="0 takes a free one.", envvar="HEADRACE_PORT")
    ] = 8080,
    database: Database = None,
    workers: Workers = None,
    no_worker: Annotated[bool, Option("--no-worker", help="Leave the runs to `headrace worker`.")] = False,
) -> int:
    """Start the server: API, schedules and a worker.

    \b
    headrace serve
    headrace serve --host 0.0.0.0 --port 8080 --data /var/lib/headrace
    HEADRACE_STORE=postgresql://me@db/headrace headrace serve --no-worker

    The first Ctrl-C or SIGTERM ends runs at their next checkpoint and hands them over, the second at once.
    """
    from headrace.cli.session import FOLDER
    from headrace.server.service import Service

    service = Service(screen.common.data or FOLDER, _environ(database, workers))
    return service.serve(host, port, worker=not no_worker)


def worker(screen: Screen, database: Database = None, workers: Workers = None) -> int:
    """Work off runs, beside a server: on the same data folder or the same PostgreSQL.

    \b
    headrace worker --data /var/lib/headrace
    HEADRACE_STORE=postgresql://me@db/headrace headrace worker --workers 8
    """
    from headrace.cli.session import FOLDER
    from headrace.server.service import Service

    return Service(screen.common.data or FOLDER, _environ(database, workers)).work()


def _environ(database: str | None, workers: int | None) -> dict[str, str]:
    given = {"HEADRACE_STORE": database, "HEADRACE_WORKER_RUNS": workers and str(workers)}
    return {**os.environ, **{name: value for name, value in given.items() if value}}
