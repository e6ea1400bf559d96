"""Stand-ins for Google Cloud Storage and Azure Blob Storage on a loopback port, for those who only read.

They answer listing and reading by the book; that a real store agrees they don't show.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import unquote
from xml.sax.saxutils import escape

from servers.http import Answer, ApiServer, Request

BUCKET = "box"


class _Server(ApiServer, ABC):
    """Started by `with`; holds one bucket, named `BUCKET`, in memory."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, datetime]] = {}
        super().__init__(self._answer)

    def put(self, key: str, data: bytes) -> None:
        self._files[key] = data, datetime.now(UTC).replace(microsecond=0)

    def _answer(self, request: Request) -> Answer:
        bucket, _, key = unquote(request.path).lstrip("/").partition("/")
        if not self._allowed(request):
            return _error(403, "AuthenticationFailed")
        if bucket != BUCKET:
            return _error(404, "NoSuchBucket")
        if not key:
            return Answer(self._list(request.query).encode(), headers={"content-type": "application/xml"})
        if key not in self._files:
            return _error(404, "NoSuchKey")
        data, modified = self._files[key]
        if request.headers.get("if-match", _etag(data)) != _etag(data):
            return _error(412, "ConditionNotMet")
        first, _, last = (
            request.headers.get("range", f"bytes=0-{len(data) - 1}").partition("=")[2].partition("-")
        )
        part = data[int(first) : int(last) + 1]
        headers = {
            "etag": _etag(data),
            "last-modified": format_datetime(modified, usegmt=True),
            "content-range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}",
        }
        return Answer(part, 206, headers)

    def _found(self, query: Mapping[str, str]) -> Iterator[tuple[str, bytes, datetime]]:
        prefix = query.get("prefix", "")
        for key, (data, modified) in sorted(self._files.items()):
            if key.startswith(prefix) and not (query.get("delimiter") and "/" in key[len(prefix) :]):
                yield escape(key), data, modified

    @abstractmethod
    def _allowed(self, request: Request) -> bool: ...

    @abstractmethod
    def _list(self, query: Mapping[str, str]) -> str: ...


class GcsServer(_Server):
    """Anybody may read."""

    def _allowed(self, request: Request) -> bool:
        return True

    def _list(self, query: Mapping[str, str]) -> str:
        entries = "".join(
            f"<Contents><Key>{key}</Key><Size>{len(data)}</Size><ETag>{escape(_etag(data))}</ETag>"
            f"<LastModified>{modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified></Contents>"
            for key, data, modified in self._found(query)
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"


class AzureServer(_Server):
    """Who shows the signature `SIGNATURE` may read."""

    SIGNATURE = "signature-of-the-test"
    sas_token = f"sv=2024-08-04&sp=rl&sig={SIGNATURE}"

    def _allowed(self, request: Request) -> bool:
        return request.query.get("sig") == self.SIGNATURE

    def _list(self, query: Mapping[str, str]) -> str:
        entries = "".join(
            f"<Blob><Name>{key}</Name><Properties><Etag>{_etag(data)[1:-1]}</Etag>"
            f"<Last-Modified>{format_datetime(modified, usegmt=True)}</Last-Modified>"
            f"<Content-Length>{len(data)}</Content-Length><Content-Type>text/plain</Content-Type>"
            "<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for key, data, modified in self._found(query)
        )
        return (
            "<?xml version='1.0' encoding='utf-8'?><EnumerationResults>"
            f"<Blobs>{entries}</Blobs><NextMarker/></EnumerationResults>"
        )


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _error(status: int, code: str) -> Answer:
    return Answer(f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode(), status)
