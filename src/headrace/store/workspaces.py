"""Workspaces, who is in them with which role, and who has been asked to join."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection as Transaction
from sqlalchemy import Row, case, delete, func, insert, select, update

from headrace.errors import ConflictError, NotFoundError
from headrace.model.workspace import LOCAL, Invitation, Membership, Role, Workspace
from headrace.store.database import Database
from headrace.store.page import Page, contains, read_page
from headrace.store.schema import (
    connections,
    invitations,
    leases,
    members,
    pipelines,
    runs,
    team_members,
    teams,
    users,
    workspaces,
)

_OWNED = {"connection": connections, "pipeline": pipelines, "run": runs, "team": teams}
_MEMBERS = select(members, users.c.email).join(users)


class Workspaces:
    def __init__(self, database: Database):
        self._database = database

    def add(self, workspace: Workspace, owner: str | None) -> Workspace:
        """A new workspace, with its first owner, who works in it from now on.

        Raises ConflictError (`store.name_taken`) for the name of another workspace of that owner.
        """
        now = workspace.created_at
        values = {name: getattr(workspace, name) for name in Workspace.__slots__} | {"updated_at": now}
        with self._database.write() as transaction:
            if owner is not None:
                _refuse_name(transaction, owner, workspace)
            transaction.execute(insert(workspaces).values(values | {"extras": dict(workspace.extras)}))
            if owner is not None:
                join(transaction, workspace.id, owner, Role.OWNER)
                transaction.execute(
                    update(users).where(users.c.id == owner).values(workspace=workspace.id, updated_at=now)
                )
        return workspace

    def get(self, id: str) -> Workspace:
        with self._database.read() as transaction:
            row = transaction.execute(select(workspaces).where(workspaces.c.id == id)).one_or_none()
        if row is None:
            raise _missing(id)
        return _read(row)

    def list(
        self, user: str | None, *, search: str = "", name: str | None = None, offset: int = 0, limit: int = 50
    ) -> Page[Workspace]:
        """By age: those that the user is in, or all."""
        query = select(workspaces).order_by(workspaces.c.created_at, workspaces.c.id)
        if user is not None:
            query = query.join(members).where(members.c.user == user)
        if name is not None:
            query = query.where(workspaces.c.name == name)
        if search:
            about = contains(workspaces.c.name, search), contains(workspaces.c.description, search)
            query = query.where(about[0] | about[1])
        with self._database.read() as transaction:
            rows, total = read_page(transaction, query, offset, limit)
        return Page([_read(row) for row in rows], total)

    def update(self, id: str, values: Mapping[str, Any], user: str | None) -> Workspace:
        """Change `name`, `description` or `extras`.

        Raises ConflictError for the name of another workspace of `user`.
        """
        with self._database.write() as transaction:
            row = transaction.execute(
                select(workspaces).where(workspaces.c.id == id).with_for_update()
            ).one_or_none()
            if row is None:
                raise _missing(id)
            changed = _read(row)
            changed = Workspace(**{n: values.get(n, getattr(changed, n)) for n in Workspace.__slots__})
            if user is not None and changed.name != row.name:
                _refuse_name(transaction, user, changed)
            transaction.execute(
                update(workspaces).where(workspaces.c.id == id).values(updated_at=_now(), **values)
            )
        return changed

    def delete(self, id: str) -> None:
        """Forget it with all that is in it.

        Raises ConflictError while anything runs (`store.in_use`), and for the one of the command line
        (`store.local_stays`).
        """
        if id == LOCAL:
            raise ConflictError(
                "store.local_stays",
                "the workspace of this machine's command line can't be deleted",
                remedy="Delete what is in it instead.",
            )
        with self._database.write() as transaction:
            now = self._database.now(transaction)
            busy = (
                select(pipelines.c.name)
                .join(leases)
                .where(pipelines.c.workspace == id, leases.c.expires_at > now)
                .union(
                    select(pipelines.c.name)
                    .join(runs, runs.c.pipeline == pipelines.c.id)
                    .where(pipelines.c.workspace == id, runs.c.status.in_(("queued", "running")))
                )
            )
            if names := sorted(transaction.scalars(busy)):
                raise ConflictError(
                    "store.in_use",
                    f"pipelines of this workspace run now: {', '.join(names[:5])}",
                    remedy="Stop them first.",
                )
            # Pipelines refer to connections, and both to teams, without going with them.
            for table in (pipelines, connections):
                transaction.execute(delete(table).where(table.c.workspace == id))
            if not transaction.execute(delete(workspaces).where(workspaces.c.id == id)).rowcount:
                raise _missing(id)

    def owning(self, kind: str, id: str) -> str:
        """The workspace of a connection, pipeline, run or team. Raises NotFoundError."""
        table = _OWNED[kind]
        with self._database.read() as transaction:
            found = transaction.execute(
                select(table.c.workspace).where(table.c.id == id)
            ).scalar_one_or_none()
        if found is None:
            raise NotFoundError("store.no_object", f"there is no {kind} {id}", remedy="Check the id.")
        workspace: str = found
        return workspace

    # Members

    def member(self, workspace: str, user: str) -> Membership | None:
        mine = members.c.workspace == workspace, members.c.user == user
        with self._database.read() as transaction:
            row = transaction.execute(_MEMBERS.where(*mine)).one_or_none()
        return _read_member(row) if row else None

    def members(self, workspace: str, *, offset: int = 0, limit: int = 50) -> Page[Membership]:
        """Owners first, then by when they joined."""
        first = case((members.c.role == Role.OWNER.value, 0), else_=1)
        query = _MEMBERS.where(members.c.workspace == workspace)
        query = query.order_by(first, members.c.created_at, members.c.id)
        with self._database.read() as transaction:
            rows, total = read_page(transaction, query, offset, limit)
        return Page([_read_member(row) for row in rows], total)

    def join(self, workspace: str, user: str, role: Role, *, change: bool = True) -> Membership:
        """Make the user a member, or `change` the role of one who is.

        Raises ConflictError (`store.last_owner`) rather than leave members without an owner.
        """
        mine = members.c.workspace == workspace, members.c.user == user
        with self._database.write() as transaction:
            _lock(transaction, workspace)
            row = transaction.execute(select(members).where(*mine)).one_or_none()
            if row is None:
                join(transaction, workspace, user, role)
            elif change and row.role != role:
                if role is not Role.OWNER:
                    _keep_an_owner(transaction, workspace, user)
                transaction.execute(update(members).where(*mine).values(role=role.value))
            return _read_member(transaction.execute(_MEMBERS.where(*mine)).one())

    def leave(self, workspace: str, user: str) -> None:
        """Out of the workspace and of its teams. Raises ConflictError for the last owner."""
        mine = members.c.workspace == workspace, members.c.user == user
        with self._database.write() as transaction:
            _lock(transaction, workspace)
            if transaction.execute(select(members.c.id).where(*mine)).one_or_none() is None:
                raise NotFoundError("store.no_member", f"user {user} is not in this workspace")
            _keep_an_owner(transaction, workspace, user)
            transaction.execute(delete(members).where(*mine))
            inside = select(teams.c.id).where(teams.c.workspace == workspace)
            transaction.execute(
                delete(team_members).where(team_members.c.user == user, team_members.c.team.in_(inside))
            )
            transaction.execute(
                update(users).where(users.c.id == user, users.c.workspace == workspace).values(workspace=None)
            )

    def left_alone_by(self, user: str) -> Sequence[str]:
        """The names of workspaces and teams that would be left to others without an owner."""
        alone: tuple[str, ...] = ()
        for table, part, owner, parent in (
            (members, members.c.workspace, members.c.role == Role.OWNER.value, workspaces),
            (team_members, team_members.c.team, team_members.c.owner, teams),
        ):
            others = table.c.user != user
            query = (
                select(parent.c.name)
                .where(parent.c.id.in_(select(part).where(table.c.user == user, owner)))
                .where(parent.c.id.in_(select(part).where(others)))
                .where(parent.c.id.not_in(select(part).where(others, owner)))
            )
            with self._database.read() as transaction:
                alone += tuple(transaction.scalars(query.order_by(parent.c.name)))
        return alone

    # Invitations

    def invite(self, invitation: Invitation, hash: str) -> Invitation:
        """In place of an earlier one to the same address."""
        values = {name: getattr(invitation, name) for name in Invitation.__slots__}
        values |= {"hash": hash, "role": invitation.role.value}
        same = invitations.c.workspace == invitation.workspace, invitations.c.email == invitation.email
        with self._database.write() as transaction:
            transaction.execute(delete(invitations).where(*same))
            transaction.execute(insert(invitations).values(values))
        return invitation

    def invitations(self, workspace: str) -> Sequence[Invitation]:
        """Those that are still good, by age."""
        good = invitations.c.workspace == workspace, invitations.c.expires_at > _now()
        with self._database.read() as transaction:
            rows = transaction.execute(
                select(invitations).where(*good).order_by(invitations.c.created_at, invitations.c.id)
            )
            return [_read_invitation(row) for row in rows]

    def withdraw(self, workspace: str, id: str) -> None:
        mine = invitations.c.workspace == workspace, invitations.c.id == id
        with self._database.write() as transaction:
            if not transaction.execute(delete(invitations).where(*mine)).rowcount:
                raise NotFoundError("store.no_invitation", f"there is no invitation {id}")

    def invitation(self, hash: str) -> Invitation | None:
        """An invitation that is still good."""
        good = invitations.c.hash == hash, invitations.c.expires_at > _now()
        with self._database.read() as transaction:
            row = transaction.execute(select(invitations).where(*good)).one_or_none()
        return _read_invitation(row) if row else None

    def withdraw_taken(self, hash: str) -> bool:
        """The invitation is good no more; false when somebody else was quicker."""
        with self._database.write() as transaction:
            return bool(transaction.execute(delete(invitations).where(invitations.c.hash == hash)).rowcount)


def _now() -> datetime:
    return datetime.now(UTC)


def _missing(id: str) -> NotFoundError:
    return NotFoundError(
        "store.no_workspace", f"there is no workspace {id}", remedy="List the workspaces, and check the id."
    )


def _lock(transaction: Transaction, workspace: str) -> None:
    """Of two who change the members of a workspace, the second sees what the first did."""
    row = select(workspaces.c.id).where(workspaces.c.id == workspace).with_for_update()
    if transaction.execute(row).one_or_none() is None:
        raise _missing(workspace)


def _refuse_name(transaction: Transaction, user: str, workspace: Workspace) -> None:
    """Names are unique among one person's workspaces: all others are none of their business."""
    transaction.execute(select(users.c.id).where(users.c.id == user).with_for_update())
    same = workspaces.c.name == workspace.name, workspaces.c.id != workspace.id, members.c.user == user
    if transaction.execute(select(func.count()).select_from(workspaces).join(members).where(*same)).scalar():
        raise ConflictError(
            "store.name_taken",
            f"you are in a workspace {workspace.name!r} already",
            field="name",
            remedy="Choose another name.",
        )


