"""How this API spells users, environments, teams and their members, coming and going."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints

from headrace.connector import HIDDEN
from headrace.model.directory import Directory
from headrace.model.user import User
from headrace.model.workspace import Membership, Role, Team, TeamMember, Workspace

OURS = "popsink"
"""The corner of `extras` for what only this dialect knows."""

REDACTED = "<redacted>"
_SHOWN = {"bootstrap_server", "security_protocol", "sasl_mechanism", "group_id"}

Name = Annotated[str, StringConstraints(min_length=1, max_length=255)]
Text = Annotated[str, StringConstraints(max_length=10_000)]


class Failure(BaseModel):
    """What went wrong: a text, a code, or a list of faults of shape."""

    detail: Any


FAILURES: dict[int | str, dict[str, Any]] = {
    status: {"model": Failure} for status in (400, 401, 403, 404, 409, 413, 422, 429, 503)
}


class Taken(BaseModel):
    """A body. What is not declared is ignored."""

    model_config = ConfigDict(hide_input_in_errors=True)


class Registration(Taken):
    email: str
    password: str


class Email(Taken):
    email: str


class NewPassword(Taken):
    token: str
    password: str


class Verification(Taken):
    token: str


class UserPatch(Taken):
    email: str | None = None
    password: str | None = None
    active_env_id: UUID | None = None
    is_active: bool | None = None
    is_superuser: bool | None = None
    is_verified: bool | None = None


class PasswordChange(Taken):
    old_password: str
    new_password: str


class ServiceTokenAsked(Taken):
    name: Name | None = None
    expires_in_days: Annotated[int, Field(ge=1, le=365)] | None = None


class Broker(Taken):
    """A Kafka of the user's own."""

    bootstrap_server: Annotated[str, StringConstraints(min_length=1)] = Field(
        validation_alias=AliasChoices("bootstrap_server", "bootstrap_servers")
    )
    security_protocol: str | None = None
    sasl_mechanism: str | None = None
    group_id: str | None = None
    sasl_username: str | None = None
    sasl_password: str | None = None
    ca_cert: str | None = None
    cert: str | None = None
    key: str | None = None

    def settings(self) -> dict[str, Any]:
        """As the domain keeps it; the mark of a secret to keep is in its words."""
        return {name: HIDDEN if value == REDACTED else value for name, value in self.model_dump().items()}

    def shown(self) -> dict[str, Any]:
        return self.model_dump(include=_SHOWN)


class EnvCreate(Taken):
    name: Name
    description: Text | None = None
    use_retention: bool | None = None
    retention_configuration: Broker | None = None


class EnvPatch(Taken):
    name: Name | None = None
    description: Text | None = None
    use_retention: bool | None = None
    retention_configuration: Broker | None = None


class TeamCreate(Taken):
    name: Name
    description: Text | None = None
    env_id: UUID | None = None


class TeamPatch(Taken):
    name: Name | None = None
    description: Text | None = None
    env_id: UUID | None = None


class Bulk(Taken):
    members: list[UUID] = []
    owners: list[UUID] = []


class UserRow(Taken):
    id: UUID
    email: str
    is_active: bool = True
    is_superuser: bool = False
    is_verified: bool = False
    active_env_id: UUID | None = None


class EnvRow(Taken):
    id: UUID
    name: Name
    description: Text | None = None
    use_retention: bool = False
    retention_configuration: dict[str, Any] | None = None


class TeamRow(Taken):
    id: UUID
    name: Name
    description: Text | None = None
    env_id: UUID


class EnvMemberRow(Taken):
    user_id: UUID
    env_id: UUID
    admin: bool = False


class TeamMemberRow(Taken):
    user_id: UUID
    team_id: UUID
    admin: bool = False


class Everybody(Taken):
    users: list[UserRow]
    envs: list[EnvRow]
    teams: list[TeamRow]
    env_members: list[EnvMemberRow]
    team_members: list[TeamMemberRow]


