"""What a run loads: a small one takes as long as its imports do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

# Each of these costs a small run a few hundredths of a second, and none of them is needed for it.
IDLE = {
    "alembic", "fsspec", "headrace.connectors.files", "headrace.connectors.generator", "httpx", "obstore",
    "pandas", "paramiko", "polars", "pygments", "requests", "rich", "ruamel.yaml",
    "sqlalchemy.dialects.postgresql",
}  # fmt: skip
ICEBERG = {"pyarrow.dataset", "pyiceberg", "sqlalchemy.orm"}

PROGRAM = """
import json, sys
from headrace.cli.main import invoke
code = invoke(sys.argv[1:])
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


def loaded(*arguments: str, folder: Path) -> set[str]:
    """The modules that a command has loaded by its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize(("target", "idle"), [("parquet", IDLE | ICEBERG), ("iceberg", IDLE)])
def test_a_run_loads_only_what_it_needs(
    postgres_url: str, tmp_path: Path, target: str, idle: set[str]
) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE orders AS SELECT n AS id, 'x' || n AS name FROM generate_series(1, 3) n"
        )
    line = ["run", "--from", postgres_url, "--to", f"{target}:./out", "--stream", "public.orders"]
    for _ in ("a store that is made", "a store that is there"):
        modules = loaded(*line, folder=tmp_path)
        assert {"psycopg", "pyarrow.parquet", "sqlalchemy"} <= modules
        assert not modules & idle


def test_showing_the_version_loads_no_library_for_data(tmp_path: Path) -> None:
    assert not loaded("--version", folder=tmp_path) & (IDLE | ICEBERG | {"numpy", "pyarrow", "sqlalchemy"})
