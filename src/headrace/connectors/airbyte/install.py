"""Installs a connector into an environment of its own, proves that it speaks, then publishes it."""

from __future__ import annotations

import email
import hashlib
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from configparser import ConfigParser, Error
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headrace.connector.packages import Agree, Package
from headrace.connectors.airbyte import talk
from headrace.connectors.airbyte.call import Call, remove, sweep
from headrace.connectors.airbyte.config import config_of
from headrace.connectors.airbyte.installed import Installed
from headrace.connectors.airbyte.mask import Mask
from headrace.connectors.airbyte.rules import Rules
from headrace.connectors.airbyte.talk import Journal
from headrace.connectors.airbyte.tool import Tool, canonical
from headrace.errors import ConfigError, HeadraceError, TransientError

_EXACT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)(\[[A-Za-z0-9,._ -]+\])?==([A-Za-z0-9][A-Za-z0-9.!+_-]*)")
_NEEDED = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._ -]+\])?[ \t]*([<>=!~]=?[ \tA-Za-z0-9.!+*_,<>=~-]*)?"
)
_LOCK = "lock.txt"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """`main` is the name of the package that is the connector, None when it must be looked for among
    `requirements`; `wheels` are folders that packages may come from besides the index.
    """

    main: str | None
    requirements: tuple[str, ...]
    wheels: tuple[Path, ...] = ()
    digest: str = ""


def install(connectors: Path, package: Package, agree: Agree) -> Installed:
    """Raises ConfigError for a package that can't be one, TransientError when the index is not in reach."""
    rules = Rules.read()
    connectors.mkdir(mode=0o755, parents=True, exist_ok=True)
    sweep()
    wanted = _wanted(package)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=connectors))
    try:
        building.chmod(0o755)
        _build(building, wanted, package, rules)
        found = _look(building, wanted)
        if not agree(f"{found.name} {found.version}", found.licence):
            raise ConfigError(
                "airbyte.licence_refused",
                f"{found.name} was not installed: nobody agreed to its licence ({found.licence})",
                remedy="Read the licence, then agree to it.",
            )
        told = _specification(found, rules)
        proved = replace(
            found,
            specification=told["connectionSpecification"],
            documentation=str(told.get("documentationUrl") or "") or None,
        )
        config_of(proved)
        return _publish(connectors, proved, _fingerprint(building, wanted))
    finally:
        remove(building)


def _wanted(package: Package) -> _Wanted:
    if package.requirement is not None:
        match = _EXACT.fullmatch(package.requirement.strip())
        if match is None:
            raise ConfigError(
                "airbyte.not_exact",
                f"{package.requirement!r} does not name a package and its version",
                field="package",
                remedy="Write name==version, such as airbyte-source-faker==6.2.38.",
            )
        return _Wanted(canonical(match[1]), (package.requirement.strip(),))
    path = (package.path or Path()).absolute()
    if path.suffix == ".whl" and path.is_file():
        return _of_wheel(path, (path.parent,))
    if path.is_dir():
        return _of_folder(path, package)
    raise ConfigError(
        "airbyte.no_package",
        f"{path} is neither a wheel nor a folder",
        field="package",
        remedy="Name a wheel, the folder of a package, or name==version.",
    )


def _of_folder(folder: Path, package: Package) -> _Wanted:
    bring = tuple(f for f in (folder / "wheels", folder) if any(f.glob("*.whl")))
    wheels = {canonical(w.name.partition("-")[0]): w for f in bring for w in sorted(f.glob("*.whl"))}
    if (project := _project(folder)) is not None:
        if project in wheels:
            return _of_wheel(wheels[project], bring)
        if not package.build:
            raise ConfigError(
                "airbyte.needs_build",
                f"{folder.name} brings no wheel of {project}, so it would have to be built",
                field="package",
                remedy="Put the wheel into its folder wheels/, or allow the build, which runs its code.",
            )
        return _Wanted(project, (f"{project} @ {folder.as_uri()}",), bring, _digest(folder))
    needed = folder / "requirements.txt"
    if needed.is_file():
        lines = [line.partition("#")[0].strip() for line in needed.read_text().splitlines()]
        asked = tuple(line for line in lines if line)
        if bad := next((line for line in asked if not _NEEDED.fullmatch(line)), None):
            raise ConfigError(
                "airbyte.bad_requirement",
                f"requirements.txt holds {bad!r}",
                field="package",
                remedy="Keep names and versions in it: no options, addresses or markers.",
            )
        return _Wanted(None, asked, bring, hashlib.sha256(needed.read_bytes()).hexdigest())
    if len(wheels) == 1:
        return _of_wheel(next(iter(wheels.values())), bring)
    raise ConfigError(
        "airbyte.no_package",
        f"{folder} holds no Python package",
        field="package",
        remedy="Bring a wheel, pyproject.toml or requirements.txt.",
    )


def _of_wheel(wheel: Path, bring: tuple[Path, ...]) -> _Wanted:
    name = canonical(wheel.name.partition("-")[0])
    return _Wanted(
        name, (f"{name} @ {wheel.as_uri()}",), bring, hashlib.sha256(wheel.read_bytes()).hexdigest()
    )


