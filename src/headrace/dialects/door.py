"""Where requests come in, whatever the dialect: who calls, and the way from async code to the platform."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from headrace.control.access import Actor
from headrace.control.platform import Platform
from headrace.errors import HeadraceError, SignInNeeded

OPEN_LIMIT = 64 << 10
"""Bytes that who has not signed in may send."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Door:
    """What the app of a dialect is made with. Handlers are plain functions, which run in threads of
    their own and may call the platform; async code goes through `ask`."""

    platform: Platform

    async def ask(self, operation: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call an operation of the platform without holding up other requests."""
        return await run_in_threadpool(operation, *args, **kwargs)

    def bearer(self, connection: HTTPConnection) -> Actor:
        """Who the bearer token of a request belongs to. Raises SignInNeeded."""
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise SignInNeeded("access.sign_in", "nobody is signed in", remedy="Send a bearer token.")
        return self.platform.sessions.authenticate(token.strip())


def client(connection: HTTPConnection) -> str | None:
    """The address that a request comes from, for limits."""
    return connection.client.host if connection.client else None


def _larger_than(connection: HTTPConnection, most: int) -> bool:
    """Is the body larger, or of a size that nobody tells?"""
    length = connection.headers.get("content-length", "0")
    chunked = "transfer-encoding" in connection.headers
    return chunked or not length.isdigit() or int(length) > most


class SignedIn:
    """Lets in nobody without a good token, before so much as a route is looked for.

    The actor is at `request.state.actor`. `refuse` makes the answer for who stays outside; `open_to_all`
    names the requests (method and path) that anybody may make.
    """

    def __init__(
        self,
        app: ASGIApp,
        door: Door,
        refuse: Callable[[HTTPConnection, HeadraceError], ASGIApp],
        open_to_all: Callable[[str, str], bool] = lambda method, path: False,
    ):
        self._app, self._door, self._refuse, self._open = app, door, refuse, open_to_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        if self._open(scope["method"], scope["path"]):
            large = _larger_than(connection, OPEN_LIMIT)
            await (PlainTextResponse("", 413) if large else self._app)(scope, receive, send)
            return
        try:
            actor = await self._door.ask(self._door.bearer, connection)
        except HeadraceError as error:
            await self._refuse(connection, error)(scope, receive, send)
            return
        scope.setdefault("state", {})["actor"] = actor
        await self._app(scope, receive, send)
