"""What connector authors get from `Http`, against a real server on a loopback port."""

from __future__ import annotations

import contextlib
import gzip
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from headrace.connector import Http, Secret
from headrace.connector.egress import forbidden, resolve
from headrace.connector.http import Limits, basic, bearer, header
from headrace.connector.paging import Cursor, LinkHeader, NextLink, Offset, PageNumber
from headrace.errors import AuthError, ConfigError, DataError, HeadraceError, NotFoundError, TransientError
from servers.http import Answer, ApiServer, Request
from tests.waiting import HANGS

QUICK = Limits(backoff_seconds=0.001, read_seconds=60, patience_seconds=120)


@contextlib.contextmanager
def api(answer: Callable[[Request], Answer], **options: Any) -> Iterator[tuple[ApiServer, Http]]:
    with ApiServer(answer) as server:
        http = Http(server.url + "/v1", **{"limits": QUICK, **options})
        try:
            yield server, http
        finally:
            http.close()


def script(*answers: Answer) -> Callable[[Request], Answer]:
    """These answers one after another."""
    rest = iter(answers)
    return lambda request: next(rest)


def fails(answer: Answer, error: type[HeadraceError], **options: Any) -> HeadraceError:
    with api(lambda request: answer, **options) as (_, http), pytest.raises(error) as caught:
        http.get("/things")
    return caught.value


def test_a_path_goes_below_the_base_address_with_its_parameters() -> None:
    with api(lambda request: Answer({"at": request.path, **request.query})) as (server, http):
        assert http.get("/things", since=date(2024, 2, 29), left_out=None, **{"from": 3}) == {
            "at": "/v1/things",
            "since": "2024-02-29",
            "from": "3",
        }
        assert http.post("search", {"all": True}) == {"at": "/v1/search"}
    assert server.requests[1].body == {"all": True}
    assert server.requests[0].headers["user-agent"].startswith("headrace/")


@pytest.mark.parametrize(
    ("credential", "name", "value"),
    [
        (bearer(Secret("t0ken")), "authorization", "Bearer t0ken"),
        (basic("me", Secret("pass")), "authorization", "Basic bWU6cGFzcw=="),
        (header("X-Api-Key", Secret("k3y")), "x-api-key", "k3y"),
    ],
)
def test_credentials_travel_in_their_header(credential: Any, name: str, value: str) -> None:
    with api(lambda request: Answer({}), credential=credential, headers={"X-Tenant": "7"}) as (server, http):
        http.get("/things")
    assert server.requests[0].headers[name] == value
    assert server.requests[0].headers["x-tenant"] == "7"


def test_a_credential_with_a_line_break_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        bearer(Secret("hush\n"))
    assert caught.value.field == "token"
    assert "hush" not in f"{caught.value}{caught.value.as_dict()}"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(status: int) -> None:
    with api(script(Answer(status=status), Answer(status=status), Answer([1]))) as (server, http):
        assert http.get("/things") == [1]
    assert len(server.requests) == 3


def test_a_post_is_tried_again_with_its_body() -> None:
    with api(script(Answer(status=503), Answer([1]))) as (server, http):
        assert http.post("/search", {"q": 1}) == [1]
    assert [request.body for request in server.requests] == [{"q": 1}, {"q": 1}]


def test_a_server_that_stays_busy_is_a_transient_error_after_five_tries() -> None:
    with api(lambda request: Answer(status=500)) as (server, http), pytest.raises(TransientError) as caught:
        http.get("/things")
    assert caught.value.code == "http.server_error"
    assert len(server.requests) == 5


def test_retry_after_in_seconds_is_waited_for() -> None:
    with api(script(Answer(status=429, headers={"Retry-After": "0.3"}), Answer([1]))) as (_, http):
        start = time.monotonic()
        assert http.get("/things") == [1]
        assert time.monotonic() - start >= 0.3