def _project(folder: Path) -> str | None:
    try:
        document = tomllib.loads((folder / "pyproject.toml").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        document = {}
    tables = (document.get("project"), (document.get("tool") or {}).get("poetry"))
    for table in tables:
        if isinstance(table, dict) and isinstance(table.get("name"), str):
            return canonical(table["name"])
    raise ConfigError(
        "airbyte.no_name",
        f"the pyproject.toml of {folder.name} does not name its project",
        field="package",
        remedy="Add [project] with a name.",
    )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _build(building: Path, wanted: _Wanted, package: Package, rules: Rules) -> None:
    """With the first interpreter, of those that the operator prefers, that the package can live with."""
    first: HeadraceError | None = None
    for python in rules.pythons:
        venv = building / "venv"
        remove(venv)
        try:
            _fill(building, wanted, package, python, rules)
        except (ConfigError, TransientError) as error:
            first = first or error
        else:
            return
    assert first
    raise first


def _fill(building: Path, wanted: _Wanted, package: Package, python: str, rules: Rules) -> None:
    tool = Tool(building, rules, build=package.build)
    lock = building / _LOCK
    tool.environment(python)
    if package.lock is not None:
        shutil.copyfile(package.lock, lock)
        tool.install(["--require-hashes", "-r", str(lock), *_links(wanted)])
        return
    asked = building / "requirements.in"
    asked.write_text("\n".join(wanted.requirements) + "\n")
    tool.resolve_and_install(asked, lock, _links(wanted))


def _links(wanted: _Wanted) -> list[str]:
    return [part for folder in wanted.wheels for part in ("--find-links", str(folder))]


def _look(building: Path, wanted: _Wanted) -> Installed:
    """What was installed, by its files alone: nothing of it has run yet."""
    known = {canonical(about["Name"]): (folder, about) for folder, about in _distributions(building)}
    names = (
        [wanted.main]
        if wanted.main
        else [canonical(re.split(r"[\[<>=!~ \t]", r)[0]) for r in wanted.requirements]
    )
    for name in names:
        if name not in known:
            continue
        folder, about = known[name]
        if (command := _command(folder, name)) is not None:
            return Installed(
                name=name,
                version=about["Version"],
                folder=building,
                command=command,
                specification={},
                licence=_licence(about),
                installed_at=datetime.now(UTC).isoformat(),
                title=(about["Summary"] or name).strip().rstrip(".")[:80],
            )
    raise ConfigError(
        "airbyte.no_entry",
        f"nothing in {', '.join(filter(None, names))} can be started",
        field="package",
        remedy="A connector needs a console script, or a package with a module __main__.",
    )


def _fingerprint(building: Path, wanted: _Wanted) -> str:
    """The same for the same packages, wherever they came from."""
    lines = (building / _LOCK).read_bytes().split(b"\n")
    stable = b"\n".join(line for line in lines if b" @ file:" not in line)
    return hashlib.sha256(stable + wanted.digest.encode()).hexdigest()[:8]


def _distributions(building: Path) -> Iterator[tuple[Path, Any]]:
    for site in building.glob("venv/lib/python*/site-packages"):
        for folder in site.glob("*.dist-info"):
            if (folder / "METADATA").is_file():
                yield folder, email.message_from_string((folder / "METADATA").read_text(encoding="utf-8"))


def _command(folder: Path, name: str) -> tuple[str, ...] | None:
    """Its console script, the one that is called like the package first; else its module."""
    parser = ConfigParser(delimiters="=", interpolation=None)
    try:
        parser.read(folder / "entry_points.txt", encoding="utf-8")
        scripts = list(parser["console_scripts"]) if "console_scripts" in parser else []
    except Error:
        scripts = []
    likely = name.removeprefix("airbyte-")
    chosen = likely if likely in scripts else next(iter(scripts), None)
    if chosen and re.fullmatch(r"[\w.-]+", chosen):
        return "venv/bin/python", f"venv/bin/{chosen}"
    module = name.replace("-", "_")
    if (folder.parent / module / "__main__.py").is_file():
        return "venv/bin/python", "-m", module
    return None


def _licence(about: Any) -> str:
    if found := about["License-Expression"]:
        return str(found)
    if (found := about["License"]) and found.strip() and found.strip() != "UNKNOWN":
        return str(found).strip().splitlines()[0][:80]
    classifiers = about.get_all("Classifier") or []
    named = [c.rpartition("::")[2].strip() for c in classifiers if c.startswith("License ::")]
    return ", ".join(named) or "unknown"


def _specification(found: Installed, rules: Rules) -> dict[str, Any]:
    """What the connector says that it needs: the proof that it runs here."""
    mask = Mask()
    journal, told, error = Journal(mask, rules.limits.log_lines), None, None
    with Call(found, rules, "spec", {}, seconds=rules.limits.spec, said=journal.heard) as call:
        for lines in talk.lines(call.process, rules.limits.line):
            for message in filter(None, (talk.parse(line, journal) for line in lines)):
                error = talk.trace_error(message) or error
                if message["type"] == "SPEC":
                    told = message.get("spec")
        ended, words = call.process.wait(), list(call.process.last_words)
    if isinstance(told, dict) and isinstance(told.get("connectionSpecification"), dict):
        return told
    fault = talk.raised(error, mask) if error else talk.fault(ended, words, mask)
    reason = fault.message if fault else "it said nothing of itself"
    raise ConfigError(
        "airbyte.no_specification",
        f"{found.name} {found.version} does not answer to `spec`: {reason}",
        field="package",
        remedy="Is it a source that speaks the Airbyte protocol?",
    )


def _publish(connectors: Path, built: Installed, digest: str) -> Installed:
    """Move it to where it is found. What lies there already is the same, and becomes the last installed."""
    for leftover in (".cache", "requirements.in", "report.json"):
        remove(built.folder / leftover)
        (built.folder / leftover).unlink(missing_ok=True)
    final = connectors / built.name / f"{built.version}-{digest}"
    final.parent.mkdir(mode=0o755, exist_ok=True)
    built.save()
    with suppress(OSError):  # it is there already
        built.folder.rename(final)
    there = replace(built, folder=final)
    there.save()
    return there
