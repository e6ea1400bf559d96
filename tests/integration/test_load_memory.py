"""The memory of a load does not grow with its table."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg

from tests.cli import COMMAND

ROW = 200  # bytes of text
FEW, MANY = 400_000, 2_000_000  # the first fills what two slices at a time hold


def peak(folder: Path, *arguments: str) -> int:
    """The most memory, in bytes, that a command of one process held."""
    with (folder / "err").open("wb") as err:
        process = subprocess.Popen([COMMAND, *arguments], cwd=folder, stdout=err, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (folder / "err").read_text()
    return usage.ru_maxrss << 10


def test_memory_is_flat_in_the_size_of_the_table(postgres_url: str, tmp_path: Path) -> None:
    held = {}
    for rows in (FEW, MANY):
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(
                f"CREATE UNLOGGED TABLE t{rows} AS"
                f" SELECT n AS id, repeat(md5(n::text), 7)::varchar({ROW}) AS note"
                f" FROM generate_series(1, {rows}) AS n"
            )
        line = ("run", "--from", postgres_url, "--to", "parquet:./out", "--stream", f"public.t{rows}")
        held[rows] = peak(tmp_path, *line)
    assert held[MANY] - held[FEW] < (MANY - FEW) * ROW // 2
