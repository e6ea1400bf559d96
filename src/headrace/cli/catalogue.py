"""`headrace connectors`: what can be read and written, the settings of each, and how to add one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from headrace.cli.command import UsageError
from headrace.cli.screen import Column, Screen
from headrace.control.access import OPERATOR


class ShortForms(TyperGroup):
    """`headrace connectors` lists, and with the name of one shows it."""

    def parse_args(self, context: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if not args or (args[0].startswith("-") and args[0] not in ("-h", "--help")):
            args = ["list", *args]
        elif not args[0].startswith("-") and args[0] not in self.commands:
            args = ["show", *args]
        parsed: list[str] = super().parse_args(context, args)
        return parsed


def everything(screen: Screen) -> None:
    """List the connectors: those that come with Headrace, then those that were installed.

    \b
    headrace connectors
    headrace connectors list --json
    """
    from headrace import catalog
    from headrace.cli.session import Session

    with Session(screen):
        specs = sorted(catalog.connectors().values(), key=lambda spec: spec.unavailable is not None)
        screen.rows("connectors", [_spec(spec) for spec in specs], _CONNECTORS)


def install(
    screen: Screen,
    package: Annotated[str, Argument(help="name==version, a wheel, or the folder of a package.")],
    lock: Annotated[Path | None, Option(help="A file with the hashes of all that may be installed.")] = None,
    build: Annotated[
        bool, Option("--allow-build", help="Build what comes as source; that runs code of the package.")
    ] = False,
    yes: Annotated[bool, Option("--yes", "-y", help="Agree to the licence without being asked.")] = False,
) -> None:
    """Install a source that speaks the Airbyte protocol, into an environment of its own.

    \b
    headrace connectors install airbyte-source-faker==6.2.38
    headrace connectors install ./airbyte_source_things-1.0.0-py3-none-any.whl --yes
    """
    from headrace.cli.session import Session
    from headrace.connector.packages import Package

    path = Path(package)
    given = Package(path=path, build=build, lock=lock)
    if "==" in package and not path.exists():
        given = Package(requirement=package, build=build, lock=lock)

    def agree(what: str, licence: str) -> bool:
        screen.say(f"{what} comes under the licence: {licence}")
        if "elastic" in licence.lower() or "elv2" in licence.lower():
            screen.say("which forbids to offer it to others as a managed service", style="yellow")
        if yes:
            return True
        if not screen.asks:
            raise UsageError(
                "cli.needs_agreement", "nobody can be asked here to agree to the licence", field="--yes",
                remedy="Read the licence, then add --yes.",
            )  # fmt: skip
        return typer.confirm("Install it?", err=True)

    with Session(screen) as session:
        spec = session.platform.connectors.install(OPERATOR, given, agree)
    screen.rows("connectors", [_spec(spec)], _CONNECTORS)
    screen.say(f"next: headrace connectors show {spec.name}")


def show(screen: Screen, name: Annotated[str, Argument(help="A connector, as the list names it.")]) -> None:
    """Show the settings of a connector.

    \b
    headrace connectors show postgres
    """
    from headrace import catalog
    from headrace.cli.session import Session

    with Session(screen):
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
            found = [row for kind in inner for row in _settings(kind, f"{prefix}{name}.")]
            rows += {row["setting"]: row for row in found}.values()
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
