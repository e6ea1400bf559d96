"""Unpacks an archive that nobody trusts, member by member, in a process of its own with limits.

The rules are ours and complete: what `tarfile` and `zipfile` filter by themselves was got around before.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
import re
import resource
import stat
import subprocess
import sys
import tarfile
import threading
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MIB = 1 << 20
ENTRIES = 10_000
ENTRY_BYTES = 100 * MIB
ALL_BYTES = 1 << 30
RATIO = 100
RATIO_FROM = MIB  # what is smaller unpacked than this is no bomb, however well it was packed
DEPTH = 20
PATH_BYTES = 1024
NAMED_BYTES = {"metadata.json": MIB, "ui-config.json": 4 * MIB}

MEMORY_BYTES = 512 * MIB
CPU_SECONDS = 120
SECONDS = 300
_HEADERS = ENTRIES * 2048  # of a tar that is inflated before it is read
_AT_ONCE = threading.BoundedSemaphore(2)  # of so much memory each
_REFUSED = 3
_BLOCK = 256 << 10


class Refused(Exception):
    """The archive breaks a rule, or is no archive; the text says which."""


def unpack_apart(archive: Path, folder: Path, *, zipped: bool) -> None:
    """Unpack into an empty folder, in a child process that knows nothing of this one's. Raises Refused.

    The folder may be half filled then.
    """
    command = [sys.executable, "-I", "-m", __name__, str(archive), str(folder), "zip" if zipped else "tar"]
    environ = {"LANG": "C.UTF-8", "PATH": os.defpath}
    options: dict[str, Any] = {"env": environ, "stdin": subprocess.DEVNULL, "timeout": SECONDS}
    try:
        with _AT_ONCE:
            done = subprocess.run(command, capture_output=True, check=False, **options)
    except subprocess.TimeoutExpired:
        raise Refused("unpacking took too long") from None
    if done.returncode == _REFUSED:
        raise Refused(done.stdout.decode(errors="replace").strip())
    if done.returncode:
        raise Refused("unpacking took more memory or time than is allowed")


def main(archive: str, folder: str, kind: str) -> int:
    _limit()
    try:
        unpack(Path(archive), Path(folder), zipped=kind == "zip")
    except Refused as refused:
        return _say(str(refused))
    except MemoryError:
        return _say("unpacking takes more memory than is allowed")
    except OSError as error:
        return _say(f"unpacking failed: {error.strerror or 'damaged archive'}")
    except Exception as error:  # whatever a parser stumbles on, the archive is at fault
        return _say(f"the archive is damaged ({type(error).__name__})")
    return 0


def _say(reason: str) -> int:
    sys.stdout.write(reason.encode("ascii", "backslashreplace").decode())
    return _REFUSED


def _limit() -> None:
    bounds = {
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_CPU: CPU_SECONDS,
        resource.RLIMIT_FSIZE: ALL_BYTES + _HEADERS,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for which, bound in bounds.items():
        with contextlib.suppress(ValueError, OSError):  # not every system knows each of them
            resource.setrlimit(which, (bound, bound))


def unpack(archive: Path, folder: Path, *, zipped: bool) -> None:
    """Unpack into an empty folder, in this process. Raises Refused, or what a parser raises."""
    tree = _Tree(folder, archive.stat().st_size)
    if zipped:
        _unzip(archive, tree)
        return
    plain = folder.with_name(f"{folder.name}.tar")
    try:
        _inflate(archive, plain)
        _untar(plain, tree)
    finally:
        plain.unlink(missing_ok=True)


class _Tree:
    """A folder that is being filled. Counts what is written, whatever headers say."""

    def __init__(self, folder: Path, archive_bytes: int):
        self._folder = folder
        self._left = min(ALL_BYTES, max(RATIO_FROM, RATIO * archive_bytes))
        self._entries = 0
        self._spelling: dict[str, str] = {"": ""}
        self._named: set[str] = set()
        self._files: set[str] = set()

    def folder(self, name: str) -> None:
        parts = self._enter(name)
        if parts:
            self._name(parts)
            self._folders(parts)

    def file(self, name: str, content: IO[bytes]) -> None:
        parts = self._enter(name)
        if not parts:
            raise Refused("a file has no name")
        path = self._name(parts)
        self._folders(parts[:-1])
        if path in self._spelling:
            raise Refused(f"{_shown(name)} is there twice")
        self._spelling[path] = "/".join(parts)
        self._files.add(path)
        self._write(parts, content)

    def _enter(self, name: str) -> tuple[str, ...]:
        self._entries += 1
        if self._entries > ENTRIES:
            raise Refused(f"there are more than {ENTRIES} entries")
        return parts_of(name)

    def _name(self, parts: tuple[str, ...]) -> str:
        path = _key(parts)
        if path in self._named:
            raise Refused(f"{_shown('/'.join(parts))} is there twice")
        self._named.add(path)
        return path

    def _folders(self, parts: tuple[str, ...]) -> None:
        for depth in range(1, len(parts) + 1):
            path, spelled = _key(parts[:depth]), "/".join(parts[:depth])
            if path in self._files:
                raise Refused(f"{_shown(spelled)} is a file, and a folder too")
            known = self._spelling.setdefault(path, spelled)
            if known != spelled:
                raise Refused(f"{_shown(spelled)} and {_shown(known)} differ by case only")
            with contextlib.suppress(FileExistsError):
                self._folder.joinpath(*parts[:depth]).mkdir(mode=0o700)

    def _write(self, parts: tuple[str, ...], content: IO[bytes]) -> None:
        bound = NAMED_BYTES.get(parts[-1], ENTRY_BYTES)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        written = 0
        with os.fdopen(os.open(self._folder.joinpath(*parts), flags, 0o600), "wb") as file:
            while block := content.read(_BLOCK):
                written += len(block)
                self._left -= len(block)
                if written > bound:
                    raise Refused(f"{_shown('/'.join(parts))} has more than {bound} bytes")
                if self._left < 0:
                    raise Refused(f"more than {ALL_BYTES} bytes, or {RATIO} times the archive's own size")
                file.write(block)


def parts_of(name: str) -> tuple[str, ...]:
    """The parts of a member's path below the folder. Raises Refused for a path that could lead elsewhere."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise Refused(f"the name {_shown(name)} is not UTF-8") from None
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if size > PATH_BYTES:
        raise Refused(f"the path {_shown(name)} has more than {PATH_BYTES} bytes")
    if "\0" in name or "\\" in name:
        raise Refused(f"the name {_shown(name)} holds a NUL or a backslash")
    if name.startswith("/") or (parts and re.match("[A-Za-z]:", parts[0])):
        raise Refused(f"the path {_shown(name)} is absolute")
    if ".." in parts:
        raise Refused(f"the path {_shown(name)} leads out of the archive")
    if len(parts) > DEPTH:
        raise Refused(f"the path {_shown(name)} is more than {DEPTH} deep")
    return parts


