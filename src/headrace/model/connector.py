"""A catalogue entry: what a connector is called, can do and needs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Capability(StrEnum):
    """What a connector can do; the conformance suite runs what is declared here."""

    FULL = "full"  # source: reads everything there is
    INCREMENTAL = "incremental"  # source: reads what is new since a position
    CHANGES = "changes"  # source: yields updates and deletes, not only new rows
    FILTER = "filter"  # source: applies a row filter where the rows lie
    RESUME = "resume"  # source: cuts a load into slices that survive a crash
    APPEND = "append"  # target: adds rows
    UPSERT = "upsert"  # target: merges by key, deletes included
    REPLACE = "replace"  # target: swaps a table's content
    UNCHANGED = "unchanged"  # target: keeps the old value of a cell marked unchanged


_READS = {Capability.FULL, Capability.INCREMENTAL, Capability.CHANGES}
_WRITES = {Capability.APPEND, Capability.UPSERT, Capability.REPLACE}


class Maturity(StrEnum):
    """How far a connector is proved."""

    STABLE = "stable"  # the whole suite runs against a real server in every test run
    BETA = "beta"  # the suite runs against an emulator
    EXPERIMENTAL = "experimental"  # not verified against a real server
    PLANNED = "planned"  # described, and can't be used by this version


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectorSpec:
    """One entry of the catalogue. Importing one must not import a driver.

    `config` is a subclass of `headrace.connector.Config` (typed loosely, since the model stands below
    it). `source` and `target` are `module:Class` strings, imported on first use. `extra` names the
    optional dependency that brings the driver; None means the default install has it. `unavailable` is
    the sentence that says what a planned connector still lacks; it has neither source nor target.
    """

    name: str
    title: str
    version: str
    config: type[Any]
    source: str | None = None
    target: str | None = None
    capabilities: frozenset[Capability] = frozenset()
    maturity: Maturity = Maturity.EXPERIMENTAL
    category: str = "database"
    icon: str = ""
    extra: str | None = None
    unavailable: str | None = None

    @property
    def reads(self) -> bool:
        """Whether it is a source, or is to become one."""
        return not self.capabilities.isdisjoint(_READS)

    @property
    def writes(self) -> bool:
        """Whether it is a target, or is to become one."""
        return not self.capabilities.isdisjoint(_WRITES)
