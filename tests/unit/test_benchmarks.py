"""The measuring itself: medians, marks, memory of a process tree, comparing copies, tables of the page."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from benchmarks import check, contest, environments, marks, results, sides, tree
from benchmarks.trips import TABLE

ROWS = 700
HOLD = "import sys; kept = bytearray({mb} << 20); kept[::4096] = b'x' * len(kept[::4096])"
WAIT = "; print('ready', flush=True); sys.stdin.read()"


@pytest.fixture
def trips(postgres_url: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(TABLE.format(rows=ROWS).encode())
        yield connection


def copied(source: psycopg.Connection[Any], file: Path, change: str = "SELECT * FROM trips") -> check.Sums:
    """The table as a Parquet file, with one change on the way."""
    with source.cursor() as cursor, cursor.copy(b"COPY trips TO STDOUT (FORMAT csv, HEADER)") as copy:
        text = b"".join(bytes(block) for block in copy)
    table = file.with_suffix(".csv")
    table.write_bytes(text)
    with duckdb.connect() as database:
        database.execute(f"CREATE TABLE trips AS FROM read_csv('{table}')")
        database.execute(f"COPY ({change}) TO '{file}' (FORMAT parquet)")
    return check.in_parquet([file])


def test_a_true_copy_adds_up_to_its_source(trips: psycopg.Connection[Any], tmp_path: Path) -> None:
    expected = check.in_postgres(trips, "trips")
    assert expected["rows"] == ROWS
    assert check.difference(expected, copied(trips, tmp_path / "copy.parquet")) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("SELECT * FROM trips WHERE id <> 41", "rows 699, not 700"),
        ("SELECT * FROM trips UNION ALL SELECT * FROM trips WHERE id = 41", "rows 701, not 700"),
        ("SELECT * FROM trips WHERE id <> 41 UNION ALL SELECT * FROM trips WHERE id = 42", "id_sum"),
        ("SELECT * REPLACE (if(id = 41, tip + 0.01, tip) AS tip) FROM trips", "tip_sum"),
        ("SELECT * REPLACE (if(id = 41, note || ' ', note) AS note) FROM trips", "note_sum"),
        ("SELECT * REPLACE (if(id = 42, '', note) AS note) FROM trips", "note_values"),
        ("SELECT * REPLACE (if(id IN (41, 42), 83 - id, id) AS id) FROM trips", "checksum"),
        ("SELECT * REPLACE (started + INTERVAL 1 MICROSECOND AS started) FROM trips", "started_sum"),
    ],
)
def test_one_wrong_missing_or_doubled_row_is_found(
    trips: psycopg.Connection[Any], tmp_path: Path, change: str, told: str
) -> None:
    expected = check.in_postgres(trips, "trips")
    assert told in (check.difference(expected, copied(trips, tmp_path / "copy.parquet", change)) or "")


def test_a_copy_without_files_is_wrong() -> None:
    assert check.difference({"rows": 3}, check.in_parquet([])) == "rows 0, not 3"


def taken(*seconds: float, wrong: str | None = None, peak: int = 100) -> list[dict[str, Any]]:
    return [
        {"wall": each, "inner": each / 2, "cpu": 1.0, "peak_mb": peak, "wrong": wrong} for each in seconds
    ]


def test_the_median_leaves_out_a_side_that_was_wrong_even_once() -> None:
    runs = {"a": taken(3, 1, 9), "b": [*taken(1, 1), *taken(1, wrong="rows 2, not 3")]}
    assert [contest.median(runs, name) for name in ("a", "b", "absent")] == [3, None, None]
    assert contest.median(runs, "a", "inner") == 1.5


def test_a_mark_is_against_the_best_of_those_that_were_right() -> None:
    runs = {"ours": taken(2, 2, 2), "slow": taken(9), "fast": taken(6, 6), "wrong": taken(1, wrong="x")}
    mark = marks.against(runs, "fast enough", 3, "ours", ["slow", "fast", "wrong", "absent"])
    assert (mark.found, mark.reached) == (3, True)
    assert not marks.against(runs, "fast enough", 3.1, "ours", ["fast"]).reached
    assert not marks.against(runs, "fast enough", 1, "wrong", ["slow"]).reached
    assert not marks.against(runs, "fast enough", 1, "ours", ["absent"]).reached


def test_the_mark_of_memory_takes_the_highest_peak() -> None:
    runs = {"ours": [*taken(1, peak=400), *taken(1, peak=460)]}
    assert marks.peak(runs, "memory", 450, "ours").found == 460
    assert not marks.peak(runs, "memory", 450, "ours").reached
    assert marks.line(marks.peak(runs, "memory", 500, "ours").record()) == (
        "reached  memory: 460, wanted 500 or less"
    )


def test_memory_is_that_of_all_processes_below() -> None:
    child = [sys.executable, "-c", HOLD.format(mb=48) + WAIT]
    parent = HOLD.format(mb=32) + f"; import subprocess; subprocess.run({child!r})"
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        process.stdout.readline()  # the child holds its memory, and the parent held its own before
        try:
            assert len(tree.descendants(process.pid)) == 2
            assert tree.memory(process.pid) > 80 << 20
        finally:
            process.stdin.close()


def test_the_peak_outlives_the_process(tmp_path: Path) -> None:
    held = tmp_path / "held"
    script = (
        HOLD.format(mb=64)
        + f"; print('said'); open({str(held)!r}, 'w').close(); import time; time.sleep(0.5)"
    )
    spent = tree.run([sys.executable, "-c", script], folder=tmp_path, env={})
    assert (spent.code, spent.out) == (0, "said\n")
    assert spent.cpu > 0
    assert spent.peak > 64 << 20


def test_a_side_that_does_not_end_is_killed(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match="did not end within 0 s"):
        tree.run(
            [sys.executable, "-c", "import sys, time; time.sleep(600)"], folder=tmp_path, env={}, timeout=0.2
        )


def side(name: str, script: str, sums: check.Sums | None = None) -> contest.Side:
    return contest.Side(
        name=name,
        kind="rival",
        command=lambda place: [sys.executable, "-c", script],
        inner=sides.last_number,
        settings="as it comes",
        sums=(lambda place: sums) if sums else None,
    )


def test_sides_take_turns_and_one_that_fails_ends_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    note = f"open({str(log)!r}, 'a').write('{{}}'); print(0.25)"
    outcome = contest.hold(
        [
            side("a", note.format("a"), {"rows": 1}),
            side("b", note.format("b"), {"rows": 2}),
            side("c", "raise SystemExit(3)"),
        ],
        {"rows": 1},
        tmp_path / "runs",
        runs=2,
    )
    assert log.read_text() == "abab"
    assert [run["wrong"] for name in "ab" for run in outcome.runs[name]] == [
        None,
        None,
        *["rows 2, not 1"] * 2,
    ]
    assert {run["inner"] for run in outcome.runs["a"]} == {0.25}
    assert "c" not in outcome.runs
    assert "ended with code 3" in outcome.sides["c"]["failed"]


def told(**more: Any) -> dict[str, Any]:
    how = {"kind": "rival", "settings": "by default", "not_level": None}
    return {
        "title": "Here to there",
        "at": "2026-11-24T12:00:00+00:00",
        "rows": 3_000_000,
        "cores": 2,
        "machine": {"cpu": "A CPU", "memory_gb": 8, "kernel": "6.1"},
        "quick": False,
        "sides": {
            "wrong": how,
            "slow": how | {"not_level": "Snappy only"},
            "ours": how | {"kind": "ours"},
            "gone": how | {"failed": "no\nsuch | thing"},
            "top": how | {"kind": "limit"},
        },
        "runs": {
            "slow": taken(9, 8, 7),
            "ours": taken(3, 2, 4),
            "wrong": taken(1, wrong="rows 2, not 3"),
            "top": taken(5),
        },
        "marks": [marks.Mark("P0", 2, 2.5).record()],
    } | more


def test_tables_rank_by_time_and_never_a_wrong_copy() -> None:
    rows = [line for line in results.tables({"p0": told()}).splitlines() if line.startswith("| ")][1:]
    assert [row.split("|")[1].strip() for row in rows] == ["top", "**ours**", "slow", "gone", "wrong"]
    assert "| 3.00 | 1.50 | 1,000,000 | 1.0 | 100 | 3 | by default |" in rows[1]
    assert "*not level: Snappy only*" in rows[2]
    assert "did not run: no such / thing" in rows[3]
    assert "**WRONG**" in rows[4] and "rows 2, not 3" in rows[4]


def test_a_try_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "CACHE", tmp_path / "cache")
    file = results.save("p0", told(quick=True), tmp_path / "results")
    assert file == tmp_path / "cache" / "tries" / "2026-11-24-p0.json"
    assert results.newest(tmp_path / "results") == {}
    results.save("p0", told(), tmp_path / "results")
    assert results.newest(tmp_path / "results")["p0"]["title"] == "Here to there"


def test_the_pages_show_the_newest_results() -> None:
    reports, said = results.newest(), "run `python -m benchmarks render`"
    page, ours = results.PAGE.read_text(), results.OURS.read_text()
    assert results.beside_others(page, reports).strip() == page.strip(), said
    assert results.of_our_process(ours, reports) == ours, said


def test_what_our_process_costs_is_written_between_its_comments() -> None:
    run = {"wall": 2.0, "cpu": 1.0, "peak_mb": 70}
    more = {"sides": {}, "marks": []}
    starts = told(**more) | {"runs": {"--version": [run, run | {"cpu": 3.0}, run | {"cpu": 1.5}]}}
    sizes = told() | {"runs": {"8 rows to parquet": [run, run | {"peak_mb": 90}], "8 rows to iceberg": [run]}}
    by = ": written by `python -m benchmarks render` -->\n"
    page = f"A\n<!-- startup{by}old<!-- end -->\nB\n<!-- memory{by}<!-- end -->\nC\n"
    page = results.of_our_process(page, {"startup": starts, "memory": sizes})
    assert "| --version | 1.50 | 2.00 | 70 |" in page and "old" not in page
    assert "| rows | 8 |\n|---|---|\n| to parquet | 90 |\n| to iceberg | 70 |" in page
    assert [line for line in page.splitlines() if len(line) == 1] == ["A", "B", "C"]


def test_each_tool_says_how_long_it_took() -> None:
    assert sides.psql_timing("COPY 3\nTime: 1500.250 ms (00:01.500)\n") == 1.50025
    assert sides.psql_timing("DELETE 3\nTime: 500.000 ms\nCOPY 3\nTime: 250.000 ms\n") == 0.75
    assert sides.duckdb_timer("Run Time (s): real 0.5 user 1 sys 0\nRun Time (s): real 2.25 user 1") == 2.75
    assert sides.ingestr_end('{"event":"end","duration_sec":1.25,"error":null}') == 1.25
    assert sides.sling_rate("wrote 3000 rows [1,500 r/s] to file") == 2
    assert sides.sling_rate("inserted 3000 rows into x in 2 secs [1,500 r/s] [5 MB]") == 2
    assert sides.headrace_seconds("done\n" + json.dumps({"runs": [{"seconds": 3.5}]}) + "\n") == 3.5
    with pytest.raises(RuntimeError, match="no Time"):
        sides.psql_timing("ERROR")


def test_a_benchmark_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import signal, sys; from pathlib import Path; from benchmarks import tree\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        'tree.run([sys.executable, \'-c\', \'import os, time; open("pid", "w").write(str(os.getpid()));'
        ' os.rename("pid", "there"); time.sleep(600)\'], folder=Path(sys.argv[1]), env={})'
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=environments.ROOT) as process:
        while not (tmp_path / "there").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.terminate()
    assert process.returncode == 143
    assert not Path("/proc", (tmp_path / "there").read_text()).exists()
