"""All users, workspaces, teams and memberships at once: read, and replaced in one transaction."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Set
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Connection as Transaction
from sqlalchemy import Select, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from headrace.errors import ConfigError, ConflictError
from headrace.model.directory import Directory
from headrace.model.user import User
from headrace.model.workspace import LOCAL, Membership, Role, Team, TeamMember, Workspace
from headrace.store.database import Database
from headrace.store.schema import connections, members, pipelines, team_members, teams, users, workspaces
from headrace.store.users import key


class Directories:
    def __init__(self, database: Database):
        self._database = database

    def read(self) -> Directory:
        """Each collection by age."""
        with self._database.read() as transaction:
            return _read(transaction)

    def replace(self, new: Directory, keep: str) -> None:
        """Make everything as in `new`, or change nothing; who is not in it is deleted.

        A user is known by id, else by address, and keeps the password; `keep` is the one whose account
        stays as it is. Raises ConfigError (`directory.twice`, `directory.dangling`) that names the
        entry, ConflictError (`store.in_use`) for a workspace or team that would go and owns something.
        """
        try:
            with self._database.write() as transaction:
                _replace(transaction, new, keep)
        except IntegrityError:  # two who are known swap what only one may have
            raise ConfigError(
                "directory.twice",
                "an address or a name is taken by another one for the time of the change",
                remedy="Give it a third one first.",
            ) from None


def _read(transaction: Transaction) -> Directory:
    by_workspace = select(members, users.c.email).join(users)
    by_team = select(team_members, users.c.email).join(users)
    return Directory(
        users=tuple(User(**row) for row in _rows(transaction, User, select(users))),
        workspaces=tuple(Workspace(**row) for row in _rows(transaction, Workspace, select(workspaces))),
        teams=tuple(Team(**row) for row in _rows(transaction, Team, select(teams))),
        members=tuple(
            Membership(**row | {"role": Role(row["role"])})
            for row in _rows(transaction, Membership, by_workspace)
        ),
        team_members=tuple(TeamMember(**row) for row in _rows(transaction, TeamMember, by_team)),
    )


def _rows(transaction: Transaction, kind: Any, query: Select[Any]) -> Iterator[dict[str, Any]]:
    """The fields of the kind from each row, by age."""
    columns = query.selected_columns
    for row in transaction.execute(query.order_by(columns.created_at, columns.id)):
        yield {name: getattr(row, name) for name in kind.__slots__}


def _replace(transaction: Transaction, new: Directory, keep: str) -> None:
    # Of two who replace everything, or change a user meanwhile, the second waits.
    for table in (users, workspaces, teams):
        transaction.execute(select(table.c.id).order_by(table.c.id).with_for_update()).all()
    old = _read(transaction)
    ids = _known(old, new)
    _refuse_twice(new, ids)
    _refuse_dangling(new, ids, keep)
    places = {w.id for w in new.workspaces} | {LOCAL}
    _refuse_used(transaction, "workspace", {w.id for w in old.workspaces} - places)
    _refuse_used(transaction, "team", {t.id for t in old.teams} - {t.id for t in new.teams})
    for table in (team_members, members):
        transaction.execute(delete(table))
    for table, left in ((teams, {t.id for t in new.teams}), (workspaces, places)):
        transaction.execute(delete(table).where(table.c.id.not_in(left)))
    transaction.execute(delete(users).where(users.c.id.not_in({*ids.values(), keep})))
    now = datetime.now(UTC)
    _put(transaction, workspaces, [_values(w) for w in new.workspaces], now)
    _put(transaction, users, [_account(u, ids) for u in new.users if ids[u.id] != keep], now)
    _put(transaction, teams, [_values(t) for t in new.teams], now)
    for m in new.members:
        row = {"id": str(uuid4()), "workspace": m.workspace, "user": ids.get(m.user, keep)}
        transaction.execute(insert(members).values(role=m.role.value, created_at=m.created_at, **row))
    for t in new.team_members:
        row = {"id": str(uuid4()), "team": t.team, "user": ids.get(t.user, keep)}
        transaction.execute(insert(team_members).values(owner=t.owner, created_at=t.created_at, **row))


def _known(old: Directory, new: Directory) -> dict[str, str]:
    """The id under which each user of `new` is kept."""
    there = {user.id for user in old.users}
    by_address = {key(user.email): user.id for user in old.users}
    return {u.id: u.id if u.id in there else by_address.get(key(u.email), u.id) for u in new.users}


def _refuse_twice(new: Directory, ids: Mapping[str, str]) -> None:
    for name, keys in (
        ("users", [ids[u.id] for u in new.users]),
        ("users", [key(u.email) for u in new.users]),
        ("workspaces", [w.id for w in new.workspaces]),
        ("teams", [t.id for t in new.teams]),
        ("teams", [(t.workspace, t.name) for t in new.teams]),
        ("members", [(m.workspace, ids.get(m.user, m.user)) for m in new.members]),
        ("team_members", [(m.team, ids.get(m.user, m.user)) for m in new.team_members]),
    ):
        seen: set[Hashable] = set()
        for number, each in enumerate(keys):
            if each in seen:
                raise ConfigError(
                    "directory.twice", f"{name}[{number}] is there twice", field=f"{name}.{number}",
                    remedy="Leave one of them out.",
                )  # fmt: skip
            seen.add(each)


def _refuse_dangling(new: Directory, ids: Mapping[str, str], keep: str) -> None:
    people, places = {*ids, keep}, {w.id for w in new.workspaces} | {LOCAL}
    groups = {t.id for t in new.teams}
    checks: list[tuple[str, Iterable[tuple[str | None, Set[str]]]]] = [
        ("users", [(u.workspace, places) for u in new.users]),
        ("teams", [(t.workspace, places) for t in new.teams]),
        ("members", [(m.workspace, places) for m in new.members]),
        ("members", [(m.user, people) for m in new.members]),
        ("team_members", [(m.team, groups) for m in new.team_members]),
        ("team_members", [(m.user, people) for m in new.team_members]),
    ]
    for name, references in checks:
        for number, (id, known) in enumerate(references):
            if id is not None and id not in known:
                raise ConfigError(
                    "directory.dangling", f"{name}[{number}] names {id}, which is not there",
                    field=f"{name}.{number}", remedy="Add what it names, or leave it out.",
                )  # fmt: skip


def _refuse_used(transaction: Transaction, what: str, gone: set[str]) -> None:
    for table in (pipelines, connections):
        used = select(table.c.name).where(table.c[what].in_(gone)).order_by(table.c.name)
        if names := list(transaction.scalars(used)):
            raise ConflictError(
                "store.in_use",
                f"a {what} that would go still owns {', '.join(names[:5])}",
                remedy="Delete what it owns first, or leave it in.",
            )


def _values(thing: Any) -> dict[str, Any]:
    return {name: getattr(thing, name) for name in thing.__slots__}


def _account(user: User, ids: Mapping[str, str]) -> dict[str, Any]:
    values = {"email": user.email, "email_key": key(user.email), "workspace": user.workspace}
    flags = {"active": user.active, "admin": user.admin, "verified": user.verified}
    return {"id": ids[user.id], "created_at": user.created_at, **values, **flags}


def _put(transaction: Transaction, table: Table, rows: Iterable[dict[str, Any]], now: datetime) -> None:
    """Change the rows that are there, and add the others."""
    for row in rows:
        kept = {name: value for name, value in row.items() if name != "created_at"}
        change = update(table).where(table.c.id == row["id"]).values(updated_at=now, **kept)
        if not transaction.execute(change).rowcount:
            fresh = {"version": 0} if table is users else {}
            transaction.execute(insert(table).values(updated_at=now, **row, **fresh))
