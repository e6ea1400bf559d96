"""Sends mail through the operator's SMTP server, behind the caller's back."""

from __future__ import annotations

import smtplib
import ssl
from concurrent.futures import Future, ThreadPoolExecutor
from email.message import EmailMessage

from headrace.control.settings import Settings
from headrace.errors import TransientError

_SECONDS = 20


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
        """Queue a letter; how long it takes tells nobody whether the address is known."""
        letter = EmailMessage()
        letter["From"], letter["To"], letter["Subject"] = self._settings.smtp_from, to, subject
        letter.set_content(text)
        return self._queue.submit(self._deliver, letter)

    def _deliver(self, letter: EmailMessage) -> None:
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
