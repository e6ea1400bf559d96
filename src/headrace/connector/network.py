"""Settings that connectors share for the way to a server: certificates, and an SSH host in between."""

from __future__ import annotations

import base64
import binascii
import itertools
from typing import Self

from pydantic import field_validator, model_validator

from headrace.connector.config import Config, Secret, setting


def _pem(text: str, what: str) -> str:
    if not text.lstrip().startswith(f"-----BEGIN {what}") and "PRIVATE KEY-----" not in text:
        raise ValueError("is not PEM text; give the text itself, never the path of a file")
    return text if text.endswith("\n") else text + "\n"


def one_host(value: str) -> str:
    """The value, if it is one name or address. Raises ValueError."""
    if not value or any(c in value for c in "/@,\0") or value.split() != [value]:
        raise ValueError("must be one host name or address; folders of sockets and lists are not taken")
    return value


class Tls(Config):
    """Certificates and keys as PEM text, never as paths."""

    ca: str | None = setting("The certificates of the authorities to trust, as PEM text.", default=None)
    cert: str | None = setting("The client's certificate, as PEM text.", default=None)
    key: Secret | None = setting("The key of the client's certificate, as PEM text.", default=None)

    @field_validator("ca", "cert")
    @classmethod
    def _certificate(cls, value: str | None) -> str | None:
        return value if value is None else _pem(value, "CERTIFICATE")

    @field_validator("key")
    @classmethod
    def _key(cls, value: Secret | None) -> Secret | None:
        return value if value is None else Secret(_pem(value.get_secret_value(), "PRIVATE KEY"))

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("cert and key go together")
        return self


class Ssh(Config):
    """A host that forwards connections to the server."""

    host: str = setting("The SSH server to go through.")
    port: int = setting("The port of the SSH server.", default=22, ge=1, le=65535)
    username: str = setting("The user on the SSH server.")
    password: Secret | None = setting("The password of that user.", default=None)
    private_key: Secret | None = setting(
        "The private key of that user, as OpenSSH or PEM text.", default=None
    )
    known_host: str = setting(
        "The public key of the SSH server, as `ssh-keyscan` prints it: type and key.",
        examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA…"],
    )

    @field_validator("host")
    @classmethod
    def _one_host(cls, value: str) -> str:
        return one_host(value)

    @field_validator("private_key")
    @classmethod
    def _key_text(cls, value: Secret | None) -> Secret | None:
        return value if value is None else Secret(_pem(value.get_secret_value(), "OPENSSH PRIVATE KEY"))

    @field_validator("known_host")
    @classmethod
    def _host_key(cls, value: str) -> str:
        words = value.split()
        for kind, key in itertools.pairwise(words):
            if kind.startswith(("ssh-", "ecdsa-")):
                try:
                    base64.b64decode(key, validate=True)
                except binascii.Error:
                    break
                return f"{kind} {key}"
        raise ValueError("is not the public key of a host")

    @model_validator(mode="after")
    def _one_credential(self) -> Self:
        if (self.password is None) == (self.private_key is None):
            raise ValueError("needs either password or private_key")
        return self
