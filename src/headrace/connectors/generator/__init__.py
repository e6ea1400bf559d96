"""Deterministic synthetic streams from a seed, with inserts, updates and deletes."""

from __future__ import annotations

import difflib
from typing import Any, ClassVar
from urllib.parse import parse_qsl, urlsplit

from pydantic import field_validator

from headrace.connector import Capability, Config, ConnectorSpec, Maturity, setting
from headrace.errors import ConfigError

STREAMS = ("customers", "orders", "order_lines", "events")


class GeneratorConfig(Config):
    """Settings of the generator; every stream has `rows` rows of its own."""

    schemes: ClassVar[tuple[str, ...]] = ("generator",)

    streams: tuple[str, ...] = setting(
        f"The streams to offer, of {', '.join(STREAMS)}.", default=STREAMS, examples=[["orders"]]
    )
    rows: int = setting("How many rows each stream has before any change.", default=100_000, ge=0, le=1 << 40)
    seed: int = setting("The same seed gives the same rows.", default=1, ge=0, lt=1 << 63)
    changes: int = setting("How many inserts, updates and deletes follow the load.", default=0, ge=0)
    slices: int = setting("Into how many slices a load is cut.", default=4, ge=1, le=1024)
    batch_rows: int = setting("Rows in one batch.", default=65_536, ge=1, advanced=True)
    checkpoint_every: int = setting(
        "Rows or changes between two checkpoints.", default=10_000, ge=1, advanced=True
    )
    delay: float = setting("Seconds to wait before each batch.", default=0.0, ge=0, le=5, advanced=True)

    @field_validator("streams")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in STREAMS:
                near = difflib.get_close_matches(name, STREAMS, n=1)
                raise ValueError(
                    f"there is no stream {name!r}" + (f", did you mean {near[0]!r}?" if near else "")
                )
        return names

    @classmethod
    def from_url(cls, url: str) -> dict[str, Any]:
        """`generator:orders,customers?rows=1000&seed=7`; without names all streams are offered."""
        parts = urlsplit(url)
        raw: dict[str, Any] = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts.netloc or "streams" in raw:
            raise ConfigError(
                "generator.url",
                f"{url!r} is not an address of the generator",
                remedy="Write generator:orders,customers?rows=1000&seed=7.",
            )
        if parts.path:
            raw["streams"] = tuple(parts.path.split(","))
        return raw


SPEC = ConnectorSpec(
    name="generator",
    title="Generator",
    version="1",
    config=GeneratorConfig,
    source="headrace.connectors.generator.source:GeneratorSource",
    capabilities=frozenset({Capability.FULL, Capability.INCREMENTAL, Capability.CHANGES, Capability.RESUME}),
    maturity=Maturity.STABLE,
    category="test data",
)
