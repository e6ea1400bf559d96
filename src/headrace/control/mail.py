"""Sends mail through the operator's SMTP server, behind the caller's back."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import EmailMessage

from headrace.control.settings import Settings
from headrace.errors import TransientError

_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Letter:
    to: str
    subject: str
    text: str = field(repr=False)


class Mailer:
    """One letter after the other. `close` waits for those on their way."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="mail")

    @property
    def able(self) -> bool:
        """Is there a server to send by?"""
        return self._settings.smtp_host is not None

    def send(self, to: str, subject: str, text: str) -> Future[None]:
        """Queue a letter."""
        return self._queue.submit(self._deliver, Letter(to, subject, text))

    def write(self, letter: Callable[[], Letter | None]) -> Future[None]:
        """Queue what writes a letter, or finds that there is none to write: how long that takes tells the
        caller nothing."""

        def write() -> None:
            if (written := letter()) is not None:
                self._deliver(written)

        return self._queue.submit(write)

    def _deliver(self, written: Letter) -> None:
        letter = EmailMessage()
        letter["From"], letter["To"] = self._settings.smtp_from, written.to
        letter["Subject"] = written.subject
        letter.set_content(written.text)
        settings = self._settings
        host, port = settings.smtp_host or "", settings.smtp_port
        trusted = ssl.create_default_context()
        try:
            with (
                smtplib.SMTP_SSL(host, port, timeout=_SECONDS, context=trusted)
                if settings.smtp_security == "tls"
                else smtplib.SMTP(host, port, timeout=_SECONDS)
            ) as server:
                if settings.smtp_security == "starttls":
                    server.starttls(context=trusted)
                if settings.smtp_user and settings.smtp_password:
                    server.login(settings.smtp_user, settings.smtp_password.get_secret_value())
                server.send_message(letter)
        except (OSError, smtplib.SMTPException) as error:
            raise TransientError(
                "mail.not_sent",
                f"the mail server did not take a letter: {type(error).__name__}",
                remedy="Check the HEADRACE_SMTP settings and the mail server's log.",
            ) from None

    def close(self) -> None:
        self._queue.shutdown(wait=True)
