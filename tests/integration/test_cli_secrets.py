"""A secret is never printed and, on a person's own command line, never written to disk."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.cli import Cli, in_process

CANARY = "c4nary/p@ss:w%rd"


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return in_process(capsys)


@pytest.fixture
def canary(postgres_url: str) -> str:
    """The database's address for a user whose password is the canary, as ${CANARY}."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS canary_user")
        connection.execute("CREATE ROLE canary_user LOGIN PASSWORD 'c4nary/p@ss:w%rd' SUPERUSER")
        connection.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
        connection.execute("INSERT INTO orders VALUES (1, 'x')")
    return postgres_url.replace("postgres:headrace-test@", "canary_user:${CANARY}@")


def test_no_command_prints_a_secret_and_run_writes_none_to_disk(
    cli: Cli, tmp_path: Path, canary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "headrace.yaml").write_text(
        f"connections:\n  shop: {{url: '{canary}'}}\n  lake: {{url: iceberg:./lake}}\n"
        "pipelines:\n  shop:\n    from: shop\n    to: lake\n    streams: [public.orders]\n"
        "    transforms: [{name: hash, settings: {columns: [note], salt: '${SALT}'}}]\n"
    )
    monkeypatch.setenv("CANARY", CANARY)
    monkeypatch.setenv("SALT", "c4nary-salt")
    lines = [
        ("validate",), ("check",), ("check", "shop", "-vv"), ("discover", "shop", "--json"), ("plan",),
        ("run", "-vv"), ("run", "shop", "-o", "ndjson"), ("state", "shop"), ("status", "--json"),
        ("logs", "-v"), ("rejects", "shop"), ("rewind", "shop", "public.orders", "--to", "start", "--yes"),
        ("run", "--from", canary, "--to", "parquet:./out", "-s", "public.orders", "-v"),
        ("check", canary), ("check", canary.replace("${CANARY}", "c4nary-wrong")),
        ("discover", canary.replace("canary_user", "nobody"), "--debug"), ("doctor",),
    ]  # fmt: skip
    for line in lines:
        done = cli(*line)
        assert done.out + done.err, line
        assert "c4nary" not in done.out + done.err, line
        assert "c4nary%2Fp%40ss" not in done.out + done.err, line
    assert {run["status"] for run in cli("status", "--json").document["runs"]} == {"succeeded"}
    kept = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.name == "headrace.db" for file in kept)
    for file in kept:
        assert b"c4nary" not in file.read_bytes(), file


def test_a_password_in_an_address_is_masked_in_every_message(cli: Cli) -> None:
    address = "postgresql://me:c4nary-plain@127.0.0.1:1/d"
    for line in (("check", address), ("discover", address, "--json"), ("check", f"x{address}")):
        done = cli(*line)
        assert done.code in (3, 6)
        assert "c4nary" not in done.out + done.err
