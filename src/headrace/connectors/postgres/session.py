"""Opens sessions from settings alone, and says in our words what a server or the network refused."""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq

from headrace.connector import egress
from headrace.connectors.postgres.config import PostgresConfig, Tls
from headrace.errors import (
    AuthError,
    ConfigError,
    DataError,
    HeadraceError,
    NotFoundError,
    TransientError,
)

# A path at which there is never a file: libpq would else look into the home folder.
_NOWHERE = "/dev/null/none"
# Options for which empty is no value, at what libpq takes without them.
_UNSET = {
    "sslcertmode": "allow",
    "min_protocol_version": "3.0",
    "max_protocol_version": "3.0",
    "require_auth": "password,md5,gss,sspi,scram-sha-256,none",
}
_FILES = ("passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir")

# What the text of a value depends on, and how long we may take. Set after connecting, since PGTZ and
# PGDATESTYLE would win over `options`, and poolers refuse those.
_SETTINGS = {
    "DateStyle": "ISO, YMD",
    "TimeZone": "UTC",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "xmloption": "content",
    "standard_conforming_strings": "on",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "lock_timeout": "30s",
}


class Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection that takes its tunnel and its key files along when it is closed."""

    belongings: contextlib.ExitStack | None = None

    def close(self) -> None:
        super().close()
        if self.belongings is not None:
            self.belongings.close()


def connect(config: PostgresConfig) -> Session:
    """An open session in autocommit; the caller closes it. Raises our errors.

    Nothing but `config` has a say in it: neither the environment nor the files in the home folder.
    """
    with contextlib.ExitStack() as stack, translated(config):
        options = _explicit() | {
            "host": config.host,
            "port": config.port,
            "dbname": config.database,
            "user": config.username,
            "password": config.password.get_secret_value() if config.password else "",
            "sslmode": config.ssl_mode,
            "connect_timeout": config.connect_timeout,
            "client_encoding": "utf8",
            "application_name": "headrace",
            "keepalives": 1,
            "keepalives_idle": 30,
            "keepalives_interval": 10,
            "keepalives_count": 3,
        }
        options |= _key_files(config.ssl, stack)
        if config.ssl_mode == "verify-full" and config.ssl.ca is None:
            options["sslrootcert"] = "system"
        if config.ssh is not None:
            from headrace.connectors.postgres.tunnel import Tunnel

            tunnel = stack.enter_context(Tunnel(config.ssh, config.host, config.port, config.connect_timeout))
            options |= {"hostaddr": "127.0.0.1", "port": tunnel.port}
        else:  # libpq dials these, and shows the name to TLS only
            addresses = _addresses(config)
            options["hostaddr"] = ",".join(map(str, addresses))
            options["host"] = ",".join([config.host] * len(addresses))
        session = Session.connect(autocommit=True, prepare_threshold=None, **options)
        stack.callback(session.close)
        _settle(session)
        session.belongings = stack.pop_all()
    return session


def _addresses(config: PostgresConfig) -> tuple[egress.Address, ...]:
    try:
        return egress.resolve(config.host)
    except TransientError:
        raise _unknown_host(config) from None


def _unknown_host(config: PostgresConfig) -> TransientError:
    return TransientError(
        "postgres.host_unknown",
        f"there is no host {config.host!r}",
        field="host",
        remedy="Check the name, and that this machine's DNS knows it.",
    )


def _explicit() -> dict[str, Any]:
    """Every option that libpq would else take from the environment, at its built-in default."""
    options: dict[str, Any] = {}
    for option in pq.Conninfo.get_defaults():
        name = option.keyword.decode()
        if option.envvar and name != "service":
            options[name] = option.compiled.decode() if option.compiled else _UNSET.get(name, "")
    return options | dict.fromkeys(_FILES, _NOWHERE)


def _key_files(tls: Tls, stack: contextlib.ExitStack) -> dict[str, str]:
    texts = {
        "sslrootcert": tls.ca,
        "sslcert": tls.cert,
        "sslkey": tls.key.get_secret_value() if tls.key else None,
    }
    if not any(texts.values()):
        return {}
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-")))
    paths = {}
    for name, text in texts.items():
        if text is not None:
            path = folder / name
            path.touch(mode=0o600)
            path.write_text(text)
            paths[name] = str(path)
    return paths


def _settle(session: Session) -> None:
    settings = dict(_SETTINGS)
    if session.info.server_version >= 170_000:
        settings["transaction_timeout"] = "0"
    session.execute(
        "SELECT " + ", ".join("pg_catalog.set_config(%s, %s, false)" for _ in settings),
        [word for setting in settings.items() for word in setting],
    )


@contextlib.contextmanager
def translated(
    config: PostgresConfig, *, table: str | None = None, filter: str | None = None
) -> Iterator[None]:
    """Raise what psycopg raises inside as one of our errors; `table` and `filter` are what was read."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, config, table=table, filter=filter) from None


