"""PostgreSQL: tables read by binary COPY, tables written by COPY and merge."""

from headrace.connector import Capability, ConnectorSpec, Maturity
from headrace.connectors.postgres.config import PostgresConfig

SPEC = ConnectorSpec(
    name="postgres",
    title="PostgreSQL",
    version="1",
    config=PostgresConfig,
    source="headrace.connectors.postgres.source:PostgresSource",
    target="headrace.connectors.postgres.target:PostgresTarget",
    capabilities=frozenset(
        {
            Capability.FULL,
            Capability.INCREMENTAL,
            Capability.FILTER,
            Capability.RESUME,
            Capability.APPEND,
            Capability.UPSERT,
            Capability.REPLACE,
            Capability.UNCHANGED,
        }
    ),
    maturity=Maturity.STABLE,
    category="database",
    icon="postgres",
)