def join(transaction: Transaction, workspace: str, user: str, role: Role) -> None:
    values = {"id": str(uuid4()), "workspace": workspace, "user": user, "role": role.value}
    transaction.execute(insert(members).values(created_at=_now(), **values))
    first = users.c.id == user, users.c.workspace.is_(None)
    transaction.execute(update(users).where(*first).values(workspace=workspace))


def _keep_an_owner(transaction: Transaction, workspace: str, user: str) -> None:
    owners = members.c.workspace == workspace, members.c.role == Role.OWNER.value
    if set(transaction.scalars(select(members.c.user).where(*owners))) == {user}:
        raise ConflictError(
            "store.last_owner",
            "the last owner of a workspace can't leave it or become less",
            remedy="Make another member an owner first, or delete the workspace.",
        )


def _read(row: Row[Any]) -> Workspace:
    return Workspace(**{name: getattr(row, name) for name in Workspace.__slots__})


def _read_member(row: Row[Any]) -> Membership:
    values = {name: getattr(row, name) for name in Membership.__slots__}
    return Membership(**values | {"role": Role(row.role)})


def _read_invitation(row: Row[Any]) -> Invitation:
    values = {name: getattr(row, name) for name in Invitation.__slots__}
    return Invitation(**values | {"role": Role(row.role)})
