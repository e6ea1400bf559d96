"""Where files lie: one interface over a local folder and the object stores, with atomic creates."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import IO
from urllib.parse import urlsplit

from headrace.connector.config import Config, Secret, setting
from headrace.errors import ConfigError, NotFoundError

SCHEMES = ("file", "s3", "gs", "az")
SECTIONS = {"s3": "s3", "gs": "gcs", "az": "azure"}
WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Object:
    """One file as it was when listed. `key` is relative to the storage's URL, with forward slashes.

    `modified` is UTC. `etag` differs when the content does: the store's own, or size and nanoseconds
    of the last change in a local folder.
    """

    key: str
    size: int
    modified: datetime
    etag: str


class S3Access(Config):
    """How to reach S3 or a store that speaks its protocol."""

    region: str = setting("Region of the bucket.", default="us-east-1")
    endpoint: str | None = setting(
        "Address of a store other than AWS, with http:// or https://.", default=None, pattern="^https?://"
    )
    access_key_id: str | None = setting("Access key.", default=None)
    secret_access_key: Secret | None = setting("Secret that belongs to the access key.", default=None)
    session_token: Secret | None = setting("Token of temporary credentials.", default=None)
    path_style: bool | None = setting(
        "Put the bucket into the path, not the host name; the default does so for an endpoint of your own.",
        default=None,
        advanced=True,
    )
    ambient_credentials: bool = setting(
        "Take credentials from the environment or the machine's role when none are given here.", default=False
    )


class GcsAccess(Config):
    """How to reach Google Cloud Storage."""

    service_account_key: Secret | None = setting("The service account's key, as JSON text.", default=None)
    endpoint: str | None = setting(
        "Address of an emulator.", default=None, advanced=True, pattern="^https?://"
    )
    ambient_credentials: bool = setting(
        "Take credentials from the environment or the machine's role when none are given here.", default=False
    )


class AzureAccess(Config):
    """How to reach Azure Blob Storage."""

    account: str | None = setting("Name of the storage account.", default=None)
    access_key: Secret | None = setting("Key of the storage account.", default=None)
    sas_token: Secret | None = setting("Shared access signature, in place of the key.", default=None)
    endpoint: str | None = setting(
        "Address of an emulator.", default=None, advanced=True, pattern="^https?://"
    )
    ambient_credentials: bool = setting(
        "Take credentials from the environment or the machine's role when none are given here.", default=False
    )


class StorageConfig(Config):
    """The settings that a connector over `Storage` shares; a subclass adds its own."""

    root: str | None = setting(
        "Local folder that must hold every file; the default is the folder of the URL itself.",
        default=None,
        advanced=True,
    )
    s3: S3Access = setting("Access to s3:// URLs.", default=S3Access())
    gcs: GcsAccess = setting("Access to gs:// URLs.", default=GcsAccess())
    azure: AzureAccess = setting("Access to az:// URLs.", default=AzureAccess())


class Upload(io.RawIOBase):
    """A file being written: nobody sees it before `finish`, and never without its whole content.

    `finish` makes it durable and visible and takes the place of a file of that key; closing without
    it drops what was written. As a context manager it finishes unless the block raised.
    """

    def writable(self) -> bool:
        return True

    def finish(self) -> None:
        raise NotImplementedError

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.finish()
        self.close()


class Storage(ABC):
    """Files under one URL. Safe to use from several threads. Errors are ours.

    Keys are relative to `url`, use forward slashes and hold no `..`.
    """

    url: str
    """The place as people know it; holds no credentials."""

    @abstractmethod
    def list(self, prefix: str = "", *, deep: bool = True) -> Iterator[Object]:
        """Every file under the folder `prefix`, streamed; without `deep`, only those right in it.

        Uploads that are not finished don't appear. Raises NotFoundError if the bucket or the local
        base folder is not there; an empty or missing `prefix` yields nothing.
        """

    def unfinished(self, prefix: str = "") -> Iterator[Object]:
        """Uploads under the folder `prefix` that `list` hides: under way, or left by a process that died.

        None in object stores, which keep them out of sight until a rule of theirs does away with them.
        """
        return iter(())

    @abstractmethod
    def stat(self, key: str) -> Object:
        """The file as it is now. Raises NotFoundError."""

    @abstractmethod
    def open(self, file: Object) -> IO[bytes]:
        """A seekable binary reader; the caller closes it.

        Reads the very version that `file` describes: once it changed or went away, opening or reading
        raises TransientError (`storage.changed`). Reading ahead is bounded to 24 MiB.
        """

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write a small file whole, over what is there: readers see the old or the new content."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a small file whole unless the key is taken; False if it is. Atomic among all writers."""

    @abstractmethod
    def create(self, key: str) -> Upload:
        """Write a large file, streamed."""

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Remove files; those that are gone already don't matter."""

    def exists(self, key: str) -> bool:
        try:
            self.stat(key)
        except NotFoundError:
            return False
        return True

    def read(self, key: str) -> bytes:
        """A small file's whole content. Raises NotFoundError."""
        with self.open(self.stat(key)) as file:
            return file.read()

    def glob(self, pattern: str) -> Iterator[Object]:
        """The files whose key matches: `*` and `?` stay within a folder, `**` crosses folders.

        Names that start with a dot or an underscore are only found by a pattern that spells that out.
        """
        folder = pattern[: WILD.search(pattern + "*").start()].rpartition("/")[0]  # type: ignore[union-attr]
        rest = pattern[len(folder) :].lstrip("/")
        matches = _regex(pattern).fullmatch
        for file in self.list(folder, deep="/" in rest or "**" in rest):
            if matches(file.key):
                yield file


