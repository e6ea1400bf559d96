"""The settings of the files source, and its one-line addresses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qsl

from headrace.connector import Config, setting
from headrace.connector.files import SCHEMES, StorageConfig, split_url
from headrace.connector.files.options import CsvOptions, Format
from headrace.connector.files.storage import SECTIONS, WILD
from headrace.errors import ConfigError

_IN_ADDRESS = ("region", "endpoint", "path_style", "account", "ambient_credentials")
_SECRETS = (
    "access_key_id",
    "secret_access_key",
    "session_token",
    "access_key",
    "sas_token",
    "service_account_key",
)

_QUERY = re.compile(r"\w+=[^&]*(&\w+=[^&]*)*")


class Reading(Config):
    """How files are read, wherever they are."""

    types: dict[str, str] = setting(
        "Types of columns by name, in place of those found: boolean, integer, decimal(p, s), double, date, "
        "timestamp, timestamp_tz, time or string.",
        default={},
        examples=[{"amount": "decimal(38, 4)", "code": "string"}],
    )
    include_metadata: bool = setting(
        "Add the columns _file and _modified: each row's file and when that was last changed.", default=False
    )
    settle_seconds: float = setting(
        "Leave out files changed within so many seconds before the run, as they may still be being written.",
        default=0,
        ge=0,
    )
    sample_bytes: int = setting(
        "How much text to look at for the types of columns, over all files of a stream. A later value that "
        "does not fit its column is rejected with its reason.",
        default=16 << 20,
        ge=1024,
        advanced=True,
    )


class FilesConfig(Reading, StorageConfig):
    """`url` alone is one stream; `streams` makes several of the files under it."""

    schemes: ClassVar[tuple[str, ...]] = SCHEMES

    url: str = setting(
        "A file, a folder or a pattern: a local path, or a URL that starts with s3://, gs:// or az://. "
        "In a pattern * and ? stay within a folder, ** crosses folders.",
        examples=["./data/*.csv", "s3://bucket/events/**/*.parquet"],
        min_length=1,
    )
    stream: str | None = setting(
        "Name of the stream; the default is made of the file's or pattern's name.", default=None, min_length=1
    )
    streams: dict[str, str] = setting(
        "Several streams from the folder in url: for each a name and a pattern in that folder.",
        default={},
        examples=[{"orders": "orders-*.csv", "customers": "crm/customers.jsonl"}],
    )
    format: Format | None = setting(
        "Format of the files; the default is told by each file's name.", default=None
    )
    csv: CsvOptions = setting("How csv and tsv files are written.", default=CsvOptions())

    @classmethod
    def from_url(cls, url: str) -> dict[str, Any]:
        """`file:./data/*.csv`, or `s3://bucket/*.csv?region=eu-west-1&format=csv`.

        Secrets have no place in an address. Raises ConfigError.
        """
        base, _, query = url.rpartition("?")  # earlier ones stand for a character each
        section = SECTIONS.get(url.partition(":")[0])
        if section is None or not _QUERY.fullmatch(query) or not base:
            split_url(url)
            return {"url": url.removeprefix("file:") if url.startswith("file:") and url[5:7] != "//" else url}
        split_url(base)
        settings: dict[str, Any] = {"url": base}
        access: dict[str, str] = {}
        for key, value in parse_qsl(query):
            if key in ("format", "stream"):
                settings[key] = value
            elif key in _IN_ADDRESS:
                access[key] = value
            else:
                raise ConfigError(
                    "files.address_setting",
                    f"{key!r} can't be given in an address",
                    field=f"{section}.{key}" if key in _SECRETS else key,
                    remedy="Credentials go into headrace.yaml as ${ENV}, or come from the environment with "
                    "ambient_credentials=true."
                    if key in _SECRETS
                    else f"Known here are: format, stream, {', '.join(_IN_ADDRESS)}.",
                )
        return settings | ({section: access} if access else {})


def stream_name(folder: str, pattern: str) -> str:
    """`orders` for `orders-*.csv.gz`, and the folder's name for `*.csv`."""
    last = re.sub(r"\[([*?\[])\]", r"\1", pattern.rpartition("/")[2]).partition(".")[0]
    if stem := re.sub(r"\[[^]]*\]|[*?]", "", last).strip("-_ "):
        return stem
    _, bucket, path = split_url(folder)
    if not bucket:
        path = str(Path(path).expanduser().resolve())
    parts = [part for part in f"{path}/{pattern}".split("/")[:-1] if part and not WILD.search(part)]
    return parts[-1] if parts else bucket or "files"
