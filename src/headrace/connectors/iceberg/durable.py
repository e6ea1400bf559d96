"""Storage as pyiceberg knows it, but files of this machine are on the disk once they are closed.

Without that, a power cut could leave a catalogue that points to metadata which was never written.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any

from pyiceberg.io import OutputStream
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO


class DurableFileIO(PyArrowFileIO):
    """Named to pyiceberg by its path, so that data, manifests and metadata are all written through it."""

    def new_output(self, location: str) -> PyArrowFile:
        file = super().new_output(location)
        if self.parse_location(location, self.properties)[0] != "file":
            return file
        return _LocalFile(location, file._path, file._filesystem, file._buffer_size)


class _LocalFile(PyArrowFile):
    def create(self, overwrite: bool = False) -> OutputStream:
        return _Synced(super().create(overwrite), Path(self._path))


class _Synced(OutputStream):
    """An output stream that syncs its file, and the folder's entry for it, when it is closed."""

    def __init__(self, stream: Any, path: Path):
        self._stream, self._path = stream, path

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, b: bytes) -> int:
        written: int = self._stream.write(b)
        return written

    def tell(self) -> int:
        position: int = self._stream.tell()
        return position

    def close(self) -> None:
        if self._stream.closed:
            return
        self._stream.close()
        for path in (self._path, self._path.parent):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def __enter__(self) -> OutputStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
