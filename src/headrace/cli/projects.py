"""`headrace init` and `validate`: write a project file, and find every mistake in one."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated

from typer import Option

from headrace.cli.options import FILE
from headrace.cli.screen import Screen, error_json, many
from headrace.errors import ConflictError
from headrace.model.run import ErrorReport

TEMPLATE = """\
# yaml-language-server: $schema=headrace.schema.json
# (that file comes from: headrace validate --schema > headrace.schema.json)

# Goes before the pipelines' names, so that two projects may write into one warehouse.
project: {project}

# Where data lies. `headrace connectors show NAME` shows a connector's settings, `headrace check` tries them.
# Secrets stay outside: ${{NAME}} is an environment variable, ${{NAME:-default}} one with a default, and
# ${{file:path}} the content of a file.
connections:
  shop:
    connector: postgres
    host: ${{PGHOST:-localhost}}
    database: shop
    username: ${{PGUSER:-postgres}}
    password: ${{PGPASSWORD}}
  lake:
    url: iceberg:./lake

# What moves where. `headrace plan` shows what a run would do, `headrace run` does it.
pipelines:
  nightly:
    from: shop
    to: lake
    streams:
      - public.orders # a whole table, swapped in at once
      - name: public.customers # only what is new since the last run
        read: incremental
        cursor: updated_at
        mode: upsert
        key: [id]
        # columns: [id, name, updated_at]
        # filter: country = 'DE'
        # look_back: 1h
        # target: crm.customers
    # exclude: [public.audit]
    # transforms:
    #   - name: hash
    #     streams: [public.customers]
    #     settings: {{columns: [email], salt: "${{SALT}}"}}
    # schema_policy: evolve # or ignore, pause, fail
    # tuning:
    #   parallelism: 4
    #   reject_limit: 0
"""


def init(screen: Screen) -> None:
    """Write a commented headrace.yaml to start from; never writes over one.

    \b
    headrace init
    headrace init --file jobs/headrace.yaml
    """

    file = screen.common.file or Path(FILE)
    name = re.sub(r"[^a-z0-9]+", "-", file.absolute().parent.name.lower()).strip("-") or "main"
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(TEMPLATE.format(project=name))
    except FileExistsError:
        raise ConflictError(
            "project.exists",
            f"{file} is there already",
            field="file",
            remedy="Edit it, or name another file by --file.",
        ) from None
    if screen.format != "table":
        screen.rows("files", [{"file": str(file)}], ())
    screen.say(f"wrote {file}; next: edit it, then headrace validate, plan and run")


def validate(
    screen: Screen,
    schema: Annotated[bool, Option("--schema", help="Print the file's JSON Schema, for editors.")] = False,
) -> int:
    """Find every mistake in the project file, each with its line. Connects to nothing.

    \b
    headrace validate
    headrace validate --schema > headrace.schema.json
    """
    from headrace import catalog
    from headrace.cli.project import read
    from headrace.cli.schema import json_schema
    from headrace.control.outcome import verdict

    if schema:
        screen.print(json.dumps(json_schema(catalog.connectors()), indent=2, ensure_ascii=False))
        return 0
    project = read(screen.common.file or Path(FILE), os.environ)
    reports = [ErrorReport.of(error) for error in project.mistakes()]
    for report in reports:
        screen.complain(report)
    if screen.format == "json":
        screen.document({"valid": not reports, "errors": [error_json(r) for r in reports]})
    elif screen.format == "ndjson":
        for report in reports:
            screen.event("error", error_json(report))
    elif not reports:
        counts = f"{many(len(project.connections), 'connection')}, {many(len(project.pipelines), 'pipeline')}"
        screen.say(f"{project.file} is valid: {counts}", style="green")
    return 3 if verdict(reports) else 0
