"""From a pipeline and what its source has to the streams of one run; changes nothing anywhere."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from headrace.connector import (
    Capability,
    ConnectorSpec,
    Position,
    ReadMode,
    Selection,
    Source,
    Stream,
    StreamRead,
    Target,
    Token,
    Transform,
    WriteMode,
)
from headrace.engine import schema
from headrace.engine.retry import report
from headrace.engine.transform import CHANGE_COLUMN, MakeTransform, landing_schema, steps_for
from headrace.errors import ConfigError, HeadraceError, NotFoundError
from headrace.model.pipeline import Pipeline, StreamChoice, TransformStep
from headrace.model.stream import join_name, split_name

if TYPE_CHECKING:
    from headrace.engine.executors import Executor


READ_IN_FULL = "nothing tells new rows from old ones here: it is read in full"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run needs besides memory. `source` and `target` open a new connection at each call.

    `executor` makes what stages the slices of loads elsewhere; None means threads of this process.
    """

    pipeline: Pipeline
    source_spec: ConnectorSpec
    target_spec: ConnectorSpec
    source: Callable[[], Source[Any]]
    target: Callable[[], Target[Any]]
    transform: MakeTransform
    executor: Callable[[], Executor] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStream:
    """One stream of a run: how it is read, what happens to it, and how it lands.

    `landed` is named and shaped as it shall stand in the target; its primary key is the key of upserts.
    """

    read: StreamRead
    landed: Stream
    write: WriteMode
    steps: tuple[TransformStep, ...] = ()
    transforms: tuple[Transform, ...] = ()
    fingerprint: str = ""
    note: str = ""  # what people should know of how it was planned

    @property
    def id(self) -> str:
        return self.read.stream.id

    @property
    def names_changes(self) -> bool:
        """In append mode a change log becomes a column."""
        return self.write is WriteMode.APPEND and self.read.mode is ReadMode.CHANGES


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a run would do to one stream, for `headrace plan`."""

    stream: str
    read: ReadMode | None = None
    write: WriteMode | None = None
    target: str | None = None
    creates: bool = False
    difference: schema.Difference = field(default_factory=schema.Difference)
    position: Position | None = None
    rows: int | None = None
    error: HeadraceError | None = None


def position_of(token: Token | None) -> Position:
    """The source's position inside a token (the engine wraps it, see `commit.Mark`)."""
    found: Position = token.position["at"] if token else {}
    return found


def resolve(job: Job, source: Source[Any]) -> tuple[list[PlannedStream], dict[str, HeadraceError]]:
    """The streams of a run, and the choices that cannot be met, each with its error."""
    choices = job.pipeline.streams
    found = list(source.discover(Selection(include=tuple(c.stream for c in choices))))
    planned: dict[str, PlannedStream] = {}
    errors: dict[str, HeadraceError] = {}
    for stream in found:
        choice = _choice(choices, stream.id)
        if choice is None:
            continue
        try:
            planned[stream.id] = _planned(job, choice, stream)
        except HeadraceError as error:
            errors[stream.id] = error
    for choice in choices:
        if not any(_matches(choice.stream, s.id) for s in found):
            errors[choice.stream] = _missing(choice.stream, source)
    _refuse_shared_tables(planned, errors)
    return list(planned.values()), errors


def _matches(pattern: str, stream_id: str) -> bool:
    return stream_id == pattern or fnmatchcase(stream_id, pattern)


def _choice(choices: Sequence[StreamChoice], stream_id: str) -> StreamChoice | None:
    """The choice that speaks for a stream: its own name before a pattern."""
    exact = [c for c in choices if c.stream == stream_id]
    return next(iter(exact + [c for c in choices if fnmatchcase(stream_id, c.stream)]), None)


def _missing(name: str, source: Source[Any]) -> HeadraceError:
    if not set(name) & set("*?[") and (why := source.unreadable(name)):
        return why
    known = [stream.id for stream in source.discover()]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [
        k for k in known if k.endswith(f".{name}")
    ]
    shown = ", ".join(known[:10]) + (" …" if len(known) > 10 else "")
    remedy = (
        f"Did you mean {near[0]}?"
        if near
        else f"The source has: {shown}"
        if known
        else "The source is empty."
    )
    return NotFoundError(
        "plan.stream_missing", f"the source has no stream {name!r}", field="streams", remedy=remedy
    )


def _planned(job: Job, choice: StreamChoice, stream: Stream) -> PlannedStream:
    asked, choice = choice, _readable(choice, stream)
    write = _write_mode(choice, stream)
    _check_capabilities(job, choice, write)
    chosen = replace(stream, schema=_columns(choice, stream))
    steps = steps_for(job.pipeline.transforms, stream.id)
    transforms = tuple(job.transform(step.name, step.settings) for step in steps)
    landed = landing_schema(transforms, stream.id, chosen.schema)
    read = StreamRead(
        stream=chosen,
        mode=choice.read,
        cursor=choice.cursor,
        look_back=choice.look_back,
        filter=choice.filter,
    )
    if write is WriteMode.APPEND and choice.read is ReadMode.CHANGES:
        landed = landed.append(pa.field(CHANGE_COLUMN, pa.string()))
    namespace, name = stream.namespace, stream.name
    if choice.target:
        *spaces, name = split_name(choice.target)
        namespace = ".".join(spaces) or stream.namespace
    key = choice.key or stream.primary_key
    if write is WriteMode.UPSERT or choice.key:
        _check_key(key, landed, stream.id)
    elif not set(key) <= set(landed.names):
        key = ()
    return PlannedStream(
        read=read,
        landed=Stream(name=name, namespace=namespace, schema=landed, primary_key=key),
        write=write,
        steps=steps,
        transforms=transforms,
        fingerprint=_fingerprint(job.pipeline, choice, write, landed, join_name(namespace, name)),
        note=READ_IN_FULL if asked.read is not choice.read else "",
    )


