"""Compare a stream with its table, and do what the pipeline's schema policy says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from headrace.connector import Stream, Target, WriteMode
from headrace.errors import ConfigError
from headrace.model.pipeline import SchemaPolicy


class SchemaChanged(ConfigError):
    """The policy wants a person to look before the stream goes on."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How a stream's image differs from the table that stands there. Texts are for people."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.gone)

    def __str__(self) -> str:
        parts = [
            f"{label} {', '.join(texts)}"
            for label, texts in (("new:", self.added), ("other type:", self.changed), ("gone:", self.gone))
            if texts
        ]
        return "; ".join(parts)


def difference(table: pa.Schema, image: pa.Schema) -> Difference:
    """What `image` has that `table` has not, and the reverse. A narrower type fits and is no difference."""
    have = {field.name: field.type for field in table}
    want = {field.name: field.type for field in image}
    return Difference(
        added=tuple(f"{n} ({t})" for n, t in want.items() if n not in have),
        changed=tuple(
            f"{n} ({have[n]} → {t})" for n, t in want.items() if n in have and not _fits(t, have[n])
        ),
        gone=tuple(f"{n} ({t})" for n, t in have.items() if n not in want),
    )


def _fits(narrow: pa.DataType, wide: pa.DataType) -> bool:
    """Does every value of `narrow` have its place in a column of type `wide`?"""
    if narrow == wide:
        return True
    try:
        both = pa.unify_schemas(
            [pa.schema([("c", wide)]), pa.schema([("c", narrow)])], promote_options="permissive"
        )
    except pa.ArrowTypeError:
        return False
    # decimals and floats promote to each other, but a float holds no decimal exactly
    if pa.types.is_floating(wide) and not pa.types.is_floating(narrow):
        return False
    return bool(both.field(0).type == wide)


def _check_key(stream: Stream, mode: WriteMode, table: pa.Schema) -> None:
    missing = [name for name in stream.primary_key if name not in table.names]
    if mode is WriteMode.UPSERT and missing:
        raise ConfigError(
            "schema.key_missing",
            f"the table of {stream.id} has no column {missing[0]!r}, which is of the key",
            field="schema_policy",
            remedy="Let the table evolve (schema_policy: evolve), or name another key.",
        )


class Landing(NamedTuple):
    """A stream as it shall be written, how its table differed, and whether there was one."""

    stream: Stream
    found: Difference
    stood: bool


def land(
    target: Target[Any], stream: Stream, mode: WriteMode, policy: SchemaPolicy, *, ours: bool
) -> Landing:
    """Make the target's table ready for `stream`.

    `ours` says that this pipeline has published into the table before. A table of somebody else is
    never given new columns. Raises ConfigError when table and stream do not go together.
    """
    table = target.describe(stream)
    if table is None:
        target.prepare(stream, mode)
        return Landing(stream, Difference(), stood=False)
    found = difference(table, target.image(stream))
    if found and policy in (SchemaPolicy.PAUSE, SchemaPolicy.FAIL):
        raise SchemaChanged(
            "schema.changed",
            f"{stream.id} no longer fits its table: {found}",
            field="schema_policy",
            remedy="Look at the difference, then run once with schema_policy: evolve, or choose the columns.",
        )
    if (found.added or found.changed) and not ours:
        raise ConfigError(
            "schema.foreign_table",
            f"the table {stream.id} was not written by this pipeline, and has another schema: {found}",
            field="target",
            remedy="Give the stream another target table, or drop or alter the one that stands there.",
        )
    if policy is SchemaPolicy.IGNORE:
        if found.changed:
            raise ConfigError(
                "schema.type_changed",
                f"the table of {stream.id} cannot hold it unchanged: {found}",
                field="schema_policy",
                remedy="Cast the column in a transform, or let the table evolve (schema_policy: evolve).",
            )
        _check_key(stream, mode, table)
        stream = replace(stream, schema=pa.schema([f for f in stream.schema if f.name in table.names]))
    target.prepare(stream, mode)
    return Landing(stream, found, stood=True)
