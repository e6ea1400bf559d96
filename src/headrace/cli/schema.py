"""The shape of headrace.yaml: what its keys are called and mean, and its JSON Schema for editors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from headrace.model.connector import ConnectorSpec
from headrace.model.pipeline import (
    Compact,
    Pipeline,
    SchemaPolicy,
    StreamChoice,
    TransformStep,
    Tuning,
    Upkeep,
    WriteMode,
)
from headrace.model.stream import ReadMode

_UNITS = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")


def duration(text: object) -> timedelta:
    """`90s`, `1h30m`, or a number of seconds. Raises ValueError."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        return timedelta(seconds=text)
    parts = list(_DURATION.finditer(str(text)))
    if not parts or "".join(p[0] for p in parts) != str(text):
        raise ValueError("write a duration with its unit: 90s, 15m, 1h30m, 2d")
    return sum((timedelta(**{_UNITS[p[2]]: float(p[1])}) for p in parts), timedelta())


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(duration), WithJsonSchema({"type": ["string", "number"]})]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_several),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class StreamEntry(Entry):
    """A stream by name or pattern (`public.*`), or with how it is read and written."""

    name: str = Field(description="A stream as `headrace discover` shows it, or a pattern: public.*")
    read: ReadMode | None = Field(None, description="full, incremental or changes.")
    mode: WriteMode | None = Field(None, description="append, upsert or replace.")
    key: Names = Field(
        (), description="The columns that identify a row; the source's primary key by default."
    )
    cursor: str | None = Field(None, description="The column whose growth marks new rows.")
    look_back: Duration | None = Field(None, description="Read this much again, for rows that came late.")
    columns: Names = Field((), description="The columns to read; all by default.")
    filter: str | None = Field(None, description="Only rows that meet this, in the source's own language.")
    target: str | None = Field(None, description="The table to write; the stream's own name by default.")

    @model_validator(mode="before")
    @classmethod
    def _just_a_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value

    def choice(self) -> StreamChoice:
        read = self.read or (ReadMode.INCREMENTAL if self.cursor else ReadMode.FULL)
        return StreamChoice(
            stream=self.name, read=read, write=self.mode, key=self.key, cursor=self.cursor,
            look_back=self.look_back, columns=self.columns, filter=self.filter, target=self.target,
        )  # fmt: skip


class TransformEntry(Entry):
    name: str = Field(description="A transform of the catalogue.")
    streams: Names = Field(("*",), description="The streams it applies to, as names or patterns.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Its settings.")

    def step(self) -> TransformStep:
        return TransformStep(name=self.name, settings=self.settings, streams=self.streams)


class TuningEntry(Entry):
    """The knobs of a pipeline; one that is left out keeps its default."""

    parallelism: int | None = Field(None, ge=1, le=256, description="Slices that run at the same time.")
    batch_rows: int | None = Field(None, ge=1, description="Rows in one batch, at most.")
    queue_bytes: int | None = Field(
        None, ge=1 << 10, description="Bytes that wait between two steps, at most."
    )
    commit_interval: Duration | None = Field(
        None, description="The longest time that rows wait for a commit."
    )
    commit_rows: int | None = Field(None, ge=1, description="Rows after which a commit is made.")
    max_retries: int | None = Field(
        None,
        ge=0,
        description="Attempts after the first, when a fault may pass; a commit starts the count anew.",
    )
    retry_backoff: Duration | None = Field(
        None, description="The wait before the second attempt; it doubles."
    )
    reject_limit: int | None = Field(None, ge=0, description="More rejected rows than this stop a stream.")
    stall_after: Duration | None = Field(None, description="Silence after which a source is taken for hung.")
    processes: bool | None = Field(None, description="Stage slices in processes rather than in threads.")

    def tuning(self) -> Tuning:
        return Tuning(**{name: getattr(self, name) for name in self.model_fields_set})


