"""Where the content of uploaded files lies: a folder, or an object store that the operator chose."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from headrace.connector.files.storage import Storage, StorageConfig, Upload, open_storage, split_url
from headrace.control.settings import Settings
from headrace.errors import ConfigError, NotFoundError

_PIECE = 8 << 20


class Content:
    """Keys are `tenant-<workspace>/uploads/<file>/<name>`. May be used from several threads."""

    def __init__(self, storage: Storage, root: Path | None, spool: Path):
        """`root` is the storage's folder when it is local; `spool` has room for one file otherwise."""
        self._storage, self._root, self._spool = storage, root, spool

    @classmethod
    def open(cls, settings: Settings, folder: Path) -> Content:
        """The one that the operator set, or `files` in the data folder."""
        if settings.files_url is None:
            root = folder / "files"
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            return cls(open_storage(str(root.absolute()), StorageConfig()), root.absolute(), folder)
        scheme, _, path = split_url(settings.files_url)
        access = StorageConfig.parse({**_ambient(scheme), **_access(settings)})
        root_ = Path(path).absolute() if scheme == "file" else None
        if root_ is not None:
            root_.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(open_storage(settings.files_url, access), root_, folder)

    def create(self, key: str) -> Upload:
        return self._storage.create(key)

    @contextmanager
    def borrow(self, key: str) -> Iterator[IO[bytes]]:
        """The content as a file of this machine, with a descriptor. Raises NotFoundError."""
        if self._root is not None:
            try:
                descriptor = os.open(self._root / key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                raise _gone(key) from None
            with os.fdopen(descriptor, "rb") as file:
                yield file
            return
        found = self._storage.stat(key)
        with tempfile.TemporaryFile(dir=self._spool) as copy, self._storage.open(found) as content:
            shutil.copyfileobj(content, copy, _PIECE)
            copy.flush()
            copy.seek(0)
            yield copy

    def remove(self, key: str) -> None:
        """Nothing happens when it is gone already."""
        self._storage.delete([key])
        if self._root is not None:
            with suppress(OSError):
                (self._root / key).parent.rmdir()

    def leftovers(self, before: datetime) -> dict[str, list[str]]:
        """By the id of the file: keys of content older than that. Files that are known are among them."""
        found: dict[str, list[str]] = {}
        with suppress(NotFoundError):
            for object in self._storage.list():
                parts = object.key.split("/")
                if len(parts) == 4 and parts[1] == "uploads" and object.modified < before:
                    found.setdefault(parts[2], []).append(object.key)
        return found

    def drop_unfinished(self, before: datetime) -> None:
        """Folders of local uploads that died, which no list shows, with what is in them."""
        if self._root is None:
            return
        for folder in self._root.glob("tenant-*/uploads/*"):
            with suppress(OSError):
                names = list(folder.iterdir())
                dead = all(name.name.startswith(".headrace-") for name in names)
                if dead and folder.stat().st_mtime < before.timestamp():
                    shutil.rmtree(folder)


def _ambient(scheme: str) -> dict[str, Any]:
    """Without access of its own, the storage is reached as the machine reaches it."""
    section = {"s3": "s3", "gs": "gcs"}.get(scheme)
    return {section: {"ambient_credentials": True}} if section else {}


def _access(settings: Settings) -> Mapping[str, Any]:
    if settings.files_access is None:
        return {}
    try:
        given = json.loads(settings.files_access.get_secret_value())
    except json.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise ConfigError(
            "settings.files_access",
            "HEADRACE_FILES_ACCESS is no JSON object",
            field="HEADRACE_FILES_ACCESS",
            remedy='Write {"s3": {"region": "eu-west-1"}}, with the settings of a files connection.',
        )
    return given


def _gone(key: str) -> NotFoundError:
    return NotFoundError(
        "files.content_gone", f"the content of {key.rpartition('/')[2]} is gone", remedy="Upload it again."
    )
