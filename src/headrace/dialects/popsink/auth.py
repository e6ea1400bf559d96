"""Registration, signing in and out, forgotten passwords, verified addresses."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from headrace.dialects.door import client
from headrace.dialects.popsink import wire
from headrace.dialects.popsink.access import Body, Here, User
from headrace.dialects.popsink.errors import Answered, fault, read, said
from headrace.errors import AuthError, ConfigError, ConflictError, HeadraceError

router = APIRouter(prefix="/api/auth", tags=["Auth"])


@router.post("/register", status_code=201, openapi_extra=wire.takes(wire.Registration))
def register(here: Here, body: Body, request: Request) -> dict[str, Any]:
    asked = read(wire.Registration, body)
    try:
        made = here.sessions.register(asked.email, asked.password, address=client(request))
    except ConflictError:
        raise Answered(400, "REGISTER_USER_ALREADY_EXISTS") from None
    except ConfigError as error:
        raise bad_account(error, "REGISTER_INVALID_PASSWORD") from None
    return wire.user(made)


@router.post("/jwt/login")
def login(
    here: Here,
    request: Request,
    username: Annotated[str, Form()],
    password: Annotated[str, Form()],
) -> dict[str, Any]:
    entry = here.sessions.login(username, password, address=client(request))
    return {"access_token": entry.token, "token_type": "bearer"}


@router.post("/jwt/logout", status_code=204, response_class=Response)
def logout(here: Here, user: User) -> None:
    here.sessions.logout(user)


@router.post("/forgot-password", status_code=202, openapi_extra=wire.takes(wire.Email))
def forgot(here: Here, body: Body, request: Request) -> None:
    here.sessions.forgot(read(wire.Email, body).email, address=client(request))


@router.post("/reset-password", openapi_extra=wire.takes(wire.NewPassword))
def reset(here: Here, body: Body) -> None:
    asked = read(wire.NewPassword, body)
    try:
        here.sessions.reset(asked.token, asked.password)
    except ConfigError as error:
        raise bad_account(error, "RESET_PASSWORD_INVALID_PASSWORD") from None
    except AuthError:
        raise Answered(400, "RESET_PASSWORD_BAD_TOKEN") from None


@router.post("/request-verify-token", status_code=202, openapi_extra=wire.takes(wire.Email))
def request_verification(here: Here, body: Body, request: Request) -> None:
    here.sessions.request_verification(read(wire.Email, body).email, address=client(request))


@router.post("/verify", openapi_extra=wire.takes(wire.Verification))
def verify(here: Here, body: Body) -> dict[str, Any]:
    try:
        return wire.user(here.sessions.verify(read(wire.Verification, body).token))
    except ConflictError:
        raise Answered(400, "VERIFY_USER_ALREADY_VERIFIED") from None
    except AuthError:
        raise Answered(400, "VERIFY_USER_BAD_TOKEN") from None


def bad_account(error: HeadraceError, code: str) -> Answered:
    """The answer for a password that is too weak, or an address that is none."""
    if error.code.startswith("password."):
        return Answered(400, {"code": code, "reason": said(error)})
    return Answered(422, [fault(("body", "email"), error.message, "value_error.email")])
