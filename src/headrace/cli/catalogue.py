"""`headrace connectors`: what can be read and written, and the settings of each."""

from __future__ import annotations

from typing import Annotated, Any

from typer import Argument

from headrace.cli.screen import Column, Screen


def connectors(
    screen: Screen,
    name: Annotated[str | None, Argument(help="Show the settings of this one.")] = None,
) -> None:
    """List the connectors, or the settings of one.

    \b
    headrace connectors
    headrace connectors postgres
    """
    from headrace import catalog

    if name is None:
        specs = sorted(catalog.connectors().values(), key=lambda spec: spec.unavailable is not None)
        screen.rows("connectors", [_spec(spec) for spec in specs], _CONNECTORS)
        return
    spec = catalog.connector(name)
    settings = _settings(spec.config)
    if screen.format == "json":
        screen.document({"connector": {**_spec(spec), "settings": settings}})
        return
    screen.rows("settings", settings, _SETTINGS)
    if spec.unavailable:
        screen.say(f"{spec.title} can't be used by this version yet. {spec.unavailable}")
    if spec.config.schemes:
        screen.say(f"address: {spec.config.schemes[0]}:…")


def _spec(spec: Any) -> dict[str, Any]:
    return {
        "name": spec.name,
        "title": spec.title,
        "version": spec.version,
        "source": spec.source is not None,
        "target": spec.target is not None,
        "maturity": spec.maturity.value,
        "category": spec.category,
        "capabilities": sorted(c.value for c in spec.capabilities),
        "schemes": list(spec.config.schemes),
        "extra": spec.extra,
        "unavailable": spec.unavailable,
    }


def _settings(config: Any, prefix: str = "") -> list[dict[str, Any]]:
    from pydantic import BaseModel

    from headrace.connector import Secret

    rows: list[dict[str, Any]] = []
    for name, info in config.model_fields.items():
        kinds = [
            a for a in (*getattr(info.annotation, "__args__", ()), info.annotation) if isinstance(a, type)
        ]
        inner = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if inner:
            rows += _settings(inner[0], f"{prefix}{name}.")
            continue
        default = None if info.is_required() else info.get_default(call_default_factory=True)
        rows.append(
            {
                "setting": prefix + name,
                "type": _type(info.annotation),
                "required": info.is_required(),
                "default": default,
                "secret": Secret in kinds,
                "advanced": bool((info.json_schema_extra or {}).get("advanced")),
                "help": info.description,
            }
        )
    return rows


def _type(annotation: Any) -> str:
    args = getattr(annotation, "__args__", ())
    if args and all(isinstance(a, str) for a in args):
        return " | ".join(args)
    if isinstance(annotation, type) and not args:
        return {
            "SecretStr": "secret",
            "str": "text",
            "int": "number",
            "float": "number",
            "bool": "yes or no",
        }.get(annotation.__name__, annotation.__name__)
    some = [_type(a) for a in args if a is not type(None) and a is not ...]
    name = getattr(annotation, "__origin__", None)
    if name in (list, tuple):
        return f"list of {some[0]}"
    if name is dict:
        return f"{some[0]} → {some[1]}"
    return " | ".join(some)


_CONNECTORS = (
    Column("name", "name"),
    Column("title", "title"),
    Column("reads", "source"),
    Column("writes", "target"),
    Column("maturity", "maturity"),
    Column("address", lambda row: ", ".join(f"{s}:" for s in row["schemes"])),
    Column("can", lambda row: row["capabilities"], style="dim"),
)
_SETTINGS = (
    Column("setting", "setting"),
    Column("type", "type"),
    Column(
        "default",
        lambda row: "required" if row["required"] else "" if row["default"] is None else str(row["default"]),
    ),
    Column("help", "help"),
)
