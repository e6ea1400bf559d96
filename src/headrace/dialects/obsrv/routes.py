"""The routes of the dialect, and its application."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request

from headrace.control.access import Actor
from headrace.dialects.door import Door
from headrace.dialects.obsrv import errors, schema, translate, wire
from headrace.dialects.obsrv.errors import Refused
from headrace.dialects.obsrv.receive import caller, json_body, upload
from headrace.dialects.obsrv.wire import Envelope
from headrace.errors import NotFoundError

PATHS = ("/v2",)
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

router = APIRouter(prefix="/v2", tags=["Connectors"])


def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


async def _looker(request: Request) -> Actor | None:
    """Who looks; nobody is asked where everybody may."""
    door = _door(request)
    return None if door.platform.settings.obsrv_public_catalogue else await caller(door, request)


@router.post("/connectors/list", responses=schema.LIST_ANSWERS, openapi_extra=schema.LIST_BODY)
async def list_(request: Request) -> Envelope:
    door, by = _door(request), await _looker(request)
    body = await json_body(request)
    if found := translate.defect(body):
        raise Refused(errors.invalid_list(found), translate.asked(body))
    entries = await door.ask(door.platform.registry.list, by=by, **translate.filters(body))
    result = {"data": [translate.listed(entry) for entry in entries], "count": len(entries)}
    return wire.success(wire.LIST, result, translate.asked(body))


@router.get("/connectors/read/{id}", responses=schema.READ_ANSWERS, openapi_extra=schema.READ_QUERY)
async def read(request: Request, id: str) -> Envelope:
    door, by = _door(request), await _looker(request)
    status = translate.status_of(request.query_params.get("mode"))
    if not id.isprintable():
        raise NotFoundError("registry.no_id", "this is no id of the registry")
    entry = await door.ask(door.platform.registry.read, id, by=by, status=status)
    return wire.success(wire.READ, translate.read(entry))


@router.post("/connector/register", responses=schema.REGISTER_ANSWERS, openapi_extra=schema.REGISTER_BODY)
async def register(request: Request) -> Envelope:
    door = _door(request)
    registry = door.platform.registry
    actor = await door.ask(registry.registrar, by=await caller(door, request))
    async with upload(request) as (name, file):
        await door.ask(registry.register, actor, name, file.file)
    return wire.success(wire.REGISTER, {"message": "connector registered successfully."})


def app(door: Door) -> FastAPI:
    """Answers everything under `/v2`. Raises ConfigError where anybody could register from afar."""
    made = FastAPI(
        title="Obsrv connector API",
        version="2",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    made.state.door, made.state.strict = door, door.platform.settings.obsrv_strict_status
    _ = door.platform.registry
    made.include_router(router)
    errors.install(made)

    @made.api_route("/{path:path}", methods=_METHODS, include_in_schema=False)
    async def nothing(request: Request) -> Envelope:
        body = await json_body(request)
        return wire.failure(errors.no_route(), translate.asked(body))

    return made