def test_retry_after_as_a_date_is_waited_for() -> None:
    when = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=2)
    busy = Answer(status=503, headers={"Retry-After": format_datetime(when, usegmt=True)})
    with api(script(busy, Answer([1]))) as (_, http):
        assert http.get("/things") == [1]
        assert datetime.now(UTC) >= when - timedelta(seconds=0.5)  # the clock may have been set back a little


def test_a_wait_beyond_our_patience_ends_the_call_at_once() -> None:
    error = fails(Answer(status=429, headers={"Retry-After": "86400"}), TransientError)
    assert error.code == "http.rate_limited"


def test_an_interrupt_ends_a_wait() -> None:
    asked = threading.Event()

    def busy(request: Request) -> Answer:
        asked.set()
        return Answer(status=429, headers={"Retry-After": "100"})

    with api(busy) as (server, http):
        other = threading.Thread(target=lambda: (asked.wait(HANGS), time.sleep(0.1), http.interrupt()))
        other.start()
        with pytest.raises(TransientError) as caught:
            http.get("/things")
        other.join()
    assert caught.value.code == "http.interrupted"
    assert len(server.requests) == 1


@pytest.mark.parametrize("length", [True, False])
def test_a_body_that_was_cut_is_asked_for_again(length: bool) -> None:
    with api(script(Answer([1, 2], cut=3, length=length), Answer([1, 2]))) as (server, http):
        assert http.get("/things") == [1, 2]
    assert len(server.requests) == 2


def test_a_body_that_is_always_cut_is_a_transient_error() -> None:
    assert fails(Answer([1, 2], cut=3), TransientError).code == "http.cut"


def test_an_answer_larger_than_the_cap_is_refused_even_when_it_is_packed_small() -> None:
    packed = Answer(gzip.compress(b"[" + b" " * 100_000 + b"]"), headers={"Content-Encoding": "gzip"})
    error = fails(packed, DataError, limits=Limits(max_bytes=50_000))
    assert error.code == "http.too_large"


def test_a_silent_server_is_a_timeout() -> None:
    ended = threading.Event()

    def silent(request: Request) -> Answer:
        ended.wait(HANGS)
        return Answer([])

    limits = Limits(read_seconds=0.05, tries=2, backoff_seconds=0.001)
    with api(silent, limits=limits) as (_, http):
        with pytest.raises(TransientError) as caught:
            http.get("/things")
        ended.set()
    assert caught.value.code == "http.timeout"


def test_a_closed_port_is_unreachable_and_names_the_setting() -> None:
    http = Http("http://127.0.0.1:1", limits=Limits(tries=2, backoff_seconds=0.001))
    with pytest.raises(TransientError) as caught:
        http.get("/things")
    http.close()
    assert (caught.value.code, caught.value.field) == ("http.unreachable", "base_url")


@pytest.mark.parametrize(
    ("status", "error", "code", "field"),
    [
        (401, AuthError, "http.unauthorized", "token"),
        (403, AuthError, "http.forbidden", "token"),
        (404, NotFoundError, "http.not_found", "base_url"),
        (400, ConfigError, "http.refused", None),
    ],
)
def test_each_refusal_is_told_as_our_error_with_a_remedy(
    status: int, error: type[HeadraceError], code: str, field: str | None
) -> None:
    caught = fails(Answer({"message": "no"}, status=status), error, credential=bearer(Secret("t0ken")))
    assert (caught.code, caught.field) == (code, field)
    assert caught.remedy and caught.remedy.endswith(".")


def test_a_refusal_quotes_the_server_but_neither_our_secret_nor_control_characters() -> None:
    said = Answer(b"bad key t0ken\x1b[31m\nsorry", status=422)
    message = fails(said, ConfigError, credential=bearer(Secret("t0ken"))).message
    assert message.endswith("bad key *** [31m sorry")


