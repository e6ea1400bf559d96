"""A proxy that speaks TLS to libpq and plain to the server behind it, which was built without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import secrets
import ssl
import struct
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SSL_REQUEST = 80877103
_CANCEL_REQUEST = 80877102
_GSS_REQUEST = 80877104


class Authority:
    """Signs certificates; `pem` is its own."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(f"authority {secrets.token_hex(4)}")
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = _builder(self._name, self._name, self._key.public_key())
        self.pem = _text(builder.add_extension(constraints, True).sign(self._key, hashes.SHA256()))

    def issue(self, name: str, *hosts: str) -> tuple[str, str]:
        """Certificate and key, as PEM text."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(_named(name), self._name, key.public_key())
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName([_host(h) for h in hosts]), False)
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return _text(builder.sign(self._key, hashes.SHA256())), secret.decode()


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
    )


def _text(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


class TlsProxy:
    """Used by `with`; listens on 127.0.0.1:`port`, with a certificate for `hosts` signed by `authority`.

    Connections without TLS are turned away as a server does whose pg_hba.conf has `hostssl` lines only.
    With `client_certificates` a client must show a certificate of the same authority.
    """

    def __init__(
        self, port: int, *, hosts: tuple[str, ...] = ("localhost",), client_certificates: bool = False
    ):
        self._to = port
        self.authority = Authority()
        certificate, key = self.authority.issue("server", *hosts)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "chain.pem")
            path.write_text(certificate + key)
            self._context.load_cert_chain(path)
        if client_certificates:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(cadata=self.authority.pem)

    def __enter__(self) -> TlsProxy:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._tasks: set[asyncio.Task[None]] = set()
        listen = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listen, self._loop).result()
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
                await self._relay(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            start = await reader.readexactly(8)
            length, code = struct.unpack(">ii", start)
            if code == _SSL_REQUEST:
                writer.write(b"S")
                await writer.start_tls(self._context)
                break
            if code == _GSS_REQUEST:
                writer.write(b"N")
                continue
            await reader.readexactly(length - 8)
            if code != _CANCEL_REQUEST:
                writer.write(_no_encryption())
                await writer.drain()
            return
        back, forth = await asyncio.open_connection("127.0.0.1", self._to)
        try:
            await asyncio.wait(
                {asyncio.create_task(_pump(reader, forth)), asyncio.create_task(_pump(back, writer))},
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            forth.close()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            sink.write(data)
            await sink.drain()
        sink.close()


def _no_encryption() -> bytes:
    fields = {
        b"S": b"FATAL",
        b"V": b"FATAL",
        b"C": b"28000",
        b"M": b'no pg_hba.conf entry for host "127.0.0.1", user "x", database "x", no encryption',
    }
    body = b"".join(kind + text + b"\0" for kind, text in fields.items()) + b"\0"
    return b"E" + struct.pack(">i", len(body) + 4) + body
