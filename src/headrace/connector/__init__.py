"""All that a connector author imports."""

from headrace.connector.config import HIDDEN, Config, Secret, setting
from headrace.connector.source import EVERYTHING, Selection, Source
from headrace.connector.target import Staged, Target, Token, Writer
from headrace.connector.transform import Transform, TransformSpec, keep
from headrace.model.connector import Capability, ConnectorSpec, Maturity
from headrace.model.event import Batch, Change, Checkpoint, Event, Reject, SchemaChange, Truncate
from headrace.model.pipeline import WriteMode
from headrace.model.stream import Position, ReadMode, Slice, Stream, StreamRead

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
    "Maturity",
    "Position",
    "ReadMode",
    "Reject",
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
    "WriteMode",
    "Writer",
    "keep",
    "setting",
]
