"""Syncs: the runs of connections."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from headrace.dialects.ingestion import wire
from headrace.dialects.ingestion.access import Here, Tenant, uuid
from headrace.dialects.ingestion.errors import Refused
from headrace.dialects.ingestion.translate import sync
from headrace.errors import NotFoundError
from headrace.model.run import RunFilter, RunOrder, RunStatus

router = APIRouter(prefix="/api/v1", tags=["Syncs"], responses=wire.ERRORS)

SORTABLE = {
    "id": RunOrder.ID,
    "connectionId": RunOrder.PIPELINE,
    "connectionName": RunOrder.PIPELINE_NAME,
    "status": RunOrder.STATUS,
    "recordsSynced": RunOrder.COMMITTED,
    "bytesSynced": RunOrder.COMMITTED_BYTES,
    "startedAt": RunOrder.QUEUED,
    "completedAt": RunOrder.ENDED,
    "durationMs": RunOrder.DURATION,
}
STATUSES = {
    "RUNNING": (RunStatus.QUEUED, RunStatus.RUNNING),
    "SUCCEEDED": (RunStatus.SUCCEEDED,),
    "FAILED": (RunStatus.FAILED,),
    "CANCELLED": (RunStatus.CANCELLED,),
}


class History(BaseModel):
    """The query of a list; what is no number in it is not an error."""

    connection: str | None = Field(default=None, alias="connectionId")
    page: str | None = None
    size: str | None = None
    sort: list[str] = []
    status: str | None = None
    after: datetime | None = Field(default=None, alias="from")
    before: datetime | None = Field(default=None, alias="to")
    details: bool = False

    def filter(self) -> RunFilter:
        pipeline = None if self.connection is None else uuid(self.connection, "connectionId")
        if self.status is not None and self.status not in STATUSES:
            raise Refused(400, f"Unknown status: {self.status}")
        statuses = STATUSES[self.status] if self.status else ()
        return RunFilter(
            pipeline=pipeline, statuses=statuses, after=_zoned(self.after), before=_zoned(self.before)
        )


def _zoned(at: datetime | None) -> datetime | None:
    if at is None:
        return None
    try:
        return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except OverflowError:
        raise Refused(400, "from and to must be moments that there are") from None


def order(sorts: Sequence[str]) -> list[tuple[RunOrder, bool]]:
    """What to sort by, and whether downwards: each value is `field,field,asc|desc`.

    Without any it is the newest first. Raises Refused (400) for an unknown field.
    """
    found: list[tuple[RunOrder, bool]] = []
    for value in sorts:
        names = [name.strip() for name in value.split(",") if name.strip()]
        down = bool(names) and names[-1].lower() == "desc"
        if names and names[-1].lower() in ("asc", "desc"):
            names.pop()
        for name in names:
            if name not in SORTABLE:
                raise Refused(400, f"Unknown property to sort by: {name}")
            if SORTABLE[name] not in {order for order, _ in found}:
                found.append((SORTABLE[name], down))
    return found or [(RunOrder.QUEUED, True)]


@router.post(
    "/syncs/connections/{connection}/trigger", status_code=202, responses={202: {"model": wire.Sync}}
)
def trigger(
    here: Here, tenant: Tenant, connection: str, response: Response, details: bool = False
) -> dict[str, Any]:
    id = uuid(connection, "Connection id")
    try:
        run = here.runs.trigger(tenant, id)
    except NotFoundError:
        raise Refused(404, f"Connection not found: {id}") from None
    response.headers["Location"] = f"/api/v1/syncs/{run.id}"
    return sync(run, details)


@router.post("/syncs/{id}/cancel", status_code=204, response_class=Response)
def cancel(here: Here, tenant: Tenant, id: str) -> None:
    id = uuid(id, "Sync id")
    try:
        here.runs.cancel(tenant, id)
    except NotFoundError:
        raise Refused(404, f"Sync not found: {id}") from None


@router.get("/syncs/{id}", responses={200: {"model": wire.Sync}})
def get(here: Here, tenant: Tenant, id: str, details: bool = False) -> dict[str, Any]:
    id = uuid(id, "Sync id")
    try:
        return sync(here.runs.get(tenant, id), details)
    except NotFoundError:
        raise Refused(404, f"Sync not found: {id}") from None


@router.get("/syncs", responses={200: {"model": wire.SyncPage}})
def list_(
    here: Here,
    tenant: Tenant,
    asked: Annotated[History, Query()],
) -> dict[str, Any]:
    number = wire.whole(asked.page, 0, 0)
    size = wire.whole(asked.size, 20, 1, 2000)
    found = here.runs.page(tenant, asked.filter(), order(asked.sort), number * size, size)
    return wire.page([sync(run, asked.details) for run in found.items], found.total, number, size)
