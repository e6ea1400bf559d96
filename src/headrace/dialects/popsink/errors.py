"""How this API fails: `{"detail": …}`, and for faults of shape a list of where and what."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from uuid import uuid4

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from headrace.errors import (
    AuthError,
    ConflictError,
    HeadraceError,
    NotFoundError,
    SignInNeeded,
    TooMany,
    TransientError,
)

bugs = logging.getLogger("headrace.bugs")
ModelT = TypeVar("ModelT", bound=BaseModel)

_NOUNS = {
    "store.no_workspace": "Environment",
    "store.no_team": "Team",
    "store.no_user": "User",
    "store.no_member": "Member",
    "store.no_connection": "Connector",
    "store.no_pipeline": "Pipeline",
    "store.no_run": "Run",
}
_CODES: Mapping[str, tuple[int, Any]] = {
    "access.no_workspace": (400, "No active environment"),
    "sessions.bad_credentials": (400, "LOGIN_BAD_CREDENTIALS"),
    "sessions.not_verified": (400, "LOGIN_USER_NOT_VERIFIED"),
    "users.wrong_password": (400, "CHANGE_PASSWORD_BAD_OLD_PASSWORD"),
}


class Answered(Exception):
    """A request that is answered with this status and detail."""

    def __init__(self, status: int, detail: Any):
        super().__init__(str(detail))
        self.status, self.detail = status, detail


def refused(connection: HTTPConnection, error: HeadraceError) -> JSONResponse:
    """The answer that one of our errors becomes."""
    if error.code in _CODES:
        status, detail = _CODES[error.code]
        return JSONResponse({"detail": detail}, status)
    if isinstance(error, SignInNeeded):
        return JSONResponse({"detail": "Unauthorized"}, 401)
    if isinstance(error, AuthError):
        return JSONResponse({"detail": "Forbidden"}, 403)
    if isinstance(error, NotFoundError):
        return JSONResponse({"detail": f"{_NOUNS.get(error.code, 'Object')} not found"}, 404)
    if isinstance(error, TooMany):
        return JSONResponse({"detail": said(error)}, 429, {"Retry-After": str(error.retry_after)})
    if isinstance(error, ConflictError):
        if error.code == "store.name_taken":
            return JSONResponse({"detail": said(error)}, 400)
        return JSONResponse({"detail": said(error), "used_by": []}, 409)
    if isinstance(error, TransientError):
        return JSONResponse({"detail": said(error)}, 503)
    return JSONResponse({"detail": [fault(("body", *_path(error.field)), error.message, "value_error")]}, 422)


def _path(field: str | None) -> Sequence[str]:
    return field.split(".") if field else ()


def said(error: HeadraceError) -> str:
    text = error.message[:1].upper() + error.message[1:]
    return f"{text.rstrip('.')}. {error.remedy}" if error.remedy else text


def fault(where: Sequence[str | int], message: str, kind: str) -> dict[str, Any]:
    return {"loc": list(where), "msg": message, "type": kind}


def faults(found: Sequence[Mapping[str, Any]], prefix: Sequence[str] = ()) -> list[dict[str, Any]]:
    """What a validator found, without what was sent."""
    return [
        fault((*prefix, *each["loc"]), "field required", "value_error.missing")
        if each["type"] == "missing"
        else fault((*prefix, *each["loc"]), each["msg"].removeprefix("Value error, "), each["type"])
        for each in found
    ]


def read(model: type[ModelT], body: Mapping[str, Any]) -> ModelT:
    """The body as a model. Raises Answered (422) with every fault."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
        raise Answered(422, faults(found, ("body",))) from None


def install(app: FastAPI) -> None:
    """Answer all that is raised."""

    @app.exception_handler(HeadraceError)
    def _ours(request: Request, error: HeadraceError) -> JSONResponse:
        return refused(request, error)

    @app.exception_handler(Answered)
    def _answered(request: Request, error: Answered) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": faults(error.errors())}, 422)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"detail": error.detail}, error.status_code, dict(error.headers or {}))

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> JSONResponse:
        id = str(uuid4())
        bugs.error("%s %s (%s)", request.method, request.url.path, id, exc_info=error)
        return JSONResponse({"detail": f"Internal Server Error ({id})"}, 500)
