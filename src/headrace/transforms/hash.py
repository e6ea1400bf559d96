"""Masks columns: equal values stay equal, but cannot be read or guessed without the salt."""

from __future__ import annotations

import hmac
from dataclasses import replace
from typing import Literal

import pyarrow as pa

from headrace.connector import Batch, Config, Secret, Transform, TransformSpec, setting
from headrace.errors import ConfigError
from headrace.transforms.columns import column_at, with_columns


class HashConfig(Config):
    columns: tuple[str, ...] = setting("The columns to mask.", min_length=1, examples=[["email"]])
    salt: Secret = setting(
        "Text that keys the hash; the same salt gives the same hashes everywhere.", min_length=1
    )
    algorithm: Literal["sha256", "sha512"] = setting("The hash function.", default="sha256", advanced=True)


def make(config: HashConfig) -> Transform:
    """A keyed hash (HMAC) of each value's text, or of its bytes, as hex text; null stays null."""
    key = config.salt.get_secret_value().encode()

    def masked(values: pa.Array) -> pa.Array:
        distinct = values.dictionary_encode()
        hexes = [hmac.digest(key, value, config.algorithm).hex() for value in distinct.dictionary.to_pylist()]
        return pa.array(hexes, pa.string()).take(distinct.indices)

    def hash(batch: Batch) -> Batch:
        columns = {}
        for name in config.columns:
            at = column_at(batch, name)
            columns[at] = masked(_as_bytes(batch, batch.rows.column(at), name))
        return replace(batch, rows=with_columns(batch.rows, columns))

    return hash


def _as_bytes(batch: Batch, values: pa.Array, name: str) -> pa.Array:
    type = values.type
    try:
        raw = (
            pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_fixed_size_binary(type)
        )
        return values.cast(pa.large_binary() if raw else pa.large_string()).cast(pa.large_binary())
    except pa.ArrowNotImplementedError:
        raise ConfigError(
            "hash.type",
            f"the column {name!r} of {batch.stream} is of type {type}, which has no text to hash",
            field="columns",
            remedy="Leave the column out, or cast it to text first.",
        ) from None


SPEC = TransformSpec(name="hash", title="Mask by hash", config=HashConfig, make=make)
