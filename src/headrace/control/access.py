"""Who may do what: the one place that decides it, beneath every door, and denies by default."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from headrace.errors import AuthError, NotFoundError, SignInNeeded
from headrace.model.workspace import LOCAL, Role

if TYPE_CHECKING:
    from headrace.store import Store

P = ParamSpec("P")
R = TypeVar("R")


class Permission(StrEnum):
    """What an operation needs. The first four ask nothing of a workspace."""

    ANYONE = "anyone"  # signs nobody in yet: guarded by limits, tokens and passwords
    SIGNED_IN = "signed in"  # any user or their service token; the operation looks at whose it is
    PERSON = "person"  # the same, but no service token
    ADMINISTER = "administer"  # administrators of the whole installation
    WORKSPACE_READ = "workspace.read"
    WORKSPACE_MANAGE = "workspace.manage"
    TEAM_READ = "team.read"
    TEAM_WRITE = "team.write"
    CONNECTION_READ = "connection.read"
    CONNECTION_WRITE = "connection.write"  # also to test and discover: both use stored secrets
    PIPELINE_READ = "pipeline.read"
    PIPELINE_WRITE = "pipeline.write"
    RUN_READ = "run.read"
    RUN_WRITE = "run.write"
    POSITION_READ = "position.read"
    POSITION_WRITE = "position.write"
    FILE_READ = "file.read"
    FILE_WRITE = "file.write"
    AUDIT_READ = "audit.read"


_LOOK = frozenset(
    {
        Permission.WORKSPACE_READ,
        Permission.TEAM_READ,
        Permission.CONNECTION_READ,
        Permission.PIPELINE_READ,
        Permission.RUN_READ,
        Permission.POSITION_READ,
        Permission.FILE_READ,
    }
)
_WORK = _LOOK | {
    Permission.TEAM_WRITE,
    Permission.CONNECTION_WRITE,
    Permission.PIPELINE_WRITE,
    Permission.RUN_WRITE,
    Permission.POSITION_WRITE,
    Permission.FILE_WRITE,
}

GRANTS: Mapping[Role, frozenset[Permission]] = {
    Role.VIEWER: _LOOK,
    Role.MEMBER: _WORK,
    Role.OWNER: _WORK | {Permission.WORKSPACE_MANAGE, Permission.AUDIT_READ},
}

_NOT_FOR_PROGRAMS = frozenset(
    {Permission.PERSON, Permission.ADMINISTER, Permission.WORKSPACE_MANAGE, Permission.TEAM_WRITE}
)


class Kind(StrEnum):
    USER = "user"
    SERVICE = "service"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who acts, and where. Only `Sessions` makes one, and only `Workspaces.enter` gives it a workspace.

    An actor is good for one request: roles are read when it enters. `token` is the id of what signed
    it in, `teams` the ids of its teams in this workspace, true where it owns the team.
    """

    kind: Kind
    id: str
    email: str = ""
    admin: bool = False
    token: str | None = None
    workspace: str | None = None
    role: Role | None = None
    teams: Mapping[str, bool] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The workspace. Raises AuthError when none was entered."""
        if self.workspace is None:
            raise AuthError(
                "access.no_workspace", "no workspace was chosen", remedy="Choose or make a workspace first."
            )
        return self.workspace

    @property
    def sees_all_teams(self) -> bool:
        return self.role is Role.OWNER or self.admin

    def sees(self, team: str | None) -> bool:
        """May it look at what the team owns?"""
        return team is None or team in self.teams or self.sees_all_teams

    def works_for(self, team: str | None) -> bool:
        """May it change what the team owns? An owner of the workspace who is not in the team may not."""
        return team is None or team in self.teams or self.admin


def operator(workspace: str = LOCAL) -> Actor:
    """Who holds the data folder and the master keys anyway: the command line, and the workers."""
    return Actor(kind=Kind.LOCAL, id="local", admin=True, workspace=workspace, role=Role.OWNER)


OPERATOR = operator()


def allow(actor: Actor | None, permission: Permission) -> None:
    """Raise unless the actor has the permission.

    SignInNeeded for nobody, NotFoundError for who has no role in the workspace, AuthError else.
    """
    if permission is Permission.ANYONE:
        return
    if actor is None:
        raise SignInNeeded("access.sign_in", "nobody is signed in", remedy="Sign in first.")
    if actor.kind is Kind.SERVICE and permission in _NOT_FOR_PROGRAMS:
        raise denied(permission)
    if permission in (Permission.SIGNED_IN, Permission.PERSON):
        return
    if permission is Permission.ADMINISTER:
        if not actor.admin:
            raise denied(permission)
        return
    if actor.role is None:
        workspace = actor.place
        raise NotFoundError("store.no_workspace", f"there is no workspace {workspace}")
    if permission not in GRANTS[actor.role]:
        raise denied(permission)


def denied(what: str) -> AuthError:
    """The answer for who may see a thing, but not do this with it."""
    return AuthError(
        "access.denied",
        f"this is not allowed to you ({what})",
        remedy="Ask an owner of the workspace or team, or an administrator.",
    )


def of_team(store: Store, actor: Actor, pipeline: str, *, change: bool = False) -> None:
    """Raise NotFoundError for a pipeline of another workspace, AuthError for one of another team."""
    refuse_other_teams(actor, store.pipelines.get(pipeline).team, change=change)


def refuse_other_teams(actor: Actor, team: str | None, *, change: bool) -> None:
    """Raise AuthError unless the actor may see, or change, what the team owns."""
    if not (actor.works_for(team) if change else actor.sees(team)):
        raise denied("team.write" if change else "team.read")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is declared of an operation; one that `changes` something leaves an entry in the audit log."""

    permission: Permission
    changes: bool


