"""Passwords: argon2id, the same time for known and unknown users, and hashes that keep up with the times."""

from __future__ import annotations

import threading
from functools import cache

from pwdlib import PasswordHash
from pwdlib.exceptions import UnknownHashError
from pwdlib.hashers.argon2 import Argon2Hasher

from headrace.errors import ConfigError

LONGEST = 1024

_AT_ONCE = threading.BoundedSemaphore(4)  # each takes 64 MiB


@cache
def _argon2() -> PasswordHash:
    return PasswordHash((Argon2Hasher(),))


@cache
def _nobody() -> str:
    return hash("nobody has this password")


def hash(password: str) -> str:
    with _AT_ONCE:
        return _argon2().hash(password)


def matches(password: str, known: str | None) -> tuple[bool, str | None]:
    """Is it the password, and its new hash where the old one was made with other parameters.

    Costs the same when there is no hash to compare with.
    """
    with_hash = known if known is not None else _nobody()
    with _AT_ONCE:
        try:
            right, better = _argon2().verify_and_update(password[:LONGEST], with_hash)
        except UnknownHashError:
            right, better = False, None
    return (right, better) if known is not None else (False, None)


def refuse_weak(password: str, email: str, minimum: int) -> None:
    """Raise ConfigError (`password.weak`) with the reason as its message."""
    reason = None
    if len(password) < minimum:
        reason = f"Password should be at least {minimum} characters"
    elif len(password) > LONGEST:
        reason = f"Password should be at most {LONGEST} characters"
    elif minimum and password.casefold() == email.casefold():
        reason = "Password should not be the e-mail address"
    if reason:
        raise ConfigError("password.weak", reason, field="password", remedy="Choose another password.")
