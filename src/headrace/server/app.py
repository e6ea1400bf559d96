"""All dialects as one application: a request goes to the one whose paths it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace.control.platform import Platform
from headrace.dialects import ingestion, obsrv, popsink
from headrace.dialects.door import Door
from headrace.server.health import PATHS as HEALTH


def app(platform: Platform, health: ASGIApp | None = None) -> ASGIApp:
    """The application over a platform, which stays the caller's to close; `health` answers operators."""
    door = Door(platform)
    apps: dict[str, ASGIApp] = {}
    for dialect in (ingestion, obsrv, popsink):
        made = dialect.app(door)
        apps |= dict.fromkeys(dialect.PATHS, made)
        apps[f"/api/openapi/{dialect.__name__.rpartition('.')[2]}.json"] = _Description(made)
    if health is not None:
        apps |= dict.fromkeys(HEALTH, health)
    return Paths(apps)


def alone(platform: Platform, dialect: Literal["ingestion", "obsrv"]) -> ASGIApp:
    """For the port where clients of that dialect look for it."""
    module = {"ingestion": ingestion, "obsrv": obsrv}[dialect]
    return Paths({"/": module.app(Door(platform))})


class _Description:
    """The OpenAPI document of a dialect, for anybody."""

    def __init__(self, app: FastAPI):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await JSONResponse(self._app.openapi())(scope, receive, send)


class Paths:
    """The longest path wins, by whole segments. A slash in the end changes nothing, and nobody is sent
    to another address for it."""

    def __init__(self, apps: Mapping[str, ASGIApp]):
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        path = scope["path"].rstrip("/") or "/"
        await self._of(path)({**scope, "path": path}, receive, send)

    def _of(self, path: str) -> ASGIApp:
        found = path
        while found:
            if found in self._apps:
                return self._apps[found]
            found = found.rpartition("/")[0]
        return self._apps.get("/", _nothing)


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 4404})
        return
    await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    """What opens and closes the platform is whoever serves it."""
    for done in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{done}.complete"})
