"""init, validate, connectors, discover, check, doctor, completion, version."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest

from headrace import __version__
from headrace.cli.main import app
from tests.cli import COMMAND, Cli, in_process, process
from tests.waiting import HANGS


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return in_process(capsys)


def test_init_writes_a_project_that_is_valid_and_never_writes_over_one(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("init").code == 0
    monkeypatch.setenv("PGPASSWORD", "x")
    assert cli("validate", "--json").document == {"version": 1, "valid": True, "errors": []}
    before = (tmp_path / "headrace.yaml").read_text()
    again = cli("init")
    assert (again.code, (tmp_path / "headrace.yaml").read_text()) == (9, before)


def test_every_part_of_the_written_project_that_is_commented_out_is_valid_too(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli("init")
    file = tmp_path / "headrace.yaml"
    head, pipelines, tail = file.read_text().partition("pipelines:")
    file.write_text(head + pipelines + tail.replace("    # ", "    "))
    monkeypatch.setenv("PGPASSWORD", "x")
    monkeypatch.setenv("SALT", "x")
    assert cli("validate").err.startswith("headrace.yaml is valid")


def test_the_schema_for_editors_knows_every_connector_and_key(cli: Cli) -> None:
    schema = json.loads(cli("validate", "--schema").out)
    names = {spec["name"] for spec in cli("connectors", "--json").document["connectors"]}
    assert names <= set(schema["$defs"])
    assert {"from", "to", "streams", "tuning"} <= set(schema["$defs"]["Pipeline"]["properties"])
    assert "password" in schema["$defs"]["postgres"]["properties"]
    references = {part.split('"')[0] for part in json.dumps(schema).split('"#/$defs/')[1:]}
    assert references <= set(schema["$defs"])


def test_connectors_shows_the_settings_of_one(cli: Cli) -> None:
    settings = {
        s["setting"]: s for s in cli("connectors", "postgres", "--json").document["connector"]["settings"]
    }
    assert settings["password"]["secret"] is True
    assert settings["host"]["help"]
    assert settings["ssh.host"]["required"] is True
    assert "password" in cli("connectors", "postgres").out
    assert cli("connectors", "postgers").code == 5


def test_a_planned_connector_is_shown_as_that_and_nothing_is_done_with_it(cli: Cli, tmp_path: Path) -> None:
    specs = cli("connectors", "--json").document["connectors"]
    planned = [spec["name"] for spec in specs if spec["maturity"] == "planned"]
    assert planned == [spec["name"] for spec in specs][-len(planned) :]
    assert {spec["name"] for spec in specs if spec["unavailable"]} == set(planned) > {"mysql"}
    assert "can't be used" in cli("connectors", "mysql").err
    (tmp_path / "headrace.yaml").write_text(
        "connections:\n"
        "  shop: {connector: mysql, host: h, database: d, username: u, password: canary}\n"
        "  out: {url: parquet:./out}\n"
        "pipelines:\n"
        "  p: {from: shop, to: out}\n"
        "  q: {from: out, to: out}\n"
    )
    errors = cli("validate", "--json").document["errors"]
    assert [e["code"] for e in errors] == ["catalog.not_yet", "catalog.not_a_source"]
    assert [f"headrace.yaml:{line}: " in e["message"] for e, line in zip(errors, (5, 6), strict=True)] == [
        True
    ] * 2
    for command in (("check", "shop"), ("discover", "shop"), ("plan", "p"), ("run", "p")):
        done = cli(*command)
        assert done.code == 3 and "catalog.not_yet" in done.err and "canary" not in done.err + done.out


def test_discover_shows_columns_keys_sizes_and_cursors(cli: Cli, postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE a (id int PRIMARY KEY, at timestamptz NOT NULL, note text)")
        connection.execute('CREATE TABLE "odd.name" (id int)')
        connection.execute("INSERT INTO a SELECT i, now(), '' FROM generate_series(1, 50) i")
        connection.execute("ANALYZE")
    streams = {s["stream"]: s for s in cli("discover", postgres_url, "--json").document["streams"]}
    assert set(streams) == {"public.a", 'public."odd.name"'}
    assert (streams["public.a"]["rows"], streams["public.a"]["primary_key"]) == (50, ["id"])
    assert "at" in streams["public.a"]["cursors"]
    assert [c["name"] for c in streams["public.a"]["columns"]] == ["id", "at", "note"]
    assert "public.a" in cli("discover", postgres_url, "--include", "public.a", "--columns").out
    left = cli("discover", postgres_url, "--exclude", "public.a", "--json").document["streams"]
    assert [s["stream"] for s in left] == ['public."odd.name"']
    assert "no stream matches" in cli("discover", postgres_url, "--include", "none").err


def test_check_tries_connections_the_way_that_pipelines_use_them(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "headrace.yaml").write_text(
        "connections: {made: {url: 'generator:'}, out: {url: parquet:./out}, gone: {url: 'postgresql://me@127.0.0.1:1/d'}}\n"
        "pipelines: {p: {from: made, to: out}}\n"
    )
    done = cli("check", "--json")
    found = {c["connection"]: (c["side"], c["ok"]) for c in done.document["connections"]}
    assert found == {"made": ("source", True), "out": ("target", True), "gone": ("source", False)}
    assert done.code == 7
    assert cli("check", "gone").code == 6
    assert cli("check", "made", "--as", "target").code == 3
    assert cli("check", "mode").code == 5


def test_doctor_looks_at_this_machine(cli: Cli) -> None:
    done = cli("doctor", "--json")
    checks = {c["check"]: c for c in done.document["checks"]}
    assert done.code == 0
    assert {
        "python",
        "pyarrow",
        "compiled kernels",
        "connector postgres",
        "data folder",
        "disk",
        "store",
        "clock",
    } <= set(checks)
    assert {c["result"] for c in checks.values()} <= {"ok", "low", "planned"}
    assert checks["connector mysql"]["result"] == "planned"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_is_one_that_its_shell_understands(cli: Cli, tmp_path: Path, shell: str) -> None:
    done = cli("completion", shell)
    assert (done.code, "headrace" in done.out) == (0, True)
    if shutil.which(shell):
        (tmp_path / "script").write_text(done.out)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_completion_knows_commands_options_and_choices() -> None:
    def complete(*words: str) -> set[str]:
        environ = {
            **os.environ,
            "_HEADRACE_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        return set(
            subprocess.run([COMMAND], capture_output=True, text=True, env=environ, check=False).stdout.split()
        )

    assert complete("headrace", "re") == {"registry", "rejects", "rewind"}
    assert {"--from", "--to", "--stream"} <= complete("headrace", "run", "--")
    assert complete("headrace", "run", "--mode", "u") == {"upsert"}


def test_the_version_is_text_or_a_document(tmp_path: Path) -> None:
    assert process("--version", folder=tmp_path).out == f"headrace {__version__}\n"
    assert process("--version", "--json", folder=tmp_path).document["headrace"] == __version__


def test_every_command_has_help_with_examples(cli: Cli) -> None:
    overview = cli("--help").out
    for name in (command.callback.__name__ for command in app.registered_commands if command.callback):
        assert name in overview
        done = cli(name, "--help")
        examples = done.out.partition("Options")[0].partition("Usage")[2].partition("\n")[2]
        assert (done.code, f"headrace {name}" in examples) == (0, True), name


def test_a_reader_that_closes_early_gets_no_trace(tmp_path: Path) -> None:
    done = subprocess.run(
        f"{COMMAND} validate --schema | head -c 1",
        shell=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_a_terminal_gets_colours_and_live_progress_unless_told_not_to(tmp_path: Path) -> None:
    line = f"{COMMAND} run --from 'generator:orders?rows=40&batch_rows=10&delay=0.1' --to parquet:./out"

    def typescript(environ: dict[str, str], *flags: str) -> str:
        done = subprocess.run(
            ["script", "-qec", " ".join([line, *flags]), "/dev/null"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "TERM": "xterm-256color", **environ},
            stdin=subprocess.DEVNULL,
            check=True,
            timeout=HANGS,
        )
        return done.stdout

    if not shutil.which("script"):
        pytest.skip("no `script` here to make a terminal")
    shown = typescript({})
    assert "\x1b[32m" in shown  # green
    assert "\x1b[2K" in shown  # a line drawn anew
    assert "\x1b[32m" not in typescript({"NO_COLOR": "1"})
