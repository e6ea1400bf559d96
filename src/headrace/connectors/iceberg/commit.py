"""One atomic commit: files in, files out, and the token with them."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from pyiceberg.exceptions import CommitFailedException
from pyiceberg.manifest import (
    DataFile,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import (
    Operation,
    SnapshotSummaryCollector,
    Summary,
    ancestors_of,
    update_snapshot_summaries,
)
from pyiceberg.table.update.snapshot import _MergeAppendFiles
from pyiceberg.typedef import EMPTY_DICT

from headrace.connector import Staged, Token
from headrace.connectors.iceberg.catalog import outcome_unknown, translate, translated
from headrace.errors import OutcomeUnknown, StageLost, TransientError

ATTEMPTS = 25
FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0
ANCESTORS = 100
PROPERTY = "headrace.token."
LASTS = 12 * 60 * 60  # seconds for which no maintenance takes what was staged for an orphan


@dataclass(frozen=True, slots=True)
class Change:
    """What a commit does to a table.

    `removed` are paths of data files and delete files, None means all there are; no other manifests than
    those of `within` list them. `deletes` are new
    position-delete files, good for the very snapshot that the change was planned on; `rewrites` says
    that the table's rows stay what they are.
    """

    added: Sequence[DataFile] = ()
    removed: Collection[str] | None = frozenset()
    within: Collection[str] = frozenset()
    deletes: Sequence[DataFile] = ()
    rewrites: bool = False


def commit(load: Callable[[], Table], plan: Callable[[Table], Change | None], token: Token | None) -> None:
    """Commit what `plan` says of the table as it is then; again on conflict, with a fresh look each time.

    A plan of None ends it. Maintenance has no token: it is no pipeline's publish.

    Raises Fenced by the token found in the table, OutcomeUnknown when the reply was lost and our commit
    cannot be seen, TransientError when others kept getting in between; nothing happened but in the second.
    """
    tried: Swap | None = None
    for attempt in range(ATTEMPTS):
        with translated("reading the table"):
            table = load()
        if tried is not None and not tried.refused(table):
            return
        if token is not None and not token.supersedes(token_in(table, token.pipeline)):
            return
        with translated("planning the commit"):
            change = plan(table)
            if change is None:
                return
            transaction, tried = _prepare(table, change, token)
        try:
            transaction.commit_transaction()
            return
        except CommitFailedException:
            time.sleep(min(FIRST_WAIT * 2**attempt, LONGEST_WAIT) * random.uniform(0.5, 1.5))
        except Exception as error:
            if outcome_unknown(error):
                _look(load, token, tried, error)
                return
            tried.clean()
            if ours := translate(error, "committing"):
                raise ours from error
            raise
    with translated("reading the table"):
        if tried is not None and not tried.refused(load()):
            return
    raise TransientError(
        "iceberg.conflict",
        f"other writers changed the table during each of {ATTEMPTS} attempts to commit",
        remedy="Let fewer writers commit to the table at once, or commit less often.",
    )


def check_staged(table: Table, staged: Sequence[Staged]) -> None:
    """Raise StageLost if the table was replaced by another, or old staged files cleared away, meanwhile."""
    if any(one.detail["table"] != str(table.metadata.table_uuid) for one in staged):
        raise StageLost(
            "iceberg.table_replaced",
            f"the table {'.'.join(table.name())} was dropped and made anew after rows had been staged for it",
            remedy="Nothing to do: the rows are read again.",
        )
    long_ago = time.time() - LASTS
    for one in staged:
        if one.detail.get("at", 0) > long_ago:
            continue
        for path in (*[file["path"] for file in one.detail["files"]], *one.detail["keys"]):
            if not table.io.new_input(path).exists():
                raise StageLost(
                    "iceberg.stage_cleared",
                    f"rows staged for {'.'.join(table.name())} waited so long that they were cleared away",
                    remedy="Nothing to do: the rows are read again.",
                )


def tokens_said(table: Table) -> dict[str, str]:
    """The properties that pipelines need whose last token stands in a snapshot alone."""
    said = [s.summary.additional_properties for s in table.metadata.snapshots if s.summary]
    names = {found for one in said if (found := one.get("headrace.pipeline"))}
    missing = {name for name in names if not table.properties.get(PROPERTY + name)}
    tokens = {name: token_in(table, name) for name in missing}
    return {
        PROPERTY + name: json.dumps(token.to_json(), ensure_ascii=False)
        for name, token in tokens.items()
        if token
    }


def token_in(table: Table, pipeline: str) -> Token | None:
    """The pipeline's last token: the table's property, or what snapshots remember if somebody unset it."""
    if text := table.properties.get(PROPERTY + pipeline):
        return Token(**json.loads(text))
    for number, snapshot in enumerate(ancestors_of(table.current_snapshot(), table.metadata)):
        if number == ANCESTORS:
            break
        said = snapshot.summary.additional_properties if snapshot.summary else {}
        if said.get("headrace.pipeline") == pipeline:
            return Token(
                pipeline=pipeline,
                epoch=int(said["headrace.epoch"]),
                sequence=int(said["headrace.sequence"]),
                position=json.loads(said["headrace.position"]),
            )
    return None


def _prepare(table: Table, change: Change, token: Token | None) -> tuple[Transaction, Swap]:
    transaction = _Transaction(table)
    swap = Swap(transaction, change, _said(token) if token else {})
    try:
        swap.commit()
    except Exception:
        swap.clean()
        raise
    if token:
        transaction.set_properties(
            {PROPERTY + token.pipeline: json.dumps(token.to_json(), ensure_ascii=False)}
        )
    # With producers registered, pyiceberg answers a conflict by rebasing and committing again, without
    # a look at our token; without any it raises at once.
    transaction._snapshot_producers.clear()
    return transaction, swap


def _said(token: Token) -> dict[str, str]:
    """The token as the snapshot's summary has it."""
    return {
        "headrace.pipeline": token.pipeline,
        "headrace.epoch": str(token.epoch),
        "headrace.sequence": str(token.sequence),
        "headrace.position": json.dumps(token.position, ensure_ascii=False, separators=(",", ":")),
    }


