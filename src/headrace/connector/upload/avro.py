"""avro: block by block, its schema's types as Arrow's."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any, NamedTuple

import fastavro
import pyarrow as pa

from headrace.connector.files import columnar, values
from headrace.connector.files.part import Part, check_width
from headrace.connector.upload.opened import Opened, no_columns
from headrace.connector.upload.profile import Profiler, cell_json
from headrace.errors import DataError
from headrace.model.file import FileProfile

_ROWS = 16_384
_DEPTH = 10
_BLOCK = 256 << 20
_PLAIN: Mapping[str, pa.DataType] = {
    "null": pa.string(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "fixed": pa.binary(),
    "string": pa.string(),
    "enum": pa.string(),
}
_LOGICAL: Mapping[tuple[str, str], pa.DataType] = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): values.TIME,
    ("long", "time-micros"): values.TIME,
    ("long", "timestamp-millis"): values.TIMESTAMP_TZ,
    ("long", "timestamp-micros"): values.TIMESTAMP_TZ,
    ("long", "local-timestamp-millis"): values.TIMESTAMP,
    ("long", "local-timestamp-micros"): values.TIMESTAMP,
}


class _Image(NamedTuple):
    """A schema's Arrow type, what makes a value of it, and whether that is JSON text."""

    type: pa.DataType
    make: Callable[[Any], Any] | None = None
    json: bool = False


_JSON = _Image(pa.string(), cell_json, True)


def profile(upload: Opened) -> FileProfile:
    """One pass over all blocks."""
    reader = _open(upload)
    images = _columns(reader, upload)
    schema = pa.schema([(name, image.type) for name, image in images.items()])
    profiler = Profiler(schema)
    for part in _parts(upload, reader, images, schema):
        profiler.add(part)
    kinds = {name: "JSON" for name, image in images.items() if image.json}
    return profiler.finish(schema, profiler.firsts, kinds=kinds)


def read(upload: Opened, schema: pa.Schema) -> Iterator[Part]:
    """The rows as `schema`, which has columns of the file."""
    reader = _open(upload)
    yield from _parts(upload, reader, _columns(reader, upload), schema)


def _size(file: IO[bytes]) -> int:
    """A number as avro writes it."""
    number = shift = 0
    while True:
        (byte,) = file.read(1)
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return (number >> 1) ^ -(number & 1)


def _zstandard(file: IO[bytes]) -> io.BytesIO:
    packed = file.read(_size(file))
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        data = stream.read(_BLOCK + 1)
    if len(data) > _BLOCK:
        raise ValueError("the block is too large")
    return io.BytesIO(data)


def _snappy(file: IO[bytes]) -> io.BytesIO:
    packed = file.read(_size(file))[:-4]  # then comes a sum to check by
    size = shift = at = 0
    while at == 0 or packed[at - 1] > 127:
        size |= (packed[at] & 127) << shift
        shift, at = shift + 7, at + 1
    if size > _BLOCK:
        raise ValueError("the block is too large")
    return io.BytesIO(pa.decompress(packed, size, "snappy", asbytes=True))


# fastavro itself would ask for one more library for each of these
fastavro.read.BLOCK_READERS.update(snappy=_snappy, zstandard=_zstandard)


def _open(upload: Opened) -> Any:
    try:
        return fastavro.block_reader(upload.file)
    except _BROKEN:
        raise _corrupt(0) from None


def _columns(reader: Any, upload: Opened) -> dict[str, _Image]:
    """An image for each field of the records; other values are one column."""
    names: dict[str, Any] = {}
    schema = reader.writer_schema
    try:
        if isinstance(schema, dict) and schema.get("type") == "record":
            fields = {f["name"]: _image(f["type"], names, 1) for f in schema["fields"]}
        else:
            fields = {"value": _image(schema, names, 1)}
    except (KeyError, TypeError, RecursionError):
        raise _corrupt(0) from None
    check_width(len(fields), upload.name)
    if not fields:
        raise no_columns(upload.name)
    return fields


