"""Maintenance of the tables of one catalogue, step by step; one that fails keeps no other from its turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table

from headrace.connector import Maintained, Maintenance, Wear
from headrace.connectors.iceberg.catalog import Identifier, translated
from headrace.connectors.iceberg.commit import PROPERTY
from headrace.connectors.iceberg.compact import compact
from headrace.connectors.iceberg.history import clear, expire
from headrace.errors import ConfigError, HeadraceError, NotFoundError, TransientError

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
        shown = ".".join(name)
        try:
            with translated("reading the table"):
                ours = any(key.startswith(PROPERTY) for key in catalog.load_table(name).properties)
        except NotFoundError:  # dropped meanwhile, or no Iceberg table
            continue
        except HeadraceError as error:
            yield Maintained(table=shown, step=next(iter(steps), "compact"), error=error)
            continue
        if not ours and not wanted.tables:
            continue
        for step, act in steps.items():
            if wanted.stopping():
                return
            try:
                load = _loader(catalog, name)
                if step == "orphans":
                    _refuse_shared(catalog, name)
                yield Maintained(table=shown, step=step, counts=act(load))
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


def _loader(catalog: Catalog, name: Identifier) -> Callable[[], Table]:
    """Loads the table, and never another one that has taken its name meanwhile."""
    first: list[object] = []

    def load() -> Table:
        table = catalog.load_table(name)
        if table.metadata.format_version > 2:
            raise ConfigError(
                "iceberg.format_version_maintained",
                f"the table {'.'.join(name)} has format version {table.metadata.format_version}",
                remedy="Only versions 1 and 2 can be maintained: leave the table out.",
            )
        first.append(table.metadata.table_uuid)
        if table.metadata.table_uuid != first[0]:
            raise TransientError(
                "iceberg.table_replaced_maintained",
                f"the table {'.'.join(name)} was replaced by another while it was maintained",
                remedy="Run again.",
            )
        return table

    return load


def _refuse_shared(catalog: Catalog, name: Identifier) -> None:
    """A table that was renamed keeps its folder, and a new one of the old name may lie in the same."""
    with translated("looking for tables that share a folder"):
        table = catalog.load_table(name)
        for other in _listed(catalog, ()):
            if other == name:
                continue
            try:
                found = catalog.load_table(other)
            except (NoSuchTableError, FileNotFoundError):
                continue
            if any(_within(one, two) for one in _folders(table) for two in _folders(found)):
                raise ConfigError(
                    "iceberg.shared_folder",
                    f"the tables {'.'.join(name)} and {'.'.join(other)} share a folder",
                    remedy="Leave orphans out, with --no-orphans: one's files look like the other's orphans.",
                )


def _folders(table: Table) -> list[str]:
    """Where files of the table lie, as paths that end with a slash."""
    named = [table.properties.get(f"write.{kind}.path") for kind in ("data", "metadata")]
    return [
        PyArrowFileIO.parse_location(place.rstrip("/"), table.io.properties)[2] + "/"
        for place in (table.location(), *named)
        if place
    ]


def _within(one: str, other: str) -> bool:
    return one.startswith(other) or other.startswith(one)


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
    yield from known


def _listed(catalog: Catalog, namespace: Identifier) -> Iterator[Identifier]:
    if namespace:
        yield from catalog.list_tables(namespace)
    for below in catalog.list_namespaces(namespace):
        yield from _listed(catalog, tuple(below))
