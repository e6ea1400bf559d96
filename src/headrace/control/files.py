"""Uploaded files: taken in, looked at, and imported into a table."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pyarrow as pa

from headrace.connector.files.storage import Upload
from headrace.connector.upload.kinds import HEAD, LIMITS, MB, check_content, kind_of
from headrace.connector.upload.profile import unpack_schema
from headrace.control.access import Actor, Guarded, Permission, needs
from headrace.control.content import Content
from headrace.control.importing import Targets, columns_of
from headrace.control.profiles import Profiles
from headrace.control.settings import Settings
from headrace.errors import ConfigError, ConflictError, DataError, HeadraceError, TooLarge
from headrace.model.file import File, FileReject, FileStatus, ImportPlan, ReadOptions
from headrace.model.run import ErrorReport
from headrace.store import Page, Store
from headrace.store.files import over_quota

PATIENCE = 120.0
"""Seconds that somebody waits for a profile."""
DEFAULT_NAMESPACE = "raw_data"
_LOST = timedelta(days=1)
"""After so long an upload that has not ended never will."""
_NAME_BYTES = 255
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class Incoming:
    """A file on its way in: `write` as it comes, then `finish`; `close` always follows.

    Nobody sees anything of it before `finish`, and nothing stays when that is not reached.
    """

    def __init__(self, store: Store, content: Content, file: File, quota: int | None, done: Profiles):
        self._store, self._content, self._file, self._quota, self._profiles = (
            store,
            content,
            file,
            quota,
            done,
        )
        self._kind = kind_of(file.name)
        self._limit = LIMITS[self._kind.format]
        self._room = None if quota is None else quota - store.files.used()
        self._hash, self._size, self._head = hashlib.sha256(), 0, b""
        self._upload: Upload | None = content.create(file.key)

    def write(self, data: bytes) -> None:
        """Raises TooLarge as soon as there is too much, ConfigError for content of another kind."""
        assert self._upload is not None
        before, self._size = self._size, self._size + len(data)
        if self._size > self._limit:
            raise TooLarge(
                "files.too_large",
                f"a {self._kind.format} file may have {self._limit // MB} MiB",
                field="file",
                remedy="Send it in parts.",
            )
        if self._room is not None and self._size > self._room:
            raise over_quota(self._quota or 0)
        if before < HEAD:
            self._head += data[: HEAD - before]
            if self._size >= HEAD:
                check_content(self._kind, self._head)
        self._hash.update(data)
        self._upload.write(data)

    def finish(self) -> File:
        """The content is complete: from now on the file is there, and is looked at."""
        assert self._upload is not None
        check_content(self._kind, self._head)
        self._upload.finish()
        self._upload.close()
        self._upload = None
        try:
            file = self._store.files.add(self._sealed(), self._quota)
        except BaseException:
            self._content.remove(self._file.key)
            raise
        self._profiles.request(file)
        return file

    def _sealed(self) -> File:
        values = {name: getattr(self._file, name) for name in File.__slots__}
        return File(**values | {"size": self._size, "sha256": self._hash.hexdigest()})

    def close(self) -> None:
        if self._upload is not None:
            self._upload.close()
            self._content.remove(self._file.key)
            self._upload = None

    def __enter__(self) -> Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Files(Guarded):
    def __init__(
        self, store: Store, settings: Settings, content: Content, profiles: Profiles, targets: Targets
    ):
        super().__init__(store)
        self._settings, self._content = settings, content
        self._profiles, self._targets = profiles, targets

    @needs(Permission.FILE_WRITE, changes=True)
    def receive(self, actor: Actor, name: str) -> Incoming:
        """Begin an upload. Raises ConfigError for a name that tells no format, TooLarge when the
        workspace has no room left."""
        name = clean_name(name)
        kind = kind_of(name)
        id = str(uuid4())
        file = File(
            id=id,
            workspace=actor.place,
            name=name,
            format=kind.format,
            size=0,
            sha256="",
            key=f"tenant-{actor.place}/uploads/{id}/{name}",
            status=FileStatus.UPLOADED,
            created_at=datetime.now(UTC),
            created_by=actor.id,
        )
        megabytes = self._settings.files_quota_mb
        quota = None if megabytes is None else megabytes * MB
        return Incoming(self._in(actor), self._content, file, quota, self._profiles)

    @needs(Permission.FILE_READ)
    def get(self, actor: Actor, id: str) -> File:
        """Raises NotFoundError."""
        return self._in(actor).files.get(id)

    @needs(Permission.FILE_READ)
    def list(self, actor: Actor, *, offset: int = 0, limit: int = 50) -> Page[File]:
        """The newest first, without their profiles."""
        return self._in(actor).files.list(offset=offset, limit=limit)

    @needs(Permission.FILE_READ)
    def preview(self, actor: Actor, id: str, *, wait: float = PATIENCE) -> File:
        """The file with its profile.

        Raises DataError or ConfigError for a file that can't be read, ConflictError (`files.removed`)
        when its content is gone, NotReady after `wait` seconds.
        """
        files = self._in(actor).files
        file = files.get(id)
        _refuse_unreadable(file)
        if file.profile is None:
            self._profiles.get(file, wait)
        return files.begin_preview(id)

    @needs(Permission.FILE_WRITE, changes=True)
    def plan(
        self,
        actor: Actor,
        id: str,
        plan: ImportPlan,
        options: ReadOptions | None = None,
        *,
        wait: float = PATIENCE,
    ) -> File:
        """Say where the rows go, and how the file is read: None leaves that.

        Raises what `preview` raises, ConfigError that names the field, and ConflictError
        (`store.file_state`) for a file that is being imported or was.
        """
        _check_plan(plan)
        files = self._in(actor).files
        plan = replace(plan, namespace=plan.namespace or self._namespace(actor))
        file = files.get(id)
        if file.status in (FileStatus.IMPORTING, FileStatus.COMPLETED):
            return files.plan(id, plan, file.options)  # which refuses
        if options is not None and options != file.options:
            file = files.plan(id, None, options)
        _refuse_unreadable(file)
        profile = self._profiles.get(file, wait)
        _check_columns(plan, unpack_schema(profile))
        return files.plan(id, plan, file.options)

    def _namespace(self, actor: Actor) -> str:
        """Where the tables of a workspace's imports are, unless somebody says otherwise."""
        extras = self._store.workspaces.get(actor.place).extras
        return str(extras.get("default_namespace") or DEFAULT_NAMESPACE)

    @needs(Permission.FILE_WRITE, changes=True)
    def start(self, actor: Actor, id: str) -> File:
        """The import is wanted; a worker does it. Raises ConfigError (`files.no_plan`) without a plan,
        or without a target, and ConflictError (`store.file_state`) unless it may begin now."""
        files = self._in(actor).files
        file = files.get(id)
        if file.status not in (FileStatus.IMPORTING, FileStatus.COMPLETED):
            if file.plan is None or file.profile is None:
                raise ConfigError(
                    "files.no_plan",
                    f"no table is set for {file.name}",
                    field="table",
                    remedy="Set the schema of the import first.",
                )
            _refuse_unreadable(file)
            self._targets(actor.place)
        return files.start(id)

    @needs(Permission.FILE_READ)
    def rejects(self, actor: Actor, id: str, *, offset: int = 0, limit: int = 50) -> Page[FileReject]:
        """The first rows that could not be imported, in the order of the file."""
        return self._in(actor).files.rejects(id, offset=offset, limit=limit)

    @needs(Permission.FILE_WRITE, changes=True)
    def delete(self, actor: Actor, id: str) -> None:
        """The file and its content; what was imported stays. Raises ConflictError while it is imported."""
        files = self._in(actor).files
        file = files.get(id)
        files.delete(id)
        self._content.remove(file.key)


