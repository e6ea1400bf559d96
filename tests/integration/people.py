"""Signing in for a test, and a real mail server to read the letters from."""

from __future__ import annotations

from email import message_from_bytes
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import Envelope

from headrace.control.access import Actor
from headrace.control.platform import Platform
from headrace.errors import SignInNeeded

WORD = "canary-pass-4d1e"
OTHER = "canary-pass-77aa"


def bearer(platform: Platform, email: str, word: str = WORD) -> tuple[str, Actor]:
    text = platform.sessions.login(email, word).token
    return text, platform.sessions.authenticate(text)


def refused(platform: Platform, text: str) -> bool:
    try:
        platform.sessions.authenticate(text)
    except SignInNeeded as error:
        assert error.http_status == 401
        return True
    return False


class Smtp(Controller):
    """On a port that the system chooses; the one of aiosmtpd tries the number that it was given."""

    def _trigger_server(self) -> None:
        assert self.server
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


class Inbox:
    def __init__(self) -> None:
        self.letters: list[tuple[str, Any]] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Envelope) -> str:  # noqa: N802
        content = envelope.content
        assert isinstance(content, bytes)
        self.letters.append((envelope.rcpt_tos[0], message_from_bytes(content)))
        return "250 OK"

    def link(self, number: int = -1) -> str:
        """The token of the link in a letter."""
        text: str = self.letters[number][1].get_payload(decode=True).decode()
        return text.partition("?token=")[2].strip()


def delivered(platform: Platform) -> None:
    """Wait until the letters so far are on their way."""
    platform.mailer._queue.submit(lambda: None).result(60)