def _look(load: Callable[[], Table], token: Token | None, tried: Swap, error: Exception) -> None:
    """Return if our commit is there, else leave the question open: it may yet arrive."""
    landed = False
    with contextlib.suppress(Exception):
        table = load()
        last = token_in(table, token.pipeline) if token else None
        same = (
            token is not None
            and last is not None
            and (last.epoch, last.sequence) == (token.epoch, token.sequence)
        )
        landed = same or table.metadata.snapshot_by_id(tried.snapshot_id) is not None
    if not landed:
        raise OutcomeUnknown(
            "iceberg.commit_unknown",
            f"the reply to a commit was lost ({type(error).__name__})",
            remedy="Nothing to do: the table is looked at before anything is written again.",
        ) from error


class _Transaction(Transaction):
    """Does not copy the whole metadata at every look before there is an update, as pyiceberg does."""

    @property
    def table_metadata(self) -> TableMetadata:
        return super().table_metadata if self._updates else self._table.metadata


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
        self._deletes = change.deletes
        self._rewrites = change.rewrites
        self._untouched: list[ManifestFile] = []
        self._remaining: list[tuple[int, ManifestContent, list[ManifestEntry]]] = []
        for file in change.added:
            self.append_data_file(file)

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
        by_spec: dict[int, list[ManifestEntry]] = {}
        for file in self._deletes:
            arguments: dict[str, Any] = {
                "status": ManifestEntryStatus.ADDED,
                "snapshot_id": self.snapshot_id,
                "sequence_number": None,
                "file_sequence_number": None,
                "data_file": file,
            }
            by_spec.setdefault(file.spec_id, []).append(ManifestEntry.from_args(**arguments))
        new = [self._manifest(spec, ManifestContent.DELETES, entries) for spec, entries in by_spec.items()]
        merged = super()._process_manifests(manifests)
        deletes = [m for m in merged if m.content == ManifestContent.DELETES]
        return [m for m in merged if m.content == ManifestContent.DATA] + self._fewer(deletes) + new

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
            writer = _DeletesWriter(self.spec(spec), self.schema(), output, self.snapshot_id, compression)
        with writer:
            for entry in entries:
                writer.add_entry(entry)
        return writer.to_manifest_file()

    def _summary(self, snapshot_properties: dict[str, str] = EMPTY_DICT) -> Summary:
        """The totals; not by partition, since pyiceberg cannot name days beyond Python's calendar."""
        metadata = self._transaction.table_metadata
        collector = SnapshotSummaryCollector()
        for file in (*self._added_data_files, *self._deletes):
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

    def refused(self, table: Table) -> bool:
        """Was this commit, which the catalogue called a conflict, really not made? If so, cleans up.

        A transport that repeats a request whose reply was lost makes a commit conflict with itself.
        """
        if table.metadata.snapshot_by_id(self.snapshot_id) is not None:
            return False
        self.clean()
        return True

    def clean(self) -> None:
        """Remove the manifests of a commit that was not made."""
        self._clean_all_uncommitted()