def _readable(choice: StreamChoice, stream: Stream) -> StreamChoice:
    """The choice with the cursor that it leaves to us."""
    if choice.read is not ReadMode.INCREMENTAL or choice.cursor or not choice.or_full:
        return choice
    if stream.default_cursor is None:
        return replace(choice, read=ReadMode.FULL)
    return replace(choice, cursor=stream.default_cursor)


def _write_mode(choice: StreamChoice, stream: Stream) -> WriteMode:
    if choice.write is WriteMode.REPLACE and choice.read is not ReadMode.FULL:
        raise ConfigError(
            "plan.replace_needs_full",
            f"{stream.id}: an {choice.read} read brings only what is new, so it can't replace the table",
            field="mode",
            remedy="Use mode append or upsert, or read full.",
        )
    if choice.write:
        return choice.write
    if choice.read is ReadMode.FULL:
        return WriteMode.REPLACE
    return WriteMode.UPSERT if choice.key or stream.primary_key else WriteMode.APPEND


def _check_capabilities(job: Job, choice: StreamChoice, write: WriteMode) -> None:
    for spec, wanted, what in (
        (job.source_spec, Capability(choice.read.value), f"be read in mode {choice.read}"),
        (job.target_spec, Capability(write.value), f"be written in mode {write}"),
    ):
        if wanted not in spec.capabilities:
            able = sorted(c for c in spec.capabilities if c.value in _MODES)
            raise ConfigError(
                "plan.not_able",
                f"{choice.stream}: {spec.title} can't {what}",
                field="mode",
                remedy=f"It can do: {', '.join(able)}.",
            )
    if choice.filter and Capability.FILTER not in job.source_spec.capabilities:
        raise ConfigError(
            "plan.no_filter",
            f"{choice.stream}: {job.source_spec.title} can't filter rows",
            field="filter",
            remedy="Leave the filter out.",
        )


_MODES = {*(m.value for m in ReadMode), *(m.value for m in WriteMode)}


def _columns(choice: StreamChoice, stream: Stream) -> pa.Schema:
    if not choice.columns:
        return stream.schema
    for name in choice.columns:
        if name not in stream.schema.names:
            near = difflib.get_close_matches(name, stream.schema.names, n=1)
            raise NotFoundError(
                "plan.column_missing",
                f"{stream.id} has no column {name!r}",
                field="columns",
                remedy=f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(stream.schema.names)}.",
            )
    return pa.schema([stream.schema.field(name) for name in choice.columns])


def _check_key(key: tuple[str, ...], landed: pa.Schema, stream: str) -> None:
    if not key:
        raise ConfigError(
            "plan.no_key",
            f"{stream} has no primary key, and mode upsert needs one",
            field="key",
            remedy="Name the columns that identify a row (key), or use mode append or replace.",
        )
    for name in key:
        if name not in landed.names:
            raise ConfigError(
                "plan.key_missing",
                f"{stream}: the key column {name!r} is not among the columns written",
                field="key",
                remedy=f"Choose the key among: {', '.join(landed.names)}.",
            )


def _fingerprint(
    pipeline: Pipeline, choice: StreamChoice, write: WriteMode, landed: pa.Schema, table: str
) -> str:
    """Equal only if rows staged by an earlier attempt are those that this one would stage.

    It starts with the table, so that `same_table` can tell.
    """
    parts: Mapping[str, Any] = {
        "choice": repr(choice),
        "write": write,
        "landed": landed.to_string(show_field_metadata=False, show_schema_metadata=False),
        "transforms": [(t.name, repr(sorted(t.settings.items())), t.streams) for t in pipeline.transforms],
    }
    return f"{_digest([pipeline.target, table])}.{_digest(parts)}"


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, default=str).encode()).hexdigest()[:16]


def same_table(one: str, other: str) -> bool:
    """Do the plans behind these two fingerprints write into the same table?"""
    return one.split(".", maxsplit=1)[0] == other.split(".", maxsplit=1)[0]


def _refuse_shared_tables(planned: dict[str, PlannedStream], errors: dict[str, HeadraceError]) -> None:
    """Two streams of one pipeline into one table would take each other's tokens for their own."""
    seen: dict[str, str] = {}
    for stream in list(planned.values()):
        first = seen.setdefault(stream.landed.id, stream.id)
        if first != stream.id:
            del planned[stream.id]
            errors[stream.id] = ConfigError(
                "plan.shared_table",
                f"{stream.id} and {first} would both be written to {stream.landed.id}",
                field="target",
                remedy="Give one of them another target table, or put it into a pipeline of its own.",
            )


def plan(job: Job) -> list[Outlook]:
    """What a run would do now. Reads source and target, changes neither."""
    source, target = job.source(), job.target()
    try:
        planned, errors = resolve(job, source)
        outlooks = [_outlook(job, target, stream) for stream in planned]
        return outlooks + [Outlook(stream=name, error=error) for name, error in errors.items()]
    finally:
        source.close()
        target.close()


def _outlook(job: Job, target: Target[Any], stream: PlannedStream) -> Outlook:
    outlook = Outlook(
        stream=stream.id,
        read=stream.read.mode,
        write=stream.write,
        target=stream.landed.id,
        rows=stream.read.stream.rows,
    )
    try:
        table = target.describe(stream.landed)
        image = target.image(stream.landed)
        token = target.committed(stream.landed, job.pipeline.id)
    except HeadraceError as error:
        return replace(outlook, error=report(error))
    return replace(
        outlook,
        creates=table is None,
        difference=schema.difference(table, image) if table is not None else schema.Difference(),
        position=position_of(token),
    )