def test_a_secret_in_a_query_is_in_no_message() -> None:
    with api(lambda request: Answer(status=404)) as (_, http), pytest.raises(NotFoundError) as caught:
        http.get("/things", api_key="hush")
    assert "hush" not in caught.value.message


def test_a_web_page_is_not_taken_for_data() -> None:
    error = fails(Answer(b"<html>log in</html>", headers={"Content-Type": "text/html"}), DataError)
    assert error.code == "http.not_json"


def test_numbers_keep_their_digits_when_asked() -> None:
    digits = b'{"price": 1234567890123456789.123456789012345678, "id": 9007199254740993123}'
    with api(lambda request: Answer(digits), decimals=True) as (_, http):
        row = http.get("/things")
    assert row == {"price": Decimal("1234567890123456789.123456789012345678"), "id": 9007199254740993123}


def number(request: Request, name: str) -> int:
    return int(request.query.get(name, 0))


def by_link(request: Request) -> Answer:
    page = number(request, "page")
    return Answer({"rows": [page], "links": {"next": f"/v1/things?page={page + 1}" if page < 2 else None}})


def by_header(request: Request) -> Answer:
    page = number(request, "page")
    link = f'</v1/things?page=0>; rel="first", </v1/things?page={page + 1}&a=1,2>; rel="next"'
    return Answer({"rows": [page]}, headers={"Link": link} if page < 2 else {})


def by_cursor(request: Request) -> Answer:
    page = number(request, "after")
    return Answer({"rows": [] if page == 1 else [page], "meta": {"next": page + 1 if page < 3 else None}})


def by_offset(request: Request) -> Answer:
    start = number(request, "offset")
    return Answer({"rows": list(range(5))[start : start + 2]})  # fewer than the 100 asked for


def by_number(request: Request) -> Answer:
    page = number(request, "page")
    return Answer({"rows": [page] if page < 4 else []})


@pytest.mark.parametrize(
    ("answer", "paging", "rows"),
    [
        (by_link, NextLink("links.next"), [0, 1, 2]),
        (by_header, LinkHeader(), [0, 1, 2]),
        (by_cursor, Cursor("after", "meta.next"), [0, 2, 3]),
        (by_offset, Offset(rows="rows"), [0, 1, 2, 3, 4]),
        (by_number, PageNumber(rows="rows"), [1, 2, 3]),
    ],
)
def test_every_page_is_read_once(answer: Callable[[Request], Answer], paging: Any, rows: list[int]) -> None:
    with api(answer, credential=bearer(Secret("t"))) as (server, http):
        pages = list(http.pages("/things", paging, status="paid"))
    assert [row for page in pages for row in page["rows"]] == rows
    assert server.requests[0].query["status"] == "paid"
    assert all(request.headers["authorization"] == "Bearer t" for request in server.requests)


def test_pages_that_run_in_a_circle_are_an_error() -> None:
    same = Answer({"rows": [1], "next": "abc"})
    with api(lambda request: same) as (server, http), pytest.raises(DataError) as caught:
        list(http.pages("/things", Cursor("after", "next")))
    assert caught.value.code == "http.paging_circle"
    assert len(server.requests) == 2


def test_a_redirect_is_followed_with_credentials_on_the_same_host_only() -> None:
    with ApiServer(lambda request: Answer(["elsewhere"])) as other:

        def moved(request: Request) -> Answer:
            if request.path == "/v1/here":
                return Answer(["here"])
            away = f"{other.url}/x" if request.path == "/v1/away" else "/v1/here"
            return Answer(status=307, headers={"Location": away})

        credential = header("X-Api-Key", Secret("k3y"))
        with api(moved, credential=credential, headers={"X-Tenant": "7"}) as (server, http):
            assert http.get("/home") == ["here"]
            assert http.get("/away") == ["elsewhere"]
    assert all(request.headers["x-api-key"] == "k3y" for request in server.requests)
    assert not {"x-api-key", "x-tenant"} & other.requests[0].headers.keys()


