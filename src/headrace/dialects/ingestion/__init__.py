"""The tenant-scoped Ingestion API: sources, connections, syncs, files and connectors under `/api/v1`."""

from headrace.dialects.ingestion.app import PATHS, app

__all__ = ["PATHS", "app"]