def translate(
    error: psycopg.Error, config: PostgresConfig, *, table: str | None = None, filter: str | None = None
) -> HeadraceError:
    """The one place where psycopg's errors become ours."""
    if error.sqlstate is None:
        return _connection_error(_clean(error, config), config)
    return _statement_error(error, config, table, filter)


def _clean(error: psycopg.Error, config: PostgresConfig) -> str:
    text = error.diag.message_primary or str(error)
    if config.password and (password := config.password.get_secret_value()):
        text = text.replace(password, "********")
    return " ".join(text.split())


def _connection_error(text: str, config: PostgresConfig) -> HeadraceError:
    """An error without a code: from libpq, or the server's refusal of a connection, known by its words."""
    where = f"{config.host}:{config.port}"

    def says(pattern: str) -> bool:
        return re.search(pattern, text, re.IGNORECASE) is not None

    if says("password authentication failed|no password supplied|authentication failed for user"):
        return AuthError(
            "postgres.auth.password",
            f"{where} refuses the password of role {config.username!r}"
            if config.password
            else f"{where} asks for the password of role {config.username!r}, and none was given",
            field="password",
            remedy="Check username and password; a role that does not exist is refused in the same words."
            if config.password
            else "Put ${NAME} of an environment variable there, as in postgresql://me:${PGPASSWORD}@host/database.",
        )
    if says('role ".*" (does not exist|is not permitted to log in)'):
        return AuthError(
            "postgres.auth.role",
            f"role {config.username!r} can't log in at {where}",
            field="username",
            remedy="Check the name, or let an administrator run CREATE ROLE … LOGIN.",
        )
    if says('database ".*" does not exist'):
        return NotFoundError(
            "postgres.database_missing",
            f"there is no database {config.database!r} at {where}",
            field="database",
            remedy="Check the name; names are case-sensitive here.",
        )
    if says("permission denied for database"):
        return AuthError(
            "postgres.auth.database",
            f"role {config.username!r} may not connect to database {config.database!r}",
            field="database",
            remedy=f'Its owner runs: GRANT CONNECT ON DATABASE "{config.database}" TO "{config.username}".',
        )
    if says("no pg_hba.conf entry|rejects connection"):
        return AuthError(
            "postgres.auth.pg_hba",
            f"{where} takes no such connection: {_from_fatal(text)}",
            field="ssl_mode" if says("no encryption|SSL off") else "host",
            remedy="Set ssl_mode to require if the server wants TLS, or let it add a line to pg_hba.conf.",
        )
    if says("does not support SSL"):
        return ConfigError(
            "postgres.tls.unsupported",
            f"{where} speaks no TLS, and ssl_mode is {config.ssl_mode}",
            field="ssl_mode",
            remedy="Turn on TLS at the server, or set ssl_mode to prefer or disable.",
        )
    if says("certificate verify failed|signature failure|does not match host name|server certificate for"):
        return ConfigError(
            "postgres.tls.certificate",
            f"the certificate of {where} is not trusted: {_from_fatal(text)}",
            field="ssl.ca",
            remedy="Give the authority's certificate in ssl.ca, and the host as the certificate names it.",
        )
    if says("valid client certificate|certificate required|could not load private key|certificate file"):
        return ConfigError(
            "postgres.tls.client_certificate",
            f"no usable client certificate for {where}: {_from_fatal(text)}",
            field="ssl.cert",
            remedy="Give ssl.cert and ssl.key as PEM text, the key unencrypted.",
        )
    if says("root certificate file|could not read root"):
        return ConfigError(
            "postgres.tls.authority",
            f"ssl.ca is not a certificate that can be read: {_from_fatal(text)}",
            field="ssl.ca",
            remedy="Give the PEM text of the authority's certificate.",
        )
    if says("name or service not known|could not translate host|nodename nor|failed to resolve|no address"):
        return _unknown_host(config)
    if says("refused|no route to host|network is unreachable"):
        return TransientError(
            "postgres.refused",
            f"nothing answers at {where}",
            field="host",
            remedy="Check host and port, that the server runs, and that it listens on this address.",
        )
    if says("timeout|timed out"):
        return TransientError(
            "postgres.connect_timeout",
            f"{where} did not answer within {config.connect_timeout} s",
            field="host",
            remedy="Check host, port and firewalls, or raise connect_timeout.",
        )
    if says("too many clients|connection slots|too many connections"):
        return TransientError(
            "postgres.connections_full",
            f"{where} takes no more connections",
            remedy="Lower the parallelism of the pipeline, or raise max_connections at the server.",
        )
    if says("starting up|shutting down|not yet accepting|recovery mode"):
        return TransientError(
            "postgres.not_ready", f"{where} is not ready: {_from_fatal(text)}", remedy="Wait until it is up."
        )
    if says('definition of service ".*" not found'):
        return ConfigError(
            "postgres.service",
            "the environment names a PGSERVICE that does not exist",
            remedy="Unset PGSERVICE; headrace does not use it.",
        )
    return TransientError(
        "postgres.connection_lost",
        f"the connection to {where} is gone: {_from_fatal(text)}",
        remedy="Nothing to do if this happens once; else look into the server's log.",
    )


