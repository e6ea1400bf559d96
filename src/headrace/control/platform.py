"""The port through which the command line, and any server, does what people ask for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.connector import egress
from headrace.control.access import Guarded, operator
from headrace.control.connections import Connections
from headrace.control.connectors import Connectors, look_in
from headrace.control.pipelines import Pipelines
from headrace.control.positions import Positions
from headrace.control.runs import Runs
from headrace.errors import ConfigError
from headrace.store import MasterKeys, Store

if TYPE_CHECKING:
    from headrace.connector.upload.process import Limits
    from headrace.control.audits import Audits
    from headrace.control.content import Content
    from headrace.control.endpoint import Endpoint
    from headrace.control.files import Files, Sweep
    from headrace.control.importing import Importer
    from headrace.control.instances import Instances
    from headrace.control.keys import Keys
    from headrace.control.mail import Mailer
    from headrace.control.profiles import Profiles
    from headrace.control.registry import Registry
    from headrace.control.sessions import Sessions
    from headrace.control.settings import Settings
    from headrace.control.teams import Teams
    from headrace.control.token import SigningKeys
    from headrace.control.tokens import Tokens
    from headrace.control.users import Users
    from headrace.control.workspaces import Workspaces


class Platform:
    """All operations, over one store. May be used from several threads.

    Each takes the actor first, and is denied unless `access` grants it. Who serves others than the
    operator of this machine gets an actor from `sessions.authenticate`, and lets it enter a workspace
    with `workspaces.enter` (or `enter_of`, or `own`). What has to do with people is loaded when it is
    first used: a run needs none of it.
    """

    def __init__(self, store: Store, folder: Path, environ: Mapping[str, str], *, loopback: bool = True):
        """`loopback` says that nobody but this machine can call: registration is open then by default."""
        self._store = store
        self._folder = folder
        self._environ = environ
        self._loopback = loopback
        warehouse = environ.get("HEADRACE_WAREHOUSE") or str(folder.absolute() / "warehouse")
        self.connections = Connections(store, warehouse)
        self.connectors = Connectors(store)
        self.pipelines = Pipelines(store)
        self.runs = Runs(store)
        self.positions = Positions(store)

    @classmethod
    def open(cls, folder: Path, environ: Mapping[str, str], *, loopback: bool = True) -> Platform:
        """The platform of a data folder, which is made when it is not there.

        `HEADRACE_STORE` names another database than the SQLite file in the folder.
        """
        return cls(open_store(folder, environ), folder, environ, loopback=loopback)

    @cached_property
    def settings(self) -> Settings:
        from headrace.control.settings import Settings

        return Settings.read(self._environ)

    @cached_property
    def sessions(self) -> Sessions:
        from headrace.control.sessions import Sessions

        rule = self.settings.registration or ("open" if self._loopback else "closed")
        return Sessions(self._store, self.settings, self._signing, self.mailer, registration=rule == "open")

    @cached_property
    def users(self) -> Users:
        from headrace.control.users import Users

        return Users(self._store, self.settings)

    @cached_property
    def workspaces(self) -> Workspaces:
        from headrace.control.workspaces import Workspaces

        return Workspaces(self._store, self.settings, self.mailer)

    @cached_property
    def teams(self) -> Teams:
        from headrace.control.teams import Teams

        return Teams(self._store)

    @cached_property
    def tokens(self) -> Tokens:
        from headrace.control.tokens import Tokens

        return Tokens(self._store, self._signing)

    @cached_property
    def audits(self) -> Audits:
        from headrace.control.audits import Audits

        return Audits(self._store)

    @cached_property
    def registry(self) -> Registry:
        from headrace.control.registry import Registry

        return Registry(self._store, self.settings, self._folder / "packages", loopback=self._loopback)

    @cached_property
    def instances(self) -> Instances:
        from headrace.control.instances import Instances

        return Instances(self._store, self.registry, self.connections, self.pipelines, self.runs)

    @cached_property
    def files(self) -> Files:
        from headrace.control.files import Files

        return Files(self._store, self.settings, self._content, self._profiles, self._table_target)

    @cached_property
    def importer(self) -> Importer:
        """Who does the imports that wait."""
        from headrace.control.importing import Importer

        return Importer(self._store, self._content, self._file_limits, self._table_target)

    @cached_property
    def sweep(self) -> Sweep:
        """Who removes files that were kept long enough."""
        from headrace.control.files import Sweep

        return Sweep(self._store, self.settings, self._content)

    @cached_property
    def _content(self) -> Content:
        from headrace.control.content import Content

        return Content.open(self.settings, self._folder)

    @cached_property
    def _profiles(self) -> Profiles:
        from headrace.control.profiles import Profiles

        return Profiles(self._store, self._content, self._file_limits)

    @property
    def _file_limits(self) -> Limits:
        from headrace.connector.upload.process import Limits

        return Limits(self.settings.files_memory_mb << 20, self.settings.files_seconds)

    def _table_target(self, workspace: str) -> Endpoint:
        """Where an import of that workspace writes its table."""
        from headrace.control.endpoint import Endpoint

        found = self.connections.default_target(operator(workspace), "iceberg")
        settings = self._store.within(workspace).connections.settings(found.id)
        return Endpoint(name=found.id, connector=found.connector, settings=settings)

    @cached_property
    def mailer(self) -> Mailer:
        from headrace.control.mail import Mailer

        return Mailer(self.settings)

    @cached_property
    def _signing(self) -> SigningKeys:
        from headrace.control.token import SigningKeys

        return SigningKeys.load(self._folder, self._environ)

    @cached_property
    def keys(self) -> Keys:
        from headrace.control.keys import Keys

        return Keys(self._store)

    def restrict(self) -> None:
        """Put this process, and those it starts for runs, under the egress rule of a server: private
        networks yes, this machine only if it serves nobody else or the operator lists it."""
        networks = self.settings.allowed_networks
        egress.restrict(egress.Policy(loopback=self._loopback, listed=networks))

    def services(self) -> Iterator[Guarded]:
        """Everything that can be done here, for those who check that all of it is guarded."""
        for name in (*vars(self), *vars(type(self))):
            if not name.startswith("_") and isinstance(service := getattr(self, name), Guarded):
                yield service

    def close(self) -> None:
        if "_profiles" in self.__dict__:
            self._profiles.close()
        if "mailer" in self.__dict__:
            self.mailer.close()
        self._store.close()


def open_store(folder: Path, environ: Mapping[str, str]) -> Store:
    """The store of a data folder, as `Platform.open` finds it; the caller closes it.

    From then on the catalogue knows the connectors that were added there.
    """
    look_in(folder, environ)
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
    return Store.open(url, keys=MasterKeys.load(folder, environ))
