"""Makes Arrow batches of the records of one stream; what does not fit is told, row by row."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from headrace.connector import Batch, Reject, Stream
from headrace.connectors.airbyte.types import ADDED, EXTRACTED_AT, FIELD_CHANGES, Column, Kind

_EMPTY = type(None)
_FAST: dict[Kind, frozenset[type]] = {
    Kind.TEXT: frozenset({str, _EMPTY}),
    Kind.DATE: frozenset({str, _EMPTY}),
    Kind.MOMENT: frozenset({str, _EMPTY}),
    Kind.WALL: frozenset({str, _EMPTY}),
    Kind.BOOLEAN: frozenset({bool, _EMPTY}),
    Kind.INTEGER: frozenset({int, _EMPTY}),
    Kind.NUMBER: frozenset({float, int, _EMPTY}),
    Kind.BIG_INTEGER: frozenset({int, _EMPTY}),
}
"""A column whose values are all of these types is made by Arrow at once, if it can."""

_INT64 = range(-(2**63), 2**63)
_UNSAFE = (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError)
Record = dict[str, Any]


class Rows:
    """Takes records of one stream, and gives them back as batches.

    `required` are the columns of key and cursor: a row whose value there does not fit is rejected. Any
    other field that does not fit becomes null, and `_field_changes` says so.
    """

    def __init__(self, stream: Stream, columns: Sequence[Column], required: Iterable[str]):
        self.stream = stream
        wanted = set(stream.schema.names)
        self._columns = [column for column in columns if column.name in wanted]
        self._members = frozenset(column.member for column in columns)
        self._required = frozenset(required)
        self._records: list[Record] = []
        self._lines: list[bytes] = []
        self.add_record = self._records.append
        self.add_line = self._lines.append
        self.unknown: Counter[str] = Counter()
        self.nulled: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._records)

    def seal(self) -> Batch:
        """The records so far as one batch. `add_record` and `add_line` must have been called alike."""
        records, lines = self._records[:], self._lines[:]
        self._records.clear()
        self._lines.clear()
        return _Sealing(self, records, lines).batch()


class _Sealing:
    def __init__(self, rows: Rows, records: list[Record], lines: list[bytes]):
        self.rows, self.records, self.lines = rows, records, lines
        self.data = [record["data"] for record in records]
        self.changes: dict[int, list[Any]] = {}
        self.bad: dict[int, tuple[str, str]] = {}
        self._exact: dict[int, Record] = {}

    def batch(self) -> Batch:
        stream = self.rows.stream
        made = {column.name: self._column(column) for column in self.rows._columns}
        for name in ADDED.keys() & set(stream.schema.names):
            made[name] = self._added(name)
        table = pa.RecordBatch.from_arrays([made[f.name] for f in stream.schema], schema=stream.schema)
        if not self.bad:
            return Batch(stream.id, table)
        good = pa.array([at for at in range(len(self.data)) if at not in self.bad], pa.int64())
        rejects = tuple(self._reject(at) for at in sorted(self.bad))
        return Batch(stream.id, table.take(good), rejects=rejects)

    def _column(self, column: Column) -> pa.Array:
        values = [data.get(column.member) for data in self.data]
        kinds = set(map(type, values))
        if kinds == {_EMPTY}:
            return pa.nulls(len(values), column.type)
        if kinds <= _FAST.get(column.kind, frozenset()):
            with suppress(*_UNSAFE):
                return _at_once(values, column)
        if column.kind is Kind.JSON:
            return pa.array([self._json(at, column.member, v) for at, v in enumerate(values)], pa.string())
        if column.kind in _DIGITS and float in kinds:
            values = [
                self._exactly(at)[column.member] if type(v) is float else v for at, v in enumerate(values)
            ]
        return pa.array([self._fitted(at, column, v) for at, v in enumerate(values)], column.type)

    def _fitted(self, at: int, column: Column, value: Any) -> Any:
        if value is None:
            return None
        if column.kind is Kind.TEXT and isinstance(value, dict | list):
            return self._json(at, column.member, value)
        try:
            return _FIT[column.kind](value, column)
        except _Assumed as assumed:
            self.changes.setdefault(at, []).append(
                {"field": column.member, "change": "ASSUMED", "reason": str(assumed)}
            )
            return assumed.value
        except (ValueError, TypeError, InvalidOperation, *_UNSAFE) as error:
            if column.name in self.rows._required:
                self.bad.setdefault(at, (column.name, f"it is not {_WHAT[column.kind]}"))
            reason = str(error) if isinstance(error, _Misfit) else f"not {_WHAT[column.kind]}"
            self.rows.nulled[column.name] += 1
            self.changes.setdefault(at, []).append(
                {"field": column.member, "change": "NULLED", "reason": reason}
            )
            return None

    def _json(self, at: int, member: str, value: Any) -> str | None:
        if value is None:
            return None
        if _has_float(value):
            value = self._exactly(at)[member]
        try:
            return orjson.dumps(value, default=_raw).decode()
        except TypeError:  # half of a surrogate pair, which no UTF-8 can hold
            return json.dumps(value, default=float, separators=(",", ":"))

    def _exactly(self, at: int) -> Record:
        """The row once more, with every digit."""
        if at not in self._exact:
            parsed = json.loads(self.lines[at], parse_float=Decimal, parse_int=_whole)
            self._exact[at] = parsed["record"]["data"]
        return self._exact[at]

    def _added(self, name: str) -> pa.Array:
        if name == EXTRACTED_AT:
            at = [record.get("emitted_at") for record in self.records]
            if not set(map(type, at)) <= {int, _EMPTY}:
                at = [value if type(value) is int else None for value in at]
            with suppress(*_UNSAFE):
                return pa.array(at, pa.int64()).cast(pa.timestamp("ms", "UTC")).cast(ADDED[name])
            return pa.nulls(len(at), ADDED[name])
        if name == FIELD_CHANGES:
            return pa.array([self._changes(at) for at in range(len(self.records))], pa.string())
        members = self.rows._members
        return pa.array(
            [None if members.issuperset(data) else self._extra(at) for at, data in enumerate(self.data)],
            pa.string(),
        )

    def _changes(self, at: int) -> str | None:
        meta = self.records[at].get("meta")
        theirs = meta.get("changes") if isinstance(meta, dict) else None
        found = [*(theirs or ()), *self.changes.get(at, ())]
        return orjson.dumps(found).decode() if found else None

    def _extra(self, at: int) -> str | None:
        data = self.data[at]
        extra = {member: value for member, value in data.items() if member not in self.rows._members}
        self.rows.unknown.update(extra.keys())
        if _has_float(extra):
            exact = self._exactly(at)
            extra = {member: exact[member] for member in extra}
        return orjson.dumps(extra, default=_raw).decode()

    def _reject(self, at: int) -> Reject:
        name, reason = self.bad[at]
        return Reject(
            stream=self.rows.stream.id,
            code="airbyte.value.key",
            reason=f"{name}: {reason}, and without it the row can't be told apart",
            where={"record": hashlib.sha256(orjson.dumps(self.data[at])).hexdigest()[:16]},
            row=orjson.dumps(self.data[at]).decode(),
        )


def _at_once(values: list[Any], column: Column) -> pa.Array:
    if column.kind in (Kind.DATE, Kind.MOMENT, Kind.WALL):
        return pc.cast(pa.array(values, pa.string()), column.type)
    return pa.array(values, column.type)


class _Misfit(ValueError):
    """A value that its column can't hold, in words."""


