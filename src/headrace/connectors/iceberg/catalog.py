"""Opens the catalogue, finds a stream's table in it, and turns foreign errors into ours."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    AuthorizationExpiredError,
    BadRequestError,
    CommitStateUnknownException,
    ForbiddenError,
    NoSuchNamespaceError,
    NoSuchTableError,
    NotInstalledError,
    OAuthError,
    RESTError,
    UnauthorizedError,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, ProgrammingError

from headrace.connector import Secret, egress
from headrace.connectors.iceberg.config import S3, IcebergConfig
from headrace.errors import AuthError, ConfigError, HeadraceError, NotFoundError, TransientError
from headrace.model.stream import Stream

BUSY_SECONDS = 30
CONNECT_SECONDS = 10
_OPEN_ATTEMPTS = 10
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SAFE = re.compile(r"\w[\w.-]{0,100}", re.ASCII)

Identifier = tuple[str, ...]


def open_catalog(config: IcebergConfig) -> Catalog:
    """Connect; a SQL catalogue's own tables are made if they are absent. The caller closes it."""
    properties = {
        "type": config.catalog_type,
        "py-io-impl": "headrace.connectors.iceberg.durable.DurableFileIO",
        "scope": config.scope,
        "credential": _reveal(config.credential),
        "token": _reveal(config.token),
        **_s3(config.s3 or S3()),
    }
    egress.check_url(config.s3.endpoint if config.s3 else None)
    egress.check_url(config.uri)
    if config.catalog_type != "sql":
        address = "glue.endpoint" if config.catalog_type == "glue" else "uri"
        properties |= {address: config.uri, "warehouse": config.warehouse}
        with translated("opening the catalogue"):
            return load_catalog(config.catalog_name, **{k: v for k, v in properties.items() if v})
    properties |= {"uri": _database(config), "warehouse": warehouse(config), "pool_pre_ping": "true"}
    return _open_sql(config.catalog_name, {k: v for k, v in properties.items() if v})


def unmade(config: IcebergConfig) -> bool:
    """Is the catalogue a SQLite file that is not there? To open it would be to make it."""
    if config.catalog_type != "sql":
        return False
    url = make_url(_database(config))
    return url.get_backend_name() == "sqlite" and bool(url.database) and not Path(str(url.database)).exists()


def warehouse(config: IcebergConfig) -> str | None:
    """The warehouse's URL; a plain folder becomes a file URL."""
    if not config.warehouse or config.catalog_type == "rest":
        return config.warehouse
    if "://" in config.warehouse:
        return config.warehouse.rstrip("/")
    return f"file://{_folder(config)}"


def identifier(config: IcebergConfig, stream: Stream) -> Identifier:
    """The namespace in its dotted parts, then the table's name, whatever characters it has."""
    namespace = config.namespace or stream.namespace or "default"
    parts = [part for part in namespace.split(".") if part]
    if config.catalog_type in ("glue", "hive") and len(parts) != 1:
        raise ConfigError(
            "iceberg.deep_namespace",
            f"a {config.catalog_type} catalogue has no namespace in parts as {namespace!r}",
            field="namespace",
            remedy="Set a namespace without a dot.",
        )
    return (*(parts or ["default"]), stream.name)


def location(config: IcebergConfig, name: Identifier) -> str | None:
    """Where a new table lies; None leaves it to a catalogue that has its own mind.

    A name that is no plain file name is replaced by what is plain of it and a hash of the whole, so
    that no name leaves the warehouse and no two share a folder.
    """
    base = warehouse(config)
    if not base or config.catalog_type == "rest":
        return None
    parts = [part if _SAFE.fullmatch(part) else _plain(part) for part in (".".join(name[:-1]), name[-1])]
    return "/".join((base, *parts))


