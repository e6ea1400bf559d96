"""Who asks, for which tenant, with what body: in the order in which the contract wants it looked at."""

from __future__ import annotations

import json
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Request

from headrace.control.access import Actor, Permission, allow
from headrace.control.platform import Platform
from headrace.dialects.ingestion.errors import Refused
from headrace.errors import AuthError, NotFoundError

BODY_LIMIT = 1 << 20


def _platform(request: Request) -> Platform:
    platform: Platform = request.app.state.door.platform
    return platform


def _user(request: Request) -> Actor:
    actor: Actor = request.state.actor
    return actor


Here = Annotated[Platform, Depends(_platform)]
User = Annotated[Actor, Depends(_user)]


def _tenant(request: Request, here: Here, user: User) -> Actor:
    text = request.headers.get("x-tenant-id")
    if text is None:
        raise Refused(400, "X-Tenant-Id header is required")
    tenant = uuid(text, "X-Tenant-Id")
    try:
        actor = here.workspaces.enter(user, tenant)
        allow(actor, Permission.CONNECTION_WRITE)
    except NotFoundError:
        raise Refused(403, "Access to this tenant is denied") from None
    except AuthError:
        raise Refused(403, "The permission data:ingestion:manage is needed") from None
    return actor


Tenant = Annotated[Actor, Depends(_tenant)]


async def _body(request: Request, tenant: Tenant) -> dict[str, Any]:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Refused(415, "Content-Type must be application/json")
    text = bytearray()
    async for part in request.stream():
        text += part
        if len(text) > BODY_LIMIT:
            raise Refused(413, f"The body is larger than {BODY_LIMIT} bytes")
    try:
        body = json.loads(text)
        json.dumps(body, ensure_ascii=False).encode()  # half a character can't be kept
    except (ValueError, RecursionError):
        raise Refused(400, "The body is missing or is not JSON") from None
    if not isinstance(body, dict):
        raise Refused(400, "The body must be a JSON object")
    return body


Body = Annotated[dict[str, Any], Depends(_body)]


def uuid(text: str, name: str) -> str:
    """An id as we keep it. Raises Refused (400) for what is none."""
    try:
        id = str(UUID(text))
    except ValueError:
        id = ""
    if id != text.lower():
        raise Refused(400, f"{name} must be a UUID")
    return id