def open_storage(url: str, access: StorageConfig) -> Storage:
    """The storage at a folder URL (`s3://bucket/path`, `gs://`, `az://`, `file:`, a plain path).

    Connects to nothing yet. A local folder need not exist. Raises ConfigError.
    """
    scheme, bucket, path = split_url(url)
    if scheme == "file":
        from headrace.connector.files.local import LocalStorage

        return LocalStorage(path, root=access.root)
    from headrace.connector.files.remote import RemoteStorage

    return RemoteStorage(scheme, bucket, path.strip("/"), access)


def split_url(url: str) -> tuple[str, str, str]:
    """Scheme, bucket and path of a URL; the bucket is empty for a local path. Raises ConfigError."""
    scheme, colon, rest = url.partition(":")
    if not colon or "/" in scheme or scheme not in SCHEMES:
        if colon and rest.startswith("//"):
            raise ConfigError(
                "storage.scheme",
                f"no storage answers to {scheme!r}",
                field="url",
                remedy=f"A URL starts with one of {', '.join(s + ':' for s in SCHEMES)} or is a local path.",
            )
        return "file", "", url
    if scheme == "file":
        if rest.startswith("//"):
            host, _, path = rest[2:].partition("/")
            if host not in ("", "localhost"):
                raise ConfigError(
                    "storage.file_host",
                    f"file URL names the host {host!r}",
                    field="url",
                    remedy="Write file:///absolute/path, or file:relative/path.",
                )
            rest = "/" + path
        return "file", "", rest or "."
    if "@" in urlsplit(url).netloc:
        raise ConfigError(
            "storage.userinfo",
            f"the {scheme} URL holds credentials",
            field="url",
            remedy=f"Put them into the settings under {SECTIONS[scheme]}.",
        )
    bucket, _, path = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not bucket:
        raise ConfigError(
            "storage.bucket",
            f"{url!r} names no bucket",
            field="url",
            remedy=f"Write {scheme}://bucket/path.",
        )
    return scheme, bucket, path


def _regex(pattern: str) -> re.Pattern[str]:
    """A glob as a regular expression over a whole key."""
    out, at = [], 0
    while at < len(pattern):
        start = at == 0 or pattern[at - 1] == "/"
        plain = "(?![._])" if start else ""
        if start and pattern.startswith("**/", at):
            out.append("(?:(?![._])[^/]+/)*")
            at += 3
        elif pattern.startswith("**", at):
            out.append(plain + "(?:[^/]|/(?![._]))*")
            at += 2
        elif pattern[at] == "*":
            out.append(plain + "[^/]*")
            at += 1
        elif pattern[at] == "?":
            out.append(plain + "[^/]")
            at += 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            inner = pattern[at + 1 : end].replace("\\", r"\\").replace("[", r"\[")
            out.append(plain + "[" + ("^/" + inner[1:] if inner[0] in "!^" else inner) + "]")
            at = end + 1
        else:
            out.append(re.escape(pattern[at]))
            at += 1
    try:
        return re.compile("".join(out), re.DOTALL)
    except re.error:
        raise ConfigError(
            "storage.glob", f"{pattern!r} is not a file pattern", field="url", remedy="Check its brackets."
        ) from None
