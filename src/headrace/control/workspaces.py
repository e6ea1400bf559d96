"""Workspaces: entering them, making them, and who is in them with which role."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypedDict
from uuid import NAMESPACE_URL, uuid5

from headrace.connector import HIDDEN
from headrace.control import token
from headrace.control.access import Actor, Guarded, Kind, Permission, allow, needs
from headrace.control.mail import Mailer
from headrace.control.sessions import address_of
from headrace.control.settings import Settings
from headrace.errors import ConfigError, ConflictError, HeadraceError, NotFoundError
from headrace.model.connection import INTERNAL, Connection
from headrace.model.workspace import Invitation, Membership, Role, Workspace
from headrace.store import Page, Store

BROKER_SECRETS = ("sasl_password", "key")
_BROKER_PLACE = ("bootstrap_server", "sasl_username")
INVITATION_LIFE = timedelta(days=7)


class WorkspaceChange(TypedDict, total=False):
    """What is absent stays."""

    name: str
    description: str
    extras: Mapping[str, Any]


class Workspaces(Guarded):
    def __init__(self, store: Store, settings: Settings, mailer: Mailer):
        super().__init__(store)
        self._settings = settings
        self._mailer = mailer

    @needs(Permission.SIGNED_IN)
    def enter(self, actor: Actor, id: str) -> Actor:
        """The actor in that workspace, with their role there as of now.

        Raises NotFoundError for an unknown workspace, and the same for one that they are not in. An
        administrator is an owner everywhere.
        """
        if actor.admin:
            self._store.workspaces.get(id)
            role: Role = Role.OWNER
        elif (member := self._store.workspaces.member(id, actor.id)) is not None:
            role = member.role
        else:
            raise _missing("workspace", id)
        return replace(actor, workspace=id, role=role, teams=self._store.teams.of(id, actor.id))

    @needs(Permission.SIGNED_IN)
    def enter_of(
        self, actor: Actor, kind: Literal["connection", "pipeline", "run", "team"], id: str
    ) -> Actor:
        """The actor in the workspace that a thing belongs to.

        Raises NotFoundError for an unknown thing, and the same for one of a workspace that they are not in.
        """
        try:
            return self.enter(actor, self._store.workspaces.owning(kind, id))
        except NotFoundError:
            raise _missing(kind, id) from None

    @needs(Permission.SIGNED_IN)
    def own(self, actor: Actor) -> Actor:
        """The actor in the workspace they last chose, else in one of theirs, else in a new one."""
        for id in self._candidates(actor):
            try:
                return self.enter(actor, id)
            except NotFoundError:
                continue
        name = actor.email.partition("@")[0] or "workspace"
        try:
            return self.enter(actor, self._create(actor, name, "", {}).id)
        except ConflictError:  # made by a second first call a moment ago
            return self.enter(actor, self._candidates(actor)[0])

    @needs(Permission.SIGNED_IN)
    def active(self, actor: Actor) -> Actor:
        """The actor in the workspace they last chose. Raises AuthError (`access.no_workspace`)."""
        last = self._store.users.get(actor.id).workspace
        if last is not None:
            with suppress(NotFoundError):
                return self.enter(actor, last)
        actor = replace(actor, workspace=None)
        return self.enter(actor, actor.place)

    @needs(Permission.SIGNED_IN)
    def list(self, actor: Actor, *, search: str = "", offset: int = 0, limit: int = 50) -> Page[Workspace]:
        """By age: one's own, or all for administrators."""
        mine = None if actor.admin else actor.id
        return self._store.workspaces.list(mine, search=search, offset=offset, limit=limit)

    @needs(Permission.SIGNED_IN)
    def by_name(self, actor: Actor, name: str) -> Workspace:
        """The oldest of one's own of that name. Raises NotFoundError."""
        mine = None if actor.admin else actor.id
        found = self._store.workspaces.list(mine, name=name, limit=1).items
        if not found:
            raise _missing("workspace", repr(name))
        return found[0]

    @needs(Permission.PERSON, changes=True)
    def create(
        self, actor: Actor, name: str, description: str = "", extras: Mapping[str, Any] | None = None
    ) -> Workspace:
        """Whoever makes it owns it, and works in it from now on. Raises ConflictError (`store.name_taken`)
        for the name of another workspace of theirs."""
        return self._create(actor, name, description, extras or {})

    @needs(Permission.WORKSPACE_READ)
    def get(self, actor: Actor) -> Workspace:
        """The one that was entered."""
        return self._store.workspaces.get(actor.place)

    @needs(Permission.WORKSPACE_MANAGE, changes=True)
    def update(self, actor: Actor, changes: WorkspaceChange) -> Workspace:
        """Raises ConflictError (`store.name_taken`)."""
        if "name" in changes:
            _check_name(changes["name"])
        user = None if actor.kind is Kind.LOCAL else actor.id
        return self._store.workspaces.update(actor.place, changes, user)

    @needs(Permission.WORKSPACE_MANAGE, changes=True)
    def delete(self, actor: Actor) -> None:
        """All that is in it goes too. Raises ConflictError (`store.in_use`) while anything runs."""
        self._store.workspaces.delete(actor.place)

    @needs(Permission.WORKSPACE_MANAGE, changes=True)
    def set_broker(self, actor: Actor, settings: Mapping[str, Any] | None) -> None:
        """The Kafka that the workspace brings along; None forgets it. Its secrets are sealed, and one given
        as `HIDDEN` keeps what is sealed.

        Raises ConfigError for a secret to keep that is not there (`workspaces.no_secret`), or that would go
        to another place by itself (`workspaces.secret_again`).
        """
        connections = self._store.within(actor.place).connections
        id = str(uuid5(NAMESPACE_URL, f"headrace:broker:{actor.place}"))
        try:
            known = connections.get(id)
        except NotFoundError:
            known = Connection(id=id, name="broker", connector="kafka", extras={INTERNAL: True})
        if settings is None:
            if known.version:
                connections.delete(id)
            return
        plain = {name: v for name, v in settings.items() if name not in BROKER_SECRETS and v is not None}
        secrets = {name: settings[name] for name in BROKER_SECRETS if settings.get(name)}
        moved = any(plain.get(name) != known.settings.get(name) for name in _BROKER_PLACE)
        for name in [name for name, text in secrets.items() if text == HIDDEN]:
            if name not in known.secrets:
                raise ConfigError(
                    "workspaces.no_secret", f"there is no {name} to keep", field=name,
                    remedy="Give the secret itself.",
                )  # fmt: skip
            if moved:
                raise ConfigError(
                    "workspaces.secret_again", f"a stored {name} does not go to another place by itself",
                    field=name, remedy="Give the secret again.",
                )  # fmt: skip
        connections.save(replace(known, settings=plain, secrets=()), secrets)

    @needs(Permission.SIGNED_IN)
    def try_broker(self, actor: Actor, settings: Mapping[str, Any]) -> str | None:
        """What keeps a Kafka with these settings from being used, in one line; None when nothing does."""
        from headrace.control import broker

        try:
            broker.check(settings)
        except HeadraceError as error:
            return f"{error.message}. {error.remedy}" if error.remedy else error.message
        return None

    # Members

    @needs(Permission.WORKSPACE_READ)
    def members(self, actor: Actor, *, offset: int = 0, limit: int = 50) -> Page[Membership]:
        """Owners first, then by when they joined."""
        return self._store.workspaces.members(actor.place, offset=offset, limit=limit)

    @needs(Permission.WORKSPACE_READ)
    def member(self, actor: Actor, user: str) -> Membership:
        """Raises NotFoundError for who is not in it."""
        found = self._store.workspaces.member(actor.place, user)
        if found is None:
            raise NotFoundError("store.no_member", f"user {user} is not in this workspace")
        return found

    @needs(Permission.WORKSPACE_MANAGE, changes=True)
    def add_member(self, actor: Actor, email: str, role: Role) -> Membership:
        """Let a user in by their address, or change their role. Raises NotFoundError for an address
        without a user (invite them), ConflictError (`store.last_owner`)."""
        user = self._store.users.by_email(email)
        return self._store.workspaces.join(actor.place, user.id, role)

    @needs(Permission.WORKSPACE_MANAGE, changes=True)
    def set_role(self, actor: Actor, user: str, role: Role) -> Membership:
        """Raises NotFoundError for who is not a member, ConflictError (`store.last_owner`)."""
        self.member(actor, user)
        return self._store.workspaces.join(actor.place, user, role)

    @needs(Permission.WORKSPACE_READ, changes=True)
    def remove_member(self, actor: Actor, user: str) -> None:
        """Out of the workspace and its teams; everyone may leave. Raises ConflictError
        (`store.last_owner`)."""
        if user != actor.id:
            allow(actor, Permission.WORKSPACE_MANAGE)
        self._store.workspaces.leave(actor.place, user)

    @needs(Permission.WORKSPACE_MANAGE, changes=True)
    def invite(self, actor: Actor, email: str, role: Role) -> tuple[Invitation, str | None]:
        """Ask somebody to join, with or without an account; an earlier invitation ends.

        The link goes by mail. Without a mail server it comes back, this once, to be handed over.
        """
        text, now = token.random_text(), datetime.now(UTC)
        invitation = Invitation(
            id=token.new_id(),
            workspace=actor.place,
            email=address_of(email),
            role=role,
            created_at=now,
            expires_at=now + INVITATION_LIFE,
        )
        self._store.workspaces.invite(invitation, token.hash(text))
        link = f"{self._settings.public_url}/invitation?token={text}"
        if not self._mailer.able:
            return invitation, link
        name = self._store.workspaces.get(actor.place).name
        words = f"{actor.email or 'The operator'} asks you to join the workspace {name!r}:"
        self._mailer.send(invitation.email, "Headrace: Invitation", f"{words}\n\n{link}\n")
        return invitation, None

    @needs(Permission.WORKSPACE_MANAGE)
    def invitations(self, actor: Actor) -> Sequence[Invitation]:
        """Those that are still good, by age."""
        return self._store.workspaces.invitations(actor.place)

    @needs(Permission.WORKSPACE_MANAGE, changes=True)
    def withdraw(self, actor: Actor, id: str) -> None:
        """An invitation is good no more. Raises NotFoundError."""
        self._store.workspaces.withdraw(actor.place, id)

    def _create(self, actor: Actor, name: str, description: str, extras: Mapping[str, Any]) -> Workspace:
        workspace = Workspace(
            id=token.new_id(),
            name=_check_name(name),
            description=description,
            extras=extras,
            created_at=datetime.now(UTC),
        )
        return self._store.workspaces.add(workspace, None if actor.kind is Kind.LOCAL else actor.id)

    def _candidates(self, actor: Actor) -> Sequence[str]:
        if actor.kind is Kind.LOCAL:
            return [actor.place]
        last = self._store.users.get(actor.id).workspace
        mine = [found.id for found in self._store.workspaces.list(actor.id, limit=1).items]
        return [last, *mine] if last else mine


def _check_name(name: str) -> str:
    if not name.strip() or len(name) > 255:
        raise ConfigError(
            "workspaces.name", "a name has 1 to 255 characters", field="name", remedy="Choose another name."
        )
    return name


def _missing(kind: str, id: str) -> NotFoundError:
    return NotFoundError("access.not_found", f"there is no {kind} {id}", remedy="Check the id.")
