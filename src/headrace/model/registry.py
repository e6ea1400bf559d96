"""The registry: connectors by version, each with a form, built in or brought by an uploaded package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any


class RegistryStatus(StrEnum):
    """Draft → InValidation → Live → Retired; without review an entry starts as Live."""

    DRAFT = "Draft"
    IN_VALIDATION = "InValidation"
    LIVE = "Live"
    RETIRED = "Retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an entry comes from, and whether it can be run.

    `digest` is the SHA-256 of the package, None for what is built in or was imported as a row alone.
    `connector` is its name in the catalogue, None while it has none there. `contract` is how the package
    speaks (`airbyte`, `headrace/1`, or None). `reason` says why it is not `runnable`; `report` what was
    found wrong with it without refusing it. `archive` is the name under which it came, `program` names
    its folder and entry points, as its metadata say.
    """

    digest: str | None = None
    connector: str | None = None
    contract: str | None = None
    runnable: bool = False
    reason: str | None = None
    report: tuple[str, ...] = ()
    archive: str | None = None
    program: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryEntry:
    """One version of one connector; `id` is `<connector_id>-<version>`.

    `ui_spec` is what the package brought, to the letter. `live_at` is when it first went live.
    """

    id: str
    connector_id: str
    name: str
    type: str = "source"
    category: str | None = None
    version: str
    description: str | None = None
    technology: str | None = None
    runtime: str | None = None
    licence: str | None = None
    owner: str | None = None
    icon: str | None = None
    status: RegistryStatus = RegistryStatus.LIVE
    ui_spec: Mapping[str, Any] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    created_by: str = "SYSTEM"
    updated_by: str = "SYSTEM"
    created_at: datetime
    updated_at: datetime
    live_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """An uploaded package where it lies unpacked; `entries` are the ids of what it brought.

    The folder of a digest never changes, and stays when a later package takes the entries over.
    """

    digest: str
    folder: Path
    contract: str | None
    runnable: bool
    reason: str | None
    entries: tuple[str, ...]


class InstanceStatus(StrEnum):
    PUBLISHING = "Publishing"  # made; its source has not been reached yet
    LIVE = "Live"
    RETIRED = "Retired"


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A pipeline as the dialect of the registry sees it: an entry, filled in, that feeds a dataset.

    `id` is the pipeline's. The configs have the members of the entry's form, with marks in the place of
    secrets. `state` is the saved position of each slice, `rows` what its latest runs have committed.
    """

    id: str
    dataset: str
    entry: str
    connector_config: Mapping[str, Any] = field(default_factory=dict)
    operations_config: Mapping[str, Any] = field(default_factory=dict)
    status: InstanceStatus = InstanceStatus.PUBLISHING
    state: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDraft:
    """What is wanted of a new instance, secrets in the open.

    `id` is random, and of the caller's choice; `target` is the id of a connection.
    """

    id: str
    dataset: str
    entry: str
    target: str
    connector_config: Mapping[str, Any] = field(repr=False)
    operations_config: Mapping[str, Any] = field(default_factory=dict)
    paused: bool = False
