"""Who asks, with what body and paging, and in which environment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Query, Request

from headrace.control.access import Actor
from headrace.control.platform import Platform
from headrace.dialects.popsink.errors import Answered, fault
from headrace.errors import NotFoundError
from headrace.store import Page

BODY_LIMIT = 16 << 20


def _platform(request: Request) -> Platform:
    platform: Platform = request.app.state.door.platform
    return platform


def _user(request: Request) -> Actor:
    actor: Actor = request.state.actor
    return actor


Here = Annotated[Platform, Depends(_platform)]
User = Annotated[Actor, Depends(_user)]


async def _body(request: Request) -> dict[str, Any]:
    text = bytearray()
    async for part in request.stream():
        text += part
        if len(text) > BODY_LIMIT:
            raise Answered(413, "The body is too large")
    try:
        body = json.loads(text or b"{}")
    except json.JSONDecodeError as error:
        raise Answered(422, [fault(("body", error.pos), "JSON decode error", "json_invalid")]) from None
    except (ValueError, RecursionError):
        raise Answered(422, [fault(("body", 0), "JSON decode error", "json_invalid")]) from None
    if not isinstance(body, dict):
        raise Answered(422, [fault(("body",), "value is not a valid dict", "type_error.dict")])
    return body


Body = Annotated[dict[str, Any], Depends(_body)]


@dataclass(frozen=True)
class Paging:
    """Which part of a list, in the words of this API. `given` says whether pages were asked for."""

    offset: int
    limit: int
    page: int
    given: bool

    def envelope(self, found: Page[Any], items: list[dict[str, Any]]) -> dict[str, Any]:
        pages = -(-found.total // self.limit)
        return {"items": items, "total": found.total, "page": self.page, "size": self.limit, "pages": pages}


def _paging(
    page: Annotated[int | None, Query(ge=1)] = None,
    size: Annotated[int | None, Query(ge=1, le=100)] = None,
    skip: Annotated[int | None, Query(ge=0)] = None,
    limit: Annotated[int | None, Query(ge=1)] = None,
) -> Paging:
    if page is not None or size is not None or (skip is None and limit is None):
        number, many = page or 1, size or 50
        return Paging((number - 1) * many, many, number, page is not None or size is not None)
    start, many = skip or 0, min(limit or 50, 100)
    return Paging(start, many, start // many + 1, True)


Part = Annotated[Paging, Depends(_paging)]
Id = UUID
"""In a path: anything else is answered 422."""


def in_env(here: Platform, user: Actor, id: UUID) -> Actor:
    """The user in that environment. Raises Answered (404) where they are not in it."""
    try:
        return here.workspaces.enter(user, str(id))
    except NotFoundError:
        raise Answered(404, "Environment not found") from None


def in_env_of_team(here: Platform, user: Actor, id: UUID) -> Actor:
    """The user in the environment of a team. Raises Answered (404) where they are not in it."""
    try:
        return here.workspaces.enter_of(user, "team", str(id))
    except NotFoundError:
        raise Answered(404, "Team not found") from None
