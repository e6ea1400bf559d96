"""The text of an uploaded file as UTF-8: unpacked with limits, and from whatever encoding it is in."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from typing import IO, Any

import pyarrow as pa

from headrace.connector.files.part import RowError, shorten
from headrace.connector.files.text import windows_1252
from headrace.connector.upload.kinds import FREE, LIMITS, PACKED, RATIO, Kind, not_text, too_packed
from headrace.errors import ConfigError, DataError

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_CHUNK = 1 << 20
_MOST = 4 << 20
ROW_LIMIT = 16 << 20
SHOWN = 4096


class Unpacked(io.RawIOBase):
    """The bytes within a gzip or zstd file, or those of the file itself, counted against the limits."""

    def __init__(self, file: IO[bytes], kind: Kind):
        file.seek(0, io.SEEK_END)
        self._packed = file.tell()
        file.seek(0)
        self._limit, self._raw, self._count = LIMITS[kind.format], _unpacked(file, kind.packed), 0
        self._bound = kind.packed is not None

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            data: bytes = self._raw.read(size if size >= 0 else _CHUNK)
        except (EOFError, OSError, zlib.error, pa.ArrowInvalid) as error:
            what = "ends too early" if isinstance(error, EOFError) else "is damaged"
            raise DataError(
                "upload.damaged_pack",
                f"the compressed file {what}",
                field="file",
                remedy="Pack it again and send that.",
            ) from None
        self._count += len(data)
        if self._bound and (self._count > max(FREE, self._packed * RATIO) or self._count > self._limit):
            raise too_packed()
        return data


def _unpacked(file: IO[bytes], packed: str | None) -> Any:
    if packed == "gz":
        return io.BufferedReader(gzip.GzipFile(fileobj=file), _CHUNK)
    if packed == "zst":
        return pa.CompressedInputStream(pa.PythonFile(_Kept(file), "r"), "zstd")
    return file


class _Kept(io.RawIOBase):
    """A file that stays open when pyarrow is done with it."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)


def encoding_of(file: IO[bytes], kind: Kind) -> str:
    """By its mark, else UTF-8 if all of it is, else windows-1252 (`latin-1` where that has gaps)."""
    if (marked := mark_of(file, kind)) is not None:
        return marked
    raw = Unpacked(file, kind)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := raw.read(_CHUNK):
            decoder.decode(chunk)
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return _single_byte(file, kind)
    return "utf-8"


_GAPS = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")


def _single_byte(file: IO[bytes], kind: Kind) -> str:
    raw = Unpacked(file, kind)
    while chunk := raw.read(_CHUNK):
        if _GAPS.search(chunk):
            return "latin-1"
    return "windows-1252"


class Text(io.RawIOBase):
    """UTF-8 of a file in `encoding`. Bytes that are none of it stay wrong, so that no row with them
    passes for good text. Can be wound back to its start, and nowhere else.

    Of text in `lines` those that are too large are left blank, and told in `too_large`.
    """

    def __init__(
        self,
        file: IO[bytes],
        kind: Kind,
        encoding: str,
        *,
        escape: tuple[bytes, bytes] | None = None,
        lines: bool = False,
    ):
        """`escape` is the character before a quote that is text, and the quote."""
        self._file, self._kind, self._escape, self._lines = file, kind, escape, lines
        self.encoding = encoding
        self._encoding = _known(encoding)
        self.too_large: list[RowError] = []
        self._begin()

    def _begin(self) -> None:
        self._raw, self._rest, self._ended = Unpacked(self._file, self._kind), b"", False
        name = self._encoding
        self._decoder = None if name == "utf-8" else codecs.getincrementaldecoder(name)("headrace.marked")
        self._fresh, self._held = True, b""
        self._line, self._begun, self._dropping = 1, b"", False
        self.too_large.clear()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if offset or whence:
            raise io.UnsupportedOperation
        self._begin()
        return 0

    def read(self, size: int = -1) -> bytes:
        """At most 4 MiB at a time: readers that ask for more don't need it."""
        size = min(size, _MOST)
        while not self._ended and (size < 0 or len(self._rest) < size):
            self._rest += self._more(size)
        size = len(self._rest) if size < 0 else size
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def take_too_large(self) -> list[RowError]:
        taken = list(self.too_large)
        self.too_large.clear()
        return taken

    def _more(self, size: int) -> bytes:
        data = self._decoded(size)
        return self._whole_lines(data) if self._lines else data

    def _whole_lines(self, data: bytes) -> bytes:
        """What has its end of line; a line that grows too large is left out, but for its end."""
        if self._dropping:
            if (end := _end_of_line(data)) < 0:
                return b""
            self._dropping, data = False, data[end:]
        data = self._begun + data
        last = len(data) if self._ended else max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        whole, self._begun = data[:last], data[last:]
        self._line += whole.count(b"\n")
        if len(self._begun) > ROW_LIMIT:
            self._refuse(self._begun)
            self._begun, self._dropping = b"", True
        return whole

    def _refuse(self, begun: bytes) -> None:
        reason = f"the row has more than {ROW_LIMIT >> 20} MiB"
        shown = shorten(begun[:SHOWN].decode(errors="replace"))
        self.too_large.append(RowError(self._line, "ROW_TOO_LARGE", reason, shown))

    def _decoded(self, size: int) -> bytes:
        data = self._raw.read(max(size, 1 << 16))
        self._ended = not data
        if self._fresh and data:
            self._fresh = False
            mark = next((m for m, name in _BOMS if name == self._encoding and data.startswith(m)), b"")
            data = data[len(mark) :]
            if data.startswith(PACKED):
                raise not_text()
        if self._decoder is not None:
            if self._encoding == "cp1252":
                data = windows_1252(data)
            else:
                text = self._decoder.decode(data, self._ended)
                data = text.encode("utf-8", "surrogateescape")
        return self._escaped(data) if self._escape else data

    def _escaped(self, data: bytes) -> bytes:
        """An escaped quote becomes a doubled one."""
        assert self._escape is not None
        escape, quote = self._escape
        data = self._held + data
        self._held = b""
        trailing = len(data) - len(data.rstrip(escape))
        if trailing % 2 and not self._ended:
            data, self._held = data[:-1], escape

        def plain(found: re.Match[bytes]) -> bytes:
            return quote * 2 if found[1] == quote else found[1] if found[1] == escape else found[0]

        return re.sub(re.escape(escape) + b"(.)", plain, data, flags=re.DOTALL)


def _end_of_line(data: bytes) -> int:
    """Where the first end of line is; -1 if there is none."""
    found = [at for at in (data.find(b"\n"), data.find(b"\r")) if at >= 0]
    return min(found, default=-1)


def mark_of(file: IO[bytes], kind: Kind) -> str | None:
    """The encoding that a byte order mark tells."""
    start = Unpacked(file, kind).read(4)
    return next((name for mark, name in _BOMS if start.startswith(mark)), None)


def _marked(error: UnicodeError) -> tuple[str, int]:
    """Bytes that are no character become a byte that is none in UTF-8 either."""
    assert isinstance(error, UnicodeDecodeError)
    return "\udcff", error.end


codecs.register_error("headrace.marked", _marked)


def _known(encoding: str) -> str:
    try:
        found = codecs.lookup(encoding)
    except LookupError:
        found = None
    if found is None or not getattr(found, "_is_text_encoding", True):
        raise ConfigError(
            "upload.encoding",
            f"{encoding!r} is no known encoding",
            field="readOptions.encoding",
            remedy="Name one such as utf-8, utf-16, windows-1252 or latin-1.",
        )
    return found.name
