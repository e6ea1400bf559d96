"""Profiles of uploaded files: made once each, in the background, by a process with bounds."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late

from headrace.connector.upload.process import Limits, Parsing
from headrace.control.content import Content
from headrace.errors import ConfigError, DataError, NotFoundError, NotReady
from headrace.model.file import File, FileProfile
from headrace.model.run import ErrorReport
from headrace.store import Store

PARALLEL = 2
"""Files that are read at the same time, in this process."""


class Profiles:
    def __init__(self, store: Store, content: Content, limits: Limits):
        self._store, self._content, self._limits = store, content, limits
        self._pool = ThreadPoolExecutor(PARALLEL, "headrace-profile")
        self._lock = threading.Lock()
        self._running: dict[object, Future[FileProfile]] = {}
        self._parsing: set[Parsing] = set()

    def request(self, file: File) -> Future[FileProfile]:
        """Begin with the profile, or join who makes it already."""
        wanted = file.id, file.options
        with self._lock:
            if wanted not in self._running:
                future = self._pool.submit(self._make, file)
                self._running[wanted] = future
                future.add_done_callback(lambda _: self._running.pop(wanted, None))
                return future
            return self._running[wanted]

    def get(self, file: File, wait: float) -> FileProfile:
        """The file's profile, made now if there is none.

        Raises DataError or ConfigError for a file that can't be read, and NotReady when it takes
        longer than `wait` seconds.
        """
        if file.profile is not None:
            return file.profile
        try:
            return self.request(file).result(wait)
        except Late:
            raise NotReady(
                "files.not_ready",
                f"{file.name} is still being read",
                remedy="Ask again in a few seconds.",
            ) from None

    def close(self) -> None:
        """What is under way is given up."""
        with self._lock:
            for parsing in self._parsing:
                parsing.interrupt()
        self._pool.shutdown(cancel_futures=True)

    def _make(self, file: File) -> FileProfile:
        files = self._store.within(file.workspace).files
        try:
            found = self._read(file)
        except NotFoundError:
            raise
        except (DataError, ConfigError) as error:
            files.save_profile(file.id, file.options, ErrorReport.of(error))
            raise
        files.save_profile(file.id, file.options, found)
        return found

    def _read(self, file: File) -> FileProfile:
        with (
            self._content.borrow(file.key) as content,
            Parsing.of(file, content, self._limits) as parsing,
        ):
            self._parsing.add(parsing)
            try:
                return parsing.profile()
            finally:
                self._parsing.discard(parsing)
