"""Teams of an environment, and who is in them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from headrace.control.teams import TeamChange
from headrace.dialects.popsink import wire
from headrace.dialects.popsink.access import Body, Here, Id, Part, User, in_env, in_env_of_team
from headrace.dialects.popsink.errors import Answered, fault, read

router = APIRouter(prefix="/api/teams", tags=["Teams"])


@router.get("")
def list_(here: Here, user: User, part: Part, search: str = "") -> dict[str, Any]:
    there = here.workspaces.active(user)
    found = here.teams.list(there, search=search, offset=part.offset, limit=part.limit)
    return part.envelope(found, [wire.team(each) for each in found.items])


@router.post("", status_code=201, openapi_extra=wire.takes(wire.TeamCreate))
def create(here: Here, user: User, body: Body) -> dict[str, Any]:
    asked = read(wire.TeamCreate, body)
    there = in_env(here, user, asked.env_id) if asked.env_id else here.workspaces.active(user)
    return wire.team(here.teams.create(there, asked.name, asked.description or ""))


@router.get("/filter-one")
def by_name(here: Here, user: User, name: str) -> dict[str, Any]:
    return wire.team(here.teams.by_name(here.workspaces.active(user), name))


@router.get("/{id}")
def get(here: Here, user: User, id: Id) -> dict[str, Any]:
    return wire.team(here.teams.get(in_env_of_team(here, user, id), str(id)))


@router.patch("/{id}", openapi_extra=wire.takes(wire.TeamPatch))
def update(here: Here, user: User, body: Body, id: Id) -> dict[str, Any]:
    there = in_env_of_team(here, user, id)
    here.teams.update(there, str(id), {})
    asked = read(wire.TeamPatch, body)
    if asked.env_id is not None and str(asked.env_id) != there.place:
        raise Answered(422, [fault(("body", "env_id"), "a team stays in its environment", "value_error")])
    changes = TeamChange()
    if asked.name is not None:
        changes["name"] = asked.name
    if "description" in asked.model_fields_set:
        changes["description"] = asked.description or ""
    return wire.team(here.teams.update(there, str(id), changes))


@router.delete("/{id}", status_code=204, response_class=Response)
def delete(here: Here, user: User, id: Id) -> None:
    here.teams.delete(in_env_of_team(here, user, id), str(id))


@router.get("/{id}/members")
def members(here: Here, user: User, part: Part, id: Id) -> Any:
    there = in_env_of_team(here, user, id)
    if not part.given:
        found = here.teams.members(there, str(id), limit=100_000)
        return [wire.team_member(each) for each in found.items]
    found = here.teams.members(there, str(id), offset=part.offset, limit=part.limit)
    return part.envelope(found, [wire.team_member(each) for each in found.items])


@router.get("/{id}/members/me")
def me(here: Here, user: User, id: Id) -> dict[str, Any]:
    return wire.team_member(here.teams.member(in_env_of_team(here, user, id), str(id), user.id))


@router.post(
    "/{id}/members/bulk", status_code=204, response_class=Response, openapi_extra=wire.takes(wire.Bulk)
)
def add(here: Here, user: User, body: Body, id: Id) -> None:
    there = in_env_of_team(here, user, id)
    here.teams.add_members(there, str(id))
    asked = read(wire.Bulk, body)
    here.teams.add_members(there, str(id), [str(m) for m in asked.members], [str(o) for o in asked.owners])


@router.delete("/{id}/members/{member}", status_code=204, response_class=Response)
def remove(here: Here, user: User, id: Id, member: Id) -> None:
    here.teams.remove_member(in_env_of_team(here, user, id), str(id), str(member))
