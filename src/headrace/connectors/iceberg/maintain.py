"""Maintenance of the tables of one catalogue, step by step; one that fails keeps no other from its turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from pyiceberg.catalog import Catalog
from pyiceberg.table import Table

from headrace.connector import Maintained, Maintenance, Wear
from headrace.connectors.iceberg.catalog import Identifier, translated
from headrace.connectors.iceberg.commit import PROPERTY
from headrace.connectors.iceberg.compact import compact
from headrace.connectors.iceberg.history import clear, expire
from headrace.errors import ConfigError, HeadraceError, NotFoundError

Step = Callable[[Callable[[], Table]], Mapping[str, int]]


def maintain(
    catalog: Catalog, wanted: Maintenance, namespace: str | None, target_bytes: int
) -> Iterator[Maintained]:
    """`namespace` bounds the tables that are looked at; None is all of the catalogue's."""
    steps: dict[str, Step] = {}
    if wanted.compact:
        steps["compact"] = lambda load: compact(load, wanted, target_bytes)
    if wanted.expire:
        steps["expire"] = lambda load: expire(load, wanted)
    if wanted.orphans:
        steps["orphans"] = lambda load: clear(load, wanted)
    for name in _tables(catalog, wanted, namespace):
        for step, act in steps.items():
            if wanted.stopping():
                return
            shown = ".".join(name)
            try:
                yield Maintained(table=shown, step=step, counts=act(partial(_load, catalog, name)))
            except HeadraceError as error:
                yield Maintained(table=shown, step=step, error=error)


def wear(table: Table, name: Identifier, target_bytes: int) -> Wear:
    """What the summary of the current snapshot says; another writer's may say nothing."""
    snapshot = table.current_snapshot()
    said = snapshot.summary.additional_properties if snapshot and snapshot.summary else {}
    total = {what: int(said.get(f"total-{what}", 0)) for what in ("data-files", "delete-files", "files-size")}
    return Wear(
        table=".".join(name),
        delete_files=total["delete-files"],
        small_files=max(total["data-files"] - math.ceil(total["files-size"] / target_bytes), 0),
    )


def _load(catalog: Catalog, name: Identifier) -> Table:
    table = catalog.load_table(name)
    if table.metadata.format_version > 2:
        raise ConfigError(
            "iceberg.format_version_maintained",
            f"the table {'.'.join(name)} has format version {table.metadata.format_version}",
            remedy="Only versions 1 and 2 can be maintained: leave the table out.",
        )
    return table


def _tables(catalog: Catalog, wanted: Maintenance, namespace: str | None) -> Iterator[Identifier]:
    with translated("listing the catalogue"):
        known = sorted(_listed(catalog, tuple(namespace.split(".")) if namespace else ()))
    shown = {".".join(name): name for name in known}
    if missing := [name for name in wanted.tables if name not in shown]:
        raise NotFoundError(
            "iceberg.no_such_table",
            f"there is no table {missing[0]!r}",
            field="table",
            remedy=f"There are: {', '.join(shown) or 'none'}.",
        )
    if wanted.tables:
        yield from (shown[name] for name in wanted.tables)
        return
    for name in known:
        with translated("reading the table"):
            ours = any(key.startswith(PROPERTY) for key in catalog.load_table(name).properties)
        if ours:
            yield name


def _listed(catalog: Catalog, namespace: Identifier) -> Iterator[Identifier]:
    if namespace:
        yield from catalog.list_tables(namespace)
    for below in catalog.list_namespaces(namespace):
        yield from _listed(catalog, tuple(below))
