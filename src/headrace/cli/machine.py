"""`headrace doctor`, `completion` and `--version`: this machine and this installation."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument

from headrace import __version__
from headrace.cli.screen import Column, Screen
from headrace.control.access import OPERATOR
from headrace.errors import HeadraceError

PACKAGES = ("pyarrow", "psycopg", "pyiceberg", "obstore", "sqlalchemy", "pydantic")
_LOW_DISK = 1 << 30  # bytes


def doctor(screen: Screen) -> int:
    """See whether this machine is fit to run: Python, packages, drivers, data folder, disk, clock.

    \b
    headrace doctor
    headrace doctor --json
    """
    rows = [dict(zip(("check", "result", "found", "remedy"), row, strict=True)) for row in _examine(screen)]
    screen.rows("checks", rows, _CHECKS)
    return 1 if any(row["result"] == "failed" for row in rows) else 0


Finding = tuple[str, str, str, str | None]


def _examine(screen: Screen) -> Iterator[Finding]:
    yield "headrace", "ok", __version__, None
    yield "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}", None
    yield "processors", "ok", str(os.cpu_count()), None
    for name in PACKAGES:
        try:
            yield name, "ok", version(name), None
        except PackageNotFoundError:
            yield name, "failed", "not installed", "Install headrace again."
    yield _kernels()
    yield from _drivers()
    yield from _folder(screen)
    yield _clock()


def _kernels() -> Finding:
    from headrace import native

    if why := native.missing():
        remedy = "Reads from PostgreSQL are slower. Install a C compiler, then headrace again."
        return "compiled kernels", "missing", why, remedy
    return "compiled kernels", "ok", native.PATH.name, None


def _drivers() -> Iterator[Finding]:
    from headrace import catalog

    for name, spec in catalog.connectors().items():
        missing = None
        for where in filter(None, (spec.source, spec.target)):
            try:
                importlib.import_module(where.partition(":")[0])
            except ImportError as error:
                missing = error.name
        remedy = f"pip install 'headrace[{spec.extra}]'" if spec.extra else "Install headrace again."
        if missing:
            yield f"connector {name}", "missing" if spec.extra else "failed", f"no module {missing}", remedy
        else:
            yield f"connector {name}", "ok", spec.maturity.value, None


def _folder(screen: Screen) -> Iterator[Finding]:
    from headrace.cli.session import Session

    with Session(screen) as session:
        folder = session.folder.absolute()
        there = next(p for p in (folder, *folder.parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                yield "data folder", "ok", f"{folder} can be written", None
        except OSError as error:
            yield "data folder", "failed", f"{there}: {error.strerror}", "Name another folder with --data."
        free = shutil.disk_usage(there).free
        low = free < _LOW_DISK
        yield "disk", "low" if low else "ok", f"{free / 2**30:.1f} GiB free", "Make room." if low else None
        if not session.remembers:
            yield "store", "ok", "not made yet", None
            return
        try:
            runs = len(session.platform.runs.list(OPERATOR, limit=1000))
            yield "store", "ok", f"opens, {runs} runs", None
        except HeadraceError as error:
            yield "store", "failed", f"{error.code}: {error.message}", error.remedy


def _clock() -> Finding:
    """A clock that stands before the newest file of this installation is wrong."""
    spec = importlib.util.find_spec("headrace")
    built = Path(spec.origin).stat().st_mtime if spec and spec.origin else 0.0
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    if time.time() < built:
        return "clock", "failed", f"{now} is before this was installed", "Set the clock; leases depend on it."
    return "clock", "ok", now, None


_RESULTS = {"ok": "green", "failed": "bold red", "missing": "yellow", "low": "yellow"}
_CHECKS = (
    Column("check", "check"),
    Column("", "result", style=lambda row: _RESULTS[row["result"]]),
    Column("found", "found"),
    Column("remedy", lambda row: row["remedy"] or ""),
)


def completion(
    screen: Screen, shell: Annotated[Literal["bash", "zsh", "fish"], Argument(help="Your shell.")]
) -> None:
    """Print a script that completes commands and options.

    \b
    headrace completion bash > ~/.local/share/bash-completion/completions/headrace
    headrace completion zsh > ~/.zfunc/_headrace
    headrace completion fish > ~/.config/fish/completions/headrace.fish
    """
    from typer._completion_shared import get_completion_script

    screen.print(get_completion_script(prog_name="headrace", complete_var="_HEADRACE_COMPLETE", shell=shell))


def show_version(as_json: bool) -> None:
    """The version, for people or as a document."""
    if not as_json:
        typer.echo(f"headrace {__version__}")
        return
    packages: dict[str, Any] = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    typer.echo(
        json.dumps(
            {"version": 1, "headrace": __version__, "python": platform.python_version(), "packages": packages}
        )
    )
