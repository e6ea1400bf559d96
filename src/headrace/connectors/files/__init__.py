"""Files in a local folder or an object store: csv, tsv, json, json lines, parquet."""

from headrace.connector import Capability, ConnectorSpec, Maturity
from headrace.connectors.files.config import FilesConfig

SPEC = ConnectorSpec(
    name="files",
    title="Files",
    version="1.0.0",
    config=FilesConfig,
    source="headrace.connectors.files.source:FilesSource",
    capabilities=frozenset({Capability.FULL, Capability.INCREMENTAL, Capability.RESUME}),
    maturity=Maturity.BETA,
    category="files",
    icon="files",
)
