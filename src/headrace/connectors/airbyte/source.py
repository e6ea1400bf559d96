"""Checks, discovers and reads by the commands of an installed connector, a process for each call."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from headrace.connector import (
    EVERYTHING,
    Event,
    Position,
    ReadMode,
    Remark,
    Secret,
    Selection,
    Slice,
    Source,
    Stream,
    StreamRead,
    egress,
)
from headrace.connectors.airbyte import talk
from headrace.connectors.airbyte.call import Call
from headrace.connectors.airbyte.config import AirbyteConfig
from headrace.connectors.airbyte.mask import Mask, texts
from headrace.connectors.airbyte.reading import Reading
from headrace.connectors.airbyte.rows import Rows
from headrace.connectors.airbyte.rules import Rules
from headrace.connectors.airbyte.talk import Journal, Message
from headrace.connectors.airbyte.types import Column, arrow_schema, columns
from headrace.errors import ConfigError, TransientError

_HOST = ("host", "hostname", "server")


class _Settings:
    """The settings as the connector has them now. They hold secrets, and no `repr` shows them."""

    __slots__ = ("_document", "_lock")

    def __init__(self, document: dict[str, Any]):
        self._document = document
        self._lock = threading.Lock()

    def document(self) -> dict[str, Any]:
        with self._lock:
            return dict(self._document)

    def change(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Take them over; gives those that are other than before."""
        with self._lock:
            changed = {k: v for k, v in settings.items() if self._document.get(k) != v}
            self._document |= changed
            return changed


