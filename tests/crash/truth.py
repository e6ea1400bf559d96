"""What the tables of this folder's tests must hold, told by the generator alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from headrace.connector import Change
from headrace.connectors.generator import GeneratorConfig
from headrace.connectors.generator.changes import change_rows, final_rows, history, load_rows
from headrace.engine.transform import CHANGE_COLUMN
from tests.crash.tables import Target, read_table

STREAM = "orders"
LOAD = {"rows": 600, "seed": 11, "slices": 3, "batch_rows": 100}
LOG = {**LOAD, "changes": 300, "checkpoint_every": 50}


def rows_of(table: pa.Table) -> Counter[str]:
    """The rows as a multiset; a NaN equals a NaN here."""
    return Counter(repr(sorted(row.items())) for row in table.to_pylist())


def assert_holds(target: Target, expected: pa.Table) -> None:
    """The target's table has exactly these rows, each as often as here."""
    assert expected.num_rows
    assert rows_of(read_table(target, STREAM, expected.schema)) == rows_of(expected)


def log_rows(settings: Mapping[str, Any] = LOG) -> pa.Table:
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


def loaded(settings: Mapping[str, Any] = LOAD) -> pa.Table:
    """The rows of the load."""
    return load_rows(GeneratorConfig.parse(settings), STREAM)


def latest(settings: Mapping[str, Any] = LOG) -> pa.Table:
    """The rows that are left after every change."""
    config = GeneratorConfig.parse(settings)
    return final_rows(config, STREAM, config.changes)