def _plain(part: str) -> str:
    digest = hashlib.sha256(part.encode()).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_]+', '_', part)[:60]}-{digest}"


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Raise our errors for those of pyiceberg, its catalogues and its storage; `doing` says what failed."""
    try:
        yield
    except HeadraceError:
        raise
    except Exception as error:
        ours = translate(error, doing)
        if ours is None:
            raise
        raise ours from error


def translate(error: Exception, doing: str) -> HeadraceError | None:
    """Our error for a foreign one; None for what can only be a bug."""
    import requests  # as long to load as to commit, and spoken by some catalogues only

    said = f"{doing} failed: {_first_line(error)}"
    if isinstance(error, UnauthorizedError | AuthorizationExpiredError | OAuthError):
        return AuthError(
            "iceberg.auth", said, field="token", remedy="Check token or credential of the catalogue."
        )
    if isinstance(error, ForbiddenError):
        return AuthError("iceberg.forbidden", said, remedy="Grant the right to create and write tables.")
    if isinstance(error, NoSuchTableError | NoSuchNamespaceError):
        return NotFoundError("iceberg.table_gone", said, remedy="Run again: the table is then made anew.")
    if isinstance(error, BadRequestError):
        return ConfigError("iceberg.refused", said, remedy="Check the catalogue's address and warehouse.")
    if isinstance(error, RESTError | requests.RequestException):
        return TransientError(
            "iceberg.unavailable", said, field="uri", remedy="Check that the catalogue is up."
        )
    if isinstance(error, NotInstalledError | ModuleNotFoundError | NoSuchModuleError):
        return ConfigError(
            "iceberg.driver_missing", said, field="catalog_type", remedy="Install the extra it names."
        )
    if isinstance(error, ArgumentError):
        return ConfigError(
            "iceberg.bad_uri", said, field="uri", remedy="Write a database URL, as sqlite:///file."
        )
    if isinstance(error, DBAPIError):
        return _database_error(error, said)
    if isinstance(error, OSError):
        return _storage_error(error, said)
    if type(error).__module__.partition(".")[0] in ("botocore", "thrift", "hive_metastore"):
        return _service_error(said)
    return None


def _service_error(said: str) -> HeadraceError:
    if any(
        word in said for word in ("AccessDenied", "UnrecognizedClient", "InvalidSignature", "ExpiredToken")
    ):
        return AuthError(
            "iceberg.service_auth",
            said,
            field="s3",
            remedy="Check keys and rights for the catalogue's service.",
        )
    return TransientError(
        "iceberg.service", said, field="uri", remedy="Check that the catalogue's service can be reached."
    )


def _database_error(error: DBAPIError, said: str) -> HeadraceError | None:
    text = said.lower()
    if "authentication failed" in text or "no password supplied" in text or "access denied" in text:
        return AuthError(
            "iceberg.password", said, field="password", remedy="Check user and password of the catalogue."
        )
    if "permission denied" in text or "readonly database" in text:
        return AuthError(
            "iceberg.catalog_rights", said, field="uri", remedy="Grant the right to write the catalogue."
        )
    if "unable to open database file" in text or "does not exist" in text:
        return NotFoundError(
            "iceberg.no_catalog", said, field="uri", remedy="Check the name of the catalogue's database."
        )
    if "disk is full" in text or "no space left" in text:
        return TransientError(
            "iceberg.catalog_full", said, remedy="Make room on the catalogue's disk, then run again."
        )
    if isinstance(error, ProgrammingError):
        return None
    return TransientError(
        "iceberg.catalog_away", said, field="uri", remedy="Check that the catalogue's database is up."
    )


def _storage_error(error: OSError, said: str) -> HeadraceError:
    if error.errno in _FULL or "No space left" in said:
        return TransientError(
            "iceberg.disk_full", said, field="warehouse", remedy="Make room in the warehouse, then run again."
        )
    if isinstance(error, PermissionError) or "ACCESS_DENIED" in said:
        return AuthError(
            "iceberg.storage_rights",
            said,
            field="warehouse",
            remedy="Grant the right to write the warehouse.",
        )
    return TransientError(
        "iceberg.storage", said, field="warehouse", remedy="Check that the warehouse can be reached."
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, DBAPIError):
        error = error.orig if isinstance(error.orig, Exception) else error
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def outcome_unknown(error: Exception) -> bool:
    """Could the catalogue have committed although it raised this? Storage errors come before it is asked."""
    import requests

    if isinstance(
        error, CommitStateUnknownException | requests.RequestException | ConnectionError | TimeoutError
    ):
        return True
    definite = UnauthorizedError | ForbiddenError | BadRequestError | NoSuchTableError | OSError
    return not isinstance(error, definite)


def _reveal(secret: Secret | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _s3(s3: S3) -> dict[str, str | None]:
    return {
        "s3.endpoint": s3.endpoint,
        "client.region": s3.region,
        "client.access-key-id": s3.access_key_id,
        "client.secret-access-key": _reveal(s3.secret_access_key),
        "client.session-token": _reveal(s3.session_token),
        "s3.force-virtual-addressing": str(not s3.path_style),
    }


def _folder(config: IcebergConfig) -> Path:
    return Path(config.warehouse or ".").expanduser().absolute()


def _database(config: IcebergConfig) -> str:
    with translated("reading the setting 'uri'"):
        if config.uri is None:
            folder = Path((config.warehouse or "").removeprefix("file://")).expanduser().absolute()
            url = make_url("sqlite://").set(database=str(folder / "catalog.db"))
        else:
            url = make_url(config.uri)
        if config.password is not None:
            url = url.set(password=config.password.get_secret_value())
        patience = {"sqlite": ("timeout", BUSY_SECONDS), "postgresql": ("connect_timeout", CONNECT_SECONDS)}
        name, seconds = patience.get(url.get_backend_name(), ("", 0))
        if name and name not in url.query:
            url = url.update_query_dict({name: str(seconds)})
        return url.render_as_string(hide_password=False)


def _open_sql(name: str, properties: dict[str, str]) -> SqlCatalog:
    url = make_url(properties["uri"])
    with translated("opening the catalogue"):
        if url.get_backend_name() == "sqlite" and url.database:
            _prepare_sqlite(Path(url.database))
        for attempt in range(1, _OPEN_ATTEMPTS):
            try:
                return SqlCatalog(name, **properties)
            except DBAPIError as error:
                # Another process may be making the catalogue's tables at this very moment.
                if "exist" not in str(error) and "locked" not in str(error):
                    raise
                time.sleep(0.05 * attempt)
        return SqlCatalog(name, **properties)


def _prepare_sqlite(file: Path) -> None:
    """Readers and one writer at a time: the journal mode stays with the file."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
        raise ConfigError(
            "iceberg.no_folder",
            f"the folder {file.parent} can't be made: {error.strerror}",
            field="warehouse",
            remedy="Name a folder that is there or can be made.",
        ) from None
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(file, timeout=BUSY_SECONDS)) as database,
    ):
        database.execute("PRAGMA journal_mode=WAL")
