"""One body for everything that fails: `timestamp, status, error, message, path`."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from http import HTTPStatus
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.routing import Match, Route

from headrace.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    DataError,
    HeadraceError,
    NotFoundError,
    NotReady,
    PositionLost,
    SignInNeeded,
    TooLarge,
    TooMany,
)

bugs = logging.getLogger("headrace.bugs")

_STATUS: tuple[tuple[type[HeadraceError], int], ...] = (
    (SignInNeeded, 401),
    (AuthError, 403),
    (NotFoundError, 404),
    (TooLarge, 413),
    (ConfigError, 400),
    (DataError, 400),
    (ConflictError, 409),
    (PositionLost, 409),
    (TooMany, 429),
    (NotReady, 503),
)


class Refused(Exception):
    """A request that is answered with this status, in these words."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


def answer(
    connection: HTTPConnection, status: int, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    body = {
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "status": status,
        "error": HTTPStatus(status).phrase,
        "message": message,
        "path": connection.url.path,
    }
    return JSONResponse(body, status, headers)


def refused(connection: HTTPConnection, error: HeadraceError) -> JSONResponse:
    """The answer that one of our errors becomes."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    if status == 401:
        words = "Full authentication is required to access this resource"
        return answer(connection, 401, words, {"WWW-Authenticate": "Bearer"})
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, TooMany | NotReady) else None
    return answer(connection, status, said(error), headers)


def said(error: HeadraceError) -> str:
    """What happened and what to do about it, in one line."""
    text = error.message[:1].upper() + error.message[1:]
    return f"{text.rstrip('.')}. {error.remedy}" if error.remedy else text


def _methods(request: Request) -> list[str]:
    """Those that some route knows for the path."""
    found: set[str] = set()
    for route in request.app.state.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            found |= route.methods or set()
    return sorted(found)


def install(app: FastAPI) -> None:
    """Answer all that is raised."""

    @app.exception_handler(HeadraceError)
    def _ours(request: Request, error: HeadraceError) -> JSONResponse:
        return refused(request, error)

    @app.exception_handler(Refused)
    def _refused(request: Request, error: Refused) -> JSONResponse:
        return answer(request, error.status, error.message)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return answer(request, 400, f"{'.'.join(map(str, first['loc'][1:]))}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        words = {404: "There is no such route", 405: f"Method {request.method} is not allowed here"}
        text = words.get(error.status_code, str(error.detail))
        headers = {"Allow": ", ".join(_methods(request))} if error.status_code == 405 else None
        return answer(request, error.status_code, text, headers)

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> JSONResponse:
        id = str(uuid4())
        bugs.error("%s %s (%s)", request.method, request.url.path, id, exc_info=error)
        return answer(request, 500, f"An error inside the server; its log tells more under {id}")
