"""Two workspaces that must know nothing of each other, each with one of everything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from headrace.connector.testing import MEMORY, SCRIPT, MemoryTarget, ScriptedSource
from headrace.control.access import Actor, Kind
from headrace.control.platform import Platform
from headrace.control.sessions import actor
from headrace.engine.plan import Job
from headrace.model.connection import Connection
from headrace.model.file import File, FileStatus
from headrace.model.pipeline import Pipeline, StreamChoice
from headrace.model.user import ServiceToken, User
from headrace.model.workspace import Invitation, Role, Team
from headrace.store import Store

SETTINGS = {"host": "db.example", "database": "shop", "username": "me", "password": "canary-71f2"}


def platform_of(store: Store, folder: Path, environ: Mapping[str, str] | None = None) -> Platform:
    """Registration is closed, unless `environ` says otherwise."""
    return Platform(store, folder, environ or {}, loopback=False)


def add_user(store: Store, email: str, **values: Any) -> User:
    """A user without a password, which would take time to hash."""
    user = User(id=str(uuid4()), email=email, created_at=datetime.now(UTC), **values)
    return store.users.add(user, None)


def signed_in(user: User) -> Actor:
    return actor(user, Kind.USER, str(uuid4()))


@dataclass
class Tenant:
    """A workspace, and its owner in it; the team, connections, pipeline, run and file are in it."""

    owner: User
    here: Actor
    member: User
    team: Team
    source: Connection
    target: Connection
    pipeline: Pipeline
    run: str
    file: File
    service: ServiceToken
    invitation: Invitation

    def ids(self) -> set[str]:
        things = (self.owner, self.member, self.team, self.source, self.target, self.pipeline, self.file)
        ids = {thing.id for thing in (*things, self.service, self.invitation)}  # type: ignore[attr-defined]
        return ids | {self.here.place, self.run}

    def id_of(self, kind: str) -> str:
        things = {"connection": self.source.id, "pipeline": self.pipeline.id, "team": self.team.id}
        return {**things, "run": self.run}[kind]

    def job(self) -> Job:
        return Job(
            pipeline=self.pipeline,
            source_spec=SCRIPT,
            target_spec=MEMORY,
            source=lambda: ScriptedSource([], []),
            target=lambda: MemoryTarget({}),
            transform=lambda name, settings: lambda batch: batch,
        )


def tenant(platform: Platform, store: Store, name: str) -> Tenant:
    owner, member = add_user(store, f"{name}@here.local"), add_user(store, f"{name}-mate@here.local")
    workspace = platform.workspaces.create(signed_in(owner), name)
    here = platform.workspaces.enter(signed_in(owner), workspace.id)
    platform.workspaces.add_member(here, member.email, Role.MEMBER)
    team = platform.teams.create(here, "team")
    here = platform.workspaces.enter(signed_in(owner), workspace.id)
    draft = Connection(id="", name="source", connector="postgres")
    source = platform.connections.create(here, draft, SETTINGS)
    target = platform.connections.create(
        here, Connection(id="", name="target", connector="postgres"), SETTINGS
    )
    pipeline = platform.pipelines.create(
        here,
        Pipeline(
            id=str(uuid4()), name="p", source=source.id, target=target.id, streams=(StreamChoice(stream="*"),)
        ),
    )
    run = store.within(workspace.id).runs.queue(pipeline.id).id
    file = store.within(workspace.id).files.add(file_in(workspace.id), None)
    service, _ = platform.tokens.create(here, "ci")
    invitation, _ = platform.workspaces.invite(here, f"{name}-guest@here.local", Role.VIEWER)
    return Tenant(owner, here, member, team, source, target, pipeline, run, file, service, invitation)


def file_in(workspace: str, **values: Any) -> File:
    """A file without content."""
    known = {
        "id": str(uuid4()), "name": "a.csv", "format": "csv", "size": 1, "sha256": "0", "key": "k",
        "status": FileStatus.UPLOADED, "created_at": datetime.now(UTC),
    }  # fmt: skip
    return File(workspace=workspace, **known | values)
