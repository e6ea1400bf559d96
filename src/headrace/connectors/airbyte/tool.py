"""Makes an environment and fills it: by uv where there is one, else by venv and pip."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from headrace.connectors.airbyte import talk
from headrace.connectors.airbyte.mask import Mask
from headrace.connectors.airbyte.process import Process
from headrace.connectors.airbyte.rules import Rules
from headrace.errors import ConfigError

_SECONDS = 15 * 60
_ROOM = 2 << 30  # bytes of one connector on disk
_USERINFO = re.compile(r"://[^/@\s]+@")


def canonical(name: str) -> str:
    """The name of a package as an index knows it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def uv() -> str | None:
    """The one beside our own interpreter, else that of the machine."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv")


class Tool:
    """uv where there is one, else pip: both under guard, with the index as their only way out."""

    def __init__(self, building: Path, rules: Rules, *, build: bool):
        self._building, self._rules, self._build = building, rules, build
        self._uv = uv()
        self._python = str(building / "venv/bin/python")
        self._choice = [] if build else ["--only-binary", ":all:"]

    def environment(self, python: str) -> None:
        venv = str(self._building / "venv")
        if self._uv:
            self._run([self._uv, "venv", "--quiet", "--python", python, venv])
        else:
            without = ["--without-pip"] if importlib.util.find_spec("pip") else []
            self._run([python, "-I", "-m", "venv", *without, venv])

    def install(self, arguments: Sequence[str]) -> None:
        if self._uv:
            self._run(
                [self._uv, "pip", "install", "--quiet", "--python", self._python, *self._choice, *arguments]
            )
        else:
            self._run([*self._pip(), "install", "--quiet", *self._choice, *arguments])

    def resolve_and_install(self, asked: Path, lock: Path, links: Sequence[str]) -> None:
        """Leaves in `lock` what was chosen, with hashes."""
        if self._uv:
            out = ["--generate-hashes", "--no-header", "--no-annotate", "--quiet", "--output-file", str(lock)]
            compile = [self._uv, "pip", "compile", str(asked), "--python", self._python]
            self._run([*compile, *self._choice, *links, *out])
            self.install(["-r", str(lock), *links])
            return
        report = self._building / "report.json"
        self.install(["--report", str(report), "-r", str(asked), *links])
        lock.write_text("".join(sorted(_locked(json.loads(report.read_text())))))

    def _pip(self) -> list[str]:
        if importlib.util.find_spec("pip"):
            return [sys.executable, "-m", "pip", "--python", self._python]
        return [self._python, "-m", "pip"]

    def _run(self, command: list[str]) -> None:
        limits = replace(
            self._rules.limits,
            memory=8 << 30,
            address=1 << 40,
            file=_ROOM,
            disk=_ROOM,
            files=8192,
            processes=1024,
        )
        rules = replace(self._rules, limits=limits, user=None)
        with Process(command, self._building, self._environ(), rules, seconds=_SECONDS) as process:
            for _ in process.chunks():
                pass
            ended = process.wait()
            words = [_USERINFO.sub("://****@", line) for line in process.last_words]
        if ended.well:
            return
        if ended.cause:
            told = talk.fault(ended, words, Mask())
            assert told
            raise told
        said = "".join(f"\n  {line}" for line in words[-12:])
        raise ConfigError(
            "airbyte.not_installed",
            f"the package can't be installed:{said}",
            field="package",
            remedy="Check name and version, HEADRACE_CONNECTORS_INDEX, and HEADRACE_CONNECTORS_PYTHONS.",
        )

    def _environ(self) -> dict[str, str]:
        """What the tools need to find the index; code of packages that are built gets no more than that."""
        kept = ("PIP_", "UV_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
        environ = {k: v for k, v in os.environ.items() if k.upper().startswith(kept)}
        environ |= {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "PYTHONNOUSERSITE": "1"}
        environ["HOME"] = str(self._building) if self._build else os.environ.get("HOME", str(self._building))
        environ |= {
            "TMPDIR": str(self._building),
            "UV_CACHE_DIR": str(self._building / ".cache"),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_COMPILE_BYTECODE": "1",  # a connector may not write into its environment when it starts
            "PIP_NO_CACHE_DIR": "1",
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }
        if self._rules.index:
            environ["UV_DEFAULT_INDEX"] = environ["PIP_INDEX_URL"] = self._rules.index
        return environ


def _locked(report: Mapping[str, Any]) -> Iterator[str]:
    """The lines of a lock, from pip's report of what it installed."""
    for item in report["install"]:
        about = item["metadata"]
        info = item["download_info"].get("archive_info") or {}
        hashes = " ".join(
            f"--hash={kind}:{value}" for kind, value in sorted((info.get("hashes") or {}).items())
        )
        yield f"{canonical(about['name'])}=={about['version']} {hashes}\n"
