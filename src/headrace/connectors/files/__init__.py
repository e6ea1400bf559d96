"""Files in a local folder or an object store: csv, tsv, json, json lines, parquet."""

from headrace.connector import Capability, ConnectorSpec, Maturity
from headrace.connectors.files.buckets import AzureConfig, GcsConfig, S3Config
from headrace.connectors.files.config import FilesConfig

_CAN = frozenset({Capability.FULL, Capability.INCREMENTAL, Capability.RESUME})
_BUCKET = "headrace.connectors.files.bucket_source:BucketSource"

SPEC = ConnectorSpec(
    name="files",
    title="Files",
    version="1.0.0",
    config=FilesConfig,
    source="headrace.connectors.files.source:FilesSource",
    capabilities=_CAN,
    maturity=Maturity.BETA,
    category="files",
    icon="files",
)

S3 = ConnectorSpec(
    name="s3",
    title="Amazon S3",
    version="1",
    config=S3Config,
    source=_BUCKET,
    capabilities=_CAN,
    maturity=Maturity.BETA,
    category="files",
    icon="s3",
)

GCS = ConnectorSpec(
    name="gcs",
    title="Google Cloud Storage",
    version="1",
    config=GcsConfig,
    source=_BUCKET,
    capabilities=_CAN,
    maturity=Maturity.EXPERIMENTAL,
    category="files",
    icon="gcs",
)

AZURE = ConnectorSpec(
    name="azure-blob-storage",
    title="Azure Blob Storage",
    version="1",
    config=AzureConfig,
    source=_BUCKET,
    capabilities=_CAN,
    maturity=Maturity.EXPERIMENTAL,
    category="files",
    icon="azure",
)
