"""What is to be run: from the flags of one line, or from the pipelines of a project."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Option

from headrace.cli.command import UsageError

if TYPE_CHECKING:
    from headrace.cli.session import Session
    from headrace.control.endpoint import Endpoint
    from headrace.model.pipeline import Pipeline, StreamChoice

LINE = "One line, no file"
STREAMS = "How streams are read and written"
TUNING = "Tuning"


@dataclass(frozen=True, kw_only=True)
class Ends:
    source: Annotated[
        str | None,
        Option(
            "--from", help="Where to read: an address, files (./data/*.csv) or a connection's name.",
            envvar="HEADRACE_FROM", rich_help_panel=LINE, metavar="URL",
        ),
    ] = None  # fmt: skip
    target: Annotated[
        str | None,
        Option(
            "--to", help="Where to write: an address or a connection's name.",
            envvar="HEADRACE_TO", rich_help_panel=LINE, metavar="URL",
        ),
    ] = None  # fmt: skip
    stream: Annotated[
        list[str] | None,
        Option(
            "--stream",
            "-s",
            help="A stream or pattern; may be repeated.",
            rich_help_panel=LINE,
            metavar="NAME",
        ),
    ] = None
    exclude: Annotated[
        list[str] | None,
        Option(help="Leave these out; may be repeated.", rich_help_panel=LINE, metavar="NAME"),
    ] = None  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Choice:
    read: Annotated[
        Literal["full", "incremental", "changes"] | None,
        Option(help="Default: incremental with --cursor, else full.", rich_help_panel=STREAMS),
    ] = None
    mode: Annotated[
        Literal["append", "upsert", "replace"] | None,
        Option(help="Default: replace for full, else upsert by key or append.", rich_help_panel=STREAMS),
    ] = None
    cursor: Annotated[
        str | None, Option(help="The column that grows.", rich_help_panel=STREAMS, metavar="COLUMN")
    ] = None
    key: Annotated[
        list[str] | None,
        Option(
            help="What identifies a row; default: the primary key.", rich_help_panel=STREAMS, metavar="COLUMN"
        ),
    ] = None
    look_back: Annotated[
        str | None,
        Option(help="Read this much again: 30m, 1h, 2d.", rich_help_panel=STREAMS, metavar="DURATION"),
    ] = None
    columns: Annotated[
        list[str] | None, Option(help="Only these columns.", rich_help_panel=STREAMS, metavar="COLUMN")
    ] = None
    filter: Annotated[
        str | None, Option(help="Only rows that meet this.", rich_help_panel=STREAMS, metavar="SQL")
    ] = None
    target_table: Annotated[
        str | None,
        Option(help="The table to write, for one stream.", rich_help_panel=STREAMS, metavar="NAME"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Knobs:
    schema_policy: Annotated[
        Literal["evolve", "ignore", "pause", "fail"] | None,
        Option(help="When columns change.", rich_help_panel=TUNING),
    ] = None
    parallelism: Annotated[
        int | None,
        Option(min=1, max=256, help="Slices at once.", envvar="HEADRACE_PARALLELISM", rich_help_panel=TUNING),
    ] = None
    reject_limit: Annotated[
        int | None,
        Option(
            min=0,
            help="More rejected rows stop a stream.",
            envvar="HEADRACE_REJECT_LIMIT",
            rich_help_panel=TUNING,
        ),
    ] = None
    batch_rows: Annotated[
        int | None,
        Option(min=1, help="Rows in a batch.", envvar="HEADRACE_BATCH_ROWS", rich_help_panel=TUNING),
    ] = None
    max_retries: Annotated[
        int | None,
        Option(
            min=0, help="Attempts after the first.", envvar="HEADRACE_MAX_RETRIES", rich_help_panel=TUNING
        ),
    ] = None


@dataclass(frozen=True)
class Order:
    """A pipeline with the two ends that it needs open."""

    pipeline: Pipeline
    source: Endpoint
    target: Endpoint


def orders(session: Session, names: Sequence[str], ends: Ends, choice: Choice, knobs: Knobs) -> list[Order]:
    """What was asked for. Raises UsageError when the flags contradict each other."""
    if ends.source or ends.target:
        if names:
            raise UsageError(
                "cli.usage",
                "name pipelines, or give --from and --to, but not both",
                remedy="Leave one of them out.",
            )
        found = [one_line(session, ends, choice)]
    else:
        found = [named(session, name, ends, choice) for name in names or _all(session)]
    return [replace(order, pipeline=_tuned(order.pipeline, knobs)) for order in found]


def one_line(session: Session, ends: Ends, choice: Choice) -> Order:
    """The pipeline of one command line; the same line gives the same id."""
    from headrace.control.pipelines import without
    from headrace.model.pipeline import Pipeline

    if not (ends.source and ends.target):
        missing = "--to" if ends.source else "--from"
        raise UsageError(
            "cli.usage", f"{missing} is missing", field=missing, remedy="--from and --to go together."
        )
    streams = ends.stream or ["*"]
    if choice.target_table and (len(streams) > 1 or "*" in streams[0]):
        raise UsageError(
            "cli.usage",
            "--target-table is for one stream",
            field="--target-table",
            remedy="Name one stream with --stream, or describe the streams in headrace.yaml.",
        )
    source, target = session.endpoint(ends.source), session.endpoint(ends.target)
    if target.spec.target is None and target.connector == "files":
        path = ends.target.removeprefix("file:")
        raise UsageError(
            "cli.usage", f"--to {path} says where, but not as what", field="--to",
            remedy=f"Write iceberg:{path} for Iceberg tables, or parquet:{path} for Parquet files.",
        )  # fmt: skip
    choices = [_choice(name, choice) for name in streams]
    parts = (
        [(e.connector, dict(e.connection().settings)) for e in (source, target)],
        sorted(json.dumps(asdict(c), default=str, sort_keys=True) for c in choices),
        sorted(ends.exclude or ()),
    )
    digest = hashlib.sha256(json.dumps(parts, default=str, sort_keys=True).encode()).hexdigest()[:10]
    name = f"{source.connector}-{target.connector}-{digest}"
    pipeline = Pipeline(
        id=name, name=name, source=source.name, target=target.name,
        streams=without(choices, ends.exclude or (), source),
    )  # fmt: skip
    return Order(pipeline, source, target)


def named(session: Session, name: str, ends: Ends = Ends(), choice: Choice = Choice()) -> Order:
    """A pipeline of the project, or a part of it: what --stream names without what --exclude does."""
    from headrace.control.pipelines import without

    given = next((n for n, v in vars(choice).items() if v), None)
    if given:
        flag = f"--{given.replace('_', '-')}"
        raise UsageError(
            "cli.usage", f"{flag} is for a run with --from and --to", field=flag,
            remedy=f"Change the pipeline {name!r} in the project file.",
        )  # fmt: skip
    project = session.the_project
    entry = project.pipeline(name)
    id = project.pipeline_id(name)
    pipeline = entry.pipeline(id, id)
    source, target = session.connection(entry.source), session.connection(entry.target)
    session.hide_transforms(pipeline.transforms)
    streams = pipeline.streams
    if ends.stream:
        streams = tuple(_narrowed(s, streams, name) for s in ends.stream)
    left = without(streams, (*entry.exclude, *(ends.exclude or ())), source)
    return Order(replace(pipeline, streams=left), source, target)


def _all(session: Session) -> Sequence[str]:
    if session.project is None:
        raise UsageError(
            "cli.usage",
            "nothing to run: there is no headrace.yaml here",
            remedy="Give --from, --to and --stream, or write a project file with `headrace init`.",
        )
    if not session.project.pipelines:
        raise UsageError(
            "cli.usage", f"{session.project.file} has no pipelines", remedy="Describe one under `pipelines:`."
        )
    return session.project.pipelines


def _narrowed(name: str, choices: Sequence[StreamChoice], pipeline: str) -> StreamChoice:
    exact = [c for c in choices if c.stream == name]
    for choice in exact or [c for c in choices if fnmatchcase(name, c.stream)]:
        return replace(choice, stream=name)
    raise UsageError(
        "cli.usage",
        f"the pipeline {pipeline!r} has no stream {name!r}",
        field="--stream",
        remedy=f"It has: {', '.join(c.stream for c in choices)}.",
    )


def _choice(name: str, choice: Choice) -> StreamChoice:
    from headrace.cli.schema import StreamEntry, duration

    try:
        look_back = duration(choice.look_back) if choice.look_back else None
    except ValueError as error:
        raise UsageError("cli.usage", f"--look-back: {error}", field="--look-back") from None
    return StreamEntry.model_validate(
        {
            "name": name,
            "read": choice.read,
            "mode": choice.mode,
            "key": _split(choice.key),
            "cursor": choice.cursor,
            "look_back": None if look_back is None else look_back.total_seconds(),
            "columns": _split(choice.columns),
            "filter": choice.filter,
            "target": choice.target_table,
        }
    ).choice()


def _split(names: Sequence[str] | None) -> list[str]:
    return [part.strip() for name in names or () for part in name.split(",") if part.strip()]


def _tuned(pipeline: Pipeline, knobs: Knobs) -> Pipeline:
    from headrace.model.pipeline import SchemaPolicy

    given = {name: value for name, value in vars(knobs).items() if value is not None}
    policy = given.pop("schema_policy", None)
    return replace(
        pipeline,
        tuning=replace(pipeline.tuning, **given),
        schema_policy=SchemaPolicy(policy) if policy else pipeline.schema_policy,
    )
