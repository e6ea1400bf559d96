"""Secrets under seal: each has a data key of its own, which a master key wraps."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from headrace.errors import ConfigError
from headrace.model.workspace import LOCAL

VARIABLE = "HEADRACE_MASTER_KEY"
KEY_FILE = "master.key"
_UNNAMED = "default"  # what the local workspace was called before workspaces had ids

_NONCE = 12
_MAKE_ONE = "Make a key with: head -c 32 /dev/urandom | base64."


@dataclass(frozen=True, slots=True)
class Place:
    """Where a secret belongs; sealed text opens in its own place only."""

    workspace: str
    connection: str
    field: str

    def bind(self, purpose: str) -> bytes:
        workspace = _UNNAMED if self.workspace == LOCAL else self.workspace
        return json.dumps([purpose, workspace, self.connection, self.field]).encode()


@dataclass(frozen=True, slots=True)
class Sealed:
    """AES-256-GCM, nonce first: `wrapped` is the data key, `sealed` the secret."""

    key_id: str
    wrapped: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


class MasterKeys:
    """The first key seals and opens, the others only open."""

    def __init__(self, keys: Sequence[bytes]):
        self._keys = {_key_id(key): key for key in keys}
        self.current = _key_id(keys[0])

    def __repr__(self) -> str:
        return f"MasterKeys({', '.join(self._keys)})"

    @classmethod
    def load(cls, folder: Path, environment: Mapping[str, str]) -> MasterKeys:
        """From HEADRACE_MASTER_KEY (base64, several apart by commas), else from the folder's key file.

        The file is made when there is none. Raises ConfigError for a key that is short, malformed or
        plainly no random one, and for a file that others may read.
        """
        return cls(load_keys(folder / KEY_FILE, VARIABLE, environment))

    def seal(self, text: str, place: Place) -> Sealed:
        data_key = AESGCM.generate_key(bit_length=256)
        sealed = _encrypt(data_key, text.encode(), place.bind("secret"))
        return Sealed(self.current, self._wrap(data_key, place), sealed)

    def open(self, sealed: Sealed, place: Place) -> str:
        """The secret. Raises ConfigError when the key is not here or the text was not sealed for `place`."""
        return _decrypt(self._unwrap(sealed, place), sealed.sealed, place, "secret").decode()

    def rewrap(self, sealed: Sealed, place: Place) -> Sealed:
        """The same secret, its data key wrapped by the current master key."""
        return Sealed(self.current, self._wrap(self._unwrap(sealed, place), place), sealed.sealed)

    def _wrap(self, data_key: bytes, place: Place) -> bytes:
        return _encrypt(self._keys[self.current], data_key, place.bind("data key"))

    def _unwrap(self, sealed: Sealed, place: Place) -> bytes:
        if sealed.key_id not in self._keys:
            raise ConfigError(
                "store.key_missing",
                f"the secret {place.field} of connection {place.connection} was sealed with master key "
                f"{sealed.key_id}, which is not here",
                field=place.field,
                remedy=f"Give that key too, after the current one, or save the secret again ({VARIABLE}).",
            )
        return _decrypt(self._keys[sealed.key_id], sealed.wrapped, place, "data key")


def load_keys(path: Path, variable: str, environment: Mapping[str, str]) -> list[bytes]:
    """The keys of 32 bytes in the variable, else in the file, which is made when there is none."""
    if text := environment.get(variable):
        return [_decode(part, variable) for part in text.split(",")]
    try:
        if not path.exists():
            _make(path)
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise ConfigError(
                "store.key_file_open",
                f"the key file {path} can be read by others",
                remedy=f"Close it: chmod 600 {path}",
            )
        lines = path.read_text(encoding="ascii", errors="replace").split()
    except OSError as error:
        raise ConfigError(
            "store.key_file",
            f"the key file {path} can't be read or made: {error.strerror}",
            remedy=f"Make the folder writable, or give the key in {variable}.",
        ) from None
    return [_decode(line, str(path)) for line in lines or [""]]


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"headrace master key" + key).hexdigest()[:16]


def _encrypt(key: bytes, plain: bytes, bound: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, plain, bound)


def _decrypt(key: bytes, sealed: bytes, place: Place, purpose: str) -> bytes:
    try:
        return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], place.bind(purpose))
    except (InvalidTag, ValueError):
        raise ConfigError(
            "store.seal_broken",
            f"the secret {place.field} of connection {place.connection} does not open: its sealed text was "
            "changed, or belongs to another setting",
            field=place.field,
            remedy="Save the secret again.",
        ) from None


def _decode(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        raise ConfigError(
            "store.key_malformed", "a key is not base64", field=where, remedy=_MAKE_ONE
        ) from None
    if len(key) != 32:
        raise ConfigError(
            "store.key_length",
            f"a key has {len(key)} bytes and needs 32",
            field=where,
            remedy=_MAKE_ONE,
        )
    if len(set(key)) < 12:  # 32 random bytes have fewer different ones less than once in 10^15
        raise ConfigError("store.key_weak", "a key is not random", field=where, remedy=_MAKE_ONE)
    return key


def _make(path: Path) -> None:
    """Of two processes that start at once one makes the file, whole, and both read it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with NamedTemporaryFile(dir=path.parent, prefix=".key-") as draft:  # O_EXCL, mode 0600
        draft.write(base64.b64encode(secrets.token_bytes(32)) + b"\n")
        draft.flush()
        os.fsync(draft.fileno())
        try:
            os.link(draft.name, path)
        except FileExistsError:
            return