class Sweep:
    """Removes content that has been kept long enough, and what uploads that died have left."""

    def __init__(self, store: Store, settings: Settings, content: Content):
        self._store, self._content = store, content
        self._kept = timedelta(days=settings.files_retention_days)

    def run(self, now: datetime | None = None) -> int:
        """How many files' content was removed."""
        now = now or datetime.now(UTC)
        imports = self._store.imports
        old = imports.outdated(now - self._kept)
        for kept in old:
            imports.removed([kept.file])  # first, so that nobody counts on it
            self._content.remove(kept.key)
        found = self._content.leftovers(now - _LOST)
        for id in imports.unknown(list(found)):
            for key in found[id]:
                self._content.remove(key)
        self._content.drop_unfinished(now - _LOST)
        return len(old)


def clean_name(text: str) -> str:
    """The base name without control characters, of at most 255 bytes. Raises ConfigError."""
    name = re.split(r"[/\\]", text)[-1]
    name = "".join(c for c in name if c.isprintable()).strip().lstrip(".")
    name = name.encode(errors="ignore").decode()
    stem, dot, ending = name.partition(".")
    over = len(name.encode()) - _NAME_BYTES
    if over > 0:
        stem = stem.encode()[: max(1, len(stem.encode()) - over)].decode(errors="ignore")
        name = stem + dot + ending
    if not stem or len(name.encode()) > _NAME_BYTES:
        raise ConfigError(
            "files.name", "the file has no usable name", field="file", remedy="Give the file a name."
        )
    return name


def _refuse_unreadable(file: File) -> None:
    if file.removed:
        raise ConflictError(
            "files.removed",
            f"the content of {file.name} is no longer kept",
            remedy="Upload the file again.",
        )
    if file.status is FileStatus.FAILED and file.profile is None and file.error is not None:
        raise _unreadable(file.error)


def _unreadable(told: ErrorReport) -> HeadraceError:
    kind = DataError
    return kind(told.code, told.message, field=told.field, remedy=told.remedy)


def _check_plan(plan: ImportPlan) -> None:
    if not _NAME.fullmatch(plan.table):
        raise ConfigError(
            "files.table_name",
            "the table's name has letters, digits and underscores, up to 128, and no digit first",
            field="table",
            remedy="Choose another name.",
        )
    if plan.namespace and not all(_NAME.fullmatch(part) for part in plan.namespace.split(".")):
        raise ConfigError(
            "files.namespace",
            "each part of the namespace has letters, digits and underscores, up to 128, and no digit first",
            field="namespace",
            remedy="Choose another namespace.",
        )
    if plan.max_rejected is not None and plan.max_rejected < 0:
        raise ConfigError(
            "files.max_rejected",
            "the number of rows that may be rejected is 0 or more",
            field="max_rejected",
            remedy="Give a number, or leave it out for no limit.",
        )


def _check_columns(plan: ImportPlan, schema: pa.Schema) -> None:
    for field, given in (("columns", plan.columns.keys()), ("types", plan.types.keys())):
        for name in given:
            if name not in schema.names:
                shown = ", ".join(schema.names[:20])
                raise ConfigError(
                    "files.no_column", f"the file has no column {name!r}", field=field,
                    remedy=f"It has: {shown}.",
                )  # fmt: skip
    names = [column.name for column in columns_of(plan, schema).values()]
    if not names:
        raise ConfigError(
            "files.nothing_left", "no column is left to import", field="columns", remedy="Keep one at least."
        )
    seen: set[str] = set()
    for name in names:
        if name.lower() in seen:
            raise ConfigError(
                "files.same_column",
                f"two columns would be named {name!r}, capitals aside",
                field="columns",
                remedy="Give each column a name of its own.",
            )
        seen.add(name.lower())
