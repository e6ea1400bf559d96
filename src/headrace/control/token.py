"""Bearer tokens: made, read and checked with one algorithm and this installation's own key."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import jwt

from headrace.errors import SignInNeeded
from headrace.store.secrets import load_keys

VARIABLE = "HEADRACE_SIGNING_KEY"
KEY_FILE = "signing.key"
AUDIENCE = "fastapi-users:auth"  # what the clients of one dialect look for
_ALGORITHM = "HS256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """`id` is the token's own, `version` that of the user it was made for, `service` a program's."""

    user: str
    id: str
    version: int
    expires_at: datetime
    service: bool = False


class SigningKeys:
    """The first key signs, the others are still believed."""

    def __init__(self, keys: Sequence[bytes]):
        self._keys = keys

    def __repr__(self) -> str:
        return "SigningKeys()"

    @classmethod
    def load(cls, folder: Path, environ: Mapping[str, str]) -> Self:
        """From HEADRACE_SIGNING_KEY (base64, several apart by commas), else from a file that is made."""
        return cls(load_keys(folder / KEY_FILE, VARIABLE, environ))

    def sign(self, claims: Claims) -> str:
        body = {
            "sub": claims.user,
            "aud": [AUDIENCE],
            "exp": claims.expires_at,
            "iat": datetime.now(UTC),
            "jti": claims.id,
            "ver": claims.version,
            "token_type": "service" if claims.service else "user",
        }
        return jwt.encode(body, self._keys[0], algorithm=_ALGORITHM)

    def read(self, token: str) -> Claims:
        """What a token says, once its signature, end and audience hold. Raises SignInNeeded."""
        body = next((b for key in self._keys if (b := _decode(token, key)) is not None), None)
        if body is None:
            raise not_good()
        return Claims(
            user=str(body["sub"]),
            id=str(body["jti"]),
            version=int(body["ver"]),
            expires_at=datetime.fromtimestamp(body["exp"], UTC),
            service=body["token_type"] == "service",
        )


def _decode(token: str, key: bytes) -> dict[str, Any] | None:
    required = ["sub", "aud", "exp", "iat", "jti", "ver", "token_type"]
    try:
        return jwt.decode(
            token, key, algorithms=[_ALGORITHM], audience=AUDIENCE, options={"require": required}
        )
    except (jwt.PyJWTError, ValueError):
        return None


def not_good() -> SignInNeeded:
    """One answer, whatever is wrong with a token."""
    return SignInNeeded("access.token", "the token is malformed, too old or revoked", remedy="Sign in again.")


def new_id() -> str:
    return str(uuid4())


def random_text() -> str:
    """A token that says nothing; only its hash is kept."""
    return secrets.token_urlsafe(32)


def hash(text: str) -> str:
    """How a random token is kept: it has entropy enough to need no salt."""
    return hashlib.sha256(text.encode()).hexdigest()
