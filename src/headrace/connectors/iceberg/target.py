"""The Iceberg target: what a stream's table looks like, how it is made ready, and how rows get in."""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
import pyiceberg.types as ice
from pyiceberg.catalog import Catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.io import load_file_io
from pyiceberg.table import Table
from pyiceberg.table.update.schema import UpdateSchema

from headrace.connector import (
    Maintained,
    Maintenance,
    Slice,
    Staged,
    Stream,
    Target,
    Token,
    Wear,
    WriteMode,
    Writer,
)
from headrace.connectors.iceberg import types
from headrace.connectors.iceberg.catalog import (
    Identifier,
    identifier,
    location,
    open_catalog,
    translated,
    unmade,
    warehouse,
)
from headrace.connectors.iceberg.commit import check_staged, commit, token_in
from headrace.connectors.iceberg.config import IcebergConfig
from headrace.connectors.iceberg.files import data_file
from headrace.connectors.iceberg.live import Indexes
from headrace.connectors.iceberg.maintain import maintain, wear
from headrace.connectors.iceberg.partition import make_spec
from headrace.connectors.iceberg.storage import quietly, remove
from headrace.connectors.iceberg.swap import Change
from headrace.connectors.iceberg.upsert import Upsert
from headrace.connectors.iceberg.write import IcebergWriter
from headrace.errors import ConfigError, OutcomeUnknown, TransientError

_EVOLVE_ATTEMPTS = 10


class IcebergTarget(Target[IcebergConfig]):
    """Tables of one catalogue. May be used from several threads."""

    def __init__(self, config: IcebergConfig):
        super().__init__(config)
        self._lock = threading.Lock()
        self._opened: Catalog | None = None
        self._indexes = Indexes()

    def check(self) -> None:
        with translated("listing the catalogue"):
            self._catalog.list_namespaces()
        base = warehouse(self.config)
        if not base or "://" not in base:
            return
        probe = f"{base}/.headrace-{uuid.uuid4()}"
        with translated("writing to the warehouse"):
            io = load_file_io(self._catalog.properties, base)
            with io.new_output(probe).create() as out:
                out.write(b"headrace")
            io.delete(probe)

    def image(self, stream: Stream) -> pa.Schema:
        return types.image(stream.schema)

    def describe(self, stream: Stream) -> pa.Schema | None:
        table = self._find(stream)
        return None if table is None else types.from_iceberg(table.schema())

    def prepare(self, stream: Stream, mode: WriteMode) -> None:
        wanted = types.image(stream.schema)
        for _ in range(_EVOLVE_ATTEMPTS):
            table = self._find(stream) or self._create(stream, wanted)
            _check_table(table, stream, wanted)
            if types.from_iceberg(table.schema()) == wanted:
                return
            try:
                with translated("changing the table's schema"), table.update_schema() as update:
                    for field in wanted:
                        _evolve(update, (field.name,), field.type, table)
                return
            except CommitFailedException:
                continue
        raise TransientError(
            "iceberg.schema_conflict",
            f"the table of {stream.id} is being changed by others",
            remedy="Run again when they are done.",
        )

    def open(self, stream: Stream, mode: WriteMode, slice: Slice) -> Writer:
        key = stream.primary_key if mode is WriteMode.UPSERT else ()
        if mode is WriteMode.UPSERT and not key:
            raise ConfigError(
                "iceberg.no_key",
                f"{stream.id} has no key to upsert by",
                field="key",
                remedy="Name the key columns.",
            )
        return IcebergWriter(self._load, stream, key, self.config.target_file_size_mb << 20)

    def publish(self, stream: Stream, mode: WriteMode, staged: Sequence[Staged], token: Token) -> None:
        last = max((n for n, one in enumerate(staged) if one.truncates), default=-1)
        empties = mode is WriteMode.REPLACE or last >= 0
        counted = staged[max(last, 0) :]
        if mode is WriteMode.UPSERT:
            upsert = Upsert(counted, stream.primary_key, empties, self._indexes)
            size = self.config.target_file_size_mb << 20
            try:
                commit(lambda: self._load(stream), lambda table: upsert.plan(table, size), token)
            except OutcomeUnknown:
                raise
            except Exception:
                upsert.undo()
                raise
            upsert.finish()
            quietly(partial(self._tidy, stream, staged, last))
            return
        details = [file for one in counted for file in one.detail["files"]]

        def plan(table: Table) -> Change:
            check_staged(table, counted)
            specs, schema = table.specs(), table.schema()
            added = [data_file(detail, specs[detail["spec"]], schema) for detail in details]
            return Change(added, None if empties else frozenset())

        commit(lambda: self._load(stream), plan, token)
        quietly(partial(self._tidy, stream, staged, last))

    def committed(self, stream: Stream, pipeline: str) -> Token | None:
        table = self._find(stream)
        return None if table is None else token_in(table, pipeline)

    def discard(self, stream: Stream, staged: Sequence[Staged]) -> None:
        if not staged or (table := self._find(stream)) is None:
            return
        for one in staged:
            remove(table.io, [*[file["path"] for file in one.detail["files"]], *one.detail["keys"]])

    def _tidy(self, stream: Stream, staged: Sequence[Staged], last: int) -> None:
        """Remove what a publish leaves: the files staged before the last truncate, and all key logs."""
        unused = [file["path"] for one in staged[: max(last, 0)] for file in one.detail["files"]]
        logs = [log for one in staged for log in one.detail["keys"]]
        if unused or logs:
            remove(self._load(stream).io, [*unused, *logs])

    def wear(self, stream: Stream) -> Wear | None:
        table = self._find(stream)
        if table is None:
            return None
        return wear(table, identifier(self.config, stream), self.config.target_file_size_mb << 20)

    def maintain(self, wanted: Maintenance) -> Iterator[Maintained]:
        """Compact, expire and clear the tables, beside whoever else writes them."""
        size = self.config.target_file_size_mb << 20
        return maintain(self._catalog, wanted, self.config.namespace, size)

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                quietly(self._opened.close)
                self._opened = None

    @property
    def _catalog(self) -> Catalog:
        with self._lock:
            if self._opened is None:
                self._opened = open_catalog(self.config)
            return self._opened

    def _load(self, stream: Stream) -> Table:
        return self._catalog.load_table(identifier(self.config, stream))

    def _find(self, stream: Stream) -> Table | None:
        if self._opened is None and unmade(self.config):
            return None
        with translated("reading the table"):
            try:
                return self._load(stream)
            except (NoSuchTableError, NoSuchNamespaceError):
                return None

    def _create(self, stream: Stream, wanted: pa.Schema) -> Table:
        name = identifier(self.config, stream)
        schema = types.to_iceberg(wanted)
        properties = {
            "format-version": str(self.config.format_version),
            "write.parquet.compression-codec": self.config.compression,
            "write.target-file-size-bytes": str(self.config.target_file_size_mb << 20),
            "commit.manifest-merge.enabled": "true",
        }
        if self.config.compression in ("zstd", "gzip"):
            properties["write.parquet.compression-level"] = str(self.config.compression_level)
        with translated("creating the table"):
            for depth in range(1, len(name)):
                self._create_namespace(name[:depth])
            try:
                return self._catalog.create_table(
                    name,
                    schema,
                    location=location(self.config, name),
                    partition_spec=make_spec(self.config.partition_spec.get(stream.id, ()), schema),
                    properties=properties,
                )
            except TableAlreadyExistsError:
                return self._catalog.load_table(name)

    def _create_namespace(self, namespace: Identifier) -> None:
        if self._catalog.namespace_exists(namespace):
            return
        try:
            self._catalog.create_namespace(namespace)
        except Exception:  # a catalogue says in its own words that another process was faster
            if not self._catalog.namespace_exists(namespace):
                raise


