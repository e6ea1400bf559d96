"""A package that speaks the Airbyte protocol, from its registration over HTTP to rows in a table."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx

from tests.airbyte.wheel import wheel
from tests.archives import files, tar
from tests.dialects.test_service import HEADRACE, WORD, Served, served
from tests.waiting import HANGS

ADMIN = "root@here.local"


def thing(id: int) -> dict[str, Any]:
    return {
        "id": id,
        "name": f"thing {id}",
        "at": "2026-01-02T03:04:05.5+01:00",
        "tags": ["a"],
        "more": {"n": 1},
    }


def packed(folder: Path) -> bytes:
    folder.mkdir()
    built = wheel(folder, "source_things")
    root = "things-connector-1.0.0"
    about = {"id": "things-connector", "name": "Things", "contract": "airbyte"}
    content = files(about)
    content[f"{root}/requirements.txt"] = b"airbyte-source-things==1.0.0\n"
    content[f"{root}/wheels/"] = None
    content[f"{root}/wheels/{built.name}"] = built.read_bytes()
    return tar(content)


def headrace(data: Path, *arguments: str) -> dict[str, Any]:
    command = [HEADRACE, *arguments, "--json", "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def register(server: Served, package: bytes) -> httpx.Response:
    form = {"username": ADMIN, "password": WORD}
    token = server.http.post("/api/auth/jwt/login", data=form).json()["access_token"]
    upload = {"file3": ("things.tar.gz", package)}
    header = {"Authorization": f"Bearer {token}"}
    return server.http.post("/v2/connector/register", files=upload, headers=header)


def test_a_package_is_registered_installed_used_in_a_pipeline_and_its_rows_are_there(tmp_path: Path) -> None:
    data = tmp_path / "data"
    things = tmp_path / "things.jsonl"
    things.write_text("".join(json.dumps(thing(id)) + "\n" for id in range(1, 51)))
    with served(data, HEADRACE_ADMIN_EMAIL=ADMIN, HEADRACE_ADMIN_PASSWORD=WORD) as server:
        workspace = server.sign_in()
        answer = register(server, packed(tmp_path / "w"))
        assert answer.json()["result"]["message"] == "connector registered successfully.", answer.text
        row = server.http.get("/v2/connectors/read/things-connector-1.0.0").json()["result"]
        assert (row["status"], row["type"]) == ("Live", "source")
        installed = headrace(data, "registry", "install", "things-connector-1.0.0", "--yes")["connectors"]
        kind = installed[0]["name"]
        listed = server.http.get("/api/v1/connectors/catalog").json()
        assert next(entry for entry in listed if entry["type"] == kind)["runnable"] is True
        config = {"path": str(things), "credentials": {"kind": "token", "token": "canary-token-1"}}
        source = server.post("/sources", {"name": "t", "connectorType": kind, "connectionConfig": config})
        assert server.post(f"/sources/{source['id']}/test?details=true")["status"] == "ACTIVE"
        body = {"sourceId": source["id"], "name": "c", "selectedStreams": ["things"]}
        made = server.post("/connections", body)
        done = server.sync(made["id"])
        assert (done["status"], done["recordsSynced"]) == ("SUCCEEDED", 50), done
        rows = server.table(workspace, "default.things")
        assert sorted(row["id"] for row in rows) == list(range(1, 51))