def takes(model: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """The part of an operation's description that says what its body is like."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    inner = schema.pop("$defs", {})
    for name, part in inner.items():
        _inline(schema, f"#/components/schemas/{name}", part)
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _inline(node: Any, reference: str, part: dict[str, Any]) -> None:
    """Put a part in the place of what refers to it."""
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and node.get("$ref") == reference:
        node.pop("$ref")
        node.update(part)
        return
    for child in children:
        _inline(child, reference, part)


def user(found: User) -> dict[str, Any]:
    return {
        "id": found.id,
        "email": found.email,
        "is_active": found.active,
        "is_superuser": found.admin,
        "is_verified": found.verified,
        "active_env_id": found.workspace,
    }


def env(found: Workspace) -> dict[str, Any]:
    own = found.extras.get(OURS, {})
    return {
        "id": found.id,
        "name": found.name,
        "description": found.description or None,
        "use_retention": bool(own.get("use_retention")),
        "retention_configuration": own.get("retention"),
    }


def env_member(found: Membership) -> dict[str, Any]:
    return {
        "id": found.id,
        "user_id": found.user,
        "email": found.email,
        "admin": found.role is Role.OWNER,
    }


def team(found: Team) -> dict[str, Any]:
    return {
        "id": found.id,
        "name": found.name,
        "description": found.description,
        "env_id": found.workspace,
    }


def team_member(found: TeamMember) -> dict[str, Any]:
    return {
        "id": found.user,  # the guide shows it so
        "user_id": found.user,
        "membership_id": found.id,
        "email": found.email,
        "role": "owner" if found.owner else "member",
        "admin": found.owner,
    }


def everybody(found: Directory) -> dict[str, Any]:
    return {
        "users": [user(each) for each in found.users],
        "envs": [env(each) for each in found.workspaces],
        "teams": [team(each) for each in found.teams],
        "env_members": [
            {"user_id": m.user, "env_id": m.workspace, "admin": m.role is Role.OWNER} for m in found.members
        ],
        "team_members": [
            {"user_id": m.user, "team_id": m.team, "admin": m.owner} for m in found.team_members
        ],
    }


def directory(given: Everybody, known: Directory, now: datetime) -> Directory:
    """What is to be from now on; who and what is known keeps what this API has no word for."""
    users = {each.id: each for each in known.users}
    envs = {each.id: each for each in known.workspaces}
    teams = {each.id: each for each in known.teams}
    roles = {(m.workspace, m.user): m.role for m in known.members}
    return Directory(
        users=tuple(_user(row, users.get(str(row.id)), now) for row in given.users),
        workspaces=tuple(_env(row, envs.get(str(row.id)), now) for row in given.envs),
        teams=tuple(_team(row, teams.get(str(row.id)), now) for row in given.teams),
        members=tuple(
            Membership(
                id="",
                workspace=str(row.env_id),
                user=str(row.user_id),
                email="",
                role=_role(row.admin, roles.get((str(row.env_id), str(row.user_id)))),
                created_at=now,
            )
            for row in given.env_members
        ),
        team_members=tuple(
            TeamMember(
                id="", team=str(row.team_id), user=str(row.user_id), email="", owner=row.admin, created_at=now
            )
            for row in given.team_members
        ),
    )


def _role(admin: bool, known: Role | None) -> Role:
    if admin:
        return Role.OWNER
    return Role.VIEWER if known is Role.VIEWER else Role.MEMBER


def _user(row: UserRow, known: User | None, now: datetime) -> User:
    return User(
        id=str(row.id),
        email=row.email,
        active=row.is_active,
        admin=row.is_superuser,
        verified=row.is_verified,
        workspace=str(row.active_env_id) if row.active_env_id else None,
        created_at=known.created_at if known else now,
    )


def _env(row: EnvRow, known: Workspace | None, now: datetime) -> Workspace:
    extras = dict(known.extras) if known else {}
    extras[OURS] = {**extras.get(OURS, {}), "use_retention": row.use_retention}
    return Workspace(
        id=str(row.id),
        name=row.name,
        description=row.description or "",
        extras=extras,
        created_at=known.created_at if known else now,
    )


def _team(row: TeamRow, known: Team | None, now: datetime) -> Team:
    return Team(
        id=str(row.id),
        workspace=str(row.env_id),
        name=row.name,
        description=row.description or "",
        created_at=known.created_at if known else now,
    )
