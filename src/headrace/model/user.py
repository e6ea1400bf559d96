"""People, and what lets them in: users, cookie sessions and service-account tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A person with an account.

    `workspace` is the one they last chose to work in. `version` grows when all tokens given out before
    must die; `kept` is the one token that outlives the last such change. A password, and even its
    hash, is never here.
    """

    id: str
    email: str
    active: bool = True
    admin: bool = False
    verified: bool = False
    workspace: str | None = None
    version: int = 0
    kept: str | None = None
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A browser that is signed in by a cookie."""

    id: str
    user: str
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceToken:
    """A program that acts with the rights of a user; the token itself was shown once."""

    id: str
    user: str
    name: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None