class UpkeepEntry(Entry):
    """How the tables that are written are kept in shape."""

    compact: Compact | None = Field(None, description="Compact tables of upserts, all tables, or none.")
    delete_files: int | None = Field(None, ge=1, description="Delete files at which a table is compacted.")
    small_files: int | None = Field(
        None, ge=2, description="Files more than a table's size calls for at which it is compacted."
    )
    expire_days: float | None = Field(None, ge=0, description="Snapshots older than so many days expire.")
    keep_snapshots: int | None = Field(None, ge=1, description="The last so many stay, however old.")
    orphan_days: float | None = Field(None, ge=1, description="Orphans go when they are so many days old.")
    every: Duration | None = Field(None, description="How long a table is left alone after a look at it.")

    def upkeep(self) -> Upkeep:
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return Upkeep(**{name: value for name, value in given.items() if value is not None})


class PipelineEntry(Entry):
    source: str = Field(alias="from", description="The connection that is read.")
    target: str = Field(alias="to", description="The connection that is written.")
    streams: tuple[StreamEntry, ...] = Field(
        (StreamEntry(name="*"),), description="What to move; all by default."
    )
    exclude: Names = Field((), description="Streams to leave out, as names or patterns.")
    transforms: tuple[TransformEntry, ...] = ()
    schema_policy: SchemaPolicy = Field(SchemaPolicy.EVOLVE, description="When a stream's columns change.")
    tuning: TuningEntry = TuningEntry()
    maintenance: UpkeepEntry = UpkeepEntry()

    def pipeline(self, id: str, name: str) -> Pipeline:
        return Pipeline(
            id=id, name=name, source=self.source, target=self.target,
            streams=tuple(s.choice() for s in self.streams),
            transforms=tuple(t.step() for t in self.transforms),
            schema_policy=self.schema_policy, tuning=self.tuning.tuning(),
            maintenance=self.maintenance.upkeep(),
        )  # fmt: skip


class ProjectEntry(Entry):
    """headrace.yaml: connections, and the pipelines between them."""

    project: str | None = Field(None, description="Goes before each pipeline's name, to tell projects apart.")
    connections: dict[str, Any] = Field(
        default_factory=dict, description="Where data lies, by a name of yours."
    )
    pipelines: dict[str, Any] = Field(
        default_factory=dict, description="What moves where, by a name of yours."
    )


_REFERENCE = {"type": "string", "pattern": r"\$\{"}


def json_schema(connectors: Mapping[str, ConnectorSpec]) -> dict[str, Any]:
    """The JSON Schema of the project file, with the settings of every connector that is installed."""
    schema = ProjectEntry.model_json_schema()
    pipeline = PipelineEntry.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = pipeline.pop("$defs", {})
    stream = definitions["StreamEntry"]
    definitions["StreamEntry"] = {"anyOf": [{"type": "string"}, stream]}
    definitions["Pipeline"] = pipeline
    by_url = {
        "type": "object",
        "properties": {"url": {"type": "string", "description": "A one-line address."}},
        "required": ["url"],
        "not": {"required": ["connector"]},
    }
    choices = [by_url]
    for name, spec in connectors.items():
        config = spec.config.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        definitions.update({f"{name}.{inner}": s for inner, s in config.pop("$defs", {}).items()})
        definitions[name] = {
            **config,
            "title": spec.title,
            "properties": {
                "connector": {"const": name},
                **{k: _or_reference(v) for k, v in config.get("properties", {}).items()},
            },
            "required": ["connector", *config.get("required", [])],
        }
        choices.append({"$ref": f"#/$defs/{name}"})
    properties = cast(dict[str, Any], schema["properties"])
    properties["connections"]["additionalProperties"] = {"anyOf": choices}
    properties["pipelines"]["additionalProperties"] = {"$ref": "#/$defs/Pipeline"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}


def _or_reference(setting: dict[str, Any]) -> dict[str, Any]:
    if setting.get("type") == "string":
        return setting
    about: dict[str, Any] = {k: setting[k] for k in ("title", "description", "default") if k in setting}
    return {**about, "anyOf": [setting, _REFERENCE]}