def _from_fatal(text: str) -> str:
    """The server's or the library's own words, without the address before them."""
    return text.rpartition("FATAL: ")[2].rpartition("failed: ")[2].strip()


def _statement_error(
    error: psycopg.Error, config: PostgresConfig, table: str | None, filter: str | None
) -> HeadraceError:
    """An error that the server gave a code."""
    state, said = error.sqlstate or "", _clean(error, config)
    of = f" ({table})" if table else ""
    if state == "42501":
        denied = re.search(r"permission denied for (\w+(?: \w+)*?) (.+)$", said)
        what = table or (denied[2] if denied else config.database)
        grants = {"schema": f"GRANT USAGE ON SCHEMA {denied[2] if denied else what}"}
        grant = grants.get(denied[1] if denied else "", f"GRANT SELECT ON {what}")
        return AuthError(
            "postgres.permission",
            f"role {config.username!r}: {said}{of}",
            field="username",
            remedy=f'Its owner runs: {grant} TO "{config.username}"; a target needs the rights to write too.',
        )
    if state.startswith("28"):
        return AuthError(
            "postgres.auth.refused", said, field="username", remedy="Check username and password."
        )
    if state == "42P01":
        return NotFoundError(
            "postgres.table_missing",
            f"there is no such table any more: {said}{of}",
            field="filter" if filter and table is None else None,
            remedy="Run `headrace discover` to see the tables that there are.",
        )
    if state in ("3F000", "3D000"):
        return NotFoundError(
            "postgres.schema_missing", f"{said}{of}", field="schema", remedy="Create it, or check the name."
        )
    if filter is not None and state[:2] in ("42", "22", "21", "0A", "25"):
        return ConfigError(
            "postgres.filter",
            f"the filter does not work{of}: {said}",
            field="filter",
            remedy=f"The filter is one SQL condition on the table's columns; it reads: {filter[:200]}",
        )
    if state == "42703":
        return NotFoundError(
            "postgres.column_missing",
            f"{said}{of}",
            field="columns",
            remedy="Run `headrace discover` to see the columns that there are, and choose among them.",
        )
    if state == "57014":
        return TransientError(
            "postgres.cancelled",
            f"the server ended a statement: {said}{of}",
            remedy="Raise the statement_timeout of the role if this comes again.",
        )
    if state in ("55P03", "40001", "40P01", "55006"):
        return TransientError(
            "postgres.busy", f"{said}{of}", remedy="Another session holds a lock; a later attempt may get it."
        )
    if state in ("53100", "53200", "53400"):
        return TransientError(
            "postgres.out_of_space",
            f"{config.host} has run out of disk or memory: {said}",
            remedy="Free or add space at the server.",
        )
    if state == "53300":
        return TransientError(
            "postgres.connections_full",
            f"{config.host} takes no more connections",
            remedy="Lower the parallelism of the pipeline, or raise max_connections at the server.",
        )
    if state[:2] in ("08", "57", "58", "25", "XX"):
        return TransientError(
            "postgres.connection_lost",
            f"{config.host} ended the session: {said}{of}",
            remedy="Nothing to do if this happens once; else look into the server's log.",
        )
    if state[:2] in ("22", "23"):
        return DataError(
            "postgres.data",
            f"{said}{of}",
            remedy="The server refuses a value; look at the row and the table.",
        )
    return ConfigError(
        "postgres.statement",
        f"the server refuses a statement{of}: {said} ({state})",
        remedy="Check that the server is PostgreSQL 12 or newer and that the table has not changed its kind.",
    )
