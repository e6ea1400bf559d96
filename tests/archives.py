"""Packages of connectors for tests, well-made and hostile ones."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from typing import Any

METADATA: dict[str, Any] = {
    "id": "rates-connector",
    "name": "Rates",
    "version": "1.0.0",
    "tenant": "single",
    "type": "source",
    "category": "Database",
    "description": "Rates of a bank",
    "technology": "python",
    "runtime": "python",
    "licence": "MIT",
    "owner": "Tests",
    "main_class": "",
    "main_program": "connector.py",
    "icon": "icon.svg",
}
FORM: dict[str, Any] = {
    "title": "Rates",
    "type": "object",
    "properties": {
        "base_url": {"type": "string", "uiIndex": 2, "helptext": "Where the API is"},
        "api_key": {"type": "string", "format": "password", "uiIndex": 1},
    },
    "required": ["base_url"],
}
ICON = b'<svg xmlns="http://www.w3.org/2000/svg"/>'


def files(
    metadata: Mapping[str, Any] | None = None, form: Any = None, **document: Any
) -> dict[str, bytes | None]:
    """The files of a package by path; what is given replaces the usual."""
    about = METADATA | (metadata or {})
    root = f"{about['id']}-{about['version']}"
    return {
        f"{root}/": None,
        f"{root}/metadata.json": json.dumps({"type": "connector", "metadata": about, **document}).encode(),
        f"{root}/ui-config.json": json.dumps(FORM if form is None else form).encode(),
        f"{root}/icon.svg": ICON,
        f"{root}/connector.py": b"raise SystemExit('nobody may run this')\n",
    }


def tar(content: Mapping[str, bytes | None], mode: str = "w:gz") -> bytes:
    """A tar of the files; None is a folder."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in content.items():
            member(archive, name, data)
    return packed.getvalue()


def member(archive: tarfile.TarFile, name: str, data: bytes | None = b"", **fields: Any) -> None:
    """Add one member; `fields` are those of its header."""
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE if data is None else tarfile.REGTYPE
    info.size = len(data or b"")
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(data or b""))


def zipped(content: Mapping[str, bytes | None]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(zipfile.ZipInfo(name), data or b"", zipfile.ZIP_DEFLATED)
    return packed.getvalue()
