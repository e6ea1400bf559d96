"""Three paths for operators: is the process there, is it ready, what are its numbers."""

from __future__ import annotations

import asyncio
import hmac
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.errors import HeadraceError
from headrace.server.metrics import CONTENT_TYPE, Metrics
from headrace.store import Store

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PATHS = frozenset({"/health", "/ready", "/metrics"})

_PATIENCE = 5.0  # seconds that the store may take to answer
_SILENT = 60.0  # seconds after which a worker that has not looked at its runs is taken for stuck


@dataclass(frozen=True, kw_only=True)
class Vitals:
    """What readiness is read from. `heartbeat` gives the seconds since the worker last looked at its runs;
    None where there is no worker. Metrics are for who has the `token`; where there is none, for all if
    `open` and else for nobody."""

    store: Store
    folder: Path
    disk_reserve: int
    heartbeat: Callable[[], float] | None
    metrics: Metrics
    open: bool
    token: str | None


class Health:
    """An ASGI application for `PATHS`; to everything else it answers 404."""

    def __init__(self, vitals: Vitals):
        self._vitals = vitals
        self._thread = ThreadPoolExecutor(1, "health")  # one at a time: a store that hangs must not pile up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answers = {"/health": self._health, "/ready": self._ready, "/metrics": self._metrics}
        answer = answers.get(scope["path"])
        if answer is None:
            status, kind, body = 404, "application/json", b'{"detail":"Not Found"}'
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, "application/json", b'{"detail":"Method Not Allowed"}'
        else:
            status, kind, body = await answer(scope)
        headers = [
            (b"content-type", kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if status == 405:
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _health(self, _scope: Scope) -> tuple[int, str, bytes]:
        return 200, "application/json", b'{"status":"ok"}'

    async def _ready(self, _scope: Scope) -> tuple[int, str, bytes]:
        try:
            checks = await self._aside(lambda: dict(self._checks()))
        except TimeoutError:
            checks = {"store": False}
        ready = all(checks.values())
        shown = {name: "ok" if good else "failed" for name, good in checks.items()}
        body = json.dumps({"status": "ready" if ready else "not ready", "checks": shown})
        return 200 if ready else 503, "application/json", body.encode()

    def _checks(self) -> Iterator[tuple[str, bool]]:
        vitals = self._vitals
        try:
            vitals.store.measures.answer()
            yield "store", True
        except HeadraceError:
            yield "store", False
        if vitals.heartbeat:
            yield "worker", vitals.heartbeat() < _SILENT
        yield "disk", shutil.disk_usage(vitals.folder).free >= vitals.disk_reserve

    async def _metrics(self, scope: Scope) -> tuple[int, str, bytes]:
        given = dict(scope["headers"]).get(b"authorization", b"")
        token = self._vitals.token
        if token is None and not self._vitals.open:
            return 403, "application/json", b'{"detail":"Set HEADRACE_METRICS_TOKEN"}'
        if token is not None and not hmac.compare_digest(given, f"Bearer {token}".encode()):
            return 401, "application/json", b'{"detail":"Unauthorized"}'
        try:
            return 200, CONTENT_TYPE, await self._aside(self._vitals.metrics.text)
        except (HeadraceError, TimeoutError):
            return 503, "text/plain; charset=utf-8", b"the store is away\n"

    async def _aside(self, call: Callable[[], Any]) -> Any:
        loop = asyncio.get_running_loop()
        return await asyncio.wait_for(loop.run_in_executor(self._thread, call), _PATIENCE)
