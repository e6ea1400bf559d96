"""Where the files of each stream are: settings become storages and patterns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.connector.files import Object, Storage, open_storage, split_url
from headrace.connector.files.formats import format_of
from headrace.connector.files.storage import WILD
from headrace.connectors.files.config import FilesConfig, stream_name
from headrace.errors import ConfigError, NotFoundError

_ANY = "**/*"


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one stream: those in `storage` that match `pattern`, and are data if `only_data`."""

    name: str
    storage: Storage
    pattern: str
    only_data: bool = False

    def files(self) -> Iterator[Object]:
        """Streamed, in no certain order."""
        for file in self.storage.glob(self.pattern):
            if not self.only_data or format_of(file.key):
                yield file

    def missing(self) -> NotFoundError:
        return NotFoundError(
            "files.no_match",
            f"no file matches {self.pattern!r} in {self.storage.url}",
            field="url",
            remedy="Check the path and the pattern: * stays within a folder, ** crosses folders"
            + (", and set format for files without a known suffix." if self.only_data else "."),
        )


def places(config: FilesConfig) -> list[Place]:
    """The streams by configuration. Looks whether a path is a file or a folder. Raises ConfigError."""
    if config.streams:
        if WILD.search(split_url(config.url)[2]) or config.stream:
            raise ConfigError(
                "files.two_patterns",
                "streams name their own patterns"
                if config.stream is None
                else "stream and streams are both given",
                field="url" if config.stream is None else "stream",
                remedy="Let url be a folder, and put the patterns into streams.",
            )
        storage = open_storage(config.url, config)
        return [Place(name, storage, _checked(pattern)) for name, pattern in config.streams.items()]
    folder, pattern = _split(config)
    name = config.stream or stream_name(folder, pattern)
    return [Place(name, open_storage(folder, config), pattern, pattern == _ANY and config.format is None)]


def _checked(pattern: str) -> str:
    if pattern.startswith("/") or ".." in pattern.split("/"):
        raise ConfigError(
            "files.pattern_outside",
            f"the pattern {pattern!r} leads out of the folder",
            field="streams",
            remedy="Write patterns relative to the folder.",
        )
    return pattern.removeprefix("./")


def _split(config: FilesConfig) -> tuple[str, str]:
    """Folder and pattern of a URL."""
    scheme, bucket, path = split_url(config.url)
    head = f"{scheme}://{bucket}/" if bucket else ""
    if not bucket and Path(path).expanduser().is_dir():
        return path, _ANY
    wild = WILD.search(path)
    if wild and not (not bucket and Path(path).expanduser().is_file()):
        folder, slash, _ = path[: wild.start()].rpartition("/")
        return head + (folder or slash or "." * (not bucket)), path[len(folder) + len(slash) :]
    folder, slash, file = path.rpartition("/")
    is_folder = not file or (bucket and not open_storage(head + folder, config).exists(file))
    if is_folder:
        return head + path, _ANY
    return head + (folder or slash or "." * (not bucket)), re.sub(r"([*?\[])", r"[\1]", file)
