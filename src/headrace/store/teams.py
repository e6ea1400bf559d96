"""Teams inside a workspace, and who is in them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection as Transaction
from sqlalchemy import Row, delete, insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from headrace.errors import ConflictError, NotFoundError
from headrace.model.workspace import Role, Team, TeamMember
from headrace.store.database import Database, taken
from headrace.store.page import Page, contains, read_page
from headrace.store.schema import connections, leases, members, pipelines, team_members, teams, users
from headrace.store.users import missing
from headrace.store.workspaces import join

_MEMBERS = select(team_members, users.c.email).join(users)


class Teams:
    """Every call names the workspace, and finds no team of another one."""

    def __init__(self, database: Database):
        self._database = database

    def add(self, team: Team, owner: str | None) -> Team:
        """Raises ConflictError (`store.name_taken`)."""
        values = {name: getattr(team, name) for name in Team.__slots__} | {"updated_at": team.created_at}
        with self._database.write() as transaction:
            _save(transaction, insert(teams).values(values), team.name)
            if owner is not None:
                _enlist(transaction, team.id, owner, owner=True)
        return team

    def get(self, workspace: str, id: str) -> Team:
        with self._database.read() as transaction:
            return _read(_row(transaction, workspace, id))

    def list(
        self, workspace: str, user: str | None, *, search: str = "", offset: int = 0, limit: int = 50
    ) -> Page[Team]:
        """By age: those that the user is in, or all."""
        query = select(teams).where(teams.c.workspace == workspace).order_by(teams.c.created_at, teams.c.id)
        if user is not None:
            mine = select(team_members.c.team).where(team_members.c.user == user)
            query = query.where(teams.c.id.in_(mine))
        if search:
            query = query.where(or_(contains(teams.c.name, search), contains(teams.c.description, search)))
        with self._database.read() as transaction:
            rows, total = read_page(transaction, query, offset, limit)
        return Page([_read(row) for row in rows], total)

    def by_name(self, workspace: str, name: str) -> Team:
        mine = teams.c.workspace == workspace, teams.c.name == name
        with self._database.read() as transaction:
            row = transaction.execute(select(teams).where(*mine)).one_or_none()
        if row is None:
            raise _missing(repr(name))
        return _read(row)

    def update(self, workspace: str, id: str, values: Mapping[str, Any]) -> Team:
        """Change `name` or `description`."""
        with self._database.write() as transaction:
            name = str(values.get("name", _row(transaction, workspace, id).name))
            change = update(teams).where(teams.c.id == id).values(updated_at=datetime.now(UTC), **values)
            _save(transaction, change, name)
            return _read(_row(transaction, workspace, id))

    def delete(self, workspace: str, id: str) -> None:
        """Its pipelines and connections go with it. Raises ConflictError while one of them is worked on,
        or a connection is used by pipelines of others."""
        with self._database.write() as transaction:
            _row(transaction, workspace, id)
            now = self._database.now(transaction)
            mine = pipelines.c.team == id, leases.c.expires_at > now
            busy = select(pipelines.c.name).join(leases).where(*mine).order_by(pipelines.c.name)
            if names := list(transaction.scalars(busy)):
                raise ConflictError(
                    "store.in_use",
                    f"pipelines of this team run now: {', '.join(names[:5])}",
                    remedy="Stop them first.",
                )
            transaction.execute(delete(pipelines).where(pipelines.c.team == id))
            try:
                transaction.execute(delete(connections).where(connections.c.team == id))
            except IntegrityError:
                raise ConflictError(
                    "store.in_use",
                    "connections of this team are used by pipelines of others",
                    remedy="Change or delete those pipelines first.",
                ) from None
            transaction.execute(delete(teams).where(teams.c.id == id))

    def of(self, workspace: str, user: str) -> dict[str, bool]:
        """The ids of a user's teams in a workspace; true where the user owns it."""
        query = select(team_members.c.team, team_members.c.owner).join(teams)
        query = query.where(teams.c.workspace == workspace, team_members.c.user == user)
        with self._database.read() as transaction:
            return {row.team: row.owner for row in transaction.execute(query)}

    def members(self, workspace: str, id: str, *, offset: int = 0, limit: int = 50) -> Page[TeamMember]:
        """Owners first, then by when they joined."""
        query = _MEMBERS.where(team_members.c.team == id)
        query = query.order_by(team_members.c.owner.desc(), team_members.c.created_at, team_members.c.id)
        with self._database.read() as transaction:
            _row(transaction, workspace, id)
            rows, total = read_page(transaction, query, offset, limit)
        return Page([_read_member(row) for row in rows], total)

    def member(self, workspace: str, id: str, user: str) -> TeamMember:
        """By the id of the user or of the membership. Raises NotFoundError."""
        with self._database.read() as transaction:
            _row(transaction, workspace, id)
            return _read_member(_member(transaction, id, user))

    def enlist(self, workspace: str, id: str, plain: Collection[str], owners: Collection[str]) -> None:
        """Add users, all or none, who join the workspace too; members stay, and `owners` are promoted."""
        given = {*plain, *owners}
        with self._database.write() as transaction:
            _row(transaction, workspace, id, lock=True)
            known = set(transaction.scalars(select(users.c.id).where(users.c.id.in_(given))))
            if unknown := sorted(given - known):
                raise missing(unknown[0])
            here = select(members.c.user).where(members.c.workspace == workspace)
            for user in sorted(given - set(transaction.scalars(here))):
                join(transaction, workspace, user, Role.MEMBER)
            there = set(transaction.scalars(select(team_members.c.user).where(team_members.c.team == id)))
            for user in sorted(given - there):
                _enlist(transaction, id, user, owner=user in owners)
            promoted = team_members.c.team == id, team_members.c.user.in_(set(owners) & there)
            transaction.execute(update(team_members).where(*promoted).values(owner=True))

    def leave(self, workspace: str, id: str, user: str) -> bool:
        """Take a user out, by the id of the user or of the membership; true when that ended the team.

        Raises ConflictError (`store.last_owner`) for the last owner while others remain, or
        (`store.in_use`) for the last member while the team owns something.
        """
        with self._database.write() as transaction:
            _row(transaction, workspace, id, lock=True)
            leaver = _member(transaction, id, user)
            rest = transaction.execute(
                select(team_members).where(team_members.c.team == id, team_members.c.id != leaver.id)
            ).all()
            if rest and not any(row.owner for row in rest):
                raise ConflictError(
                    "store.last_owner",
                    "the last owner of a team can't leave it while others are in it",
                    remedy="Make another member an owner first.",
                )
            transaction.execute(delete(team_members).where(team_members.c.id == leaver.id))
            if rest:
                return False
            for table in (pipelines, connections):
                if transaction.execute(select(table.c.id).where(table.c.team == id).limit(1)).first():
                    raise ConflictError(
                        "store.in_use",
                        "the last member can't leave a team that owns pipelines or connections",
                        remedy="Delete what it owns, or the team.",
                    )
            transaction.execute(delete(teams).where(teams.c.id == id))
            return True