def needs(permission: Permission, *, changes: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare what an operation of a `Guarded` class needs; its first argument is the actor.

    With `ANYONE` there is no actor. The audit entry has the plain arguments without those whose names
    say that they are secret.
    """

    def declare(operation: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(operation)
        name = operation.__qualname__.lower()

        @functools.wraps(operation)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            service: Any = args[0]
            given = signature.bind(*args, **kwargs).arguments
            actor: Actor | None = given.get("actor")
            allow(actor, permission)
            result = operation(*args, **kwargs)
            if changes:
                service.note(actor, name, given, result)
            return result

        guarded.rule = Rule(permission, changes)  # type: ignore[attr-defined]
        return guarded

    return declare


class Guarded:
    """Operations over a store. One that declares no permission can't even be defined."""

    operations: ClassVar[Mapping[str, Rule]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        found: dict[str, Rule] = {}
        for name, value in vars(cls).items():
            if name.startswith("_") or not callable(value):
                continue
            if not isinstance(rule := getattr(value, "rule", None), Rule):
                raise TypeError(f"{cls.__name__}.{name} declares no permission")
            found[name] = rule
        cls.operations = found

    def __init__(self, store: Store):
        self._store = store

    def _in(self, actor: Actor) -> Store:
        """The actor's workspace."""
        return self._store.within(actor.place)

    def note(self, actor: Actor | None, action: str, given: Mapping[str, Any], result: Any) -> None:
        """Leave an entry in the audit log."""
        plain = {k: _plain(k, v) for k, v in given.items() if k not in ("self", "actor")}
        object = getattr(result, "id", None) or next(iter(plain.values()), None)
        self._store.audit.add(
            actor.id if actor else "anyone",
            action,
            str(object) if object is not None else None,
            workspace=actor.workspace if actor else None,
            detail={k: v for k, v in plain.items() if v is not None},
        )


_SECRET = ("password", "token", "settings", "secret", "old", "new", "cookie")
"""An argument with one of these words in its name is not written down."""


def _plain(name: str, value: Any) -> Any:
    """What of an argument may be written down: names and choices, never content."""
    if set(name.split("_")) & set(_SECRET):
        return None
    if isinstance(value, str | int | bool):
        return str(value) if isinstance(value, StrEnum) else value
    if isinstance(value, Mapping):
        return {k: _plain(k, v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(name, v) for v in value]
    return getattr(value, "id", None)