def test_redirects_without_end_are_an_error() -> None:
    error = fails(Answer(status=302, headers={"Location": "/v1/again"}), ConfigError)
    assert error.code == "http.redirects"


METADATA = [
    "169.254.169.254",
    "2852039166",  # the same address as a number
    "0xa9fea9fe",
    "[::ffff:169.254.169.254]",
    "[fe80::1]",
    "[64:ff9b::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "100.100.100.200",
    "0.0.0.0",
]


@pytest.mark.parametrize("host", METADATA)
def test_a_metadata_address_is_refused_however_it_is_spelled(host: str) -> None:
    http = Http(f"http://{host}/latest/meta-data", allow_insecure=True)
    with pytest.raises(ConfigError) as caught:
        http.get("/iam")
    http.close()
    assert caught.value.code == "egress.refused"


@pytest.mark.parametrize("host", METADATA)
def test_a_redirect_to_a_metadata_address_is_refused(host: str) -> None:
    answer = Answer(status=302, headers={"Location": f"http://{host}/latest/meta-data"})
    assert fails(answer, ConfigError, allow_insecure=True).code == "egress.refused"


def test_a_next_link_to_a_metadata_address_is_refused() -> None:
    page = Answer({"next": "http://169.254.169.254/latest"})
    with api(lambda request: page, allow_insecure=True) as (_, http), pytest.raises(ConfigError) as caught:
        list(http.pages("/things", NextLink("next")))
    assert caught.value.code == "egress.refused"


def test_a_name_that_is_not_known_may_be_known_later() -> None:
    with pytest.raises(TransientError) as caught:
        resolve("no.such.host.invalid")
    assert caught.value.code in ("egress.unknown_host", "egress.no_resolver")


def test_plain_http_is_for_loopback_or_for_those_who_allow_it() -> None:
    http = Http("http://10.255.255.1/api")
    with pytest.raises(ConfigError) as caught:
        http.get("/things")
    http.close()
    assert caught.value.code == "http.insecure"


def test_a_loopback_address_is_refused_to_everyone_but_the_user() -> None:
    assert resolve("localhost")
    with pytest.raises(ConfigError):
        resolve("localhost", loopback=False)
    assert not forbidden(ipaddress.ip_address("10.1.2.3"), loopback=False)


@pytest.mark.parametrize(
    "url", ["ftp://example.com", "https://", "https://me:pass@example.com", "https://example.com/?a=1", "x"]
)
def test_an_address_that_is_no_api_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Http(url)
    assert caught.value.field == "base_url"
    assert "pass" not in caught.value.message


def test_a_name_is_resolved_once_and_the_address_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = socket.getaddrinfo, []

    def lookup(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(host)
        if host == "api.test":  # answers well once, then with an address it hopes we dial unchecked
            host = "127.0.0.1" if asked.count("api.test") == 1 else "169.254.169.254"
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    with ApiServer(lambda request: Answer(request.headers["host"])) as server:
        http = Http(f"http://api.test:{server.port}")
        assert [http.get("/a"), http.get("/b")] == [f"api.test:{server.port}"] * 2
        http.close()
    assert asked.count("api.test") == 1


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context for `localhost`, with a certificate that this test's machine trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(minutes=10))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = tmp_path / "tls.pem"
    plain = serialization.NoEncryption()
    chain.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(chain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return context


def test_a_certificate_is_checked_against_the_name_though_an_address_is_dialled(tls: ssl.SSLContext) -> None:
    with ApiServer(lambda request: Answer(["safe"]), tls=tls) as server:
        http = Http(server.url)
        assert http.get("/") == ["safe"]
        http.close()
        http = Http(server.url.replace("localhost", "127.0.0.1"))
        with pytest.raises(ConfigError) as caught:
            http.get("/")
        http.close()
    assert (caught.value.code, caught.value.field) == ("http.certificate", "base_url")
