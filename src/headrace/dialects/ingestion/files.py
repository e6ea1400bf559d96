"""File import: upload, look, say where it goes, import, and see how that went."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from headrace.control.access import Actor
from headrace.control.files import PATIENCE
from headrace.dialects.door import Door
from headrace.dialects.ingestion import imports, wire
from headrace.dialects.ingestion.access import Body, Here, Tenant, uuid
from headrace.dialects.ingestion.errors import Refused, said
from headrace.dialects.ingestion.upload import receive
from headrace.errors import ConfigError, NotFoundError, NotReady
from headrace.model.file import FORMATS, File

router = APIRouter(prefix="/api/v1", tags=["File import"], responses=wire.ERRORS)

_AGAIN = 0.2  # seconds between two looks whether a file has been read


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


AnyDoor = Annotated[Door, Depends(_door)]


@router.get("/files/formats")
def formats() -> list[str]:
    return list(FORMATS)


@router.post(
    "/files/upload",
    status_code=201,
    openapi_extra=wire.UPLOAD_BODY,
    responses={201: {"model": wire.Uploaded}},
)
async def upload(request: Request, door: AnyDoor, tenant: Tenant, response: Response) -> dict[str, Any]:
    file = await receive(request, door, tenant)
    response.headers["Location"] = f"/api/v1/files/{file.id}/status"
    return imports.uploaded(file)


@router.get("/files/{id}/preview", responses={200: {"model": wire.FilePreview}})
async def preview(
    door: AnyDoor, tenant: Tenant, id: str, rows: str | None = None, details: bool = False
) -> Response:
    count = wire.whole(rows, 100, 1, 1000)
    file = await _patiently(door, door.platform.files.preview, tenant, _id(id))
    return Response(imports.preview(file, count, details), media_type="application/json")


@router.put(
    "/files/{id}/schema",
    openapi_extra=wire.takes(wire.SCHEMA_BODY),
    responses={200: {"model": wire.FileImportJob}},
)
async def schema(door: AnyDoor, tenant: Tenant, body: Body, id: str) -> dict[str, Any]:
    id, plan, options = _id(id), imports.plan_of(body), imports.options_of(body)
    try:
        file = await _patiently(door, door.platform.files.plan, tenant, id, plan, options)
    except ConfigError as error:
        raise _named(error) from None
    return imports.job(file)


@router.post("/files/{id}/import", status_code=202, responses={202: {"model": wire.ImportStarted}})
def start(here: Here, tenant: Tenant, id: str, response: Response) -> dict[str, Any]:
    id = _id(id)
    try:
        file = here.files.start(tenant, id)
    except NotFoundError:
        raise _missing(id) from None
    except ConfigError as error:
        raise _named(error) from None
    response.headers["Location"] = f"/api/v1/files/{id}/status"
    return imports.started(file)


@router.get("/files/{id}/status", responses={200: {"model": wire.ImportStatus}})
def status(here: Here, tenant: Tenant, id: str) -> dict[str, Any]:
    id = _id(id)
    try:
        return imports.status(here.files.get(tenant, id))
    except NotFoundError:
        raise _missing(id) from None


@router.get("/files/{id}/rejections", responses={200: {"model": wire.RejectionPage}})
def rejections(
    here: Here, tenant: Tenant, id: str, page: str | None = None, size: str | None = None
) -> dict[str, Any]:
    id, number, most = _id(id), wire.whole(page, 0, 0), wire.whole(size, 20, 1, 2000)
    try:
        found = here.files.rejects(tenant, id, offset=number * most, limit=most)
    except NotFoundError:
        raise _missing(id) from None
    return wire.page([imports.rejection(each) for each in found.items], found.total, number, most)


def _id(text: str) -> str:
    return uuid(text, "File id")


def _missing(id: str) -> Refused:
    return Refused(404, f"File not found: {id}")


def _named(error: ConfigError) -> Refused:
    """The same in the words of this API."""
    field = imports.FIELDS.get(error.field or "")
    return Refused(400, f"{field}: {said(error)}" if field else said(error))


async def _patiently(
    door: Door, operation: Callable[..., File], tenant: Actor, id: str, *rest: object
) -> File:
    """Ask until the file has been read, and hold no thread meanwhile."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return await door.ask(operation, tenant, id, *rest, wait=0.0)
        except NotFoundError:
            raise _missing(id) from None
        except NotReady:
            if time.monotonic() > until:
                raise
        await asyncio.sleep(_AGAIN)
