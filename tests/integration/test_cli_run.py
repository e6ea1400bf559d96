"""`headrace run` and what comes after it: status, logs, state, rewind, rejects."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import pytest

from tests.cli import Cli, in_process, process

PROJECT = """\
connections:
  made: {url: "generator:orders,customers?rows=300"}
  out: {url: parquet:./out}
pipelines:
  both: {from: made, to: out}
  orders: {from: made, to: out, streams: [{name: orders, target: copies.orders}]}
"""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return in_process(capsys)


@pytest.fixture
def orders(postgres_url: str) -> str:
    """A database with `public.orders`: 100 rows, and a column that grows."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, at timestamptz NOT NULL, note text)")
        connection.execute(
            "INSERT INTO orders SELECT i, '2026-01-01'::timestamptz + i * interval '1 h', 'n' || i "
            "FROM generate_series(1, 100) i"
        )
    return postgres_url


def rows(folder: Path) -> int:
    return sum(pq.ParquetFile(file).metadata.num_rows for file in folder.rglob("*.parquet"))


def test_one_line_moves_rows_and_keeps_data_and_talk_apart(tmp_path: Path) -> None:
    done = process("run", "--from", "generator:orders?rows=300", "--to", "parquet:./out", folder=tmp_path)
    assert done.code == 0
    header, line = done.out.splitlines()
    assert header.split()[:4] == ["stream", "status", "read", "written"]
    assert line.split()[:6] == ["orders", "succeeded", "300", "300", "0", "0"]
    assert "generator → parquet" in done.err
    assert "orders: succeeded, 300 rows" in done.err
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out + done.err
    assert rows(tmp_path / "out") == 300


def test_json_is_one_document(cli: Cli) -> None:
    done = cli("run", "--from", "generator:orders?rows=300", "--to", "parquet:./out", "--json")
    (run,) = done.document["runs"]
    assert (done.code, done.document["exit_code"], run["status"], run["read"]) == (0, 0, "succeeded", 300)
    (stream,) = run["streams"]
    assert stream["stream"] == "orders"
    assert (stream["written"], stream["rejected"], stream["skipped"], stream["error"]) == (300, 0, {}, None)
    assert stream["seconds"] >= 0


def test_ndjson_tells_progress_and_the_end(cli: Cli) -> None:
    done = cli("run", "--from", "generator:orders?rows=300", "--to", "parquet:./out", "-o", "ndjson")
    assert {event["version"] for event in done.events} == {1}
    assert "progress" in {event["event"] for event in done.events}
    assert (done.events[-1]["event"], done.events[-1]["status"]) == ("run", "succeeded")


def test_quiet_says_nothing_but_gives_the_data(cli: Cli) -> None:
    done = cli("run", "--from", "generator:orders?rows=3", "--to", "parquet:./out", "-q")
    assert (done.code, done.err) == (0, "")
    assert "orders" in done.out


def test_a_flag_goes_before_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_OUTPUT", "json")
    assert cli("connectors").document["connectors"]
    assert cli("connectors", "-o", "table").out.startswith("name")


def test_the_same_line_carries_on_where_it_stopped(cli: Cli, orders: str) -> None:
    line = (
        "run",
        "--from",
        orders,
        "--to",
        "iceberg:./lake",
        "-s",
        "public.orders",
        "--cursor",
        "at",
        "--json",
    )
    first = cli(*line)
    with psycopg.connect(orders, autocommit=True) as connection:
        connection.execute("INSERT INTO orders VALUES (101, '2026-02-01', 'new')")
    second = cli(*line)
    assert (first.document["runs"][0]["read"], second.document["runs"][0]["read"]) == (100, 1)
    assert first.document["runs"][0]["pipeline"] == second.document["runs"][0]["pipeline"]


