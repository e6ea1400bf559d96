"""The connector registry of Obsrv: list, read and register under `/v2`."""

from headrace.dialects.obsrv.routes import PATHS, app

__all__ = ["PATHS", "app"]
