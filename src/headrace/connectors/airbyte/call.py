"""One call of a connector: a folder and files that only it sees, an environment from nothing, a process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from headrace.connectors.airbyte.installed import Installed
from headrace.connectors.airbyte.process import Process
from headrace.connectors.airbyte.rules import Rules, memory_folder

_PREFIX = "headrace-call-"
_FORGOTTEN = 3600  # seconds after which a folder without a lock belongs to nobody


class Folder:
    """A new folder for one call, locked while it is in use; its `close` removes it."""

    def __init__(self, place: Path | None, rules: Rules):
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        self._owner = rules.user
        self._lock = os.open(self.path / ".lock", os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._give(self.path)

    def write(self, name: str, content: bytes) -> Path:
        path = self.path / name
        with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(content)
        self._give(path)
        return path

    def close(self) -> None:
        remove(self.path)
        os.close(self._lock)

    def _give(self, path: Path) -> None:
        if self._owner:
            os.chown(path, self._owner.pw_uid, self._owner.pw_gid)


def remove(folder: Path) -> None:
    """Remove a folder with all that a foreign program left in it, however it was left."""

    def again(function: Callable[..., Any], path: str, _: Any) -> None:
        with contextlib.suppress(OSError):
            Path(path).parent.chmod(stat.S_IRWXU)
            if not Path(path).is_symlink():
                Path(path).chmod(stat.S_IRWXU)
            function(path)

    shutil.rmtree(folder, onerror=again)
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove what calls of dead processes left behind."""
    for place in {Path(tempfile.gettempdir()), memory_folder() or Path(tempfile.gettempdir())}:
        for folder in place.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if folder.stat().st_uid == os.geteuid() or os.geteuid() == 0:
                    _sweep(folder)


def _sweep(folder: Path) -> None:
    try:
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        if time.time() - folder.stat().st_mtime > _FORGOTTEN:
            remove(folder)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(folder)
    finally:
        os.close(lock)


def environment(installed: Installed, home: Path, rules: Rules) -> dict[str, str]:
    """All that a connector gets to know of the machine."""
    known = {
        "PATH": f"{installed.folder / 'venv/bin'}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONUNBUFFERED": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if rules.ca_bundle:
        known |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), rules.ca_bundle)
    if rules.proxy:
        known |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), rules.proxy)
    return known


class Call(contextlib.ExitStack):
    """A connector at work: `process` is started on entering and gone after leaving, as are its files."""

    process: Process

    def __init__(
        self,
        installed: Installed,
        rules: Rules,
        verb: str,
        files: Mapping[str, bytes],
        *,
        seconds: float | None = None,
        said: Callable[[str], None] = lambda line: None,
    ):
        """`files` are by the option that names them: config, catalog, state."""
        super().__init__()
        sweep()
        try:
            home = Folder(None, rules)
            self.callback(home.close)
            papers = Folder(memory_folder(), rules)
            self.callback(papers.close)
            command = [
                str(installed.folder / part) if part.startswith("venv/") else part
                for part in installed.command
            ]
            command.append(verb)
            for option, content in files.items():
                command += [f"--{option}", str(papers.write(f"{option}.json", content))]
            environ = environment(installed, home.path, rules)
            self.process = self.enter_context(
                Process(command, home.path, environ, rules, seconds=seconds, said=said)
            )
        except BaseException:
            self.close()
            raise
