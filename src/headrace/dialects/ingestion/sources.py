"""Sources: connections that are read."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from headrace import catalog
from headrace.control.connections import ConnectionChange
from headrace.dialects.ingestion import wire
from headrace.dialects.ingestion.access import Body, Here, Tenant, uuid
from headrace.dialects.ingestion.errors import Refused, said
from headrace.dialects.ingestion.translate import (
    is_source,
    kept_extras,
    newest_first,
    source,
    spelled,
    stream,
)
from headrace.engine.retry import report
from headrace.errors import NotFoundError
from headrace.model.connection import Connection

router = APIRouter(prefix="/api/v1", tags=["Sources"], responses=wire.ERRORS)


@router.get("/sources/connector-types")
def connector_types() -> list[str]:
    return list(wire.CONNECTOR_TYPES)


@router.post(
    "/sources",
    status_code=201,
    openapi_extra=wire.takes(wire.SOURCE_BODY),
    responses={201: {"model": wire.Source}},
)
def create(
    here: Here, tenant: Tenant, body: Body, response: Response, details: bool = False
) -> dict[str, Any]:
    name = wire.text_of(body, "name", "Source name", 255, required=True) or ""
    description = wire.text_of(body, "description", "Description", 2000)
    kind = _kind(wire.text_of(body, "connectorType", "Connector type", 255, required=True) or "")
    config = _config(body, required=True)
    draft = Connection(id="", name=name, connector=kind, extras=kept_extras(description))
    made = here.connections.create(tenant, draft, spelled(kind, config or {}))
    response.headers["Location"] = f"/api/v1/sources/{made.id}"
    return source(made, details)


@router.get("/sources", responses={200: {"model": list[wire.Source]}})
def list_(here: Here, tenant: Tenant, details: bool = False) -> list[dict[str, Any]]:
    found = newest_first(here.connections.list(tenant))
    return [source(each, details) for each in found if is_source(each)]


@router.get("/sources/{id}", responses={200: {"model": wire.Source}})
def get(here: Here, tenant: Tenant, id: str, details: bool = False) -> dict[str, Any]:
    return source(_known(here, tenant, id), details)


@router.put(
    "/sources/{id}",
    openapi_extra=wire.takes(wire.SOURCE_BODY | {"required": []}),
    responses={200: {"model": wire.Source}},
)
def update(here: Here, tenant: Tenant, body: Body, id: str, details: bool = False) -> dict[str, Any]:
    id = uuid(id, "Source id")
    changes = ConnectionChange()
    if "name" in body:
        changes["name"] = wire.text_of(body, "name", "Source name", 255, required=True) or ""
    description = wire.text_of(body, "description", "Description", 2000)
    kind = wire.text_of(body, "connectorType", "Connector type", 255)
    config = _config(body, required=False)
    known = _known(here, tenant, id)
    if kind is not None and kind != known.connector:
        raise Refused(400, f"The connector type of a source can't be changed (it is {known.connector})")
    if "description" in body:
        changes["extras"] = {**known.extras, **kept_extras(description)}
    if config is not None:
        changes["settings"] = spelled(known.connector, config)
    return source(here.connections.update(tenant, id, changes), details)


@router.delete("/sources/{id}", status_code=204, response_class=Response)
def delete(here: Here, tenant: Tenant, id: str) -> None:
    here.connections.delete(tenant, _known(here, tenant, id).id)


@router.post("/sources/{id}/test", responses={200: {"model": wire.Source}})
def test(here: Here, tenant: Tenant, id: str, details: bool = False) -> dict[str, Any]:
    return source(here.connections.try_out(tenant, _known(here, tenant, id).id), details)


@router.post("/sources/{id}/discover", responses={200: {"model": wire.Streams}})
def discover(here: Here, tenant: Tenant, id: str) -> dict[str, Any]:
    known = _known(here, tenant, id)
    try:
        found = here.connections.discover(tenant, known.id)
    except Exception as error:
        raise Refused(500, said(report(error))) from None
    return {"streams": [stream(each, known.connector) for each in sorted(found, key=lambda s: s.id)]}


def _known(here: Here, tenant: Tenant, id: str) -> Connection:
    id = uuid(id, "Source id")
    try:
        found = here.connections.get(tenant, id)
    except NotFoundError:
        raise Refused(404, f"Source not found: {id}") from None
    if not is_source(found):
        raise Refused(404, f"Source not found: {id}")
    return found


def _kind(name: str) -> str:
    try:
        spec = catalog.connector(name)
    except NotFoundError:
        raise Refused(400, f"Unknown connector type: {name}") from None
    if spec.source is None and spec.target is not None:
        raise Refused(400, f"{name} can't be read from")
    return spec.name


def _config(body: Body, *, required: bool) -> dict[str, Any] | None:
    config = body.get("connectionConfig")
    if config is None and not (required or "connectionConfig" in body):
        return None
    if not isinstance(config, dict):
        raise Refused(
            400, "connectionConfig is required" if config is None else "connectionConfig must be an object"
        )
    return config
