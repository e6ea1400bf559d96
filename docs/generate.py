"""Writes docs/reference from the code: `python -m docs.generate`, or with --check only compares."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from docs.errors import Place, error_classes, error_codes
from headrace import catalog
from headrace.cli.command import INTERRUPTED, TERMINATED, USAGE
from headrace.cli.main import app
from headrace.cli.options import EVERYWHERE
from headrace.cli.schema import PipelineEntry, ProjectEntry
from headrace.connector import ConnectorSpec, TransformSpec
from headrace.control.outcome import PARTIAL
from headrace.errors import HeadraceError
from headrace.model.pipeline import Tuning, Upkeep

REFERENCE = Path(__file__).parent / "reference"
NOTE = "<!-- Written by `make docs` from the code: change the code, not this page. -->"


def pages() -> dict[str, str]:
    """The content of every reference page, by file name."""
    return {
        "cli.md": "\n".join(cli_page(app)),
        "connectors.md": "\n".join(connectors_page(catalog.connectors().values())),
        "errors.md": "\n".join(errors_page(error_codes(), error_classes())),
        "project.md": "\n".join(project_page()),
        "transforms.md": "\n".join(transforms_page(catalog.transforms().values())),
    }


def connectors_page(specs: Iterable[ConnectorSpec]) -> Iterator[str]:
    yield from ("# Connectors", "", NOTE, "")
    yield "Settings go under `connections` in `headrace.yaml`; a secret is best given as `${NAME}`."
    yield (
        "*Stable*: the whole suite runs against a real server in every test run. *Beta*: against an "
        "emulator. *Experimental*: not verified against a real server."
    )
    for spec in specs:
        roles = " and ".join(r for r, there in (("source", spec.source), ("target", spec.target)) if there)
        yield from (
            "",
            f"## {spec.name}",
            "",
            f"{spec.title} · {roles} · {spec.maturity} · version {spec.version}",
        )
        if spec.config.schemes:
            yield f"· one-line address: {', '.join(f'`{scheme}:…`' for scheme in spec.config.schemes)}"
        if spec.extra:
            yield f"· needs `pip install 'headrace[{spec.extra}]'`"
        yield from (
            "",
            f"Can do: {', '.join(c for c in type(next(iter(spec.capabilities))) if c in spec.capabilities)}.",
        )
        yield from ("", *settings_table(spec.config))
    yield ""


def transforms_page(specs: Iterable[TransformSpec]) -> Iterator[str]:
    yield from ("# Transforms", "", NOTE, "")
    yield "Steps go under `transforms` of a pipeline in `headrace.yaml` and run in that order."
    for spec in specs:
        yield from ("", f"## {spec.name}", "", f"{spec.title}.", "", *settings_table(spec.config))
    yield ""


def project_page() -> Iterator[str]:
    yield from ("# The project file", "", NOTE, "")
    yield "`headrace.yaml` names connections, and pipelines between them. `${NAME}`, `${NAME:-default}` and"
    yield "`${file:path}` stand for what is better not written there; `$${` is `${` itself."
    yield from ("", *settings_table(ProjectEntry))
    yield from ("", "## A connection", "")
    yield "Either `url` alone, a one-line address, or `connector` with the settings of that connector"
    yield "([connectors](connectors.md))."
    known = defaults(Tuning(), "tuning.") | defaults(Upkeep(), "maintenance.")
    yield from ("", "## A pipeline", "", *settings_table(PipelineEntry, known))
    yield from (
        "",
        "A stream may also be just its name. Durations are written with their unit: 90s, 15m, 1h30m, 2d.",
        "",
    )


def defaults(values: Any, prefix: str) -> dict[str, str]:
    """What holds when a key is left out, by dotted path."""
    found = {field.name: getattr(values, field.name) for field in dataclasses.fields(values)}
    return {
        prefix + name: f"{value.total_seconds():g}s" if isinstance(value, timedelta) else str(value)
        for name, value in found.items()
        if value is not None
    }


def settings_table(config: type[BaseModel], known: Mapping[str, str] | None = None) -> Iterator[str]:
    """A row for each setting; `known` are defaults that the schema does not show."""
    rows = list(settings(config))
    if not rows:
        yield "It has no settings."
        return
    yield "| Setting | What it is | Type | Default |"
    yield "|---|---|---|---|"
    for path, field, required in rows:
        marks = "".join(f" *{word}*" for word in ("secret", "advanced") if is_(word, field))
        default = "**required**" if required else shown((known or {}).get(path, field.get("default")))
        yield f"| `{path}`{marks} | {cell(field.get('description', ''))} | {cell(kind(field))} | {default} |"


def settings(config: type[BaseModel]) -> list[tuple[str, dict[str, Any], bool]]:
    """Every setting with its dotted path, its part of the JSON Schema, and whether it must be given."""
    schema = config.model_json_schema(by_alias=True)
    return list(_walk(schema, schema.get("$defs", {}), ""))


def _walk(
    model: Mapping[str, Any], defs: Mapping[str, Any], prefix: str
) -> Iterator[tuple[str, dict[str, Any], bool]]:
    for name, raw in model.get("properties", {}).items():
        field = dict(raw)
        inner = None
        for choice in (field, *field.get("anyOf", ()), field.get("items", {})):
            if "$ref" in choice:
                found = defs[choice["$ref"].rpartition("/")[2]]
                inner = found if "properties" in found else inner
                if "description" in found:  # pydantic leaves out a sentence that both have
                    field.setdefault("description", found["description"])
                if inner is None:
                    field.update({k: v for k, v in found.items() if k != "description"})
        required = name in model.get("required", ())
        if inner is None:
            yield prefix + name, field, required
            continue
        yield prefix + name, {**field, "type": "group", "anyOf": (), "default": None}, required
        yield from _walk(inner, defs, f"{prefix}{name}.")


def is_(word: str, field: Mapping[str, Any]) -> bool:
    if word == "advanced":
        return bool(field.get("advanced"))
    return any(choice.get("format") == "password" for choice in (field, *field.get("anyOf", ())))


def kind(field: Mapping[str, Any]) -> str:
    """The type of a setting, for people."""
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if field.get("anyOf"):
        return " or ".join(kind(choice) for choice in field["anyOf"] if choice.get("type") != "null")
    name = field.get("type", "any")
    if isinstance(name, list):
        return " or ".join(kind({"type": choice}) for choice in name)
    if name == "array":
        return f"list of {kind(field.get('items', {}))}"
    if name == "object" and isinstance(field.get("additionalProperties"), dict):
        return f"map to {kind(field['additionalProperties'])}"
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum")
    bounds = (
        f" {'…' if low is None else low}–{'…' if high is None else high}"
        if (low, high) != (None, None)
        else ""
    )
    words = {"string": "text", "integer": "whole number", "boolean": "yes or no"}
    return f"{words.get(name, name)}{bounds}"


def shown(default: Any) -> str:
    if default in (None, "", [], {}):
        return "–"
    text = ", ".join(map(str, default)) if isinstance(default, list) else str(default)
    return f"`{text.lower() if isinstance(default, bool) else text}`"


def errors_page(codes: Mapping[str, list[Place]], classes: Iterable[type[HeadraceError]]) -> Iterator[str]:
    yield from ("# Errors", "", NOTE, "")
    yield "What the engine does about an error follows from its class, what a person does from its remedy."
    yield from ("", "| Class | What it means | Exit code | HTTP |", "|---|---|---|---|")
    for error in classes:
        meaning = (error.__doc__ or "").strip().partition("\n")[0]
        yield f"| `{error.__name__}` | {cell(meaning)} | {error.exit_code} | {error.http_status} |"
    yield from (
        "",
        "Rows that cannot go on are *rejects*: they land in the dead letters with a code of their own.",
    )
    area = ""
    for code, places in sorted(codes.items()):
        if code.partition(".")[0] != area:
            area = code.partition(".")[0]
            yield from (
                "",
                f"## {area}",
                "",
                "| Code | Class | What happened | What to do |",
                "|---|---|---|---|",
            )
        messages = "<br>".join(dict.fromkeys(cell(place.message) for place in places))
        remedies = "<br>".join(dict.fromkeys(cell(place.remedy) for place in places if place.remedy))
        names = ", ".join(sorted({place.error for place in places}))
        yield f"| `{code}` | {names} | {messages} | {remedies} |"
    yield ""


def cli_page(app: typer.Typer) -> Iterator[str]:
    yield from ("# Commands", "", NOTE, "", "stdout is data, stderr is talk.")
    shared = ""
    for name in ("", *command_names(app)):
        words = ["headrace", *name.split()]
        text, panel, shared_options = help_text(app, words[1:]).partition(f"\n╭─ {EVERYWHERE}")
        shared = panel.strip() + shared_options if panel else shared
        yield from ("", f"## {' '.join(words)}", "", "```", text, "```")
    yield from ("", f"## {EVERYWHERE}", "", "```", shared, "```")
    yield from ("", "## Exit codes", "", "| Code | What happened |", "|---|---|", "| 0 | All went well. |")
    ends = {USAGE: ["the command line makes no sense"], INTERRUPTED: ["Ctrl-C"], TERMINATED: ["TERM"]}
    ends[PARTIAL] = ["some streams failed, others did not"]
    ends[1] = ["a bug, or streams failed for different reasons"]
    ends[2] = ["`plan --detailed-exitcode`: a run would change something"]
    for error in error_classes()[1:]:
        ends.setdefault(error.exit_code, []).append(f"`{error.__name__}`")
    for code, names in sorted(ends.items()):
        yield f"| {code} | {', '.join(names)} |"
    yield ""


def command_names(app: typer.Typer) -> list[str]:
    """Every command; one of a group after the name of the group."""
    names = [c.name or getattr(c.callback, "__name__", "").replace("_", "-") for c in app.registered_commands]
    for group in app.registered_groups:
        if group.typer_instance:
            inner = group.typer_instance
            names += [f"{inner.info.name}{' ' if name else ''}{name}" for name in command_names(inner)]
    return sorted(names)


def help_text(app: typer.Typer, words: list[str]) -> str:
    """What `headrace … --help` prints, in lines of 100 characters."""
    environ = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    result = CliRunner().invoke(app, [*words, "--help"], prog_name="headrace", env=environ)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)  # some environments force colours
    return "\n".join(line.rstrip() for line in plain.strip().splitlines())


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def stale() -> list[str]:
    """The pages that are not what the code says."""
    wanted = pages()
    have = {p.name: p.read_text() for p in REFERENCE.glob("*.md")}
    return sorted(name for name in wanted.keys() | have.keys() if wanted.get(name) != have.get(name))


def main() -> int:
    names = stale()
    if "--check" in sys.argv:
        if names:
            sys.stderr.write(
                f"docs/reference is not what the code says ({', '.join(names)}): run `make docs`\n"
            )
        return bool(names)
    wanted = pages()
    for name in names:
        if name in wanted:
            (REFERENCE / name).write_text(wanted[name])
        else:
            (REFERENCE / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
