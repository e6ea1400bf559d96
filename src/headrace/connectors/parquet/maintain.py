"""Removes what lost loads have left in the folders of tables."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from datetime import timedelta
from urllib.parse import unquote

from headrace.connector import Maintained, Maintenance
from headrace.connector.files import Object, Storage
from headrace.connectors.parquet.log import Log, Manifest
from headrace.errors import HeadraceError, NotFoundError
from headrace.model.stream import join_name

HOUR = 60 * 60
DAY = 24 * HOUR

# No folder of a table starts with a dot or an underscore or has an equals sign, and one of a partition has.
_TABLE = r"((?:[^/._=][^/=]*/)?[^/._=][^/=]*)/"
_DATA = r"data/(?:[^/=]+=[^/=]*/)*"
_COMMIT = re.compile(_TABLE + r"_commits/\d{20}\.json")
_WRITTEN = re.compile(_TABLE + _DATA + r"[0-9a-f]{32}\.parquet")
_UNFINISHED = re.compile(_TABLE + f"(?:{_DATA}|_commits/)" + r"[^/]+")


def maintain(storage: Storage, wanted: Maintenance, keep: timedelta) -> Iterator[Maintained]:
    """Clear the tables that are named, or all with a commit: what else looks like ours may not be."""
    if not wanted.orphans:
        return
    before = time.time() - wanted.orphans_after * DAY
    published, files = _found(storage, before)
    names = {folder: join_name(*map(unquote, folder.split("/"))) for folder in published | files.keys()}
    if missing := [name for name in wanted.tables if name not in names.values()]:
        raise NotFoundError(
            "parquet.no_such_table",
            f"there is no table {missing[0]!r}",
            field="table",
            remedy=f"There are: {', '.join(sorted(names.values())) or 'none'}.",
        )
    for folder, name in sorted(names.items()):
        if not (name in wanted.tables if wanted.tables else folder in published):
            continue
        if wanted.stopping():
            return
        try:
            orphans = _clear(storage, folder, files.get(folder, ()), before, wanted, keep)
            counts = {"files_removed": len(orphans), "bytes_removed": sum(file.size for file in orphans)}
            yield Maintained(table=name, step="orphans", counts=counts)
        except HeadraceError as error:
            yield Maintained(table=name, step="orphans", error=error)


def _found(storage: Storage, before: float) -> tuple[Set[str], Mapping[str, Sequence[Object]]]:
    """The folders of tables with a commit; and by folder, files of ours that did not change since."""
    published, files = set(), defaultdict(list)
    for file in storage.list():
        if commit := _COMMIT.fullmatch(file.key):
            published.add(commit[1])
        elif (written := _WRITTEN.fullmatch(file.key)) and file.modified.timestamp() < before:
            files[written[1]].append(file)
    for file in storage.unfinished():
        if (written := _UNFINISHED.fullmatch(file.key)) and file.modified.timestamp() < before:
            files[written[1]].append(file)
    return published, files


def _clear(
    storage: Storage,
    folder: str,
    files: Sequence[Object],
    before: float,
    wanted: Maintenance,
    keep: timedelta,
) -> Sequence[Object]:
    """Remove and give the files that no commit names and, behind a fence, none ever will."""
    log = Log(storage, folder)
    orphans = _not_named(log, log.newest(), files)
    if orphans and not wanted.dry_run:
        fence = log.fence(before + wanted.orphans_after * HOUR, keep)  # clocks differ, by less than that
        orphans = _not_named(log, fence, orphans)
        storage.delete(file.key for file in orphans)
    return orphans


def _not_named(log: Log, newest: Manifest | None, files: Sequence[Object]) -> Sequence[Object]:
    named = {file.path for file in log.live(newest)} | newest.retired.keys() if newest else set()
    return [file for file in files if file.key.removeprefix(f"{log.folder}/") not in named]
