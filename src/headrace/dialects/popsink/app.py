"""This API as an application of its own."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp

from headrace.dialects.door import Door, SignedIn
from headrace.dialects.popsink import auth, envs, teams, users, wire
from headrace.dialects.popsink.errors import install, refused
from headrace.errors import HeadraceError

PATHS = ("/api",)
PARTS = (auth, users, envs, teams)
_OPEN = {
    "/api/auth/register",
    "/api/auth/jwt/login",
    "/api/auth/forgot-password",
    "/api/auth/reset-password",
    "/api/auth/request-verify-token",
    "/api/auth/verify",
    "/api/docs",
    "/api/openapi.json",
}


def app(door: Door) -> FastAPI:
    """Answers the paths below `PATHS`; but for a few, whoever has no token gets no further than 401."""
    made = FastAPI(
        title="Popsink API",
        version="1",
        docs_url="/api/docs",
        openapi_url="/api/openapi.json",
        redoc_url=None,
        redirect_slashes=False,
        responses=wire.FAILURES,
    )
    made.state.door = door
    for part in PARTS:
        made.include_router(part.router)
    install(made)

    def refuse(connection: HTTPConnection, error: HeadraceError) -> ASGIApp:
        return refused(connection, error)

    made.add_middleware(SignedIn, door=door, refuse=refuse, open_to_all=lambda method, path: path in _OPEN)
    return made