def _check_table(table: Table, stream: Stream, wanted: pa.Schema) -> None:
    if table.metadata.format_version > 2:
        raise ConfigError(
            "iceberg.format_version",
            f"the table of {stream.id} has format version {table.metadata.format_version}",
            remedy="Only versions 1 and 2 can be written: choose another table.",
        )
    for field in table.schema().fields:
        if field.required and field.name not in wanted.names:
            raise ConfigError(
                "iceberg.required_column",
                f"the table of {stream.id} requires {field.name!r}, a column that the stream does not have",
                field="columns",
                remedy="Make the column optional, or choose another table.",
            )


def _evolve(update: UpdateSchema, path: tuple[str, ...], wanted: pa.DataType, table: Table) -> None:
    """Add what is not there at `path`, widen what is too narrow."""
    try:
        field = table.schema().find_field(".".join(path))
    except ValueError:
        update.add_column(path, types.iceberg_type(wanted, itertools.count(1)))
        return
    have = field.field_type
    if pa.types.is_struct(wanted) and isinstance(have, ice.StructType):
        for child in wanted:
            _evolve(update, (*path, child.name), child.type, table)
    elif pa.types.is_list(wanted) and isinstance(have, ice.ListType):
        _evolve(update, (*path, "element"), wanted.value_type, table)
    elif pa.types.is_map(wanted) and isinstance(have, ice.MapType):
        _evolve(update, (*path, "key"), wanted.key_type, table)
        _evolve(update, (*path, "value"), wanted.item_type, table)
    else:
        narrow = types.iceberg_type(wanted, itertools.count(1))
        wider = _wider(have, narrow)
        if wider is None:
            raise ConfigError(
                "iceberg.schema_mismatch",
                f"column {'.'.join(path)!r} is {have} in the table and {narrow} in the stream",
                field="columns",
                remedy="Cast the column by a transform, or write into another table.",
            )
        if wider != have:
            update.update_column(path, wider)


def _wider(have: ice.IcebergType, want: ice.IcebergType) -> ice.IcebergType | None:
    """The type that holds both, None where there is none."""
    if isinstance(have, ice.DecimalType) and isinstance(want, ice.DecimalType) and have.scale == want.scale:
        return max(have, want, key=lambda kind: kind.precision)
    for narrow, wide in ((ice.IntegerType(), ice.LongType()), (ice.FloatType(), ice.DoubleType())):
        if {have, want} == {narrow, wide}:
            return wide
    return have if have == want else None
