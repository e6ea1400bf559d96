"""Try a connection, and see what there is at its other end."""

from __future__ import annotations

from contextlib import closing

from headrace.connector import Selection, Stream
from headrace.control.endpoint import Endpoint


def check(endpoint: Endpoint, *, source: bool) -> None:
    """Return when a run could start; else raise an error with the field and the remedy."""
    with closing(endpoint.source() if source else endpoint.target()) as opened:
        opened.check()


def discover(endpoint: Endpoint, selection: Selection) -> list[Stream]:
    """The streams that can be read, in a stable order."""
    with closing(endpoint.source()) as source:
        return [stream for stream in source.discover(selection) if stream.id in selection]
