"""A fresh install as its first user meets it: `headrace serve`, documented requests, rows in tables."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from pyiceberg.catalog.sql import SqlCatalog

from tests.waiting import HANGS, until

HEADRACE = Path(sys.executable).with_name("headrace")
CANARY = "canary-e2e-40cd"
WORD = "canary-word-77b1"


class Served:
    """A server in a process of its own, on a data folder of its own."""

    def __init__(self, process: subprocess.Popen[str], address: str, data: Path):
        self.process, self.data = process, data
        self.http = httpx.Client(base_url=address, timeout=HANGS)

    def sign_in(self) -> str:
        """Ann, who registers; gives the id of her workspace."""
        person = {"email": "ann@here.local", "password": WORD}
        assert self.http.post("/api/auth/register", json=person).status_code == 201
        form = {"username": person["email"], "password": WORD}
        token = self.http.post("/api/auth/jwt/login", data=form).json()["access_token"]
        self.http.headers["Authorization"] = f"Bearer {token}"
        env: str = self.http.post("/api/envs/", json={"name": "mine"}).json()["id"]
        self.http.headers["X-Tenant-Id"] = env
        return env

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.http.post(f"/api/v1{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def sync(self, connection: str) -> dict[str, Any]:
        """A sync from its trigger to its end."""
        id = self.post(f"/syncs/connections/{connection}/trigger")["id"]
        return self.ended(id)

    def ended(self, id: str) -> dict[str, Any]:
        def look() -> dict[str, Any]:
            found: dict[str, Any] = self.http.get(f"/api/v1/syncs/{id}?details=true").json()
            return found

        until(lambda: look()["status"] != "RUNNING", "the end of the sync")
        return look()

    def table(self, workspace: str, name: str) -> list[dict[str, Any]]:
        warehouse = self.data / "warehouse" / workspace
        (file,) = warehouse.glob("*.db")
        catalog = SqlCatalog("default", uri=f"sqlite:///{file}", warehouse=str(warehouse))
        rows: list[dict[str, Any]] = catalog.load_table(name).scan().to_arrow().to_pylist()
        catalog.engine.dispose()
        return rows


@contextmanager
def served(data: Path, **environ: str) -> Iterator[Served]:
    log = data.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(
            [HEADRACE, "serve", "--port", "0", "--data", str(data)],
            stderr=file,
            stdout=subprocess.DEVNULL,
            text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(data.parent), **environ},
        )

    def address() -> str | None:
        for line in log.read_text().splitlines():
            if '"event": "ready"' in line:
                found: str = json.loads(line)["address"]
                return found
        assert process.poll() is None, log.read_text()
        return None

    try:
        until(address, "the server is ready")
        here = Served(process, address() or "", data)
        yield here
        here.http.close()
        if process.poll() is None:
            process.terminate()
            assert process.wait(HANGS) == 0
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "data") as server:
        yield server


@pytest.fixture
def orders(postgres_url: str) -> str:
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        db.execute("INSERT INTO orders SELECT i, 'note ' || i FROM generate_series(1, 1000) i")
        db.execute("CREATE TABLE things (name text)")
        db.execute("INSERT INTO things VALUES ('a'), ('b')")
    return postgres_url


def config_of(url: str, **more: Any) -> dict[str, Any]:
    at = urlsplit(url)
    return {
        "host": at.hostname,
        "port": at.port,
        "database": at.path[1:],
        "username": at.username,
        "password": at.password or CANARY,
        **more,
    }


def test_a_source_is_synced_in_full_and_then_by_what_is_new(server: Served, orders: str) -> None:
    workspace = server.sign_in()
    source = server.post(
        "/sources", {"name": "shop", "connectorType": "postgres", "connectionConfig": config_of(orders)}
    )
    assert server.post(f"/sources/{source['id']}/test")["status"] == "ACTIVE"
    assert len(server.post(f"/sources/{source['id']}/discover")["streams"]) == 2
    body = {"sourceId": source["id"], "name": "all", "syncMode": "INCREMENTAL"}
    made = server.post("/connections", body)
    done = server.sync(made["id"])
    assert (done["status"], done["recordsSynced"], done["recordsRejected"]) == ("SUCCEEDED", 1002, 0), done
    assert done["bytesSynced"] > 1002 * 4 and done["durationMs"] > 0
    assert sorted(done["tablesAffected"]) == ["public.orders", "public.things"]
    assert len(server.table(workspace, "public.orders")) == 1000
    with psycopg.connect(orders, autocommit=True) as db:
        db.execute("UPDATE orders SET note = 'changed' WHERE id = 7")
        db.execute("INSERT INTO orders VALUES (1001, 'new')")
    again = server.sync(made["id"])
    assert (again["status"], again["recordsSynced"]) == ("SUCCEEDED", 2), again
    rows = {row["id"]: row["note"] for row in server.table(workspace, "public.orders")}
    assert (len(rows), rows[7], rows[1001]) == (1001, "changed", "new")
    assert len(server.table(workspace, "public.things")) == 2
    shown = server.http.get(f"/api/v1/connections/{made['id']}").json()
    assert (shown["status"], shown["lastSyncAt"]) == ("ACTIVE", again["completedAt"])
    full = server.post(
        "/connections", {"sourceId": source["id"], "name": "full", "selectedStreams": ["public.orders"]}
    )
    assert server.sync(full["id"])["recordsSynced"] == 1001
    history = server.http.get("/api/v1/syncs?page=0&size=20&sort=startedAt,desc").json()
    assert [sync["connectionName"] for sync in history["content"]] == ["full", "all", "all"]


def test_a_source_that_is_away_fails_its_sync_with_the_reason(server: Served, orders: str) -> None:
    server.sign_in()
    config = config_of(orders, database="nowhere")
    source = server.post("/sources", {"name": "s", "connectorType": "postgres", "connectionConfig": config})
    made = server.post("/connections", {"sourceId": source["id"], "name": "c"})
    done = server.sync(made["id"])
    assert (done["status"], done["recordsSynced"]) == ("FAILED", 0)
    assert "nowhere" in done["errorMessage"]
    assert server.http.get(f"/api/v1/connections/{made['id']}").json()["status"] == "ERROR"


def test_a_secret_is_in_no_answer_no_log_and_no_database(tmp_path: Path, orders: str) -> None:
    data = tmp_path / "data"
    with served(data) as server:
        server.sign_in()
        config = config_of(orders, password=CANARY)
        source = server.post(
            "/sources", {"name": "s", "connectorType": "postgres", "connectionConfig": config}
        )
        made = server.post("/connections", {"sourceId": source["id"], "name": "c"})
        server.sync(made["id"])
        paths = [
            "/api/v1/sources", f"/api/v1/sources/{source['id']}?details=true", "/api/v1/connections",
            f"/api/v1/connections/{made['id']}?details=true", "/api/v1/syncs?details=true", "/api/users/me",
            "/api/envs", "/metrics", "/ready",
        ]  # fmt: skip
        texts = [server.http.get(path).text for path in paths]
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for canary in (CANARY, WORD):
        assert not any(canary in text for text in texts)
        assert not any(canary.encode() in content for content in kept)


def test_what_was_asked_for_before_the_server_was_killed_is_done_after_it(
    tmp_path: Path, orders: str
) -> None:
    data = tmp_path / "data"
    with served(data, HEADRACE_FAILPOINT="after_publish=kill") as server:
        workspace = server.sign_in()
        token = server.http.headers["Authorization"]
        source = server.post(
            "/sources", {"name": "s", "connectorType": "postgres", "connectionConfig": config_of(orders)}
        )
        body = {"sourceId": source["id"], "name": "c", "selectedStreams": ["public.orders"]}
        made = server.post("/connections", body)
        id = server.post(f"/syncs/connections/{made['id']}/trigger")["id"]
        until((data / "warehouse" / workspace).exists, "the run writes")
        server.process.kill()
        server.process.wait()
        with served(data) as after:
            after.http.headers.update({"Authorization": token, "X-Tenant-Id": workspace})
            done = after.ended(id)
            assert (done["status"], done["recordsSynced"]) == ("SUCCEEDED", 1000), done
            assert len(after.table(workspace, "public.orders")) == 1000
            assert after.post(f"/sources/{source['id']}/test")["status"] == "ACTIVE"
