"""Compaction: small files, files with many deleted rows and piled-up delete files become few good ones.

Files are rewritten before the commit, and rows of them may be deleted meanwhile. Each attempt to commit
looks at the table as it is then: deletes that came since are carried over to where their rows now lie, and
a group of files is given up when one of them has gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pyiceberg.manifest import DataFile
from pyiceberg.table import Table
from pyiceberg.typedef import Record

from headrace.connector import Maintenance
from headrace.connectors.iceberg.catalog import translated
from headrace.connectors.iceberg.commit import commit
from headrace.connectors.iceberg.deltas import write_deletes
from headrace.connectors.iceberg.files import data_file
from headrace.connectors.iceberg.keys import NO_ROWS, Numbers
from headrace.connectors.iceberg.live import Gone, Indexes, LiveFile, TableIndex
from headrace.connectors.iceberg.rewrite import Details, rewrite
from headrace.connectors.iceberg.storage import remove
from headrace.connectors.iceberg.swap import Change
from headrace.errors import OutcomeUnknown

COMMIT_BYTES = 1 << 30


@dataclass(slots=True)
class Group:
    """Files of one partition to make anew, each with its deleted rows; `made` are the new ones."""

    files: Gone
    made: Details = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(file.size for file, _ in self.files)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a table is in need of: groups to rewrite, partitions whose delete files are to be joined.

    `out` are the delete files that it will then no longer need.
    """

    groups: list[Group]
    joined: set[tuple[int, Record]]
    out: set[str]


def compact(load: Callable[[], Table], wanted: Maintenance, target_bytes: int) -> Mapping[str, int]:
    """Compact one table, in commits of about a gibibyte; gives what was read and made."""
    with translated("reading the table"):
        index, table = Indexes(0).of(load()), load()
        plan = survey(index, table, wanted, target_bytes)
    counts = dict.fromkeys(("files_in", "files_out", "bytes_in", "bytes_out", "deletes_out"), 0)
    if wanted.dry_run:
        counts["files_in"] = sum(len(group.files) for group in plan.groups)
        counts["bytes_in"] = sum(group.bytes for group in plan.groups)
        counts["deletes_out"] = len(plan.out)
        return counts
    for groups in _parts(plan.groups):
        if wanted.stopping():
            break
        joined = plan.joined if groups[-1] is plan.groups[-1] else set()
        compaction = _Compaction(groups, joined, target_bytes)
        for name, count in compaction.run(load, index).items():
            counts[name] += count
    if not plan.groups and plan.out:
        counts |= _Compaction([], plan.joined, target_bytes).run(load, index)
    return counts


def survey(index: TableIndex, table: Table, wanted: Maintenance, target_bytes: int) -> Plan:
    """What the table is in need of as it is now."""
    index.look(table)
    dead = index.dead(table)
    small = wanted.small_bytes or target_bytes // 2
    partitions: dict[tuple[int, Record], list[LiveFile]] = {}
    for file in index.data:
        partitions.setdefault((file.spec, file.partition), []).append(file)
    groups = []
    for files in partitions.values():
        worn = [f for f in files if len(dead.get(f.path, NO_ROWS)) > wanted.deleted_share * f.rows]
        worn_paths = {file.path for file in worn}
        little = [f for f in files if f.size < small and f.path not in worn_paths]
        for bin in _packed([*worn, *little], target_bytes):
            if len(bin) >= wanted.min_files or any(file.path in worn_paths for file in bin):
                groups.append(Group([(file, dead.get(file.path, NO_ROWS)) for file in bin]))
    rewritten = {file.path for group in groups for file, _ in group.files}
    left: dict[tuple[int, Record], int] = {}
    gone = obsolete(index, set(), rewritten)
    for file in index.deletes:
        if file.path not in gone:
            left[file.spec, file.partition] = left.get((file.spec, file.partition), 0) + 1
    joined = {name for name, count in left.items() if count >= wanted.min_files}
    return Plan(groups, joined, obsolete(index, joined, rewritten))


def obsolete(index: TableIndex, joined: set[tuple[int, Record]], rewritten: set[str]) -> set[str]:
    """The delete files that no file needs once those of `rewritten` are made anew and `joined` are joined."""
    live = {file.path for file in index.data} - rewritten
    return {
        file.path
        for file in index.deletes
        if (file.spec, file.partition) in joined or not index.named()[file.path] & live
    }


