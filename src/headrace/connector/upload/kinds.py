"""What kinds of files can be uploaded: by the name's ending, by the first bytes, and how large."""

from __future__ import annotations

import codecs
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO

import pyarrow as pa

from headrace.errors import ConfigError, DataError

MB = 1 << 20
HEAD = 64 << 10
"""Bytes from the start that `check_content` looks at."""

LIMITS = {
    "csv": 500 * MB,
    "json": 500 * MB,
    "jsonl": 500 * MB,
    "xlsx": 100 * MB,
    "xls": 50 * MB,
    "parquet": 1024 * MB,
    "avro": 1024 * MB,
}
"""The most bytes of a file, unpacked where it is text."""

_ENDINGS = {
    "csv": "csv",
    "tsv": "csv",
    "txt": "csv",
    "xlsx": "xlsx",
    "xls": "xls",
    "json": "json",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "parquet": "parquet",
    "avro": "avro",
}
_TEXT = frozenset({"csv", "json", "jsonl"})
_PACKED = {"gz": b"\x1f\x8b", "zst": b"\x28\xb5\x2f\xfd"}
PACKED = tuple(_PACKED.values())
_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True)
class Kind:
    """`packed` is the ending of a compression around text; `tabs` says that the name promises tabs."""

    format: str
    packed: str | None = None
    tabs: bool = False


def kind_of(name: str) -> Kind:
    """The kind that a file's name tells. Raises ConfigError for none that can be read."""
    parts = name.lower().split(".")
    packed = parts.pop() if len(parts) > 2 and parts[-1] in _PACKED else None
    format = _ENDINGS.get(parts[-1]) if len(parts) > 1 else None
    if format is None or (packed and format not in _TEXT):
        raise ConfigError(
            "upload.unknown_format",
            f"{name!r} is no file of a supported format",
            field="file",
            remedy=f"Supported are {', '.join('.' + e for e in _ENDINGS)}; text may end in .gz or .zst.",
        )
    return Kind(format, packed, tabs=parts[-1] == "tsv")


def check_content(kind: Kind, head: bytes) -> None:
    """Raises ConfigError when the first bytes are not those of the kind, or there are none."""
    if not head:
        raise ConfigError(
            "upload.empty", "the file is empty", field="file", remedy="Send a file with content."
        )
    if not _agrees(kind, head):
        raise ConfigError(
            "upload.content",
            f"the content is not that of a {kind.packed or kind.format} file",
            field="file",
            remedy="Give the file the ending of what it holds.",
        )


def _agrees(kind: Kind, head: bytes) -> bool:
    if kind.packed:
        return head.startswith(_PACKED[kind.packed]) and _is_text(_unpacked(kind.packed, head))
    match kind.format:
        case "parquet":
            return head.startswith((b"PAR1", b"PARE"))  # the latter is encrypted, which is said later
        case "avro":
            return head.startswith(b"Obj\x01")
        case "xlsx":
            # a workbook with a password is an OLE2 file around it, which is said later
            return head.startswith((b"PK\x03\x04", _OLE2))
        case "xls":
            return head.startswith(_OLE2)
    return _is_text(head)


_OLE2 = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def _is_text(head: bytes) -> bool:
    return head.startswith(_BOMS) or b"\0" not in head


def _unpacked(packed: str, head: bytes) -> bytes:
    """The beginning of packed text; nothing when even that is damaged, which is said later."""
    try:
        if packed == "gz":
            return zlib.decompressobj(31).decompress(head, HEAD)
        with pa.CompressedInputStream(pa.BufferReader(head), "zstd") as stream:
            data: bytes = stream.read(HEAD)
            return data
    except (zlib.error, OSError, pa.ArrowInvalid):
        return b""


def check_workbook(file: IO[bytes]) -> None:
    """Raises ConfigError for a zip without a workbook, or one that would unpack to too much."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, EOFError):
        raise damaged() from None
    names = {member.filename for member in members}
    if "xl/workbook.xml" not in names and "xl/workbook.bin" not in names:
        raise ConfigError(
            "upload.content",
            "the zip file holds no workbook",
            field="file",
            remedy="Give the file the ending of what it holds.",
        )
    packed = sum(member.compress_size for member in members)
    size = sum(member.file_size for member in members)
    if len(members) > MAX_MEMBERS or size > max(packed * RATIO, FREE) or size > MAX_UNPACKED:
        raise too_packed()


RATIO = 100
FREE = 16 * MB
"""How much may be unpacked whatever its ratio: that much can't harm."""
MAX_UNPACKED = 1024 * MB
MAX_MEMBERS = 10_000


def damaged() -> DataError:
    return DataError(
        "upload.damaged", "the workbook is damaged", field="file", remedy="Save it again and send that."
    )


def not_text() -> ConfigError:
    return ConfigError(
        "upload.content",
        "the content is packed, and the file's name does not say so",
        field="file",
        remedy="Give the file the ending of what it holds.",
    )


def too_packed() -> ConfigError:
    return ConfigError(
        "upload.too_packed",
        f"the file unpacks to more than {RATIO} times its size, or to more than is allowed",
        field="file",
        remedy="Send it unpacked or in parts.",
    )
