"""Bytes of a text file, unpacked and as UTF-8, in bounded memory."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from typing import IO, Any

import pyarrow as pa

from headrace.errors import ConfigError, DataError

LINE_LIMIT = 64 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


class TextSource:
    """Reads a file as bytes of UTF-8 text.

    gzip and zstd are known by content. A byte order mark decides the encoding, then the `encoding`
    given; without either the bytes pass as they are (`decoded` is False) and the caller looks whether
    they are UTF-8. `name` is for messages.
    """

    def __init__(self, file: IO[bytes], name: str, encoding: str | None = None):
        self._file, self._name = file, name
        self._raw = _unpacked(file)
        start = self._get(4)
        mark, found = next(((m, e) for m, e in _BOMS if start.startswith(m)), (b"", None))
        self._rest = start[len(mark) :]
        named = found or (codecs.lookup(encoding).name if encoding else None)
        self.decoded = named is not None
        self._decoder = None if named in (None, "utf-8", "ascii") else codecs.getincrementaldecoder(named)()

    def read(self, size: int) -> bytes:
        """About `size` bytes, more or less; nothing only at the end."""
        while True:
            data = self._rest + self._get(size)
            self._rest = b""
            if self._decoder is None or not data:
                return data + (self._decode(b"", final=True) if self._decoder and not data else b"")
            if text := self._decode(data):
                return text

    def _get(self, size: int) -> bytes:
        try:
            data: bytes = self._raw.read(size)
            return data
        except (EOFError, OSError, zlib.error, pa.ArrowInvalid) as error:  # storages raise errors of ours
            raise _corrupt(self._name, error) from None

    def _decode(self, data: bytes, final: bool = False) -> bytes:
        assert self._decoder is not None
        try:
            return self._decoder.decode(data, final).encode()
        except UnicodeError as error:
            raise DataError(
                "files.encoding",
                f"{self._name} is not {getattr(error, 'encoding', 'the text')} that its encoding promises",
                field="encoding",
                remedy="Set the file's real encoding.",
            ) from None


def windows_1252(data: bytes) -> bytes:
    """Windows-1252 to UTF-8; the five bytes it leaves undefined are taken for latin-1, as browsers do."""
    return data.decode("cp1252", "headrace.latin-1").encode()


def line_too_long(name: str, line: int) -> DataError:
    return DataError(
        "files.line_too_long",
        f"{name} holds a record of more than {LINE_LIMIT >> 20} MiB at line {line}",
        field="format",
        remedy="Check that the file is of the format it is read as.",
    )


def not_text(name: str, why: str) -> ConfigError:
    return ConfigError(
        "files.wrong_format",
        f"{name} can't be read in this format: {why}",
        field="format",
        remedy="Set the format that the files really have.",
    )


def _latin_1(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("headrace.latin-1", _latin_1)


def _unpacked(file: IO[bytes]) -> Any:
    start = file.read(4)
    file.seek(0)
    kind = next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)
    if kind == "gzip":
        return io.BufferedReader(gzip.GzipFile(fileobj=file), 1 << 20)
    if kind == "zstd":
        return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")
    return file


def _corrupt(name: str, error: Exception) -> DataError:
    what = "ends too early" if isinstance(error, EOFError) else "is damaged"
    return DataError(
        "files.corrupt",
        f"the compressed file {name} {what}",
        remedy="Bring the file again; none of it was taken.",
    )
