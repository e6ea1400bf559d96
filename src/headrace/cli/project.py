"""headrace.yaml: connections and pipelines by name, every mistake with its line."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from headrace import catalog
from headrace.cli.reference import resolve
from headrace.cli.schema import Entry, PipelineEntry, ProjectEntry
from headrace.control.endpoint import Endpoint
from headrace.errors import ConfigError, HeadraceError, NotFoundError

_FIX = "Correct the file; `headrace validate` shows every mistake in it."

EntryT = TypeVar("EntryT", bound=Entry)
Path_ = tuple[str | int, ...]


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project file that was read; connections and pipelines are validated as they are asked for."""

    file: Path
    document: Mapping[str, Any] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)

    @property
    def connections(self) -> list[str]:
        return self._names("connections")

    @property
    def pipelines(self) -> list[str]:
        return self._names("pipelines")

    def _names(self, kind: str) -> list[str]:
        named = self.document.get(kind)
        return list(named) if isinstance(named, Mapping) else []

    def connection(self, name: str) -> Endpoint:
        """A connection with its references filled in. Raises NotFoundError and ConfigError."""
        self._known("connections", name)
        path: Path_ = ("connections", name)
        raw = self._filled(path)
        if not isinstance(raw, dict) or not ("connector" in raw or "url" in raw):
            raise self._error(path, f"the connection {name!r} needs `connector` or `url`", remedy=_FIX)
        try:
            if "connector" in raw:
                spec, settings = catalog.connector(str(raw.pop("connector"))), raw
            else:
                # filled in only after it was taken apart: a secret needs no escaping then
                spec, parts = catalog.from_url(str(self._plain((*path, "url"))))
                del raw["url"]
                settings = {**self._fill((*path, "url"), parts), **raw}
            spec.config.parse(settings)
        except (ConfigError, NotFoundError) as error:
            raise self._at(path, error) from None
        return Endpoint(name=name, connector=spec.name, settings=settings)

    def pipeline(self, name: str) -> PipelineEntry:
        """A pipeline with its references filled in. Raises NotFoundError and ConfigError."""
        self._known("pipelines", name)
        entry = _validate(self, PipelineEntry, self._filled(("pipelines", name)), ("pipelines", name))
        for side, connection in (("from", entry.source), ("to", entry.target)):
            if connection not in self.connections:
                raise self._error(
                    ("pipelines", name, side),
                    f"there is no connection {connection!r}",
                    remedy=_nearest(connection, self.connections, "The connections here"),
                )
        return entry

    def pipeline_id(self, name: str) -> str:
        """Stable, so that a target knows its pipeline again even when our own state is gone."""
        project = self.document.get("project")
        return f"{project}/{name}" if project else name

    def mistakes(self) -> Iterator[HeadraceError]:
        """Everything that is wrong with the file."""
        for found in _found_by(ProjectEntry, self._whole()):
            yield self._mistake(ProjectEntry, found, ())
        for name in self.connections:
            try:
                self.connection(name)
            except HeadraceError as error:
                yield error
        for name in self.pipelines:
            yield from self._mistakes_in(name)

    def _mistakes_in(self, name: str) -> Iterator[HeadraceError]:
        """All that is wrong with a pipeline."""
        path: Path_ = ("pipelines", name)
        plain = self._plain(path)
        wrong = [f for f in _found_by(PipelineEntry, plain) if not _refers(plain, f["loc"])]
        yield from (self._mistake(PipelineEntry, found, path) for found in wrong)
        try:
            if wrong:
                self._filled(path)  # a variable that is not set is a mistake of its own
                return
            entry = self.pipeline(name)
        except HeadraceError as error:
            yield error
            return
        for side, connection, find in (
            ("from", entry.source, catalog.readable),
            ("to", entry.target, catalog.writable),
        ):
            with contextlib.suppress(NotFoundError, ConfigError):  # told with the connections
                connector = self.connection(connection).connector
                try:
                    find(connector)
                except ConfigError as error:
                    yield self._at((*path, side), error)
        for number, step in enumerate(entry.transforms):
            try:
                catalog.transform(step.name, step.settings)
            except (ConfigError, NotFoundError) as error:
                part = "name" if isinstance(error, NotFoundError) else "settings"
                yield self._at((*path, "transforms", number, part), error)

    def line(self, path: Sequence[str | int]) -> int:
        """The line, from 1, of the deepest part of `path` that is in the file."""
        node: Any = self.document
        line = 1
        for part in path:
            try:
                if isinstance(node, CommentedMap):
                    line = node.lc.key(part)[0] + 1
                elif isinstance(node, CommentedSeq):
                    line = node.lc.item(part)[0] + 1
                node = node[part]
            except (KeyError, IndexError, TypeError):
                break
        return line

    def _whole(self) -> dict[str, Any]:
        return {k: {} if v is None and k != "project" else v for k, v in self.document.items()}

    def _mistake(self, model: type[Entry], found: Any, path: Path_) -> ConfigError:
        """What pydantic found at `path` and below, in our words."""
        where = (*path, *found["loc"])
        name = str(where[-1]) if where else ""
        if found["type"] == "extra_forbidden":
            return ConfigError(
                "project.unknown_key",
                f"{self.file}:{self.line(where)}: unknown key {name!r}",
                field=dotted(where),
                remedy=_nearest(name, _keys(model, found["loc"][:-1]), "The keys here"),
            )
        if found["type"] == "missing":
            return self._error(where, f"the key {name!r} is missing", remedy=_FIX)
        reason = found["msg"].removeprefix("Value error, ")
        return self._error(where, f"{name}: {reason[0].lower()}{reason[1:]}", remedy=_FIX)

    def _known(self, kind: str, name: str) -> None:
        names = self.connections if kind == "connections" else self.pipelines
        if name not in names:
            one = kind.removesuffix("s")
            raise NotFoundError(
                "project.unknown_name",
                f"there is no {one} {name!r} in {self.file}",
                field=one,
                remedy=_nearest(name, names, f"The {kind} there"),
            )

    def _plain(self, path: Path_) -> Any:
        node: Any = self.document
        for part in path:
            node = node[part]
        return node

    def _filled(self, path: Path_) -> Any:
        return self._fill(path, self._plain(path))

    def _fill(self, path: Path_, node: Any) -> Any:
        """Plain dicts and lists, with the references in their texts filled in."""
        if isinstance(node, Mapping):
            return {str(k): self._fill((*path, k), v) for k, v in node.items()}
        if isinstance(node, list):
            return [self._fill((*path, i), v) for i, v in enumerate(node)]
        if isinstance(node, str):
            try:
                return resolve(node, self.environ, self.file.parent)
            except ConfigError as error:
                raise self._at(path, error) from None
        return node

    def _error(self, path: Path_, message: str, *, remedy: str | None) -> ConfigError:
        return ConfigError(
            "project.invalid", f"{self.file}:{self.line(path)}: {message}", field=dotted(path), remedy=remedy
        )

    def _at(self, path: Path_, error: HeadraceError) -> HeadraceError:
        """The error of a connector or transform, with the place in the file that it is about."""
        full = (*path, *(error.field or "").split("."))
        where = f"{self.file}:{self.line(full)}: "
        message = error.message if error.message.startswith(str(self.file)) else where + error.message
        return type(error)(error.code, message, field=error.field or dotted(path), remedy=error.remedy)


