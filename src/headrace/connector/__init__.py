"""All that a connector author imports."""

from typing import TYPE_CHECKING, Any

from headrace.connector.config import HIDDEN, Config, Secret, setting
from headrace.connector.maintenance import Maintainable, Maintained, Maintenance, Wear
from headrace.connector.source import EVERYTHING, Selection, Source
from headrace.connector.target import Staged, Target, Token, Writer
from headrace.connector.transform import Transform, TransformSpec, keep
from headrace.model.connector import Capability, ConnectorSpec, Maturity
from headrace.model.event import Batch, Change, Checkpoint, Event, Reject, Remark, SchemaChange, Truncate
from headrace.model.pipeline import WriteMode
from headrace.model.stream import Position, ReadMode, Slice, Stream, StreamRead

if TYPE_CHECKING:
    from headrace.connector.http import Http

__all__ = [
    "EVERYTHING",
    "HIDDEN",
    "Batch",
    "Capability",
    "Change",
    "Checkpoint",
    "Config",
    "ConnectorSpec",
    "Event",
    "Http",
    "Maintainable",
    "Maintained",
    "Maintenance",
    "Maturity",
    "Position",
    "ReadMode",
    "Reject",
    "Remark",
    "SchemaChange",
    "Secret",
    "Selection",
    "Slice",
    "Source",
    "Staged",
    "Stream",
    "StreamRead",
    "Target",
    "Token",
    "Transform",
    "TransformSpec",
    "Truncate",
    "Wear",
    "WriteMode",
    "Writer",
    "keep",
    "setting",
]


def __getattr__(name: str) -> Any:
    """`Http` on first use: its driver is not for those who only list the catalogue."""
    if name == "Http":
        from headrace.connector.http import Http

        return Http
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
