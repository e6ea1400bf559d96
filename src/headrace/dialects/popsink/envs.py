"""Environments, which are workspaces, and who is in the active one."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from headrace.connector import HIDDEN
from headrace.control.access import Actor
from headrace.control.platform import Platform
from headrace.control.workspaces import WorkspaceChange
from headrace.dialects.popsink import wire
from headrace.dialects.popsink.access import Body, Here, Id, Part, User, in_env
from headrace.dialects.popsink.errors import Answered, fault, read
from headrace.errors import ConfigError, NotFoundError

router = APIRouter(prefix="/api", tags=["Environments"])


@router.get("/envs")
def list_(here: Here, user: User, part: Part, search: str = "") -> dict[str, Any]:
    found = here.workspaces.list(user, search=search, offset=part.offset, limit=part.limit)
    return part.envelope(found, [wire.env(each) for each in found.items])


@router.post("/envs", status_code=201, openapi_extra=wire.takes(wire.EnvCreate))
def create(here: Here, user: User, body: Body) -> dict[str, Any]:
    asked = read(wire.EnvCreate, body)
    broker = asked.retention_configuration
    for name, value in broker.settings().items() if broker else ():
        if value == HIDDEN:
            where = ("body", "retention_configuration", name)
            raise Answered(422, [fault(where, f"there is no {name} to keep", "value_error")])
    uses = asked.use_retention if asked.use_retention is not None else broker is not None
    own = {"use_retention": uses, "retention": broker.shown() if broker else None}
    made = here.workspaces.create(user, asked.name, asked.description or "", {wire.OURS: own})
    if broker:
        _keep(here, here.workspaces.enter(user, made.id), broker)
    return wire.env(made)


@router.get("/envs/filter-one")
def by_name(here: Here, user: User, name: str) -> dict[str, Any]:
    try:
        return wire.env(here.workspaces.by_name(user, name))
    except NotFoundError:
        raise Answered(404, "Environment not found") from None


@router.post("/envs/check-byok-credentials", openapi_extra=wire.takes(wire.Broker))
@router.post("/brokers", openapi_extra=wire.takes(wire.Broker))
def check_broker(here: Here, user: User, body: Body) -> dict[str, Any]:
    inner = body.get("retention_configuration")
    broker = read(wire.Broker, inner if isinstance(inner, dict) else body)
    fault = here.workspaces.try_broker(user, broker.settings())
    return {"status": fault is None, "is_success": fault is None, "message": fault or "Connected"}


@router.get("/envs/members")
def members(here: Here, user: User, part: Part) -> dict[str, Any]:
    there = here.workspaces.active(user)
    found = here.workspaces.members(there, offset=part.offset, limit=part.limit)
    return part.envelope(found, [wire.env_member(each) for each in found.items])


@router.get("/envs/members/me")
def me(here: Here, user: User) -> dict[str, Any]:
    return wire.env_member(here.workspaces.member(here.workspaces.active(user), user.id))


@router.get("/envs/{id}")
def get(here: Here, user: User, id: Id) -> dict[str, Any]:
    return wire.env(here.workspaces.get(in_env(here, user, id)))


@router.patch("/envs/{id}", openapi_extra=wire.takes(wire.EnvPatch))
def update(here: Here, user: User, body: Body, id: Id) -> dict[str, Any]:
    there = in_env(here, user, id)
    known = here.workspaces.update(there, {})
    asked = read(wire.EnvPatch, body)
    given, own = asked.model_fields_set, dict(known.extras.get(wire.OURS, {}))
    changes = WorkspaceChange()
    if asked.name is not None:
        changes["name"] = asked.name
    if "description" in given:
        changes["description"] = asked.description or ""
    if "retention_configuration" in given:
        _keep(here, there, asked.retention_configuration)
        broker = asked.retention_configuration
        own["retention"] = broker.shown() if broker else None
    if asked.use_retention is not None:
        own["use_retention"] = asked.use_retention
    changes["extras"] = {**known.extras, wire.OURS: own}
    return wire.env(here.workspaces.update(there, changes))


@router.delete("/envs/{id}", status_code=204, response_class=Response)
def delete(here: Here, user: User, id: Id) -> None:
    here.workspaces.delete(in_env(here, user, id))


def _keep(here: Platform, there: Actor, broker: wire.Broker | None) -> None:
    try:
        here.workspaces.set_broker(there, broker.settings() if broker else None)
    except ConfigError as error:
        where = ("body", "retention_configuration", error.field or "")
        raise Answered(422, [fault(where, error.message, "value_error")]) from None
