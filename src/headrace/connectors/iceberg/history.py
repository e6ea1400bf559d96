"""Ends a table's history at some age, and removes what nothing refers to.

A file goes only when no snapshot names it. What expires is taken out of the metadata first; its files go
when that is done, so that an end in between leaves files too many and never one too few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice

from pyarrow import fs
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.io.pyarrow import PyArrowFileIO
from pyiceberg.table import Table
from pyiceberg.table.refs import SnapshotRefType
from pyiceberg.table.snapshots import Snapshot, ancestors_of
from pyiceberg.table.update import AssertRefSnapshotId, RemoveSnapshotsUpdate
from pyiceberg.utils.concurrent import ExecutorFactory

from headrace.connector import Maintenance
from headrace.connectors.iceberg.catalog import translated
from headrace.connectors.iceberg.commit import tokens_said
from headrace.connectors.iceberg.storage import remove
from headrace.errors import ConfigError, TransientError

DAY = 24 * 60 * 60
ATTEMPTS = 10
CHUNK = 500


def expire(load: Callable[[], Table], wanted: Maintenance) -> Mapping[str, int]:
    """Expire old snapshots of one table, then remove the files that only those had."""
    with translated("expiring snapshots"):
        for _ in range(ATTEMPTS):
            table = load()
            old = _expired(table, wanted) if _may_clear(table) else []
            gone = _only_in(table, old)
            if wanted.dry_run or not old:
                return {"snapshots_out": len(old), "files_removed": len(gone)}
            try:
                _forget(table, old)
                break
            except CommitFailedException:
                continue
        else:
            raise TransientError(
                "iceberg.expiry_conflict",
                f"other writers changed the table during each of {ATTEMPTS} attempts to expire snapshots",
                remedy="Run again when there is less going on.",
            )
        left = load()
        gone -= _named(left, left.metadata.snapshots)
        remove(left.io, sorted(gone))
        return {"snapshots_out": len(old), "files_removed": len(gone)}


def clear(load: Callable[[], Table], wanted: Maintenance) -> Mapping[str, int]:
    """Remove files in the table's own folders that nothing refers to and that have not changed for long.

    What was staged and waits for its commit is such a file, too; hence the age, and a publish makes sure
    that what it commits is still there once it is old. References are read after the files were listed,
    and again before each few hundred are removed.
    """
    with translated("looking for orphans"):
        table = load()
        before = time.time() - wanted.orphans_after * DAY
        found = list(_old_files(table, before)) if _may_clear(table) else []
        counts = {"files_removed": 0, "bytes_removed": 0}
        for start in range(0, len(found), CHUNK):
            chunk, table = found[start : start + CHUNK], load()
            named = _paths(_all_named(table), table.io)
            orphans = [(location, size) for location, path, size in chunk if path not in named]
            if not wanted.dry_run:
                remove(table.io, [location for location, _ in orphans])
            counts["files_removed"] += len(orphans)
            counts["bytes_removed"] += sum(size for _, size in orphans)
        return counts


def _may_clear(table: Table) -> bool:
    """Does the table's owner let files be removed? Where several tables share files, nobody may."""
    return table.properties.get("gc.enabled", "true").lower() != "false"


def _expired(table: Table, wanted: Maintenance) -> list[Snapshot]:
    """Snapshots past their age: not the last ones of a branch, and not what a tag or a branch names."""
    metadata = table.metadata
    limit = (time.time() - wanted.expire_after * DAY) * 1000
    kept = {ref.snapshot_id for ref in metadata.refs.values()}
    for ref in metadata.refs.values():
        if ref.snapshot_ref_type == SnapshotRefType.BRANCH:
            line = ancestors_of(metadata.snapshot_by_id(ref.snapshot_id), metadata)
            kept |= {snapshot.snapshot_id for snapshot in islice(line, max(wanted.keep_snapshots, 1))}
    return [s for s in metadata.snapshots if s.timestamp_ms < limit and s.snapshot_id not in kept]


def _forget(table: Table, old: Collection[Snapshot]) -> None:
    """Take the snapshots out of the metadata. A pipeline's token that one of them alone holds is kept."""
    with table.transaction() as transaction:
        if tokens := tokens_said(table):
            transaction.set_properties(tokens)
        transaction._apply(
            (RemoveSnapshotsUpdate(snapshot_ids=[snapshot.snapshot_id for snapshot in old]),),
            tuple(
                AssertRefSnapshotId(ref=name, snapshot_id=ref.snapshot_id)
                for name, ref in table.metadata.refs.items()
            ),
        )


def _only_in(table: Table, old: Collection[Snapshot]) -> set[str]:
    """The files that no other snapshot names."""
    if not old:
        return set()
    ids = {snapshot.snapshot_id for snapshot in old}
    return _named(table, old) - _named(
        table, [s for s in table.metadata.snapshots if s.snapshot_id not in ids]
    )


def _named(table: Table, snapshots: Collection[Snapshot]) -> set[str]:
    """The manifest lists of the snapshots, their manifests, and the data and delete files in these."""
    lists = {snapshot.manifest_list for snapshot in snapshots}
    manifests = {m.manifest_path: m for snapshot in snapshots for m in snapshot.manifests(table.io)}
    read = ExecutorFactory.get_or_create().map(
        lambda manifest: [
            entry.data_file.file_path
            for entry in manifest.fetch_manifest_entry(table.io, discard_deleted=True)
        ],
        manifests.values(),
    )
    return lists | manifests.keys() | {path for paths in read for path in paths}


def _all_named(table: Table) -> set[str]:
    metadata = table.metadata
    others = {table.metadata_location, *(entry.metadata_file for entry in metadata.metadata_log)}
    statistics = (*metadata.statistics, *metadata.partition_statistics)
    return _named(table, metadata.snapshots) | others | {one.statistics_path for one in statistics}


def _paths(locations: Collection[str], io: object) -> set[str]:
    """Locations as the file system names them: one file may be written as path and as URL."""
    properties = io.properties if isinstance(io, PyArrowFileIO) else {}
    return {PyArrowFileIO.parse_location(location, properties)[2] for location in locations}


def _old_files(table: Table, before: float) -> Iterator[tuple[str, str, int]]:
    """Files below the table's data and metadata folders that did not change since: URL, path, size."""
    if not isinstance(table.io, PyArrowFileIO):
        raise ConfigError(
            "iceberg.cannot_list",
            "the files of this storage cannot be listed",
            field="warehouse",
            remedy="Leave orphans out, with --no-orphans.",
        )
    scheme, netloc, base = PyArrowFileIO.parse_location(table.location(), table.io.properties)
    files = table.io.fs_by_scheme(scheme, netloc)
    for folder in ("data", "metadata"):
        selector = fs.FileSelector(f"{base}/{folder}", recursive=True, allow_not_found=True)
        for info in files.get_file_info(selector):
            if not info.is_file or info.base_name == "version-hint.text" or info.mtime is None:
                continue
            if info.mtime.timestamp() < before:
                location = table.location().rstrip("/") + info.path.removeprefix(base)
                yield location, info.path, info.size or 0
