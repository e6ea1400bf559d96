"""A throw-away Iceberg REST catalogue over a SQL catalogue: as much of the protocol as pyiceberg speaks."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote

from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import CommitTableRequest, Table

_STATUS = {
    NoSuchTableError: (404, "NoSuchTableException"),
    NoSuchNamespaceError: (404, "NoSuchNamespaceException"),
    TableAlreadyExistsError: (409, "AlreadyExistsException"),
    NamespaceAlreadyExistsError: (409, "AlreadyExistsException"),
    CommitFailedException: (409, "CommitFailedException"),
}


class IcebergRest:
    """Started by `with`; wants the bearer token `token`. `after_commit`, if set, is called once with the
    answer to a commit that was made and may put another status in its place.
    """

    token = "headrace-test"

    def __init__(self, catalog: SqlCatalog):
        self.catalog = catalog
        self.after_commit: Callable[[], int] | None = None

    def __enter__(self) -> IcebergRest:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.catalog.close()

    def answer(self, method: str, parts: list[str], body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body of one request; `parts` is the path after /v1."""
        match method, parts:
            case "GET", ["config"]:
                return 200, {"defaults": {}, "overrides": {}}
            case "GET", ["namespaces"]:
                return 200, {"namespaces": [list(n) for n in self.catalog.list_namespaces()]}
            case "POST", ["namespaces"]:
                self.catalog.create_namespace(tuple(body["namespace"]))
                return 200, {"namespace": body["namespace"], "properties": {}}
            case (("GET" | "HEAD"), ["namespaces", namespace]):
                found = self.catalog.load_namespace_properties(_parts(namespace))
                return 200, {"namespace": list(_parts(namespace)), "properties": found}
            case "POST", ["namespaces", namespace, "tables"]:
                return 200, _table(self._create(_parts(namespace), body))
            case "GET", ["namespaces", namespace, "tables", name]:
                return 200, _table(self.catalog.load_table((*_parts(namespace), name)))
            case "POST", ["namespaces", namespace, "tables", name]:
                return self._commit((*_parts(namespace), name), body)
        return 404, {"error": {"message": f"{method} {parts}", "type": "NotFound", "code": 404}}

    def _create(self, namespace: tuple[str, ...], body: dict[str, Any]) -> Table:
        spec = body.get("partition-spec")
        return self.catalog.create_table(
            (*namespace, body["name"]),
            Schema.model_validate(body["schema"]),
            partition_spec=PartitionSpec.model_validate(spec) if spec else UNPARTITIONED_PARTITION_SPEC,
            properties=body.get("properties") or {},
        )

    def _commit(self, name: tuple[str, ...], body: dict[str, Any]) -> tuple[int, Any]:
        body["identifier"] = {"namespace": list(name[:-1]), "name": name[-1]}
        request = CommitTableRequest.model_validate(body)
        done = self.catalog.commit_table(self.catalog.load_table(name), request.requirements, request.updates)
        after, self.after_commit = self.after_commit, None
        if after:
            return after(), {"error": {"message": "lost", "type": "Lost", "code": 500}}
        return 200, json.loads(done.model_dump_json(by_alias=True))


def _parts(namespace: str) -> tuple[str, ...]:
    return tuple(namespace.split("\x1f"))


def _table(table: Table) -> dict[str, Any]:
    return {
        "metadata-location": table.metadata_location,
        "metadata": json.loads(table.metadata.model_dump_json(by_alias=True)),
        "config": {},
    }


def _handler(rest: IcebergRest) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            parts = [unquote(part) for part in self.path.partition("?")[0].split("/")[2:]]
            status, answer = self._answer(parts, body)
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(b"" if self.command == "HEAD" else data)

        def do_POST(self) -> None:
            self.do_GET()

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, parts: list[str], body: dict[str, Any]) -> tuple[int, Any]:
            if self.headers.get("Authorization") != f"Bearer {rest.token}":
                return 401, {"error": {"message": "who are you?", "type": "NotAuthorized", "code": 401}}
            try:
                return rest.answer(self.command, parts, body)
            except tuple(_STATUS) as error:
                status, kind = _STATUS[type(error)]
                return status, {"error": {"message": str(error), "type": kind, "code": status}}

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

    return Handler
