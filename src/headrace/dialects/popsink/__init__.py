"""Popsink's on-prem API under `/api`: so far what has to do with people, environments and teams."""

from headrace.dialects.popsink.app import PATHS, app

__all__ = ["PATHS", "app"]
