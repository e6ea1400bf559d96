"""The registry of connectors: what is built in, what packages bring, and its way from draft to retired."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO

from headrace import catalog
from headrace.control.access import OPERATOR, Actor, Guarded, Permission, allow, needs
from headrace.control.builtin import built_in
from headrace.control.form import Form, read_form
from headrace.control.package import Brought, Contents, doubts, read_package
from headrace.control.settings import Settings
from headrace.control.unpack import MIB, Refused, unpack_apart
from headrace.errors import ConfigError, ConflictError, HeadraceError, NotFoundError
from headrace.model.registry import Origin, Package, RegistryEntry, RegistryStatus
from headrace.store import Store

UPLOAD_BYTES = 200 * MIB
_LEFT_BEHIND = 24 * 3600  # seconds after which a folder that was being filled is nobody's any more
_BLOCK = 1 << 20


class Registry(Guarded):
    """Of the whole installation. Packages lie unpacked in `folder`, each under its SHA-256."""

    def __init__(self, store: Store, settings: Settings, folder: Path, *, loopback: bool):
        """Raises ConfigError where nobody is asked who registers, though others can call."""
        super().__init__(store)
        self._settings = settings
        self._folder = folder
        if settings.obsrv_register_auth == "none" and not loopback:
            raise ConfigError(
                "registry.open_to_all",
                "without a sign-in whoever reaches this server could upload code",
                field="HEADRACE_OBSRV_REGISTER_AUTH",
                remedy="Set it to admin, or let the server listen on 127.0.0.1 only.",
            )

    @needs(Permission.ANYONE)
    def list(
        self,
        *,
        by: Actor | None = None,
        statuses: Collection[RegistryStatus] = (),
        categories: Collection[str] = (),
    ) -> Sequence[RegistryEntry]:
        """By id, with these statuses and categories, or with any. Raises SignInNeeded for nobody where the
        catalogue is not public."""
        self._look(by)
        return [
            entry
            for entry in self._everything()
            if (not statuses or entry.status in statuses) and (not categories or entry.category in categories)
        ]

    @needs(Permission.ANYONE)
    def read(
        self, id: str, *, by: Actor | None = None, status: RegistryStatus = RegistryStatus.LIVE
    ) -> RegistryEntry:
        """Raises NotFoundError unless it has that status; and as `list`."""
        self._look(by)
        found = self._find(id)
        if found.status is not status:
            raise NotFoundError("registry.other_status", f"there is no {status.value} entry {id}")
        return found

    @needs(Permission.SIGNED_IN)
    def form(self, actor: Actor, id: str) -> Form:
        """What is to be filled in to use the entry, whatever its status. Raises NotFoundError."""
        return read_form(self._find(id).ui_spec)

    @needs(Permission.SIGNED_IN)
    def packages(self, actor: Actor) -> Sequence[Package]:
        """Every package that an entry of the registry came from, by digest."""
        brought: dict[str, list[RegistryEntry]] = {}
        for entry in self._store.registry.list():
            if entry.origin.digest is not None:
                brought.setdefault(entry.origin.digest, []).append(entry)
        return [
            Package(
                digest=digest,
                folder=self._folder / digest / str(entries[0].origin.program.get("source")),
                contract=entries[0].origin.contract,
                runnable=entries[0].origin.runnable,
                reason=entries[0].origin.reason,
                entries=tuple(entry.id for entry in entries),
            )
            for digest, entries in sorted(brought.items())
        ]

    @needs(Permission.ADMINISTER, changes=True)
    def installed(self, actor: Actor, digest: str, connector: str) -> None:
        """The package of that digest is this connector of the catalogue from now on.

        A package that was entered again, with other content, has to be installed again. Raises
        NotFoundError for what is not in the catalogue.
        """
        catalog.connector(connector)
        self._store.registry.name(digest, connector)

    @needs(Permission.ANYONE)
    def registrar(self, *, by: Actor | None) -> Actor:
        """Who registers when this one calls: ask before a package is received.

        Nobody is the operator of this machine where HEADRACE_OBSRV_REGISTER_AUTH is `none`. Raises
        SignInNeeded, AuthError.
        """
        if by is None and self._settings.obsrv_register_auth == "none":
            return OPERATOR
        allow(by, Permission.ADMINISTER)
        assert by is not None
        return by

    @needs(Permission.ADMINISTER, changes=True)
    def register(self, actor: Actor, archive: str, content: IO[bytes]) -> Sequence[RegistryEntry]:
        """Enter what a package brings, all of it or nothing; `archive` is the name of its file.

        A refusal is in the audit log too. Raises ConfigError `registry.too_large`, `registry.not_unpacked`,
        what `read_package` raises, and ConflictError `registry.not_stored`, whose `field` is the connector.
        """
        try:
            return self._register(archive, content)
        except HeadraceError as error:
            given = {"archive": archive, "refused": error.message}
            self.note(actor, "registry.refuse", given, None)
            raise

    @needs(Permission.ADMINISTER, changes=True)
    def validate(self, actor: Actor, id: str) -> RegistryEntry:
        """Look at a draft's package again: it waits for approval then, or stays a draft with a report.

        Raises NotFoundError, ConflictError (`store.registry_status`) for what is no draft.
        """
        found = self._doubts(self._store.registry.get(id))
        status = RegistryStatus.DRAFT if found else RegistryStatus.IN_VALIDATION
        return self._store.registry.move(id, status, of=RegistryStatus.DRAFT, report=list(found))

    @needs(Permission.ADMINISTER, changes=True)
    def approve(self, actor: Actor, id: str) -> RegistryEntry:
        """Make live what was validated; other live versions are retired. Raises as `validate`."""
        return self._store.registry.move(id, RegistryStatus.LIVE, of=RegistryStatus.IN_VALIDATION)

    @needs(Permission.ADMINISTER, changes=True)
    def retire(self, actor: Actor, id: str) -> RegistryEntry:
        """Take a live entry out of the catalogue; what runs it goes on. Raises as `validate`."""
        return self._store.registry.move(id, RegistryStatus.RETIRED, of=RegistryStatus.LIVE)

    @needs(Permission.ADMINISTER, changes=True)
    def take_over(self, actor: Actor, entries: Sequence[RegistryEntry]) -> Sequence[RegistryEntry]:
        """Enter rows of another registry as they are, without their packages: those run that have the id of
        a built-in one, by our own connector.

        Raises ConflictError (`store.registry_taken`); nothing is entered then.
        """
        ours = {entry.id: entry.origin for entry in built_in() if entry.origin.runnable}
        return self._store.registry.put(
            [
                replace(e, origin=replace(ours[e.id], archive=e.origin.archive, program=e.origin.program))
                if e.id in ours
                else e
                for e in entries
            ]
        )

    def _look(self, by: Actor | None) -> None:
        if not self._settings.obsrv_public_catalogue:
            allow(by, Permission.SIGNED_IN)

    def _everything(self) -> Sequence[RegistryEntry]:
        """By id. What a package brought, or another registry held, stands before what is built in."""
        stored = self._store.registry.list()
        taken = {entry.id for entry in stored}
        ours = [e for e in built_in() if e.id not in taken] if self._settings.obsrv_builtin_rows else []
        return sorted((*ours, *stored), key=lambda entry: entry.id)

    def _find(self, id: str) -> RegistryEntry:
        try:
            return self._store.registry.get(id)
        except NotFoundError:
            found = next((e for e in built_in() if e.id == id), None)
            if found is None or not self._settings.obsrv_builtin_rows:
                raise
            return found

    def _register(self, archive: str, content: IO[bytes]) -> Sequence[RegistryEntry]:
        with self._work() as work:
            packed, tree = work / "package", work / "tree"
            digest = _receive(content, packed)
            tree.mkdir(mode=0o700)
            try:
                unpack_apart(packed, tree, zipped=archive.lower().endswith(".zip"))
            except Refused as refused:
                raise ConfigError(
                    "registry.not_unpacked",
                    f"the package can't be unpacked: {refused}",
                    remedy="Pack regular files and folders only, as zip or tar.",
                ) from None
            contents = read_package(tree)
            with suppress(OSError):  # who was here before has the same content
                tree.rename(self._folder / digest)
            if not (self._folder / digest).is_dir():
                raise ConfigError(
                    "registry.folder", "the package can't be kept", remedy="Check the data folder."
                )
        return self._enter(archive, digest, contents)

    def _enter(self, archive: str, digest: str, contents: Contents) -> Sequence[RegistryEntry]:
        status = RegistryStatus.DRAFT if self._settings.obsrv_review else RegistryStatus.LIVE
        entries = [_entry(brought, status, contents) for brought in contents.connectors]
        stored = _stored_name(archive)
        entries = [replace(e, origin=replace(e.origin, archive=stored, digest=digest)) for e in entries]
        try:
            return self._store.registry.put(entries)
        except HeadraceError as error:
            raise ConflictError(
                "registry.not_stored",
                f"the package can't be entered: {error.message}",
                field=contents.connectors[0].connector_id,
                remedy=error.remedy,
            ) from None

    def _doubts(self, entry: RegistryEntry) -> Sequence[str]:
        found = [*doubts(entry.version, entry.category, entry.technology), *read_form(entry.ui_spec).warnings]
        if entry.origin.digest is None or not (self._folder / entry.origin.digest).is_dir():
            found.append("its package is not here")
        return found

    @contextmanager
    def _work(self) -> Iterator[Path]:
        """A folder of its own that goes in the end, whatever becomes of the work."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in self._folder.glob(".work-*"):
            with suppress(OSError):
                if time.time() - old.stat().st_mtime > _LEFT_BEHIND:
                    shutil.rmtree(old)
        with tempfile.TemporaryDirectory(prefix=".work-", dir=self._folder) as name:
            yield Path(name)