def _image(schema: Any, names: dict[str, Any], depth: int) -> _Image:
    if isinstance(schema, list):
        rest = [s for s in schema if s != "null"]
        return _image(rest[0], names, depth) if len(rest) == 1 else _JSON
    if isinstance(schema, str):
        if schema in _PLAIN:
            return _Image(_PLAIN[schema])
        named = names.get(schema)
        return _JSON if named is None or named is ... else _image(named, names, depth)
    kind = schema["type"]
    if not isinstance(kind, str):
        return _image(kind, names, depth)
    if depth > _DEPTH:
        return _JSON
    if logical := schema.get("logicalType"):
        return _logical(kind, logical, schema)
    match kind:
        case "record" | "error":
            return _record(schema, names, depth)
        case "array":
            item = _image(schema["items"], names, depth + 1)
            return _Image(pa.list_(item.type), _each(item.make))
        case "map":
            item = _image(schema["values"], names, depth + 1)
            return _Image(pa.map_(pa.string(), item.type), _entries(item.make))
        case "enum" | "fixed":
            names[schema["name"]] = schema
    return _image(kind, names, depth) if kind not in _PLAIN else _Image(_PLAIN[kind])


def _logical(kind: str, logical: str, schema: Mapping[str, Any]) -> _Image:
    if logical == "decimal" and 0 < schema["precision"] <= values.MAX_DIGITS:
        return _Image(pa.decimal128(schema["precision"], schema.get("scale", 0)))
    if logical in ("decimal", "uuid"):
        return _Image(pa.string(), str)
    return _Image(_LOGICAL.get((kind, logical), _PLAIN[kind]))


def _record(schema: Mapping[str, Any], names: dict[str, Any], depth: int) -> _Image:
    names[schema["name"]] = ...  # one within itself has no Arrow type
    images = {f["name"]: _image(f["type"], names, depth + 1) for f in schema["fields"]}
    names[schema["name"]] = schema
    if not images:
        return _JSON
    makers = {name: image.make for name, image in images.items() if image.make}

    def make(value: dict[str, Any]) -> dict[str, Any]:
        changed = {n: m(value[n]) for n, m in makers.items() if value.get(n) is not None}
        return {**value, **changed}

    type = pa.struct([(name, image.type) for name, image in images.items()])
    return _Image(type, make if makers else None)


def _each(make: Callable[[Any], Any] | None) -> Callable[[Any], Any] | None:
    if make is None:
        return None
    return lambda found: [None if value is None else make(value) for value in found]


def _entries(make: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    def entries(found: dict[str, Any]) -> list[tuple[str, Any]]:
        return [
            (key, value if value is None or make is None else make(value)) for key, value in found.items()
        ]

    return entries


def _parts(upload: Opened, reader: Any, images: Mapping[str, _Image], schema: pa.Schema) -> Iterator[Part]:
    first, rows = 1, []
    whole = isinstance(reader.writer_schema, dict) and reader.writer_schema.get("type") == "record"
    for record in _records(upload, reader):
        rows.append(record if whole else {"value": record})
        if len(rows) == _ROWS:
            yield columnar.part(_batch(rows, images), schema, first)
            first, rows = first + len(rows), []
    if rows:
        yield columnar.part(_batch(rows, images), schema, first)


def _records(upload: Opened, reader: Any) -> Iterator[Any]:
    offset = upload.file.tell()
    try:
        for block in reader:
            yield from block
            offset = block.offset + block.size
    except _BROKEN:
        raise _corrupt(offset) from None


def _batch(rows: list[dict[str, Any]], images: Mapping[str, _Image]) -> pa.RecordBatch:
    arrays = []
    for name, image in images.items():
        column = [row.get(name) for row in rows]
        if image.make:
            column = [None if value is None else image.make(value) for value in column]
        arrays.append(pa.array(column, image.type))
    return pa.RecordBatch.from_arrays(arrays, names=list(images))


_BROKEN = (
    ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, RecursionError, struct.error,
    zlib.error, StopIteration, OSError, pa.ArrowException, fastavro.schema.SchemaParseException,
)  # fmt: skip


def _corrupt(offset: int) -> DataError:
    return DataError(
        "upload.damaged_avro",
        f"the avro file is damaged in the block at byte {offset}",
        field="file",
        remedy="Send the file again, whole.",
    )
