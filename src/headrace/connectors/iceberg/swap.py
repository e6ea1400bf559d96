"""The snapshot that a commit makes: data files in, files out, and position deletes, all at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import (
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriter,
    ManifestWriterV2,
    write_manifest,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import (
    Operation,
    SnapshotSummaryCollector,
    Summary,
    update_snapshot_summaries,
)
from pyiceberg.table.update import ValidatableTableRequirement
from pyiceberg.table.update.snapshot import _MergeAppendFiles
from pyiceberg.typedef import EMPTY_DICT


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit does to a table.

    `removed` are paths of data files and delete files, None means all there are; no other manifests than
    those of `within` list them. `deletes` are new position-delete files, good for the very snapshot that
    the change was planned on. `rewrites` says that the table's rows stay what they are. `properties` are
    set in the same step.
    """

    added: Sequence[DataFile] = ()
    removed: Collection[str] | None = frozenset()
    within: Collection[str] = frozenset()
    deletes: Sequence[DataFile] = ()
    rewrites: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)


def schema_of(metadata: TableMetadata, spec: PartitionSpec) -> Schema:
    """The newest schema that has the columns the partitioning is made from; they may be dropped later."""
    known = [metadata.schema(), *sorted(metadata.schemas, key=lambda one: one.schema_id, reverse=True)]
    sources = {field.source_id for field in spec.fields}
    return next((schema for schema in known if sources <= schema.field_ids), known[0])


class SwapTransaction(Transaction):
    """Does not copy the whole metadata at every look before there is an update, as pyiceberg does."""

    @property
    def table_metadata(self) -> TableMetadata:
        return super().table_metadata if self._updates else self._table.metadata


class _Unmoved(ValidatableTableRequirement):
    """No branch, tag or snapshot has come, gone or moved, not even there and back again."""

    type: Literal["headrace-unmoved"] = "headrace-unmoved"
    state: Any = Field(exclude=True)

    def validate(self, base_metadata: TableMetadata | None) -> None:  # type: ignore[override]
        if base_metadata is None or _state(base_metadata) != self.state:
            raise CommitFailedException("Requirement failed: the table's snapshots have changed")


def require_unmoved(transaction: Transaction) -> None:
    """Require the history that the table has now, if its catalogue checks within this process.

    One behind REST checks the branch alone, which is enough for rows to be right. A branch that was moved
    and moved back is then answered by an error, and a tag that is set while snapshots expire may be lost.
    """
    table = transaction._table
    if isinstance(table.catalog, MetastoreCatalog):
        requirement: Any = _Unmoved(state=_state(table.metadata))
        transaction._requirements += (requirement,)


def _state(metadata: TableMetadata) -> tuple[Any, ...]:
    ids = frozenset(snapshot.snapshot_id for snapshot in metadata.snapshots)
    return metadata.refs, getattr(metadata, "last_sequence_number", 0), ids


