"""A run is killed at every failpoint, for each target and write mode; carried on, it is exact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from headrace.connector import Change, Config, ReadMode, WriteMode
from headrace.connectors.generator import GeneratorConfig
from headrace.connectors.generator.changes import change_rows, final_rows, history, load_rows
from headrace.engine.failpoint import POINTS
from headrace.engine.transform import CHANGE_COLUMN
from servers.postgres import PostgresServer
from tests.crash.tables import Target, read_table
from tests.crash.worker import KILLED, Case, run

STREAM = "orders"
LOAD = {"rows": 600, "seed": 11, "slices": 3, "batch_rows": 100}
LOG = {**LOAD, "changes": 300, "checkpoint_every": 50}

MODES = [
    ("iceberg", WriteMode.APPEND),
    ("iceberg", WriteMode.UPSERT),
    ("iceberg", WriteMode.REPLACE),
    ("parquet", WriteMode.APPEND),
    ("parquet", WriteMode.REPLACE),
    ("postgres", WriteMode.APPEND),
    ("postgres", WriteMode.UPSERT),
    ("postgres", WriteMode.REPLACE),
]


def rows_of(table: pa.Table) -> Counter[str]:
    """The rows as a multiset; a NaN equals a NaN here."""
    return Counter(repr(sorted(row.items())) for row in table.to_pylist())


def assert_holds(target: Target, expected: pa.Table) -> None:
    """The target's table has exactly these rows, each as often as here."""
    assert expected.num_rows
    assert rows_of(read_table(target, STREAM, expected.schema)) == rows_of(expected)


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    """A fresh target of the kind that the test is parametrised with."""
    kind: str = request.param
    if kind == "postgres":
        url = request.getfixturevalue("postgres_url")
        yield kind, _settings("postgres", url)
    else:
        yield kind, _settings(kind, f"{kind}:{tmp_path / 'lake'}")


def _settings(connector: str, url: str) -> Mapping[str, Any]:
    from headrace import catalog

    config: type[Config] = catalog.connector(connector).config
    return config.from_url(url)


def log_rows(settings: Mapping[str, Any]) -> pa.Table:
    """The load and every change after it, as append mode keeps them."""
    config = GeneratorConfig.parse(settings)
    past = history(config, STREAM, config.changes)
    changes = pa.Table.from_batches([change_rows(config, STREAM, past, 0, config.changes)])
    names = [Change(int(kind)).name.lower() for kind in past.kinds]
    load = load_rows(config, STREAM)
    return pa.concat_tables(
        [
            load.append_column(CHANGE_COLUMN, pa.array(["insert"] * load.num_rows)),
            changes.append_column(CHANGE_COLUMN, pa.array(names)),
        ],
        promote_options="permissive",
    )


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(("target", "write"), MODES, indirect=["target"], ids=[f"{t}-{w}" for t, w in MODES])
def test_a_load_killed_at_any_point_is_exact_when_carried_on(
    tmp_path: Path, target: Target, write: WriteMode, point: str
) -> None:
    case = Case(
        folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM, write=write
    )
    nth = 2 if point == "after_stage" else 1  # with one of three slices staged and saved
    assert run(replace(case, failpoint=f"{point}=kill@{nth}")) == KILLED
    assert run(case) == 0
    assert_holds(target, load_rows(GeneratorConfig.parse(LOAD), STREAM))


FOLLOWED = [(target, write) for target, write in MODES if write is not WriteMode.REPLACE]


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize(
    ("target", "write"), FOLLOWED, indirect=["target"], ids=[f"{t}-{w}" for t, w in FOLLOWED]
)
def test_a_change_log_killed_at_any_point_is_exact_when_carried_on(
    tmp_path: Path, target: Target, write: WriteMode, point: str
) -> None:
    case = Case(
        folder=tmp_path / "data",
        source=("generator", LOG),
        target=target,
        stream=STREAM,
        read=ReadMode.CHANGES,
        write=write,
    )
    assert run(case) == 0  # the load
    assert run(replace(case, failpoint=f"{point}=kill@3")) == KILLED  # in the third commit
    assert run(case) == 0
    config = GeneratorConfig.parse(LOG)
    expected = final_rows(config, STREAM, config.changes) if write is WriteMode.UPSERT else log_rows(LOG)
    assert_holds(target, expected)


@pytest.mark.parametrize(("target", "write"), MODES, indirect=["target"], ids=[f"{t}-{w}" for t, w in MODES])
def test_a_lost_reply_to_a_publish_is_looked_into_and_nothing_is_doubled(
    tmp_path: Path, target: Target, write: WriteMode
) -> None:
    case = Case(
        folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM, write=write
    )
    assert run(replace(case, failpoint="after_publish=lose")) == 0
    assert_holds(target, load_rows(GeneratorConfig.parse(LOAD), STREAM))


def test_the_slices_staged_before_a_kill_are_not_read_again(
    tmp_path: Path, postgres_server: PostgresServer
) -> None:
    target = ("iceberg", _settings("iceberg", f"iceberg:{tmp_path / 'lake'}"))
    case = Case(folder=tmp_path / "data", source=("generator", LOAD), target=target, stream=STREAM)
    assert run(replace(case, failpoint="after_stage=kill@3")) == KILLED
    assert run(case) == 0
    with case.open_store() as store:
        (last,) = store.runs.list("p", 1)
        lines = [line.message for line in store.runs.logs(last.id)]
    assert last.attempt == 2
    assert "2 of 3 slices were staged before" in lines
