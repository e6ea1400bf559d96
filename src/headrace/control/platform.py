"""The port through which the command line, and any server, does what people ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headrace.control.pipelines import Pipelines
from headrace.control.positions import Positions
from headrace.control.runs import Runs
from headrace.errors import ConfigError
from headrace.store import MasterKeys, Store


class Platform:
    """Pipelines, their runs and their positions, over one store. May be used from several threads."""

    def __init__(self, store: Store):
        self._store = store
        self.pipelines = Pipelines(store)
        self.runs = Runs(store)
        self.positions = Positions(store)

    @classmethod
    def open(cls, folder: Path, environ: Mapping[str, str]) -> Platform:
        """The platform of a data folder, which is made when it is not there.

        `HEADRACE_STORE` names another database than the SQLite file in the folder.
        """
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "platform.folder",
                f"the data folder {folder} can't be made: {error.strerror}",
                field="data",
                remedy="Name a folder that you may write with --data or HEADRACE_DATA.",
            ) from None
        url = environ.get("HEADRACE_STORE") or f"sqlite:///{folder.absolute() / 'headrace.db'}"
        return cls(Store.open(url, keys=MasterKeys.load(folder, environ)))

    def close(self) -> None:
        self._store.close()
