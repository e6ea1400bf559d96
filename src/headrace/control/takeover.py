"""Reads what another registry of connectors held: its rows, and its instances with their old cipher."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from headrace.errors import ConfigError
from headrace.model.registry import InstanceDraft, Origin, RegistryEntry, RegistryStatus

_TEXTS = ("category", "description", "technology", "runtime", "licence", "owner")
_WITHOUT = "it was taken over without its package"


def read_entries(document: Mapping[str, Any]) -> Sequence[RegistryEntry]:
    """The rows under `connector_registry`, with its own names of columns. Raises ConfigError."""
    return [_entry(row, f"connector_registry.{n}") for n, row in enumerate(_rows(document, "registry"))]


def read_instances(document: Mapping[str, Any], target: str, key: str | None) -> Sequence[InstanceDraft]:
    """The rows under `connector_instances`, paused; the same row has the same id each time.

    `key` opens configs that are no JSON. Raises ConfigError.
    """
    found = []
    for number, row in enumerate(_rows(document, "instances")):
        at = f"connector_instances.{number}"
        old = _needed(row, "id", at)
        draft = InstanceDraft(
            id=str(uuid5(NAMESPACE_URL, f"headrace:instance:{target}:{old}")),
            dataset=_needed(row, "dataset_id", at),
            entry=_needed(row, "connector_id", at),
            target=target,
            connector_config=_config(row.get("connector_config"), key, f"{at}.connector_config"),
            operations_config=_document(row.get("operations_config"), f"{at}.operations_config"),
            paused=True,
        )
        found.append(draft)
    return found


def _rows(document: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    rows = document.get(f"connector_{kind}", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _bad(f"connector_{kind}", "is no list of rows")
    return rows


def _entry(row: Mapping[str, Any], at: str) -> RegistryEntry:
    created = _moment(row.get("created_date"), f"{at}.created_date") or datetime.now(UTC)
    source = row.get("source")
    return RegistryEntry(
        id=_needed(row, "id", at),
        connector_id=_needed(row, "connector_id", at),
        version=_needed(row, "version", at),
        name=_needed(row, "name", at),
        type=str(row.get("type") or "source"),
        **{name: None if row.get(name) is None else str(row[name]) for name in _TEXTS},
        icon=row.get("iconurl") or None,
        status=_status(row.get("status"), f"{at}.status"),
        ui_spec=_document(row.get("ui_spec"), f"{at}.ui_spec"),
        origin=Origin(
            reason=_WITHOUT,
            archive=row.get("source_url"),
            program=_document(source, f"{at}.source") if source else {},
        ),
        created_by=str(row.get("created_by") or "SYSTEM"),
        updated_by=str(row.get("updated_by") or "SYSTEM"),
        created_at=created,
        updated_at=_moment(row.get("updated_date"), f"{at}.updated_date") or created,
        live_at=_moment(row.get("live_date"), f"{at}.live_date"),
    )


def _status(value: Any, at: str) -> RegistryStatus:
    try:
        return RegistryStatus(value)
    except ValueError:
        raise _bad(at, f"is none of {', '.join(RegistryStatus)}") from None


def _needed(row: Mapping[str, Any], name: str, at: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value:
        raise _bad(f"{at}.{name}", "is missing")
    return value


def _moment(value: Any, at: str) -> datetime | None:
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise _bad(at, "is no moment") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _document(value: Any, at: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise _bad(at, "is no JSON") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _bad(at, "is no object")
    return value


def _config(value: Any, key: str | None, at: str) -> dict[str, Any]:
    """The config, opened where it is sealed: by a weak cipher, which nothing is ever sealed with here."""
    if not isinstance(value, str) or value.lstrip().startswith("{"):
        return _document(value, at)
    if key is None:
        raise ConfigError(
            "takeover.sealed",
            f"{at} is encrypted",
            field=at,
            remedy="Give the file with the other registry's key of 32 characters: --key-file.",
        )
    return _document(_opened(value, key, at), at)


def _opened(text: str, key: str, at: str) -> str:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
    from cryptography.hazmat.primitives.padding import PKCS7

    try:
        opener = Cipher(algorithms.AES(key.encode()), modes.ECB()).decryptor()
        padded = opener.update(base64.b64decode(text, validate=True)) + opener.finalize()
        plain = PKCS7(128).unpadder()
        return (plain.update(padded) + plain.finalize()).decode()
    except ValueError:
        raise ConfigError(
            "takeover.key",
            f"{at} does not open with this key",
            field=at,
            remedy="Give the key of 32 characters under which the other registry kept it.",
        ) from None


def _bad(at: str, what: str) -> ConfigError:
    return ConfigError(
        "takeover.row", f"{at} {what}", field=at, remedy="Correct the file; nothing was taken over."
    )
