"""What the specification asks of a snapshot's manifests and delete files, checked from the files."""

from __future__ import annotations

from collections import Counter

import pyarrow.parquet as pq
from pyiceberg.manifest import (
    DataFileContent,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
)
from pyiceberg.table import Table

PATH, POSITION = 2147483546, 2147483545


def check_sound(table: Table) -> None:
    """Raise AssertionError if counts, sequence numbers, partitions or bounds of the snapshot are wrong."""
    snapshot = table.current_snapshot()
    if snapshot is None:
        return
    live: dict[str, ManifestEntry] = {}
    for manifest in snapshot.manifests(table.io):
        for entry in _checked_manifest(table, manifest):
            assert entry.data_file.file_path not in live, "a file is listed twice"
            live[entry.data_file.file_path] = entry
    data = {p: e for p, e in live.items() if e.data_file.content == DataFileContent.DATA}
    deletes = [e for p, e in live.items() if p not in data]
    for entry in deletes:
        _check_deletes(table, entry, data)
    files = [entry.data_file for entry in live.values()]
    assert snapshot.summary is not None
    said = snapshot.summary.additional_properties
    assert {name: int(said[name]) for name in said if name.startswith("total-")} == {
        "total-records": sum(entry.data_file.record_count for entry in data.values()),
        "total-data-files": len(data),
        "total-delete-files": len(deletes),
        "total-position-deletes": sum(entry.data_file.record_count for entry in deletes),
        "total-equality-deletes": 0,
        "total-files-size": sum(file.file_size_in_bytes for file in files),
    }


def _checked_manifest(table: Table, manifest: ManifestFile) -> list[ManifestEntry]:
    """The live entries."""
    entries = manifest.fetch_manifest_entry(table.io, discard_deleted=False)
    files, rows = Counter[ManifestEntryStatus](), Counter[ManifestEntryStatus]()
    for entry in entries:
        files[entry.status] += 1
        rows[entry.status] += entry.data_file.record_count
        assert (entry.data_file.content == DataFileContent.DATA) == (manifest.content == ManifestContent.DATA)
        assert len(entry.data_file.partition) == len(table.specs()[manifest.partition_spec_id].fields)
    for status, counted in (
        (ManifestEntryStatus.ADDED, (manifest.added_files_count, manifest.added_rows_count)),
        (ManifestEntryStatus.EXISTING, (manifest.existing_files_count, manifest.existing_rows_count)),
        (ManifestEntryStatus.DELETED, (manifest.deleted_files_count, manifest.deleted_rows_count)),
    ):
        assert counted == (files[status], rows[status])
    if table.metadata.format_version > 1:
        for entry in entries:
            assert (entry.sequence_number or 0) <= manifest.sequence_number
            if entry.status != ManifestEntryStatus.DELETED:
                assert (entry.sequence_number or 0) >= manifest.min_sequence_number
    return [entry for entry in entries if entry.status != ManifestEntryStatus.DELETED]


def _check_deletes(table: Table, entry: ManifestEntry, data: dict[str, ManifestEntry]) -> None:
    file = entry.data_file
    with table.io.new_input(file.file_path).open() as source:
        found = pq.read_table(source)
    ids = [int((field.metadata or {})[b"PARQUET:field_id"]) for field in found.schema]
    assert ids == [PATH, POSITION]
    places = list(zip(*(column.to_pylist() for column in found.columns), strict=True))
    assert places == sorted(places)
    assert len(set(places)) == len(places) == file.record_count
    paths = {path for path, _ in places}
    if file.lower_bounds:
        assert (file.lower_bounds[PATH], file.upper_bounds[PATH]) == (
            min(paths).encode(),
            max(paths).encode(),
        )
    for path, position in places:
        if target := data.get(path):
            of = target.data_file
            assert 0 <= position < of.record_count
            assert (of.spec_id, of.partition) == (file.spec_id, file.partition)
            assert (target.sequence_number or 0) <= (entry.sequence_number or 0)
