"""Real servers for the tests: started once a test process, a database or bucket of its own for each test."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from headrace.store import MasterKeys, Store
from servers.buckets import AzureServer, GcsServer
from servers.postgres import PostgresServer
from servers.s3 import S3Server

# A machine may be slow. Where others wait for the answer, the same examples are tried each time; new ones
# are looked for at home.
settings.register_profile("home", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("home"), derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "home")

REQUIRED = frozenset(filter(None, os.environ.get("HEADRACE_REQUIRE", "").split(",")))
_numbers = itertools.count(1)


def start(name: str, make: Callable[[], Any]) -> Iterator[Any]:
    """Run a server for a fixture; one that can't be had skips, or fails if HEADRACE_REQUIRE names it."""
    try:
        server = make().__enter__()
    except Exception as error:
        reason = f"server {name} can't be had: {error}"
        if name in REQUIRED:
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    try:
        yield server
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the test process: no fsync, logical WAL, SCRAM on 127.0.0.1."""
    yield from start("postgres", PostgresServer)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database that lives for this test."""
    with postgres_server.database(f"test_{next(_numbers)}") as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One S3 for the test process; it checks keys and signatures, and keeps everything in memory."""
    yield from start("s3", S3Server)


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> str:
    """The name of an empty bucket of this test's own."""
    return s3_server.make_bucket(f"test-{next(_numbers)}")


@pytest.fixture
def gcs_server() -> Iterator[GcsServer]:
    """A stand-in for Google Cloud Storage that holds one empty bucket."""
    with GcsServer() as server:
        yield server


@pytest.fixture
def azure_server() -> Iterator[AzureServer]:
    """A stand-in for Azure Blob Storage that holds one empty container."""
    with AzureServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store: the test runs once on each database that can hold one."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store/headrace.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture
def store(store_url: str, tmp_path: Path) -> Iterator[Store]:
    """A new store on SQLite, and again on PostgreSQL."""
    with Store.open(store_url, keys=MasterKeys.load(tmp_path / "keys", {})) as store:
        yield store


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the user's settings or writes into the user's folders."""
    for name in [n for n in os.environ if n.startswith(("HEADRACE_", "PG", "AWS_"))]:
        if name != "HEADRACE_REQUIRE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HEADRACE_DATA", str(tmp_path / "data"))
