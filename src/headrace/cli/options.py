"""Options that several commands share, each group a value that travels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from typer import Option

FILE = "headrace.yaml"
"""The project file, where no other one is named."""

FOLDER = Path(".headrace")
"""The folder for state, where no other one is named."""

EVERYWHERE = "Options of every command"


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command understands."""

    output: Annotated[
        Literal["table", "json", "ndjson"],
        Option(
            "--output",
            "-o",
            help="How stdout is written.",
            envvar="HEADRACE_OUTPUT",
            rich_help_panel=EVERYWHERE,
        ),
    ] = "table"
    json: Annotated[bool, Option("--json", help="Short for --output json.", rich_help_panel=EVERYWHERE)] = (
        False
    )
    quiet: Annotated[
        bool, Option("--quiet", "-q", help="Say nothing on stderr but errors.", rich_help_panel=EVERYWHERE)
    ] = False
    verbose: Annotated[
        int,
        Option(
            "--verbose",
            "-v",
            count=True,
            help="Say more; twice also shows traces.",
            rich_help_panel=EVERYWHERE,
        ),
    ] = 0
    debug: Annotated[
        bool, Option("--debug", help="Show the trace of an internal error.", rich_help_panel=EVERYWHERE)
    ] = False
    no_color: Annotated[
        bool, Option("--no-color", help="No colours; NO_COLOR does the same.", rich_help_panel=EVERYWHERE)
    ] = False
    file: Annotated[
        Path | None,
        Option(
            "--file", help="The project file, in place of ./headrace.yaml.",
            envvar="HEADRACE_FILE", rich_help_panel=EVERYWHERE,
        ),
    ] = None  # fmt: skip
    data: Annotated[
        Path | None,
        Option(
            "--data", help="The folder for state, in place of ./.headrace.",
            envvar="HEADRACE_DATA", rich_help_panel=EVERYWHERE,
        ),
    ] = None  # fmt: skip
