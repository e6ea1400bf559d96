"""The catalogue: what can be connected to, and with which settings."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from headrace import catalog
from headrace.connector import Capability, ConnectorSpec
from headrace.dialects.ingestion import wire
from headrace.dialects.ingestion.errors import Refused
from headrace.errors import NotFoundError

router = APIRouter(prefix="/api/v1", tags=["Connectors"], responses=wire.ERRORS)
_DOCS = "/docs/connectors/"


@router.get("/connectors/catalog", responses={200: {"model": list[wire.ConnectorEntry]}})
def list_() -> list[dict[str, Any]]:
    known = {name: spec for name, spec in catalog.connectors().items() if spec.reads}
    first = [name for name in wire.CONNECTOR_TYPES if name in known]
    return [_entry(known[name]) for name in (*first, *sorted(set(known) - set(first)))]


@router.get("/connectors/{kind}/spec", responses={200: {"model": wire.ConnectorSpecification}})
def specification(kind: str) -> dict[str, Any]:
    try:
        spec = catalog.connector(kind)
    except NotFoundError:
        raise Refused(404, f"Unknown connector type: {kind}") from None
    return {"documentationUrl": _DOCS + spec.name, "connectionSpecification": form(spec)}


def _entry(spec: ConnectorSpec) -> dict[str, Any]:
    can = spec.capabilities
    modes = {
        "FULL_REFRESH": Capability.FULL,
        "INCREMENTAL": Capability.INCREMENTAL,
        "CDC": Capability.CHANGES,
    }
    return {
        "type": spec.name,
        "name": spec.title,
        "category": spec.category,
        "documentationUrl": _DOCS + spec.name,
        "iconUrl": None,
        "supportedSyncModes": [mode for mode, capability in modes.items() if capability in can],
        "supportsCdc": Capability.CHANGES in can,
        "runnable": spec.source is not None,
        "notRunnableReason": spec.unavailable,
    }


def form(spec: ConnectorSpec) -> dict[str, Any]:
    """The settings as a JSON Schema whose secrets are marked, in the order in which they are declared."""
    schema: dict[str, Any] = spec.config.model_json_schema()
    for part in (schema, *schema.get("$defs", {}).values()):
        for place, (name, field) in enumerate(part.get("properties", {}).items()):
            field["order"] = place
            if field.pop("advanced", False):
                field["group"] = "advanced"
            inner = [field, *field.get("anyOf", ())]
            if any(each.get("format") == "password" for each in inner):
                field["airbyte_secret"] = True
            part["properties"][name] = field
    return schema
