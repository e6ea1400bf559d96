"""The log of a table's commits: which files are the table, and how far each pipeline has come.

A table is a folder with `data/` and `_commits/`. A commit is the file `_commits/<20 digits>.json`,
created only if its number is free, so that of two writers one comes second and looks again. Files that
no commit names are not part of the table: whoever lists `data/` may see rows that are not there yet,
and rows that are there no more.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

import pyarrow as pa

from headrace.connector import Token
from headrace.connector.files import Storage
from headrace.errors import DataError, HeadraceError, NotFoundError, OutcomeUnknown, TransientError

FORMAT = 1
_SHORT = 200  # as many files may be listed in every manifest
_FULL_EVERY = 50  # manifests; a longer list is written whole only this often
_TOKEN = ("pipeline", "epoch", "sequence", "position")
_NAME = re.compile(r"_commits/(\d{20})\.json$")


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One data file; `path` is relative to the table's folder, `partition` its values as text."""

    path: str
    rows: int
    bytes: int
    partition: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One commit: the files it adds (`replaces`: to an empty table), and what a reader has to know.

    `live` is the whole table after this commit, or None where that would be long; it is then the `live`
    of the manifest with the number `base`, and the `files` of those after it. `tokens` holds every
    pipeline's last token. `retired` names the files of replaced content, with the time at which they
    were replaced; they are deleted some time after that. What was staged before `cleared`, in seconds since
    1970, may not be published after this commit. One without a token is a fence, and no pipeline's publish.
    """

    number: int
    token: Token | None
    mode: str
    files: tuple[File, ...]
    replaces: bool
    live: tuple[File, ...] | None
    base: int
    schema: pa.Schema
    tokens: Mapping[str, Token]
    retired: Mapping[str, datetime]
    cleared: float = 0.0

    def to_bytes(self) -> bytes:
        data = {
            "format": FORMAT,
            "number": self.number,
            **(self.token.to_json() if self.token else {}),
            "mode": self.mode,
            "replaces": self.replaces,
            "files": [asdict(file) for file in self.files],
            "live": None if self.live is None else [asdict(file) for file in self.live],
            "base": self.base,
            "columns": [{"name": column.name, "type": str(column.type)} for column in self.schema],
            "schema": base64.b64encode(self.schema.serialize().to_pybytes()).decode(),
            "tokens": {pipeline: token.to_json() for pipeline, token in self.tokens.items()},
            "retired": {path: at.isoformat() for path, at in self.retired.items()},
            "cleared": self.cleared,
        }
        return json.dumps(data, ensure_ascii=False, indent=1).encode()

    @classmethod
    def from_bytes(cls, text: bytes, where: str) -> Self:
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}")
            live = data["live"]
            return cls(
                number=data["number"],
                token=Token(**{name: data[name] for name in _TOKEN}) if "pipeline" in data else None,
                mode=data["mode"],
                files=tuple(File(**file) for file in data["files"]),
                replaces=data["replaces"],
                live=None if live is None else tuple(File(**file) for file in live),
                base=data["base"],
                schema=pa.ipc.read_schema(pa.py_buffer(base64.b64decode(data["schema"]))),
                tokens={pipeline: Token(**token) for pipeline, token in data["tokens"].items()},
                retired={path: datetime.fromisoformat(at) for path, at in data["retired"].items()},
                cleared=data.get("cleared", 0.0),
            )
        except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
            raise DataError(
                "parquet.manifest",
                f"{where} is not a manifest that this version can read: {error}",
                remedy="Restore the file, or read the table with the version that wrote it.",
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What a publish, or a fence, adds to the log."""

    token: Token | None
    mode: str
    schema: pa.Schema
    files: tuple[File, ...] = ()
    replaces: bool = False
    cleared: float = 0.0


