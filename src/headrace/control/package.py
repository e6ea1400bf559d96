"""What an uploaded package says of itself: its metadata, its forms, and whether it can be run here."""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.control.form import read_form
from headrace.control.unpack import MIB, Refused, parts_of
from headrace.errors import ConfigError

AIRBYTE = "airbyte"
OURS = "headrace/1"

ICON_BYTES = 512 << 10
_DEPTH = 64  # of a JSON document
_KEYS = (
    "id", "name", "version", "tenant", "type", "category", "description", "technology", "runtime", "licence",
    "owner", "main_class", "main_program", "icon",
)  # fmt: skip
_CATEGORIES = ("Database", "File", "Stream", "batch")
_TECHNOLOGIES = ("python", "java", "scala")
_SEMVER = re.compile(r"\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.+-]+)?")
_IMAGES = {
    ".svg": "image/svg+xml",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
}
_CDK = re.compile(r"airbyte[-_.]cdk(?![\w.-]*\w)", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """One connector that a package brings. `program` names its folder and entry points."""

    connector_id: str
    version: str
    name: str
    description: str | None
    category: str | None
    technology: str | None
    runtime: str | None
    licence: str | None
    owner: str | None
    icon: str | None
    ui_spec: Mapping[str, Any]
    program: Mapping[str, Any]
    report: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """`reason` says why it is not `runnable`."""

    connectors: tuple[Brought, ...]
    contract: str | None
    runnable: bool
    reason: str | None


def read_package(tree: Path) -> Contents:
    """Look at an unpacked package; nothing of it is run.

    Raises ConfigError, in this order: `registry.no_metadata`, `registry.no_folder` (its `field` is the
    folder that is missing), `registry.no_form`, `registry.bad_metadata`.
    """
    found = _find(tree, "metadata.json")
    if found is None:
        raise ConfigError(
            "registry.no_metadata", "the package has no metadata.json, or an empty one", remedy=_REMEDY
        )
    document = _load(found)
    metadata = document.get("metadata")
    if not isinstance(metadata, dict):
        raise _bad("metadata.json has no section 'metadata'")
    root = _root(tree, metadata)
    form = _find(tree, "ui-config.json")
    if form is None:
        raise ConfigError(
            "registry.no_form", "the package has no ui-config.json, or an empty one", remedy=_REMEDY
        )
    for key in _KEYS:
        if key not in metadata:
            raise _bad(f"the metadata have no {key!r}")
    forms = _load(form)
    brought = tuple(
        _connector(tree, root, metadata, entry, ui_spec)
        for entry, ui_spec in _entries(document, metadata, forms)
    )
    if len({each.connector_id for each in brought}) < len(brought):
        raise _bad("two connectors of the package have one id")
    contract, reason = _contract(root, metadata)
    return Contents(connectors=brought, contract=contract, runnable=reason is None, reason=reason)


def _root(tree: Path, metadata: Mapping[str, Any]) -> Path:
    name = f"{_spelled(metadata, 'id')}-{_spelled(metadata, 'version')}"
    if name not in {path.name for path in tree.iterdir() if path.is_dir()}:
        raise ConfigError(
            "registry.no_folder",
            f"the package has no folder {name!r} at its top",
            field=name,
            remedy="Name the folder after id and version of the metadata.",
        )
    return tree / name


def _entries(
    document: Mapping[str, Any], metadata: Mapping[str, Any], forms: Mapping[str, Any]
) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Each connector of the package with its form."""
    if metadata["tenant"] != "multiple":
        yield metadata, forms
        return
    several = document.get("connectors")
    if not isinstance(several, list) or not several:
        raise _bad("a package of multiple connectors lists them in connectors[]")
    for entry in several:
        if not isinstance(entry, dict):
            raise _bad("connectors[] holds what is no object")
        ui_spec = forms.get(str(entry.get("id"))) or {}
        if not isinstance(ui_spec, dict):
            raise _bad("a form is no JSON object")
        yield entry, ui_spec


def _connector(
    tree: Path, root: Path, metadata: Mapping[str, Any], entry: Mapping[str, Any], ui_spec: Mapping[str, Any]
) -> Brought:
    id, version = _text(entry, "id"), _text(metadata, "version")
    if not id or not version:
        raise _bad("a connector has no id, or no version")
    common = {key: _text(metadata, key) for key in ("category", "technology", "runtime", "licence", "owner")}
    mains = {
        key: _text(metadata if entry.get(key) is None else entry, key)
        for key in ("main_class", "main_program")
    }
    return Brought(
        connector_id=id.replace(" ", "-"),
        version=version,
        name=_text(entry, "name") or id,
        description=_text(entry, "description"),
        icon=_icon(tree, _text(entry, "icon")),
        ui_spec=ui_spec,
        program={"source": root.name, **mains},
        report=(*doubts(version, common["category"], common["technology"]), *read_form(ui_spec).warnings),
        **common,
    )


def doubts(version: str, category: str | None, technology: str | None) -> Iterator[str]:
    """What is odd, but refuses no package."""
    if not _SEMVER.fullmatch(version):
        yield f"the version {version!r} is not of the form 1.2.3"
    if category not in _CATEGORIES:
        yield f"the category {category!r} is none of {', '.join(_CATEGORIES)}"
    if (technology or "").lower() not in _TECHNOLOGIES:
        yield f"the technology {technology!r} is none of {', '.join(_TECHNOLOGIES)}"


def _contract(root: Path, metadata: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The contract that the package speaks, and why it can't be run."""
    technology = str(metadata["technology"] or "").lower()
    if technology != "python":
        return None, f"it is written in {technology or 'an unnamed language'}, and only Python is run here"
    declared = metadata.get("contract")
    if declared == AIRBYTE or (declared is None and _names_cdk(root)):
        return AIRBYTE, None
    if declared == OURS:
        return OURS, f"packages of the contract {OURS} can't be run yet"
    return None, "it speaks neither the Airbyte protocol nor our own contract"


def _names_cdk(root: Path) -> bool:
    """Does it depend on the Airbyte CDK, and bring a command to call?"""
    try:
        parsed = tomllib.loads(_small(root / "pyproject.toml"))
    except (tomllib.TOMLDecodeError, RecursionError):
        return False
    project, poetry = _table(parsed, "project"), _table(_table(parsed, "tool"), "poetry")
    needed = [str(line) for line in project.get("dependencies") or ()]
    needed += [*_table(poetry, "dependencies"), *_small(root / "requirements.txt").splitlines()]
    scripts = _table(project, "scripts") or _table(poetry, "scripts")
    return bool(scripts) and any(_CDK.match(line.strip()) for line in needed)


def _table(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = table.get(name)
    return inner if isinstance(inner, dict) else {}


def _small(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > MIB:
        return ""
    return path.read_text(encoding="utf-8", errors="replace")


def _icon(tree: Path, name: str | None) -> str | None:
    """The image as a data URI; it lies in one of the folders at the top."""
    try:
        parts = parts_of(name or "")
    except Refused:
        return None
    for folder in sorted(path for path in tree.iterdir() if path.is_dir()) if parts else ():
        path = folder.joinpath(*parts)
        if path.is_file():
            if path.stat().st_size > ICON_BYTES:
                raise ConfigError(
                    "registry.not_unpacked", f"the icon has more than {ICON_BYTES} bytes", remedy=_REMEDY
                )
            kind = _IMAGES.get(path.suffix.lower(), "application/octet-stream")
            return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return None


def _find(tree: Path, name: str) -> Path | None:
    """The file of that name that is not empty: the one nearest to the top, then the first by path."""
    found = [path for path in tree.rglob(name) if path.is_file() and path.stat().st_size]
    return min(found, key=lambda path: (len(path.parts), str(path)), default=None)


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise _bad(f"{path.name} is no JSON") from None
    if not isinstance(document, dict) or _deeper(document, _DEPTH):
        raise _bad(f"{path.name} is no JSON object, or is more than {_DEPTH} deep")
    return document


def _no_number(text: str) -> Any:
    raise ValueError(text)


def _deeper(value: Any, than: int) -> bool:
    level = [value]
    for _ in range(than):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _spelled(metadata: Mapping[str, Any], key: str) -> str:
    """As the clients that this format was made for write it into a name."""
    if key not in metadata:
        return "undefined"
    return "null" if metadata[key] is None else str(metadata[key])


def _text(metadata: Mapping[str, Any], key: str) -> str | None:
    value = metadata.get(key)
    if value is None:
        return None
    text = str(value)
    if isinstance(value, dict | list) or any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text):
        raise _bad(f"the metadata's {key!r} is no text")
    return text


_REMEDY = "Correct the package, and upload it again."


def _bad(message: str) -> ConfigError:
    return ConfigError("registry.bad_metadata", message, remedy=_REMEDY)