def _receive(content: IO[bytes], packed: Path) -> str:
    """Keep the upload in a file; gives its SHA-256."""
    hashed, size = hashlib.sha256(), 0
    with os.fdopen(os.open(packed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        while block := content.read(_BLOCK):
            size += len(block)
            if size > UPLOAD_BYTES:
                raise ConfigError(
                    "registry.too_large",
                    f"the package has more than {UPLOAD_BYTES} bytes",
                    remedy="Leave out what it does not need.",
                )
            hashed.update(block)
            file.write(block)
    return hashed.hexdigest()


def _entry(brought: Brought, status: RegistryStatus, contents: Contents) -> RegistryEntry:
    now = datetime.now(UTC)
    return RegistryEntry(
        id=f"{brought.connector_id}-{brought.version}",
        connector_id=brought.connector_id,
        name=brought.name,
        category=brought.category,
        version=brought.version,
        description=brought.description,
        technology=brought.technology,
        runtime=brought.runtime,
        licence=brought.licence,
        owner=brought.owner,
        icon=brought.icon,
        status=status,
        ui_spec=brought.ui_spec,
        origin=Origin(
            contract=contents.contract,
            runnable=contents.runnable,
            reason=contents.reason,
            report=brought.report,
            program=brought.program,
        ),
        created_at=now,
        updated_at=now,
    )


def _stored_name(archive: str) -> str:
    """The name of the file with six digits that no other has."""
    path = PurePosixPath(archive)
    return f"{path.stem}_{secrets.token_hex(3)}{path.suffix}"
