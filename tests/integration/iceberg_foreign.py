"""What other engines do to a table that we write: deletes by position, compaction."""

from __future__ import annotations

import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table
from pyiceberg.table.snapshots import (
    Operation,
    SnapshotSummaryCollector,
    Summary,
    update_snapshot_summaries,
)
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import EMPTY_DICT, Record


class _DeletesWriter(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class _RowDelta(_FastAppendFiles):
    deletes: DataFile

    def _manifests(self) -> list[ManifestFile]:
        with _DeletesWriter(
            self._transaction.table_metadata.spec(),
            self.schema(),
            self.new_manifest_output(),
            self._snapshot_id,
            "deflate",
        ) as writer:
            writer.add(
                ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED, snapshot_id=self._snapshot_id, sequence_number=None,
                    file_sequence_number=None, data_file=self.deletes,
                )
            )  # fmt: skip
        return [writer.to_manifest_file(), *super()._manifests()]

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        metadata = self._transaction.table_metadata
        counted = SnapshotSummaryCollector()
        counted.add_file(self.deletes, metadata.schema())
        parent = metadata.current_snapshot()
        summary = Summary(operation=self._operation, **counted.build())
        return update_snapshot_summaries(summary, parent.summary if parent else None)


def delete_position(table: Table, file: str, position: int) -> None:
    """What another engine does to delete one row: a position-delete file."""
    path = Path(f"{table.location().removeprefix('file://')}/data/{uuid.uuid4()}-deletes.parquet")
    fields = [("file_path", pa.string(), 2147483546), ("pos", pa.int64(), 2147483545)]
    schema = pa.schema([pa.field(n, t, False, {"PARQUET:field_id": str(id)}) for n, t, id in fields])
    pq.write_table(pa.Table.from_arrays([pa.array([file]), pa.array([position])], schema=schema), path)
    with table.transaction() as transaction:
        delta = _RowDelta(Operation.OVERWRITE, transaction, table.io)
        delta.deletes = DataFile.from_args(
            content=DataFileContent.POSITION_DELETES, file_path=f"file://{path}",
            file_format=FileFormat.PARQUET, partition=Record(), record_count=1,
            file_size_in_bytes=path.stat().st_size,
        )  # fmt: skip
        delta.deletes.spec_id = 0
        delta.commit()


def delete_equal(table: Table, id: int) -> None:
    """What another engine does to delete rows by a value of the first column: an equality-delete file."""
    path = Path(f"{table.location().removeprefix('file://')}/data/{uuid.uuid4()}-equality.parquet")
    schema = pa.schema([pa.field("id", pa.int64(), metadata={"PARQUET:field_id": "1"})])
    pq.write_table(pa.Table.from_arrays([pa.array([id])], schema=schema), path)
    with table.transaction() as transaction:
        delta = _RowDelta(Operation.OVERWRITE, transaction, table.io)
        delta.deletes = DataFile.from_args(
            content=DataFileContent.EQUALITY_DELETES, file_path=f"file://{path}",
            file_format=FileFormat.PARQUET, partition=Record(), record_count=1,
            file_size_in_bytes=path.stat().st_size, equality_ids=[1],
        )  # fmt: skip
        delta.deletes.spec_id = 0
        delta.commit()


def delete_files(table: Table) -> set[str]:
    """The live delete files of the table's snapshot."""
    snapshot = table.current_snapshot()
    manifests = snapshot.manifests(table.io) if snapshot else []
    return {
        entry.data_file.file_path
        for manifest in manifests
        if manifest.content == ManifestContent.DELETES
        for entry in manifest.fetch_manifest_entry(table.io)
    }
