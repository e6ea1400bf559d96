"""The sides of the contests: Headrace, the tools one could use instead, and the limits that nobody passes.

Every side is set up as its own documentation says is fastest here; codec, level and row groups are made equal
where a tool can be told, and `not_level` says where it can't.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import check, environments
from benchmarks.contest import Command, Side

ROW_GROUP = 250_000
LEVEL = "zstd level 1, row groups of 250,000"
FEW = "vendor,riders,rate,place,goal,day,paid"  # columns of few values, which get a dictionary
COPY_NAME = "copied"


@dataclass(frozen=True)
class Sources:
    """Where the table is: `url` as most tools take it."""

    url: str

    def keywords(self) -> str:
        """The same for libpq as words, for tools that don't take an address."""
        parts = urlsplit(self.url)
        words = f"host={parts.hostname} port={parts.port} user={parts.username} password={parts.password}"
        return f"{words} dbname={parts.path.strip('/')} {parts.query.replace('&', ' ')}"


def last_number(out: str) -> float:
    """Our own scripts print the seconds last."""
    return float(out.rsplit(maxsplit=1)[-1])


def psql_timing(out: str) -> float:
    """Of all its statements together."""
    return sum(_all(r"Time: ([\d.]+) ms", out)) / 1000


def duckdb_timer(out: str) -> float:
    return sum(float(seconds) for seconds in re.findall(r"Run Time \(s\): real ([\d.]+)", out))


def ingestr_end(out: str) -> float:
    return _all(r'"duration_sec":([\d.]+)', out)[-1]


def sling_rate(out: str) -> float:
    rows, rate = re.findall(r"(?:wrote|inserted) (\d+) rows .*?\[?([\d,]+) r/s\]", out)[-1]
    return int(rows) / int(rate.replace(",", ""))


def headrace_seconds(out: str) -> float:
    (run,) = json.loads(out[out.index("{") : out.rindex("}") + 1])["runs"]
    return float(run["seconds"])


def _all(pattern: str, out: str) -> list[float]:
    matches = re.findall(pattern, out)
    if not matches:
        raise RuntimeError(f"its output has no {pattern}: {out[-300:]}")
    return list(map(float, matches))


def parquet_under(name: str) -> Callable[[Path], Sequence[Path]]:
    """The Parquet files of a folder of the run, all of them."""
    return lambda place: sorted(file for file in (place / name).rglob("*.parquet") if file.is_file())


def of_trips(place: Path) -> Sequence[Path]:
    """Of dlt's folder, which has tables of its own beside."""
    return [file for file in parquet_under("out")(place) if "trips" in file.parts]


def newest_metadata(name: str) -> Callable[[Path], Path]:
    """The metadata file of the only table in a folder: the one with the highest number."""

    def number(file: Path) -> int:
        return int(re.sub(r"\D.*", "", file.name.removeprefix("v")))

    def newest(place: Path) -> Path:
        files = [file for file in (place / name).rglob("*.metadata.json") if "trips" in str(file.parent)]
        return max(files, key=number)

    return newest


def copy_limit(source: Sources) -> Side:
    statement = r"\copy trips TO '/dev/null' (FORMAT binary)"
    return Side(
        name="limit: COPY to /dev/null", kind="limit",
        command=lambda place: ["psql", "-X", source.url, "-c", r"\timing on", "-c", statement],
        inner=psql_timing, settings="psql, one connection, binary",
    )  # fmt: skip


def encode_limit(arrow: Path) -> Side:
    """`arrow` is an Arrow IPC file of the table."""
    python, script = environments.headrace().python, environments.SCRIPTS / "encode.py"
    return Side(
        name="limit: Parquet encoding alone", kind="limit",
        command=lambda place: [python, script, arrow, place / "trips.parquet", FEW],
        inner=last_number, settings=f"pyarrow, one thread; {LEVEL}; the table is in memory",
    )  # fmt: skip


def headrace_run(source: str, target: str, stream: str, *more: str) -> Command:
    program = environments.headrace().program("headrace")
    return [program, "run", "--from", source, "--to", target, "-s", stream, *more, "--json"]


def headrace_to_parquet(source: Sources) -> Side:
    return Side(
        name="Headrace", kind="ours",
        command=lambda place: headrace_run(source.url, "parquet:./out", "public.trips"),
        inner=headrace_seconds, settings=f"defaults: {LEVEL}",
        sums=lambda place: check.in_parquet(parquet_under("out")(place)), files=parquet_under("out"),
    )  # fmt: skip


def headrace_to_iceberg(source: Sources) -> Side:
    return Side(
        name="Headrace", kind="ours",
        command=lambda place: headrace_run(source.url, "iceberg:./out", "public.trips"),
        inner=headrace_seconds, settings="defaults: zstd level 1",
        sums=lambda place: check.in_iceberg(newest_metadata("out")(place)), files=parquet_under("out"),
    )  # fmt: skip


def duckdb_to_parquet(source: Sources) -> Side:
    duckdb = environments.rival("duckdb")
    options = f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, ROW_GROUP_SIZE {ROW_GROUP}"
    statements = [
        f"LOAD '{duckdb.extension('postgres_scanner')}'",
        f"ATTACH '{source.keywords()}' AS source (TYPE postgres, READ_ONLY)",
        "SET preserve_insertion_order = false",
        f"COPY source.public.trips TO 'trips.parquet' ({options})",
    ]
    return Side(
        name="DuckDB", kind="rival",
        command=lambda place: [duckdb.program("duckdb"), "-c", ".timer on", "-c", "; ".join(statements)],
        inner=duckdb_timer,
        settings=f"its program with the PostgreSQL extension; {LEVEL}; order of rows not kept",
        sums=lambda place: check.in_parquet([place / "trips.parquet"]), files=parquet_under("."),
    )  # fmt: skip


