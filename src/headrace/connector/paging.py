"""How an API hands out its pages: each way is data, given to `Http.pages`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, read whole. `params` are those of the request; None when it followed a link."""

    url: httpx.URL
    params: Mapping[str, Any] | None
    headers: httpx.Headers
    body: Any


class Paging(Protocol):
    """How an API hands out its pages."""

    def start(self) -> dict[str, Any]:
        """Parameters of the first request."""

    def next(self, reply: Reply) -> str | dict[str, Any] | None:
        """A link, or the parameters that change; None after the last page."""


@dataclass(frozen=True, slots=True)
class NextLink:
    """The body names the next page's address, at a dotted path."""

    at: str

    def start(self) -> dict[str, Any]:
        return {}

    def next(self, reply: Reply) -> str | None:
        return pick(reply.body, self.at) or None


@dataclass(frozen=True, slots=True)
class LinkHeader:
    """The header `Link` names the next page (RFC 8288)."""

    def start(self) -> dict[str, Any]:
        return {}

    def next(self, reply: Reply) -> str | None:
        for value in reply.headers.get_list("link"):
            for link, attributes in re.findall(r"<([^>]*)>([^<]*)", value):
                if re.search(r';\s*rel\s*=\s*(?:"(?:[^"]*\s)?next(?:\s[^"]*)?"|next\b)', attributes, re.I):
                    return str(link)
        return None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The body holds a cursor at a dotted path, to be sent as `param`; an empty page may still have one."""

    param: str
    at: str

    def start(self) -> dict[str, Any]:
        return {}

    def next(self, reply: Reply) -> dict[str, Any] | None:
        cursor = pick(reply.body, self.at)
        return None if cursor in (None, "", False) else {self.param: cursor}


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """The request says how many rows to leave out. `rows` is the dotted path to the page's rows.

    Ends at an empty page, not at a short one: a server may give less than was asked for.
    """

    rows: str = ""
    size: int = 100
    offset: str = "offset"
    limit: str = "limit"

    def start(self) -> dict[str, Any]:
        return {self.offset: 0, self.limit: self.size}

    def next(self, reply: Reply) -> dict[str, Any] | None:
        count = len(pick(reply.body, self.rows) or ())
        return {self.offset: (reply.params or {})[self.offset] + count} if count else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PageNumber:
    """The request numbers the page. Ends at an empty page; `rows` is the dotted path to the page's rows."""

    rows: str = ""
    size: int = 100
    page: str = "page"
    limit: str = "per_page"
    first: int = 1

    def start(self) -> dict[str, Any]:
        return {self.page: self.first, self.limit: self.size}

    def next(self, reply: Reply) -> dict[str, Any] | None:
        return {self.page: (reply.params or {})[self.page] + 1} if pick(reply.body, self.rows) else None


def pick(body: Any, at: str) -> Any:
    """What stands at a dotted path of a JSON body, None where the path ends early; `""` is all of it."""
    for name in filter(None, at.split(".")):
        body = body.get(name) if isinstance(body, dict) else None
    return body
