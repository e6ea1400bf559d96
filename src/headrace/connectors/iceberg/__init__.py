"""Iceberg tables: written as Parquet by ourselves, committed through pyiceberg's catalogues."""

from __future__ import annotations

from headrace.connector import Capability, ConnectorSpec, Maturity
from headrace.connectors.iceberg.config import IcebergConfig

SPEC = ConnectorSpec(
    name="iceberg",
    title="Apache Iceberg",
    version="1.0.0",
    config=IcebergConfig,
    target="headrace.connectors.iceberg.target:IcebergTarget",
    capabilities=frozenset({Capability.APPEND, Capability.UPSERT, Capability.REPLACE}),
    maturity=Maturity.STABLE,
    category="lakehouse",
    icon="iceberg",
)
