"""Tables of Parquet files in a folder or an object store, with a log of commits beside them."""

from __future__ import annotations

from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl

from pydantic import field_validator

from headrace.connector import Capability, ConnectorSpec, Maturity, setting
from headrace.connector.files import StorageConfig
from headrace.errors import ConfigError


class ParquetConfig(StorageConfig):
    """Settings of a Parquet target."""

    schemes: ClassVar[tuple[str, ...]] = ("parquet",)

    url: str = setting(
        "The folder that holds the tables: a local path, s3://, gs:// or az://.",
        min_length=1,
        examples=["./out", "s3://bucket/lake"],
    )
    partition_by: tuple[str, ...] = setting(
        "Columns whose values give each row its folder (country=DE); they stay in the files too.", default=()
    )
    compression: Literal["zstd", "snappy", "gzip", "none"] = setting(
        "Compression of the files.", default="zstd"
    )
    compression_level: int | None = setting(
        "Level of zstd or gzip; the default is the fastest.", default=None, ge=1, le=22, advanced=True
    )
    max_file_size_mb: int = setting("Size at which a file is full.", default=128, ge=1, le=4096)
    row_group_rows: int = setting("Rows in one row group.", default=250_000, ge=1, advanced=True)
    keep_replaced_hours: float = setting(
        "How long the files of a replaced table stay for those who still read them.",
        default=24.0,
        ge=0,
        advanced=True,
    )

    @field_validator("partition_by", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @classmethod
    def from_url(cls, url: str) -> dict[str, Any]:
        """`parquet:./out` or `parquet:s3://bucket/lake?partition_by=country`."""
        place, _, query = url.partition(":")[2].partition("?")
        raw: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True))
        if not place or "url" in raw:
            raise ConfigError(
                "parquet.url",
                f"{url!r} names no folder",
                field="url",
                remedy="Write parquet:./folder or parquet:s3://bucket/folder.",
            )
        return {**raw, "url": place}


SPEC = ConnectorSpec(
    name="parquet",
    title="Parquet files",
    version="1",
    config=ParquetConfig,
    target="headrace.connectors.parquet.target:ParquetTarget",
    capabilities=frozenset({Capability.APPEND, Capability.REPLACE}),
    maturity=Maturity.STABLE,
    category="files",
)
