"""A server that listens on a port of its own, and somebody who has signed in there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import ASGIApp

from headrace.control.platform import Platform
from headrace.server.app import app
from tests.waiting import HANGS, until

WORD = "canary-pass-4d1e"


@contextmanager
def serving(application: ASGIApp) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    config = uvicorn.Config(application, port=0, log_config=None, ws="wsproto", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the server listens")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(HANGS)


@dataclass
class Caller:
    """Somebody who has signed in, in a workspace of their own. Calls as `http`."""

    http: httpx.Client
    platform: Platform
    workspace: str
    email: str

    def __call__(self, method: str, path: str, body: Any = None, **more: Any) -> httpx.Response:
        given = {"json": body} if body is not None else {}
        return self.http.request(method, path, **given, **more)


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    """Of a data folder, as a fresh install has it; registration is open."""
    platform = Platform.open(tmp_path / "data", {})
    yield platform
    platform.close()


@pytest.fixture
def address(platform: Platform) -> Iterator[str]:
    with serving(app(platform)) as address:
        yield address


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., tuple[Platform, httpx.Client]]]:
    """A server under other settings, which are named without HEADRACE_."""
    with ExitStack() as undo:

        def start(loopback: bool = True, **settings: str) -> tuple[Platform, httpx.Client]:
            environ = {f"HEADRACE_{name.upper()}": value for name, value in settings.items()}
            platform = Platform.open(tmp_path / "data", environ, loopback=loopback)
            undo.callback(platform.close)
            address = undo.enter_context(serving(app(platform)))
            return platform, undo.enter_context(httpx.Client(base_url=address, timeout=HANGS))

        yield start


@pytest.fixture
def nobody(address: str) -> Iterator[httpx.Client]:
    """Calls without a token."""
    with httpx.Client(base_url=address, timeout=HANGS) as http:
        yield http


@pytest.fixture
def enter(platform: Platform, address: str) -> Iterator[Callable[..., Caller]]:
    """Makes a user with a workspace of their own and signs them in."""
    opened: list[httpx.Client] = []

    def caller(email: str = "ann@here.local") -> Caller:
        platform.sessions.register(email, WORD)
        token = platform.sessions.login(email, WORD).token
        workspace = platform.workspaces.own(platform.sessions.authenticate(token)).place
        headers = {"Authorization": f"Bearer {token}", "X-Tenant-Id": workspace}
        http = httpx.Client(base_url=address, headers=headers, timeout=HANGS)
        opened.append(http)
        return Caller(http, platform, workspace, email)

    yield caller
    for each in opened:
        each.close()


@pytest.fixture
def ann(enter: Callable[..., Caller]) -> Caller:
    return enter()
