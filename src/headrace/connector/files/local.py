"""A local folder as a storage: no path leads out of its root, and writes survive a power cut."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from headrace.connector.files.storage import Object, Storage, Upload
from headrace.errors import AuthError, ConfigError, HeadraceError, NotFoundError, TransientError

_TEMPORARY = ".headrace-"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}


class LocalStorage(Storage):
    """Files under `folder`, which need not exist before the first write.

    `root` must hold the folder and, after symlinks are followed, every file; the default is the folder.
    """

    def __init__(self, folder: str, root: str | None = None):
        self.url = folder
        self._folder = Path(os.path.realpath(Path(folder).expanduser()))
        self._root = Path(os.path.realpath(Path(root).expanduser())) if root else self._folder
        self._inside(self._folder, folder)

    def list(self, prefix: str = "", *, deep: bool = True) -> Iterator[Object]:
        for file in self._all(prefix, deep):
            if not _is_temporary(file.key):
                yield file

    def unfinished(self, prefix: str = "") -> Iterator[Object]:
        return (file for file in self._all(prefix, True) if _is_temporary(file.key))

    def _all(self, prefix: str, deep: bool) -> Iterator[Object]:
        with _translated(self.url):
            if not self._folder.is_dir():
                raise FileNotFoundError(errno.ENOENT, "no such folder")
            top = self._path(prefix) if prefix else self._folder
        if top.is_dir():
            yield from self._walk(top, prefix, deep, frozenset({os.path.realpath(top)}))

    def _walk(self, folder: Path, key: str, deep: bool, above: frozenset[str]) -> Iterator[Object]:
        with _translated(key or self.url):
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        for entry in entries:
            name = f"{key}/{entry.name}" if key else entry.name
            try:
                if entry.is_dir():
                    if _is_temporary(name):
                        continue
                    real = os.path.realpath(entry)
                    if deep and real not in above:  # a link to a folder above would never end
                        self._inside(Path(real), name)
                        yield from self._walk(Path(entry), name, deep, above | {real})
                elif entry.is_file():
                    if entry.is_symlink():
                        self._inside(Path(os.path.realpath(entry)), name)
                    yield _object(name, entry.stat())
            except FileNotFoundError:
                continue  # went away since the folder was read

    def stat(self, key: str) -> Object:
        with _translated(key):
            return _object(key, self._path(key).stat())

    def open(self, file: Object) -> IO[bytes]:
        with _translated(file.key):
            try:
                opened = os.open(self._path(file.key), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                raise _changed(file.key) from None
        return io.BufferedReader(_Reader(opened, file), 1 << 20)

    def put(self, key: str, data: bytes) -> None:
        with self.create(key) as upload:
            upload.write(data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with _translated(key), _LocalUpload(self._place(key), key) as upload:
            upload.write(data)
            return upload.link()

    def create(self, key: str) -> Upload:
        with _translated(key):
            return _LocalUpload(self._place(key), key)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with _translated(key):
                self._path(key).unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        """The real path of a key, symlinks followed. Raises ConfigError if it lies outside the root."""
        if key.startswith("/") or ".." in key.split("/") or "\0" in key:
            raise _outside(key, str(self._root))
        return self._inside(Path(os.path.realpath(self._folder / key)), key)

    def _place(self, key: str) -> Path:
        """Where a key is written; makes its folder. A symlink in the way is replaced, not followed."""
        self._path(key)
        path = self._folder / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:
            raise ConfigError(
                "storage.no_folder",
                f"the folder {path.parent} can't be made: {error.strerror}",
                field="url",
                remedy="Name a folder that is there or can be made.",
            ) from None
        return self._inside(Path(os.path.realpath(path.parent)), key) / path.name

    def _inside(self, path: Path, shown: str) -> Path:
        if not path.is_relative_to(self._root):
            raise _outside(shown, str(self._root))
        return path


class _Reader(io.RawIOBase):
    """Reads an open file, and notices when it is written meanwhile."""

    def __init__(self, opened: int, file: Object):
        self._opened, self._file = opened, file
        self._check()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._opened, offset, whence)

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _translated(self._file.key):
            count = os.readv(self._opened, [buffer])
        if count == 0:
            self._check()
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._opened)
        super().close()

    def _check(self) -> None:
        if _object(self._file.key, os.fstat(self._opened)).etag != self._file.etag:
            raise _changed(self._file.key)


class _LocalUpload(Upload):
    """Written beside its place under a temporary name, then renamed."""

    def __init__(self, path: Path, key: str):
        self._path, self._key = path, key
        self._temporary = path.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
        self._file: io.BufferedWriter | None = self._temporary.open("xb")

    def write(self, data: bytes) -> int:  # type: ignore[override]
        assert self._file is not None
        with _translated(self._key):
            return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell() if self._file else 0

    def finish(self) -> None:
        if self._file is not None:
            with _translated(self._key):
                self._settle()
                self._temporary.replace(self._path)
                _sync_folder(self._path.parent)

    def link(self) -> bool:
        """Take the place only if it is free."""
        with _translated(self._key):
            self._settle()
            try:
                os.link(self._temporary, self._path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                raise ConfigError(
                    "storage.no_links",
                    f"the file system of {self._path.parent} has no hard links, so that nothing can be "
                    "created there exactly once",
                    field="url",
                    remedy="Use a folder on another file system, or an object store.",
                ) from None
            finally:
                self._temporary.unlink(missing_ok=True)
            _sync_folder(self._path.parent)
            return True

    def _settle(self) -> None:
        assert self._file is not None
        file, self._file = self._file, None
        try:
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            self._temporary.unlink(missing_ok=True)
            raise
        finally:
            with contextlib.suppress(OSError):
                file.close()

    def close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(OSError):
                file.close()
            self._temporary.unlink(missing_ok=True)
        super().close()


def _is_temporary(key: str) -> bool:
    return key.rpartition("/")[2].startswith(_TEMPORARY)


def _object(key: str, stat: os.stat_result) -> Object:
    modified = datetime.fromtimestamp(stat.st_mtime_ns // 1000 / 1e6, UTC)
    return Object(key, stat.st_size, modified, f"{stat.st_size:x}-{stat.st_mtime_ns:x}")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _outside(key: str, root: str) -> HeadraceError:
    return ConfigError(
        "storage.outside_root",
        f"{key!r} leads out of the folder {root!r}",
        field="url",
        remedy="Remove the link or the .. from the path, or name a folder that holds it all as root.",
    )


def _changed(key: str) -> HeadraceError:
    return TransientError(
        "storage.changed",
        f"{key!r} changed or went away while it was being read",
        remedy="The next attempt reads it anew; set settle_seconds if files are still being written.",
    )


@contextlib.contextmanager
def _translated(key: str) -> Iterator[None]:
    """The operating system's errors as ours."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(
            "storage.not_found", f"there is no {key!r}", field="url", remedy="Check the path."
        ) from None
    except PermissionError:
        raise AuthError(
            "storage.denied", f"no right to use {key!r}", field="url", remedy="Give the process access to it."
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise TransientError(
                "storage.full", f"no space left for {key!r}", field="url", remedy="Make room on the disk."
            ) from None
        if error.errno in (errno.ENAMETOOLONG, errno.EISDIR, errno.ELOOP, errno.EINVAL):
            raise ConfigError(
                "storage.path",
                f"{key!r} can't be used: {error.strerror}",
                field="url",
                remedy="Check the path.",
            ) from None
        raise TransientError("storage.io", f"{key!r}: {error.strerror}", remedy="Check the disk.") from None
