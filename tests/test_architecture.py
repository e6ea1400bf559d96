"""The map, the import rules and the bounds of ARCHITECTURE.md hold in the tree as it stands."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/headrace"
PYTHON = sorted(
    p for folder in ("src", "tests", "servers", "docs", "demo") for p in (ROOT / folder).rglob("*.py")
)

LINES_AT_MOST = 600
LINES_AIM = 400
PARAMETERS_AT_MOST = 6

DRAWERS = {"utils", "util", "common", "core", "base", "helpers", "services", "managers", "factories", "misc"}

# what only those wait for who use it
DRIVERS = {
    "alembic", "cryptography", "duckdb", "httpx", "obstore", "paramiko", "psycopg", "psycopg2",
    "pyiceberg", "sqlalchemy",
    "pyarrow.compute", "pyarrow.csv", "pyarrow.dataset", "pyarrow.json", "pyarrow.parquet",
}  # fmt: skip
HEAVY = DRIVERS | {"numpy", "pyarrow", "pydantic"}


def lint_imports(where: Path) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [command, "--no-cache", "--config", ROOT / "pyproject.toml"],
        env={"PYTHONPATH": str(where), "PYTHONUTF8": "1"},
        cwd=where,
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_go_down_only() -> None:
    done = lint_imports(ROOT / "src")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("model/stream.py", "import headrace.connector.source", "Imports only go down"),
        ("store/store.py", "import headrace.engine.run", "Imports only go down"),
        ("catalog.py", "import headrace.engine.plan", "Imports only go down"),
        ("engine/plan.py", "import headrace.connectors.postgres", "Connectors and transforms are found"),
        ("connectors/postgres/source.py", "import headrace.connectors.iceberg", "No connector knows another"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_found(
    module: str, line: str, contract: str, tmp_path: Path
) -> None:
    shutil.copytree(SOURCE, tmp_path / "headrace", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "headrace" / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert re.search(rf"{contract}.* BROKEN", done.stdout), done.stdout


def mapped() -> dict[str, str]:
    """The paths of the map in ARCHITECTURE.md, each with what is said of it."""
    block = (ROOT / "ARCHITECTURE.md").read_text().split("```")[1]
    found, above = {}, ""
    for line in block.strip().splitlines():
        name, _, about = line.strip().partition(" ")
        if not line.startswith(" "):
            above = name
        path = above if not line.startswith(" ") else above + name
        found[path.rstrip("/")] = about.strip()
    return found


def there() -> set[str]:
    """The paths that a map should show: our folders, and what lies right below the package and the tests."""
    ours = {"src/headrace", "tests", "servers", "docs", ".ci"}
    ours |= {f.name for f in ROOT.iterdir() if f.is_dir() and not f.name.startswith(".")} - {"src", "dist"}
    below = [p for folder in (SOURCE, ROOT / "tests") for p in folder.iterdir()]
    folders = {str(p.relative_to(ROOT)) for p in below if p.is_dir() and any(p.rglob("*.py"))}
    modules = {str(p.relative_to(ROOT)) for p in SOURCE.glob("*.py") if p.name != "__init__.py"}
    return {path for path in ours if any((ROOT / path).iterdir())} | folders | modules


def test_the_map_equals_the_tree() -> None:
    assert set(mapped()) == there()


@pytest.mark.parametrize("package", ["model", "connector"])
def test_the_map_names_the_modules_of_the_nouns_and_the_contract(package: str) -> None:
    named = mapped()[f"src/headrace/{package}"].rpartition(": ")[2].split()
    folder = SOURCE / package
    names = {p.stem for p in folder.glob("*.py")} | {p.parent.name for p in folder.glob("*/__init__.py")}
    assert named == sorted(names - {"__init__"})


def test_there_are_no_drawers() -> None:
    found = [p for p in (*SOURCE.rglob("*"), *(ROOT / "tests").rglob("*")) if p.stem in DRAWERS]
    assert found == []


def test_no_file_is_too_long() -> None:
    lines = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in PYTHON}
    long = sorted(((n, path) for path, n in lines.items() if n > LINES_AIM), reverse=True)
    sys.stdout.write("".join(f"{n} lines, more than we aim at: {path}\n" for n, path in long))  # pytest -rP
    assert [entry for entry in long if entry[0] > LINES_AT_MOST] == []


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_no_function_takes_too_many_parameters() -> None:
    found = []
    for path in SOURCE.rglob("*.py"):
        for node in functions(path):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            if len([name for name in names if name not in ("self", "cls")]) > PARAMETERS_AT_MOST:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert found == []


def test_everything_is_of_one_colour() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] not in ("dialects", "server")
        for node in functions(path)
        if isinstance(node, ast.AsyncFunctionDef)
    ]
    assert found == []


def test_every_module_opens_with_what_it_is_for() -> None:
    for path in PYTHON:
        if path.name.startswith("test_") or not path.stat().st_size:
            continue
        opening = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]
        assert opening.endswith((".", ":")), f"{path.relative_to(ROOT)} opens with {opening!r}"


def loaded_by(*modules: str) -> dict[str, set[str]]:
    """For each module in turn, what its import adds to a fresh interpreter."""
    program = """
import importlib, json, sys
added = {}
for name in sys.argv[1:]:
    before = set(sys.modules)
    importlib.import_module(name)
    added[name] = sorted(set(sys.modules) - before)
print(json.dumps(added))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *modules], capture_output=True, text=True, check=True
    )
    return {name: set(added) for name, added in json.loads(done.stdout).items()}


def test_importing_a_spec_imports_no_driver() -> None:
    groups = ("headrace.connectors", "headrace.transforms")
    modules = sorted({entry.module for group in groups for entry in entry_points(group=group)})
    assert len(modules) >= 2
    for name, added in loaded_by("headrace.catalog", *modules).items():
        assert not added & DRIVERS, name


def test_the_command_line_starts_light() -> None:
    (added,) = loaded_by("headrace.cli.main").values()
    assert not added & HEAVY
    assert not any(name.startswith(("headrace.engine", "headrace.connectors")) for name in added)
