"""Between the domain and the Ingestion API; looks at nothing but what it is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from headrace import catalog
from headrace.connector import Capability, ReadMode, Stream
from headrace.control.schedule import following
from headrace.dialects.ingestion import wire
from headrace.dialects.ingestion.errors import Refused
from headrace.errors import ConfigError
from headrace.model.connection import Connection
from headrace.model.pipeline import Pipeline, StreamChoice, Tuning
from headrace.model.run import Outcome, Run, RunStatus

ThingT = TypeVar("ThingT", Connection, Pipeline)
OURS = "ingestion"
"""The corner of `extras` for what only this dialect knows."""

MODES: Mapping[str, ReadMode] = {
    "FULL_REFRESH": ReadMode.FULL,
    "INCREMENTAL": ReadMode.INCREMENTAL,
    "CDC": ReadMode.CHANGES,
}
_SPOKEN = {mode: name for name, mode in MODES.items()}
_ALIASES: Mapping[str, Mapping[str, str]] = {
    "postgres": {"user": "username", "dbname": "database", "sslmode": "ssl_mode"},
}
_CRON_WORDS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}
DEFAULT_TUNING = Tuning(
    batch_rows=10_000,
    parallelism=1,
    commit_interval=timedelta(seconds=300),
    max_retries=3,
    retry_backoff=timedelta(seconds=1),
    reject_limit=None,
)
_RANGES = {
    "batchSize": (100, 10_000_000),
    "parallelism": (1, 32),
    "checkpointIntervalSec": (30, 3600),
    "maxRetries": (0, 10),
    "retryBackoffMs": (100, 60_000),
}


def newest_first(things: Iterable[ThingT]) -> list[ThingT]:
    by_id = sorted(things, key=lambda thing: thing.id)
    return sorted(by_id, key=lambda thing: wire.age(thing.created_at), reverse=True)


def kept_extras(description: str | None) -> dict[str, Any]:
    return {OURS: {"description": description}}


def is_source(connection: Connection) -> bool:
    """Can it be read from, by this version or a later one?"""
    spec = catalog.connectors().get(connection.connector)
    return spec is not None and spec.reads


def spelled(connector: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config, whichever of its spellings a member has."""
    aliases = _ALIASES.get(connector, {})
    return {
        aliases.get(name, name) if aliases.get(name) not in config else name: v for name, v in config.items()
    }


def source(connection: Connection, details: bool = False) -> dict[str, Any]:
    tested = connection.tested
    status = "INACTIVE" if tested is None or tested.stale else "ERROR" if tested.error else "ACTIVE"
    made = connection.created_at
    body: dict[str, Any] = {
        "id": connection.id,
        "name": connection.name,
        "description": connection.extras.get(OURS, {}).get("description"),
        "connectorType": connection.connector,
        "status": status,
        "lastTestedAt": wire.moment(tested.at if tested else None),
        "createdAt": wire.moment(made),
    }
    if details:
        error = tested.error if tested and not tested.stale else None
        body["statusMessage"] = " ".join(filter(None, (error.message + ".", error.remedy))) if error else None
        body["updatedAt"] = wire.moment(connection.updated_at)
    return body


def stream(found: Stream, connector: str) -> dict[str, Any]:
    can = catalog.connector(connector).capabilities
    modes = ["FULL_REFRESH"]
    if found.default_cursor and Capability.INCREMENTAL in can:
        modes.append("INCREMENTAL")
    if found.primary_key and Capability.CHANGES in can:
        modes.append("CDC")
    return {
        "name": found.id,
        "columns": [
            {
                "name": field.name,
                "type": wire.column_type(field.type),
                "nullable": field.nullable,
                "sampleValues": [],
            }
            for field in found.schema
        ],
        "supportedSyncModes": modes,
    }


def choices(
    selected: list[str] | None, mode: ReadMode, cursors: Mapping[str, str]
) -> tuple[StreamChoice, ...]:
    """What a connection reads; names are names here, never patterns."""
    names = ["*"] if selected is None else [_literal(name) for name in selected]
    chosen = [StreamChoice(stream=name, read=mode, or_full=mode is ReadMode.INCREMENTAL) for name in names]
    given = {_literal(name): column for name, column in cursors.items()}
    found = [replace(choice, cursor=given.pop(choice.stream, None)) for choice in chosen]
    if selected is None:  # a stream's own choice goes before that for all of them
        found += [StreamChoice(stream=name, read=mode, cursor=column) for name, column in given.items()]
    return tuple(found)


