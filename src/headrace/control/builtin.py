"""Our own connectors as entries of the registry, with forms made from their settings."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

from headrace import catalog
from headrace.connector import ConnectorSpec
from headrace.connector.files.storage import SECTIONS
from headrace.errors import ConfigError
from headrace.model.registry import Origin, RegistryEntry

NATIVE = "built-in"
"""The contract of entries that our own connectors serve."""

RELEASED = datetime(2026, 11, 24, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """`connector` is its name in the catalogue, `scheme` the only one of its addresses that it means."""

    name: str
    title: str
    category: str
    connector: str
    version: str = "1.0.0"
    scheme: str | None = None

    @property
    def id(self) -> str:
        return f"{self.name}-connector-{self.version}"


_DATABASES = {
    "postgres": "PostgreSQL",
    "mysql": "MySQL",
    "oracle": "Oracle",
    "mssql": "SQL Server",
    "mongodb": "MongoDB",
}
_FILES = {
    ("aws-s3", "s3"): "Amazon S3",
    ("azure-blob", "az"): "Azure Blob Storage",
    ("gcs", "gs"): "Google Cloud Storage",
    ("sftp", "sftp"): "SFTP",
}
_STREAMS = {
    "salesforce": "Salesforce",
    "hubspot": "HubSpot",
    "stripe": "Stripe",
    "github": "GitHub",
    "jira": "Jira",
    "zendesk": "Zendesk",
    "kafka": "Apache Kafka",
}
BUILT_IN = sorted(
    [BuiltIn(name, title, "Database", name) for name, title in _DATABASES.items()]
    + [BuiltIn(name, title, "File", "files", "0.1.0", by) for (name, by), title in _FILES.items()]
    + [BuiltIn(name, title, "Stream", name) for name, title in _STREAMS.items()],
    key=lambda each: each.id,
)

_SEED_FORM = {"postgres": "PostgreSQL", "mysql": "MySQL"}
"""Those whose form has the member names that clients of the dialect know."""


def built_in() -> Iterator[RegistryEntry]:
    """By id. One that the catalogue can't serve yet says so, and asks for nothing."""
    for each in BUILT_IN:
        spec = _source(each.connector, each.scheme)
        reason = None if spec else "this version of Headrace has no such source yet"
        about = f"Moves rows out of {each.title} into tables"
        yield RegistryEntry(
            id=each.id,
            connector_id=f"{each.name}-connector",
            name=each.title,
            category=each.category,
            version=each.version,
            description=about if spec else f"{about}; listed only: {reason}",
            technology="python",
            runtime="headrace",
            licence="Apache-2.0",
            owner="Headrace",
            icon=_icon(each.title),
            ui_spec=_ui_spec(each, spec),
            origin=Origin(
                connector=each.connector if spec else None,
                contract=NATIVE,
                runnable=reason is None,
                reason=reason,
            ),
            created_at=RELEASED,
            updated_at=RELEASED,
            live_at=RELEASED,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a filled-in form means to the catalogue; `secrets` are dotted paths in the form's section."""

    connector: str
    settings: Mapping[str, Any] = field(repr=False)
    stream: str
    cursor: str | None = None
    secrets: frozenset[str] = frozenset()


def wanted(id: str, config: Mapping[str, Any]) -> Wanted | None:
    """The `connector_config` of a built-in entry; None while it can't be run.

    Raises ConfigError (`form.missing`): a form taken over from elsewhere may ask for less than we need.
    """
    found = next((each for each in BUILT_IN if each.id == id), None)
    if found is None:
        return None
    kinds = {kind: name for name, kind in _SEED_FORM.items()}
    connector = kinds.get(config.get("databaseType", ""), found.connector)
    spec = _source(connector, found.scheme)
    if spec is None:
        return None
    if connector not in _SEED_FORM:
        secrets = spec.config.secret_fields()
        return Wanted(connector=connector, settings=config, stream="*", secrets=secrets)
    info, place = dict(_part(config, "connection_info")), _part(config, "schemaInfo")
    database, table = _needed(info, "connection_info", "name"), _needed(place, "schemaInfo", "table")
    del info["name"]
    schema = "public" if connector == "postgres" else database
    return Wanted(
        connector=connector,
        settings={**info, "database": database},
        stream=table if "." in table else f"{schema}.{table}",
        cursor=place.get("timestampColumn") or None,
        secrets=frozenset({"connection_info.password"}),
    )


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def _needed(config: Mapping[str, Any], section: str, name: str) -> str:
    if not isinstance(found := config.get(name), str) or not found:
        path = f"connector_config.{section}.{name}"
        raise ConfigError("form.missing", f"{path} is missing", field=path, remedy="Fill it in.")
    return found


def _source(connector: str, scheme: str | None) -> ConnectorSpec | None:
    """The catalogue's source of that name, if it reads such addresses."""
    spec = catalog.connectors().get(connector)
    served = spec and spec.source and (scheme is None or scheme in spec.config.schemes)
    return spec if served else None


def _icon(title: str) -> str:
    image = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="6"'
        ' fill="#2f5d7c"/><text x="16" y="22" font-family="sans-serif" font-size="16" fill="#fff"'
        f' text-anchor="middle">{title[0]}</text></svg>'
    )
    return f"data:image/svg+xml;base64,{base64.b64encode(image.encode()).decode()}"


