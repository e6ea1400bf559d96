"""The server as a process: it starts, says how it is, counts, and stops."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.control.access import OPERATOR
from headrace.errors import ConfigError
from headrace.model.run import RunStatus
from headrace.server import logs
from headrace.server.service import Service, is_loopback
from tests.cli import Process, process
from tests.crash.truth import LOAD, STREAM
from tests.integration.people import WORD
from tests.integration.site import LONG, Site, kill, site
from tests.waiting import until


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path, f"sqlite:///{tmp_path}/headrace.db") as found:
        yield found


def client(server: Process) -> httpx.Client:
    (ready,) = [json.loads(line) for line in server.said if '"ready"' in line]
    return httpx.Client(base_url=ready["address"])


def metrics(http: httpx.Client, **headers: str) -> dict[str, float]:
    answer = http.get("/metrics", headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_a_server_says_that_it_is_there_and_ready(here: Site) -> None:
    with client(here.start("serve", "--port", "0")) as http:
        assert http.get("/health").json() == {"status": "ok"}
        answer = http.get("/ready")
        assert (answer.status_code, answer.json()) == (
            200, {"status": "ready", "checks": {"store": "ok", "worker": "ok", "disk": "ok"}}
        )  # fmt: skip
        assert http.head("/health").content == b""
        assert http.post("/health").status_code == 405


def test_a_server_whose_disk_is_nearly_full_is_not_ready(here: Site) -> None:
    with client(here.start("serve", "--port", "0", "--no-worker", DISK_RESERVE_MB=str(1 << 40))) as http:
        answer = http.get("/ready")
        assert (answer.status_code, answer.json()["checks"]) == (503, {"store": "ok", "disk": "failed"})
        assert http.get("/health").status_code == 200


def test_what_a_run_does_is_counted(store_url: str, tmp_path: Path) -> None:
    with site(tmp_path, store_url) as here:
        count_a_run(here, tmp_path)


def count_a_run(here: Site, tmp_path: Path) -> None:
    with client(here.start("serve", "--port", "0", METRICS_TOKEN="canary-77")) as http:
        assert http.get("/metrics").status_code == 401
        bearer = {"Authorization": "Bearer canary-77"}
        assert metrics(http, **bearer)["headrace_queue_depth"] == 0
        pipeline = here.pipeline(("parquet", {"url": str(tmp_path / "lake")}))
        run = here.ended(here.trigger(pipeline))
        assert run.status is RunStatus.SUCCEEDED
        rows = f'{{pipeline="{pipeline.id}",stream="{STREAM}"}}'
        found = metrics(http, **bearer)
        assert found[f"headrace_records_read_total{rows}"] == LOAD["rows"]
        assert found[f"headrace_records_written_total{rows}"] == LOAD["rows"]
        assert found[f"headrace_records_rejected_total{rows}"] == 0
        assert found[f"headrace_bytes_read_total{rows}"] > 0
        assert found[f'headrace_run_state{{pipeline="{pipeline.id}",state="succeeded"}}'] == 1
        assert found[f'headrace_run_state{{pipeline="{pipeline.id}",state="failed"}}'] == 0
        assert found[f'headrace_last_success_timestamp_seconds{{pipeline="{pipeline.id}"}}'] > 0
        assert metrics(http, **bearer)[f"headrace_records_read_total{rows}"] == LOAD["rows"]


def test_every_metric_is_in_the_page_of_the_server(here: Site) -> None:
    page = (Path(__file__).parents[2] / "docs/howto/server.md").read_text()
    with client(here.start("serve", "--port", "0", "--no-worker")) as http:
        names = set(re.findall(r"^# TYPE (\w+)", http.get("/metrics").text, re.M))
    assert len(names) > 10
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_the_administrator_of_the_environment_is_made_once(here: Site) -> None:
    for _ in range(2):
        server = here.start(
            "serve", "--port", "0", "--no-worker", ADMIN_EMAIL="a@b.local", ADMIN_PASSWORD=WORD
        )
        server.signal(signal.SIGTERM)
        done = server.end()
        assert done.code == 0
        assert WORD not in done.err
    assert [(u.email, u.admin) for u in here.platform.users.list(OPERATOR).items] == [("a@b.local", True)]


def test_a_port_that_is_taken_is_named(here: Site, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = process("serve", "--port", port, "--no-worker", folder=tmp_path, **here.environ)
    assert (done.code, port in done.err) == (3, True)


def test_short_passwords_are_refused_where_others_may_try_them(tmp_path: Path) -> None:
    service = Service(tmp_path, {"HEADRACE_PASSWORD_MINIMUM": "4"})
    with pytest.raises(ConfigError) as raised:
        service.serve("0.0.0.0", 0, worker=False)
    assert raised.value.code == "serve.unsafe"


@pytest.mark.parametrize(
    ("host", "alone"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_a_loopback_address_is_known(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


@pytest.mark.parametrize(
    "event",
    [
        {"password": "canary"},
        {"url": "postgresql://me:canary@db/shop"},
        {"line": "could not connect: password=canary host=db"},
        {"headers": {"Authorization": "Bearer canary"}},
        {"line": "sent Bearer canary to it"},
        {"settings": [{"api_key": "canary"}]},
        {"line": '{"token": "canary"}'},
    ],
)
def test_the_log_has_no_secrets(event: dict[str, Any]) -> None:
    shown = repr(logs.clean(None, "info", event))
    assert "canary" not in shown
    assert logs.HIDDEN in shown


def test_the_log_can_not_be_forged() -> None:
    shown = logs.clean(None, "info", {"line": "a\r\nERROR b\x1b[31m", "rows": 3, "done": True})
    assert shown == {"line": "a\\r\\nERROR b\\x1b[31m", "rows": 3, "done": True}


def test_a_run_is_followed_and_cancelled_by_the_command_line(here: Site, tmp_path: Path) -> None:
    id = here.trigger(here.pipeline(("parquet", {"url": str(tmp_path / "lake")}), LONG))
    here.start("serve", "--port", "0")
    following = Process("logs", "-f", id[:8], "-o", "ndjson", folder=tmp_path, **here.environ)
    here.undo.callback(kill, following)
    following.wait_for("attempt 1 of run")
    until(lambda: any(s.counts.read for s in here.run(id).streams), "the first rows")
    asked = process("cancel", id[:8], "--json", folder=tmp_path, **here.environ)
    assert asked.document["runs"][0]["cancelling"] is True
    assert here.ended(id).status is RunStatus.CANCELLED
    followed = following.end()
    assert followed.code == 0
    assert [event["message"] for event in followed.events] == here.log(id)
    assert process("cancel", id[:8], folder=tmp_path, **here.environ).code == 9
