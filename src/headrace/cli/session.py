"""What a command works with: the project of this folder, the platform on this machine, and addresses."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from headrace import catalog
from headrace.cli.command import UsageError
from headrace.cli.options import FILE, FOLDER
from headrace.cli.reference import resolve
from headrace.cli.request import Order, named
from headrace.cli.screen import Screen
from headrace.control.access import OPERATOR, Actor
from headrace.control.connectors import look_in
from headrace.control.endpoint import Endpoint, secrets
from headrace.errors import NotFoundError
from headrace.model.pipeline import Pipeline, TransformStep

if TYPE_CHECKING:
    from headrace.cli.project import Project
    from headrace.control.platform import Platform

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


class Session(AbstractContextManager["Session"]):
    """Opens things as they are asked for, and closes them in the end."""

    def __init__(self, screen: Screen):
        self.screen = screen
        self.folder = screen.common.data or FOLDER
        look_in(self.folder, os.environ)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "platform" in self.__dict__:
            self.platform.close()

    @cached_property
    def project(self) -> Project | None:
        """The file that was named, or that is in this folder; None when there is neither."""
        named = self.screen.common.file
        return self.the_project if named or Path(FILE).exists() else None

    @cached_property
    def the_project(self) -> Project:
        """Raises NotFoundError when there is none."""
        from headrace.cli.project import load  # a run without a file needs no YAML

        return load(self.screen.common.file or Path(FILE), os.environ)

    @cached_property
    def platform(self) -> Platform:
        from headrace.control.platform import Platform  # the store takes a while to load, and few need it

        return Platform.open(self.folder, os.environ)

    @property
    def remembers(self) -> bool:
        """Is there anything to look at? Spares a command that only looks from making the folder."""
        return self.folder.exists()

    def remembered(self, name: str, actor: Actor = OPERATOR) -> Pipeline:
        """A pipeline of the project, or one that ran before, as our store has it. Raises NotFoundError."""
        known = {pipeline.name: pipeline for pipeline in self.platform.pipelines.list(actor)}
        if self.project and name in self.project.pipelines:
            name = self.project.pipeline_id(name)
        return known[pick(known, name, "pipeline")]

    def order(self, name: str, source: str | None, target: str | None) -> Order:
        """A pipeline with its ends, found in the project or in our store.

        Our store holds no secret of a one-line run: `source` and `target` are its addresses again.
        """
        if self.project and name in self.project.pipelines:
            return named(self, name)
        pipeline = self.remembered(name)
        ends = list(self.platform.pipelines.ends(OPERATOR, pipeline))
        for side, (flag, text) in enumerate((("--source", source), ("--target", target))):
            if text is None:
                continue
            given = self.endpoint(text)
            if given.name != ends[side].name:
                raise UsageError(
                    "cli.usage",
                    f"{name} does not use what {flag} names",
                    field=flag,
                    remedy="Give the address of that pipeline's own run.",
                )
            ends[side] = given
        return Order(pipeline, *ends)

    def connection(self, name: str) -> Endpoint:
        """A connection of the project."""
        return self._hidden(self.the_project.connection(name))

    def endpoint(self, text: str) -> Endpoint:
        """A connection's name, a one-line address, or the path of files."""
        if self.project and text in self.project.connections:
            return self.connection(text)
        if _SCHEME.match(text):
            address = text
        elif any(c in text for c in "/\\*.") or Path(text).exists():
            address = f"file:{text}"
        else:
            raise self._unknown(text)
        spec, raw = catalog.from_url(address)
        settings = {
            name: resolve(value, os.environ, Path()) if isinstance(value, str) else value
            for name, value in raw.items()
        }
        endpoint = self._hidden(Endpoint.nameless(spec.name, settings))
        spec.config.parse(settings)
        return endpoint

    def hide_transforms(self, steps: Iterable[TransformStep]) -> None:
        """Keep the secrets of transforms off the screen."""
        for step in steps:
            if spec := catalog.transforms().get(step.name):
                self.screen.hide(secrets(spec.config, step.settings))

    def _hidden(self, endpoint: Endpoint) -> Endpoint:
        self.screen.hide(endpoint.secrets(), endpoint.words())
        return endpoint

    def _unknown(self, text: str) -> NotFoundError:
        known: Iterable[str] = self.project.connections if self.project else ()
        near = difflib.get_close_matches(text, [*known, *catalog.connectors()], n=1)
        if near and near[0] not in known:
            remedy = f"To use the connector, write an address: {near[0]}:…"
        elif near:
            remedy = f"Did you mean {near[0]!r}?"
        else:
            remedy = "Name a connection of headrace.yaml, or give an address such as postgresql://user@host/database."
        return NotFoundError(
            "cli.unknown_connection",
            f"{text!r} is neither a connection here nor an address",
            field="connection",
            remedy=remedy,
        )


def pick(known: Iterable[str], name: str, what: str) -> str:
    """`name`, when it is known. Raises NotFoundError with the nearest that is."""
    known = list(known)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known) or 'none'}."
    raise NotFoundError("cli.unknown_name", f"there is no {what} {name!r}", field=what, remedy=remedy)