def _key(parts: tuple[str, ...]) -> str:
    """The path as a file system sees it that knows neither case nor the ways to write an accent."""
    return unicodedata.normalize("NFC", "/".join(parts).casefold())


def _shown(name: str) -> str:
    return ascii(name if len(name) <= 80 else f"{name[:77]}...")


def _unzip(archive: Path, tree: _Tree) -> None:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            name = info.orig_filename  # the other one was cut at a NUL
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.flag_bits & 0x2041:
                raise Refused(f"{_shown(name)} is encrypted")
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Refused(f"{_shown(name)} is neither a file nor a folder")
            if not name.endswith("/"):
                if kind == stat.S_IFDIR:
                    raise Refused(f"{_shown(name)} is a file, and a folder too")
                with file.open(info) as content:
                    tree.file(name, content)
            elif info.file_size or kind == stat.S_IFREG:
                raise Refused(f"{_shown(name)} is a folder, and a file too")
            else:
                tree.folder(name)


def _untar(plain: Path, tree: _Tree) -> None:
    with plain.open("rb") as raw:
        with tarfile.open(fileobj=raw, mode="r:") as file:
            for member in _members(file):
                if member.isdir():
                    tree.folder(member.name)
                    continue
                content = file.extractfile(member)
                if content is None:
                    raise Refused(f"{_shown(member.name)} can't be read")
                tree.file(member.name, content)
            end = file.offset
        raw.seek(end)
        # The library takes a header that it can't read for the end, and would leave out what comes after.
        if raw.read(tarfile.BLOCKSIZE).strip(b"\0") or raw.tell() != end + tarfile.BLOCKSIZE:
            raise Refused("the archive is damaged or cut off")


def _members(file: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in file:
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
            raise Refused(f"{_shown(member.name)} is neither a file nor a folder")
        sparse: Any = getattr(member, "sparse", None)
        if sparse is not None or any(key.startswith("GNU.sparse") for key in member.pax_headers):
            raise Refused(f"{_shown(member.name)} is sparse")
        if member.size < 0 or member.size > ENTRY_BYTES:
            raise Refused(f"{_shown(member.name)} has more than {ENTRY_BYTES} bytes")
        yield member


def _inflate(archive: Path, plain: Path) -> None:
    left = min(ALL_BYTES, max(RATIO_FROM, RATIO * archive.stat().st_size)) + _HEADERS
    with archive.open("rb") as packed, plain.open("xb") as file:
        start = packed.read(6)
        packed.seek(0)
        stream: Any = packed
        if start.startswith(b"\x1f\x8b"):
            stream = gzip.GzipFile(fileobj=packed)
        elif start.startswith(b"BZh"):
            stream = bz2.BZ2File(packed)
        elif start == b"\xfd7zXZ\0":
            stream = lzma.LZMAFile(packed)  # noqa: SIM115 - closed with what it reads
        while block := stream.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise Refused(f"more than {ALL_BYTES} bytes, or {RATIO} times the archive's own size")
            file.write(block)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
