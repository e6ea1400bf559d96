"""Object stores as a storage, over obstore: credentials come from the settings, never by accident."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import IO, Any

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import AzureStore, GCSStore, S3Store

from headrace.connector import egress
from headrace.connector.files.storage import (
    SECTIONS,
    AzureAccess,
    GcsAccess,
    Object,
    S3Access,
    Storage,
    StorageConfig,
    Upload,
)
from headrace.errors import AuthError, ConfigError, HeadraceError, NotFoundError, TransientError

_BLOCK = 8 << 20
_AHEAD = 2
_PART = 8 << 20
_RETRY: Any = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")


class RemoteStorage(Storage):
    """The objects under one prefix of a bucket. Opens no connection before its first call."""

    def __init__(self, scheme: str, bucket: str, prefix: str, access: StorageConfig):
        self.url = f"{scheme}://{bucket}/{prefix}".rstrip("/")
        self._settings = SECTIONS[scheme]
        try:
            if scheme == "s3":
                self._store: Any = _s3(bucket, prefix, access.s3)
            elif scheme == "gs":
                self._store = _gcs(bucket, prefix, access.gcs)
            else:
                self._store = _azure(bucket, prefix, access.azure)
        except (BaseError, ValueError):  # its text may show the key
            raise ConfigError(
                "storage.settings",
                f"the settings for {self.url} can't be used",
                field=self._settings,
                remedy=f"Check the form of the keys under {self._settings}.",
            ) from None

    def list(self, prefix: str = "", *, deep: bool = True) -> Iterator[Object]:
        with self._translated(prefix):
            if not deep:
                found = obstore.list_with_delimiter(self._store, prefix or None)["objects"]
                yield from map(_object, found)
                return
            pages = obstore.list(self._store, prefix or None, chunk_size=1000)
        while True:
            with self._translated(prefix):
                page = next(pages, None)
            if page is None:
                return
            yield from map(_object, page)

    def stat(self, key: str) -> Object:
        with self._translated(key):
            return _object(obstore.head(self._store, key))

    def open(self, file: Object) -> IO[bytes]:
        condition = {"if_match": file.etag} if file.etag.startswith('"') else {}

        def fetch(start: int, end: int) -> memoryview:
            with self._translated(file.key, reading=True):
                options: Any = {"range": (start, end), **condition}
                got = obstore.get(self._store, file.key, options=options)
                data = memoryview(got.buffer())
            if len(data) != end - start:
                raise _changed(file.key)
            return data

        return io.BufferedReader(_Reader(fetch, file.size), 1 << 20)

    def put(self, key: str, data: bytes) -> None:
        with self._translated(key):
            obstore.put(self._store, key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._translated(key):
            try:
                obstore.put(self._store, key, data, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def create(self, key: str) -> Upload:
        with self._translated(key):
            writer = obstore.open_writer(self._store, key, buffer_size=_PART, max_concurrency=4)
        return _RemoteUpload(writer, lambda: self._translated(key))

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:
            with self._translated(key), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, key)

    @contextlib.contextmanager
    def _translated(self, key: str, *, reading: bool = False) -> Iterator[None]:
        """obstore's errors as ours; only status and code go on, as its texts hold URLs with signatures."""
        try:
            yield
        except (BaseError, FileNotFoundError, ValueError) as error:
            raise self._explain(error, key, reading) from None

    def _explain(self, error: Exception, key: str, reading: bool) -> HeadraceError:
        text = str(error)
        status = int(found[1]) if (found := _STATUS.search(text)) else 0
        said = f" ({found[1]})" if (found := _CODE.search(text)) else f" (HTTP {status})" if status else ""
        where = f"{self.url}/{key}" if key else self.url
        section = self._settings
        if reading and (
            isinstance(error, FileNotFoundError | PreconditionError) or status in (404, 412, 416)
        ):
            return _changed(where)
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403):
            return AuthError(
                "storage.denied",
                f"{where} refused our credentials{said}",
                field=section,
                remedy=f"Check the credentials under {section}, and their rights to list, read and write.",
            )
        if isinstance(error, FileNotFoundError) or status == 404:
            return NotFoundError(
                "storage.not_found",
                f"there is no {where}{said}",
                field="url",
                remedy="Check bucket and path.",
            )
        if status in (301, 307, 400, 405, 501) or (isinstance(error, ValueError) and not status):
            return ConfigError(
                "storage.refused",
                f"{where} can't be used as configured{said}",
                field=section,
                remedy=f"Check region, endpoint and path_style under {section}.",
            )
        return TransientError(
            "storage.unreachable",
            f"{where} does not answer{said}",
            field=section,
            remedy=f"Check the network, and the endpoint under {section}.",
        )


