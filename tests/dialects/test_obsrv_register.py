"""Packages that are uploaded by the Obsrv connector API, and every message of its table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from headrace.control.access import OPERATOR
from headrace.control.platform import Platform
from tests.archives import FORM, METADATA, files, tar, zipped
from tests.dialects.obsrv import (
    READ,
    REGISTER,
    failed,
    looked,
    not_registered,
    sign_in,
    succeeded,
    uploader,
)


@pytest.fixture
def admin(platform: Platform, nobody: httpx.Client) -> Callable[..., httpx.Response]:
    """Uploads a package as an administrator."""
    return uploader(nobody, sign_in(platform, admin=True))


# Register


def dropped(name: str, **metadata: Any) -> bytes:
    content = files(metadata)
    return tar({path: data for path, data in content.items() if not path.endswith(name)})


def with_metadata(text: bytes) -> bytes:
    return tar({**files(), "rates-connector-1.0.0/metadata.json": text})


def less(key: str) -> bytes:
    about = {name: value for name, value in METADATA.items() if name != key}
    return with_metadata(json.dumps({"metadata": about}).encode())


FOLDER = "connector source folder not found; expecting {} folder inside the archive"
DOCUMENT = {"type": "connector", "metadata": METADATA}
PACKAGES: dict[str, tuple[bytes, int, str]] = {
    "no archive": (b"hello", 422, "Failed to Extract the File"),
    "the way up": (tar({**files(), "../x": b""}), 422, "Failed to Extract the File"),
    "a large icon": (
        tar({**files(), "rates-connector-1.0.0/icon.svg": bytes(range(256)) * 2049}),
        422,
        "Failed to Extract the File",
    ),
    "no metadata": (dropped("metadata.json"), 422, "unable to locate the metadata file"),
    "empty metadata": (with_metadata(b""), 422, "unable to locate the metadata file"),
    "no folder": (
        tar({f"x/{path.partition('/')[2]}": data for path, data in files().items() if data}),
        422,
        FOLDER.format("rates-connector-1.0.0"),
    ),
    "no id": (less("id"), 422, FOLDER.format("undefined-1.0.0")),
    "an id of nothing": (
        with_metadata(json.dumps({"metadata": METADATA | {"id": None}}).encode()),
        422,
        FOLDER.format("null-1.0.0"),
    ),
    "the way up as a folder": (
        with_metadata(json.dumps({"metadata": METADATA | {"id": "../x"}}).encode()),
        422,
        FOLDER.format("../x-1.0.0"),
    ),
    "no form": (dropped("ui-config.json"), 422, "Unable to locate the ui configuration File"),
    "a form that is no JSON": (
        tar({**files(), "rates-connector-1.0.0/ui-config.json": b"{"}),
        422,
        "Failed to register connector",
    ),
    "a form too deep": (
        tar({**files(), "rates-connector-1.0.0/ui-config.json": b'{"a":' * 200 + b"1" + b"}" * 200}),
        422,
        "Failed to register connector",
    ),
    "metadata that are no JSON": (with_metadata(b"{"), 422, "Failed to register connector"),
    "metadata without end": (with_metadata(b"[" * 100_000), 422, "Failed to register connector"),
    "metadata of no section": (with_metadata(b"{}"), 422, "Failed to register connector"),
    "several without a list": (tar(files({"tenant": "multiple"})), 422, "Failed to register connector"),
    "several of one id": (
        tar(files({"tenant": "multiple"}, {}, connectors=[{"id": "a b"}, {"id": "a-b"}])),
        422,
        "Failed to register connector",
    ),
    "a name that is no text": (tar(files({"name": {"a": 1}})), 422, "Failed to register connector"),
    "a name that no database holds": (tar(files({"name": "a\0b"})), 422, "Failed to register connector"),
    **{
        f"no {key}": (less(key), 422, "Failed to register connector")
        for key in METADATA
        if key not in ("id", "version")
    },
}


def test_what_is_wrong_with_a_package_is_told_in_the_known_words(
    platform: Platform, nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    for packed, _, message in PACKAGES.values():
        not_registered(admin(packed), 500, message)
    assert platform.registry.packages(OPERATOR) == []
    assert [path for path in (platform._folder / "packages").iterdir() if path.name[0] == "."] == []
    refusals = [e for e in platform.audits.all(OPERATOR, limit=200) if e.action == "registry.refuse"]
    assert len(refusals) == len(PACKAGES)
    assert "symbolic" not in str(refusals) and any("leads out" in str(e.detail) for e in refusals)


def test_with_strict_status_a_bad_package_is_the_clients_fault(
    serve: Callable[..., tuple[Platform, httpx.Client]],
) -> None:
    platform, http = serve(obsrv_strict_status="true")
    upload = uploader(http, sign_in(platform, admin=True))
    for packed, status, message in list(PACKAGES.values())[:12]:
        not_registered(upload(packed), status, message)
    not_registered(upload(files={"x": (None, "text")}), 400, "connector relative path is missing.")
    not_registered(upload(files=None, json={}), 400, "Failed to register connector")


def test_a_form_has_exactly_one_file(admin: Callable[..., httpx.Response]) -> None:
    one = ("rates.tar.gz", tar(files()))
    several = admin(files=[("a", one), ("b", one)])
    assert several.status_code == 400
    words = "Uploading multiple files are not allowed"
    failed(several, "api.connector.register", "FAILED_TO_UPLOAD", words, plain=True)
    not_registered(admin(files={"x": (None, "text")}), 500, "connector relative path is missing.")
    not_registered(admin(files=None, json={"file3": "binary"}), 500, "Failed to register connector")
    assert admin(files={"any name": one}, data={"ignored": "field"}).status_code == 200


def test_a_form_that_is_cut_off_is_refused(platform: Platform, nobody: httpx.Client) -> None:
    token = sign_in(platform, admin=True)
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Authorization": f"Bearer {token}"}
    for content in (b"", b"--y\r\n\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--\r\n"):
        answer = nobody.post(REGISTER, content=content, headers=headers)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "FAILED_TO_REGISTER_CONNECTOR"


def test_an_upload_that_is_too_large_ends_while_it_comes(
    platform: Platform, nobody: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from headrace.control import registry
    from headrace.dialects.obsrv import receive

    assert receive.UPLOAD_BYTES == registry.UPLOAD_BYTES == 200 << 20
    monkeypatch.setattr(receive, "UPLOAD_BYTES", 3 << 20)
    upload = uploader(nobody, sign_in(platform, admin=True))
    answer = upload(b"\0" * (5 << 20))
    assert answer.status_code == 413
    failed(answer, "api", "PAYLOAD_TOO_LARGE", "request entity too large", plain=True)


@pytest.mark.parametrize(
    ("name", "packed"),
    [
        ("rates.zip", zipped(files())),
        ("rates.ZIP", zipped(files())),
        ("rates.tar", tar(files(), "w")),
        ("rates.tgz", tar(files(), "w:gz")),
        ("rates.tar.bz2", tar(files(), "w:bz2")),
        ("rates", tar(files(), "w:xz")),
    ],
)
def test_packages_of_each_kind_are_entered(
    admin: Callable[..., httpx.Response], platform: Platform, name: str, packed: bytes
) -> None:
    succeeded(admin(packed, name), "api.connector.register", None)
    (entry,) = [e for e in platform.registry.list() if e.origin.digest]
    base, dot, last = name.rpartition(".")
    pattern = rf"{re.escape(base)}_[0-9a-f]{{6}}\.{last}" if dot else rf"{name}_[0-9a-f]{{6}}"
    assert re.fullmatch(pattern, entry.origin.archive or "")
    assert entry.origin.program == {
        "source": "rates-connector-1.0.0", "main_class": "", "main_program": "connector.py",
    }  # fmt: skip
    (package,) = platform.registry.packages(OPERATOR)
    assert package.digest == entry.origin.digest and package.entries == (entry.id,)
    assert (package.folder / "connector.py").read_bytes().startswith(b"raise")


def test_a_new_version_retires_the_old_one_and_the_same_one_is_changed(
    nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    assert admin().status_code == 200
    first = succeeded(nobody.get(READ + "rates-connector-1.0.0"), "api.connectors.read", None)
    assert admin(tar(files({"name": "Exchange rates", "id": "rates-connector"}))).status_code == 200
    again = succeeded(nobody.get(READ + "rates-connector-1.0.0"), "api.connectors.read", None)
    assert again["name"] == "Exchange rates"
    assert (again["created_date"], again["live_date"]) == (first["created_date"], first["live_date"])
    assert again["updated_date"] >= first["updated_date"] and again["updated_by"] == "SYSTEM"
    assert admin(tar(files({"version": "1.1.0"}))).status_code == 200
    assert nobody.get(READ + "rates-connector-1.0.0").status_code == 404
    assert nobody.get(READ + "rates-connector-1.1.0").status_code == 200
    assert [row["id"] for row in looked(nobody, status=["Retired"])] == ["rates-connector-1.0.0"]
    assert admin().status_code == 200
    assert [row["id"] for row in looked(nobody, status=["Retired"])] == ["rates-connector-1.1.0"]


def test_a_package_of_several_connectors_is_entered_whole(
    nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    several = [
        {"id": "gold rates", "name": "Gold", "description": "of gold", "icon": "icon.svg"},
        {"id": "silver", "name": "Silver", "main_program": "silver.py", "icon": "missing.png"},
    ]
    packed = tar(files({"tenant": "multiple"}, {"gold rates": FORM}, connectors=several))
    assert admin(packed).status_code == 200
    gold = succeeded(nobody.get(READ + "gold-rates-1.0.0"), "api.connectors.read", None)
    silver = succeeded(nobody.get(READ + "silver-1.0.0"), "api.connectors.read", None)
    assert (gold["connector_id"], gold["name"], gold["ui_spec"]) == ("gold-rates", "Gold", FORM)
    assert (silver["ui_spec"], silver["iconurl"], silver["licence"]) == ({}, None, "MIT")
    assert gold["iconurl"].startswith("data:image/svg+xml;base64,")


def test_a_row_that_can_not_be_stored_is_told_by_its_connector(
    platform: Platform, admin: Callable[..., httpx.Response]
) -> None:
    assert admin(tar(files({"id": "a", "version": "1-2"}))).status_code == 200
    not_registered(admin(tar(files({"id": "a-1", "version": "2"}))), 500, "Failed to register connector a-1")


def test_a_category_of_its_own_is_entered_though_no_filter_finds_it(
    nobody: httpx.Client, admin: Callable[..., httpx.Response], platform: Platform
) -> None:
    assert admin(tar(files({"category": "batch", "technology": "java", "version": "7"}))).status_code == 200
    (row,) = [row for row in looked(nobody) if row["id"] == "rates-connector-7"]
    assert (row["category"], row["technology"]) == ("batch", "java")
    (package,) = platform.registry.packages(OPERATOR)
    assert not package.runnable and "only Python" in (package.reason or "")
    (entry,) = [e for e in platform.registry.list() if e.origin.digest]
    assert entry.origin.report == ("the version '7' is not of the form 1.2.3",)


def test_a_registered_row_takes_the_place_of_the_built_in_one_here(
    nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    assert admin(tar(files({"id": "postgres-connector", "name": "Ours"}))).status_code == 200
    at = READ + "postgres-connector-1.0.0"
    assert succeeded(nobody.get(at), "api.connectors.read", None)["name"] == "Ours"
    assert len([row for row in looked(nobody) if row["connector_id"] == "postgres-connector"]) == 1


def test_without_the_built_in_rows_only_registered_ones_are_there(
    serve: Callable[..., tuple[Platform, httpx.Client]],
) -> None:
    _, http = serve(obsrv_builtin_rows="false")
    assert looked(http) == []
    assert http.get(READ + "postgres-connector-1.0.0").status_code == 404


def test_text_of_any_kind_comes_back_as_it_was(
    nobody: httpx.Client, admin: Callable[..., httpx.Response]
) -> None:
    form = {"title": "\u0000 \ud800 é 💧", "big": 12345678901234567890123, "small": 1e-7}
    assert admin(tar(files({"name": "Kurse für 💧"}, form))).status_code == 200
    row = succeeded(nobody.get(READ + "rates-connector-1.0.0"), "api.connectors.read", None)
    assert (row["name"], row["ui_spec"]) == ("Kurse für 💧", form)


def test_nothing_of_the_package_was_run(
    platform: Platform, admin: Callable[..., httpx.Response], tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    evil = f"open({str(mark)!r}, 'w').close()\n".encode()
    content = files() | {
        f"rates-connector-1.0.0/{name}": evil
        for name in ("setup.py", "connector.py", "__init__.py", "sitecustomize.py", "conftest.py")
    }
    assert admin(tar(content | {"sitecustomize.py": evil, "json.py": evil})).status_code == 200
    assert not mark.exists()
