"""Files, wherever they lie and whatever their format: storage and readers shared by connectors."""

from headrace.connector.files.storage import (
    SCHEMES,
    Object,
    Storage,
    StorageConfig,
    Upload,
    open_storage,
    split_url,
)

__all__ = ["SCHEMES", "Object", "Storage", "StorageConfig", "Upload", "open_storage", "split_url"]
