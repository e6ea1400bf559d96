"""The settings of a PostgreSQL connection, as a source and as a target."""

from __future__ import annotations

import difflib
import warnings
from typing import Any, ClassVar, Literal, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from pydantic import field_validator, model_validator

from headrace.connector import Config, Secret, setting
from headrace.connector.network import Ssh, Tls, one_host
from headrace.errors import ConfigError

SslMode = Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

# what may follow `?` in an address, and the setting it means
_URL_OPTIONS = {
    "sslmode": "ssl_mode",
    "ssl_mode": "ssl_mode",
    "connect_timeout": "connect_timeout",
    "schema": "schema",
    "schemas": "schemas",
}
# options of libpq that name a file, or make it read one
_FILE_OPTIONS = {
    "service": "host, port, database, username",
    "servicefile": "host, port, database, username",
    "passfile": "password",
    "sslrootcert": "ssl.ca",
    "sslcert": "ssl.cert",
    "sslkey": "ssl.key",
    "sslcrl": "ssl.ca",
    "sslcrldir": "ssl.ca",
    "sslkeylogfile": "nothing",
}


with warnings.catch_warnings():
    # "schema" is the user's word for it; what it hides is BaseModel.schema, which pydantic has retired
    warnings.simplefilter("ignore", UserWarning)

    class PostgresConfig(Config):
        """How to reach one database."""

        schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres")

        host: str = setting("The name or address of the server.")
        port: int = setting("The port of the server.", default=5432, ge=1, le=65535)
        database: str = setting("The database to connect to.", min_length=1)
        username: str = setting("The role to log in as.", min_length=1)
        password: Secret | None = setting("The password of the role.", default=None)
        schemas: tuple[str, ...] = setting(
            "Source: the schemas to look for tables in. Empty means all that the role may read.", default=()
        )
        schema: str = setting(  # type: ignore[assignment]
            "Target: the schema of tables whose stream names none.",
            default="public",
            min_length=1,
            max_length=63,
        )
        ssl_mode: SslMode = setting(
            "Whether the connection is encrypted and the server's certificate checked, in libpq's words.",
            default="prefer",
        )
        ssl: Tls = setting("Certificates and keys, as PEM text.", default=Tls(), advanced=True)
        ssh: Ssh | None = setting("An SSH server to go through.", default=None, advanced=True)
        connect_timeout: int = setting(
            "Seconds to wait for a connection.", default=10, ge=2, le=600, advanced=True
        )

        @field_validator("host")
        @classmethod
        def _one_host(cls, value: str) -> str:
            return one_host(value)

        @field_validator("database", "username", "schema")
        @classmethod
        def _no_nul(cls, value: str) -> str:
            if "\0" in value:
                raise ValueError("holds a NUL character")
            return value

        @field_validator("schemas", mode="before")
        @classmethod
        def _split(cls, value: Any) -> Any:
            return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

        @model_validator(mode="after")
        def _authority(self) -> Self:
            if self.ssl_mode == "verify-ca" and self.ssl.ca is None:
                raise ValueError("ssl_mode verify-ca needs ssl.ca, the certificate of the authority")
            return self

        @classmethod
        def from_url(cls, url: str) -> dict[str, Any]:
            """Settings from `postgresql://user:password@host:port/database?sslmode=require`."""
            try:
                parts = urlsplit(url)
                port = parts.port
                valid = bool(parts.hostname) and not parts.fragment
            except ValueError:
                valid = False
            if not valid:
                raise ConfigError(
                    "postgres.url",
                    "the address is not one of a PostgreSQL database",
                    remedy="Write postgresql://me:${PGPASSWORD}@host:5432/name; %-encode what is special.",
                )
            raw: dict[str, Any] = {"host": unquote(parts.hostname or "")}
            if port:
                raw["port"] = port
            if parts.username:
                raw["username"] = unquote(parts.username)
            if parts.password is not None:
                raw["password"] = unquote(parts.password)
            if database := unquote(parts.path.lstrip("/")):
                raw["database"] = database
            for name, value in parse_qsl(parts.query, keep_blank_values=True):
                raw[_setting_of(name)] = value
            return raw


def _setting_of(option: str) -> str:
    """The setting that an option in an address means."""
    if option in _URL_OPTIONS:
        return _URL_OPTIONS[option]
    if option in _FILE_OPTIONS:
        raise ConfigError(
            "postgres.url_file_option",
            f"the option {option!r} makes the driver read a file, which an address may not do",
            field=option,
            remedy=f"Give the content as a setting instead: {_FILE_OPTIONS[option]}.",
        )
    near = difflib.get_close_matches(option, _URL_OPTIONS, n=1)
    raise ConfigError(
        "postgres.url_option",
        f"the option {option!r} is not taken in an address",
        field=option,
        remedy=f"Did you mean {near[0]!r}?" if near else f"Options are: {', '.join(sorted(_URL_OPTIONS))}.",
    )