def load(file: Path, environ: Mapping[str, str]) -> Project:
    """Read a project file. Raises NotFoundError, and ConfigError with the line of the first mistake."""
    project = read(file, environ)
    _validate(project, ProjectEntry, project._whole(), ())
    return project


def read(file: Path, environ: Mapping[str, str]) -> Project:
    """A project file with its `mistakes`. Raises NotFoundError, and ConfigError for what is no project."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise NotFoundError(
            "project.no_file",
            f"{file} does not exist",
            remedy="Write one with `headrace init`, or name it by --file.",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "project.unreadable",
            f"{file} can't be read: {error}",
            remedy="Check its rights and encoding (UTF-8).",
        ) from None
    try:
        document = YAML(typ="rt").load(text)
    except DuplicateKeyError as error:
        key = str(error.problem).partition('"')[2].partition('"')[0]
        raise ConfigError(
            "project.duplicate_key",
            f"{file}:{_marked(error)}: the key {key!r} stands here twice",
            field=key,
            remedy="Remove or rename one of them.",
        ) from None
    except YAMLError as error:
        what = error.problem if isinstance(error, MarkedYAMLError) and error.problem else str(error)
        raise ConfigError(
            "project.bad_yaml",
            f"{file}:{_marked(error)}: this is not YAML: {what}",
            remedy="Look at the indentation and the quotes on this line and the one before.",
        ) from None
    if document is None:
        document = CommentedMap()
    project = Project(file=file, document=document if isinstance(document, Mapping) else {}, environ=environ)
    if not isinstance(document, Mapping):
        raise ConfigError(
            "project.invalid",
            f"{file}:1: the file must hold `connections:` and `pipelines:`",
            remedy="See `headrace init` for an example.",
        )
    return project


def _marked(error: YAMLError) -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return mark.line + 1 if mark else 1


def _validate(project: Project, model: type[EntryT], raw: Any, path: Path_) -> EntryT:
    for found in _found_by(model, raw):
        raise project._mistake(model, found, path)
    return model.model_validate(raw)


def _found_by(model: type[Entry], raw: Any) -> list[Any]:
    """What pydantic finds wrong, misspelled keys first: they are the cause of those that are missing."""
    try:
        model.model_validate(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        return sorted(found, key=lambda one: one["type"] != "extra_forbidden")
    return []


def _refers(node: Any, path: Sequence[str | int]) -> bool:
    """Is what stands at `path` still to be filled in?"""
    try:
        for part in path:
            node = node[part]
    except (KeyError, IndexError, TypeError):
        return False
    return isinstance(node, str) and "${" in node


def _keys(model: type[Entry], path: Sequence[str | int]) -> list[str]:
    """The keys that may stand where `path` leads, as they are spelled in the file."""
    for part in (p for p in path if isinstance(p, str)):
        for name, info in model.model_fields.items():
            if part in (name, info.alias):
                inner = [
                    a for a in (*getattr(info.annotation, "__args__", ()), info.annotation) if _is_entry(a)
                ]
                model = inner[0] if inner else model
    return [info.alias or name for name, info in model.model_fields.items()]


def _is_entry(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Entry)


def _nearest(name: str, known: Sequence[str], title: str) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"{title}: {', '.join(known) or 'none'}."


def dotted(path: Sequence[str | int]) -> str | None:
    """`pipelines.shop.streams[0].mode`."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return text.removeprefix(".") or None
