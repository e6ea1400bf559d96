"""Run the command line for a test: in this process, or as a user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.main import invoke
from tests.waiting import HANGS

COMMAND = Path(sys.executable).with_name("headrace")


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """stdout, which must be one JSON document."""
        document: dict[str, Any] = json.loads(self.out)
        assert document["version"] == 1
        return document

    @property
    def events(self) -> list[dict[str, Any]]:
        """stdout, which must be NDJSON."""
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Result]


def in_process(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Call it as `cli("run", "--from", …)`."""

    def run(*arguments: str) -> Result:
        capsys.readouterr()
        code = invoke(list(arguments))
        shown = capsys.readouterr()
        return Result(code, shown.out, shown.err)

    return run


def process(*arguments: str, folder: Path, **environ: str) -> Result:
    """A process of its own, off a terminal."""
    done = subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, cwd=folder, env={**os.environ, **environ},
        stdin=subprocess.DEVNULL, check=False, timeout=HANGS,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


class Process:
    """A process that goes on, whose stderr can be waited for."""

    def __init__(self, *arguments: str, folder: Path, **environ: str):
        self._process = subprocess.Popen(
            [COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, **environ}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._err: list[str] = []
        self._out: list[str] = []
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(self._process.stderr, self._err)),
            threading.Thread(target=self._read, args=(self._process.stdout, self._out)),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, lines: list[str]) -> None:
        for line in stream:
            with self._changed:
                lines.append(line)
                self._changed.notify_all()
        stream.close()

    def wait_for(self, word: str) -> None:
        """Until `word` was printed."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: any(word in line for line in self._err + self._out), HANGS
            ), f"{word!r} was not printed: {''.join(self._err)}"

    def line(self, word: str) -> str:
        """The first line with `word` in it, once it was printed."""
        self.wait_for(word)
        return next(line for line in self._err + self._out if word in line)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def said(self) -> list[str]:
        """The lines of stderr so far."""
        with self._changed:
            return list(self._err)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> Result:
        """Its result, once it ends by itself."""
        try:
            code = self._process.wait(HANGS)
        finally:
            self._process.kill()
            self._process.wait()
            for reader in self._readers:
                reader.join()
        return Result(code, "".join(self._out), "".join(self._err))
