"""What an Iceberg connection needs: a catalogue, a warehouse, and how tables are laid out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from pydantic import field_validator, model_validator

from headrace.connector import Config, Secret, setting
from headrace.errors import ConfigError

PARTITION = re.compile(
    r"(?:(identity|year|month|day|hour)\((.+)\)|(bucket|truncate)\(\s*(\d+)\s*,\s*(.+)\)|([^()]+))"
)

_IN_QUERY = {"warehouse", "namespace", "token", "credential", "catalog_name", "scope"}


class S3(Config):
    """How to reach an S3 service; what is absent is found the way the AWS tools find it."""

    endpoint: str | None = setting("URL of an S3 service other than Amazon's.", default=None)
    region: str | None = setting("Region of the bucket.", default=None)
    access_key_id: str | None = setting("Access key.", default=None)
    secret_access_key: Secret | None = setting("Secret of the access key.", default=None)
    session_token: Secret | None = setting("Session token of temporary keys.", default=None, advanced=True)
    path_style: bool = setting(
        "Address buckets by path rather than by host name.", default=True, advanced=True
    )


class IcebergConfig(Config):
    """One catalogue and its warehouse."""

    schemes: ClassVar[tuple[str, ...]] = ("iceberg",)

    catalog_type: Literal["sql", "rest", "glue", "hive"] = setting("Kind of catalogue.", default="sql")
    uri: str | None = setting(
        "Address of the catalogue: a database URL, a REST or a thrift address; "
        "without one, a SQLite file in the warehouse folder.",
        default=None,
    )
    password: Secret | None = setting("Password of the catalogue's database.", default=None)
    warehouse: str | None = setting(
        "Where tables are kept: a folder, an object-store URL, or a REST catalogue's own name.", default=None
    )
    namespace: str | None = setting(
        "Namespace of all tables; without one, the stream's own, or `default`.", default=None
    )
    catalog_name: str = setting(
        "Name under which a SQL catalogue lists its tables.", default="default", advanced=True
    )
    credential: Secret | None = setting("OAuth2 client of a REST catalogue, as id:secret.", default=None)
    token: Secret | None = setting("Bearer token of a REST catalogue.", default=None)
    scope: str | None = setting("OAuth2 scope of a REST catalogue.", default=None, advanced=True)
    s3: S3 | None = setting("Access to S3.", default=None)
    format_version: Literal[1, 2] = setting("Format version of new tables.", default=2, advanced=True)
    partition_spec: dict[str, list[str]] = setting(
        "Partitioning of new tables, by stream: columns, or year(c), month(c), day(c), hour(c), "
        "bucket(n, c), truncate(n, c).",
        default={},
        examples=[{"public.orders": ["day(created_at)", "bucket(16, id)"]}],
    )
    target_file_size_mb: int = setting("Size at which a data file is closed.", default=128, ge=1, le=4096)
    compression: Literal["zstd", "snappy", "gzip", "lz4", "uncompressed"] = setting(
        "Compression of data files.", default="zstd", advanced=True
    )
    compression_level: int = setting(
        "Level of zstd or gzip compression.", default=1, ge=1, le=22, advanced=True
    )

    @field_validator("partition_spec")
    @classmethod
    def _known_transforms(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        for table, fields in value.items():
            for text in fields:
                if not PARTITION.fullmatch(text.strip()):
                    raise ValueError(f"{text!r} (of {table}) is not a partition transform")
        return value

    @field_validator("uri")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        if value is not None and urlsplit(value).password is not None:
            raise ValueError("the password belongs in the setting 'password', where it is kept secret")
        return value

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.catalog_type == "sql" and not self.warehouse:
            raise ValueError("a SQL catalogue needs the setting 'warehouse'")
        if (
            self.catalog_type == "sql"
            and not self.uri
            and "://" in (self.warehouse or "").removeprefix("file://")
        ):
            raise ValueError("a warehouse in an object store needs the setting 'uri' of a catalogue")
        if self.catalog_type in ("rest", "hive") and not self.uri:
            raise ValueError(f"a {self.catalog_type} catalogue needs the setting 'uri'")
        return self

    @classmethod
    def from_url(cls, url: str) -> dict[str, Any]:
        """`iceberg:FOLDER`, `iceberg:sql+DATABASE-URL?warehouse=…` or `iceberg:rest+https://…?warehouse=…`."""
        rest = url.removeprefix("iceberg:")
        kind, plus, address = rest.partition("+")
        if kind not in ("sql", "rest", "hive") or not plus or "://" not in address:
            if not rest or "://" in rest.removeprefix("file://"):
                raise ConfigError(
                    "iceberg.bad_url",
                    "the address names no folder and no catalogue",
                    remedy="Write iceberg:./folder, iceberg:rest+https://host?warehouse=name "
                    "or iceberg:sql+postgresql://user@host/database?warehouse=s3://bucket/path.",
                )
            return {"warehouse": str(Path(rest.removeprefix("file://")).expanduser().absolute())}
        parts = urlsplit(address)
        query = dict(parse_qsl(parts.query))
        settings: dict[str, Any] = {
            "catalog_type": kind,
            **{k: v for k, v in query.items() if k in _IN_QUERY},
        }
        if unknown := sorted(set(query) - _IN_QUERY):
            raise ConfigError(
                "iceberg.bad_url",
                f"the address has an unknown part {unknown[0]!r}",
                remedy=f"What may follow the question mark: {', '.join(sorted(_IN_QUERY))}.",
            )
        host = parts.netloc
        if parts.password is not None:
            settings["password"] = unquote(parts.password)
            user, _, where = host.rpartition("@")
            host = f"{user.partition(':')[0]}@{where}"
        scheme = "postgresql+psycopg" if parts.scheme in ("postgresql", "postgres") else parts.scheme
        settings["uri"] = urlunsplit((scheme, host, parts.path, "", ""))
        return settings
