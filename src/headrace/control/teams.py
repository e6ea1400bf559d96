"""Teams: who owns connections and pipelines together inside a workspace."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TypedDict

from headrace.control import token
from headrace.control.access import Actor, Guarded, Kind, Permission, denied, needs
from headrace.errors import ConfigError, NotFoundError
from headrace.model.workspace import Team, TeamMember
from headrace.store import Page


class TeamChange(TypedDict, total=False):
    """What is absent stays."""

    name: str
    description: str


class Teams(Guarded):
    """Of the workspace that the actor has entered. Owners of the workspace see all teams, and change
    those that they own."""

    @needs(Permission.TEAM_READ)
    def list(self, actor: Actor, *, search: str = "", offset: int = 0, limit: int = 50) -> Page[Team]:
        """By age: those that the actor may see."""
        mine = None if actor.sees_all_teams else actor.id
        return self._store.teams.list(actor.place, mine, search=search, offset=offset, limit=limit)

    @needs(Permission.TEAM_READ)
    def get(self, actor: Actor, id: str) -> Team:
        """Raises NotFoundError, and AuthError for a team of this workspace that the actor is not in."""
        team = self._store.teams.get(actor.place, id)
        if not actor.sees(id):
            raise denied(Permission.TEAM_READ)
        return team

    @needs(Permission.TEAM_READ)
    def by_name(self, actor: Actor, name: str) -> Team:
        """Raises NotFoundError, also for a team that the actor is not in: names can be guessed."""
        team = self._store.teams.by_name(actor.place, name)
        if not actor.sees(team.id):
            raise NotFoundError("store.no_team", f"there is no team {name!r}")
        return team

    @needs(Permission.TEAM_WRITE, changes=True)
    def create(self, actor: Actor, name: str, description: str = "") -> Team:
        """Whoever makes it owns it. Raises ConflictError (`store.name_taken`)."""
        team = Team(
            id=token.new_id(),
            workspace=actor.place,
            name=_check_name(name),
            description=description,
            created_at=datetime.now(UTC),
        )
        return self._store.teams.add(team, None if actor.kind is Kind.LOCAL else actor.id)

    @needs(Permission.TEAM_WRITE, changes=True)
    def update(self, actor: Actor, id: str, changes: TeamChange) -> Team:
        """For its owners. Raises ConflictError (`store.name_taken`)."""
        self._owned(actor, id)
        if "name" in changes:
            _check_name(changes["name"])
        return self._store.teams.update(actor.place, id, changes)

    @needs(Permission.TEAM_WRITE, changes=True)
    def delete(self, actor: Actor, id: str) -> None:
        """For its owners; what it owns goes too. Raises ConflictError (`store.in_use`)."""
        self._owned(actor, id)
        self._store.teams.delete(actor.place, id)

    @needs(Permission.TEAM_READ)
    def members(self, actor: Actor, id: str, *, offset: int = 0, limit: int = 50) -> Page[TeamMember]:
        """Owners first, then by when they joined."""
        self.get(actor, id)
        return self._store.teams.members(actor.place, id, offset=offset, limit=limit)

    @needs(Permission.TEAM_READ)
    def member(self, actor: Actor, id: str, user: str) -> TeamMember:
        """By the id of the user or of the membership. Raises NotFoundError."""
        self.get(actor, id)
        return self._store.teams.member(actor.place, id, user)

    @needs(Permission.TEAM_WRITE, changes=True)
    def add_members(
        self, actor: Actor, id: str, members: Collection[str] = (), owners: Collection[str] = ()
    ) -> None:
        """For its owners: ids of users, all of them or none, who join the workspace as members too.

        Who is in it already stays; one among `owners` is promoted. Raises NotFoundError for an unknown user.
        """
        self._owned(actor, id)
        self._store.teams.enlist(actor.place, id, members, owners)

    @needs(Permission.TEAM_READ, changes=True)
    def remove_member(self, actor: Actor, id: str, user: str) -> bool:
        """For its owners, and for who leaves: by the id of the user or of the membership.

        True when the last member left a team that owned nothing, which ends it. Raises ConflictError
        (`store.last_owner`, `store.in_use`).
        """
        leaver = self.member(actor, id, user)
        if leaver.user != actor.id:
            self._owned(actor, id)
        return self._store.teams.leave(actor.place, id, leaver.id)

    def _owned(self, actor: Actor, id: str) -> None:
        self.get(actor, id)
        if not (actor.admin or actor.teams.get(id)):
            raise denied(Permission.TEAM_WRITE)


def _check_name(name: str) -> str:
    if not name.strip() or len(name) > 255:
        raise ConfigError(
            "teams.name", "a name has 1 to 255 characters", field="name", remedy="Choose another name."
        )
    return name