def _packed(files: Sequence[LiveFile], target_bytes: int) -> Iterator[list[LiveFile]]:
    """The files, in the order of their sequence, in bins of about the target size."""
    bin: list[LiveFile] = []
    held = 0
    for file in sorted(files, key=lambda f: (f.sequence, f.path)):
        if bin and held + file.size > target_bytes:
            yield bin
            bin, held = [], 0
        bin.append(file)
        held += file.size
    if bin:
        yield bin


def _parts(groups: Sequence[Group]) -> Iterator[list[Group]]:
    part: list[Group] = []
    for group in groups:
        part.append(group)
        if sum(one.bytes for one in part) >= COMMIT_BYTES:
            yield part
            part = []
    if part:
        yield part


class _Compaction:
    """One commit's worth."""

    def __init__(self, groups: list[Group], joined: set[tuple[int, Record]], target_bytes: int):
        self._groups, self._joined, self._target_bytes = groups, joined, target_bytes
        self._written: list[str] = []
        self._change: Change | None = None
        self._out = 0

    def run(self, load: Callable[[], Table], index: TableIndex) -> Mapping[str, int]:
        with translated("reading the table"):
            table = load()
        try:
            with translated("rewriting files"):
                for group in self._groups:
                    group.made = rewrite(table, group.files, self._target_bytes)
                    self._written += [detail["path"] for detail in group.made]
            commit(load, lambda table: self._plan(table, index), None)
        except OutcomeUnknown:
            raise
        except Exception:
            remove(table.io, self._written)
            raise
        change = self._change or Change()
        used = {file.file_path for file in (*change.added, *change.deletes)}
        remove(table.io, [path for path in self._written if path not in used])
        kept = [g for g in self._groups if g.files[0][0].path in (change.removed or ())]
        return {
            "files_in": sum(len(group.files) for group in kept),
            "files_out": len(change.added),
            "bytes_in": sum(group.bytes for group in kept),
            "bytes_out": sum(file.file_size_in_bytes for file in change.added),
            "deletes_out": self._out,
        }

    def _plan(self, table: Table, index: TableIndex) -> Change | None:
        """The swap as it is good for the table as it is now; None if nothing is left to do."""
        index.look(table)
        dead = index.dead(table)
        live = {file.path: file for file in index.data}
        specs, schema = table.specs(), table.schema()
        added: list[DataFile] = []
        gone: Gone = []
        rewritten: set[str] = set()
        for group in self._groups:
            files = [data_file(detail, specs[detail["spec"]], schema) for detail in group.made]
            carried = _carried(group, files, live, dead)
            if carried is None:
                continue
            added += files
            gone += carried
            rewritten |= {file.path for file, _ in group.files}
        out = obsolete(index, self._joined, rewritten)
        self._out = len(out)
        if not rewritten and not out:
            self._change = None
            return None
        named = {path for delete in out for path in index.named()[delete]} - rewritten
        gone += [(file, dead[file.path]) for file in index.data if file.path in named and file.path in dead]
        deletes = write_deletes(table, gone)
        self._written += [file.file_path for file in deletes]
        removed = rewritten | out
        within = {file.manifest for file in (*index.data, *index.deletes) if file.path in removed}
        self._change = Change(added, removed, within, deletes, rewrites=True)
        return self._change


def _carried(
    group: Group, made: Sequence[DataFile], live: Mapping[str, LiveFile], dead: Mapping[str, Numbers]
) -> Gone | None:
    """Rows of the new files that were deleted in the old ones meanwhile; None if the group is void."""
    late: list[Numbers] = []
    start = 0
    for file, before in group.files:
        now = dead.get(file.path, NO_ROWS)
        if file.path not in live or len(np.setdiff1d(before, now, assume_unique=True)):
            return None
        fresh = np.setdiff1d(now, before, assume_unique=True)
        late.append(start + fresh - np.searchsorted(before, fresh))
        start += file.rows - len(before)
    rows = np.concatenate(late)
    if not len(rows):
        return []
    if any((file.spec_id, file.partition) != (made[0].spec_id, made[0].partition) for file in made):
        return None  # the rows went to several partitions, in an order of their own
    ends = np.cumsum([file.record_count for file in made])
    parts = np.split(rows, np.searchsorted(rows, ends))
    starts = ends - [file.record_count for file in made]
    return [
        (LiveFile.of(file), part - at)
        for file, part, at in zip(made, parts, starts, strict=False)
        if len(part)
    ]
