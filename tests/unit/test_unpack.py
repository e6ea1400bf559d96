"""An archive that nobody trusts is unpacked whole, or refused by a rule that has a name."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.control import unpack as module
from headrace.control.unpack import MIB, Refused, parts_of, unpack, unpack_apart
from tests.archives import files, member, tar, zipped


def refused(packed: bytes, folder: Path, *, zip: bool = False) -> str:
    """Why it was; nothing was written outside of the folder, nor left beside it."""
    archive, into = folder / "packed", folder / "inside" / "tree"
    into.mkdir(parents=True)
    archive.write_bytes(packed)
    with pytest.raises(Refused) as raised:
        unpack(archive, into, zipped=zip)
    assert {path.name for path in folder.iterdir()} == {"packed", "inside"}
    assert [path.name for path in into.parent.iterdir()] == ["tree"]
    assert all(path.is_dir() or path.is_file() for path in into.rglob("*"))
    return str(raised.value)


def one(name: str, data: bytes | None = b"x", **fields: Any) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member(archive, name, data, **fields)
    return packed.getvalue()


def several(*members: tuple[str, bytes | None]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in members:
            member(archive, name, data)
    return packed.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_a_package_is_unpacked_as_plain_files_that_nobody_else_may_read_or_run(
    mode: str, tmp_path: Path
) -> None:
    content = files() | {"rates-connector-1.0.0/libs/a.jar": b"\0" * 300, "rates-connector-1.0.0/empty": b""}
    packed = zipped(content) if mode == "zip" else tar(content, mode)
    (tmp_path / "packed").write_bytes(packed)
    tree = tmp_path / "tree"
    tree.mkdir()
    unpack_apart(tmp_path / "packed", tree, zipped=mode == "zip")
    found = {
        str(path.relative_to(tree)): path.read_bytes() if path.is_file() else None for path in tree.rglob("*")
    }
    assert found == {name.rstrip("/"): data for name, data in content.items()} | {
        "rates-connector-1.0.0/libs": None
    }
    assert {path.stat().st_mode & 0o777 for path in tree.rglob("*") if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in tree.rglob("*") if path.is_dir()} == {0o700}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "tree"]


TARS: dict[str, tuple[bytes, str]] = {
    "an absolute path": (one("/etc/cron.d/x"), "absolute"),
    "a drive": (one("C:x"), "absolute"),
    "a drive below a dot": (one("./c:/x"), "absolute"),
    "the way up": (one("a/../../x"), "leads out"),
    "the way up as a folder": (one("..", None), "leads out"),
    "a backslash": (one("a\\..\\x"), "backslash"),
    "a NUL": (one("x", pax_headers={"path": "a\0b"}), "NUL"),
    "a symbolic link": (one("x", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd"), "neither"),
    "a hard link": (one("x", b"", type=tarfile.LNKTYPE, linkname="y"), "neither"),
    "a character device": (one("x", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "neither"),
    "a block device": (one("x", b"", type=tarfile.BLKTYPE), "neither"),
    "a pipe": (one("x", b"", type=tarfile.FIFOTYPE), "neither"),
    "a contiguous file": (one("x", type=tarfile.CONTTYPE), "neither"),
    "a sparse file": (one("x", b"\0" * 512, type=tarfile.GNUTYPE_SPARSE), "neither"),
    "a sparse file of pax": (
        one("x", b"1\n0\n1\n".ljust(512, b"\0") + b"y", pax_headers={
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x",
            "GNU.sparse.realsize": "1",
        }),
        "sparse",
    ),
    "the same twice": (several(("a/x", b"1"), ("a/x", b"2")), "twice"),
    "the same by case": (several(("a/x", b"1"), ("a/X", b"2")), "twice"),
    "the same by accent": (several(("\u00e9", b"1"), ("e\u0301", b"2")), "twice"),
    "a folder by case": (several(("a/x", b"1"), ("A/y", b"2")), "by case only"),
    "a folder twice": (several(("a", None), ("a", None)), "twice"),
    "a file under a file": (several(("a", b"1"), ("a/x", b"2")), "a folder too"),
    "a file in place of a folder": (several(("a/x", b"1"), ("a", b"2")), "twice"),
    "no name": (one("./"), "no name"),
    "deep": (one("/".join("a" * 21)), "deep"),
    "long": (one("/".join(["a" * 200] * 6)), "1024 bytes"),
    "a large metadata.json": (one("a/metadata.json", b" " * (MIB + 1)), f"{MIB} bytes"),
    "a large ui-config.json": (one("a/ui-config.json", b" " * (4 * MIB + 1)), f"{4 * MIB} bytes"),
    "not UTF-8": (one("x\udcff"), "UTF-8"),
    "cut off after a member": (one("x", b"1" * 512)[:1024], "cut off"),
    "a broken header in the middle": (
        one("x", b"1" * 512)[:1024] + b"#" * 512 + one("/etc/x"), "damaged or cut off"),
}  # fmt: skip


@pytest.mark.parametrize("what", TARS)
def test_a_tar_that_breaks_a_rule_is_refused(what: str, tmp_path: Path) -> None:
    packed, reason = TARS[what]
    assert reason in refused(packed, tmp_path)


def info(name: str, **fields: Any) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    for key, value in fields.items():
        setattr(made, key, value)
    return made


def zip_of(*members: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for about, data in members:
            archive.writestr(about, data)
    return packed.getvalue()


def flagged(packed: bytes, flag: int) -> bytes:
    """The same with a flag set on its only entry, in both of its headers."""
    changed = bytearray(packed)
    for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = changed.index(mark) + at
        (old,) = struct.unpack_from("<H", changed, start)
        struct.pack_into("<H", changed, start, old | flag)
    return bytes(changed)


ZIPS: dict[str, tuple[bytes, str]] = {
    "the way up": (zip_of((info("../x"), b"1")), "leads out"),
    "an absolute path": (zip_of((info("/x"), b"1")), "absolute"),
    "a backslash": (zip_of((info("a\\b"), b"1")), "backslash"),
    "a NUL": (zip_of((info("axb"), b"1")).replace(b"axb", b"a\0b"), "NUL"),
    "a symbolic link": (zip_of((info("x", external_attr=0o120777 << 16), b"/etc/passwd")), "neither"),
    "a device": (zip_of((info("x", external_attr=0o020666 << 16), b"")), "neither"),
    "encrypted": (flagged(zip_of((info("x"), b"1")), 0x1), "encrypted"),
    "strongly encrypted": (flagged(zip_of((info("x"), b"1")), 0x40), "encrypted"),
    "a folder that is a file": (zip_of((info("x", external_attr=0o040755 << 16), b"1")), "a folder too"),
    "a file that is a folder": (zip_of((info("x/", external_attr=0o100644 << 16), b"")), "a file too"),
    "the same by case": (zip_of((info("x"), b"1"), (info("X"), b"1")), "twice"),
}


@pytest.mark.parametrize("what", ZIPS)
def test_a_zip_that_breaks_a_rule_is_refused(what: str, tmp_path: Path) -> None:
    packed, reason = ZIPS[what]
    assert reason in refused(packed, tmp_path, zip=True)


def many(number: int) -> dict[str, bytes | None]:
    return {f"f{n}": b"" for n in range(number)}


@pytest.mark.parametrize("zip", [False, True])
def test_ten_thousand_entries_are_unpacked_and_one_more_is_refused(
    zip: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert module.ENTRIES == 10_000
    monkeypatch.setattr(module, "ENTRIES", 100)  # so many files take their time
    pack: Callable[[Any], bytes] = zipped if zip else tar
    assert "more than 100 entries" in refused(pack(many(101)), tmp_path, zip=zip)
    (tmp_path / "more").mkdir()
    (tmp_path / "packed").write_bytes(pack(many(100)))
    unpack(tmp_path / "packed", tmp_path / "more", zipped=zip)
    assert len(list((tmp_path / "more").iterdir())) == 100


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz", "zip"])
def test_a_bomb_ends_in_bounded_space(mode: str, tmp_path: Path) -> None:
    content: dict[str, bytes | None] = {f"a/{n}": b"\0" * (8 * MIB) for n in range(4)}
    packed = zipped(content) if mode == "zip" else tar(content, mode)
    assert len(packed) < 100_000
    assert "100 times" in refused(packed, tmp_path, zip=mode == "zip")
    written = sum(path.stat().st_size for path in (tmp_path / "inside").rglob("*") if path.is_file())
    assert written <= module._HEADERS + 100 * len(packed) + MIB


def test_a_file_is_bounded_whatever_its_header_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRY_BYTES", 1000)
    packed = bytearray(zip_of((info("x"), os.urandom(2000))))
    for mark, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):  # both headers lie about its size
        struct.pack_into("<I", packed, packed.index(mark) + at, 10)
    archive = tmp_path / "packed"
    archive.write_bytes(packed)
    (tmp_path / "tree").mkdir()
    with pytest.raises((Refused, zipfile.BadZipFile)):
        unpack(archive, tmp_path / "tree", zipped=True)
    assert all(path.stat().st_size <= 1000 for path in (tmp_path / "tree").iterdir())
    assert "more than 1000 bytes" in refused(one("x", b"1" * 1001), tmp_path / "other")


def header_bomb() -> bytes:
    """A pax header that says it is a gigabyte: a parser that believes it takes the memory at once."""
    about = tarfile.TarInfo("x")
    about.type, about.size = tarfile.XHDTYPE, 1 << 30
    return about.tobuf() + b"\0" * 10_000


@pytest.mark.parametrize(
    ("what", "packed", "zip"),
    [
        ("no archive", b"hello", False),
        ("nothing", b"", False),
        ("no zip", b"hello", True),
        ("a tar under the name of a zip", tar(files()), True),
        ("a header bomb", header_bomb(), False),
        ("a gzip cut off", tar(files())[:-20], False),
        ("a gzip with something behind it", tar(files()) + b"more", False),
        ("a file cut off", one("x", b"1" * 5000)[:2000], False),
    ],
)
def test_what_a_parser_stumbles_on_is_refused_by_the_child(
    what: str, packed: bytes, zip: bool, tmp_path: Path
) -> None:
    (tmp_path / "packed").write_bytes(packed)
    (tmp_path / "tree").mkdir()
    with pytest.raises(Refused) as raised:
        unpack_apart(tmp_path / "packed", tmp_path / "tree", zipped=zip)
    assert str(raised.value), what


def test_long_names_upon_long_names_end(tmp_path: Path) -> None:
    about = tarfile.TarInfo("././@LongLink")
    about.type, about.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "packed").write_bytes((about.tobuf() + b"a\0".ljust(512, b"\0")) * 5000)
    (tmp_path / "tree").mkdir()
    with pytest.raises(Refused):
        unpack_apart(tmp_path / "packed", tmp_path / "tree", zipped=False)


def test_the_child_has_no_variable_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_MASTER_KEY", "canary")
    seen: list[dict[str, str]] = []
    real = module.subprocess.run

    def run(command: Any, **options: Any) -> Any:
        seen.append(options["env"])
        return real(command, **options)

    monkeypatch.setattr(module.subprocess, "run", run)
    (tmp_path / "packed").write_bytes(tar(files()))
    (tmp_path / "tree").mkdir()
    unpack_apart(tmp_path / "packed", tmp_path / "tree", zipped=False)
    assert [sorted(environ) for environ in seen] == [["LANG", "PATH"]]


NAMES = st.lists(st.sampled_from(["a", "B", "..", ".", "", "c:", "x\\y", "é", "\0", "a" * 30]), max_size=25)


@given(NAMES)
def test_a_path_stays_below_its_folder_or_is_refused(parts: list[str]) -> None:
    name = "/".join(parts)
    try:
        found = parts_of(name)
    except Refused:
        return
    assert len(found) <= module.DEPTH
    root = Path("/the/folder")
    assert Path(os.path.normpath(root.joinpath(*found))).is_relative_to(root)
    assert "/".join(found).split("/") == [p for p in parts if p not in ("", ".")] or not found


@given(st.binary(max_size=2000), st.booleans())
def test_bytes_of_any_kind_are_unpacked_or_refused_and_write_nowhere_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, zip: bool
) -> None:
    folder = tmp_path_factory.mktemp("any")
    packed = bytearray(zipped(files()) if zip else tar(files(), "w"))
    for at, value in zip_pairs(data):
        packed[at % len(packed)] = value
    (folder / "packed").write_bytes(packed)
    (folder / "inside").mkdir()
    tree = folder / "inside" / "tree"
    tree.mkdir()
    with contextlib.suppress(Exception):
        unpack(folder / "packed", tree, zipped=zip)
    assert {path.name for path in folder.iterdir()} == {"packed", "inside"}
    assert all(not path.is_symlink() for path in tree.rglob("*"))


def zip_pairs(data: bytes) -> list[tuple[int, int]]:
    return [(struct.unpack_from("<H", data, at)[0], data[at + 2]) for at in range(0, len(data) - 2, 3)][:40]
