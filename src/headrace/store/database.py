"""One database under the store: connections, transactions, and its errors in our words."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    URL,
    Column,
    Connection,
    Engine,
    Executable,
    NullPool,
    Table,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from headrace.errors import AuthError, ConfigError, HeadraceError, NotFoundError, TransientError

if TYPE_CHECKING:  # a store in a file needs neither
    import psycopg
    from sqlalchemy.dialects import postgresql

BUSY_SECONDS = 30.0
"""How long a writer waits for another one before it gives up."""

_ADVICE_URL = "Write sqlite:///folder/headrace.db or postgresql://user@host/database."


class Database:
    """Hands out transactions; safe to use from many threads. A forked child opens its own."""

    def __init__(self, url: str):
        self.url = _parse(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        if self.is_sqlite:
            _make_file(self.url)
        self._engine = self._connect()
        self._immediate = self._engine.execution_options(immediate=True)
        # SQLite's own waiting is a poll that can starve a thread; between ours a lock is fair.
        self._writing: AbstractContextManager[Any] = threading.Lock() if self.is_sqlite else nullcontext()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        with translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that may write; nothing of it stays when the block raises.

        On SQLite it is the only writer from its first statement on. An IntegrityError passes through
        as it is, for the caller to give it a meaning.
        """
        with translated(), self._writing, self._immediate.begin() as connection:
            yield connection

    @contextmanager
    def migrate(self) -> Iterator[Connection]:
        """A transaction for changes of the schema, one process at a time."""
        engine = self._connect(migrating=True).execution_options(immediate=True)
        with translated(), self._writing, engine.begin() as connection:
            if not self.is_sqlite:
                connection.execute(select(func.pg_advisory_xact_lock(0x4EAD7ACE)))
            yield connection
            # Rebuilding a table drops it, which with foreign keys on would empty its children.
            if self.is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first():
                raise RuntimeError("a migration left a reference to nothing")

    def now(self, connection: Connection) -> datetime:
        """The moment by the one clock that all users of this database share."""
        if self.is_sqlite:
            return datetime.now(UTC)
        moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def add(self, table: Table) -> Executable:
        """An INSERT that leaves out rows which are there already, by any of the table's keys."""
        return self._insert(table).on_conflict_do_nothing()

    def put(self, table: Table, *, rising: str | None = None) -> Executable:
        """An INSERT of whole rows, each in place of the row with its primary key; `created_at` stays.

        A row whose column `rising` would go down is left as it is, and not counted in `rowcount`.
        """
        new = self._insert(table)
        kept = {"created_at", *table.primary_key.columns.keys()}
        return new.on_conflict_do_update(
            index_elements=list(table.primary_key),
            set_={c.name: new.excluded[c.name] for c in table.columns if c.name not in kept},
            where=table.c[rising] <= new.excluded[rising] if rising else None,
        ).execution_options(preserve_rowcount=True)

    def _insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        if self.is_sqlite:
            return sqlite.insert(table)
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)

    def close(self) -> None:
        self._engine.dispose()

    def _connect(self, *, migrating: bool = False) -> Engine:
        pool: dict[str, Any] = {"poolclass": NullPool} if migrating else {"max_overflow": 20}
        if not self.is_sqlite:
            arguments = {
                "connect_timeout": 10,
                "application_name": "headrace",
                "keepalives_idle": 30,
                "tcp_user_timeout": 60_000,
            }
            engine = create_engine(
                self.url, hide_parameters=True, pool_pre_ping=True, connect_args=arguments, **pool
            )
            event.listen(engine, "connect", _prepare_postgres)
            return engine
        engine = create_engine(self.url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS}, **pool)

        @event.listens_for(engine, "connect")
        def prepare(connection: sqlite3.Connection, _record: object) -> None:
            connection.isolation_level = None  # we say BEGIN ourselves, and which kind
            _use_wal(connection)
            connection.execute(f"PRAGMA foreign_keys = {'OFF' if migrating else 'ON'}")

        @event.listens_for(engine, "begin")
        def begin(connection: Connection) -> None:
            immediate = connection.get_execution_options().get("immediate")
            connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

        return engine


