"""Connectors are installed from wheels and folders, proved by their own word, and published in one step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headrace import catalog
from headrace.connector.packages import Package
from headrace.errors import ConfigError, HeadraceError, NotFoundError
from tests.airbyte.wheel import wheel
from tests.cli import Cli, in_process
from tests.integration.airbyte import THINGS, yes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where connectors are installed; nothing is there yet. `tmp_path / "w"` is for wheels."""
    (tmp_path / "w").mkdir()
    catalog.look_in(tmp_path / "connectors")
    return tmp_path / "connectors"


@pytest.fixture(autouse=True)
def _forget() -> None:
    catalog.look_in(None)


def refused(package: Package) -> HeadraceError:
    with pytest.raises(HeadraceError) as raised:
        catalog.install(package, yes)
    return raised.value


def test_a_package_without_a_command_is_started_by_its_name(folder: Path, tmp_path: Path) -> None:
    spec = catalog.install(Package(path=wheel(tmp_path / "w", "source_things", script=False)), yes)
    assert (spec.name, spec.version, spec.maturity.value) == (THINGS, "1.0.0", "experimental")
    with pytest.raises(ConfigError):
        settings = {"path": "/nowhere", "credentials": {"kind": "token", "token": "t"}}
        catalog.source(THINGS, settings).check()


def test_the_same_package_again_changes_nothing(folder: Path, tmp_path: Path) -> None:
    package = Package(path=wheel(tmp_path / "w", "source_things"))
    catalog.install(package, yes)
    before = [path.name for path in (folder / THINGS).iterdir()]
    catalog.install(package, yes)
    assert [path.name for path in (folder / THINGS).iterdir()] == before
    (there,) = (folder / THINGS).iterdir()
    assert (there / "lock.txt").read_text()
    assert [path.name for path in folder.iterdir()] == [THINGS]


def test_the_last_installed_version_goes_by_the_name_and_older_ones_stay(
    folder: Path, tmp_path: Path
) -> None:
    for version in ("1.0.0", "2.0.0"):
        catalog.install(Package(path=wheel(tmp_path / "w", "source_things", version)), yes)
    assert catalog.connector(THINGS).version == "2.0.0"
    assert catalog.connector(f"{THINGS}@1.0.0").version == "1.0.0"
    assert {THINGS, f"{THINGS}@1.0.0"} <= set(catalog.connectors())
    catalog.install(Package(path=wheel(tmp_path / "w", "source_things", "1.0.0")), yes)
    assert catalog.connector(THINGS).version == "1.0.0"
    with pytest.raises(NotFoundError):
        catalog.connector(f"{THINGS}@3.0.0")


def test_nobody_agreed_to_the_licence_so_nothing_of_it_ran(folder: Path, tmp_path: Path) -> None:
    asked = []

    def no(what: str, licence: str) -> bool:
        asked.append((what, licence))
        return False

    with pytest.raises(ConfigError) as raised:
        catalog.install(Package(path=wheel(tmp_path / "w", "source_things", licence="ELv2")), no)
    assert raised.value.code == "airbyte.licence_refused"
    assert asked == [(f"{THINGS} 1.0.0", "ELv2")]
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("brings", ["pyproject", "requirements", "wheel alone"])
def test_the_folder_of_a_package_brings_its_wheels(folder: Path, tmp_path: Path, brings: str) -> None:
    package = tmp_path / "package"
    (package / "wheels").mkdir(parents=True)
    (package / "metadata.json").write_text("{}")
    wheel(package / "wheels", "source_things")
    if brings == "pyproject":
        (package / "pyproject.toml").write_text(
            '[project]\nname = "airbyte_source.things"\nversion = "1.0.0"\n'
        )
    if brings == "requirements":
        (package / "requirements.txt").write_text("airbyte-source-things == 1.0.0  # ours\n")
    assert catalog.install(Package(path=package), yes).name == THINGS


def test_what_can_not_be_installed_says_why_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    assert refused(Package(requirement="airbyte-source-things")).code == "airbyte.not_exact"
    assert refused(Package(requirement="--index-url=x==1")).code == "airbyte.not_exact"
    assert refused(Package(path=tmp_path / "none.whl")).code == "airbyte.no_package"
    assert refused(Package(path=package)).code == "airbyte.no_package"
    (package / "requirements.txt").write_text("--index-url https://elsewhere\n")
    assert refused(Package(path=package)).code == "airbyte.bad_requirement"
    (package / "pyproject.toml").write_text('[project]\nname = "airbyte-source-things"\n')
    assert refused(Package(path=package)).code == "airbyte.needs_build"
    assert not folder.exists() or list(folder.iterdir()) == []


def test_what_does_not_speak_the_protocol_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.airbyte.wheel.HERE", tmp_path)
    (tmp_path / "mute.py").write_text("def main():\n    raise SystemExit('I am mute')\n")
    error = refused(Package(path=wheel(tmp_path / "w", "mute")))
    assert error.code == "airbyte.no_specification" and "I am mute" in error.message
    (tmp_path / "other.py").write_text("")
    assert refused(Package(path=wheel(tmp_path / "w", "other"))).code == "airbyte.no_specification"
    assert list(folder.iterdir()) == []


def test_it_is_installed_without_uv_too(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.connectors.airbyte.tool.uv", lambda: None)
    monkeypatch.setenv("HEADRACE_CONNECTORS_PYTHONS", sys.executable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    spec = catalog.install(Package(path=wheel(tmp_path / "w", "source_things")), yes)
    assert spec.name == THINGS
    (lock,) = folder.glob("*/*/lock.txt")
    assert lock.read_text().startswith("airbyte-source-things==1.0.0 --hash=sha256:")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.chdir(tmp_path)
    return in_process(capsys)


def test_the_command_line_installs_lists_and_shows(cli: Cli, tmp_path: Path) -> None:
    path = str(wheel(tmp_path, "source_things", licence="ELv2"))
    refused = cli("connectors", "install", path)
    assert (refused.code, "cli.needs_agreement" in refused.err) == (64, True)
    done = cli("connectors", "install", path, "--yes")
    assert done.code == 0
    assert "licence: ELv2" in done.err and "managed service" in done.err
    assert THINGS in [row["name"] for row in cli("connectors", "--json").document["connectors"]]
    settings = cli("connectors", THINGS, "--json").document["connector"]["settings"]
    assert [s["setting"] for s in settings if s["secret"]] == ["credentials.token", "credentials.password"]
    assert cli("validate", "--schema").code == 0
