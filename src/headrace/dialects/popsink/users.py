"""Users: oneself, others, and everybody at once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fastapi import APIRouter, Response

from headrace.control.users import UserChange
from headrace.dialects.popsink import wire
from headrace.dialects.popsink.access import Body, Here, Part, User
from headrace.dialects.popsink.auth import bad_account
from headrace.dialects.popsink.errors import Answered, read
from headrace.errors import ConfigError, ConflictError, NotFoundError

router = APIRouter(prefix="/api/users", tags=["Users"])


@router.get("")
def list_(here: Here, user: User, part: Part, search: str = "") -> dict[str, Any]:
    found = here.users.list(user, search=search, offset=part.offset, limit=part.limit)
    return part.envelope(found, [wire.user(each) for each in found.items])


@router.get("/me")
def me(here: Here, user: User) -> dict[str, Any]:
    return wire.user(here.users.get(user, user.id))


@router.patch("/me", openapi_extra=wire.takes(wire.UserPatch))
def update_me(here: Here, user: User, body: Body) -> dict[str, Any]:
    return update(here, user, body, user.id)


@router.get("/export-all")
def export(here: Here, user: User) -> dict[str, Any]:
    return wire.everybody(here.users.export(user))


@router.post(
    "/import-all", status_code=204, response_class=Response, openapi_extra=wire.takes(wire.Everybody)
)
def replace(here: Here, user: User, body: Body) -> None:
    known = here.users.export(user)
    here.users.replace_all(user, wire.directory(read(wire.Everybody, body), known, datetime.now(UTC)))


@router.post("/me/change-password", openapi_extra=wire.takes(wire.PasswordChange))
def change_password(here: Here, user: User, body: Body) -> dict[str, Any]:
    asked = read(wire.PasswordChange, body)
    try:
        return wire.user(here.users.change_password(user, asked.old_password, asked.new_password))
    except ConfigError as error:
        raise bad_account(error, "UPDATE_USER_INVALID_PASSWORD") from None


@router.post(
    "/me/service-account-token",
    status_code=201,
    openapi_extra=wire.takes(wire.ServiceTokenAsked, required=False),
)
def service_token(here: Here, user: User, body: Body) -> dict[str, Any]:
    asked = read(wire.ServiceTokenAsked, body)
    kept, text = here.tokens.create(user, asked.name or "", asked.expires_in_days or 90)
    return {
        "id": kept.id,
        "access_token": text,
        "token_type": "bearer",
        "name": kept.name,
        "expires_at": kept.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


@router.get("/{id}")
def get(here: Here, user: User, id: str) -> dict[str, Any]:
    return wire.user(here.users.get(user, id))


@router.patch("/{id}", openapi_extra=wire.takes(wire.UserPatch))
def update(here: Here, user: User, body: Body, id: str) -> dict[str, Any]:
    here.users.get(user, id)
    asked = read(wire.UserPatch, body)
    given = {name: getattr(asked, name) for name in asked.model_fields_set}
    changes = UserChange()
    for name, text in (("email", "email"), ("password", "password")):
        if given.get(text) is not None:
            changes[name] = given[text]  # type: ignore[literal-required]
    if "active_env_id" in given:
        changes["workspace"] = str(given["active_env_id"]) if given["active_env_id"] else None
    if user.admin:
        for name, flag in (("active", "is_active"), ("admin", "is_superuser"), ("verified", "is_verified")):
            if given.get(flag) is not None:
                changes[name] = given[flag]  # type: ignore[literal-required]
    try:
        return wire.user(here.users.update(user, id, changes))
    except ConfigError as error:
        raise bad_account(error, "UPDATE_USER_INVALID_PASSWORD") from None
    except ConflictError as error:
        taken = error.code == "store.email_taken"
        raise Answered(400, "UPDATE_USER_EMAIL_ALREADY_EXISTS" if taken else error.message) from None
    except NotFoundError:
        raise Answered(404, "Environment not found") from None


@router.delete("/{id}", status_code=204, response_class=Response)
def delete(here: Here, user: User, id: str) -> None:
    here.users.delete(user, id)