def _save(transaction: Transaction, statement: Any, name: str) -> None:
    try:
        transaction.execute(statement)
    except IntegrityError as error:
        if not taken(error, teams.c.workspace, teams.c.name):
            raise
        raise ConflictError(
            "store.name_taken",
            f"there is a team {name!r} already",
            field="name",
            remedy="Choose another name.",
        ) from None


def _enlist(transaction: Transaction, team: str, user: str, *, owner: bool) -> None:
    values = {"id": str(uuid4()), "team": team, "user": user, "owner": owner}
    transaction.execute(insert(team_members).values(created_at=datetime.now(UTC), **values))


def _row(transaction: Transaction, workspace: str, id: str, *, lock: bool = False) -> Row[Any]:
    query = select(teams).where(teams.c.workspace == workspace, teams.c.id == id)
    row = transaction.execute(query.with_for_update() if lock else query).one_or_none()
    if row is None:
        raise _missing(id)
    return row


def _member(transaction: Transaction, team: str, user: str) -> Row[Any]:
    either = or_(team_members.c.user == user, team_members.c.id == user)
    row = transaction.execute(_MEMBERS.where(team_members.c.team == team, either)).one_or_none()
    if row is None:
        raise NotFoundError("store.no_member", f"user {user} is not in this team")
    return row


def _missing(label: str) -> NotFoundError:
    return NotFoundError(
        "store.no_team", f"there is no team {label}", remedy="List the teams, and check the id."
    )


def _read(row: Row[Any]) -> Team:
    return Team(**{name: getattr(row, name) for name in Team.__slots__})


def _read_member(row: Row[Any]) -> TeamMember:
    return TeamMember(**{name: getattr(row, name) for name in TeamMember.__slots__})