def _parse(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigError("store.url", "the address of the store is not a URL", remedy=_ADVICE_URL) from None
    if url.drivername in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite" and url.database and url.database != ":memory:":
        return url
    raise ConfigError(
        "store.url",
        f"the store can't live in {url.drivername}:, only in a SQLite file or in PostgreSQL",
        remedy=_ADVICE_URL,
    )


def _make_file(url: URL) -> None:
    """The file holds rejected rows: nobody else on this machine may read it."""
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            "store.cannot_open",
            f"the store {path} can't be opened: {error.strerror}",
            remedy="Choose a folder that can be written, or change its owner.",
        ) from None


def _use_wal(connection: sqlite3.Connection) -> None:
    """A file that is not in WAL yet can't switch while somebody writes, and SQLite does not wait for that."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _prepare_postgres(connection: psycopg.Connection[Any], _record: object) -> None:
    connection.autocommit = True
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"SET lock_timeout = {int(BUSY_SECONDS * 1000)}")
    connection.execute("SET idle_in_transaction_session_timeout = 60000")
    connection.autocommit = False


def taken(error: IntegrityError, *columns: Column[Any]) -> bool:
    """Is it that these columns, unique together, have these values in another row already?"""
    table = columns[0].table.name
    names = "_".join(column.name for column in columns)
    sqlite = ", ".join(f"{table}.{column.name}" for column in columns)
    text = str(error.orig)
    return text.endswith(f": {sqlite}") or f'"uq_{table}_{names}"' in text


@contextmanager
def translated() -> Iterator[None]:
    """The one place where the database's errors become ours; neither statement nor value is shown."""
    try:
        yield
    except IntegrityError:
        raise
    except PoolTimeout:
        raise _busy("every connection to the store is in use") from None
    except DBAPIError as error:
        ours = _explain(error.orig)
        if ours is None:
            raise
        raise ours from None


def _busy(message: str) -> TransientError:
    return TransientError(
        "store.busy",
        message,
        remedy="Try again; if it stays so, look for a process that holds the store for long.",
    )


def _explain(error: object) -> HeadraceError | None:
    if isinstance(error, sqlite3.Error):
        return _explain_sqlite(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    import psycopg

    if isinstance(error, psycopg.Error) and error.sqlstate:
        return _explain_postgres(error.sqlstate, "")
    if isinstance(error, psycopg.DataError) and "NUL" in str(error):
        return ConfigError("store.nul", "a text can't hold NUL", remedy="Leave it out.")
    if isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return _explain_postgres("", str(error))
    return None


def _explain_sqlite(code: int) -> HeadraceError | None:
    match code:
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return _busy(f"another process has been writing to the store for {BUSY_SECONDS:g} s")
        case sqlite3.SQLITE_FULL:
            return _disk_full()
        case sqlite3.SQLITE_IOERR:
            return TransientError(
                "store.io", "the disk under the store failed", remedy="Check the disk, then start again."
            )
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return ConfigError(
                "store.cannot_open",
                "the store can't be opened for writing",
                remedy="Check that its file and folder exist and belong to the user who runs headrace.",
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return ConfigError(
                "store.damaged",
                "the store's file is damaged or is no SQLite database",
                remedy="Restore it from a backup, or move it away: positions are read from the targets.",
            )
    return None


def _disk_full() -> TransientError:
    return TransientError(
        "store.disk_full", "the disk under the store is full", remedy="Make room, then start again."
    )


def _explain_postgres(state: str, text: str) -> HeadraceError | None:
    # libpq gives a refused connection no SQLSTATE, only the server's words.
    if state in ("28P01", "28000") or "authentication failed" in text or "no pg_hba.conf entry" in text:
        return AuthError(
            "store.auth",
            "PostgreSQL refused the user or password of the store",
            remedy="Check user and password in the store's address.",
        )
    if state == "3D000" or ("database" in text and "does not exist" in text):
        return NotFoundError(
            "store.no_database",
            "the store's database does not exist",
            remedy="Create it: createdb NAME.",
        )
    if state == "42501":
        return AuthError(
            "store.rights",
            "the store's user may not do this in its database",
            remedy="Make the user the owner of the store's database.",
        )
    if state in ("53100", "58030"):
        return _disk_full()
    if state in ("55P03", "40001", "40P01", "57014", "53300"):
        return _busy("the store's database is busy")
    if not state or state[:2] in ("08", "53", "57") or state in ("25006", "25P03"):
        return TransientError(
            "store.away",
            "the store's PostgreSQL can't be reached",
            remedy="Check that the server runs and that the store's address is right.",
        )
    return None
