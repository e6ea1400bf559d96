"""Keeps secrets out of what is shown: as they are, and as they look in URLs, JSON and base64."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

_SHORTEST = 4  # characters; anything shorter would blot out innocent words
_MASK = "****"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Mask:
    """Knows secrets and hides them; more may be added as they become known."""

    def __init__(self, secrets: Iterable[str] = ()):
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        for secret in secrets:
            for part in (secret, *secret.split()) if len(secret) > 80 else (secret,):
                if len(part) >= _SHORTEST:
                    self._known.update(_looks(part))
        longest_first = sorted(self._known, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text on one line, without secrets and without control characters."""
        hidden = self._pattern.sub(_MASK, text) if self._pattern else text
        return _CONTROL.sub(lambda match: repr(match[0])[1:-1], hidden)


def _looks(secret: str) -> Iterator[str]:
    yield secret
    yield quote(secret, safe="")
    yield quote(secret)
    yield quote_plus(secret)
    yield json.dumps(secret)[1:-1]
    data = secret.encode()
    if len(data) < 6:  # in base64 too little would be left of it to be told apart
        return
    for before in range(3):  # what stands before it in the encoded text shifts the letters
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"\0" * before + data).decode().rstrip("=")
            first = -(-before * 4 // 3)
            last = (before + len(data)) // 3 * 4
            yield text[first:last] if last - first >= _SHORTEST else text[first:]


def texts(value: Any) -> Iterator[str]:
    """Every text and number in a setting, however deep."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield str(value)
