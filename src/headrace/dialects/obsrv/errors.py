"""What is wrong, in the codes and words that the dialect's clients know."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from headrace.dialects.obsrv import wire
from headrace.dialects.obsrv.wire import Envelope, Failure
from headrace.errors import AuthError, HeadraceError, NotFoundError, SignInNeeded

bugs = logging.getLogger("headrace.bugs")

_NOT_REGISTERED = "FAILED_TO_REGISTER_CONNECTOR"
_REGISTER: dict[str, tuple[int, str]] = {
    "registry.no_file": (400, "connector relative path is missing."),
    "registry.folder": (500, "failed to download the file"),
    "registry.not_unpacked": (422, "Failed to Extract the File"),
    "registry.no_metadata": (422, "unable to locate the metadata file"),
    "registry.no_folder": (
        422,
        "connector source folder not found; expecting {} folder inside the archive",
    ),
    "registry.no_form": (422, "Unable to locate the ui configuration File"),
    "registry.bad_metadata": (422, "Failed to register connector"),
    "registry.not_stored": (500, "Failed to register connector {}"),
}
"""By our code: the strict status, and the words with the place of our error's field."""


class Refused(Exception):
    """A request that is answered so."""

    def __init__(self, failure: Failure, asked: str | None = None):
        super().__init__(failure.message)
        self.failure, self.asked = failure, asked


def invalid_list(message: str) -> Failure:
    return Failure(status=400, id=wire.LIST, code="CONNECTORS_LIST_INPUT_INVALID", message=message)


def not_found(id: str) -> Failure:
    message = f"Connector not found: {id}"
    return Failure(status=404, id=wire.READ, code="CONNECTOR_NOT_FOUND", message=message)


def no_route() -> Failure:
    return Failure(status=404, id=wire.NO_ROUTE, code="ROUTE_NOT_FOUND", message="Route not found", result="")


def not_json(message: str) -> Failure:
    return Failure(
        status=500,
        id=wire.NO_ROUTE,
        code="INTERNAL_SERVER_ERROR",
        message=message,
        plain=True,
        message_id="",
    )


def too_large() -> Failure:
    words = "request entity too large"
    return Failure(status=413, id=wire.NO_ROUTE, code="PAYLOAD_TOO_LARGE", message=words, plain=True)


def several_files() -> Failure:
    words = "Uploading multiple files are not allowed"
    return Failure(status=400, id=wire.REGISTER, code="FAILED_TO_UPLOAD", message=words, plain=True)


def not_multipart(*, strict: bool) -> Failure:
    return _failed_package(400 if strict else 500, "Failed to register connector")


def not_in(id: str, message: str) -> Failure:
    """Nobody is signed in, or not by a good token."""
    return Failure(status=401, id=id, code="UNAUTHORIZED ACCESS", message=message, plain=True)


def not_allowed(id: str) -> Failure:
    words = "Access denied. User does not have permission to register connectors. Roles that do: admin"
    return Failure(status=403, id=id, code="FORBIDDEN ACCESS", message=words, plain=True)


def not_registered(error: HeadraceError, *, strict: bool) -> Failure:
    """What became of a package. The precise cause is in the audit log, not here."""
    if error.code == "registry.too_large":
        return too_large()
    strict_status, words = _REGISTER.get(error.code, (500, "Failed to register connector"))
    return _failed_package(strict_status if strict else 500, words.format(error.field))


def _failed_package(status: int, words: str) -> Failure:
    return Failure(status=status, id=wire.REGISTER, code=_NOT_REGISTERED, message=words, plain=True)


def _ours(request: HTTPConnection, error: HeadraceError) -> Failure:
    id = route_id(request.url.path)
    if isinstance(error, SignInNeeded):
        return not_in(id, "No token provided")
    if isinstance(error, AuthError):
        return not_allowed(id)
    if isinstance(error, NotFoundError) and id == wire.READ:
        return not_found(request.path_params["id"])
    if id == wire.REGISTER:
        return not_registered(error, strict=request.app.state.strict)
    return Failure(status=error.http_status, id=id, code=error.code, message=error.message, plain=True)


def route_id(path: str) -> str:
    if path == "/v2/connectors/list":
        return wire.LIST
    if path == "/v2/connector/register":
        return wire.REGISTER
    return wire.READ if path.startswith("/v2/connectors/read/") else wire.NO_ROUTE


def install(app: FastAPI) -> None:
    """Answer all that is raised."""

    @app.exception_handler(Refused)
    def _refused(request: Request, error: Refused) -> Envelope:
        return wire.failure(error.failure, error.asked)

    @app.exception_handler(HeadraceError)
    def _headrace(request: Request, error: HeadraceError) -> Envelope:
        return wire.failure(_ours(request, error))

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Envelope:
        return wire.failure(no_route())

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> Envelope:
        bugs.error("%s %s", request.method, request.url.path, exc_info=error)
        words = "An error inside the server; its log tells more"
        return wire.failure(
            Failure(
                status=500,
                id=route_id(request.url.path),
                code="INTERNAL_SERVER_ERROR",
                message=words,
                plain=True,
            )
        )
