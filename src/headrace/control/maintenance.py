"""Look after the tables that a target holds, beside the pipelines that write them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from headrace.connector import Maintainable, Maintained, Maintenance
from headrace.control.endpoint import Endpoint
from headrace.errors import ConfigError


def maintain(endpoint: Endpoint, wanted: Maintenance) -> Iterator[Maintained]:
    """Each step as it is done. Raises ConfigError for a connector whose tables need no maintenance."""
    if endpoint.spec.target is None:
        raise _nothing(endpoint)
    with closing(endpoint.target()) as target:
        if not isinstance(target, Maintainable):
            raise _nothing(endpoint)
        yield from target.maintain(wanted)


def _nothing(endpoint: Endpoint) -> ConfigError:
    return ConfigError(
        "control.no_maintenance",
        f"{endpoint.spec.title} has no tables that Headrace maintains",
        field="connection",
        remedy="Name a connection of Iceberg or Parquet tables.",
    )
