"""Ends a table's history at some age, and removes what nothing refers to.

A file goes only when no snapshot names it. What expires is taken out of the metadata first; its files go
when that is done, so that an end in between leaves files too many and never one too few.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping

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
from headrace.connectors.iceberg.commit import fence, tokens_said
from headrace.connectors.iceberg.storage import remove
from headrace.connectors.iceberg.swap import require_unmoved
from headrace.errors import ConfigError, TransientError

HOUR = 60 * 60
DAY = 24 * HOUR
ATTEMPTS = 10
CHUNK = 500


def expire(load: Callable[[], Table], wanted: Maintenance) -> Mapping[str, int]:
    """Expire old snapshots of one table, then remove the files that only those had."""
    with translated("expiring snapshots"):
        for _ in range(ATTEMPTS):
            table = load()
            old = _expired(table, wanted) if _may_clear(table) else []
            if wanted.dry_run or not old:
                ids = {snapshot.snapshot_id for snapshot in old}
                left = [s for s in table.metadata.snapshots if s.snapshot_id not in ids]
                return {"snapshots_out": len(old), "files_removed": len(_only_in(table, old, table, left))}
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
        now = load()
        gone = _only_in(table, old, now, now.metadata.snapshots)
        remove(now.io, sorted(gone))
        return {"snapshots_out": len(old), "files_removed": len(gone)}


def clear(load: Callable[[], Table], wanted: Maintenance) -> Mapping[str, int]:
    """Remove files in the table's own folders that nothing refers to and that have not changed for long.

    What was staged and waits for its commit is such a file, too. A fence in the table makes sure that it is
    not committed any more; references are read once that stands, and again whenever the table has moved.
    """
    with translated("looking for orphans"):
        table = load()
        before = time.time() - wanted.orphans_after * DAY
        found = list(_old_files(table, before)) if _may_clear(table) else []
        named = _paths(_all_named(table), table.io) if found else set()
        found = [one for one in found if one[1] not in named]
        counts = {"files_removed": 0, "bytes_removed": 0}
        if found and not wanted.dry_run:
            fence(load, before + wanted.orphans_after * HOUR)  # clocks differ, by less than that
        for start in range(0, len(found), CHUNK):
            now = load()
            if now.metadata_location != table.metadata_location:
                table, named = now, _paths(_all_named(now), now.io)
            orphans = [(at, size) for at, path, size in found[start : start + CHUNK] if path not in named]
            if not wanted.dry_run:
                remove(table.io, [location for location, _ in orphans])
            counts["files_removed"] += len(orphans)
            counts["bytes_removed"] += sum(size for _, size in orphans)
        return counts


def _may_clear(table: Table) -> bool:
    """Does the table's owner let files be removed? Where several tables share files, nobody may."""
    return table.properties.get("gc.enabled", "true").lower() != "false"


def _expired(table: Table, wanted: Maintenance) -> list[Snapshot]:
    """Snapshots past their age: not what a branch or tag names, nor what a branch is to keep."""
    metadata = table.metadata
    limit = (time.time() - wanted.expire_after * DAY) * 1000
    kept = {ref.snapshot_id for ref in metadata.refs.values()}
    for ref in metadata.refs.values():
        if ref.snapshot_ref_type == SnapshotRefType.BRANCH:
            line = list(ancestors_of(metadata.snapshot_by_id(ref.snapshot_id), metadata))
            kept |= {
                s.snapshot_id for s in line[: max(wanted.keep_snapshots, ref.min_snapshots_to_keep or 1)]
            }
            since = time.time() * 1000 - (ref.max_snapshot_age_ms or 0)
            kept |= {s.snapshot_id for s in line if s.timestamp_ms >= since}
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
        require_unmoved(transaction)


def _only_in(table: Table, old: Collection[Snapshot], now: Table, left: Collection[Snapshot]) -> set[str]:
    """The files of the `old` snapshots that none of those `left` names."""
    return _named(table, old) - _named(now, left) if old else set()


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
    scheme, netloc, base = PyArrowFileIO.parse_location(table.location().rstrip("/"), table.io.properties)
    files = table.io.fs_by_scheme(scheme, netloc)
    for folder in ("data", "metadata"):
        selector = fs.FileSelector(f"{base}/{folder}", recursive=True, allow_not_found=True)
        for info in files.get_file_info(selector):
            if not info.is_file or info.base_name == "version-hint.text" or info.mtime is None:
                continue
            if info.mtime.timestamp() < before:
                location = table.location().rstrip("/") + info.path.removeprefix(base)
                yield location, info.path, info.size or 0
