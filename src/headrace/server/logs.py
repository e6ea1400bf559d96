"""What a server or worker tells its operator: one line an event, on stderr, without secrets."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from headrace.store.runs import one_line

HIDDEN = "********"
_SECRET_NAME = re.compile(r"password|passwd|secret|token|authorization|cookie|credential|private|_key$", re.I)
_SECRET_TEXT = re.compile(
    r"(?P<keep>://[^/@\s:]*:)[^/@\s]+(?=@)"  # userinfo of a URL
    r"|(?P<keep2>\b(?:password|passwd|pwd|secret|token|api[_-]?key)[\"']?\s*[=:]\s*)(?:\"[^\"]*\"|'[^']*'|[^\s,;&}]+)"
    r"|(?P<keep3>\b(?:Bearer|Basic)\s+)[\w.~+/=-]+",
    re.I,
)


def configure(format: str, stream: TextIO | None = None) -> None:
    """Put this process's log on `stream` (stderr): `json`, `text`, or by `auto` text on a terminal alone.

    What libraries log goes the same way, from warnings on.
    """
    out = stream or sys.stderr
    as_text = format == "text" or (format == "auto" and out.isatty())
    render: Any = structlog.dev.ConsoleRenderer(colors=out.isatty()) if as_text else _JSON
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            clean,
            render,
        ],
        logger_factory=structlog.PrintLoggerFactory(out),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Libraries()], level=logging.WARNING, force=True)


_JSON = structlog.processors.JSONRenderer(default=str)


def tell(level: str, event: str, /, **about: object) -> None:
    """One line; fits `control.worker.Log`."""
    getattr(structlog.get_logger(), level)(event, **about)


def clean(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The event without secrets, by name and by look, and without control characters."""
    return {name: _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name) and value is not None:
        return HIDDEN
    if isinstance(value, dict):
        return {k: _clean(str(k), v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean("", v) for v in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    return one_line(_SECRET_TEXT.sub(_hide, str(value)))


def _hide(found: re.Match[str]) -> str:
    return next(filter(None, found.groups()), "") + HIDDEN


class _Libraries(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        tell(level, record.getMessage(), logger=record.name, exc_info=record.exc_info)
