"""Connections: pipelines from a source into the workspace's default target of a type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Response

from headrace import catalog
from headrace.connector import Capability, ReadMode
from headrace.control.access import Actor
from headrace.control.platform import Platform
from headrace.dialects.ingestion import wire
from headrace.dialects.ingestion.access import Body, Here, Tenant, uuid
from headrace.dialects.ingestion.errors import Refused, said
from headrace.dialects.ingestion.translate import (
    DEFAULT_TUNING,
    MODES,
    OURS,
    choices,
    connection,
    cron,
    is_source,
    newest_first,
    tuned,
    tuning,
)
from headrace.errors import ConflictError, NotFoundError
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline

router = APIRouter(prefix="/api/v1", tags=["Connections"], responses=wire.ERRORS)
_TRIES = 5
DESTINATIONS = ("iceberg", "parquet", "postgres", "oracle", "kafka")


@router.post(
    "/connections",
    status_code=201,
    openapi_extra=wire.takes(wire.CONNECTION_BODY),
    responses={201: {"model": wire.Connection}},
)
def create(
    here: Here, tenant: Tenant, body: Body, response: Response, details: bool = False
) -> dict[str, Any]:
    pipeline = _asked(here, tenant, body, None)
    made = here.pipelines.create(tenant, replace(pipeline, id=str(uuid4())))
    response.headers["Location"] = f"/api/v1/connections/{made.id}"
    return _shown(here, tenant, [made], details)[0]


@router.get("/connections", responses={200: {"model": list[wire.Connection]}})
def list_(here: Here, tenant: Tenant, details: bool = False) -> list[dict[str, Any]]:
    return _shown(here, tenant, newest_first(here.pipelines.list(tenant)), details)


@router.get("/connections/{id}", responses={200: {"model": wire.Connection}})
def get(here: Here, tenant: Tenant, id: str, details: bool = False) -> dict[str, Any]:
    found = _shown(here, tenant, [_known(here, tenant, id)], details)
    if not found:  # its source or target is of a team that they are not in
        raise Refused(404, f"Connection not found: {id}")
    return found[0]


@router.put(
    "/connections/{id}",
    openapi_extra=wire.takes(wire.CONNECTION_BODY),
    responses={200: {"model": wire.Connection}},
)
def update(here: Here, tenant: Tenant, body: Body, id: str, details: bool = False) -> dict[str, Any]:
    id = uuid(id, "Connection id")
    for _ in range(_TRIES):  # of two changes at once the later one wins, each as a whole
        known = _known(here, tenant, id)
        asked = _asked(here, tenant, body, known)
        try:
            return _shown(here, tenant, [here.pipelines.update(tenant, asked)], details)[0]
        except ConflictError as error:
            changed = error
    raise changed


@router.delete("/connections/{id}", status_code=204, response_class=Response)
def delete(here: Here, tenant: Tenant, id: str) -> None:
    here.pipelines.delete(tenant, _known(here, tenant, id).id)


@router.get("/connections/{id}/tuning", responses={200: {"model": wire.Tuning}})
def get_tuning(here: Here, tenant: Tenant, id: str) -> dict[str, Any]:
    return tuning(_known(here, tenant, id).tuning)


@router.put(
    "/connections/{id}/tuning",
    openapi_extra=wire.takes({"type": "object"}),
    responses={200: {"model": wire.Tuning}},
)
def set_tuning(here: Here, tenant: Tenant, body: Body, id: str) -> dict[str, Any]:
    known = _known(here, tenant, id)
    for _ in range(_TRIES):
        try:
            changed = here.pipelines.update(tenant, replace(known, tuning=tuned(known.tuning, body)))
            break
        except ConflictError:
            known = _known(here, tenant, id)
    else:
        changed = here.pipelines.update(tenant, replace(known, tuning=tuned(known.tuning, body)))
    return tuning(changed.tuning)


@router.post("/connections/{id}/cdc", openapi_extra=wire.takes({"type": "object"}))
def set_cdc(here: Here, tenant: Tenant, body: Body, id: str) -> dict[str, Any]:
    known = _known(here, tenant, id)
    raise _no_changes(here.connections.get(tenant, known.source).connector)


@router.get("/connections/{id}/cdc")
def get_cdc(here: Here, tenant: Tenant, id: str) -> dict[str, Any]:
    raise Refused(404, f"CDC is not set up for connection {_known(here, tenant, id).id}")


def _known(here: Platform, tenant: Actor, id: str) -> Pipeline:
    id = uuid(id, "Connection id")
    try:
        return here.pipelines.get(tenant, id)
    except NotFoundError:
        raise Refused(404, f"Connection not found: {id}") from None


def _shown(
    here: Platform, tenant: Actor, pipelines: Sequence[Pipeline], details: bool
) -> list[dict[str, Any]]:
    known = {c.id: c for c in here.connections.list(tenant)}
    outcomes = here.runs.outcomes(tenant, [p.id for p in pipelines])
    return [
        connection(p, known[p.source], known[p.target], outcomes.get(p.id), details)
        for p in pipelines
        if p.source in known and p.target in known
    ]


def _asked(here: Platform, tenant: Actor, body: dict[str, Any], known: Pipeline | None) -> Pipeline:
    """The pipeline that a body asks for, over the one there is; checked in the order of the contract."""
    text = wire.text_of(body, "sourceId", "Source id", 64, required=True) or ""
    id = uuid(text, "Source id")
    if known and id != known.source:
        raise Refused(400, "The source of a connection can't be changed")
    name = wire.text_of(body, "name", "Connection name", 255, required=True) or ""
    destination = wire.text_of(body, "destinationType", "Destination type", 64) or "iceberg"
    if destination not in DESTINATIONS:
        raise Refused(400, f"Unknown destination type: {destination}")
    said_schedule = wire.text_of(body, "syncSchedule", "Sync schedule", 255)
    schedule = cron(said_schedule)
    selected = _names(body)
    mode = _mode(body)
    cursors = _cursors(body)
    paused = _paused(body, known)
    source = _source(here, tenant, id)
    _check_streams(source, [*(selected or ()), *cursors])
    if (
        mode is ReadMode.CHANGES
        and Capability.CHANGES not in catalog.connector(source.connector).capabilities
    ):
        raise _no_changes(source.connector)
    own = {"syncSchedule": said_schedule}
    base = known or Pipeline(
        id="", name="", source=id, target="", streams=(), tuning=DEFAULT_TUNING, team=source.team
    )
    return replace(
        base,
        name=name,
        target=_target(here, tenant, destination, known),
        streams=choices(selected, mode, cursors),
        schedule=schedule,
        paused=paused,
        extras={**base.extras, OURS: own},
    )


def _names(body: dict[str, Any]) -> list[str] | None:
    names = body.get("selectedStreams")
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise Refused(400, "selectedStreams must be a list of at least one stream name, or null for all")
    if len(set(names)) != len(names):
        raise Refused(400, "selectedStreams names a stream twice")
    return names


def _mode(body: dict[str, Any]) -> ReadMode:
    mode = wire.text_of(body, "syncMode", "Sync mode", 64) or "FULL_REFRESH"
    if mode not in MODES:
        raise Refused(400, f"Unknown sync mode: {mode}")
    return MODES[mode]


def _cursors(body: dict[str, Any]) -> dict[str, str]:
    cursors = body.get("cursorFields") or {}
    if not isinstance(cursors, dict) or not all(isinstance(c, str) and c for c in cursors.values()):
        raise Refused(400, "cursorFields must map streams to columns")
    return cursors


def _paused(body: dict[str, Any], known: Pipeline | None) -> bool:
    status = body.get("status") if known else None
    if status not in (None, "PAUSED", "ACTIVE"):
        raise Refused(400, "status can be set to PAUSED or ACTIVE")
    return known.paused if known and status is None else status == "PAUSED"


def _source(here: Platform, tenant: Actor, id: str) -> Connection:
    try:
        found = here.connections.get(tenant, id)
    except NotFoundError:
        raise Refused(404, f"Source not found: {id}") from None
    if not is_source(found):
        raise Refused(404, f"Source not found: {id}")
    return found


def _check_streams(source: Connection, names: Sequence[str]) -> None:
    """Against what was found there last; where nobody has looked yet, the sync will tell."""
    if source.streams is not None:
        for name in names:
            if name not in source.streams:
                raise Refused(400, f"Unknown stream: {name}")


def _target(here: Platform, tenant: Actor, destination: str, known: Pipeline | None) -> str:
    """The id of the default target; one of that type that it writes to already stays."""
    if known and here.connections.get(tenant, known.target).connector == destination:
        return known.target
    try:
        return here.connections.default_target(tenant, destination).id
    except (NotFoundError, ConflictError) as error:
        raise Refused(400, f"destinationType {destination}: {said(error)}") from None


def _no_changes(connector: str) -> Refused:
    return Refused(400, f"CDC is not available for {connector} in this version")