def _ui_spec(each: BuiltIn, spec: ConnectorSpec | None) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    if each.connector in _SEED_FORM:
        connector, hints = _database(_SEED_FORM[each.connector])
    elif spec is None:
        connector = _object("Connector Config", {}, encrypt=True)
    else:
        schema = _schema(spec)
        properties = _pruned(schema.get("properties", {}), each.scheme)
        members = {name: _member(value, schema.get("$defs", {})) for name, value in properties.items()}
        if each.scheme and "url" in members:
            members["url"] |= {"pattern": f"^{each.scheme}://"}
        hints = _secrets(members)
        required = [name for name in schema.get("required", ()) if name in members]
        connector = _object("Connector Config", members, encrypt=True, required=required)
    sections = {"connector_config": connector, "operations_config": _OPERATIONS}
    fixed = {name: {"ui:readonly": True} for name in ("batch_size", "max_batches")}
    return {
        "schema": {"type": "object", "properties": sections},
        "properties": {"connector_config": hints, "operations_config": fixed},
    }


@cache
def _schema(spec: ConnectorSpec) -> dict[str, Any]:
    schema: dict[str, Any] = spec.config.model_json_schema(by_alias=True)
    return schema


def _pruned(properties: Mapping[str, Any], scheme: str | None) -> dict[str, Any]:
    """Without what is for other stores, or for local files."""
    if scheme is None:
        return dict(properties)
    others = {"root", *SECTIONS.values()} - {SECTIONS.get(scheme)}
    return {name: value for name, value in properties.items() if name not in others}


def _member(raw: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    """One setting of a JSON Schema as a member of a form: no references, no null, help as notes."""
    options = [option for option in raw.get("anyOf", ()) if option.get("type") != "null"]
    value = {**(options[0] if options else {}), **{k: v for k, v in raw.items() if k != "anyOf"}}
    if "$ref" in value:
        value = {**defs[value.pop("$ref").rpartition("/")[2]], **value}
    made: dict[str, Any] = {"title": value.get("title", ""), "type": value.get("type", "string")}
    made["fieldDescription"] = [{"type": "string", "description": value.get("description", "")}]
    if "properties" in value:
        made["properties"] = {name: _member(inner, defs) for name, inner in value["properties"].items()}
        if "required" in value:
            made["required"] = value["required"]
        return made
    for key in ("enum", "minimum", "maximum", "pattern", "format"):
        if key in value:
            made[key] = value[key]
    if value.get("default") not in (None, "", [], {}):
        made["default"] = value["default"]
    return made


def _secrets(members: Mapping[str, Any]) -> dict[str, Any]:
    hints: dict[str, Any] = {}
    for name, member in members.items():
        if member.get("format") == "password":
            hints[name] = {"ui:widget": "password"}
        elif inner := _secrets(member.get("properties", {})):
            hints[name] = inner
    return hints


def _object(title: str, properties: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"title": title, "type": "object", **more, "properties": dict(properties)}


def _field(title: str, type: str = "string", help: str = "", **more: Any) -> dict[str, Any]:
    note = [{"type": "string", "description": help}]
    return {"type": type, "title": title, **more, "fieldDescription": note}


def _database(kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The form of a relational database, and its hints."""
    place = {
        "host": _field("Database Host", help="Name or address of the server"),
        "port": _field("Database Port", "number", minimum=1, maximum=65535),
        "name": _field("Database Name"),
        "username": _field("Database Username"),
        "password": _field("Database Password"),
    }
    table = {
        "table": _field("Table Name", help="The table to read, as table or schema.table"),
        "timestampColumn": _field("Timestamp Column", help="Grows with new rows; without it all are read"),
    }
    info = _object("Connection Information", place, required=["host", "port", "name", "username"])
    schema_info = _object("Schema Information", table, required=["table"])
    option = {
        "properties": {
            "databaseType": {"enum": [kind]},
            "connection_info": info,
            "schemaInfo": schema_info,
        }
    }
    form = _object(
        "Connector Config",
        {"databaseType": _field("Database Type", enum=[kind])},
        encrypt=True,
        required=["databaseType"],
        dependencies={"databaseType": {"oneOf": [option]}},
    )
    return form, {"connection_info": {"password": {"ui:widget": "password"}}}


_PERIODIC = {
    "properties": {
        "pollingInterval": {"enum": ["Periodic"]},
        "schedule": _field(
            "Schedule", enum=["Hourly", "Daily", "Weekly", "Monthly", "Yearly"], help="In UTC"
        ),
    },
    "required": ["schedule"],
}
_ONCE = {"properties": {"pollingInterval": {"enum": ["Once"]}}}
_OPERATIONS = _object(
    "Operations Configuration",
    {
        "batch_size": _field("Batch Size", "number", default=100),
        "max_batches": _field("Maximum Batches", "number", default=10),
        "pollingInterval": _field(
            "Polling Interval", enum=["Once", "Periodic"], help="Run once, or by a schedule"
        ),
    },
    dependencies={"pollingInterval": {"oneOf": [_ONCE, _PERIODIC]}},
)

OPERATIONS_FORM = {"schema": {"properties": {"operations_config": _OPERATIONS}}}
"""For entries whose own form has no such section."""
