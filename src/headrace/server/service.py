"""Starts what a server or a worker is made of, and stops it so that no run is lost."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from headrace.control.access import OPERATOR
from headrace.control.clock import Clock
from headrace.control.importers import Importers
from headrace.control.platform import Platform, open_store
from headrace.control.settings import Settings
from headrace.control.token import SigningKeys
from headrace.control.worker import Place, Worker
from headrace.errors import ConfigError
from headrace.server import logs
from headrace.server.app import alone, app
from headrace.server.health import Health, Vitals
from headrace.server.metrics import Metrics
from headrace.store import Store

_PASSWORD_MINIMUM = 8  # characters, where others than this machine may try
_LOOK = 0.1  # seconds between two looks for signals


class Service:
    """One process, on a data folder and under the settings of an environment."""

    def __init__(self, folder: Path, environ: Mapping[str, str]):
        """Raises ConfigError for settings that make no sense."""
        self._folder, self._environ = folder.absolute(), environ
        self._settings = Settings.read(environ)

    def serve(self, host: str, port: int, *, worker: bool) -> int:
        """Listen until a signal comes; gives the exit code.

        Raises ConfigError where it would be dangerous to listen on `host` (`serve.unsafe`), or for an
        address that can't be had (`serve.address`).
        """
        loopback = is_loopback(host)
        self._refuse_unsafe(loopback)
        logs.configure(self._settings.log_format)
        signals = _heard()
        with closing(_listen(host, port)) as listener, closing(self._open()) as store:
            platform = Platform(store, self._folder, self._environ, loopback=loopback)
            platform.restrict()
            platform.users.bootstrap(OPERATOR)
            limit = self._settings.worker_runs if worker else 0
            runs = self._worker(store, limit)
            health = self._health(store, runs, worker=worker, loopback=loopback)
            clock = Clock(store, logs.tell)
            web = _Web(app(platform, health), listener)
            with (
                closing(health),
                closing(platform),
                _beside(clock.run, clock.stop),
                self._importing(store, platform, worker=worker),
                _beside(web.run, web.stop),
                ExitStack() as more,
            ):
                self._serve_alone(host, platform, more)
                logs.tell("info", "ready", address=f"http://{shown(listener)}", runs=limit)
                self._until_told(runs, web.stop, signals)
        return 0

    def _serve_alone(self, host: str, platform: Platform, undo: ExitStack) -> None:
        """Dialects on ports of their own too, where the settings name one."""
        ports: dict[Literal["ingestion", "obsrv"], int | None] = {
            "ingestion": self._settings.ingestion_port,
            "obsrv": self._settings.obsrv_port,
        }
        for dialect, port in ports.items():
            if port is not None:
                listener = undo.enter_context(closing(_listen(host, port)))
                web = _Web(alone(platform, dialect), listener)
                undo.enter_context(_beside(web.run, web.stop))
                logs.tell("info", f"the API {dialect} alone", address=f"http://{shown(listener)}")

    def work(self) -> int:
        """Work off runs until a signal comes; gives the exit code.

        Whether runs may dial this machine follows from where the server listens, as HEADRACE_HOST says it;
        without that they may not.
        """
        logs.configure(self._settings.log_format)
        signals = _heard()
        host = self._environ.get("HEADRACE_HOST")
        loopback = host is not None and is_loopback(host)
        with closing(self._open()) as store:
            platform = Platform(store, self._folder, self._environ, loopback=loopback)
            platform.restrict()
            with closing(platform), self._importing(store, platform, worker=True):
                logs.tell("info", "ready", runs=self._settings.worker_runs)
                self._until_told(self._worker(store, self._settings.worker_runs), lambda: None, signals)
        return 0

    def _open(self) -> Store:
        store = open_store(self._folder, self._environ)
        SigningKeys.load(self._folder, self._environ)  # a bad key is told now, not at the first sign-in
        return store

    def _worker(self, store: Store, limit: int) -> Worker:
        place = Place(folder=self._folder, environ=self._environ)
        return Worker(store, place, limit, self._settings.lease, logs.tell)

    def _importing(self, store: Store, platform: Platform, *, worker: bool) -> AbstractContextManager[None]:
        if not worker:
            return nullcontext()
        place = Place(folder=self._folder, environ=self._environ)
        importers = Importers(store, place, platform.sweep.run, logs.tell)
        return _beside(importers.run, importers.stop)

    def _health(self, store: Store, runs: Worker, *, worker: bool, loopback: bool) -> Health:
        token = self._settings.metrics_token
        return Health(
            Vitals(
                store=store,
                folder=self._folder,
                disk_reserve=self._settings.disk_reserve_mb << 20,
                heartbeat=(lambda: runs.heartbeat) if worker else None,
                metrics=Metrics(store, lambda: runs.running),
                open=loopback,
                token=token.get_secret_value() if token else None,
            )
        )

    def _refuse_unsafe(self, loopback: bool) -> None:
        if loopback or self._settings.password_minimum >= _PASSWORD_MINIMUM:
            return
        raise ConfigError(
            "serve.unsafe",
            f"passwords of {self._settings.password_minimum} characters are too short where others than this "
            "machine may try them",
            field="HEADRACE_PASSWORD_MINIMUM",
            remedy=f"Make it {_PASSWORD_MINIMUM} or more, or listen on 127.0.0.1.",
        )

    def _until_told(self, runs: Worker, close: Callable[[], None], signals: Sequence[int]) -> None:
        """Let the worker work in a thread, so that signals find this one free."""
        thread = threading.Thread(target=runs.run, name="runs")
        thread.start()
        heard = 0
        while thread.is_alive():
            thread.join(_LOOK)
            if len(signals) == heard:
                continue
            heard += 1
            if heard == 1:
                logs.tell("info", "stopping: runs end at their next checkpoint")
                close()
                runs.drain()
            elif heard == 2:
                logs.tell("warning", "stopping at once")
                runs.abort()
            else:
                os._exit(1)


class _Web:
    """Serves an application in a thread of its own."""

    def __init__(self, application: Any, listener: socket.socket):
        import uvicorn

        config = uvicorn.Config(
            application,
            ws="wsproto",  # the only one that lets a browser send its token as a subprotocol
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=10,
        )
        self._server = uvicorn.Server(config)
        self._listener = listener

    def run(self) -> None:
        try:
            self._server.run([self._listener])
        finally:
            if not self._server.should_exit:  # a server that nobody can call must not go on
                os.kill(os.getpid(), signal.SIGTERM)

    def stop(self) -> None:
        self._server.should_exit = True


def _heard() -> Sequence[int]:
    """The signals that tell to stop, as they come; from before we say that we are ready."""
    signals: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: signals.append(number))
    return signals


@contextmanager
def _beside(run: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join()


def is_loopback(host: str) -> bool:
    """Can only this machine call who listens there?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigError(
            "serve.address",
            f"nothing can listen on {host} port {port}: {error.strerror}",
            field="--port",
            remedy="Choose another address or port, or end what listens there.",
        ) from None


def shown(listener: socket.socket) -> str:
    """The address, as it stands in a URL."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
