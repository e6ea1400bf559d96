"""Connecting to PostgreSQL: what is refused and why, TLS, SSH, and nothing from the environment."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from headrace.connectors.postgres.config import PostgresConfig
from headrace.connectors.postgres.session import Session, connect
from headrace.connectors.postgres.source import PostgresSource
from headrace.errors import AuthError, ConfigError, HeadraceError, NotFoundError, TransientError
from servers.postgres import PASSWORD
from servers.sshd import SshServer, new_key
from servers.tls_proxy import Authority, TlsProxy
from tests.waiting import until


def config(url: str, **settings: Any) -> PostgresConfig:
    return PostgresConfig.parse({**PostgresConfig.from_url(url), **settings})


def refused(url: str, **settings: Any) -> HeadraceError:
    with pytest.raises(HeadraceError) as caught:
        connect(config(url, **settings)).close()
    assert PASSWORD not in str(caught.value.as_dict()) and caught.value.remedy
    return caught.value


@contextlib.contextmanager
def connected(url: str, **settings: Any) -> Iterator[Session]:
    with connect(config(url, **settings)) as session:
        yield session


@pytest.mark.parametrize(
    ("settings", "error", "code", "field"),
    [
        ({"password": "wrong-one"}, AuthError, "postgres.auth.password", "password"),
        ({"password": None}, AuthError, "postgres.auth.password", "password"),
        ({"username": "nobody"}, AuthError, "postgres.auth.password", "password"),
        ({"database": "nowhere"}, NotFoundError, "postgres.database_missing", "database"),
        ({"host": "host.invalid"}, TransientError, "postgres.host_unknown", "host"),
        ({"port": 1}, TransientError, "postgres.refused", "host"),
        ({"ssl_mode": "require"}, ConfigError, "postgres.tls.unsupported", "ssl_mode"),
        ({"ssl_mode": "verify-full"}, ConfigError, "postgres.tls.unsupported", "ssl_mode"),
    ],
)
def test_a_refused_connection_names_the_setting_at_fault(
    postgres_url: str, settings: dict[str, Any], error: type[HeadraceError], code: str, field: str
) -> None:
    caught = refused(postgres_url, **settings)
    assert (type(caught), caught.code, caught.field) == (error, code, field)


def test_a_role_that_may_not_connect_is_told_which_grant_it_needs(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
        (name,) = db.execute("SELECT current_database()").fetchone() or ("",)
        db.execute(f"REVOKE CONNECT ON DATABASE {name} FROM PUBLIC")
    try:
        caught = refused(postgres_url, username="guest", password="guest")
        assert caught.code == "postgres.auth.database"
        assert f'GRANT CONNECT ON DATABASE "{name}" TO "guest"' in (caught.remedy or "")
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as db:
            db.execute("DROP ROLE guest")


def test_nothing_in_the_environment_has_a_say(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = {
        "PGHOSTADDR": "192.0.2.1", "PGPORT": "1", "PGUSER": "x", "PGPASSWORD": "x", "PGDATABASE": "x",
        "PGOPTIONS": "-c work_mem=64kB", "PGTZ": "Asia/Tokyo", "PGDATESTYLE": "German", "PGGEQO": "off",
        "PGREQUIREAUTH": "none", "PGTARGETSESSIONATTRS": "read-only", "PGAPPNAME": "x",
        "PGSSLMODE": "require",
        "PGCLIENTENCODING": "LATIN1", "PGSSLCERTMODE": "require", "PGMAXPROTOCOLVERSION": "3.2",
        "PGCHANNELBINDING": "require", "PGPASSFILE": "/tmp/x", "PGSSLROOTCERT": "/tmp/x",
    }  # fmt: skip
    with monkeypatch.context() as environment:
        for name, value in hostile.items():
            environment.setenv(name, value)
        with connected(postgres_url) as session:
            found = session.execute(
                "SELECT current_setting('TimeZone'), current_setting('DateStyle'),"
                " current_setting('work_mem'), current_setting('application_name'),"
                " current_setting('client_encoding')"
            ).fetchone()
    assert found == ("UTC", "ISO, YMD", "4MB", "headrace", "UTF8")


def test_a_password_file_in_the_home_folder_is_not_used(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / ".pgpass"
    file.write_text(f"*:*:*:*:{PASSWORD}\n")
    file.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert refused(postgres_url, password=None).code == "postgres.auth.password"


def test_the_errors_of_statements_are_ours(postgres_url: str) -> None:
    from headrace.connectors.postgres.session import translated

    settings = config(postgres_url)
    cases = {
        "SELECT * FROM nothing": (NotFoundError, "postgres.table_missing"),
        "SELECT nothing": (NotFoundError, "postgres.column_missing"),
        "SELECT pg_terminate_backend(pg_backend_pid())": (TransientError, "postgres.connection_lost"),
    }
    for statement, expected in cases.items():
        with connected(postgres_url) as session, pytest.raises(HeadraceError) as caught, translated(settings):
            session.execute(statement)  # type: ignore[call-overload]
        assert (type(caught.value), caught.value.code) == expected
    with connected(postgres_url) as session, pytest.raises(TransientError) as timeout, translated(settings):
        session.execute("SET statement_timeout = 1; SELECT pg_sleep(5)")
    assert timeout.value.code == "postgres.cancelled"


# TLS


@pytest.fixture
def tls(postgres_server: Any) -> Iterator[TlsProxy]:
    with TlsProxy(postgres_server.port) as proxy:
        yield proxy


def encrypted(session: Session) -> bool:
    return session.pgconn.ssl_in_use


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
def test_each_mode_that_encrypts_connects_with_the_right_authority(
    postgres_url: str, tls: TlsProxy, mode: str
) -> None:
    ssl = {"ca": tls.authority.pem} if mode.startswith("verify") else {}
    with connected(postgres_url, host="localhost", port=tls.port, ssl_mode=mode, ssl=ssl) as session:
        assert encrypted(session)


def test_verification_refuses_another_authority_and_another_host_name(
    postgres_url: str, tls: TlsProxy
) -> None:
    at = {"host": "localhost", "port": tls.port}
    stranger = {"ca": Authority().pem}
    for mode in ("verify-ca", "verify-full"):
        caught = refused(postgres_url, **at, ssl_mode=mode, ssl=stranger)
        assert (caught.code, caught.field) == ("postgres.tls.certificate", "ssl.ca")
    assert refused(postgres_url, **at, ssl_mode="verify-full").code == "postgres.tls.certificate"
    ours = {"ca": tls.authority.pem}
    other_name = {"host": "127.0.0.1", "port": tls.port}
    assert (
        refused(postgres_url, **other_name, ssl_mode="verify-full", ssl=ours).code
        == "postgres.tls.certificate"
    )
    with connected(postgres_url, **other_name, ssl_mode="verify-ca", ssl=ours) as session:
        assert encrypted(session)


def test_a_server_that_wants_tls_says_so_to_a_plain_connection(postgres_url: str, tls: TlsProxy) -> None:
    caught = refused(postgres_url, port=tls.port, ssl_mode="disable")
    assert (caught.code, caught.field) == ("postgres.auth.pg_hba", "ssl_mode")


def test_a_client_certificate_is_shown_and_its_files_live_as_long_as_the_session(
    postgres_server: Any, postgres_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with TlsProxy(postgres_server.port, client_certificates=True) as proxy:
        cert, key = proxy.authority.issue("client")
        at = {"host": "localhost", "port": proxy.port, "ssl_mode": "verify-full"}
        ours = {"ca": proxy.authority.pem, "cert": cert, "key": key}
        with connected(postgres_url, **at, ssl=ours) as session:
            files = list(tmp_path.rglob("ssl*"))
            assert len(files) == 3 and all(file.stat().st_mode & 0o077 == 0 for file in files)
            session.cancel_safe()  # connects once more
            assert session.execute("SELECT 1").fetchone() == (1,)
        assert list(tmp_path.iterdir()) == []
        caught = refused(postgres_url, **at, ssl={"ca": proxy.authority.pem})
        assert caught.code in ("postgres.tls.client_certificate", "postgres.connection_lost")


# SSH


@pytest.fixture
def sshd() -> Iterator[SshServer]:
    with SshServer() as server:
        yield server


def through(sshd: SshServer, **changes: Any) -> dict[str, Any]:
    return {
        "host": "127.0.0.1", "port": sshd.port, "username": sshd.user, "password": sshd.password,
        "known_host": sshd.known_host, **changes,
    }  # fmt: skip


@pytest.mark.parametrize("credential", ["password", "private_key"])
def test_a_session_goes_through_ssh_and_takes_the_tunnel_along(
    postgres_url: str, sshd: SshServer, credential: str
) -> None:
    ssh = through(sshd)
    if credential == "private_key":
        ssh |= {"password": None, "private_key": sshd.client_key}
    with connected(postgres_url, ssh=ssh) as session:
        rows = session.execute("SELECT repeat('x', 1000) FROM generate_series(1, 2000)").fetchall()
        assert len(rows) == 2000 and sshd.forwarded == 1
        port = session.info.port
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres_url, port=port).close()


def test_ssh_refuses_a_wrong_key_of_the_host_before_any_password_is_sent(
    postgres_url: str, sshd: SshServer
) -> None:
    import base64

    _, other = new_key()
    line = f"{other.get_name()} {base64.b64encode(other.asbytes()).decode()}"
    caught = refused(postgres_url, ssh=through(sshd, known_host=line))
    assert (caught.code, caught.field) == ("postgres.ssh.host_key", "ssh.known_host")


def test_ssh_names_a_wrong_user_and_a_server_that_is_away(postgres_url: str, sshd: SshServer) -> None:
    caught = refused(postgres_url, ssh=through(sshd, password="ssh-wrong"))
    assert caught.code == "postgres.ssh.auth" and "ssh-wrong" not in str(caught.as_dict())
    _, stranger = "", new_key()[0]
    caught = refused(postgres_url, ssh=through(sshd, password=None, private_key=stranger))
    assert caught.code == "postgres.ssh.auth"
    assert refused(postgres_url, ssh=through(sshd, port=1)).code == "postgres.ssh.refused"


def test_a_tunnel_that_breaks_is_a_lost_connection(postgres_url: str, sshd: SshServer) -> None:
    source = PostgresSource(config(postgres_url, ssh=through(sshd)))
    source.check()
    sshd.drop()
    with pytest.raises(TransientError):
        source.check()
    source.check()  # by a new tunnel
    source.close()


def test_a_source_that_is_closed_leaves_no_session_behind(postgres_url: str) -> None:
    source = PostgresSource(config(postgres_url))
    list(source.discover())
    source.close()
    source.close()
    with psycopg.connect(postgres_url, autocommit=True) as db:
        ours = (
            "SELECT FROM pg_stat_activity WHERE application_name = 'headrace'"
            " AND datname = current_database()"
        )
        until(lambda: db.execute(ours).rowcount == 0, "the end of the session")
