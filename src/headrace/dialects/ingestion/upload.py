"""Takes a file out of a multipart body as it comes, a little of it in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from headrace.control.access import Actor
from headrace.control.files import Incoming
from headrace.dialects.door import Door
from headrace.dialects.ingestion.errors import Refused
from headrace.model.file import File

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_PIECE = 1 << 20
_HEADERS = 16 << 10
_OTHERS = 1 << 20
"""Bytes of other fields, which nobody reads."""


async def receive(request: Request, door: Door, tenant: Actor) -> File:
    """The file of the body's one part `file`. Raises Refused, and what `Files.receive` raises."""
    parts = _Parts(door, tenant)
    parser = MultipartParser(_boundary(request), parts.callbacks())
    try:
        async for chunk in request.stream():
            try:
                parser.write(chunk)
            except FormParserError:
                raise _malformed() from None
            if parts.waiting >= _PIECE or parts.opens:
                await door.ask(parts.work)
        return await door.ask(parts.finish)
    except ClientDisconnect:
        raise Refused(400, "The upload ended before its end") from None
    finally:
        await door.ask(parts.close)


def _boundary(request: Request) -> bytes:
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        raise Refused(415, "Content-Type must be multipart/form-data")
    if not 0 < len(options.get(b"boundary", b"")) <= 70:  # RFC 2046
        raise Refused(400, "The multipart body has no boundary of 1 to 70 characters")
    return options[b"boundary"]


def _malformed() -> Refused:
    return Refused(400, "The multipart body is malformed")


class _Parts:
    """Hears the parser in the server's loop; `work`, `finish` and `close` are for a thread."""

    def __init__(self, door: Door, tenant: Actor):
        self._door, self._tenant = door, tenant
        self._incoming: Incoming | None = None
        self._name: str | None = None
        self._data: list[bytes] = []
        self._header, self._value, self._disposition = b"", b"", b""
        self._size = self._others = 0
        self._ours = self._ended = False
        self.waiting = 0
        """Bytes of the file that wait for `work`."""

    @property
    def opens(self) -> bool:
        """The file has begun, and was not opened yet."""
        return self._name is not None and self._incoming is None

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._text,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers,
            "on_part_data": self._part,
            "on_end": self._end,
        }

    def work(self) -> None:
        """Write what waits; the file is opened as soon as its name is known."""
        if self._incoming is None and self._name is not None:
            self._incoming = self._door.platform.files.receive(self._tenant, self._name)
        data, self._data, self.waiting = self._data, [], 0
        if self._incoming is not None and data:
            self._incoming.write(b"".join(data))

    def finish(self) -> File:
        self.work()
        if not self._ended:
            raise _malformed()
        if self._incoming is None:
            raise Refused(400, "Part 'file' is required")
        return self._incoming.finish()

    def close(self) -> None:
        if self._incoming is not None:
            self._incoming.close()

    def _begin(self) -> None:
        self._ours, self._size, self._disposition = False, 0, b""
        self._header = self._value = b""

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]
        self._measure(end - start)

    def _text(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]
        self._measure(end - start)

    def _measure(self, size: int) -> None:
        self._size += size
        if self._size > _HEADERS:
            raise Refused(400, "The headers of a part are too large")

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") != b"file":
            return
        if self._name is not None:
            raise Refused(400, "There must be exactly one part 'file'")
        name = options.get(b"filename", b"")
        if not name:
            raise Refused(400, "Part 'file' must have a file name")
        self._ours, self._name = True, name.decode("utf-8", "replace")

    def _part(self, data: bytes, start: int, end: int) -> None:
        if self._ours:
            self._data.append(data[start:end])
            self.waiting += end - start
            return
        self._others += end - start
        if self._others > _OTHERS:
            raise Refused(413, f"Other parts than 'file' are larger than {_OTHERS} bytes")

    def _end(self) -> None:
        self._ended = True
