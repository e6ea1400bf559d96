"""A local port that leads to the database through an SSH server."""

from __future__ import annotations

import base64
import contextlib
import io
import socket
import threading
from types import TracebackType

import paramiko

from headrace.connector import egress
from headrace.connectors.postgres.config import Ssh
from headrace.errors import AuthError, ConfigError, TransientError

_RSA = ("rsa-sha2-512", "rsa-sha2-256", "ssh-rsa")
_KEYS = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)


class Tunnel:
    """Used by `with`; `port` on 127.0.0.1 takes connections until the end of the block."""

    def __init__(self, ssh: Ssh, host: str, port: int, timeout: float):
        self._ssh = ssh
        self._to = (host, port)
        self._timeout = timeout

    def __enter__(self) -> Tunnel:
        self._transport = self._log_in()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, name="ssh-tunnel", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
        self._listener.close()
        self._transport.close()

    def _log_in(self) -> paramiko.Transport:
        ssh = self._ssh
        kind, _, key = ssh.known_host.partition(" ")
        try:
            plain = _dial(ssh.host, ssh.port, self._timeout)
        except OSError as error:
            raise TransientError(
                "postgres.ssh.refused",
                f"the SSH server {ssh.host}:{ssh.port} can't be reached: {error}",
                field="ssh.host",
                remedy="Check ssh.host and ssh.port, and that the server runs.",
            ) from None
        transport = paramiko.Transport(plain)
        try:
            transport.get_security_options().key_types = _RSA if kind == "ssh-rsa" else (kind,)
            transport.start_client(timeout=self._timeout)
            if transport.get_remote_server_key().asbytes() != base64.b64decode(key):
                raise AuthError(
                    "postgres.ssh.host_key",
                    f"{ssh.host}:{ssh.port} shows another key than the one in ssh.known_host",
                    field="ssh.known_host",
                    remedy="Find out why; only if the server was set up anew, take over its key.",
                )
            if ssh.password is not None:
                transport.auth_password(ssh.username, ssh.password.get_secret_value())
            else:
                transport.auth_publickey(ssh.username, self._key())
        except paramiko.AuthenticationException:
            transport.close()
            raise AuthError(
                "postgres.ssh.auth",
                f"{ssh.host}:{ssh.port} refuses user {ssh.username!r}",
                field="ssh.username",
                remedy="Check ssh.username with ssh.password or ssh.private_key.",
            ) from None
        except (paramiko.SSHException, ValueError, EOFError, OSError) as error:
            transport.close()
            raise TransientError(
                "postgres.ssh.failed",
                f"no SSH session with {ssh.host}:{ssh.port}: {error}",
                field="ssh.known_host",
                remedy=f"Check that it is an SSH server with a key of type {kind}.",
            ) from None
        except BaseException:
            transport.close()
            raise
        transport.set_keepalive(30)
        return transport

    def _key(self) -> paramiko.PKey:
        assert self._ssh.private_key is not None
        for kind in _KEYS:
            with contextlib.suppress(paramiko.SSHException, ValueError):
                return kind.from_private_key(io.StringIO(self._ssh.private_key.get_secret_value()))
        raise ConfigError(
            "postgres.ssh.private_key",
            "ssh.private_key can't be read",
            field="ssh.private_key",
            remedy="Give an unencrypted Ed25519, ECDSA or RSA key.",
        )

    def _accept(self) -> None:
        while True:
            try:
                client, origin = self._listener.accept()
            except OSError:
                return  # closed
            try:
                channel = self._transport.open_channel(
                    "direct-tcpip", self._to, origin, timeout=self._timeout
                )
            except (paramiko.SSHException, EOFError, OSError):
                client.close()  # libpq reports a connection that was closed
                continue
            for source, sink in ((client, channel), (channel, client)):
                threading.Thread(target=_pump, args=(source, sink), name="ssh-pump", daemon=True).start()


def _pump(source: socket.socket | paramiko.Channel, sink: socket.socket | paramiko.Channel) -> None:
    """Carry bytes one way until an end is closed, then close both: neither has a use for half."""
    with contextlib.suppress(OSError, EOFError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError, EOFError):
            end.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError, EOFError):
            end.close()


def _dial(host: str, port: int, timeout: float) -> socket.socket:
    """A connection to one of the host's addresses, all of which may be dialled."""
    *others, last = egress.resolve(host)
    for address in others:
        with contextlib.suppress(OSError):
            return socket.create_connection((str(address), port), timeout)
    return socket.create_connection((str(last), port), timeout)
