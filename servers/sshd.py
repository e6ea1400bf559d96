"""An SSH server for tests that does one thing: forward connections."""

from __future__ import annotations

import base64
import contextlib
import io
import queue
import socket
import threading
from types import TracebackType

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from paramiko.common import AUTH_FAILED, AUTH_SUCCESSFUL, OPEN_SUCCEEDED


def new_key() -> tuple[str, paramiko.PKey]:
    """A private key as OpenSSH text, and as paramiko knows it."""
    text = (
        ed25519.Ed25519PrivateKey.generate()
        .private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        .decode()
    )
    return text, paramiko.Ed25519Key.from_private_key(io.StringIO(text))


class SshServer:
    """Used by `with`; user `tunnel` gets in with `password` or with `client_key`, on 127.0.0.1:`port`.

    `known_host` is the line that a client pins; `forwarded` counts the connections that went through.
    """

    user = "tunnel"
    password = "ssh-secret"

    def __enter__(self) -> SshServer:
        self.client_key, self.allowed = new_key()
        _, self._host_key = new_key()
        key = base64.b64encode(self._host_key.asbytes()).decode()
        self.known_host = f"127.0.0.1 {self._host_key.get_name()} {key}"
        self.forwarded = 0
        self._transports: list[paramiko.Transport] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.drop()

    def drop(self) -> None:
        """Cut every connection; new ones are still taken."""
        for transport in self._transports:
            transport.close()
        self._transports.clear()

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(plain)
            transport.add_server_key(self._host_key)
            self._transports.append(transport)
            door = _Door(self)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(server=door)
                threading.Thread(target=self._forward, args=(transport, door), daemon=True).start()

    def _forward(self, transport: paramiko.Transport, door: _Door) -> None:
        while transport.is_active():
            channel = transport.accept(timeout=1)
            if channel is None:
                continue
            try:
                out = socket.create_connection(door.wanted.get(timeout=5))
            except OSError:
                channel.close()
                continue
            self.forwarded += 1
            for ends in ((channel, out), (out, channel)):
                threading.Thread(target=_pump, args=ends, daemon=True).start()


class _Door(paramiko.ServerInterface):
    def __init__(self, server: SshServer):
        self._server = server
        self.wanted: queue.Queue[tuple[str, int]] = queue.Queue()

    def get_allowed_auths(self, username: str) -> str:
        return "password,publickey"

    def check_auth_password(self, username: str, password: str) -> int:
        return self._verdict(username == self._server.user and password == self._server.password)

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return self._verdict(username == self._server.user and key == self._server.allowed)

    def _verdict(self, welcome: bool) -> int:
        return AUTH_SUCCESSFUL if welcome else AUTH_FAILED

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        self.wanted.put(destination)
        return OPEN_SUCCEEDED


def _pump(source: socket.socket | paramiko.Channel, sink: socket.socket | paramiko.Channel) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError, EOFError):
            end.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError, EOFError):
            end.close()