class Log:
    """The commits of one table. For one thread; remembers the newest that it has seen."""

    def __init__(self, storage: Storage, folder: str):
        self._storage = storage
        self.folder = folder
        self._newest: Manifest | None = None

    def newest(self) -> Manifest | None:
        """The last commit, looked up anew; None for a table without any."""
        newest = self._newest
        if newest is None:
            number = self._last_number()
            newest = self._read(number) if number else None
        while newest and (following := self._read(newest.number + 1)):
            newest = following
        self._newest = newest
        return newest

    def live(self, manifest: Manifest) -> tuple[File, ...]:
        """All files of the table as of a manifest."""
        later: list[tuple[File, ...]] = []
        number = manifest.number
        found: Manifest | None = manifest
        while found is not None:
            if found.live is not None:
                return found.live + tuple(file for files in reversed(later) for file in files)
            later.append(found.files)
            number -= 1
            found = self._read(number)
        raise DataError(
            "parquet.log_gap",
            f"the manifest {self._key(number)} is gone, and the table can't be told without it",
            remedy="Restore the file: manifests are never to be deleted.",
        )

    def add(self, last: Manifest | None, commit: Commit, keep: timedelta) -> bool:
        """Commit on top of `last`; False, and nothing done, if another commit came in between.

        Raises OutcomeUnknown when the reply was lost. Files that were replaced more than `keep` ago are
        deleted afterwards.
        """
        now = datetime.now(UTC)
        retired = dict(last.retired) if last else {}
        if commit.replaces and last:
            kept = {file.path for file in commit.files}
            retired |= {file.path: now for file in self.live(last) if file.path not in kept}
        expired = [path for path, at in retired.items() if now - at > keep]
        live = self._live_after(last, commit)
        number = last.number + 1 if last else 1
        manifest = Manifest(
            number=number,
            token=commit.token,
            mode=commit.mode,
            files=commit.files,
            replaces=commit.replaces,
            live=live,
            base=last.base if last and live is None else number,
            schema=commit.schema,
            tokens={
                **(last.tokens if last else {}),
                **({commit.token.pipeline: commit.token} if commit.token else {}),
            },
            retired={path: at for path, at in retired.items() if path not in expired},
            cleared=max(commit.cleared, last.cleared if last else 0.0),
        )
        if not self._create(manifest):
            return False
        self._newest = manifest
        for path in expired:
            with contextlib.suppress(HeadraceError):  # the commit stands; the file is only in nobody's way
                self._storage.delete([f"{self.folder}/{path}"])
        return True

    def fence(self, until: float, keep: timedelta) -> Manifest:
        """Let nothing be published, from now on, that was staged before `until`; gives the newest commit."""
        while True:
            last = self.newest()
            if last and last.cleared >= until:
                return last
            schema = last.schema if last else pa.schema([])
            self.add(last, Commit(token=None, mode="fence", schema=schema, cleared=until), keep)

    def _live_after(self, last: Manifest | None, commit: Commit) -> tuple[File, ...] | None:
        if last is None or commit.replaces:
            return commit.files
        if last.live is not None and len(last.live) + len(commit.files) <= _SHORT:
            return last.live + commit.files
        if last.number + 1 - last.base >= _FULL_EVERY:
            return self.live(last) + commit.files
        return None

    def _create(self, manifest: Manifest) -> bool:
        key = self._key(manifest.number)
        try:
            return self._storage.put_if_absent(key, manifest.to_bytes())
        except TransientError as error:
            if error.code == "storage.full":
                raise
            raise OutcomeUnknown(
                "parquet.unknown",
                f"no answer whether {key} was written: {error.message}",
                remedy="Nothing to do: the target is looked at before anything is tried again.",
            ) from error

    def _last_number(self) -> int:
        try:
            names = [
                _NAME.search(file.key) for file in self._storage.list(f"{self.folder}/_commits", deep=False)
            ]
        except NotFoundError:
            if "://" in self._storage.url:  # a missing bucket is an error, a missing local folder is made
                raise
            return 0
        return max((int(name[1]) for name in names if name), default=0)

    def _read(self, number: int) -> Manifest | None:
        key = self._key(number)
        try:
            return Manifest.from_bytes(self._storage.read(key), key)
        except NotFoundError:
            return None

    def _key(self, number: int) -> str:
        return f"{self.folder}/_commits/{number:020}.json"
