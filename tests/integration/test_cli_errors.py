"""Bad input: each kind ends with its own exit code, a code, a cause and a remedy."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from servers.postgres import PostgresServer
from tests.cli import Cli, Result, in_process, process


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return in_process(capsys)


@pytest.fixture
def shop(postgres_url: str) -> str:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        connection.execute("INSERT INTO orders SELECT i, 'n' || i FROM generate_series(1, 10) i")
        connection.execute("CREATE TABLE customers (id int PRIMARY KEY)")
    return postgres_url


def complaint(done: Result, code: str) -> None:
    """stderr names the code and the remedy, and shows no trace."""
    assert f"  code    {code}\n" in done.err
    assert "  remedy  " in done.err
    assert "Traceback" not in done.err + done.out


@pytest.mark.parametrize(
    ("old", "new", "exit_code", "code"),
    [
        (":headrace-test@", ":wrong@", 4, "postgres.auth.password"),
        (":headrace-test@", "@", 4, "postgres.auth.password"),
        ("127.0.0.1", "127.0.0.1:1/none?", 6, "postgres.refused"),
        ("127.0.0.1", "no.such.host.invalid", 6, "postgres.host_unknown"),
        ("/test_", "/no_", 5, "postgres.database_missing"),
    ],
)
def test_an_address_that_leads_nowhere(
    cli: Cli, shop: str, old: str, new: str, exit_code: int, code: str
) -> None:
    address = shop.replace(old, new).partition("?")[0]
    for command in ("check", "discover"):
        done = cli(command, address)
        assert done.code == exit_code
        complaint(done, code)
    done = cli("run", "--from", address, "--to", "parquet:./out", "--max-retries", "0")
    assert done.code == exit_code
    complaint(done, code)


def test_a_password_that_was_not_given_is_told_from_a_wrong_one(cli: Cli, shop: str) -> None:
    done = cli("check", shop.replace(":headrace-test@", "@"))
    assert "none was given" in done.err and "${PGPASSWORD}" in done.err
    assert "none was given" not in cli("check", shop.replace(":headrace-test@", ":wrong@")).err


def test_what_a_run_without_a_file_left_behind_is_asked_with_its_addresses(cli: Cli, shop: str) -> None:
    line = ("run", "--from", shop, "--to", "iceberg:./lake", "-s", "public.orders", "--json")
    name = cli(*line).document["runs"][0]["pipeline"]
    for command in (("state", name), ("rewind", name, "public.orders", "--to", "start", "--yes")):
        done = cli(*command)
        assert done.code == 4 and "with --source and --target" in done.err
        assert cli(*command, "--source", shop, "--target", "iceberg:./lake").code == 0


def test_a_path_as_target_is_told_what_it_may_become(cli: Cli, shop: str) -> None:
    done = cli("run", "--from", shop, "--to", "./lake")
    assert done.code == 64 and "iceberg:./lake" in done.err and "parquet:./lake" in done.err
    assert "nothing has run yet" in cli("status").err


def test_a_folder_that_cannot_be_made_is_a_wrong_setting(cli: Cli, shop: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for to, code in (("parquet:./file", "storage.no_folder"), ("iceberg:./file/lake", "iceberg.no_folder")):
        done = cli("run", "--from", shop, "--to", to, "-s", "public.orders")
        assert done.code == 3
        complaint(done, code)


def test_a_fault_that_may_pass_is_tried_again_first(cli: Cli) -> None:
    line = ("run", "--from", "postgresql://me@127.0.0.1:1/d", "--to", "parquet:./out")
    done = cli(*line, "--max-retries", "1")
    assert (done.code, done.err.count("trying again in")) == (6, 1)
    assert cli("status", "--json").document["runs"][0]["attempt"] == 2


def test_a_missing_table_is_not_found_and_the_nearest_is_named(cli: Cli, shop: str) -> None:
    done = cli("run", "--from", shop, "--to", "parquet:./out", "-s", "public.order")
    assert done.code == 5
    complaint(done, "plan.stream_missing")
    assert "Did you mean public.orders?" in done.err


def test_one_bad_stream_among_good_ones_is_partial(cli: Cli, shop: str) -> None:
    line = ("run", "--from", shop, "--to", "parquet:./out", "-s", "public.order", "-s", "public.customers")
    done = cli(*line, "--json")
    assert (done.code, done.document["exit_code"]) == (7, 7)
    streams = {s["stream"]: s for s in done.document["runs"][0]["streams"]}
    assert streams["public.customers"]["status"] == "succeeded"
    assert streams["public.order"]["error"]["exit_code"] == 5


def test_one_bad_pipeline_among_good_ones_is_partial(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "headrace.yaml").write_text(
        "connections: {made: {url: 'generator:orders?rows=3'}, out: {url: parquet:./out}}\n"
        "pipelines:\n  bad: {from: made, to: out, streams: [nothing]}\n  good: {from: made, to: out}\n"
    )
    assert [cli("run", *names).code for names in ((), ("bad",), ("good",))] == [7, 5, 0]


def test_a_missing_right_is_refused(cli: Cli, shop: str) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS cli_poor")
        connection.execute("CREATE ROLE cli_poor LOGIN PASSWORD 'poor'")
    address = shop.replace("postgres:headrace-test@", "cli_poor:poor@")
    try:
        done = cli(
            "run",
            "--from",
            "generator:orders?rows=3",
            "--to",
            address,
            "-s",
            "orders",
            "--target-table",
            "public.new",
        )
        assert done.code == 4
        assert "  remedy  " in done.err
    finally:
        with psycopg.connect(shop, autocommit=True) as connection:
            connection.execute("DROP ROLE cli_poor")


def test_a_column_dropped_between_runs_is_what_the_schema_policy_says(cli: Cli, shop: str) -> None:
    line = ("run", "--from", shop, "--to", "iceberg:./lake", "-s", "public.orders")
    assert cli(*line).code == 0
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute("ALTER TABLE orders DROP COLUMN note")
    refused = cli(*line, "--schema-policy", "fail")
    assert refused.code == 3
    complaint(refused, "schema.changed")
    assert "note" in refused.err
    assert (
        cli(*line, "--schema-policy", "pause", "--json").document["runs"][0]["streams"][0]["status"]
        == "paused"
    )
    assert cli(*line).code == 0


def test_a_table_of_another_shape_is_not_written(cli: Cli, shop: str) -> None:
    line = ("run", "--from", shop, "--to", shop, "-s", "public.orders", "--mode", "append")
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.other (id bytea, filler text)")
        connection.execute("INSERT INTO other VALUES ('x', 'y')")
    done = cli(*line, "--target-table", "public.other")
    assert done.code == 3
    assert "  remedy  " in done.err
    with psycopg.connect(shop) as connection:
        assert connection.execute("SELECT count(*) FROM other").fetchone() == (1,)


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        ("connections:\n  a: {url: generator:}\n b: c\n", 3, "project.bad_yaml"),
        ("connections:\n  a: {connector: generator, rowz: 1}\n", 2, "config.unknown_setting"),
        ("connections: {}\npipelines:\n  p: {form: a, to: b}\n", 3, "project.unknown_key"),
        (
            "connections:\n  a:\n    connector: generator\n    rows: ${UNSET_HERE}\n",
            4,
            "project.unset_variable",
        ),
    ],
)
def test_a_mistake_in_the_project_file_has_its_line(
    cli: Cli, tmp_path: Path, text: str, line: int, code: str
) -> None:
    (tmp_path / "headrace.yaml").write_text(text)
    done = cli("validate")
    assert done.code == 3
    assert f"headrace.yaml:{line}: " in done.err
    complaint(done, code)


@pytest.mark.parametrize(
    "line",
    [
        ("run",),
        ("run", "--from", "generator:"),
        ("run", "nightly", "--from", "generator:"),
        ("run", "--from", "generator:", "--to", "parquet:x", "--target-table", "t"),
        ("run", "--from", "generator:", "--to", "parquet:x", "--look-back", "soon"),
        ("run", "--mode", "upsrt"),
        ("run", "--parallelism", "0"),
        ("rn",),
        ("run", "--form", "x"),
        ("status", "--limit", "x"),
        ("discover",),
        ("completion", "tcsh"),
        ("--json", "status"),
        ("check",),
        (),
    ],
)
def test_a_line_that_makes_no_sense_is_a_usage_error(cli: Cli, line: tuple[str, ...]) -> None:
    done = cli(*line)
    assert done.code == 64
    assert done.err
    assert "Traceback" not in done.err


def test_an_error_is_also_a_document_for_who_waits_for_one(cli: Cli) -> None:
    done = cli("discover", "postgre://x", "--json")
    assert done.code == 3
    assert done.document["error"] == {
        "code": "catalog.unknown_address",
        "message": "no connector answers to 'postgre'",
        "field": None,
        "remedy": done.document["error"]["remedy"],
        "exit_code": 3,
    }
    assert cli("discover", "postgre://x", "-o", "ndjson").events[0]["event"] == "error"


def test_a_bug_is_one_line_without_a_trace_unless_asked(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import headrace.catalog\ndef fall(): raise RuntimeError('inner matter')\n"
        "headrace.catalog.connectors = fall\n"
    )
    done = process("connectors", folder=tmp_path, PYTHONPATH=str(broken))
    assert done.code == 1
    complaint(done, "internal")
    assert "inner matter" not in done.err
    for flag in ("--debug", "-vv"):
        assert "inner matter" in process("connectors", flag, folder=tmp_path, PYTHONPATH=str(broken)).err


def test_a_data_folder_that_cannot_be_made_is_a_config_error(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = cli("run", "--from", "generator:", "--to", "parquet:x", "--data", str(tmp_path / "file" / "data"))
    assert done.code == 3
    complaint(done, "platform.folder")


def test_a_table_that_may_not_be_read_is_told_from_one_that_is_not_there(
    cli: Cli, postgres_server: PostgresServer, postgres_url: str
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS clerk")
        connection.execute("CREATE ROLE clerk LOGIN PASSWORD 'clerk-pass'")
        connection.execute("CREATE TABLE payroll (id int PRIMARY KEY)")
        connection.execute("CREATE TABLE pages (id int PRIMARY KEY)")
        connection.execute("GRANT SELECT ON pages TO clerk")
    database = postgres_url.rpartition("/")[2]
    address = postgres_server.url(database, user="clerk", password="clerk-pass")
    done = cli("run", "--from", address, "--to", "parquet:./out", "--stream", "public.payroll", "--json")
    assert done.code == 4
    assert "GRANT SELECT" in done.out
    done = cli("run", "--from", address, "--to", "parquet:./out", "--stream", "public.payrol", "--json")
    assert done.code == 5
