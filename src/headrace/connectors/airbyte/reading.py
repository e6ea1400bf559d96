"""One read of one stream: the messages of a connector, as events of ours."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa

from headrace.connector import Batch, Checkpoint, Event, Position, Remark, Stream
from headrace.connectors.airbyte import talk
from headrace.connectors.airbyte.process import Process
from headrace.connectors.airbyte.rows import Rows
from headrace.connectors.airbyte.rules import Limits
from headrace.connectors.airbyte.talk import Journal, Message
from headrace.errors import DataError, HeadraceError, TransientError

_BATCH_ROWS = 4096  # more at a time does not fit the caches: a third slower
_IDLE = 1.0  # seconds after which rows in hand are passed on
_BEAT = 5.0  # seconds between two signs of life


@dataclass(kw_only=True)
class Reading:
    """Reads the output of `process` to its end. `control` is told of settings that the connector changed."""

    process: Process
    stream: Stream
    rows: Rows
    journal: Journal
    limits: Limits
    position: Position
    control: Callable[[Mapping[str, Any]], None]
    error: Mapping[str, Any] | None = None
    status: str | None = None
    waiting: bool = False
    read: int = 0
    since_state: int = 0
    states: int = 0
    heard: float = field(default_factory=time.monotonic)

    def events(self) -> Iterator[Event]:
        """Ends with the connector. The caller looks at `fault` then."""
        rows, journal = self.rows, self.journal
        name, namespace = self.stream.name, self.stream.namespace
        add_record, add_line = rows.add_record, rows.add_line
        loads, most, room = orjson.loads, self.limits.batch, self.limits.batch
        beaten = time.monotonic()
        for lines in talk.lines(self.process, self.limits.line):
            for line in lines:
                try:
                    message: Any = loads(line)
                    record: Any = message["record"] if message["type"] == "RECORD" else None
                    plain = (
                        record is not None
                        and type(record["data"]) is dict
                        and record["stream"] == name
                        and record.get("namespace") == namespace
                    )
                except (ValueError, KeyError, TypeError, AttributeError):
                    plain = False
                if not plain:
                    message = self._with_care(line)
                    if message is None:
                        continue
                    if message["type"] == "STATE":
                        room = most
                        yield from self._state(message, line)
                        continue
                    if message["type"] != "RECORD":
                        self._other(message)
                        continue
                    record = message["record"]
                add_record(record)
                add_line(line)
                room -= len(line)
                if room < 0 or len(rows) >= _BATCH_ROWS:
                    room = most
                    yield self._seal()
            now = time.monotonic()
            if lines:
                self.heard = now
            else:
                self._be_patient(now)
                if len(rows) and now - self.heard >= _IDLE:
                    yield self._seal()
            for level, text in journal.take():
                yield Remark(level, text)
            if now - beaten >= _BEAT:
                beaten = now
                yield self._beat()
        if len(rows):
            yield self._seal()
        self._sum_up()
        for level, text in journal.take():
            yield Remark(level, text)

    def _with_care(self, line: bytes) -> Message | None:
        """A line that is not just a record: None when it is no message at all."""
        message = talk.parse(line, self.journal)
        if message is None or message["type"] != "RECORD":
            return message
        record = message.get("record")
        if not isinstance(record, dict) or not isinstance(record.get("data"), dict):
            raise DataError(
                "airbyte.bad_record",
                "the connector wrote a record without data",
                remedy="Another version of the connector may do.",
            )
        if (record.get("stream"), record.get("namespace")) != (self.stream.name, self.stream.namespace):
            raise self._foreign(record)
        return message

    def _foreign(self, record: Mapping[str, Any]) -> DataError:
        return DataError(
            "airbyte.unknown_stream",
            f"the connector wrote a record of {record.get('stream')!r} when asked for {self.stream.id}",
            remedy="Another version of the connector may do.",
        )

    def _seal(self) -> Batch:
        self.read += len(self.rows)
        self.since_state += len(self.rows)
        return self.rows.seal()

    def _state(self, message: Message, line: bytes) -> Iterator[Event]:
        """It covers every record before it: the rows first, then the checkpoint that vouches for them."""
        state = message.get("state")
        if not isinstance(state, dict):
            return
        self._ours(state)
        if len(self.rows):
            yield self._seal()
        stats = state.get("sourceStats")
        told = stats.get("recordCount") if isinstance(stats, dict) else None
        if told is not None and told != self.since_state:
            self.journal.write("debug", f"the connector counted {told} records, we {self.since_state}")
        self.since_state = 0
        self.states += 1
        text = talk.raw_member(line, "state")
        if text != self.position.get("state"):
            self.position = {"sequence": self.position.get("sequence", 0) + 1, "state": text}
        yield Checkpoint(self.position)

    def _ours(self, state: Mapping[str, Any]) -> None:
        if state.get("type") != "STREAM":
            return
        about = (state.get("stream") or {}).get("stream_descriptor") or {}
        if about.get("name") != self.stream.name or about.get("namespace") != self.stream.namespace:
            raise DataError(
                "airbyte.foreign_state",
                f"the connector wrote a state of {about.get('name')!r} when asked for {self.stream.id}",
                remedy="Another version of the connector may do.",
            )

    def _other(self, message: Message) -> None:
        match message["type"]:
            case "LOG":
                talk.log(message, self.journal)
            case "TRACE":
                self._trace(message)
            case "CONTROL":
                control = message.get("control") or {}
                config = (control.get("connectorConfig") or {}).get("config")
                if isinstance(config, dict):
                    self.control(config)

    def _trace(self, message: Message) -> None:
        if error := talk.trace_error(message):
            self.error = error
            self.journal.write("error", str(error.get("message")))
            if trace := error.get("stack_trace"):
                self.journal.write("debug", str(trace))
            return
        trace = message.get("trace")
        told = trace.get("stream_status") if isinstance(trace, dict) else None
        if not isinstance(told, dict):
            return
        about = told.get("stream_descriptor") or {}
        if (about.get("name"), about.get("namespace")) != (self.stream.name, self.stream.namespace):
            return
        reasons = [r.get("type") for r in told.get("reasons") or () if isinstance(r, dict)]
        if self.waiting != ("RATE_LIMITED" in reasons):
            self.waiting = not self.waiting
            if self.waiting:
                self.journal.write("info", "the far side limits the rate: waiting")
        self.status = str(told.get("status"))

    def _be_patient(self, now: float) -> None:
        patience = self.limits.waiting if self.waiting else self.limits.silence
        if now - self.heard > patience:
            raise TransientError(
                "airbyte.silent",
                f"the connector said nothing for {patience:.0f} seconds",
                remedy="Is its far side within reach? HEADRACE_CONNECTORS_LIMITS may give it more time.",
            )

    def _beat(self) -> Event:
        """A sign of life: where we are if that is certain, else no rows."""
        if len(self.rows) or self.since_state:
            return Batch(self.stream.id, pa.RecordBatch.from_pylist([], self.stream.schema))
        return Checkpoint(self.position)

    def _sum_up(self) -> None:
        for what, counted in (
            ("were not in the schema and went into _extra", self.rows.unknown),
            ("did not fit their type and became null", self.rows.nulled),
        ):
            if counted:
                told = ", ".join(f"{name} ({count})" for name, count in counted.most_common(20))
                self.journal.write("warning", f"fields that {what}: {told}")

    def fault(self, *, full: bool) -> HeadraceError | None:
        """Why the read may not stand, once it has ended; None if it was complete."""
        mask, ended = self.journal.mask, self.process.wait()
        if self.error:
            return talk.raised(self.error, mask)
        if found := talk.fault(ended, self.process.last_words, mask):
            return found
        if self.status is not None and (self.status == "INCOMPLETE" or (full and self.status != "COMPLETE")):
            return TransientError(
                "airbyte.incomplete",
                f"the connector ended {self.stream.id} with status {self.status}",
                remedy="Look at the log of the run; the next run reads on.",
            )
        return None
