"""`headrace admin`, `member`, `workspace` and `key`: who may use this installation, and its keys."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from typer import Argument, Option

from headrace.cli.command import UsageError
from headrace.cli.screen import Column, Screen, many
from headrace.control.access import OPERATOR
from headrace.errors import NotFoundError

if TYPE_CHECKING:
    from headrace.model.user import User

Email = Annotated[str, Option("--email", help="The address to sign in with.")]


def create(
    screen: Screen,
    email: Email,
    password: Annotated[
        str | None,
        Option("--password", help="Their password; `-` reads a line of stdin. Asked for by default."),
    ] = None,
) -> None:
    """Make an administrator of this installation.

    \b
    headrace admin create --email me@example.com
    pass show headrace | headrace admin create --email me@example.com --password -
    """
    from headrace.cli.session import Session

    text = _password(screen, password)
    screen.hide([text])
    with Session(screen) as session:
        user = session.platform.users.create(OPERATOR, email, text, admin=True)
    _show(screen, [user])
    screen.say(f"{user.email} is an administrator; next: headrace workspace list")


def admins(screen: Screen) -> None:
    """List the administrators.

    \b
    headrace admin list
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        everyone = session.platform.users.list(OPERATOR, limit=100_000) if session.remembers else None
    _show(screen, [user for user in everyone.items if user.admin] if everyone else [])


def reset(screen: Screen, email: Email) -> None:
    """Make a link, good once and for an hour, with which a user sets a new password.

    \b
    headrace admin reset --email me@example.com
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        link = session.platform.sessions.reset_link(OPERATOR, email)
    screen.rows("links", [{"email": email, "link": link}], (Column("link", "link", whole=True),))


def add(
    screen: Screen,
    workspace: Annotated[str, Option("--workspace", help="Its id: see headrace workspace list.")],
    email: Email,
    role: Annotated[Literal["owner", "member", "viewer"], Option("--role", help="What they may do.")],
    password: Annotated[
        str | None,
        Option("--password", help="Makes the user if there is none; `-` reads a line of stdin."),
    ] = None,
) -> None:
    """Let a user into a workspace, or change their role there.

    \b
    headrace member add --workspace 00000000-0000-4000-8000-000000000001 --email a@example.com --role viewer
    """
    from headrace.cli.session import Session
    from headrace.errors import NotFoundError
    from headrace.model.workspace import Role

    with Session(screen) as session:
        platform = session.platform
        there = platform.workspaces.enter(OPERATOR, workspace)
        if password is not None:
            text = _password(screen, password)
            screen.hide([text])
            try:
                platform.users.by_email(OPERATOR, email)
            except NotFoundError:
                platform.users.create(OPERATOR, email, text)
        member = platform.workspaces.add_member(there, email, Role(role))
    shown = {"workspace": workspace, "user": member.user, "email": member.email, "role": member.role.value}
    screen.rows("members", [shown], _MEMBER)


def members(
    screen: Screen, workspace: Annotated[str, Argument(help="Its id: see headrace workspace list.")]
) -> None:
    """List who is in a workspace.

    \b
    headrace member list 00000000-0000-4000-8000-000000000001
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        there = session.platform.workspaces.enter(OPERATOR, workspace)
        found = session.platform.workspaces.members(there, limit=100_000).items
    rows = [{"workspace": m.workspace, "user": m.user, "email": m.email, "role": m.role.value} for m in found]
    screen.rows("members", rows, _MEMBER, none="nobody is in it but the operator of this machine")


def workspaces(screen: Screen) -> None:
    """List the workspaces with their ids.

    \b
    headrace workspace list
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        everything = session.platform.workspaces.list(OPERATOR, limit=100_000) if session.remembers else None
    found = everything.items if everything else []
    rows = [{"id": w.id, "name": w.name, "description": w.description or None} for w in found]
    screen.rows("workspaces", rows, _WORKSPACE, none="nothing is remembered here yet")


def target(
    screen: Screen,
    workspace: Annotated[str, Argument(help="Its id: see headrace workspace list.")],
    connection: Annotated[str, Option("--connection", "-c", help="Name or id of a connection of it.")],
) -> None:
    """Say where pipelines of a workspace write when nobody says where.

    \b
    headrace workspace target 00000000-0000-4000-8000-000000000001 --connection lake
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        there = session.platform.workspaces.enter(OPERATOR, workspace)
        known = session.platform.connections
        try:
            found = known.get(there, connection)
        except NotFoundError:
            found = known.by_name(there, connection)
        made = known.make_default_target(there, found.id)
    shown = {"workspace": workspace, "id": made.id, "name": made.name, "connector": made.connector}
    screen.rows("targets", [shown], _TARGET)


def rotate(screen: Screen) -> None:
    """Seal every secret with the newest master key; nothing needs to stop meanwhile.

    Put a new key before the old one, in HEADRACE_MASTER_KEY (apart by a comma) or in the data folder's
    master.key (a line each), then rotate; afterwards the old key can go.

    \b
    headrace key rotate
    """
    from headrace.cli.session import Session

    with Session(screen) as session:
        done = session.platform.keys.rotate(OPERATOR)
    screen.rows("keys", [{"sealed_again": done}], ())
    screen.say(f"{many(done, 'secret')} sealed again with the newest master key")


def _password(screen: Screen, given: str | None) -> str:
    if given == "-":
        return sys.stdin.readline().rstrip("\n")
    if given is not None:
        return given
    if not screen.asks:
        raise UsageError(
            "cli.needs_password", "no password was given, and nobody can be asked here", field="--password",
            remedy="Add --password, or `--password -` to read it from stdin.",
        )  # fmt: skip
    text: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return text


def _show(screen: Screen, users: list[User]) -> None:
    rows = [{"id": u.id, "email": u.email, "active": u.active, "admin": u.admin} for u in users]
    screen.rows("users", rows, _USER, none="there is no administrator yet")


_USER = (Column("id", "id", whole=True), Column("address", "email"), Column("active", "active"))
_MEMBER = (Column("user", "user", whole=True), Column("address", "email"), Column("role", "role"))
_TARGET = (Column("id", "id", whole=True), Column("name", "name"), Column("connector", "connector"))
_WORKSPACE = (
    Column("id", "id", whole=True),
    Column("name", "name"),
    Column("description", "description", optional=True),
)
