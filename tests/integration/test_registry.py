"""The registry on both databases: versions, review, races, and what is kept of a package."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import pytest

from headrace.control.access import OPERATOR
from headrace.control.platform import Platform
from headrace.errors import ConfigError, ConflictError, NotFoundError, SignInNeeded
from headrace.model.registry import Origin, RegistryEntry, RegistryStatus
from headrace.store import Store
from tests.archives import METADATA, files, tar
from tests.integration.site import Site
from tests.integration.tenants import platform_of
from tests.waiting import HANGS

Make = Callable[..., Platform]


@pytest.fixture
def make(store: Store, tmp_path: Path) -> Iterator[Make]:
    def platform(**settings: str) -> Platform:
        environ = {f"HEADRACE_OBSRV_{name.upper()}": value for name, value in settings.items()}
        return platform_of(store, tmp_path, environ)

    yield platform


def register(platform: Platform, *, extra: Any = None, **metadata: Any) -> RegistryEntry:
    packed = tar(files(metadata) | (extra or {}))
    (entry,) = platform.registry.register(OPERATOR, "rates.tar.gz", io.BytesIO(packed))
    return entry


def statuses(platform: Platform) -> dict[str, str]:
    return {e.id: e.status.value for e in platform.registry.list() if e.connector_id == "rates-connector"}


def test_an_entry_comes_back_as_it_was_put(store: Store) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    entry = RegistryEntry(
        id="a-1", connector_id="a", name="A", version="1", category="Stream", icon="data:,",
        ui_spec={"x": ["\0", 1.5, None]}, created_at=at, updated_at=at, live_at=at,
        origin=Origin(digest="d", contract="airbyte", runnable=True, report=("odd",), program={"a": None}),
    )  # fmt: skip
    (kept,) = store.registry.put([entry])
    assert replace(kept, updated_at=at) == entry
    assert kept.updated_at > at
    assert store.registry.get("a-1") == kept
    assert store.registry.list() == [kept]


def test_entries_are_stored_together_or_not_at_all(store: Store) -> None:
    now = datetime.now(UTC)
    entry = RegistryEntry(
        id="a-1-2", connector_id="a", name="A", version="1-2", created_at=now, updated_at=now
    )
    store.registry.put([entry])
    fine = replace(entry, id="b-1", connector_id="b", version="1")
    with pytest.raises(ConflictError):
        store.registry.put([fine, replace(entry, connector_id="a-1", version="2")])
    assert [e.id for e in store.registry.list()] == ["a-1-2"]


def test_of_versions_that_are_registered_at_once_one_is_live(make: Make) -> None:
    platform = make()
    versions = [f"1.0.{number}" for number in range(6)]
    start = Barrier(len(versions))

    def one(version: str) -> None:
        start.wait()
        register(platform, version=version)

    with ThreadPoolExecutor(len(versions)) as pool:
        list(pool.map(one, versions))
    found = list(statuses(platform).values())
    assert sorted(found) == ["Live"] + ["Retired"] * 5


def test_the_same_package_at_once_is_kept_once(make: Make, tmp_path: Path) -> None:
    platform = make()
    start = Barrier(4)

    def one(_: int) -> str:
        start.wait()
        return register(platform).origin.digest or ""

    with ThreadPoolExecutor(4) as pool:
        (digest,) = set(pool.map(one, range(4)))
    assert [path.name for path in (tmp_path / "packages").iterdir()] == [digest]


def test_a_reviewed_version_takes_over_only_when_it_is_approved(make: Make) -> None:
    register(make())
    platform = make(review="true")
    registry = platform.registry
    assert register(platform, version="2.0.0").live_at is None
    assert statuses(platform) == {"rates-connector-1.0.0": "Live", "rates-connector-2.0.0": "Draft"}
    for too_early in (registry.approve, registry.retire):
        with pytest.raises(ConflictError) as raised:
            too_early(OPERATOR, "rates-connector-2.0.0")
        assert raised.value.code == "store.registry_status"
    assert registry.validate(OPERATOR, "rates-connector-2.0.0").status is RegistryStatus.IN_VALIDATION
    assert statuses(platform)["rates-connector-1.0.0"] == "Live"
    assert registry.approve(OPERATOR, "rates-connector-2.0.0").live_at
    assert statuses(platform) == {"rates-connector-1.0.0": "Retired", "rates-connector-2.0.0": "Live"}
    assert register(platform).status is RegistryStatus.DRAFT
    with pytest.raises(NotFoundError):
        registry.approve(OPERATOR, "nothing-1")


def test_a_draft_with_a_defect_stays_one_and_says_why(make: Make) -> None:
    platform = make(review="true")
    entry = register(platform, category="Odd")
    assert entry.origin.report == ("the category 'Odd' is none of Database, File, Stream, batch",)
    again = platform.registry.validate(OPERATOR, entry.id)
    assert again.status is RegistryStatus.DRAFT
    assert again.origin.report == entry.origin.report


@pytest.mark.parametrize(
    ("metadata", "extra", "contract", "reason"),
    [
        ({"contract": "airbyte"}, {}, "airbyte", None),
        ({"contract": "headrace/1"}, {}, "headrace/1", "can't be run yet"),
        ({}, {}, None, "neither the Airbyte protocol"),
        ({"technology": "Java", "contract": "airbyte"}, {}, None, "only Python"),
        ({"technology": None}, {}, None, "only Python"),
        (
            {},
            {
                "pyproject.toml": b'[project]\ndependencies=["airbyte-cdk>=6"]\nscripts={source-x="x:run"}',
            },
            "airbyte",
            None,
        ),
        (
            {},
            {
                "pyproject.toml": b'[project.scripts]\nsource-x="x:run"',
                "requirements.txt": b"requests\nairbyte_cdk==7.0\n",
            },
            "airbyte",
            None,
        ),
        (
            {},
            {
                "pyproject.toml": b'[tool.poetry.dependencies]\nairbyte-cdk="^6"\n'
                b'[tool.poetry.scripts]\nsource-x="x:run"',
            },
            "airbyte",
            None,
        ),
        ({}, {"requirements.txt": b"airbyte-cdk\n"}, None, "neither"),
        ({}, {"pyproject.toml": b"[[["}, None, "neither"),
        (
            {},
            {"pyproject.toml": b'[project]\ndependencies=["airbyte-cdk-fork"]\nscripts={a="b:c"}'},
            None,
            "neither",
        ),
    ],
)
def test_what_can_be_run_is_told_by_the_package(
    tmp_path: Path,
    metadata: dict[str, Any],
    extra: dict[str, bytes],
    contract: str | None,
    reason: str | None,
) -> None:
    platform = Platform.open(tmp_path / "data", {})
    inside = {f"rates-connector-1.0.0/{name}": data for name, data in extra.items()}
    register(platform, extra=inside, **metadata)
    (package,) = platform.registry.packages(OPERATOR)
    platform.close()
    assert (package.contract, package.runnable) == (contract, reason is None)
    assert (package.reason is None) if reason is None else (reason in (package.reason or ""))
    assert package.folder.name == "rates-connector-1.0.0" and package.folder.is_dir()


def test_a_package_that_was_replaced_stays_where_a_run_began_with_it(make: Make) -> None:
    platform = make()
    register(platform)
    (first,) = platform.registry.packages(OPERATOR)
    register(platform, name="Other")
    (second,) = platform.registry.packages(OPERATOR)
    assert first.digest != second.digest and first.entries == second.entries
    assert (first.folder / "connector.py").is_file()


def test_a_registry_that_is_not_public_is_closed_to_nobody_else(make: Make) -> None:
    registry = make(public_catalogue="false").registry
    for look in (registry.list, lambda: registry.read("postgres-connector-1.0.0")):
        with pytest.raises(SignInNeeded):
            look()
    assert registry.list(by=OPERATOR)
    with pytest.raises(SignInNeeded):
        make(builtin_rows="false").registry.registrar(by=None)


def test_what_a_killed_process_left_behind_is_removed_after_a_day(make: Make, tmp_path: Path) -> None:
    platform = make()
    old, new = tmp_path / "packages" / ".work-old", tmp_path / "packages" / ".work-new"
    for folder in (old, new):
        (folder / "tree").mkdir(parents=True)
    os.utime(old, (time.time() - 90_000, time.time() - 90_000))
    register(platform)
    assert not old.exists() and new.exists()


def test_an_upload_is_bounded_where_it_is_kept_too(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.control import registry

    monkeypatch.setattr(registry, "UPLOAD_BYTES", 100)
    with pytest.raises(ConfigError) as raised:
        make().registry.register(OPERATOR, "x.tar", io.BytesIO(b"1" * 101))
    assert raised.value.code == "registry.too_large"


def test_the_form_of_an_entry_is_there_whatever_its_status(make: Make) -> None:
    platform = make(review="true")
    entry = register(platform)
    assert [each.name for each in platform.registry.form(OPERATOR, entry.id).fields] == [
        "connector_config.api_key", "connector_config.base_url",
    ]  # fmt: skip
    assert platform.registry.form(OPERATOR, "postgres-connector-1.0.0").secrets()
    with pytest.raises(NotFoundError):
        platform.registry.form(OPERATOR, METADATA["id"])


def test_the_api_of_the_registry_may_have_a_port_of_its_own(tmp_path: Path) -> None:
    with ExitStack() as undo:
        site = Site(tmp_path, f"sqlite:///{tmp_path}/headrace.db", undo)
        server = site.start("serve", "--port", "0", "--no-worker", OBSRV_PORT="0", LOG_FORMAT="json")
        alone, everything = (
            json.loads(server.line(word))["address"] for word in ("the API obsrv alone", '"ready"')
        )
        at = "/v2/connectors/read/postgres-connector-1.0.0"
        for address in (alone, everything):
            assert httpx.get(address + at, timeout=HANGS).json()["result"]["status"] == "Live"
        assert httpx.get(alone + "/health", timeout=HANGS).status_code == 404
        assert httpx.get(everything + "/health", timeout=HANGS).status_code == 200
        server.signal(signal.SIGTERM)
        assert server.end().code == 0