def _literal(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def cron(text: str | None) -> str | None:
    """Five fields, of what may also be six or a word."""
    if text is None:
        return None
    if text in _CRON_WORDS:
        return _CRON_WORDS[text]
    fields = text.split()
    if len(fields) == 6 and fields[0] == "0":
        fields = fields[1:]
    elif len(fields) == 6:
        raise Refused(400, "syncSchedule: the field of the seconds must be 0")
    five = " ".join("*" if field == "?" else field for field in fields)
    try:
        following(five, datetime.now(UTC))
    except ConfigError as error:
        raise Refused(400, f"syncSchedule: {error.message}") from None
    return five


def mode_of(pipeline: Pipeline) -> str:
    """The one mode of all its streams; of several, what the first one has."""
    return _SPOKEN[pipeline.streams[0].read] if pipeline.streams else "FULL_REFRESH"


def connection(
    pipeline: Pipeline, source: Connection, target: Connection, outcome: Outcome | None, details: bool = False
) -> dict[str, Any]:
    own = pipeline.extras.get(OURS, {})
    last = outcome.status if outcome else None
    status = {None: "PENDING", RunStatus.SUCCEEDED: "ACTIVE"}.get(last, "ERROR")
    body = {
        "id": pipeline.id,
        "sourceId": source.id,
        "sourceName": source.name,
        "name": pipeline.name,
        "destinationType": target.connector,
        "syncSchedule": own.get("syncSchedule")
        if cron(own.get("syncSchedule")) == pipeline.schedule
        else pipeline.schedule,
        "syncMode": mode_of(pipeline),
        "status": "PAUSED" if pipeline.paused else status,
        "lastSyncAt": wire.moment(outcome.succeeded_at if outcome else None),
        "createdAt": wire.moment(pipeline.created_at),
    }
    if details:
        body["statusMessage"] = None
        body["updatedAt"] = wire.moment(pipeline.updated_at)
    return body


_SYNC_STATUS = {
    RunStatus.SUCCEEDED: "SUCCEEDED",
    RunStatus.FAILED: "FAILED",
    RunStatus.CANCELLED: "CANCELLED",
}


def sync(run: Run, details: bool = False) -> dict[str, Any]:
    took = run.ended_at - run.queued_at if run.ended_at else None
    body: dict[str, Any] = {
        "id": run.id,
        "connectionId": run.pipeline,
        "connectionName": run.pipeline_name,
        "status": _SYNC_STATUS.get(run.status, "RUNNING"),
        "recordsSynced": run.committed,
        "bytesSynced": run.committed_bytes,
        "startedAt": wire.instant(run.queued_at),
        "completedAt": wire.moment(run.ended_at),
        "durationMs": None if took is None else took // timedelta(milliseconds=1),
    }
    if details:
        errors = [run.error, *(s.error for s in run.streams)]
        body["errorMessage"] = next((f"{e.message}. {e.remedy or ''}".strip() for e in errors if e), None)
        body["tablesAffected"] = [s.stream for s in run.streams if s.committed]
        body["recordsRejected"] = sum(s.counts.rejected for s in run.streams)
        body["streams"] = [
            {
                "name": s.stream,
                "status": s.status.value.upper(),
                "recordsSynced": s.committed,
                "recordsRead": s.counts.read,
                "recordsRejected": s.counts.rejected,
                "errorMessage": s.error.message if s.error else None,
            }
            for s in run.streams
        ]
    return body


def tuning(knobs: Tuning) -> dict[str, Any]:
    return {
        "batchSize": knobs.batch_rows,
        "parallelism": knobs.parallelism,
        "checkpointIntervalSec": int(knobs.commit_interval.total_seconds()),
        "maxRetries": knobs.max_retries,
        "retryBackoffMs": knobs.retry_backoff // timedelta(milliseconds=1),
        "dlqEnabled": knobs.reject_limit != 0,
    }


def tuned(knobs: Tuning, body: Mapping[str, Any]) -> Tuning:
    """The knobs with those of the body; the others stay. Raises Refused (400)."""
    given = {**tuning(knobs), **{name: value for name, value in body.items() if value is not None}}
    for name, (least, most) in _RANGES.items():
        value = given[name]
        if (
            not isinstance(value, int)
            or isinstance(value, bool)
            or (name in body and not least <= value <= most)
        ):
            raise Refused(400, f"{name} must be a whole number from {least} to {most}")
    if not isinstance(given["dlqEnabled"], bool):
        raise Refused(400, "dlqEnabled must be true or false")
    return replace(
        knobs,
        batch_rows=given["batchSize"],
        parallelism=given["parallelism"],
        commit_interval=timedelta(seconds=given["checkpointIntervalSec"]),
        max_retries=given["maxRetries"],
        retry_backoff=timedelta(milliseconds=given["retryBackoffMs"]),
        reject_limit=(knobs.reject_limit or None) if given["dlqEnabled"] else 0,
    )
