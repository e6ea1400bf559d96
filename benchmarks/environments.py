"""A virtual environment for each side, made once and kept under `.bench/`, which git ignores."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
CACHE = ROOT / ".bench"
SCRIPTS = HERE / "rivals"
OURS = ("headrace", "psycopg", "pyarrow", "pyiceberg")


@dataclass(frozen=True)
class Environment:
    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def program(self, name: str) -> Path:
        """A program that came with a wheel, wherever the wheel put it."""
        path = self.folder / "bin" / name
        return path if path.exists() else next(self.folder.glob(f"lib/*/site-packages/*/bin/{name}"))

    def extension(self, name: str) -> Path:
        return next(self.folder.rglob(f"{name}.duckdb_extension"))

    def versions(self) -> dict[str, str]:
        listed = subprocess.run(
            [self.python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return {
            re.sub(r"[-_.]+", "-", package["name"]).lower(): package["version"]
            for package in json.loads(listed.stdout)
        }


@functools.cache
def headrace() -> Environment:
    """This checkout, installed as a user would install it; anew when its sources have changed."""
    files = [ROOT / "pyproject.toml", ROOT / "hatch_build.py", *sorted((ROOT / "src").rglob("*.py")),
             *sorted((ROOT / "src").rglob("*.c"))]  # fmt: skip
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return _ready("headrace", [str(ROOT)], digest, [])


@functools.cache
def rival(name: str) -> Environment:
    wanted = tomllib.loads((HERE / "rivals.toml").read_text())[name]
    requirements: list[str] = wanted["requirements"]
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()
    return _ready(name, requirements, digest, wanted.get("programs", []))


def used() -> dict[str, dict[str, str]]:
    """By environment that was used so far, the versions of what was asked for."""
    found: dict[str, dict[str, str]] = {}
    for name, (environment, requirements) in _USED.items():
        versions = environment.versions()
        names = [re.split(r"[\[=]", requirement)[0] for requirement in requirements]
        found[name] = {package: versions[package] for package in names}
    return found


_USED: dict[str, tuple[Environment, Sequence[str]]] = {}


def _ready(name: str, requirements: Sequence[str], digest: str, programs: Sequence[str]) -> Environment:
    environment = Environment(CACHE / "envs" / name)
    _USED[name] = environment, requirements if name != "headrace" else OURS
    mark = environment.folder / "made-of"
    if mark.exists() and mark.read_text() == digest:
        return environment
    print(f"{name}: installing {', '.join(requirements)}", file=sys.stderr, flush=True)
    shutil.rmtree(environment.folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", environment.folder], check=True)
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [environment.python, *install, *requirements], check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{name} can't be installed: {done.stderr.strip()[-400:]}")
    for program in programs:
        environment.program(program).chmod(0o755)
    mark.write_text(digest)
    return environment