class _DeletesWriter(ManifestWriterV2):
    """Writes a manifest of delete files; pyiceberg has none."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class Swap(_MergeAppendFiles):
    """One snapshot that takes files out and puts others in, data files and position deletes alike.

    There is a snapshot even for no files, since only a new snapshot makes the catalogue refuse an
    older worker: the commit requires that the branch still stands where this one found it.
    """

    def __init__(self, transaction: Transaction, change: Change, properties: dict[str, str]):
        nothing_out = change.removed is not None and not change.removed and not change.deletes
        empty = transaction.table_metadata.current_snapshot() is None
        operation = Operation.APPEND if nothing_out or empty else Operation.OVERWRITE
        super().__init__(operation, transaction, transaction._table.io, snapshot_properties=properties)
        self._removed, self._within = change.removed, change.within
        self._added, self._deletes = change.added, change.deletes
        self._rewrites = change.rewrites
        self._untouched: list[ManifestFile] = []
        self._remaining: list[tuple[int, ManifestContent, list[ManifestEntry]]] = []

    def _deleted_entries(self) -> list[ManifestEntry]:
        """The entries of removed data files; sorts what stays on the way (pyiceberg calls this first)."""
        self._untouched, self._remaining, out = [], [], []
        parent = self._transaction.table_metadata.current_snapshot()
        for manifest in parent.manifests(self._io) if parent else ():
            if self._removed is not None and manifest.manifest_path not in self._within:
                self._untouched.append(manifest)
                continue
            entries = manifest.fetch_manifest_entry(self._io, discard_deleted=True)
            gone = [e for e in entries if self._removed is None or e.data_file.file_path in self._removed]
            if not gone and self._removed is not None:
                self._untouched.append(manifest)
                continue
            stays = [e for e in entries if self._removed and e.data_file.file_path not in self._removed]
            stays = [self._as(ManifestEntryStatus.EXISTING, entry) for entry in stays]
            went = [self._as(ManifestEntryStatus.DELETED, entry) for entry in gone]
            self._deleted_data_files.update(e.data_file for e in gone)
            if manifest.content == ManifestContent.DATA:
                out += went
            else:
                stays += went
            if stays:
                self._remaining.append((manifest.partition_spec_id, manifest.content, stays))
        if missing := set(self._removed or ()) - {file.file_path for file in self._deleted_data_files}:
            raise AssertionError(f"a file to be removed is not in the table: {missing.pop()}")
        return out

    def _existing_manifests(self) -> list[ManifestFile]:
        kept = [m for m in self._untouched if m.has_added_files() or m.has_existing_files()]
        return kept + [self._manifest(*remaining) for remaining in self._remaining]

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        added = self._new(ManifestContent.DATA, self._added)
        merged = super()._process_manifests([*added, *manifests])
        deletes = [m for m in merged if m.content == ManifestContent.DELETES]
        data = [m for m in merged if m.content == ManifestContent.DATA]
        return data + self._fewer(deletes) + self._new(ManifestContent.DELETES, self._deletes)

    def _new(self, content: ManifestContent, files: Iterable[DataFile]) -> list[ManifestFile]:
        """A manifest for each partitioning; pyiceberg takes the table's present one to be that of all."""
        by_spec: dict[int, list[ManifestEntry]] = {}
        for file in files:
            arguments: dict[str, Any] = {
                "status": ManifestEntryStatus.ADDED,
                "snapshot_id": self.snapshot_id,
                "sequence_number": None,
                "file_sequence_number": None,
                "data_file": file,
            }
            by_spec.setdefault(file.spec_id, []).append(ManifestEntry.from_args(**arguments))
        return [self._manifest(spec, content, entries) for spec, entries in by_spec.items()]

    def _fewer(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        """Manifests of deletes in one for each spec once they are many, as pyiceberg does for data."""
        if not self._merge_enabled or len(manifests) < self._min_count_to_merge:
            return manifests
        by_spec: dict[int, list[ManifestEntry]] = {}
        for manifest in manifests:
            for entry in manifest.fetch_manifest_entry(self._io, discard_deleted=False):
                ours = entry.snapshot_id == self.snapshot_id
                if entry.status == ManifestEntryStatus.DELETED and not ours:
                    continue
                gone = entry.status == ManifestEntryStatus.DELETED
                status = ManifestEntryStatus.DELETED if gone else ManifestEntryStatus.EXISTING
                by_spec.setdefault(manifest.partition_spec_id, []).append(self._as(status, entry))
        return [self._manifest(spec, ManifestContent.DELETES, entries) for spec, entries in by_spec.items()]

    def _manifest(self, spec: int, content: ManifestContent, entries: list[ManifestEntry]) -> ManifestFile:
        writer = self.new_manifest_writer(self.spec(spec))
        if content == ManifestContent.DELETES:
            output, compression = writer._output_file, self._compression
            writer = _DeletesWriter(writer._spec, writer._schema, output, self.snapshot_id, compression)
        with writer:
            for entry in entries:
                writer.add_entry(entry)
        return writer.to_manifest_file()

    def new_manifest_writer(self, spec: PartitionSpec) -> ManifestWriter:
        return write_manifest(
            format_version=self._transaction.table_metadata.format_version,
            spec=spec,
            schema=schema_of(self._transaction.table_metadata, spec),
            output_file=self.new_manifest_output(),
            snapshot_id=self._snapshot_id,
            avro_compression=self._compression,
        )

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        """The totals; not by partition, since pyiceberg cannot name days beyond Python's calendar."""
        metadata = self._transaction.table_metadata
        collector = SnapshotSummaryCollector()
        for file in (*self._added, *self._deletes):
            collector.add_file(file, metadata.schema())
        for file in self._deleted_data_files:
            collector.remove_file(file, metadata.schema())
        parent = metadata.current_snapshot()
        summary = update_snapshot_summaries(
            Summary(operation=self._operation, **collector.build(), **snapshot_properties),
            parent.summary if parent else None,
        )
        if self._rewrites:  # pyiceberg counts for three kinds of operation, and this is the fourth
            return Summary(operation=Operation.REPLACE, **summary.additional_properties)
        return summary

    def _as(self, status: ManifestEntryStatus, entry: ManifestEntry) -> ManifestEntry:
        arguments: dict[str, Any] = {
            "status": status,
            "snapshot_id": self.snapshot_id if status == ManifestEntryStatus.DELETED else entry.snapshot_id,
            "sequence_number": entry.sequence_number,
            "file_sequence_number": entry.file_sequence_number,
            "data_file": entry.data_file,
        }
        return ManifestEntry.from_args(**arguments)

    def clean(self) -> None:
        """Remove the manifests of a commit that was not made."""
        self._clean_all_uncommitted()