class _Assumed(Exception):
    """A value that was taken under an assumption, which is the text."""

    def __init__(self, value: Any, what: str):
        super().__init__(what)
        self.value = value


def _text(value: Any, column: Column) -> str:
    if isinstance(value, str):
        value.encode()
        return value
    if isinstance(value, Decimal):
        return str(value)
    return orjson.dumps(value, default=_raw).decode()


def _date(value: Any, column: Column) -> date:
    if isinstance(value, str) and len(value) > 10:
        moment = datetime.fromisoformat(value)
        if moment.time() != time():
            raise _Misfit("it has a time of day")
        return moment.date()
    return date.fromisoformat(value)


def _moment(value: Any, column: Column) -> datetime:
    moment = _exact_moment(value)
    if moment.tzinfo is None:
        raise _Assumed(moment.replace(tzinfo=UTC), "no offset: taken for UTC")
    return moment.astimezone(UTC)


def _wall(value: Any, column: Column) -> datetime:
    moment = _exact_moment(value)
    if moment.tzinfo is not None and moment.utcoffset():
        raise _Misfit("it has an offset")
    return moment.replace(tzinfo=None)


def _exact_moment(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError
    fraction = value.partition(".")[2]
    digits = fraction[: len(fraction) - len(fraction.lstrip("0123456789"))]
    if digits[6:].strip("0"):
        raise _Misfit("it is finer than a microsecond")
    return datetime.fromisoformat(value)


def _clock(value: Any, column: Column) -> time:
    found = time.fromisoformat(value)
    if found.tzinfo is not None:
        raise _Misfit("it has an offset")
    return found


def _bytes(value: Any, column: Column) -> bytes:
    return base64.b64decode(value, validate=True)


def _boolean(value: Any, column: Column) -> bool:
    if type(value) is bool:
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise ValueError


def _integer(value: Any, column: Column) -> int:
    whole = _big_integer(value, column)
    if whole not in _INT64:
        raise _Misfit("it is past 64 bit")
    return whole


def _big_integer(value: Any, column: Column) -> int:
    if type(value) is bool:
        raise ValueError
    exact = Decimal(value)
    if exact.is_finite() and exact.adjusted() >= 38:
        raise _Misfit("it has more than 38 digits")
    whole = int(exact)
    if whole != exact:
        raise _Misfit("it has a fraction")
    return whole


def _number(value: Any, column: Column) -> float:
    if type(value) is bool:
        raise ValueError
    number = float(value)
    if isinstance(value, int) and int(number) != value:
        raise _Misfit("it has more digits than a double")
    if math.isinf(number) and value not in ("Infinity", "-Infinity") and not isinstance(value, float):
        raise _Misfit("it is too large for a double")
    return number


def _big_number(value: Any, column: Column) -> str:
    if type(value) is bool:
        raise ValueError
    number = Decimal(value)
    return value if isinstance(value, str) else str(number)


def _list(value: Any, column: Column) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError
    inner = _INNER[column.type.value_type]
    if not set(map(type, value)) <= inner:
        raise _Misfit("an element is of another type")
    pa.array(value, column.type.value_type)  # raises for what does not fit
    return value


_INNER: dict[pa.DataType, set[type]] = {
    pa.string(): {str, _EMPTY},
    pa.int64(): {int, _EMPTY},
    pa.float64(): {float, int, _EMPTY},
    pa.bool_(): {bool, _EMPTY},
}
_FIT: dict[Kind, Callable[[Any, Column], Any]] = {
    Kind.TEXT: _text,
    Kind.DATE: _date,
    Kind.MOMENT: _moment,
    Kind.WALL: _wall,
    Kind.TIME: _clock,
    Kind.BINARY: _bytes,
    Kind.BOOLEAN: _boolean,
    Kind.INTEGER: _integer,
    Kind.NUMBER: _number,
    Kind.BIG_INTEGER: _big_integer,
    Kind.BIG_NUMBER: _big_number,
    Kind.LIST: _list,
}
_WHAT = {
    Kind.TEXT: "text",
    Kind.DATE: "a date",
    Kind.MOMENT: "a date and time",
    Kind.WALL: "a date and time",
    Kind.TIME: "a time of day",
    Kind.BINARY: "base64",
    Kind.BOOLEAN: "true or false",
    Kind.INTEGER: "a whole number",
    Kind.NUMBER: "a number",
    Kind.BIG_INTEGER: "a whole number",
    Kind.BIG_NUMBER: "a number",
    Kind.LIST: "a list",
}
_DIGITS = (Kind.TEXT, Kind.INTEGER, Kind.BIG_INTEGER, Kind.BIG_NUMBER)
"""Where a number's own digits count: a double may have lost some."""


def _has_float(value: Any) -> bool:
    kind = type(value)
    if kind is dict:
        return any(map(_has_float, value.values()))
    if kind is list:
        return any(map(_has_float, value))
    return kind is float


def _whole(text: str) -> int | Decimal:
    """An integer; one past 64 bit is written out by its digits."""
    return int(text) if len(text) < 19 or (len(text) <= 20 and int(text) in _INT64) else Decimal(text)


def _raw(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError
