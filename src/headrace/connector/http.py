"""Requests to an API: credentials, pages, limits and retries, every failure told as one of our errors."""

from __future__ import annotations

import email.utils
import json
import random
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NoReturn

import httpx

from headrace import __version__
from headrace.connector import egress
from headrace.connector.config import Secret
from headrace.connector.paging import Paging, Reply
from headrace.errors import (
    AuthError,
    ConfigError,
    DataError,
    HeadraceError,
    NotFoundError,
    TransientError,
)

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Credential:
    """A header that proves who we are; `field` names the setting to blame when it is refused."""

    header: str
    value: Secret
    field: str

    def __post_init__(self) -> None:
        text = self.value.get_secret_value()
        if not (text.isascii() and text.isprintable()):  # a stray newline would end up in a driver's message
            raise ConfigError(
                "http.bad_credential",
                f"{self.field} holds a character that a header can't carry",
                field=self.field,
                remedy="Look for a line break or a space at its end, and enter it again.",
            )


def bearer(token: Secret, *, field: str = "token") -> Credential:
    return Credential("Authorization", Secret(f"Bearer {token.get_secret_value()}"), field)


def basic(user: str, password: Secret, *, field: str = "password") -> Credential:
    login = httpx.BasicAuth(user, password.get_secret_value())
    header = next(login.auth_flow(httpx.Request("GET", "http://localhost"))).headers["Authorization"]
    return Credential("Authorization", Secret(header), field)


def header(name: str, value: Secret, *, field: str = "api_key") -> Credential:
    return Credential(name, value, field)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`patience_seconds` bounds what one call may spend on attempts and waits together: no attempt begins
    after it. A longer `Retry-After` ends the call at once, and the engine tries again later."""

    connect_seconds: float = 10
    read_seconds: float = 60
    patience_seconds: float = 120
    tries: int = 5
    backoff_seconds: float = 0.5
    max_bytes: int = 256 << 20


class Http:
    """A client of one API. Close it; may be used from several threads.

    Credentials and `headers` go to `base_url`'s own host only. Plain `http` needs a loopback host or
    `allow_insecure`. With `decimals`, fractions come as Decimal with the digits that were sent.
    A source only reads, so a `post` is a query, and is tried again like a `get`. The environment's
    proxies are not used: they would resolve names after our check.
    """

    def __init__(
        self,
        base_url: str,
        *,
        credential: Credential | None = None,
        headers: Mapping[str, str] | None = None,
        limits: Limits = Limits(),
        allow_insecure: bool = False,
        decimals: bool = False,
    ):
        self._base = _base_url(base_url)
        self._credential = credential
        self._headers = dict(headers or {})
        self._limits = limits
        self._decimals = decimals
        self._interrupted = threading.Event()
        self._client = httpx.Client(
            transport=_Checked(self._base, allow_insecure=allow_insecure),
            timeout=httpx.Timeout(limits.read_seconds, connect=limits.connect_seconds),
            headers={"User-Agent": f"headrace/{__version__}", "Accept": "application/json"},
            trust_env=False,
        )

    def get(self, path: str, /, **params: Any) -> Any:
        """The JSON that stands there. Parameters that are None are left out."""
        return self._send("GET", self._url(path), params=params).body

    def post(self, path: str, body: Any, /, **params: Any) -> Any:
        """The JSON that answers to `body`."""
        return self._send("POST", self._url(path), params=params, body=body).body

    def pages(self, path: str, paging: Paging, /, **params: Any) -> Iterator[Any]:
        """The JSON of every page, in order. Raises DataError when the pages run in a circle."""
        url, query = self._url(path), {**params, **paging.start()}
        while True:
            reply = self._send("GET", url, params=query)
            yield reply.body
            step = paging.next(reply)
            if step is None:
                return
            if isinstance(step, str):
                following: tuple[httpx.URL, Any] = (reply.url.join(step), None)
            else:
                following = (url, {**(query or {}), **step})
            if following == (url, query):
                raise DataError(
                    "http.paging_circle",
                    f"{_shown(url)} names itself as its next page",
                    remedy="Report it to the maker of the API: reading on would never end.",
                )
            url, query = following

    def interrupt(self) -> None:
        """From another thread: end waits between attempts now. A request on the wire keeps its timeouts."""
        self._interrupted.set()

    def close(self) -> None:
        self._client.close()

    def _url(self, path: str) -> httpx.URL:
        """`path` below the base address, whatever slashes the two have."""
        return self._base.copy_with(
            raw_path=self._base.raw_path.rstrip(b"/") + b"/" + path.lstrip("/").encode()
        )

    def _send(
        self, method: str, url: httpx.URL, *, params: Mapping[str, Any] | None, body: Any = None
    ) -> Reply:
        limits = self._limits
        until = time.monotonic() + limits.patience_seconds
        request = {"params": _query(params), "json": body}
        for attempt in range(1, limits.tries + 1):
            try:
                final, headers, content = self._once(method, url, request)
                return Reply(final, params, headers, self._parse(final, headers, content))
            except _Again as again:
                wait = again.wait_seconds
                if wait is None:
                    wait = min(30.0, limits.backoff_seconds * 2**attempt) * random.uniform(0.5, 1)
                if attempt == limits.tries or time.monotonic() + wait > until:
                    raise again.error from None
            if self._interrupted.wait(wait):
                raise TransientError("http.interrupted", f"the request to {_shown(url)} was interrupted")
        raise AssertionError("tries is at least 1")

    def _once(
        self, method: str, url: httpx.URL, request: dict[str, Any]
    ) -> tuple[httpx.URL, httpx.Headers, bytes]:
        """One attempt. Each hop passes the egress rule; credentials stay with our own host."""
        try:
            for _hop in range(6):
                built = self._client.build_request(method, url, headers=self._proof(url), **request)
                response = self._client.send(built, stream=True)
                try:
                    following = response.next_request if response.status_code in _REDIRECTS else None
                    if following is None:
                        content = self._read(response)
                        if response.status_code >= 300:
                            self._refuse(response, content)
                        return url, response.headers, content
                finally:
                    response.close()
                method, url = following.method, following.url
                request = {"json": request.get("json")} if method == "POST" else {}
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            _translate(error, url)
        raise ConfigError(
            "http.redirects",
            f"{_shown(url)} is redirected more than 5 times",
            field="base_url",
            remedy="Give the address that the redirects lead to.",
        )

    def _proof(self, url: httpx.URL) -> dict[str, str]:
        ours, base = (url.scheme, url.host, url.port), (self._base.scheme, self._base.host, self._base.port)
        if ours != base:
            return {}
        proof = (
            {self._credential.header: self._credential.value.get_secret_value()} if self._credential else {}
        )
        return {**self._headers, **proof}

    def _read(self, response: httpx.Response) -> bytes:
        parts, size = [], 0
        for part in response.iter_bytes():
            size += len(part)
            if size > self._limits.max_bytes:
                raise DataError(
                    "http.too_large",
                    f"{_shown(response.url)} answered with more than {self._limits.max_bytes} bytes",
                    remedy="Ask for smaller pages.",
                )
            parts.append(part)
        return b"".join(parts)

    def _parse(self, url: httpx.URL, headers: httpx.Headers, content: bytes) -> Any:
        if not content:
            return None
        try:
            return json.loads(content, parse_float=Decimal if self._decimals else None)
        except ValueError:
            error = DataError(
                "http.not_json",
                f"{_shown(url)} answered with something that is not JSON",
                field="base_url",
                remedy="Check that the address is that of the API and not of a web page.",
            )
        if "content-length" not in headers and "transfer-encoding" not in headers:
            raise _Again(error)  # nothing else would tell a body that was cut off
        raise error

    def _refuse(self, response: httpx.Response, content: bytes) -> NoReturn:
        """Tell an answer that is no success as one of our errors."""
        status, where = response.status_code, _shown(response.url)
        field = self._credential.field if self._credential else None
        if status == 401:
            raise AuthError(
                "http.unauthorized",
                f"{where} does not accept who we are",
                field=field,
                remedy="Enter valid credentials: these are missing, wrong or expired.",
            )
        if status == 403:
            raise AuthError(
                "http.forbidden",
                f"{where} knows us and refuses",
                field=field,
                remedy="Give the account the right to read this.",
            )
        if status in (404, 410):
            raise NotFoundError(
                "http.not_found",
                f"there is nothing at {where}",
                field="base_url",
                remedy="Check the address and the names in it.",
            )
        if status == 429:
            busy = TransientError(
                "http.rate_limited",
                f"{where} asks for a slower pace",
                remedy="Nothing to do: it is tried again later. Fewer parallel runs may help.",
            )
            raise _Again(busy, _retry_after(response.headers))
        if status in _BUSY or status >= 500:
            down = TransientError(
                "http.server_error",
                f"{where} answered with status {status}",
                remedy="Wait, or ask those who run the API.",
            )
            raise _Again(down, _retry_after(response.headers))
        raise ConfigError(
            "http.refused",
            f"{where} answered with status {status}: {self._excerpt(content)}",
            remedy="Change the setting that the answer complains about.",
        )

    def _excerpt(self, content: bytes) -> str:
        """The beginning of an answer, fit for a log: on one line, without our secret."""
        text = content[:2000].decode("utf-8", "replace")
        if self._credential:
            secret = self._credential.value.get_secret_value()
            for part in (secret, secret.rpartition(" ")[2]):
                text = text.replace(part, "***")
        return re.sub(r"[^ -~\xa1-\U0010ffff]+", " ", text)[:200].strip() or "(no text)"


class _Again(Exception):
    """An attempt failed in a way that another may not; `wait_seconds` is what the server asked for."""

    def __init__(self, error: HeadraceError, wait_seconds: float | None = None):
        self.error, self.wait_seconds = error, wait_seconds


class _Checked(httpx.BaseTransport):
    """Dials addresses that passed the egress rule; one pool a host, so that no session serves two names."""

    def __init__(self, base: httpx.URL, *, allow_insecure: bool):
        self._base_host = base.raw_host.decode("ascii")
        self._allow_insecure = allow_insecure
        self._tls = ssl.create_default_context()
        self._lock = threading.Lock()
        self._addresses: dict[str, tuple[egress.Address, ...]] = {}
        self._pools: dict[str, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.raw_host.decode("ascii")
        addresses, pool = self._look_up(host)
        if request.url.scheme != "https" and not (
            self._allow_insecure or all(a.is_loopback for a in addresses)
        ):
            raise ConfigError(
                "http.insecure",
                f"plain http to {host!r} would show credentials and rows to the network",
                field="base_url",
                remedy="Use https, or allow_insecure if the network itself is safe.",
            )
        for address in addresses:
            pinned = httpx.Request(
                request.method,
                request.url.copy_with(host=str(address)),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return pool.handle_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if address is addresses[-1]:
                    self._addresses.pop(host, None)  # it may have moved: looked up and checked anew next time
                    raise
        raise AssertionError("a name has at least one address")

    def _look_up(self, host: str) -> tuple[tuple[egress.Address, ...], httpx.HTTPTransport]:
        with self._lock:
            if host not in self._addresses:
                ours = host == self._base_host  # only the user may send us to this machine, no redirect may
                self._addresses[host] = egress.resolve(host, loopback=ours)
            if host not in self._pools:
                self._pools[host] = httpx.HTTPTransport(verify=self._tls)
            return self._addresses[host], self._pools[host]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


def _base_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise ConfigError(
            "http.bad_url",
            "the address of an API is https://host/path, without user, query or fragment",
            field="base_url",
            remedy="Correct the address; credentials have settings of their own.",
        )
    return url


def _query(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """None keeps the query that a link brings."""
    if params is None:
        return None
    kept = {name: value for name, value in params.items() if value is not None}
    return {name: v if isinstance(v, bool | int | float | str | list) else str(v) for name, v in kept.items()}


def _shown(url: httpx.URL) -> str:
    """An address fit for a message: a query may hold a secret."""
    return str(url.copy_with(query=None, fragment=None, userinfo=b""))


def _retry_after(headers: httpx.Headers) -> float | None:
    """Seconds until the server wants to hear from us again."""
    text = headers.get("retry-after", "").strip()
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        when = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _translate(error: Exception, url: httpx.URL) -> NoReturn:
    """Tell a failure of the wire as one of our errors."""
    where = _shown(url)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise ConfigError(
            "http.certificate",
            f"the certificate of {where} is not to be trusted: {cause.verify_message}",
            field="base_url",
            remedy="Check the host name, or add the certificate authority to this machine's trusted ones.",
        ) from None
    if isinstance(error, httpx.UnsupportedProtocol | httpx.InvalidURL):
        raise ConfigError("http.bad_link", f"{where} leads to an address that is not http or https") from None
    if isinstance(error, httpx.TimeoutException):
        silent = TransientError(
            "http.timeout", f"{where} did not answer in time", remedy="Wait, or ask those who run the API."
        )
        raise _Again(silent) from None
    if isinstance(error, httpx.ConnectError):
        away = TransientError(
            "http.unreachable",
            f"no connection to {where}",
            field="base_url",
            remedy="Check host, port and firewall.",
        )
        raise _Again(away) from None
    cut = TransientError("http.cut", f"the answer of {where} was cut short ({type(error).__name__})")
    raise _Again(cut) from None