class _Reader(io.RawIOBase):
    """Reads an object by blocks, the next ones fetched ahead while it is read in order."""

    def __init__(self, fetch: Callable[[int, int], memoryview], size: int):
        self._fetch, self._size, self._at = fetch, size, 0
        self._blocks: OrderedDict[int, Future[memoryview]] = OrderedDict()
        self._pool = ThreadPoolExecutor(_AHEAD, "headrace-read-ahead")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._at >= self._size:
            return 0
        number, offset = divmod(self._at, _BLOCK)
        in_order = number == 0 or number - 1 in self._blocks or number in self._blocks
        for ahead in range(number, number + (_AHEAD if in_order else 0) + 1):
            self._request(ahead)
        block = self._blocks[number].result()
        while len(self._blocks) > _AHEAD + 1:
            self._blocks.popitem(last=False)
        data = block[offset : offset + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _request(self, number: int) -> None:
        start = number * _BLOCK
        if number not in self._blocks and start < self._size:
            end = min(start + _BLOCK, self._size)
            self._blocks[number] = self._pool.submit(self._fetch, start, end)

    def close(self) -> None:
        if not self.closed:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._blocks.clear()
        super().close()


class _RemoteUpload(Upload):
    """Parts go out as they fill; the store shows the object once all are there.

    An upload that is dropped leaves hidden parts behind: give the bucket a lifecycle rule for
    incomplete multipart uploads.
    """

    def __init__(self, writer: Any, translated: Callable[[], contextlib.AbstractContextManager[None]]):
        self._writer, self._translated, self._size = writer, translated, 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        with self._translated():
            self._writer.write(data)
        self._size += len(data)
        return len(data)

    def tell(self) -> int:
        return self._size

    def finish(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with self._translated():
                writer.close()

    def close(self) -> None:
        self._writer = None
        super().close()


def _object(meta: Any) -> Object:
    modified = meta["last_modified"]
    etag = meta["e_tag"] or f"{meta['size']:x}-{modified.timestamp():.0f}"
    return Object(meta["path"], meta["size"], modified, etag)


def _changed(where: str) -> HeadraceError:
    return TransientError(
        "storage.changed",
        f"{where!r} changed or went away while it was being read",
        remedy="The next attempt reads it anew; set settle_seconds if files are still being written.",
    )


def _client(endpoint: str | None) -> Any:
    """Options of the client that dials the endpoint, which is allowed to be dialled."""
    egress.check_url(endpoint)
    allow_http = endpoint is not None and endpoint.startswith("http://")
    return {"allow_http": allow_http, "connect_timeout": "10s", "timeout": "120s"}


def _s3(bucket: str, prefix: str, access: S3Access) -> Any:
    """All that obstore would take from AWS_* variables by itself is given, unless that is asked for."""
    options: dict[str, Any] = {"region": access.region, "conditional_put": "etag", "skip_signature": False}
    path_style = access.endpoint is not None if access.path_style is None else access.path_style
    options["virtual_hosted_style_request"] = not path_style
    endpoint = access.endpoint or f"https://s3.{access.region}.amazonaws.com"
    if not path_style:  # obstore takes the endpoint of a virtual-hosted bucket as it stands
        protocol, _, host = endpoint.partition("://")
        endpoint = f"{protocol}://{bucket}.{host}"
    if (access.access_key_id is None) != (access.secret_access_key is None):
        raise ConfigError(
            "storage.half_a_key",
            "access_key_id and secret_access_key belong together",
            field="s3.access_key_id" if access.access_key_id is None else "s3.secret_access_key",
            remedy="Give both, or neither for a public bucket.",
        )
    if access.secret_access_key is not None:
        credential = {
            "access_key_id": access.access_key_id,
            "secret_access_key": access.secret_access_key.get_secret_value(),
            "token": access.session_token.get_secret_value() if access.session_token else None,
            "expires_at": None,
        }
        options["credential_provider"] = lambda: credential
    elif not access.ambient_credentials:
        options["skip_signature"] = True
    return S3Store(
        bucket,
        prefix=prefix or None,
        endpoint=endpoint,
        client_options=_client(access.endpoint),
        retry_config=_RETRY,
        **options,
    )


def _gcs(bucket: str, prefix: str, access: GcsAccess) -> Any:
    options: dict[str, Any] = {"skip_signature": False}
    if access.endpoint:
        options["base_url"] = access.endpoint
    if access.service_account_key is not None:
        options["service_account_key"] = access.service_account_key.get_secret_value()
    elif not access.ambient_credentials:
        options["skip_signature"] = True
    client = _client(access.endpoint)
    return GCSStore(bucket, prefix=prefix or None, client_options=client, retry_config=_RETRY, **options)


def _azure(container: str, prefix: str, access: AzureAccess) -> Any:
    if access.account is None:
        raise ConfigError(
            "storage.no_account",
            "an az:// URL needs the name of the storage account",
            field="azure.account",
            remedy="Set azure.account.",
        )
    options: dict[str, Any] = {"account_name": access.account, "skip_signature": False}
    options["endpoint"] = access.endpoint or f"https://{access.account}.blob.core.windows.net"
    if access.access_key is not None:
        options["account_key"] = access.access_key.get_secret_value()
    elif access.sas_token is not None:
        options["sas_key"] = access.sas_token.get_secret_value()
    elif not access.ambient_credentials:
        options["skip_signature"] = True
    client = _client(access.endpoint)
    return AzureStore(container, prefix=prefix or None, client_options=client, retry_config=_RETRY, **options)