class AirbyteSource(Source[AirbyteConfig]):
    """A slice is a stream, and a process: one that fails takes no other stream along.

    Positions: `{"sequence": n, "state": text}`, where the text is the connector's own state, letter by
    letter, and n grows with every other one. A full read gives positions too, good within one run.
    """

    def __init__(self, config: AirbyteConfig):
        super().__init__(config)
        self._rules = Rules.read()
        self._settings = _Settings(config.document())
        self._mask = Mask(text for value in config.secret_values() for text in texts(value))
        self._lock = threading.Lock()
        self._calls: set[Call] = set()
        self._interrupted = False
        self._found: dict[str, dict[str, Any]] | None = None

    def check(self) -> None:
        status: Mapping[str, Any] | None = None
        for message in self._ask("check", self._rules.limits.check):
            if message["type"] == "CONNECTION_STATUS":
                status = message.get("connectionStatus")
        if not isinstance(status, dict) or status.get("status") not in ("SUCCEEDED", "FAILED"):
            raise TransientError(
                "airbyte.no_status",
                "the connector ended its check without a result",
                remedy="Another version of the connector may do.",
            )
        if status["status"] == "FAILED":
            raise ConfigError(
                "airbyte.check_failed",
                f"the connector: {self._mask(str(status.get('message') or 'the check failed'))}",
                remedy="Correct the settings of the connection.",
            )

    def discover(self, selection: Selection = EVERYTHING) -> Iterable[Stream]:
        self._found = {_stream(entry).id: entry for entry in self._catalog()}
        return [_stream(entry) for id, entry in self._found.items() if id in selection]

    def slices(self, reads: Sequence[StreamRead], since: Mapping[str, Position]) -> Iterable[Slice]:
        if self._found is None:
            self.discover()
        assert self._found is not None
        slices = []
        for read in reads:
            entry = self._found.get(read.stream.id)
            if entry is None:
                raise ConfigError(
                    "airbyte.no_stream",
                    f"the connector has no stream {read.stream.id!r}",
                    field="streams",
                    remedy="See what it has with `headrace discover`.",
                )
            slices.append(Slice(key=read.stream.id, reads=(read,), bounds={"choice": _choice(entry, read)}))
        return slices

    def read(self, slice: Slice, since: Position) -> Iterator[Event]:
        choice, full = slice.bounds["choice"], slice.read.mode is ReadMode.FULL
        now = time.time_ns() // 1_000_000
        generation = now if full else 0
        ids = {"generation_id": generation, "minimum_generation_id": generation, "sync_id": now}
        files = {"catalog": json.dumps({"streams": [choice | ids]}).encode()}
        if state := since.get("state"):
            files["state"] = f"[{state}]".encode()
        found = columns(choice["stream"].get("json_schema") or {})
        key = [*(choice["primary_key"] or ()), choice["cursor_field"] or ()]
        members = {path[0] for path in key if len(path) == 1}
        required = [column.name for column in found if column.member in members]
        journal = self._journal()
        with self._call("read", files, None, journal) as call:
            reading = Reading(
                process=call.process,
                stream=slice.read.stream,
                rows=Rows(slice.read.stream, found, required),
                journal=journal,
                limits=self._rules.limits,
                position=dict(since),
                control=lambda config: self._control(config, journal),
            )
            try:
                yield from reading.events()
            finally:
                with self._lock:
                    self._calls.discard(call)
            self._refuse_interrupted()
            if fault := reading.fault(full=full):
                raise fault
        if reading.read and not reading.states and not full:
            yield Remark("warning", "the source gave no position: the next run reads everything again")

    def order(self, position: Position) -> tuple[Any, ...]:
        return (position.get("sequence", 0),)

    def interrupt(self) -> None:
        with self._lock:
            self._interrupted = True
            for call in self._calls:
                call.process.stop()

    def close(self) -> None:
        self.interrupt()

    def _catalog(self) -> list[dict[str, Any]]:
        catalog: Mapping[str, Any] | None = None
        for message in self._ask("discover", self._rules.limits.discover):
            if message["type"] == "CATALOG":
                catalog = message.get("catalog")
        streams = catalog.get("streams") if isinstance(catalog, dict) else None
        if not isinstance(streams, list):
            raise TransientError(
                "airbyte.no_catalog",
                "the connector ended without telling its streams",
                remedy="Another version of the connector may do.",
            )
        return [s for s in streams if isinstance(s, dict) and isinstance(s.get("name"), str)]

    def _ask(self, verb: str, seconds: float) -> Iterator[Message]:
        """The messages of one call, and in the end its error if it had one."""
        journal, error = self._journal(), None
        told = False
        with self._call(verb, {}, seconds, journal) as call:
            for lines in talk.lines(call.process, self._rules.limits.line):
                for line in lines:
                    message = talk.parse(line, journal)
                    if message is None:
                        continue
                    error = talk.trace_error(message) or error
                    if message["type"] == "CONTROL":
                        config = ((message.get("control") or {}).get("connectorConfig") or {}).get("config")
                        self._control(config if isinstance(config, dict) else {}, journal)
                    told = told or message["type"] in ("CATALOG", "CONNECTION_STATUS")
                    yield message
            ended = call.process.wait()
            with self._lock:
                self._calls.discard(call)
        self._refuse_interrupted()
        if told and ended.cause is None:
            return
        if error:
            raise talk.raised(error, self._mask)
        if fault := talk.fault(ended, call.process.last_words, self._mask):
            raise fault

    def _call(self, verb: str, files: Mapping[str, bytes], seconds: float | None, journal: Journal) -> Call:
        document = self._settings.document()
        for text in texts(document):
            if text.startswith(("http://", "https://")):
                egress.check_url(text)
        for name in _HOST:
            if isinstance(document.get(name), str):
                egress.check_url(f"tcp://{document[name]}")
        self._refuse_interrupted()
        call = Call(
            self.config.installed,
            self._rules,
            verb,
            {"config": json.dumps(document).encode(), **files},
            seconds=seconds,
            said=journal.heard,
        )
        with self._lock:
            self._calls.add(call)
            if self._interrupted:
                call.process.stop()
        return call

    def _journal(self) -> Journal:
        return Journal(self._mask, self._rules.limits.log_lines)

    def _refuse_interrupted(self) -> None:
        if self._interrupted:
            raise TransientError(
                "airbyte.interrupted", "the read was interrupted", remedy="Start the run again."
            )

    def _control(self, config: Mapping[str, Any], journal: Journal) -> None:
        """The connector changed its own settings: the next call needs them, and the next run too."""
        known = self.config.installed.specification.get("properties") or {}
        changed = self._settings.change({k: v for k, v in config.items() if k in known})
        if not changed:
            return
        secret = {path.partition(".")[0] for path in type(self.config).secret_fields()}
        self._mask.add(text for name in changed.keys() & secret for text in texts(changed[name]))
        names = ", ".join(sorted(changed))
        if self.keep_settings is None:
            journal.write(
                "warning", f"the connector changed its settings ({names}), which can't be kept here"
            )
            return
        self.keep_settings(self._raw(changed))
        journal.write("info", f"the connector changed its settings ({names}): they are stored")

    def _raw(self, changed: Mapping[str, Any]) -> dict[str, Any]:
        """As settings are given here: what is one secret is text."""
        fields = type(self.config).model_fields
        return {
            name: json.dumps(value)
            if not isinstance(value, str)
            and Secret in (fields[name].annotation, *_args(fields[name].annotation))
            else value
            for name, value in changed.items()
        }


