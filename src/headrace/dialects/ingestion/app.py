"""The Ingestion API as an application of its own."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from headrace.dialects.door import Door, SignedIn
from headrace.dialects.ingestion import connections, connectors, files, sources, syncs
from headrace.dialects.ingestion.errors import install, refused
from headrace.errors import HeadraceError

PARTS = (sources, connections, syncs, files, connectors)
PATHS = tuple(f"/api/v1/{family}" for family in ("sources", "connections", "syncs", "files", "connectors"))


def app(door: Door) -> FastAPI:
    """Answers the paths of `PATHS`; whoever has no token gets no further than 401."""
    made = FastAPI(
        title="Ingestion API",
        version="1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    made.state.door = door
    made.state.routes = [route for part in PARTS for route in part.router.routes]
    for part in PARTS:
        made.include_router(part.router)
    install(made)

    def refuse(connection: HTTPConnection, error: HeadraceError) -> ASGIApp:
        return refused(connection, error)

    made.add_middleware(SignedIn, door=door, refuse=refuse)
    return made