def dlt_env(place_of_state: str = "state") -> dict[str, str]:
    return {
        "DATA_WRITER__COMPRESSION": "zstd",
        "DATA_WRITER__ROW_GROUP_SIZE": str(ROW_GROUP),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "ERROR",
        "DLT_PIPELINES": place_of_state,
    }


def dlt_run(source: Sources, kind: str, target: str, mode: str) -> Command:
    python, script = environments.rival("dlt").python, environments.SCRIPTS / "dlt_load.py"
    return [python, script, source.url, kind, target, mode]


def dlt_to_parquet(source: Sources) -> Side:
    return Side(
        name="dlt", kind="rival",
        command=lambda place: dlt_run(source, "parquet", (place / "out").as_uri(), "replace"),
        inner=last_number, env=dlt_env(), settings=f"connectorx backend, Parquet loader; {LEVEL}",
        sums=lambda place: check.in_parquet(of_trips(place)), files=of_trips,
    )  # fmt: skip


def dlt_to_iceberg(source: Sources) -> Side:
    return Side(
        name="dlt", kind="rival",
        command=lambda place: dlt_run(source, "iceberg", (place / "out").as_uri(), "replace"),
        inner=last_number, env=dlt_env(), settings="connectorx backend, table format iceberg (pyiceberg)",
        sums=lambda place: check.in_iceberg(newest_metadata("out")(place)), files=of_trips,
    )  # fmt: skip


def ingestr_run(source: Sources, target: str, table: str, strategy: str = "replace") -> Command:
    program = environments.rival("ingestr").program("ingestr")
    return [program, "ingest", "--source-uri", source.url, "--source-table", "public.trips",
            "--dest-uri", target, "--dest-table", table, "--incremental-strategy", strategy,
            "--yes", "--progress", "json", "--no-load-timestamp"]  # fmt: skip


def ingestr_to_parquet(source: Sources) -> Side:
    return Side(
        name="ingestr", kind="rival",
        command=lambda place: ingestr_run(source, f"parquet://{place}/out/trips.parquet", "trips"),
        inner=ingestr_end, settings="defaults, no load timestamp",
        not_level="writes Snappy and row groups of 1,048,576, and can't be told otherwise",
        sums=lambda place: check.in_parquet(parquet_under("out")(place)), files=parquet_under("out"),
    )  # fmt: skip


def ingestr_to_iceberg(source: Sources) -> Side:
    table = "table.write.parquet.compression-codec=zstd&table.write.parquet.compression-level=1"
    return Side(
        name="ingestr", kind="rival",
        command=lambda place: ingestr_run(
            source, f"iceberg+hadoop://{place}/out?{table}", f"{COPY_NAME}.trips"
        ),
        inner=ingestr_end, settings="hadoop catalogue, zstd level 1 by table properties, no load timestamp",
        sums=lambda place: check.in_iceberg(newest_metadata("out")(place)), files=parquet_under("out"),
    )  # fmt: skip


def sling_to_parquet(source: Sources) -> Side:
    sling = environments.rival("sling")
    version = sling.versions()["duckdb-cli"]

    def home(place: Path) -> None:
        """DuckDB looks for its extensions below the home folder."""
        folder = place / "home" / ".duckdb" / "extensions" / f"v{version}" / "linux_amd64"
        folder.mkdir(parents=True)
        for name in ("httpfs", "json"):
            (folder / f"{name}.duckdb_extension").symlink_to(sling.extension(name))

    address = source.url + ("" if "sslmode" in source.url else "?sslmode=disable")
    return Side(
        name="sling", kind="rival", before=home,
        command=lambda place: [
            "env", f"HOME={place}/home", f"SLING_HOME_DIR={place}/home", sling.program("sling-linux-amd64"),
            "run", "--src-conn", address, "--src-stream", "public.trips",
            "--tgt-object", f"file://{place}/out/trips.parquet", "--mode", "full-refresh",
            "--tgt-options", '{"compression": "zstd", "file_max_rows": 1000000}',
        ],
        inner=sling_rate,
        settings="full-refresh, zstd, files of 1,000,000 rows: split by size, its default, it loses rows",
        env={"DUCKDB_PATH": str(sling.program("duckdb")), "DUCKDB_VERSION": version},
        not_level="zstd level 3 and row groups of 122,880 (DuckDB's own), and can't be told otherwise",
        sums=lambda place: check.in_parquet(parquet_under("out")(place)), files=parquet_under("out"),
    )  # fmt: skip


def polars_to_parquet(source: Sources) -> Side:
    python, script = environments.rival("polars").python, environments.SCRIPTS / "polars_load.py"
    return Side(
        name="polars", kind="rival",
        command=lambda place: [python, script, source.url, place / "trips.parquet", str(ROW_GROUP)],
        inner=last_number, settings=f"read_database_uri by connectorx, write_parquet; {LEVEL}",
        sums=lambda place: check.in_parquet([place / "trips.parquet"]), files=parquet_under("."),
    )  # fmt: skip


def pyiceberg_to_iceberg(source: Sources) -> Side:
    python, script = environments.rival("pyiceberg").python, environments.SCRIPTS / "pyiceberg_load.py"
    return Side(
        name="pyiceberg", kind="rival",
        command=lambda place: [python, script, source.url, place / "out"],
        inner=last_number, settings="read by connectorx, one append; zstd level 1, SQLite catalogue",
        sums=lambda place: check.in_iceberg(newest_metadata("out")(place)), files=parquet_under("out"),
    )  # fmt: skip