def _args(annotation: Any) -> tuple[Any, ...]:
    args: tuple[Any, ...] = getattr(annotation, "__args__", ())
    return args


def _found_columns(entry: Mapping[str, Any]) -> list[Column]:
    schema = entry.get("json_schema")
    return columns(schema if isinstance(schema, dict) else {})


def _stream(entry: Mapping[str, Any]) -> Stream:
    found = _found_columns(entry)
    names = {column.member: column.name for column in found}
    key = [path for path in entry.get("source_defined_primary_key") or () if path]
    plain = all(len(path) == 1 and path[0] in names for path in key)
    cursor = entry.get("default_cursor_field") or []
    if entry.get("source_defined_cursor") or cursor:
        cursors = tuple(names[member] for member in cursor[:1] if len(cursor) == 1 and member in names)
    else:
        cursors = tuple(names.values()) if _can(entry, "incremental") else ()
    return Stream(
        name=entry["name"],
        namespace=entry.get("namespace"),
        schema=arrow_schema(found),
        primary_key=tuple(names[path[0]] for path in key) if plain else (),
        cursors=cursors,
        kind="stream",
    )


def _can(entry: Mapping[str, Any], mode: str) -> bool:
    return mode in (entry.get("supported_sync_modes") or ["full_refresh"])


def _choice(entry: Mapping[str, Any], read: StreamRead) -> dict[str, Any]:
    """The stream as the connector is asked for it. Raises ConfigError for a read that it is not able to."""
    incremental = read.mode is not ReadMode.FULL
    cursor = entry.get("default_cursor_field") or []
    if incremental and not _can(entry, "incremental"):
        raise ConfigError(
            "airbyte.no_incremental",
            f"{read.stream.id} can only be read in full",
            field="read",
            remedy="Read it in mode full.",
        )
    if read.cursor:
        members = {column.name: column.member for column in _found_columns(entry)}
        wanted = [members.get(read.cursor, read.cursor)]
        if entry.get("source_defined_cursor") and wanted != cursor:
            raise ConfigError(
                "airbyte.cursor_is_fixed",
                f"{read.stream.id} has a cursor of its own, and takes no other",
                field="cursor",
                remedy="Leave the cursor out.",
            )
        cursor = wanted
    if incremental and not cursor and not entry.get("source_defined_cursor"):
        raise ConfigError(
            "airbyte.no_cursor",
            f"{read.stream.id} needs a cursor to be read incrementally",
            field="cursor",
            remedy="Name the column whose growth marks new rows.",
        )
    key = entry.get("source_defined_primary_key") or []
    append = "append_dedup" if key else "append"
    return {
        "stream": dict(entry),
        "sync_mode": "incremental" if incremental else "full_refresh",
        "destination_sync_mode": append if incremental else "overwrite",
        "cursor_field": cursor,
        "primary_key": key,
    }