def test_a_pipelines_id_is_the_same_with_another_password_but_not_with_another_stream(cli: Cli) -> None:
    def plan(address: str, stream: str) -> str:
        cli("run", "--from", address, "--to", "parquet:./out", "-s", stream, "--max-retries", "0")
        name: str = cli("status", "--json").document["runs"][0]["pipeline"]
        return name

    one = plan("postgresql://me:one@127.0.0.1:1/d", "a.b")
    assert plan("postgresql://me:two@127.0.0.1:1/d", "a.b") == one
    assert plan("postgresql://me:one@127.0.0.1:1/d", "a.c") != one
    assert plan("postgresql://you:one@127.0.0.1:1/d", "a.b") != one


def test_a_path_means_files(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("id,name\n1,x\n2,y\n")
    done = cli("run", "--from", "./in/*.csv", "--to", "parquet:./out", "--json")
    assert (done.code, done.document["runs"][0]["written"]) == (0, 2)


def test_a_project_runs_by_name_and_in_part(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "headrace.yaml").write_text(PROJECT)
    everything = cli("run", "--json").document
    assert [(r["pipeline"], len(r["streams"])) for r in everything["runs"]] == [("both", 2), ("orders", 1)]
    part = cli("run", "both", "--stream", "orders", "--json").document
    assert [s["stream"] for s in part["runs"][0]["streams"]] == ["orders"]
    rest = cli("run", "both", "--exclude", "orders", "--json").document
    assert [s["stream"] for s in rest["runs"][0]["streams"]] == ["customers"]


def test_slices_are_staged_in_processes_when_a_project_says_so(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess.Popen, "__init__", _noted(started))
    parts = (
        "{from: made, to: out, streams: [customers], tuning: {processes: true, parallelism: 2},"
        " transforms: [{name: hash, settings: {columns: [email], salt: SALT}}]}"
    )
    (tmp_path / "headrace.yaml").write_text(PROJECT + f"  apart: {parts}\n")
    done = cli("run", "apart", "--json")
    assert done.document["runs"][0]["written"] == 300
    assert any("headrace.control.stage" in command for command in started)
    files = list((tmp_path / "out").rglob("*.parquet"))
    emails = [email for file in files for email in pq.ParquetFile(file).read()["email"].to_pylist()]
    assert len(emails) == 300
    assert not any("@" in email for email in emails if email)


def _noted(started: list[list[str]]) -> Callable[..., None]:
    """Popen's own start, which is also noted."""
    real = subprocess.Popen.__init__

    def start(self: Any, args: list[str], *rest: Any, **named: Any) -> None:
        started.append(args)
        real(self, args, *rest, **named)

    return start


def test_a_one_line_run_may_use_the_connections_of_a_project(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "headrace.yaml").write_text(PROJECT)
    assert cli("run", "--from", "made", "--to", "out", "-s", "customers").code == 0


def test_excluded_streams_are_left_out(cli: Cli) -> None:
    line = ("run", "--from", "generator:?rows=5", "--to", "parquet:./out", "--exclude", "*order*", "--json")
    assert {s["stream"] for s in cli(*line).document["runs"][0]["streams"]} == {"customers", "events"}


def test_a_plan_tells_what_would_change_and_changes_nothing(cli: Cli, tmp_path: Path, orders: str) -> None:
    line = ("--from", orders, "--to", "iceberg:./lake", "-s", "public.orders")
    assert cli("plan", "--from", orders, "--to", "parquet:./out").code == 0
    assert list(tmp_path.iterdir()) == []
    before = cli("plan", *line, "--detailed-exitcode", "--json")
    assert (before.code, before.document["streams"][0]["action"]) == (2, "create")
    assert cli("plan", *line).code == 0
    assert list(tmp_path.iterdir()) == []
    assert cli("run", *line).code == 0
    after = cli("plan", *line, "--detailed-exitcode", "--json")
    assert (after.code, after.document["streams"][0]["action"]) == (0, "none")
    with psycopg.connect(orders, autocommit=True) as connection:
        connection.execute("ALTER TABLE orders ADD COLUMN more int")
    altered = cli("plan", *line, "--detailed-exitcode", "--json")
    assert (altered.code, altered.document["streams"][0]["columns"]["added"]) == (2, ["more (int32)"])


def test_status_and_logs_tell_what_happened(cli: Cli) -> None:
    assert "nothing has run yet" in cli("status").err
    cli("run", "--from", "generator:orders?rows=3", "--to", "parquet:./out")
    (run,) = cli("status", "--json").document["runs"]
    assert (run["status"], run["read"], run["written"]) == ("succeeded", 3, 3)
    logs = cli("logs", run["run"][:6])
    assert "orders: succeeded: 3 read, 3 written, 0 rejected" in logs.out
    assert cli("logs", "--json", "-f").document["run"] == run["run"]
    assert cli("status", run["pipeline"], "--streams").out.count("orders") == 1


def test_a_rewind_makes_the_next_run_read_again(cli: Cli, tmp_path: Path, orders: str) -> None:
    (tmp_path / "headrace.yaml").write_text(
        f"connections:\n  shop: {{url: '{orders}'}}\n  lake: {{url: iceberg:./lake}}\n"
        "pipelines:\n  shop: {from: shop, to: lake, streams: [{name: public.orders, cursor: at}]}\n"
    )
    cli("run", "shop")
    (at,) = cli("state", "shop", "--json").document["streams"]
    assert at["position"] == at["remembered"]["position"] is not None
    assert (
        cli("state", "shop", "--offline", "--json").document["streams"][0]["remembered"] == at["remembered"]
    )
    asked = cli("rewind", "shop", "public.orders", "--to", "start")
    assert (asked.code, "--yes" in asked.err) == (64, True)
    assert cli("rewind", "shop", "public.order", "--to", "start", "--yes").code == 5
    assert cli("rewind", "shop", "public.orders", "--to", "soon", "--yes").code == 64
    done = cli("rewind", "shop", "public.orders", "--to", "start", "--yes", "--json")
    assert done.document["streams"] == [{"stream": "public.orders", "before": at["position"], "after": None}]
    assert "about 100 rows" in done.err or "everything" in done.err
    assert cli("state", "shop", "--json").document["streams"][0]["position"] is None
    assert cli("run", "shop", "--json").document["runs"][0]["read"] == 100


def test_a_rewind_warns_that_append_doubles_rows(cli: Cli, orders: str) -> None:
    line = (
        "--from",
        orders,
        "--to",
        "iceberg:./lake",
        "-s",
        "public.orders",
        "--cursor",
        "at",
        "--mode",
        "append",
    )
    cli("run", *line)
    name = cli("status", "--json").document["runs"][0]["pipeline"]
    done = cli("rewind", name, "public.orders", "--source", orders, "--to", "start", "--yes")
    assert done.code == 0
    assert "a second time" in done.err


def test_rejected_rows_can_be_seen_and_too_many_are_partial(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,n\n1,1\n2,x\n3,3\n")
    (tmp_path / "headrace.yaml").write_text(
        "connections:\n  files: {connector: files, url: ./a.csv, types: {n: integer}}\n"
        "  out: {url: parquet:./out}\n"
        "pipelines:\n  load: {from: files, to: out}\n"
    )
    done = cli("run", "load", "--json")
    (stream,) = done.document["runs"][0]["streams"]
    assert (done.code, stream["read"], stream["written"], stream["rejected"]) == (0, 3, 2, 1)
    assert "headrace rejects load" in done.err
    (reject,) = cli("rejects", "load", "--json").document["rejects"]
    assert reject["stream"] == stream["stream"]
    assert "x" in json.dumps(reject["row"])
    assert cli("run", "load", "--reject-limit", "0").code == 7


def test_a_run_that_is_under_way_locks_its_pipeline(cli: Cli, tmp_path: Path) -> None:
    from tests.cli import Process

    line = ("run", "--from", "generator:orders?rows=4000&batch_rows=10&delay=0.5", "--to", "parquet:./out")
    going = Process(*line, folder=tmp_path)
    try:
        going.wait_for("generator → parquet")
        going.wait_for("rows")
        second = cli(*line, "--json")
    finally:
        going.signal(signal.SIGKILL)
        going.end()
    assert second.code == 9
    assert second.document["runs"][0]["error"]["code"] == "store.leased"
